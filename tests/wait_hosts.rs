//! Waiting in programs of other languages, in other builds of the library, and under tools that look
//! for races.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use session_lock::SessionLock;
use support::c::{self, Program};

const MINUTE: Duration = Duration::from_secs(60);

fn python(dir: &Path, form: &str) -> Child {
    let mut python = Command::new("python3");
    python.arg("tests/hosts/wait.py").arg(c::library().join("libsession_lock.so"));
    python.arg(dir).arg(form).current_dir(env!("CARGO_MANIFEST_DIR"));
    python.spawn().unwrap()
}

#[test]
fn python_in_many_threads() {
    if support::have("python3") {
        let dir = support::scratch();
        let _lock = SessionLock::acquire(Some(dir.path()), "s").unwrap();
        assert!(python(dir.path(), "threads").wait().unwrap().success());
    }
}

#[test]
fn ctrl_c_in_python() {
    if !support::have("python3") {
        return;
    }
    let dir = support::scratch();
    let _lock = SessionLock::acquire(Some(dir.path()), "s").unwrap();
    let forms =
        [("deadline", libc::SYS_ppoll), ("cancel", libc::SYS_ppoll), ("endless", libc::SYS_flock)];
    for (form, call) in forms {
        let mut child = python(dir.path(), form);
        let start = Instant::now();
        let state = format!("/proc/{}/syscall", child.id());
        while !fs::read_to_string(&state).unwrap().starts_with(&format!("{call} ")) {
            assert!(start.elapsed() < MINUTE, "{form}: it does not wait");
            thread::sleep(Duration::from_millis(1));
        }
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        let start = Instant::now();
        // SAFETY: no memory is involved; the child has not been reaped.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        assert!(child.wait().unwrap().success(), "{form}");
        assert!(start.elapsed() < MINUTE / 6, "{form}: {:?}", start.elapsed());
    }
}

#[test]
fn go_on_many_threads() {
    // Go builds its own runtime first.
    if !support::long() || !support::have("go") {
        return;
    }
    let dir = support::scratch();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = c::library().display();
    let program = dir.path().join("wait");
    let build = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(root.join("tests/hosts/wait.go"))
        .env("CGO_ENABLED", "1")
        .env("CGO_CFLAGS", format!("-I{}", root.join("include").display()))
        .env("CGO_LDFLAGS", format!("-L{library} -lsession_lock -Wl,-rpath,{library}"))
        .status()
        .unwrap();
    assert!(build.success());
    let lock = SessionLock::acquire(Some(dir.path()), "s").unwrap();
    let mut go = Command::new(&program)
        .env("SESSION_LOCK_DIR", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(go.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "waiting\n");
    lock.release().unwrap();
    go.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(go.wait().unwrap().success());
}

#[test]
fn races_settle_in_every_build() {
    if !support::long() {
        return;
    }
    let unwind_tables = ("RUSTFLAGS", "-Cforce-unwind-tables=no");
    for options in [&[][..], &["--release"]] {
        for variables in [
            &[("CARGO_PROFILE_DEV_PANIC", "abort"), ("CARGO_PROFILE_RELEASE_PANIC", "abort")][..],
            &[("CARGO_PROFILE_DEV_PANIC", "unwind"), ("CARGO_PROFILE_RELEASE_PANIC", "unwind")],
            &[
                ("CARGO_PROFILE_DEV_PANIC", "abort"),
                ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
                unwind_tables,
            ],
        ] {
            let library = c::build_library(options, variables);
            Program::new("wait/races-settle").with_library(&library).run();
        }
    }
}

// Not DRD: it does not know the standard library's locks, which are futexes, and reports everything
// that they guard.
#[test]
fn no_race_is_found_by_helgrind() {
    if !support::long() || !support::have("valgrind") {
        return;
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let suppressions = format!("--suppressions={root}/c-tests/wait/helgrind.supp");
    let helgrind = ["valgrind", "-q", "--error-exitcode=1", "--tool=helgrind", &suppressions];
    Program::new("wait/races-settle").arg("50").under(&helgrind).run();
    Program::new("wait/on-small-stacks").under(&helgrind).run();
}
