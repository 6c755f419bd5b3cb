//! Waits that form a circle, and others that only look like one.

use std::fs;
use std::process::Command;

use crate::{Holding, PROGRAM, Place, is_waited_for, support, until};

/// A process that holds a session and says so, and waits for another one when it is told; it says what came
/// of it. Its standard error is in `log-<session>`.
fn holder_of(place: &Place, session: &str, then: &str) -> Holding {
    let script = format!("echo held; read line; {then} 2>log-{session}; echo $?; read line");
    let mut command = place.command(PROGRAM);
    command.args(["run", session, "--", "sh", "-c", &script]);
    start(command)
}

fn start(command: Command) -> Holding {
    let mut holding = Holding::start(command);
    holding.hear("held");
    holding
}

fn log(place: &Place, session: &str) -> String {
    fs::read_to_string(place.path().join(format!("log-{session}"))).unwrap()
}

/// Lets each begin its wait when the one before it waits; the last one gives up, and the others get what
/// they wait for. `waits_for` in the order of the holders.
fn the_last_one_gives_up(place: &Place, holders: Vec<Holding>, waits_for: &[&str]) {
    let mut holders = holders;
    for (holder, session) in holders.iter_mut().zip(waits_for) {
        holder.say("go on");
        let file = place.lock_file(session);
        until("it waits", || is_waited_for(&file));
    }
    let mut last = holders.pop().unwrap();
    last.hear("75");
    last.finish();
    while let Some(mut next) = holders.pop() {
        next.hear("ran");
        next.hear("0");
        next.finish();
    }
}

#[test]
fn two_that_wait_for_each_other_are_told() {
    let place = Place::new();
    let first = holder_of(&place, "a", "session-lock run -w b -- echo ran");
    let second = holder_of(&place, "b", "session-lock run -w a -- echo ran");
    let (first_pid, second_pid) = (first.pid(), second.pid());
    the_last_one_gives_up(&place, vec![first, second], &["b", "a"]);
    let message = log(&place, "b");
    let last = message.lines().last().unwrap();
    let begin =
        format!("session-lock: deadlock: 'a' is held by {first_pid} (sh -c echo held; read line; ");
    let end = format!("), which waits for 'b', held by {second_pid} (sh -c echo held; read line; ");
    assert!(last.starts_with(&begin) && last.contains(&end), "{message}");
    assert!(last.ends_with("), an ancestor of this command"), "{message}");
    assert!(!log(&place, "a").contains("deadlock"));
}

#[test]
fn three_in_a_ring_are_told_whatever_is_between_them() {
    let place = Place::new();
    let mut holders = vec![
        // Through shells and other programs.
        holder_of(&place, "a", "sh -c 'env session-lock run -w b -- echo ran; exit $?'"),
        // It waits itself, in place of a shell.
        holder_of(&place, "b", "(exec session-lock run -t 3000 c -- echo ran)"),
    ];
    // A script that has taken its lock itself, and a substitution.
    let mut command = place.command("sh");
    let script = "session-lock acquire c; echo held; read line
        x=$(session-lock acquire -q -w -E 75 --for $$ a; echo $?); echo $x; read line";
    command.args(["-c", script]);
    holders.push(start(command));
    the_last_one_gives_up(&place, holders, &["b", "c", "a"]);
}

#[test]
fn a_user_of_the_library_can_be_in_the_ring() {
    let place = Place::new();
    if !support::have("python3") {
        return;
    }
    let library = support::shared_library();
    // The C functions: it holds "a", and waits for "b" until it has it.
    let python = "import ctypes, os, sys
l = ctypes.CDLL(sys.argv[1]); d = os.environb[b'SESSION_LOCK_DIR']; h = ctypes.c_uint64()
assert l.session_lock_acquire(d, b'a', ctypes.byref(h)) == 0
print('held', flush=True); sys.stdin.readline()
assert l.session_lock_wait(d, b'b', ctypes.c_int64(int(sys.argv[2])), -1, ctypes.byref(h)) == 0
print('ran', flush=True); print(0, flush=True); sys.stdin.readline()
";
    for timeout in ["-1", "600000"] {
        let mut command = place.command("python3");
        command.args(["-c", python]).arg(library).arg(timeout);
        let first = start(command);
        let second = holder_of(&place, "b", "session-lock run -w a -- echo ran");
        the_last_one_gives_up(&place, vec![first, second], &["b", "a"]);
        place.until_free("b");
    }
}

#[test]
fn every_shell_that_waits_for_its_command_is_stuck() {
    for shell in ["dash", "bash", "zsh", "fish", "make", "xargs", "python3"] {
        if !support::have(shell) {
            continue;
        }
        let place = Place::new();
        fs::write(place.path().join("Makefile"), "all:\n\tsession-lock run -w b -- echo ran\n")
            .unwrap();
        let inner = match shell {
            "make" => "make -s".to_owned(),
            "xargs" => "echo b | xargs -I{} session-lock run -w {} -- echo ran".to_owned(),
            "python3" => "python3 -c 'import subprocess; subprocess.run([\"session-lock\", \"run\", \"-w\", \"b\", \"--\", \"echo\", \"ran\"])'".to_owned(),
            _ => format!("{shell} -c 'session-lock run -w b -- echo ran; true'"),
        };
        let first = holder_of(&place, "a", &inner);
        let second = holder_of(&place, "b", "session-lock run -w a -- echo ran");
        the_last_one_gives_up(&place, vec![first, second], &["b", "a"]);
    }
}

#[test]
fn list_says_what_is_stuck() {
    let place = Place::new();
    let mut first = holder_of(&place, "a", "session-lock run -w b -- echo ran");
    let mut second = holder_of(&place, "b", "session-lock run -w a -- echo ran");
    assert!(!place.output("session-lock list").contains("deadlock"));
    first.say("go on");
    until("it waits", || is_waited_for(&place.lock_file("b")));
    assert!(!place.output("session-lock list").contains("deadlock"));
    second.say("go on");
    until("it waits", || is_waited_for(&place.lock_file("a")));
    until("it is told", || {
        let list = place.output("session-lock list");
        let has = |session: &str, other: &str| {
            let is_stuck = format!("(deadlock: waits for '{other}')");
            list.lines().any(|line| line.starts_with(session) && line.ends_with(&is_stuck))
        };
        has("a ", "b") && has("b ", "a")
    });
    second.hear("75");
}

#[test]
fn a_wait_that_can_end_is_not_refused() {
    let place = Place::new();
    // Each holds a session and leaves in the background a wait for the other's: it can end by itself.
    let script = |own: &str, other: &str, then: &str| {
        let mut command = place.command("sh");
        let script = format!(
            "exec session-lock run {own} -- sh -c 'echo held; read line
                session-lock run -w {other} -- echo ran {other} 2>log-{own} & {then}'"
        );
        command.args(["-c", &script]);
        start(command)
    };
    // One reads its standard input, the other has another child, that sleeps.
    let mut first = script("a", "b", "read line");
    let mut second = script("b", "a", "sleep 2.5");
    for (holder, session) in [(&mut first, "b"), (&mut second, "a")] {
        holder.say("go on");
        until("it waits", || is_waited_for(&place.lock_file(session)));
    }
    // When the second one ends, "b" is free; and then the first one is told to end.
    first.hear("ran b");
    first.say("end");
    second.hear("ran a");
    assert!(!log(&place, "a").contains("deadlock") && !log(&place, "b").contains("deadlock"));
    first.finish();
}

#[test]
fn many_that_take_two_sessions_in_the_same_order_are_not_refused() {
    let place = Place::new();
    let count = if support::long() { 200 } else { 60 };
    let script = format!(
        "i=0; while [ $i -lt {count} ]; do
            session-lock run -q -w a -- sh -c 'session-lock run -q -w b -- sleep 0.05; exit $?' || echo refused &
            i=$((i + 1)); done; wait"
    );
    assert_eq!(place.output(&script), "");
}
