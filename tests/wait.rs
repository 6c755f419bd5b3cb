//! Waiting: deadlines, cancellation, signals. What needs a process of its own to look at is in the C
//! programs of `c-tests/`.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use session_lock::{Error, SessionLock};
use support::{Actor, Stage};

const MINUTE: Duration = Duration::from_secs(60);
/// How late a loaded machine may be. What is meant is "not for ever": `benches/` measures.
const LATE: Duration = Duration::from_secs(2);

#[test]
fn role() {
    support::play(&[("holder", hold)]);
}

/// Holds the session "s" in the directory `args[0]` until it is killed.
fn hold(stage: &mut Stage) {
    let _lock = SessionLock::acquire(Some(Path::new(&stage.args[0])), "s").unwrap();
    stage.say("held");
    while stage.next().is_some() {}
}

fn start_holder(dir: &Path) -> Actor {
    let mut holder = Actor::start("holder", &[dir]);
    holder.hear("held");
    holder
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[track_caller]
fn until_waited_for(path: &Path) {
    support::until("somebody waits", || support::waiters(support::inode(path)) == 1);
}

// ------------------------------------------------------------------------------------- deadlines

#[test]
fn a_deadline_is_never_early() {
    let dir = support::scratch();
    let _holder = start_holder(dir.path());
    for (timeout, times) in [(0, 20), (1, 20), (20, 10), (100, 2), (500, 1)] {
        for _ in 0..times {
            let start = Instant::now();
            let result = SessionLock::wait(Some(dir.path()), "s", Some(ms(timeout)), None);
            let took = start.elapsed();
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
            assert!(took >= ms(timeout), "{timeout} ms took {took:?}");
            assert!(took < ms(timeout) + LATE, "{timeout} ms took {took:?}");
        }
    }
}

#[test]
fn a_free_lock_is_got_whatever_the_deadline() {
    let dir = support::scratch();
    for timeout in [Some(Duration::ZERO), Some(ms(1)), Some(Duration::MAX), None] {
        let lock = SessionLock::wait(Some(dir.path()), "s", timeout, None).unwrap();
        lock.check().unwrap();
        lock.release().unwrap();
    }
}

#[test]
fn after_a_grant_on_a_replaced_file_the_wait_goes_on_with_the_time_that_is_left() {
    // Each waiter is granted the lock of a file that is not at the path any more, and queues again.
    for gets_it in [true, false] {
        let timeout = if gets_it { MINUTE } else { ms(1000) };
        let dir = support::scratch();
        let mut holder = start_holder(dir.path());
        let path = dir.path().join("s.lock");
        let (waiter, begun) = {
            let dir = dir.path().to_owned();
            let begun = Instant::now();
            let wait = move || SessionLock::wait(Some(&dir), "s", Some(timeout), None);
            (thread::spawn(move || (wait(), Instant::now())), begun)
        };
        until_waited_for(&path);
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let file = File::create(&path).unwrap();
        // SAFETY: no memory is involved; the file is open.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
        if !gets_it {
            thread::sleep(ms(700).saturating_sub(begun.elapsed()));
        }
        let granted = Instant::now();
        holder.kill();
        if gets_it {
            until_waited_for(&path);
            drop(file);
            let lock = waiter.join().unwrap().0.unwrap();
            lock.check().unwrap();
            assert!(!support::is_free(&path));
        } else {
            let (result, ended) = waiter.join().unwrap();
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
            assert!(ended - begun >= timeout);
            // The whole timeout once more would be longer than this.
            assert!(ended - granted < timeout, "{:?} after the grant", ended - granted);
            assert!(!support::is_free(&path));
        }
    }
}

// ---------------------------------------------------------------------------------- cancellation

fn eventfd() -> OwnedFd {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The end to read from, and the one to write to. (std's own is younger than our oldest compiler.)
fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [-1; 2];
    // SAFETY: the call fills the two numbers.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the call has just given us these descriptors; nobody else owns them.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) }).into()
}

/// A descriptor to wait with, and what makes it end the wait.
type Cancel = (&'static str, OwnedFd, Box<dyn FnOnce() + Send>);

fn cancels() -> Vec<Cancel> {
    let event = eventfd();
    let mut event_end = File::from(event.try_clone().unwrap());
    let (read_end, write_end) = pipe();
    let mut write_end = File::from(write_end);
    let (socket, mut socket_end) = UnixStream::pair().unwrap();
    let (hung_up_pipe, hung_up_pipe_end) = pipe();
    let (hung_up_socket, hung_up_socket_end) = UnixStream::pair().unwrap();
    let (nobody_reads_it, nobody_reads) = pipe();
    vec![
        ("an eventfd", event, Box::new(move || event_end.write_all(&1u64.to_ne_bytes()).unwrap())),
        // What has been written stays readable when the other end is closed, too.
        ("a pipe", read_end, Box::new(move || write_end.write_all(b"x").unwrap())),
        ("a socket", socket.into(), Box::new(move || socket_end.write_all(b"x").unwrap())),
        ("a closed pipe", hung_up_pipe, Box::new(move || drop(hung_up_pipe_end))),
        ("a closed socket", hung_up_socket.into(), Box::new(move || drop(hung_up_socket_end))),
        ("a pipe nobody reads", nobody_reads, Box::new(move || drop(nobody_reads_it))),
    ]
}

fn is_ready(fd: &OwnedFd) -> bool {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `polled` is one pollfd that lives through the call.
    unsafe { libc::poll(&raw mut polled, 1, 0) == 1 }
}

#[test]
fn a_cancelled_caller_does_not_even_get_a_free_lock() {
    let dir = support::scratch();
    for (name, fd, cancel) in cancels() {
        let wait = |timeout| SessionLock::wait(Some(dir.path()), "s", timeout, Some(fd.as_fd()));
        wait(None).unwrap().release().unwrap();
        cancel();
        // A program that another test is just starting has a copy of the other end for a moment.
        support::until("the descriptor is ready", || is_ready(&fd));
        for timeout in [None, Some(Duration::ZERO), Some(MINUTE)] {
            let result = wait(timeout);
            assert!(matches!(result, Err(Error::Cancelled { .. })), "{name}: {result:?}");
        }
        assert!(support::is_free(&dir.path().join("s.lock")), "{name}");
    }
}

#[test]
fn a_descriptor_that_becomes_readable_or_is_hung_up_ends_the_wait() {
    let dir = support::scratch();
    let _holder = start_holder(dir.path());
    let path = dir.path().join("s.lock");
    for timeout in [None, Some(MINUTE)] {
        for (name, fd, cancel) in cancels() {
            thread::scope(|scope| {
                let waiter = scope
                    .spawn(|| SessionLock::wait(Some(dir.path()), "s", timeout, Some(fd.as_fd())));
                until_waited_for(&path);
                let start = Instant::now();
                cancel();
                let result = waiter.join().unwrap();
                assert!(matches!(result, Err(Error::Cancelled { .. })), "{name}: {result:?}");
                assert!(start.elapsed() < LATE, "{name}: {:?}", start.elapsed());
            });
            assert_eq!(support::waiters(support::inode(&path)), 0, "{name}");
        }
    }
}

#[test]
fn a_cancelled_wait_that_nobody_cancels_ends_at_its_deadline() {
    let dir = support::scratch();
    let _holder = start_holder(dir.path());
    for (name, fd, _cancel) in cancels() {
        let result = SessionLock::wait(Some(dir.path()), "s", Some(ms(5)), Some(fd.as_fd()));
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{name}: {result:?}");
    }
}

#[test]
fn a_bad_descriptor_is_an_invalid_argument_on_a_free_and_on_a_held_lock() {
    let dir = support::scratch();
    // SAFETY: far above any number in use here; the calls that are given it fail.
    let bad = unsafe { BorrowedFd::borrow_raw(1_000_000) };
    let wait = |timeout| SessionLock::wait(Some(dir.path()), "s", timeout, Some(bad));
    for timeout in [None, Some(Duration::ZERO), Some(MINUTE)] {
        assert!(matches!(wait(timeout), Err(Error::InvalidArgument(_))));
    }
    let _holder = start_holder(dir.path());
    for timeout in [None, Some(Duration::ZERO), Some(MINUTE)] {
        assert!(matches!(wait(timeout), Err(Error::InvalidArgument(_))));
    }
}

// --------------------------------------------------------------------------------------- signals

extern "C" fn nothing(_signal: libc::c_int) {}

#[test]
fn a_signal_handler_ends_the_wait() {
    let dir = support::scratch();
    let _holder = start_holder(dir.path());
    // SAFETY: a struct of integers and null pointers, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the action is initialised, and its handler does nothing.
    let result = unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0);
    for (timeout, call) in [(Some(MINUTE), libc::SYS_ppoll), (None, libc::SYS_flock)] {
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                // SAFETY: cannot fail, and no memory is involved.
                tell.send(unsafe { libc::gettid() }).unwrap();
                SessionLock::wait(Some(dir.path()), "s", timeout, None)
            });
            let waiting = told.recv().unwrap();
            let state = format!("/proc/self/task/{waiting}/syscall");
            support::until("it waits", || {
                fs::read_to_string(&state).unwrap().starts_with(&format!("{call} "))
            });
            let process = libc::pid_t::try_from(std::process::id()).unwrap();
            // SAFETY: no memory is involved; the thread is blocked in that call.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, waiting, libc::SIGUSR2) };
            assert_eq!(sent, 0);
            let result = waiter.join().unwrap();
            assert!(matches!(result, Err(Error::Interrupted { .. })), "{result:?}");
        });
    }
}
