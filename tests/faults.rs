//! Every system call of every operation fails, at every position, with every errno it can give: then
//! the operation says so, or it has done what it says it has.
//!
//! `cargo test --test faults -- --nocapture` prints what was injected.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;
#[path = "support/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::env;

use session_lock as _;
use trace::Scenario::{self, *};
use trace::{Plan, Report, SCENARIOS, Sight};

#[test]
fn role() {
    support::play(&[trace::TARGET]);
}

#[test]
fn acquire() {
    all_of(&[AcquireFree, AcquireNewDirectory, AcquireHeld]);
}

#[test]
fn wait() {
    all_of(&[WaitEndlessFree, WaitEndlessHandedOver, WaitDeadlineFree]);
}

#[test]
fn wait_with_a_thread_that_gets_the_lock() {
    all_of(&[WaitDeadlineHandedOver, WaitLateGrant]);
}

#[test]
fn wait_with_a_thread_in_vain() {
    all_of(&[WaitDeadlineMissed, WaitCancelled]);
}

#[test]
fn check_and_release() {
    all_of(&[Check, CheckStale, Release, ReleaseStale]);
}

#[test]
fn holder() {
    all_of(&[HolderFree, HolderHeld, HolderNoFile]);
}

#[test]
fn no_scenario_is_forgotten() {
    assert_eq!(SCENARIOS.len(), 3 + 3 + 2 + 2 + 4 + 3);
}

fn all_of(scenarios: &[Scenario]) {
    for &scenario in scenarios {
        all_calls_fail(scenario);
    }
}

fn all_calls_fail(scenario: Scenario) {
    let dir = support::scratch();
    let mut runs = 0;
    let mut run = |plan| {
        runs += 1;
        // Two levels, both of them missing at first.
        trace::run(&dir.path().join(runs.to_string()).join("m"), scenario, plan)
    };
    let mut calls = trace::calls(|| {
        // On a loaded machine the late grant can be too late: the thread was stopped before its flock.
        for _ in 0..100 {
            let report = run(Plan::Watch);
            judge(scenario, Plan::Watch, &report);
            if report.end.as_ref().unwrap().value == undisturbed(scenario) {
                return report;
            }
            assert_eq!(scenario, WaitLateGrant, "{report:?}");
        }
        panic!("{scenario:?} never comes");
    });
    // The first errnos are the likeliest; and many of the calls are one loop that reads /proc/locks.
    let long = env::var_os("SESSION_LOCK_LONG").is_some();
    let (errnos_each, loops) = match scenario {
        _ if long => (usize::MAX, usize::MAX),
        // Where the short way to the holder fails, all processes are searched, a system call at a time.
        HolderHeld | HolderFree => (1, 2),
        _ => (4, 12),
    };
    calls.retain(|call| call.nth < loops);
    let mut injected: BTreeMap<String, usize> = BTreeMap::new();
    let (mut well, mut errors, mut ends) = (0, 0, 0);
    for &call in &calls {
        for &errno in trace::errnos(call.number).iter().take(errnos_each) {
            let plan = Plan::Fail(call, errno);
            let report = run(plan);
            if report.reached {
                *injected.entry(trace::name(call.number)).or_default() += 1;
                judge(scenario, plan, &report);
                match &report.end {
                    None => ends += 1,
                    Some(end) if end.value == 0 => well += 1,
                    Some(_) => errors += 1,
                }
            }
        }
    }
    let total: usize = injected.values().sum();
    println!(
        "{scenario:?}: {} system calls, {total} failures: {errors} errors, {well} successes, {ends} ends \
         of the program ({injected:?})",
        calls.len()
    );
    assert!(total > 0);
}

fn undisturbed(scenario: Scenario) -> i32 {
    match scenario {
        AcquireHeld => -libc::EWOULDBLOCK,
        WaitDeadlineMissed => -libc::ETIMEDOUT,
        WaitCancelled => -libc::ECANCELED,
        CheckStale | ReleaseStale => -libc::ESTALE,
        _ => 0,
    }
}

fn judge(scenario: Scenario, plan: Plan, report: &Report) {
    let what = match plan {
        Plan::Fail(call, errno) => format!(
            "{scenario:?}: thread {}'s {} number {} fails with {}",
            call.thread,
            trace::name(call.number),
            call.nth,
            std::io::Error::from_raw_os_error(errno)
        ),
        _ => format!("{scenario:?}, undisturbed"),
    };
    let (failed, number) = match plan {
        Plan::Fail(call, _) => (true, call.number),
        _ => (false, -1),
    };
    let what = format!("{what}: {report:?}");
    let begin = report.begin.as_ref().unwrap_or_else(|| panic!("{what}"));
    let Some(end) = &report.end else {
        let died_of =
            |signal| libc::WIFSIGNALED(report.status) && libc::WTERMSIG(report.status) == signal;
        // Rust ends a program that has no memory left. And pthread_cancel(3) does not ask whether the
        // handler of its signal was set; without one the signal ends the program, unless whoever
        // started it left the signal ignored.
        const SIGCANCEL: i32 = 32;
        let memory = [libc::SYS_mmap, libc::SYS_brk, libc::SYS_mremap].contains(&number);
        let expected = memory && died_of(libc::SIGABRT)
            || number == libc::SYS_rt_sigaction && died_of(SIGCANCEL);
        assert!(expected, "{what}");
        return;
    };
    assert!(libc::WIFEXITED(report.status) && libc::WEXITSTATUS(report.status) == 0, "{what}");

    // The call itself. If its thread cannot be cancelled, it stays behind until it gets the lock: only
    // then may there be one more. (The signal for that is sent with tgkill or tkill, its handler is set with
    // rt_sigaction, and the thread's start unblocks it.)
    let deaf = match plan {
        Plan::Fail(call, _) => {
            trace::SIGNALS_A_THREAD.contains(&number)
                || number == libc::SYS_rt_sigaction
                || (number == libc::SYS_rt_sigprocmask && call.thread > 0)
        }
        _ => false,
    };
    assert!(end.threads == begin.threads || deaf, "a thread is left: {what}");
    // Then its eventfd is left, too. And a descriptor whose mark cannot be read counts as somebody
    // else's, and stays open.
    let spared = usize::from(deaf || number == libc::SYS_lseek);
    let left = |sight: &Sight, expected: usize| {
        let more = sight.descriptors.checked_sub(expected);
        assert!(more.is_some_and(|more| more <= spared), "descriptors: {what}");
    };
    let ok = end.value == 0;
    assert!(ok || (-4095..0).contains(&end.value), "{what}");
    if scenario.takes() {
        assert_eq!(ok, !end.free, "held or free: {what}");
        left(end, begin.descriptors + usize::from(ok));
    } else if scenario.releases() {
        assert!(end.free, "still locked: {what}");
        left(end, begin.descriptors - 1);
    } else {
        left(end, begin.descriptors);
    }
    let for_the_label = [libc::SYS_pwrite64, libc::SYS_getrlimit, libc::SYS_read];
    // A late grant can be too late, as above.
    let gets_it = undisturbed(scenario) == 0 && scenario != WaitLateGrant;
    if gets_it && for_the_label.contains(&number) {
        assert!(ok, "without a label it is as good: {what}");
    }
    if scenario.is_stale() {
        assert!(!ok, "{what}");
    }
    if matches!(scenario, Check | CheckStale) && !scenario.is_stale() {
        assert!(!end.free, "check has changed the lock: {what}");
    }
    if scenario.asks() && ok {
        const FREE: i32 = 0;
        const UNKNOWN: i32 = 2;
        const CONFIRMED: i32 = 16;
        // Who is told that there is no file cannot know of a lock on it. (The directory is looked at
        // first.)
        let no_file = matches!(plan, Plan::Fail(call, libc::ENOENT)
            if call.number == libc::SYS_statx && call.nth == 1);
        let truth = CONFIRMED + i32::from(scenario == HolderHeld && !no_file);
        // Where the table cannot be read there is only the label, and the holder here wrote none:
        // that is free, but not confirmed.
        assert!(end.more == truth || (failed && [FREE, UNKNOWN].contains(&end.more)), "{what}");
    }
    if scenario == HolderHeld {
        assert!(end.ours, "asking has disturbed: {what}");
    }

    // What the handle is good for afterwards, and that the next call works.
    let released = report.released.as_ref().unwrap();
    let expected = match scenario {
        CheckStale => -libc::ESTALE,
        Check => 0,
        _ if scenario.takes() && ok => 0,
        _ => -libc::EBADF,
    };
    assert_eq!((released.value, released.more), (expected, -libc::EBADF), "{what}");
    assert!(released.free && released.threads == begin.threads, "after the release: {what}");
    let again = report.again.as_ref().unwrap();
    assert_eq!((again.value, again.more), (0, 0), "{what}");
    assert!(again.free && again.threads == begin.threads, "afterwards: {what}");
}
