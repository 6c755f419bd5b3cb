//! The header that is checked in is the one that `src/ffi.rs` gives, every C and C++ compiler takes it,
//! and the shared library exports what it declares.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_header_is_what_the_source_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/ffi.rs"))
        .generate()
        .unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();

    let path = root.join("include/session_lock.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == generated,
        "include/session_lock.h is not what src/ffi.rs gives; to bring it up to date:\n\n    \
         UPDATE_HEADER=1 cargo test --test header\n"
    );
}

/// `c-tests/header-is-the-contract.c` includes nothing before it, and asserts layout, numbers and
/// signatures.
#[test]
fn the_header_compiles_alone_in_every_language() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for [c, cpp] in [["gcc", "g++"], ["clang", "clang++"]] {
        if !support::have(c) || !support::have(cpp) {
            continue;
        }
        for (compiler, language, standard) in
            [(c, "c", "c99"), (c, "c", "c11"), (cpp, "c++", "c++11"), (cpp, "c++", "c++20")]
        {
            let output = Command::new(compiler)
                .args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
                .args([&format!("-std={standard}"), "-x", language, "-I"])
                .args([root.join("include"), root.join("c-tests/header-is-the-contract.c")])
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{compiler} as {standard}:\n{errors}");
        }
    }
}

#[test]
// Where everything is static there is none.
#[cfg(not(target_feature = "crt-static"))]
fn the_shared_library_exports_the_functions_under_its_soname() {
    if !support::have("nm") || !support::have("readelf") {
        return;
    }
    let library = support::shared_library();
    let run = |tool: &str, args: &[&str]| {
        let output = Command::new(tool).args(args).arg(library).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let symbols = run("nm", &["--dynamic", "--defined-only", "--format=just-symbols"]);
    let mut symbols: Vec<_> = symbols.lines().collect();
    symbols.sort_unstable();
    let functions =
        ["acquire", "check", "holder", "list", "path", "release", "token", "version", "wait"];
    assert_eq!(symbols, functions.map(|name| format!("session_lock_{name}")));

    let dynamic = run("readelf", &["--dynamic", "--wide"]);
    assert!(dynamic.contains("soname: [libsession_lock.so.0]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}
