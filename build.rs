//! What the linker must know, and cargo does not say.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The name that a program records when it links against the library; its number changes when a
    // program built against the old library would break.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libsession_lock.so.0");
    // The fork hooks, and a helper thread that waits, point into the library's code: `dlclose` must
    // leave it mapped.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
