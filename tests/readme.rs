//! The code in the README and in docs/ works: each block is compiled and run as it stands there.
//!
//! What is not to be run says so: ```` ```text ````, ```` ```console ````, or `ignore` after the
//! language's name.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use session_lock::State;
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
fn write(installed: &Installed, language: &str, name: &str) -> Vec<PathBuf> {
    write_blocks(installed, blocks(language), language, name)
}

fn write_blocks(
    installed: &Installed,
    blocks: Vec<String>,
    language: &str,
    name: &str,
) -> Vec<PathBuf> {
    let write = |(number, block)| {
        let directory = installed.scratch.path().join(format!("{language}-{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(name), block).unwrap();
        directory.join(name)
    };
    blocks.into_iter().enumerate().map(write).collect()
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
    for file in ["README.md", "packaging/crate.md"] {
        assert!(!blocks_of(file, "rust").is_empty());
        let cargo = Path::new(env!("CARGO"));
        let mut rustdoc = installed.command(cargo.with_file_name("rustdoc"));
        rustdoc.args(["--edition=2024", "--test"]).arg(support::root().join(file));
        rustdoc.arg("-L").arg(format!("dependency={}", debug().join("deps").display()));
        let library = debug().join("libsession_lock.rlib");
        rustdoc.arg(format!("--extern=session_lock={}", library.display()));
        let told = run(&mut rustdoc);
        assert!(told.contains("test result: ok.") && !told.contains(" 0 passed"), "{told}");
    }
}

#[test]
fn python() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    let mut programs = blocks("python");
    programs.extend(blocks_of("docs/guide.md", "python"));
    for program in write_blocks(&installed, programs, "python", "readme.py") {
        let mut python = installed.command("python3");
        run(python.current_dir(program.parent().unwrap()).arg(program));
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
        // Nothing may be asked of the network ("off" would not tell).
        sh.env("GOPROXY", "http://127.0.0.1:9").current_dir(&directory);
        run(sh.args(["-euc", script]));
    };
    let mut programs = blocks_of(README, "go");
    // A part of a program.
    let [part] = &blocks("go")[..] else { panic!("README.md") };
    programs.push(format!(
        "package main\n\nimport (\n\"context\"\n\"log\"\n\"time\"\n\n\"session-lock.invalid/sessionlock\"\n)\n\n\
         func main() {{\n{part}}}\n"
    ));
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

// ---------------------------------------------------------------------------- the terminal session

/// What is recorded in the README is what happens; `UPDATE_README=1` records it.
#[test]
fn the_terminal_session() {
    let Some(installed) = Installed::new(&["sh"]) else { return };
    let readme = fs::read_to_string(support::root().join("README.md")).unwrap();
    let [recorded] = &blocks("console")[..] else { panic!("one terminal session") };
    let mut sh = installed.command("sh");
    // A command begins when the one before has ended, and so has all that it wrote.
    sh.args(["-c", "while read -r line; do eval \"$line\" 2>&1; echo END; done"]);
    let mut sh = sh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (sh.stdin.take().unwrap(), sh.stdout.take().unwrap());
    let mut output = BufReader::new(output).lines().map(Result::unwrap);
    let locks = installed.locks();
    // Asking disturbs neither.
    let asked = || session_lock::holder(Some(&locks), "nightly").unwrap();
    let mut holder = String::new();
    let mut seen = String::new();
    for command in recorded.lines().filter_map(|line| line.strip_prefix("$ ")) {
        writeln!(input, "{command}").unwrap();
        seen += &format!("$ {command}\n");
        for line in output.by_ref().take_while(|line| line != "END") {
            seen += &line;
            seen.push('\n');
        }
        // What a user who types does not see.
        if command.ends_with('&') {
            support::until("it holds the lock", || asked().state == State::Held);
            holder = asked().pid.unwrap().to_string();
        } else if command.starts_with("kill ") {
            support::until("the lock is free", || asked().state == State::Free);
        }
    }
    drop(input);
    sh.wait().unwrap();
    // Another number in another run, of another length, some time later.
    let seen = seen
        .replace(&format!("{:>width$}  AGE", "PID", width = holder.len()), " PID  AGE")
        .replace(&holder, "4242");
    let seen = (1..60).fold(seen, |seen, age| seen.replace(&format!("  {age}s "), "  0s "));
    if std::env::var_os("UPDATE_README").is_some() {
        let readme = readme.replacen(recorded, &seen, 1);
        fs::write(support::root().join("README.md"), readme).unwrap();
    } else {
        assert_eq!(*recorded, seen, "to record it again: UPDATE_README=1 cargo test --test readme");
    }
}
