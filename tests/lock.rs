//! The life of a lock, in one process and between two.

mod support;

use std::fs;
use std::path::Path;

use session_lock::{Error, LockOptions, SessionLock, State, holder};
use support::{Actor, Stage};

#[test]
fn role() {
    support::play(&[("holder", hold)]);
}

/// Holds `args[1]` in the directory `args[0]` until told to let go.
fn hold(stage: &mut Stage) {
    let lock = SessionLock::acquire(Some(Path::new(&stage.args[0])), &stage.args[1]).unwrap();
    stage.say("held");
    if stage.next().is_some() {
        lock.release().unwrap();
        stage.say("released");
        while stage.next().is_some() {}
    }
}

#[test]
fn one_holds_it_the_other_is_told() {
    let dir = support::scratch();
    let dir = dir.path();
    let mut other = Actor::start("holder", &[dir.to_str().unwrap(), "s"]);
    other.hear("held");
    let path = session_lock::path(Some(dir), "s").unwrap();
    let label = fs::read(&path).unwrap();
    assert!(matches!(SessionLock::acquire(Some(dir), "s"), Err(Error::Held { .. })));
    assert_eq!(fs::read(&path).unwrap(), label, "who is refused writes no label");
    assert_eq!(holder(Some(dir), "s").unwrap().pid, Some(other.pid()));
    other.say("release");
    other.hear("released");
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    lock.check().unwrap();
    lock.release().unwrap();
    assert!(fs::read_to_string(&path).unwrap().starts_with("0\n"), "the label is still there");
    assert_eq!(holder(Some(dir), "s").unwrap().state, State::Free);
    other.finish();
}

#[test]
fn the_label_has_the_command_that_was_given_and_else_our_own() {
    let scratch = support::scratch();
    let options = |command: &str| LockOptions::new().directory(scratch.path()).command(command);
    let dir = Some(scratch.path());
    let command = || holder(dir, "s").unwrap().command.into_string().unwrap();
    let acquire = || SessionLock::acquire(dir, "s").unwrap();
    for _ in 0..2 {
        let lock = options("make all").acquire("s").unwrap();
        assert_eq!(command(), "make all");
        lock.release().unwrap();
        let lock = acquire();
        assert!(command().starts_with("lock-"), "{}", command());
        lock.release().unwrap();
    }
}

#[test]
fn a_killed_holder_holds_nothing() {
    let dir = support::scratch();
    let dir = dir.path();
    let mut other = Actor::start("holder", &[dir.to_str().unwrap(), "s"]);
    other.hear("held");
    other.kill();
    SessionLock::acquire(Some(dir), "s").unwrap().release().unwrap();
}
