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

#[test]
fn what_its_users_type_out_of_habit_is_answered_with_the_line_that_does_it_here() {
    let place = Place::new();
    for (line, answer) in [
        (
            "run -n s touch ran",
            "'-n' is an option of flock(1), not of session-lock: session-lock does not wait without -w or -t",
        ),
        ("run --nonblock s touch ran", "does not wait without -w or -t"),
        ("run -x s touch ran", "every session lock is exclusive"),
        ("run -qxn s touch ran", "'-qxn' is an option of flock(1)"),
        ("acquire -e s", "every session lock is exclusive"),
        ("run -s s touch ran", "every session lock is exclusive"),
        ("run -o s touch ran", "COMMAND does not get the lock's descriptor"),
        ("run s -c 'touch ran'", "session-lock run SESSION -- sh -c '...'"),
        ("run -c 'touch ran' s", "session-lock run SESSION -- sh -c '...'"),
        ("acquire -u s", "session-lock release SESSION"),
        ("run -F s touch ran", "COMMAND is always executed in place"),
        ("-n s.lock touch ran", "'-n' is an option of flock(1)"),
        // Without an answer, "10" would be the session, and "touch" or "s" the command.
        (
            "run -w 10 touch ran",
            "-w takes no number: it waits as long as it takes; -t 10 waits 10 seconds",
        ),
        ("run -qw 2.5 s touch ran", "-t 2.5 waits 2.5 seconds"),
        ("run -w10 s touch ran", "-t 10 waits 10 seconds"),
        ("run --wait 10 s touch ran", "-t 10 waits 10 seconds"),
        ("acquire -w 10 s", "-t 10 waits 10 seconds"),
    ] {
        let output = place.run(&format!("session-lock {line}"));
        assert_eq!(output.status.code(), Some(2), "{line}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("error: ") && message.contains(answer), "{line}: {message}");
        assert!(message.contains("--help"), "{message}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    // What is not meant so.
    for line in ["run -w -- 10 echo ran", "run s -- echo ran", "run -t 5 -E 3 -- s echo ran"] {
        assert_eq!(place.output(&format!("session-lock {line}")), "ran\n", "{line}");
    }
    assert_eq!(
        place.output("session-lock run s echo -n -c 10; session-lock run s -- sh -c 'echo ran'"),
        "-c 10ran\n"
    );
}
