//! `acquire`, `release` and `check`: a lock for the script that is running.

use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::ptr;

use crate::{Holding, PROGRAM, Place, is_alive, is_waited_for, signal, support, until};

/// A shell that runs a script of which standard error is to be empty.
fn shell(place: &Place, shell: &str, script: &str) -> String {
    let output = place.command(shell).arg("-c").arg(script).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
    String::from_utf8(output.stdout).unwrap()
}

/// The process that has taken the lock, from the kernel's table.
fn taker(place: &Place, session: &str) -> u32 {
    let ino = support::inode(&place.lock_file(session));
    let mut taker = None;
    // The table may miss a line.
    until("the table names it", || {
        taker = support::flocks().into_iter().find(|lock| lock.ino == ino && !lock.blocked);
        taker.is_some()
    });
    taker.unwrap().pid
}

/// A script that says "held" when it holds the lock, and does the rest at each line that it is told.
fn script(place: &Place, script: &str) -> Holding {
    let mut command = place.command("sh");
    command.args(["-c", script]);
    let mut holding = Holding::start(command);
    holding.hear("held");
    holding
}

#[test]
fn a_section_of_a_script_is_locked_in_every_shell() {
    let place = Place::new();
    for name in ["sh", "dash", "bash", "zsh", "fish"] {
        if !support::have(name) {
            continue;
        }
        let status = if name == "fish" { "$status" } else { "$?" };
        let pid = if name == "fish" { "$fish_pid" } else { "$$" };
        let text = format!(
            "session-lock check s; echo {status}
            session-lock acquire s; echo {status}; session-lock check s; echo {status}
            test (session-lock holder s) = {pid}; echo {status}
            session-lock run -q other -- session-lock run -q s -- echo both; echo {status}
            session-lock release s; echo {status}; session-lock check s; echo {status}
            session-lock holder s; session-lock run s -- echo free"
        );
        let text = if name == "fish" {
            text
        } else {
            text.replace("(session", "\"$(session").replace("s) =", "s)\" =")
        };
        assert_eq!(shell(&place, name, &text), "1\n0\n0\n0\n75\n0\n1\nfree\n", "{name}");
    }
}

#[test]
fn the_lock_is_free_when_the_script_has_ended_however_it_ends() {
    let place = Place::new();
    for end in ["exit 3", "kill -TERM $$", "kill -KILL $$", "exec true", "set -e; false"] {
        place.run(&format!("session-lock acquire s && {end}"));
        // No guardian that is late is an excuse for us.
        assert_eq!(place.output("session-lock run s -- echo free"), "free\n", "{end}");
        place.until_free("s");
        assert_eq!(place.holder_in_label("s"), "0");
    }
}

#[test]
fn the_recorded_holder_is_the_script_and_the_taker_lives() {
    let place = Place::new();
    let holding = script(&place, "session-lock acquire s; echo held; read line; exec sleep 600");
    let holder = || place.output("session-lock holder s");
    assert_eq!(holder(), format!("{}\n", holding.pid()));
    let guardian = taker(&place, "s");
    assert!(guardian != holding.pid() && is_alive(guardian));
    let json = place.output("session-lock holder --json s");
    for part in [r#""command": "sh -c session-lock acquire s"#, r#""orphaned": false"#] {
        assert!(json.contains(part), "{json}");
    }
    // It executes another program, and is the same process.
    let mut holding = holding;
    holding.say("go on");
    until("it sleeps", || {
        fs::read_to_string(format!("/proc/{}/comm", holding.pid())).unwrap() == "sleep\n"
    });
    assert_eq!(holder(), format!("{}\n", holding.pid()));
    assert!(!support::is_free(&place.lock_file("s")));
    holding.kill();
    place.until_free("s");
    until("the guardian has ended", || !is_alive(guardian));
}

#[test]
fn only_release_and_sigkill_end_a_guardian_early() {
    let place = Place::new();
    let holding = script(&place, "session-lock acquire s; echo held; read line");
    let guardian = taker(&place, "s");
    let proc = PathBuf::from(format!("/proc/{guardian}"));
    until("it has closed all but two descriptors", || {
        fs::read_dir(proc.join("fd")).unwrap().count() == 2
    });
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), PathBuf::from("/"));
    for number in
        [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGCONT, libc::SIGUSR1]
    {
        signal(guardian, number);
    }
    assert_eq!(
        place.output(&format!("session-lock check --for {} s && echo yes", holding.pid())),
        "yes\n"
    );
    signal(guardian, libc::SIGKILL);
    place.until_free("s");
    let script = format!(
        "session-lock check --for {0} s; echo $?; session-lock release --for {0} s 2>/dev/null; echo $?",
        holding.pid()
    );
    assert_eq!(place.output(&script), "1\n1\n");
    assert_eq!(place.output("session-lock run s -- echo free"), "free\n");
}

#[test]
fn release_and_check_are_for_the_process_that_holds_the_lock() {
    let place = Place::new();
    let holding = script(&place, "session-lock acquire s; echo held; read line");
    // This script does not hold it.
    let output = place.run("session-lock check s; echo $?; session-lock release s; echo $?");
    assert_eq!(output.stdout, b"1\n1\n");
    let message = String::from_utf8(output.stderr).unwrap();
    let named = format!(", but held by {} (sh -c session-lock acquire s", holding.pid());
    assert!(
        message.starts_with("session-lock: 's' is not held by process ")
            && message.contains(&named),
        "{message}"
    );
    assert!(!support::is_free(&place.lock_file("s")));
    let output = place.run("session-lock release t; echo $?; session-lock check t; echo $?");
    assert_eq!(output.stdout, b"1\n1\n");
    assert!(String::from_utf8_lossy(&output.stderr).ends_with(": it is free\n"));
    // Whoever may, may for another one.
    let script = format!(
        "session-lock release --for {} s && session-lock run s -- echo free",
        holding.pid()
    );
    assert_eq!(place.output(&script), "free\n");
}

#[test]
fn release_returns_when_the_lock_is_free() {
    let place = Place::new();
    let times = if support::long() { 2000 } else { 100 };
    let script = format!(
        "i=0; while [ $i -lt {times} ]; do session-lock acquire s || echo held
        session-lock release s; flock -n s.lock true || echo not free; i=$((i + 1)); done"
    );
    if support::have("flock") {
        assert_eq!(place.output(&script), "");
    }
}

#[test]
fn a_replaced_lock_file_is_not_held() {
    let place = Place::new();
    let script = "session-lock acquire s; mv s.lock moved; session-lock check s; echo $?
        session-lock run s -- echo another; session-lock check s; echo $?; mv moved s.lock
        session-lock check s; echo $?";
    assert_eq!(place.output(script), "1\nanother\n1\n0\n");
}

#[test]
fn what_is_held_already_is_refused_at_once() {
    let place = Place::new();
    for options in ["", "-w", "-t 3000"] {
        let script = format!(
            "session-lock acquire s; session-lock acquire {options} s; echo $?; session-lock check s; echo $?"
        );
        let output = place.run(&script);
        assert_eq!(output.stdout, b"75\n0\n", "{options}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("which is the process to acquire it for"), "{message}");
    }
    // By the command that runs the script, or by the script for what it runs.
    let output = place.run("session-lock run s -- sh -c 'session-lock acquire -w s; echo $?'");
    assert_eq!(output.stdout, b"75\n");
    let output = place.run("session-lock acquire s; session-lock run -w s -- true; echo $?; sh -c 'session-lock acquire -w s; echo $?'");
    assert_eq!(output.stdout, b"75\n75\n");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.matches("an ancestor of this command").count(), 2, "{message}");
}

#[test]
fn a_script_that_run_has_started_can_give_its_lock_up_and_take_others() {
    let place = Place::new();
    for option in ["", "-i"] {
        let script = format!("session-lock run {option} s -- sh -c 'session-lock check s && session-lock acquire t && session-lock list | cut -c1-12 &&
            session-lock release s && session-lock run s -- echo free; session-lock check t && echo t'");
        let list = "SESSION  STA\ns        hel\nt        hel\n";
        assert_eq!(place.output(&script), format!("{list}free\nt\n"), "{option}");
        place.until_free("t");
    }
}

#[test]
fn the_process_that_counts_is_the_one_that_calls() {
    let place = Place::new();
    for (script, expected) in [
        // The subshell holds it, and has ended.
        (
            "(session-lock acquire s; session-lock check s; echo $?); session-lock check s; echo $?",
            "0\n1\n",
        ),
        (
            "{ session-lock acquire s; session-lock check s; echo $?; } | cat; session-lock check s; echo $?",
            "0\n1\n",
        ),
        ("(session-lock acquire --for $$ s); session-lock check s; echo $?", "0\n"),
        ("x=$(session-lock acquire --for $$ s); session-lock check s; echo $?", "0\n"),
        ("timeout 60 session-lock acquire --for $$ s; session-lock check s; echo $?", "0\n"),
        (
            "sh -c 'sh -c \"session-lock acquire --for '$$' s\"'; session-lock check s; echo $?",
            "0\n",
        ),
    ] {
        assert_eq!(place.output(script), expected, "{script}");
        place.until_free("s");
    }
}

#[test]
fn a_makefile_and_a_container_can_hold_a_lock() {
    let place = Place::new();
    if support::have("make") {
        let text = ".ONESHELL:\nall:\n\t@session-lock acquire s\n\tsession-lock check s; echo $$?\n\tsession-lock release s; echo $$?\n";
        fs::write(place.path().join("Makefile"), text).unwrap();
        assert_eq!(place.output("make -s"), "0\n0\n");
    }
    if support::is_root() && support::have("unshare") {
        let script = "unshare --kill-child --pid --fork --mount-proc sh -c 'session-lock acquire s 2>&1; echo $?
            session-lock acquire --for $$ s; session-lock check --for 1 s; echo $?; session-lock holder s; session-lock release --for $$ s; echo $?'";
        let expected = "session-lock: started by PID 1: use --for PID to say which process is to hold the lock\n2\n0\n1\n0\n";
        assert_eq!(place.output(script), expected);
    }
}

#[test]
fn an_attempt_ends_with_the_process_that_made_it() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGKILL] {
        for options in [&["-w"][..], &["-t", "600"], &["-w", "-q"]] {
            let mut command = place.command(PROGRAM);
            command.arg("acquire").args(options).arg("s");
            let mut waiter = command.stderr(Stdio::null()).spawn().unwrap();
            until("it waits", || is_waited_for(&place.lock_file("s")));
            signal(waiter.id(), number);
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(waiter.wait().unwrap().signal(), Some(number));
            until("nobody waits", || !is_waited_for(&place.lock_file("s")));
        }
    }
    holding.finish();
    place.until_free("s");
    // The script ends, and session-lock with it.
    let holding = place.hold(&["s"]);
    let mut command = place.command("sh");
    command.args(["-c", "session-lock acquire -q -w s; echo $?"]);
    let mut script = Holding::start(command);
    until("it waits", || is_waited_for(&place.lock_file("s")));
    script.kill();
    until("nobody waits", || !is_waited_for(&place.lock_file("s")));
    holding.finish();
}

#[test]
fn it_waits_as_run_does() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let output =
        place.run("session-lock acquire s; echo $?; session-lock acquire -t 0.3 -E 9 s; echo $?");
    assert_eq!(output.stdout, b"75\n9\n");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("; use -w to wait\n") && message.ends_with("; gave up after 300ms\n"),
        "{message}"
    );
    assert_eq!(place.output("session-lock acquire -q s; echo $?"), "75\n");
    let mut command = place.command("sh");
    command.args(["-c", "session-lock acquire -w s 2>log && echo held; read line"]);
    let mut script = Holding::start(command);
    until("it tells", || {
        fs::read_to_string(place.path().join("log")).is_ok_and(|log| !log.is_empty())
    });
    let expected = format!(
        "session-lock: waiting for 's', held by {} (sh -c echo held; read line; exit 7)\n",
        holding.pid()
    );
    assert_eq!(fs::read_to_string(place.path().join("log")).unwrap(), expected);
    holding.finish();
    script.hear("held");
    assert_eq!(place.output("session-lock holder s"), format!("{}\n", script.pid()));
    script.finish();
}

#[test]
fn a_process_that_cannot_hold_it_is_named() {
    let place = Place::new();
    let run = |arguments: &str, code: i32| {
        let output = place.run(&format!("exec session-lock {arguments}"));
        assert_eq!(output.status.code(), Some(code), "{arguments}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(run("acquire --for 4194303 s", 125), "session-lock: there is no process 4194303\n");
    for bad in ["0", "-1", "x", ""] {
        assert!(run(&format!("acquire --for '{bad}' s"), 2).contains("--for"));
    }
    // A clone in the superuser's home directory is closed to others.
    let others_may_run_it = support::is_root()
        && support::have("setpriv")
        && run_as_nobody(&place, "cd /; session-lock --version").starts_with("session-lock ");
    if !others_may_run_it {
        support::skip("nobody else may run the program where it is, or there is no setpriv");
    } else {
        fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .unwrap();
        let message = run_as_nobody(
            &place,
            &format!("session-lock acquire --for {} s; echo $?", std::process::id()),
        );
        assert_eq!(
            message,
            format!("session-lock: process {} belongs to another user\n125\n", std::process::id())
        );
    }
    assert!(!place.lock_file("s").exists());
}

fn run_as_nobody(place: &Place, script: &str) -> String {
    let script =
        format!("setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '{script}' 2>&1");
    let output = place.run(&script);
    String::from_utf8(output.stdout).unwrap()
}

/// What is not a lock file is not read, and of a large one only the label.
#[test]
fn whatever_is_at_the_path_check_and_release_end_at_once() {
    let cases = [
        ("mkfifo s.lock", "125 125", "not a regular file"),
        ("ln -s /dev/zero s.lock", "125 125", "is a symbolic link"),
        ("truncate -s 300M s.lock", "1 1", "it is free"),
        ("truncate -s 300M s.lock; session-lock acquire s", "0 0", ""),
    ];
    for (put, codes, message) in cases {
        let place = Place::new();
        // With a limit, so that the test fails before the machine does; and without `--foreground`, so that
        // also what hangs is ended.
        let script = format!(
            "exec 2>&1; ulimit -v 2000000; {put}
            session-lock check s; check=$?; session-lock release s; echo $check $?"
        );
        let mut command = place.command("timeout");
        command.args(["-k", "1", "60", "sh", "-c", &script]).stdin(Stdio::null());
        let (output, memory) = output_and_memory(command.stdout(Stdio::piped()));
        let (messages, last) =
            output.trim_end().rsplit_once('\n').unwrap_or(("", output.trim_end()));
        assert_eq!(last, codes, "{put}: {output}");
        assert!(
            messages.contains(message) && messages.is_empty() == message.is_empty(),
            "{output}"
        );
        assert!(memory < 100 << 20, "{put}: {memory} bytes");
    }
}

/// What a command writes, and the most memory that it or one of its children had, in bytes.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn output_and_memory(command: &mut Command) -> (String, u64) {
    let mut child = command.spawn().unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    let pid = child.id().try_into().unwrap();
    // SAFETY: the struct is the one that the call fills; nobody else waits for this child.
    let waited = unsafe { libc::wait4(pid, ptr::null_mut(), 0, usage.as_mut_ptr()) };
    assert_eq!(waited, pid);
    // SAFETY: the call has filled it.
    let kilobytes = unsafe { usage.assume_init() }.ru_maxrss;
    (output, u64::try_from(kilobytes).unwrap() * 1024)
}
