//! Waits that form a circle, and others that only look like one.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::bindfs::Bindfs;
use crate::{Holding, PROGRAM, Place, at_once, is_waited_for, support, until};

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
    if !support::have("python3") {
        return;
    }
    let library = support::shared_library();
    // The C functions: it holds "a", and waits for "b" until it has it.
    let python = "import ctypes, os, sys
l = ctypes.CDLL(sys.argv[1]); d = os.environb[b'SESSION_LOCK_DIR']; h = ctypes.c_uint64()
assert l.session_lock_acquire(d, b'a', ctypes.byref(h)) == 0
print('held', flush=True); sys.stdin.readline()
timeout, cancel = ctypes.c_int64(int(sys.argv[2])), int(sys.argv[3])
assert l.session_lock_wait(d, b'b', timeout, cancel, ctypes.byref(h)) == 0
print('ran', flush=True); print(0, flush=True); sys.stdin.readline()
";
    // Its standard input can cancel it: nobody writes to it then.
    at_once(&[["-1", "-1"], ["600000", "-1"], ["-1", "0"]], |limits| {
        let place = Place::new();
        let mut command = place.command("python3");
        command.args(["-c", python]).arg(library).args(limits);
        let first = start(command);
        let second = holder_of(&place, "b", "session-lock run -w a -- echo ran");
        the_last_one_gives_up(&place, vec![first, second], &["b", "a"]);
        place.until_free("b");
    });
}

/// One thread waits, by the library or by a bare `flock`, and the other one will release what it holds.
#[test]
fn a_holder_of_which_another_thread_waits_is_not_stuck() {
    if !support::have("python3") {
        return;
    }
    let library = support::shared_library();
    let python = "import ctypes, fcntl, os, sys, threading
l = ctypes.CDLL(sys.argv[1]); d = os.environb[b'SESSION_LOCK_DIR']; a = ctypes.c_uint64()
class Polled(ctypes.Structure): _fields_ = ('fd', ctypes.c_int), ('events', ctypes.c_short), ('revents', ctypes.c_short)
def by_library(): l.session_lock_wait(d, b'b', ctypes.c_int64(-1), -1, ctypes.byref(ctypes.c_uint64()))
def by_flock(): fcntl.flock(os.open(d + b'/b.lock', os.O_RDWR), fcntl.LOCK_EX)
def read(): pass
def ppoll(): ctypes.CDLL(None).ppoll(ctypes.byref(Polled(0, 1, 0)), 1, None, None)
assert l.session_lock_acquire(d, b'a', ctypes.byref(a)) == 0
print('held', flush=True); sys.stdin.readline()
threading.Thread(target=eval(sys.argv[2])).start()
eval(sys.argv[3])(); sys.stdin.readline()
assert l.session_lock_release(a) == 0
";
    let ways = [("by_library", "read"), ("by_library", "ppoll"), ("by_flock", "ppoll")];
    at_once(&ways, |(wait, rest)| {
        let place = Place::new();
        let mut command = place.command("python3");
        command.args(["-c", python]).arg(library).args([wait, rest]);
        let mut first = start(command);
        let mut second = holder_of(&place, "b", "session-lock run -w a -- echo ran");
        for (holder, session) in [(&mut first, "b"), (&mut second, "a")] {
            holder.say("go on");
            until("it waits", || is_waited_for(&place.lock_file(session)));
        }
        until_in(first.pid(), if *rest == "read" { "pipe_read" } else { "poll" });
        until_in(second.pid(), "do_wait");
        let list = place.output("session-lock list");
        assert!(list.lines().count() == 3 && !list.contains("deadlock"), "{wait}, {rest}: {list}");
        first.say("release");
        second.hear("ran");
        second.hear("0");
        // Then "b" is free for the thread.
        second.finish();
        assert!(first.child.wait().unwrap().success());
    });
}

/// Two that wait for each other's session by flock(1), which never gives up. The first one executes `parent`
/// in a shell. Looks when both wait: with the first one's PID.
fn while_two_wait(parent: &str, look: impl FnOnce(&Place, u32)) {
    let place = Place::new();
    let makefile = "all: one two\none two:\n\tflock b.lock true\n";
    fs::write(place.path().join("Makefile"), makefile).unwrap();
    let run = |session: &str, then: &str| {
        let mut command = place.command(PROGRAM);
        let script = format!("echo held; read line; {then}; read line");
        command.args(["run", session, "--", "sh", "-c", &script]);
        // In the end they find no directory any more.
        command.stderr(Stdio::null());
        start(command)
    };
    let mut first = run("a", parent);
    let mut second = run("b", "flock a.lock true");
    for (holder, session) in [(&mut first, "b"), (&mut second, "a")] {
        holder.say("go on");
        until("it waits", || is_waited_for(&place.lock_file(session)));
    }
    until_in(second.pid(), "do_wait");
    look(&place, first.pid());
}

/// Waits until a process is asleep in a kernel's function of this name.
fn until_in(pid: u32, function: &str) {
    until(function, || {
        fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap().contains(function)
    });
}

#[test]
fn every_parent_that_waits_for_its_command_is_stuck() {
    if !support::have("flock") {
        return;
    }
    let python = |call: &str| format!("python3 -c 'import subprocess as s; {call}'");
    let parents = [
        ("dash", "dash -c 'flock b.lock true; true'".to_owned()),
        ("bash", "bash -c 'flock b.lock true; true'".to_owned()),
        ("zsh", "zsh -c 'flock b.lock true; true'".to_owned()),
        ("fish", "fish -c 'flock b.lock true; true'".to_owned()),
        ("make", "make -s".to_owned()),
        ("make", "make -s -j2".to_owned()),
        ("make", "make -s -j1 | cat".to_owned()),
        ("xargs", "echo b.lock | xargs -I{} flock {} true".to_owned()),
        ("sh", "x=$(flock b.lock true)".to_owned()),
        ("sh", "flock b.lock true | cat | cat".to_owned()),
        ("sh", "flock b.lock true & wait".to_owned()),
        ("python3", python("s.run([\"flock\", \"b.lock\", \"true\"])")),
        // It polls two pipes, and waits for nobody.
        ("python3", python("s.run([\"flock\", \"b.lock\", \"true\"], capture_output=True)")),
        (
            "python3",
            python("s.run([\"flock\", \"b.lock\", \"true\"], stdout=-1, input=b\"x\" * 100000)"),
        ),
        (
            "python3",
            python(
                "import select; c = s.Popen([\"flock\", \"b.lock\", \"true\"], stdout=-1); e = select.epoll(); e.register(c.stdout); e.poll()",
            ),
        ),
        (
            "python3",
            python(
                "import os, select; c = s.Popen([\"flock\", \"b.lock\", \"true\"]); select.select([os.pidfd_open(c.pid)], [], [])",
            ),
        ),
    ];
    at_once(&parents, |(tool, parent)| {
        if !support::have(tool) {
            return;
        }
        while_two_wait(parent, |place, _| {
            until(&format!("{parent}: it is stuck"), || {
                let list = place.output("session-lock list");
                list.matches("(deadlock: waits for").count() == 2
            });
        });
    });
}

/// A look for circles looks at what every process has open, also on a filesystem whose server has stopped.
#[test]
fn a_filesystem_that_does_not_answer_does_not_matter() {
    if !support::have("flock") || !Bindfs::is_possible() {
        return;
    }
    let (below, at) = (support::scratch(), support::scratch());
    let fuse = Bindfs::mount(&[], below.path(), at.path());
    while_two_wait("x=$(flock b.lock true)", |place, _| {
        let _stopped = fuse.stop();
        until("it is stuck", || {
            let list = place.output("timeout -s KILL 20 session-lock list");
            list.matches("(deadlock: waits for").count() == 2
        });
    });
}

#[test]
fn a_parent_that_could_go_on_is_not_stuck() {
    if !support::have("flock") || !support::have("python3") {
        return;
    }
    let python = |call: &str| {
        format!(
            "exec python3 -c 'import select, subprocess as s; c = s.Popen([\"flock\", \"b.lock\", \"true\"], stdout=-1); {call}'"
        )
    };
    let parents = [
        // What it waits for can come from outside.
        ("flock b.lock true & read line", "pipe_read"),
        ("mkfifo f; exec 3<>f; flock b.lock true & read line <&3", "pipe_read"),
        // From another child,
        ("flock b.lock true & sleep 120 & wait", "sigsuspend"),
        ("flock b.lock true & x=$(flock b.lock true & sleep 120)", "pipe_read"),
        // or in time.
        ("exec timeout 600 flock b.lock true", "sigsuspend"),
        (&python("c.communicate(timeout=600)"), "poll"),
        (&python("select.select([c.stdout], [], [], 600)"), "poll"),
        (&python("select.select([c.stdout, 0], [], [])"), "poll"),
        (&python("e = select.epoll(); e.register(c.stdout); e.register(0); e.poll()"), "epoll"),
        // Another thread goes on.
        (
            &python(
                "import threading, time; threading.Thread(target=time.sleep, args=(120,)).start(); c.wait()",
            ),
            "do_wait",
        ),
    ];
    at_once(&parents, |(parent, function)| {
        while_two_wait(parent, |place, pid| {
            until_in(pid, function);
            let list = place.output("session-lock list");
            assert!(list.lines().count() == 3 && !list.contains("deadlock"), "{parent}: {list}");
        });
    });
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
    let mut second = script("b", "a", "sleep 1.5");
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
    let count = if support::long() { 200 } else { 40 };
    let script = format!(
        "i=0; while [ $i -lt {count} ]; do
            session-lock run -q -w a -- sh -c 'session-lock run -q -w b -- sleep 0.05; exit $?' || echo refused &
            i=$((i + 1)); done; wait"
    );
    assert_eq!(place.output(&script), "");
}
