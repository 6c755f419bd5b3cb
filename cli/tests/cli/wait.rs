//! `run -w` and `run -t`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::{Holding, PROGRAM, Place, is_waited_for, support, until};

#[test]
fn it_runs_when_the_lock_comes() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let mut waiter = place.script("exec session-lock run -t 50.5 s -- echo ran");
    let waiter = waiter.stdout(Stdio::piped()).spawn().unwrap();
    until("it waits", || is_waited_for(&place.lock_file("s")));
    holding.finish();
    let output = waiter.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"ran\n");
}

#[test]
fn it_gives_up_when_the_time_is_over() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let began = Instant::now();
    let output = place.run("session-lock run -t 0.3 s -- echo ran");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(output.status.code(), Some(75));
    assert_eq!(output.stdout, b"");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.ends_with("; gave up after 300ms\n"), "{message}");
    holding.finish();
}

#[test]
fn without_a_terminal_it_tells_each_holder_in_a_line() {
    let place = Place::new();
    let first = place.hold(&["s"]);
    let start = |options: &[&str], stderr: Stdio| {
        let mut command = place.command(PROGRAM);
        command.arg("run").args(options).args(["s", "--", "sh", "-c", "echo held; read line"]);
        command.stderr(stderr);
        Holding::start(command)
    };
    let mut second = start(&["-w", "-q"], Stdio::inherit());
    until("the second one waits", || is_waited_for(&place.lock_file("s")));
    let (read, write) = pipe();
    let mut last = start(&["-w"], write.into());
    let mut lines = BufReader::new(read).lines().map(Result::unwrap);
    let told = |pid: u32, end: &str| {
        format!("session-lock: waiting for 's', held by {pid} (sh -c echo held; read line{end})")
    };
    assert_eq!(lines.next().unwrap(), told(first.pid(), "; exit 7"));
    first.finish();
    second.hear("held");
    assert_eq!(lines.next().unwrap(), told(second.pid(), ""));
    second.finish();
    last.hear("held");
    last.finish();
    assert_eq!(lines.next(), None);
}

fn pipe() -> (File, File) {
    use std::os::fd::FromRawFd;
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two numbers.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the call has just given us these descriptors; nobody else owns them.
    fds.map(|fd| unsafe { File::from_raw_fd(fd) }).into()
}

#[test]
fn a_lock_that_an_ancestor_holds_is_refused_at_once() {
    let place = Place::new();
    for inner in ["run -w s", "run -t 3000 s"] {
        for (nth, outer) in [
            // Directly, through a shell, with an environment that tells nothing, from another session.
            format!("session-lock run s -- session-lock {inner} -- echo ran"),
            format!("session-lock run s -- sh -c 'session-lock {inner} -- echo ran; exit $?'"),
            format!(
                "session-lock run s -- setsid -w env -i {PROGRAM} run --dir . -w s -- echo ran"
            ),
            format!("session-lock run -i s -- sh -c 'session-lock {inner} -- echo ran; exit $?'"),
            format!("flock s.lock session-lock {inner} -- echo ran"),
        ]
        .into_iter()
        .enumerate()
        {
            let output = place.run(&outer);
            assert_eq!(output.status.code(), Some(75), "{outer}");
            assert_eq!(output.stdout, b"", "{outer}");
            let message = String::from_utf8(output.stderr).unwrap();
            // Neither run nor env nor setsid, which is no group's leader here, makes another process.
            let who = match nth {
                0 | 2 => "which has become this command",
                _ => "an ancestor of this command",
            };
            assert!(message.contains(who), "{message}");
            place.until_free("s");
        }
    }
    // Another session's lock is none of that.
    assert_eq!(place.output("session-lock run s -- session-lock run -w t -- echo ran"), "ran\n");
}

#[test]
fn a_signal_ends_the_wait_and_leaves_nothing() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGKILL] {
        for options in [&["-w"][..], &["-t", "600"], &["-w", "-q"]] {
            let mut command = place.command(PROGRAM);
            command.arg("run").args(options).args(["s", "--", "touch", "ran"]);
            let mut waiter = command.stderr(Stdio::null()).spawn().unwrap();
            until("it waits", || is_waited_for(&place.lock_file("s")));
            crate::signal(waiter.id(), number);
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(waiter.wait().unwrap().signal(), Some(number));
            assert!(!is_waited_for(&place.lock_file("s")));
        }
    }
    holding.finish();
    place.until_free("s");
    assert!(!place.path().join("ran").exists());
}

/// A pipe that nobody reads, and that is full.
fn full_pipe() -> (File, File) {
    let (read, write) = pipe();
    let text = [b'x'; 4096];
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, and this is its only user.
    unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    while std::io::Write::write(&mut &write, &text).is_ok() {}
    // SAFETY: as above.
    unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETFL, 0) };
    (read, write)
}

#[test]
fn a_standard_error_that_nobody_drains_does_not_delay_the_command() {
    let place = Place::new();
    for verb in ["run -w s --", "acquire -w s && session-lock run t --"] {
        // Long enough for a message that blocks.
        let holding = place.hold(&["s"]);
        let (read, write) = full_pipe();
        let mut command = place.command("sh");
        command.args(["-c", &format!("session-lock {verb} echo ran")]);
        command.stderr(write);
        let waiter = command.stdout(Stdio::piped()).spawn().unwrap();
        until("it waits", || is_waited_for(&place.lock_file("s")));
        // Its thread has come to its first message when it has looked for a holder: a tenth of a second.
        std::thread::sleep(Duration::from_millis(300));
        holding.finish();
        assert_eq!(waiter.wait_with_output().unwrap().stdout, b"ran\n", "{verb}");
        drop(read);
    }
    // A socket cannot be opened once more.
    let holding = place.hold(&["s"]);
    let (read, write) = std::os::unix::net::UnixStream::pair().unwrap();
    write.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &write, &[b'x'; 4096]).is_ok() {}
    write.set_nonblocking(false).unwrap();
    let mut command = place.command(PROGRAM);
    command.args(["run", "-w", "s", "--", "echo", "ran"]);
    command.stderr(std::os::fd::OwnedFd::from(write));
    let waiter = command.stdout(Stdio::piped()).spawn().unwrap();
    until("it waits", || is_waited_for(&place.lock_file("s")));
    std::thread::sleep(Duration::from_millis(300));
    holding.finish();
    assert_eq!(waiter.wait_with_output().unwrap().stdout, b"ran\n");
    drop(read);
}

#[test]
fn as_the_first_process_it_dies_of_a_signal_as_others_do() {
    if !support::is_root() || !support::have("unshare") {
        return;
    }
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let start = |script: &str| {
        let mut command = place.command("unshare");
        command.args(["--kill-child", "--pid", "--fork", "--mount-proc", "sh", "-c", script]);
        let waiter = command.stderr(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        until("it waits", || is_waited_for(&place.lock_file("s")));
        let pid = waiter.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        (waiter, children.trim().parse::<u32>().unwrap())
    };
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        for option in ["-w", "-qw", "-t 600"] {
            let (mut waiter, first) =
                start(&format!("exec session-lock run {option} s -- touch ran"));
            crate::signal(first, number);
            assert_eq!(waiter.wait().unwrap().code(), Some(128 + number), "{option}");
            until("nobody waits", || !is_waited_for(&place.lock_file("s")));
        }
    }
    assert!(!place.path().join("ran").exists());
    // What it was told to ignore, it ignores.
    let (waiter, first) = start("trap '' TERM; exec session-lock run -w s -- echo ran");
    crate::signal(first, libc::SIGTERM);
    holding.finish();
    assert_eq!(waiter.wait_with_output().unwrap().stdout, b"ran\n");
}

#[test]
fn a_holder_that_is_stopped_is_called_suspended() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    crate::signal(holding.pid(), libc::SIGSTOP);
    until("it is stopped", || {
        std::fs::read_to_string(format!("/proc/{}/stat", holding.pid())).unwrap().contains(") T ")
    });
    let output = place.run("session-lock run s -- true; session-lock list");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.ends_with("; exit 7), suspended; use -w to wait\n"), "{message}");
    let list = String::from_utf8(output.stdout).unwrap();
    assert!(list.ends_with("; exit 7 (suspended)\n"), "{list}");
    crate::signal(holding.pid(), libc::SIGCONT);
    holding.finish();
}
