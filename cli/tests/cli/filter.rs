//! Under a filter that denies system calls (seccomp(2)), as containers have them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{Holding, Place, is_waited_for, signal, support, until};

/// Compiles `deny` into the place.
fn have_deny(place: &Place) -> bool {
    if !support::have("cc") {
        return false;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/deny.c");
    let mut cc = Command::new("cc");
    assert!(cc.arg("-o").arg(place.path().join("deny")).arg(source).status().unwrap().success());
    true
}

const DENIED: [&str; 9] = [
    "pidfd_open",
    "close_range",
    "clone",
    "clone3",
    "ppoll",
    "signalfd4",
    "socketpair",
    "eventfd2",
    "pidfd_send_signal",
];

#[test]
fn a_call_that_is_denied_is_done_without() {
    let place = Place::new();
    if !have_deny(&place) {
        return;
    }
    for call in DENIED {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let deny = format!("./deny {call}={errno}");
            // The lock lives as long as the command, and not longer.
            let script = format!(
                "{deny} session-lock run s -- sh -c 'session-lock run -q s -- true; echo $?; kill -9 $$' 2>/dev/null; echo $?
                session-lock run s -- echo free
                mkfifo end; {deny} session-lock run -i s -- sh -c 'read line <end; exit 7' & p=$!
                until session-lock holder s >pid; do :; done; [ $(cat pid) = $p ] || echo $(cat pid) $p
                echo >end; wait $p; echo $?; rm end; session-lock run s -- echo free"
            );
            assert_eq!(place.output(&script), "75\n137\nfree\n7\nfree\n", "{deny}");
            let script = format!(
                "{deny} sh -c 'session-lock acquire s; session-lock check s && session-lock release s && session-lock run s -- echo released
                session-lock acquire s; kill -9 $$' 2>/dev/null; session-lock run s -- echo free"
            );
            assert_eq!(place.output(&script), "released\nfree\n", "{deny}");
        }
    }
}

#[test]
fn a_wait_goes_on_without_what_is_denied() {
    let place = Place::new();
    if !have_deny(&place) {
        return;
    }
    for call in DENIED {
        for errno in [libc::EPERM, libc::ENOSYS] {
            // The library waits with a deadline, or until it is cancelled, by `ppoll`.
            let verbs = ["run -w s --", "acquire -w s && session-lock run t --"];
            for verb in &verbs[..if call == "ppoll" { 1 } else { 2 }] {
                let holding = place.hold(&["s"]);
                let mut command = place.command("./deny");
                let script = format!("session-lock {verb} echo ran && read line");
                command.arg(format!("{call}={errno}")).args(["sh", "-c", &script]);
                let log = place.path().join("log");
                command.stderr(fs::File::create(&log).unwrap());
                let mut waiter = Holding::start(command);
                // Without a thread a wait says nothing, or tries again and again.
                let tells = || fs::metadata(&log).unwrap().len() > 0;
                until("it waits", || is_waited_for(&place.lock_file("s")) || tells());
                holding.finish();
                assert_eq!(
                    waiter.next(),
                    "ran",
                    "{call}={errno} {verb} {}",
                    fs::read_to_string(log).unwrap()
                );
                waiter.finish();
                place.until_free("s");
            }
        }
    }
}

#[test]
fn what_cannot_be_done_without_is_named() {
    let place = Place::new();
    if !have_deny(&place) {
        return;
    }
    // No clone3 and no clone: under two filters.
    let script = "./deny clone=1 ./deny clone3=38 session-lock run s -- touch ran; echo $?
        ./deny clone=1 ./deny clone3=38 session-lock acquire s; echo $?; ls ran 2>/dev/null";
    // The shell could start nothing itself.
    let output = place.run(script);
    assert_eq!(output.stdout, b"125\n125\n");
    let message = String::from_utf8(output.stderr).unwrap();
    let expected = "session-lock: cannot start the lock's guardian: clone: Operation not permitted (os error 1) (the seccomp profile must allow it)";
    assert!(message.starts_with(expected), "{message}");
    place.until_free("s");
}

/// A guardian without a pidfd that waits for the end of the command by its parent's signal.
#[test]
fn a_guardian_without_a_pidfd_is_not_late() {
    let place = Place::new();
    if !have_deny(&place) {
        return;
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let mut command = place.command("./deny");
        command.args([
            "pidfd_open=38",
            "session-lock",
            "run",
            "s",
            "--",
            "sh",
            "-c",
            "echo held; read line",
        ]);
        let mut holding = Holding::start(command);
        holding.hear("held");
        signal(holding.pid(), libc::SIGKILL);
        holding.child.wait().unwrap();
        slowest = slowest.max(until("free", || support::is_free(&place.lock_file("s"))));
    }
    println!("free at most {slowest:?} after the end was seen");
}
