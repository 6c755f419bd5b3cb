//! What `make install` leaves, and what can be built with it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::installed::{Installed, make_debug, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

const FUNCTIONS: [&str; 9] =
    ["acquire", "check", "holder", "list", "path", "release", "token", "version", "wait"];

/// All files below a directory, relative to it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// What is installed, where the library's directory is `lib`.
fn expected(lib: &str) -> Vec<String> {
    let mut expected: Vec<String> = [
        "bin/session-lock",
        "include/session_lock.h",
        "lib/tmpfiles.d/session-lock.conf",
        "share/man/man1/session-lock.1",
        "share/man/man3/session_lock.3",
    ]
    .map(str::to_owned)
    .into();
    expected.extend(FUNCTIONS.map(|name| format!("share/man/man3/session_lock_{name}.3")));
    let library =
        ["a", "so", "so.0", &format!("so.{VERSION}")].map(|end| format!("libsession_lock.{end}"));
    let library = library.into_iter().chain(["pkgconfig/session_lock.pc".to_owned()]);
    expected.extend(library.map(|file| format!("{lib}/{file}")));
    expected.sort();
    expected
}

#[test]
fn the_tree_is_complete_and_of_one_version() {
    let Some(installed) = Installed::new(&["readelf"]) else { return };
    assert_eq!(files(&installed.prefix), expected("lib"));
    let lib = installed.prefix.join("lib");
    let link = |name: &str| fs::read_link(lib.join(name)).unwrap();
    assert_eq!(link("libsession_lock.so"), Path::new("libsession_lock.so.0"));
    let library = format!("libsession_lock.so.{VERSION}");
    assert_eq!(link("libsession_lock.so.0"), Path::new(&library));
    let dynamic = run(installed.command("readelf").arg("-d").arg(lib.join(&library)));
    assert!(dynamic.contains("Library soname: [libsession_lock.so.0]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    assert_eq!(installed.flags(&["--modversion"]), [VERSION]);
    let program = run(installed.command("session-lock").arg("--version"));
    assert_eq!(program, format!("session-lock {VERSION}\n"));
}

#[test]
fn the_library_exports_its_functions_and_nothing_else() {
    let Some(installed) = Installed::new(&["nm"]) else { return };
    let library = installed.prefix.join("lib/libsession_lock.so");
    let symbols = run(installed
        .command("nm")
        .args(["-D", "--defined-only", "--format=just-symbols"])
        .arg(library));
    let expected = FUNCTIONS.map(|name| format!("session_lock_{name}"));
    assert_eq!(symbols.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_release_build_is_small() {
    let Some(prefix) = std::env::var_os("SESSION_LOCK_INSTALLED").map(PathBuf::from) else {
        return eprintln!("skipped: only for SESSION_LOCK_INSTALLED");
    };
    let size = fs::metadata(prefix.join("lib/libsession_lock.so")).unwrap().len();
    assert!(size <= 400 * 1024, "{size}");
}

#[test]
fn every_compiler_takes_the_header_and_the_library() {
    let Some(installed) = Installed::new(&[]) else { return };
    let source = support::root().join("tests/installed/program.c");
    for (compiler, options) in [
        ("gcc", &["-std=c11"][..]),
        ("clang", &["-std=c11"]),
        ("g++", &["-std=c++11", "-x", "c++"]),
        ("clang++", &["-std=c++17", "-x", "c++"]),
    ] {
        if !support::have(compiler) {
            continue;
        }
        let program = installed.compile(compiler, &source, options);
        assert_eq!(run(&mut installed.command(&program)), format!("{VERSION}\n"), "{compiler}");
        let needed = run(installed.command("readelf").arg("-d").arg(&program));
        assert!(needed.contains("Shared library: [libsession_lock.so.0]"), "{needed}");
    }
}

#[test]
fn a_static_program_needs_no_library() {
    let Some(installed) = Installed::new(&[]) else { return };
    let source = support::root().join("tests/installed/program.c");
    let flags = installed.flags(&["--static", "--cflags", "--libs"]);
    // All of the program, and this library only.
    let this_only = ["-Wl,-Bstatic", "-lsession_lock", "-Wl,-Bdynamic"].map(str::to_owned);
    let all: Vec<_> = flags.iter().cloned().chain(["-static".to_owned()]).collect();
    let this = flags.iter().flat_map(|flag| match flag.as_str() {
        "-lsession_lock" => this_only.to_vec(),
        _ => vec![flag.clone()],
    });
    for flags in [all, this.collect()] {
        let program = installed.scratch.path().join("static");
        run(installed.command("cc").arg(&source).args(&flags).arg("-o").arg(&program));
        let mut alone = installed.command(&program);
        assert_eq!(run(alone.env_remove("LD_LIBRARY_PATH")), format!("{VERSION}\n"), "{flags:?}");
    }
}

#[test]
fn the_manual_pages_are_found_by_their_names() {
    let Some(installed) = Installed::new(&["man"]) else { return };
    let pages = installed.prefix.join("share/man");
    let man = |name: &str| {
        let mut man = installed.command("man");
        man.args(["--warnings", "-M"]).arg(&pages).arg(name);
        let output = man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(man("session-lock").contains("--timeout"));
    for function in FUNCTIONS {
        assert!(man(&format!("session_lock_{function}")).contains("SESSION_LOCK(3)"), "{function}");
    }
}

#[test]
fn the_gnu_variables_are_obeyed_and_uninstalling_leaves_nothing() {
    let Some(installed) = Installed::new(&[]) else { return };
    let root = installed.scratch.path().join("root");
    let make = |target| {
        let mut make = make_debug(target, Path::new("/usr"));
        run(make.arg(format!("DESTDIR={}", root.display())).arg("LIBDIR=/usr/lib64"));
    };
    make("install");
    assert_eq!(files(&root.join("usr")), expected("lib64"));
    let pc = fs::read_to_string(root.join("usr/lib64/pkgconfig/session_lock.pc")).unwrap();
    assert!(pc.contains("prefix=/usr\n") && pc.contains("libdir=/usr/lib64\n"), "{pc}");
    make("uninstall");
    assert_eq!(files(&root), [""; 0]);
}
