//! The same script with `flock(1)` in place of `session-lock`: what the table in the README says.

use std::fs;

use crate::{Holding, Place, is_alive, is_waited_for, signal, support, until};

/// A holder whose command says its PID; and that PID.
fn start(place: &Place, prefix: &str) -> (Holding, u32) {
    let mut command = place.command("sh");
    command.args(["-c", &format!("exec {prefix} sh -c 'echo $$; read line <&3' 3<&0")]);
    let mut holding = Holding::start(command);
    let command = holding.next().parse().unwrap();
    (holding, command)
}

#[test]
fn when_the_process_that_was_started_is_killed() {
    if !support::have("flock") {
        return;
    }
    let place = Place::new();
    let file = place.lock_file("s");
    // flock: the command runs on. With the lock, that nobody can end now but by finding the command;
    let (mut holding, command) = start(&place, "flock s.lock");
    assert_ne!(command, holding.pid());
    holding.kill();
    assert!(is_alive(command) && !support::is_free(&file));
    signal(command, libc::SIGKILL);
    place.until_free("s");
    // or, with -o, without it.
    let (mut holding, command) = start(&place, "flock -o s.lock");
    holding.kill();
    assert!(is_alive(command) && support::is_free(&file));
    signal(command, libc::SIGKILL);
    // session-lock: that process is the command.
    let (mut holding, command) = start(&place, "session-lock run s --");
    assert_eq!(command, holding.pid());
    holding.kill();
    assert!(!is_alive(command));
    place.until_free("s");
}

#[test]
fn when_the_command_leaves_something_running() {
    if !support::have("flock") {
        return;
    }
    let place = Place::new();
    for (prefix, expected) in [("flock s.lock", "held"), ("session-lock run s --", "free")] {
        let script = format!(
            "mkfifo up end
            {prefix} sh -c 'sh -c \"echo >up; read line <end\" & read line <up'
            session-lock run -q s -- echo free || echo held
            echo >end; rm up end"
        );
        assert_eq!(place.output(&script), format!("{expected}\n"), "{prefix}");
        place.until_free("s");
    }
}

/// One holds the lock, a second one waits; the file is deleted; the first one ends, the second one
/// runs; a third one comes. Whether it runs, too.
fn third_runs_beside_the_second(place: &Place, wait: &str, try_once: &str) -> bool {
    let (first, _) = start(place, wait);
    let mut command = place.command("sh");
    command.args(["-c", &format!("exec {wait} sh -c 'echo up; read line <&3' 3<&0")]);
    let mut second = Holding::start(command);
    until("the second one waits", || is_waited_for(&place.lock_file("s")));
    fs::remove_file(place.lock_file("s")).unwrap();
    first.finish();
    second.hear("up");
    let third = place.run(&format!("{try_once} echo third")).stdout == b"third\n";
    second.finish();
    third
}

#[test]
fn when_the_lock_file_is_deleted_while_somebody_waits() {
    if !support::have("flock") {
        return;
    }
    let place = Place::new();
    assert!(third_runs_beside_the_second(&place, "flock s.lock", "flock -n s.lock"));
    let (wait, try_once) = ("session-lock run -q -w s --", "session-lock run -q s --");
    assert!(!third_runs_beside_the_second(&place, wait, try_once));
}

#[test]
fn when_asked_who_holds_it() {
    if !support::have("flock") {
        return;
    }
    let place = Place::new();
    // flock can only try, which tells no name, and takes the lock where it is free. session-lock
    // names the holder, also where that is flock.
    for prefix in ["flock s.lock", "session-lock run s --"] {
        let (holding, _) = start(&place, prefix);
        let output = place.run("flock -n s.lock true; echo $?");
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"1\n"[..], &b""[..]));
        assert_eq!(place.output("session-lock holder s"), format!("{}\n", holding.pid()));
        holding.finish();
        place.until_free("s");
    }
}
