//! SIGKILL before and after every system call of acquire, wait and release: then the lock is free at
//! once, and nobody who asks later is told of the dead.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;
#[path = "support/trace.rs"]
mod trace;

use std::fs::File;
use std::path::Path;
use std::process;

use session_lock::{SessionLock, State};
use trace::Scenario::{self, *};
use trace::{Plan, flock};

#[test]
fn role() {
    support::play(&[trace::TARGET]);
}

#[test]
fn in_acquire() {
    at_every_point(AcquireFree);
    at_every_point(AcquireNewDirectory);
}

#[test]
fn in_a_wait_in_the_queue() {
    at_every_point(WaitEndlessHandedOver);
}

#[test]
fn in_a_wait_with_a_thread() {
    at_every_point(WaitDeadlineHandedOver);
    at_every_point(WaitLateGrant);
    at_every_point(WaitCancelled);
}

#[test]
fn in_release() {
    at_every_point(Release);
    at_every_point(ReleaseStale);
}

fn at_every_point(scenario: Scenario) {
    let scratch = support::scratch();
    let mut runs = 0;
    let mut run = |plan| {
        runs += 1;
        let dir = scratch.path().join(runs.to_string()).join("m");
        let report = trace::run(&dir, scenario, plan);
        (dir, report)
    };
    let calls = trace::calls(|| run(Plan::Watch).1);
    let mut deaths = 0;
    for &call in &calls {
        for plan in [Plan::KillBefore(call), Plan::KillAfter(call)] {
            let (dir, report) = run(plan);
            // A call that does not return has no "after".
            if report.reached {
                let killed = libc::WIFSIGNALED(report.status)
                    && libc::WTERMSIG(report.status) == libc::SIGKILL;
                assert!(killed && report.end.is_none(), "{scenario:?} {plan:?}: {report:?}");
                after_the_death(&dir, report.pid, &format!("{scenario:?} {plan:?}"));
                deaths += 1;
            }
        }
    }
    println!("{scenario:?}: {} system calls, {deaths} deaths", calls.len());
    assert!(deaths > calls.len());
}

/// The dead process has been waited for: what it held is free now, not some time later.
fn after_the_death(dir: &Path, dead: u32, what: &str) {
    let path = trace::lock_file(dir);
    let holder = session_lock::holder(Some(dir), "s").unwrap();
    assert_ne!(holder.state, State::Held, "{what}: {holder:?}");
    assert!(holder.state == State::Free || !holder.confirmed, "{what}: {holder:?}");
    // A stranger takes it, and the label that the dead may have left in the file is not the stranger's.
    if let Ok(file) = File::open(&path) {
        assert!(flock(&file, libc::LOCK_EX | libc::LOCK_NB), "{what}: still locked");
        let holder = session_lock::holder(Some(dir), "s").unwrap();
        assert_eq!(holder.state, State::Held, "{what}");
        assert_ne!(holder.pid, Some(dead), "{what}: {holder:?}");
        assert_eq!(holder.acquired_at_ms, None, "{what}: {holder:?}");
        assert!(flock(&file, libc::LOCK_UN));
    }
    let lock =
        SessionLock::acquire(Some(dir), "s").unwrap_or_else(|error| panic!("{what}: {error}"));
    let holder = session_lock::holder(Some(dir), "s").unwrap();
    assert_eq!(holder.pid, Some(process::id()), "{what}: {holder:?}");
    assert!(holder.acquired_at_ms.is_some(), "{what}: {holder:?}");
    lock.release().unwrap();
    assert_eq!(session_lock::holder(Some(dir), "s").unwrap().state, State::Free, "{what}");
}
