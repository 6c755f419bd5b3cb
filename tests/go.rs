//! The Go package: its own tests, and how it is built into a program.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::installed::{Installed, run};

fn package() -> PathBuf {
    support::root().join("bindings/go")
}

#[test]
fn the_go_package_passes_its_tests() {
    let Some(installed) = Installed::new(&["go", "gofmt"]) else { return };
    let in_package = |program: &str, arguments: &[&str]| {
        run(installed.command(program).current_dir(package()).args(arguments))
    };
    assert_eq!(in_package("gofmt", &["-l", "."]), "");
    in_package("go", &["vet", "./..."]);
    if support::have("go-staticcheck") {
        in_package("go-staticcheck", &["./..."]);
    }
    in_package("go", &["test", "-count=1", "-timeout=5m", "./..."]);
    if support::long() {
        in_package("go", &["test", "-race", "-count=1", "-timeout=10m", "./..."]);
    }
}

/// A program that is built in a module of its own; the command that builds it, and the program.
fn program(installed: &Installed, options: &[&str]) -> (Command, PathBuf) {
    let directory = installed.scratch.path().join("program");
    fs::create_dir(&directory).unwrap();
    let main = "package main\n\nimport \"session-lock.invalid/sessionlock\"\n\nfunc main() {\n\
                \tlock, err := sessionlock.Acquire(\"\", \"s\")\n\tif err != nil {\n\t\tpanic(err)\n\t}\n\
                \tlock.Release()\n}\n";
    fs::write(directory.join("main.go"), main).unwrap();
    let module = format!(
        "module program\n\ngo 1.19\n\nrequire session-lock.invalid/sessionlock v0.0.0\n\n\
         replace session-lock.invalid/sessionlock => {}\n",
        package().display()
    );
    fs::write(directory.join("go.mod"), module).unwrap();
    let mut go = installed.command("go");
    go.current_dir(&directory).args(["build", "-o", "program"]).args(options);
    (go, directory.join("program"))
}

fn mentions(program: &Path, text: &str) -> bool {
    let bytes = fs::read(program).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_go_program_needs_the_shared_library_or_has_it_inside() {
    const LIBRARY: &str = "libsession_lock.so.0";
    for (options, shared) in [(&[][..], true), (&["-tags", "sessionlock_static"], false)] {
        let Some(installed) = Installed::new(&["go"]) else { return };
        let (mut go, program) = program(&installed, options);
        run(&mut go);
        assert_eq!(mentions(&program, LIBRARY), shared);
        let mut command = installed.command(&program);
        if !shared {
            command.env_remove("LD_LIBRARY_PATH");
        }
        run(&mut command);
    }
}

#[test]
fn without_cgo_a_go_build_says_what_it_needs() {
    let Some(installed) = Installed::new(&["go"]) else { return };
    let (mut go, _) = program(&installed, &[]);
    let output = go.env("CGO_ENABLED", "0").output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("set_CGO_ENABLED_to_1_and_install_a_C_compiler"), "{told}");
    // And nothing else: the word about it would be lost among others.
    assert_eq!(told.lines().count(), 2, "{told}");
}
