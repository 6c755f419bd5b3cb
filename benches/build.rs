//! The bare system calls that the library is measured against are made from C.

fn main() {
    println!("cargo::rerun-if-changed=src/bare.c");
    cc::Build::new().file("src/bare.c").opt_level(2).warnings(true).compile("bare");
}
