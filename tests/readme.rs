//! The code in the README and in docs/ works: each block is compiled and run as it stands there.
//!
//! What is not to be run says so: ```` ```text ````, ```` ```console ````, or `ignore` after the
//! language's name.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::installed::{Installed, debug, run};

/// The blocks in one language.
fn blocks(language: &str) -> Vec<String> {
    blocks_of("README.md", language)
}

fn blocks_of(file: &str, language: &str) -> Vec<String> {
    let readme = fs::read_to_string(support::root().join(file)).unwrap();
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let mut words = info.split([' ', ',']);
        if words.next() == Some(language) && words.all(|word| word != "ignore") {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

/// Each block in a file of its own.
fn write(installed: &Installed, language: &str, name: &str) -> Vec<std::path::PathBuf> {
    let write = |(number, block)| {
        let directory = installed.scratch.path().join(format!("{language}-{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(name), block).unwrap();
        directory.join(name)
    };
    blocks(language).into_iter().enumerate().map(write).collect()
}

#[test]
fn c() {
    let Some(installed) = Installed::new(&[]) else { return };
    let programs = write(&installed, "c", "readme.c");
    assert!(!programs.is_empty());
    for source in programs {
        let program = installed.compile("cc", &source, &["-std=c11"]);
        run(&mut installed.command(program));
    }
}

#[test]
fn rust() {
    let Some(installed) = Installed::new(&[]) else { return };
    assert!(!blocks("rust").is_empty());
    let cargo = Path::new(env!("CARGO"));
    let mut rustdoc = installed.command(cargo.with_file_name("rustdoc"));
    rustdoc.args(["--edition=2024", "--test"]).arg(support::root().join("README.md"));
    rustdoc.arg("-L").arg(format!("dependency={}", debug().join("deps").display()));
    let library = debug().join("libsession_lock.rlib");
    rustdoc.arg(format!("--extern=session_lock={}", library.display()));
    let told = run(&mut rustdoc);
    assert!(told.contains("test result: ok.") && !told.contains(" 0 passed"), "{told}");
}

#[test]
fn python() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    for program in write(&installed, "python", "readme.py") {
        let mut python = installed.command("python3");
        run(python.arg(program));
    }
    let blocks = blocks_of("docs/more-than-one-machine.md", "python");
    assert!(!blocks.is_empty());
    for program in blocks {
        run(installed.command("python3").args(["-c", &program]));
    }
}

/// The program in the Go package's README, in a module elsewhere that is set up by the commands there:
/// with the sources, with a copy of them, and with the static library.
#[test]
fn go() {
    const README: &str = "bindings/go/README.md";
    let Some(installed) = Installed::new(&["go", "sh"]) else { return };
    let directory = installed.scratch.path().join("program");
    let package = installed.scratch.path().join("bindings/go");
    for directory in [&directory, package.parent().unwrap()] {
        fs::create_dir(directory).unwrap();
    }
    run(Command::new("cp").arg("-R").arg(support::root().join("bindings/go")).arg(&package));
    let sh = |script: &str| {
        let mut sh = installed.command("sh");
        // Nothing may come from the network.
        sh.env("GOPROXY", "off").env("GOFLAGS", "-mod=mod").current_dir(&directory);
        run(sh.args(["-euc", script]));
    };
    let programs = blocks_of(README, "go");
    assert!(!programs.is_empty());
    for source in programs {
        fs::write(directory.join("main.go"), source).unwrap();
        sh("rm -rf go.mod vendor; go mod init example.invalid/program");
        let [get, vendor, build_statically] = &blocks_of(README, "sh")[..] else {
            panic!("{README}")
        };
        for script in [get, build_statically, vendor] {
            sh(&script
                .replace("/path/to/session-lock", installed.scratch.path().to_str().unwrap()));
            sh("./program; rm program");
        }
        fs::rename(&package, package.with_extension("away")).unwrap();
        sh("go build -mod=vendor && ./program");
        fs::rename(package.with_extension("away"), &package).unwrap();
    }
}

/// In a directory where `make` has something to do. That a session is free or held (1, 75) is no
/// failure. What builds and installs is tried elsewhere.
#[test]
fn sh() {
    let Some(installed) = Installed::new(&["bash", "flock"]) else { return };
    let builds =
        |script: &String| ["cargo ", "sudo ", "make install"].iter().any(|w| script.contains(w));
    let scripts: Vec<_> = blocks("sh").into_iter().filter(|script| !builds(script)).collect();
    assert!(!scripts.is_empty());
    fs::write(installed.scratch.path().join("Makefile"), "%: ;\nmade:\n").unwrap();
    for script in scripts {
        let mut bash: Command = installed.command("bash");
        bash.current_dir(installed.scratch.path());
        let strict = "trap 'case $? in 1|75) ;; *) exit 99 ;; esac' ERR";
        run(bash.arg("-c").arg(format!("{strict}\n{script}\ntrue\n")));
    }
}

/// The module as it was and as it is now, in one process: they exclude each other, and what the old
/// one can still break the new one tells.
#[test]
fn before_and_after_migrating() {
    const BOTH: &str = r#"
import os, before, after
from session_lock import LockHeld, LockStale, holder, path

def refused(module, error):
    try:
        with module.session_lock("s"):
            return False
    except error:
        return True

me = os.getpid()
with before.session_lock("s"):
    assert refused(after, LockHeld) and after.is_session_locked("s")
    assert holder("s").pid == me
    assert after.list_locks() == [("s", me)]
assert not after.is_session_locked("s")

def come_in():
    path("s").unlink()  # (1), by an old version that came at the wrong moment
    with before.session_lock("s"):
        pass  # two at once

# An attempt of the old one, and its cleaner, take the label for "no PID".
for damage in (lambda: refused(before, TimeoutError), before.clean_stale_locks, come_in):
    told = 0
    try:
        with after.session_lock("s", wait=True, timeout=5) as lock:
            lock.check()
            assert before.list_locks() == [("s", None)]
            assert after.list_locks() == [("s", me)]
            damage()
            try:
                lock.check()
            except LockStale:
                told += 1
    except LockStale:
        told += 1
    assert told == 2
"#;
    let Some(installed) = Installed::new(&["python3"]) else { return };
    let directory = installed.scratch.path();
    let modules = blocks_of("docs/migrating.md", "python");
    assert_eq!(modules.len(), 2);
    for (name, module) in ["before.py", "after.py"].into_iter().zip(modules) {
        fs::write(directory.join(name), module).unwrap();
    }
    fs::write(directory.join("both.py"), BOTH).unwrap();
    let mut python = installed.command("python3");
    run(python.env("LOCKS", installed.locks()).arg(directory.join("both.py")));
}
