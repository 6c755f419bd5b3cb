//! The lock belongs to the process that acquired it: not to its children, however they are made and
//! whatever they do.

mod support;

use std::fs;
use std::io::Read;
use std::mem;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use session_lock::{Error, SessionLock, State, holder, release_fd};
use support::{Actor, Stage};

support::alone!(
    nothing_a_child_does_changes_the_parents_lock,
    a_child_that_lives_on_is_no_hindrance,
    a_child_has_no_descriptor_of_a_lock,
    a_release_is_a_release_while_threads_start_programs,
    a_release_is_a_release_while_threads_fork,
    a_lock_that_is_handed_on_lives_in_every_copy;
    ("parent", parent),
);

unsafe extern "C" {
    /// Like `fork`, without the hooks of pthread_atfork(3).
    fn _Fork() -> libc::pid_t;
}

/// The ways to make a child.
const FORKS: [(&str, unsafe extern "C" fn() -> libc::pid_t); 2] =
    [("fork", libc::fork), ("_Fork", _Fork)];

type Meddling = (&'static str, fn(&Path, SessionLock));
/// What a child may try. It gets a copy of the parent's lock, as it would in a program.
const MEDDLINGS: [Meddling; 8] = [
    ("end", |_, lock| mem::forget(lock)),
    ("drop", |_, lock| drop(lock)),
    ("release", |_, lock| not_owner(lock.release())),
    ("into_fd", |_, lock| not_owner(lock.into_fd())),
    ("check twice, release", |_, lock| {
        not_owner(lock.check());
        not_owner(lock.check());
        not_owner(lock.release());
    }),
    ("acquire", |dir, _lock| {
        let result = SessionLock::acquire(Some(dir), "s");
        assert!(matches!(result, Err(Error::Held { .. })), "{result:?}");
        SessionLock::acquire(Some(dir), "another").unwrap().release().unwrap();
    }),
    ("start a program", |_, _lock| assert!(Command::new("true").status().unwrap().success())),
    ("fork again", |_, lock| {
        support::fork(|| not_owner(copy(&lock).release())).ended_well();
        not_owner(lock.check());
    }),
];

#[track_caller]
fn not_owner<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("a child was let do it");
    assert!(matches!(error, Error::NotOwner { .. }), "{error}");
    assert_eq!(error.errno(), libc::EPERM);
}

/// What a forked child has of its parent's lock.
fn copy(lock: &SessionLock) -> SessionLock {
    // SAFETY: only called in a child, which ends without using the original again.
    unsafe { ptr::read(lock) }
}

#[track_caller]
fn assert_is_ours(lock: &SessionLock, after: &str) {
    assert!(!support::is_free(lock.path()), "after {after}");
    let holder = holder(lock.path().parent(), "s").unwrap();
    assert_eq!((holder.state, holder.pid), (State::Held, Some(process::id())), "after {after}");
    assert!(!holder.orphaned, "after {after}");
    lock.check().unwrap();
}

fn nothing_a_child_does_changes_the_parents_lock(_: &mut Stage) {
    let dir = support::scratch();
    let dir = dir.path();
    for (name, fork) in FORKS {
        for (meddling, meddle) in MEDDLINGS {
            let lock = SessionLock::acquire(Some(dir), "s").unwrap();
            // SAFETY: as in `support::fork`; the process has one thread that does anything.
            support::fork_with(|| unsafe { fork() }, || meddle(dir, copy(&lock))).ended_well();
            assert_is_ours(&lock, &format!("{name}: {meddling}"));
            lock.release().unwrap();
            assert!(support::is_free(&session_lock::path(Some(dir), "s").unwrap()));
        }
    }
}

fn a_child_that_lives_on_is_no_hindrance(_: &mut Stage) {
    let dir = support::scratch();
    let dir = Some(dir.path());
    for (name, fork) in FORKS {
        let lock = SessionLock::acquire(dir, "s").unwrap();
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut ours = Some(ours);
        // SAFETY: as in `support::fork`; the process has one thread that does anything.
        let child = support::fork_with(
            || unsafe { fork() },
            || {
                drop(ours.take());
                // Until the parent lets go.
                assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
                not_owner(copy(&lock).release());
            },
        );
        lock.release().unwrap();
        let lock = SessionLock::acquire(dir, "s").expect("the child keeps a released lock");
        drop(ours);
        child.ended_well();
        assert_is_ours(&lock, name);
    }
}

/// Says the numbers of a child and a grandchild that live until they are killed.
fn parent(stage: &mut Stage) {
    let _lock = SessionLock::acquire(Some(Path::new(&stage.args[0])), "s").unwrap();
    let _child = support::fork(|| {
        let _grandchild = support::fork(|| live(stage));
        live(stage);
    });
    stage.next();
}

fn live(stage: &mut Stage) {
    stage.say(&process::id().to_string());
    loop {
        thread::park();
    }
}

#[test]
fn a_dead_parents_lock_is_free_although_its_children_live() {
    let dir = support::scratch();
    let mut parent = Actor::start("parent", &[dir.path()]);
    let mut children = Vec::new();
    for _ in 0..2 {
        children.push(Orphan(parent.next().unwrap().parse().unwrap()));
    }
    let held = SessionLock::acquire(Some(dir.path()), "s");
    assert!(matches!(held, Err(Error::Held { .. })), "{held:?}");
    parent.kill();
    SessionLock::acquire(Some(dir.path()), "s").unwrap().release().unwrap();
    for child in &children {
        assert!(child.kill(0), "the child did not live");
    }
}

/// A child of another process, which would live for ever.
struct Orphan(libc::pid_t);

impl Orphan {
    /// Whether the signal could be sent.
    fn kill(&self, signal: libc::c_int) -> bool {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(self.0, signal) == 0 }
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.kill(libc::SIGKILL);
    }
}

// ---------------------------------------------------------------------------------------- threads

/// Fails if this process has a descriptor of a lock file or of a wait.
fn assert_no_lock_descriptors() {
    for (number, target) in support::open_descriptors() {
        let ours = target.contains(".lock") || target.contains("eventfd");
        assert!(!ours, "descriptor {number} is {target}");
    }
}

fn a_child_has_no_descriptor_of_a_lock(_: &mut Stage) {
    let dir = support::scratch();
    let dir = Some(dir.path());
    assert_no_lock_descriptors();
    let held = SessionLock::acquire(dir, "s").unwrap();
    let ino = support::inode(held.path());
    let is_blocked = |lock: &&support::Flock| lock.blocked && lock.ino == ino;
    thread::scope(|scope| {
        // Waits in progress, with and without a helper thread.
        for timeout in [None, Some(Duration::from_secs(600))] {
            scope.spawn(move || SessionLock::wait(dir, "s", timeout, None).unwrap());
        }
        support::until("both wait", || support::flocks().iter().filter(is_blocked).count() == 2);
        assert!(support::open_descriptors().iter().any(|(_, target)| target.contains("eventfd")));
        support::fork(assert_no_lock_descriptors).ended_well();
        support::fork(|| support::fork(assert_no_lock_descriptors).ended_well()).ended_well();
        // They get their turn.
        held.release().unwrap();
    });

    // A descriptor is opened or closed in another thread just then.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = support::StopAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                SessionLock::acquire(dir, "s").unwrap().release().unwrap();
            }
        });
        for _ in 0..repetitions() {
            support::fork(assert_no_lock_descriptors).ended_well();
        }
    });
}

fn repetitions() -> usize {
    if support::long() { 20_000 } else { 300 }
}

/// Acquires, releases, and must get the lock again at once, while two threads do `meanwhile`.
fn assert_releases(meanwhile: impl Fn() + Sync) {
    let dir = support::scratch();
    let dir = Some(dir.path());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = support::StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    meanwhile();
                }
            });
        }
        let mut failed = 0;
        for number in 0..repetitions() * 3 {
            match SessionLock::acquire(dir, "s") {
                Ok(lock) if number % 2 == 0 => lock.release().unwrap(),
                Ok(lock) => drop(lock),
                Err(_) => failed += 1,
            }
        }
        assert_eq!(failed, 0, "a lock that was released was still held");
    });
}

fn a_release_is_a_release_while_threads_start_programs(_: &mut Stage) {
    // Such a child has copies of all descriptors until it executes the program.
    assert_releases(|| assert!(Command::new("true").status().unwrap().success()));
}

fn a_release_is_a_release_while_threads_fork(_: &mut Stage) {
    assert_releases(|| support::fork(|| ()).ended_well());
    // SAFETY: as in `support::fork`; the child does nothing.
    assert_releases(|| support::fork_with(|| unsafe { _Fork() }, || ()).ended_well());
}

// ------------------------------------------------------------------------------------- handing on

fn a_lock_that_is_handed_on_lives_in_every_copy(_: &mut Stage) {
    let dir = support::scratch();
    let dir = Some(dir.path());
    let path = session_lock::path(dir, "s").unwrap();
    let hand_out = || SessionLock::acquire(dir, "s").unwrap().into_fd().unwrap();

    // To a child, which releases it for all.
    let fd = hand_out();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let mut ours = Some(ours);
    let mut fd = Some(fd);
    let child = support::fork(|| {
        drop(ours.take());
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        release_fd(fd.take().unwrap()).unwrap();
    });
    let parents_copy = fd.take().unwrap();
    let second_copy = parents_copy.try_clone().unwrap();
    drop(parents_copy);
    assert!(!support::is_free(&path));
    drop(ours);
    child.ended_well();
    assert!(support::is_free(&path), "release_fd must free the lock of all copies");
    assert!(fs::read_to_string(&path).unwrap().starts_with("0\n"));
    drop(second_copy);

    // To a program: as long as that lives.
    // (What a test that fails leaves of it does not keep the test's own output open.)
    let mut program = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::from(hand_out()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let refused = SessionLock::acquire(dir, "s");
    assert!(matches!(refused, Err(Error::Held { .. })), "{refused:?}");
    program.kill().unwrap();
    program.wait().unwrap();
    SessionLock::acquire(dir, "s").unwrap().release().unwrap();

    // Close-on-exec is set: a program that is not given it does not keep it.
    let fd = hand_out();
    let mut program = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    drop(fd);
    // It goes on when the program is there, which is a moment before its copies are closed: begin_new_exec() in
    // the kernel wakes the parent of a vfork, and closes them then.
    SessionLock::wait(dir, "s", Some(Duration::from_secs(60)), None).unwrap().release().unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
}
