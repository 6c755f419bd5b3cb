//! What the library needs of the kernel and of the C library. `docs/platforms.md` says the same.

mod support;

use std::ffi::{c_int, c_long};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use session_lock::{Error, SessionLock, State, holder, list};
use support::installed::{Installed, run};
use support::{Actor, Stage, root};

#[test]
fn role() {
    support::play(&[("all", all), ("hold", hold)]);
}

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/platforms.md")).unwrap()
}

/// The first column of the table that begins with this heading.
fn first_column(heading: &str) -> Vec<String> {
    let text = document();
    let table = text.split(&format!("| {heading} |")).nth(1).expect("there is such a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let column = |row: &str| row.split('|').nth(1).unwrap().trim().trim_matches('`').to_owned();
    rows.map(column).collect()
}

// ------------------------------------------------------------------------ old kernels and filters

/// What an old kernel does not have, and a container's filter may deny.
const CALLS: [(&str, c_long); 8] = [
    ("statx", libc::SYS_statx),
    ("eventfd2", libc::SYS_eventfd2),
    ("clone3", libc::SYS_clone3),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("close_range", libc::SYS_close_range),
    ("signalfd4", libc::SYS_signalfd4),
    ("socketpair", libc::SYS_socketpair),
    ("linkat", libc::SYS_linkat),
];

#[test]
fn the_library_works_without_a_call_that_is_not_there_or_not_allowed() {
    let names = CALLS.map(|(name, _)| name);
    assert_eq!(first_column("system call"), names);
    for errno in [libc::ENOSYS, libc::EPERM] {
        let mut calls = CALLS.to_vec();
        if cfg!(target_pointer_width = "32") && errno == libc::EPERM {
            // glibc's fstatat takes nothing but ENOSYS for the lack of statx there.
            calls.retain(|(name, _)| *name != "statx");
        }
        for (name, number) in &calls {
            println!("{name}, errno {errno}");
            everything_with_denied(&[*number], errno);
        }
        // As on Linux 4.18, and then as by a filter of that time.
        let numbers: Vec<_> = calls.iter().map(|(_, number)| *number).collect();
        everything_with_denied(&numbers, errno);
    }
}

fn everything_with_denied(calls: &[c_long], errno: c_int) {
    let scratch = support::scratch();
    let dir = scratch.path().to_str().unwrap();
    // Others may write it, so a new file takes all ways.
    run(Command::new("chmod").args(["1777", dir]));
    let mut other = Actor::start("hold", &[dir]);
    let mut args = vec![dir.to_owned(), errno.to_string()];
    args.extend(calls.iter().map(ToString::to_string));
    let mut denied = Actor::start("all", &args);
    denied.hear("released");
    other.say("hold");
    other.hear("held");
    denied.say("wait");
    denied.hear("timed out");
    other.say("release");
    denied.finish();
    other.finish();
}

fn all(stage: &mut Stage) {
    let args = stage.args.clone();
    let dir = Some(Path::new(&args[0]));
    let errno = args[1].parse().unwrap();
    for call in &args[2..] {
        support::filter::deny(call.parse().unwrap(), errno);
    }
    let lock = SessionLock::acquire(dir, "s").unwrap();
    assert!(!support::is_free(lock.path()));
    lock.check().unwrap();
    let told = holder(dir, "s").unwrap();
    assert_eq!((told.state, told.pid), (State::Held, Some(std::process::id())));
    assert_eq!(list(dir).unwrap()[0].holder.pid, told.pid);
    assert!(matches!(SessionLock::acquire(dir, "s"), Err(Error::Held { .. })));
    lock.release().unwrap();
    assert_eq!(holder(dir, "s").unwrap().state, State::Free);

    stage.say("released");
    stage.hear("wait");
    let wait = |time| SessionLock::wait(dir, "s", Some(time), None);
    assert!(matches!(wait(Duration::from_millis(20)), Err(Error::TimedOut { .. })));
    stage.say("timed out");
    let lock = wait(Duration::from_secs(600)).unwrap();
    assert!(!support::is_free(lock.path()));
    lock.release().unwrap();
}

/// Holds the lock when it is told to, until it is told.
fn hold(stage: &mut Stage) {
    stage.hear("hold");
    let dir = stage.args[0].clone();
    let lock = SessionLock::acquire(Some(Path::new(&dir)), "s").unwrap();
    stage.say("held");
    stage.hear("release");
    lock.release().unwrap();
}

// ------------------------------------------------------------------------------- other processors

/// What the page says that is built is what the script builds; but for the tests' usual target, and the one of
/// which only the static program is made.
#[test]
fn each_target_is_in_the_documentation() {
    let script = fs::read_to_string(root().join(".ci/platforms")).unwrap();
    let targets = script.split("|| targets=(").nth(1).unwrap().split(')').next().unwrap();
    let targets: Vec<_> = targets.split_whitespace().filter(|name| !name.contains(':')).collect();
    let mut documented = first_column("target");
    assert_eq!(documented.remove(0), "x86_64-unknown-linux-gnu");
    assert_eq!(documented.pop().unwrap(), "aarch64-unknown-linux-musl");
    assert_eq!(documented, targets);
}

// -------------------------------------------------------------------------------- an older glibc

/// The oldest glibc that what is built on Debian 12 runs with.
const BUILT_HERE: [(&str, [u32; 2]); 2] =
    [("lib/libsession_lock.so", [2, 34]), ("bin/session-lock", [2, 35])];
/// The oldest that the sources are written for.
const OLDEST: [u32; 2] = [2, 28];

/// Older than the version that they have now: glibc 2.32 to 2.34 moved libpthread and libdl into libc, and
/// 2.33 made functions of stat and its like, which were inline before.
const MOVED: [&str; 22] = [
    "__libc_start_main",
    "__pthread_key_create",
    "dlsym",
    "fstat64",
    "fstatat64",
    "stat64",
    "lstat64",
    "pthread_attr_getguardsize",
    "pthread_attr_getstack",
    "pthread_attr_setstacksize",
    "pthread_cancel",
    "pthread_create",
    "pthread_detach",
    "pthread_getattr_np",
    "pthread_join",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_once",
    "pthread_setname_np",
    "pthread_setspecific",
    "pthread_sigmask",
    // Of the unwinder in libgcc_eh.a, which uses it where the glibc that it was built for has it.
    "_dl_find_object",
];

#[test]
fn no_symbol_is_newer_than_the_oldest_glibc() {
    let Some(installed) = Installed::new(&["objdump"]) else { return };
    for (file, oldest) in BUILT_HERE {
        let table = run(Command::new("objdump").arg("-T").arg(installed.prefix.join(file)));
        let mut seen = 0;
        for line in table.lines().filter(|line| line.contains("*UND*")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [.., version, name] = words[..] else { panic!("{line}") };
            let Some(version) = version.trim_matches(['(', ')']).strip_prefix("GLIBC_") else {
                continue;
            };
            // What is weak is used only where it is there.
            if words[1] == "w" {
                continue;
            }
            let version: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
            seen += 1;
            assert!(version[..] <= oldest[..], "{file}: {line}");
            assert!(version[..] <= OLDEST[..] || MOVED.contains(&name), "{file}: {line}");
        }
        assert!(seen > 20, "{table}");
    }
    for [major, minor] in BUILT_HERE.map(|(_, version)| version).into_iter().chain([OLDEST]) {
        assert!(document().contains(&format!("glibc {major}.{minor}")));
    }
}
