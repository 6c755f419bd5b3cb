//! Waiting in programs of other languages.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use session_lock::SessionLock;
use support::{c, root};

fn python(dir: &Path, form: &str) -> Child {
    let mut python = Command::new("python3");
    python.arg("tests/hosts/wait.py").arg(c::library().join("libsession_lock.so"));
    python.arg(dir).arg(form).current_dir(root());
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
        let state = format!("/proc/{}/syscall", child.id());
        support::until("it waits", || {
            fs::read_to_string(&state).unwrap().starts_with(&format!("{call} "))
        });
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        let start = Instant::now();
        // SAFETY: no memory is involved; the child has not been reaped.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        assert!(child.wait().unwrap().success(), "{form}");
        assert!(start.elapsed() < support::LIMIT / 6, "{form}: {:?}", start.elapsed());
    }
}

#[test]
fn go_on_many_threads() {
    // Go builds its own runtime first.
    if !support::long() || !support::have("go") {
        return;
    }
    let dir = support::scratch();
    let library = c::library().display();
    let program = dir.path().join("wait");
    let build = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(root().join("tests/hosts/wait.go"))
        .env("CGO_ENABLED", "1")
        .env("CGO_CFLAGS", format!("-I{}", root().join("include").display()))
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
