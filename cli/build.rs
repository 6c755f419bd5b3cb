//! What the linker must know, and cargo does not say.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The program has the unwinder in itself: to load libgcc_s.so at each start took a twelfth of the
    // time of `session-lock run x -- true`. (glibc loads it when a thread is first cancelled, and
    // depends on it for that.) In whole, for the linker meets libgcc_s.so first.
    // A static program has it anyway; and for musl Rust brings its own.
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_glibc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if !is_glibc || features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    let unwinder = "-Wl,--push-state,-Bstatic,--whole-archive,-lgcc_eh,--pop-state";
    println!("cargo::rustc-link-arg-bins={unwinder}");
}
