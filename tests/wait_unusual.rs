//! Waiting on unusual filesystems, and in unusual processes.
//!
//! What cannot be had on every machine (virtiofs, CIFS, a system call that a filter denies) is played by
//! functions of libc that this program defines itself: the library is linked to them. They call libc's own,
//! which a static program cannot.

#![cfg(not(target_feature = "crt-static"))]

mod support;

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use libc::{c_int, c_long, c_uint, c_void};
use session_lock::{Error, LockOptions, SessionLock};
use support::{Actor, Forked, Stage};

support::alone!(
    what_does_not_block_is_tried_again_and_again,
    a_refusal_may_be_called_eacces,
    a_file_that_is_never_the_one_at_its_path_is_an_error,
    a_host_that_is_cut_off_gets_no_lock,
    what_a_wait_needs_may_be_denied,
    without_libgcc_there_is_no_thread,
    an_open_that_a_lease_delays_is_tried_again,
    setgid_in_another_thread_ends_no_wait,
    who_waits_for_its_own_lock_is_told,
    who_waits_for_its_own_end_is_told;
    ("holder", hold), ("lease", lease), ("starved", starved)
);

const MINUTE: Duration = Duration::from_secs(60);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Holds the session "s" in the directory `args[0]` until it is told otherwise.
fn hold(stage: &mut Stage) {
    let lock = SessionLock::acquire(Some(Path::new(&stage.args[0])), "s").unwrap();
    stage.say("held");
    stage.hear("release");
    lock.release().unwrap();
    stage.say("released");
}

fn start_holder(dir: &Path) -> Actor {
    let mut holder = Actor::start("holder", &[dir]);
    holder.hear("held");
    holder
}

// ---------------------------------------------------------------------------- what libc says here

/// Which functions misbehave.
static ODDITY: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = 0;
/// `flock` is not supported where it could block.
const VIRTIOFS: u32 = 1;
/// A lock that is held is called `EACCES`.
const CIFS: u32 = 2;
/// `fstat` says another inode than `lstat`.
const OTHER_INODE: u32 = 3;
/// A file has no links.
const NO_LINKS: u32 = 4;
const NO_EVENTFD: u32 = 5;
const NO_SIGNALFD: u32 = 6;
/// libgcc_s.so.1 cannot be loaded.
const NO_UNWINDER: u32 = 7;
/// Once it is cancelled, a thread is not given the processor for a while.
const STARVED: u32 = 8;
/// The filesystem is another host's, and this one was cut off from it just now.
const CUT_OFF: u32 = 9;

fn is(oddity: u32) -> bool {
    ODDITY.load(Ordering::Relaxed) == oddity
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: takes nothing and cannot fail.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: errno's address is this thread's own.
    unsafe { *location = errno };
    -1
}

/// # Safety
///
/// As the system call of the same name.
unsafe fn raw(call: libc::c_long, arguments: [usize; 5]) -> c_int {
    let [a, b, c, d, e] = arguments;
    // SAFETY: as the caller promises.
    let result = unsafe { libc::syscall(call, a, b, c, d, e) };
    c_int::try_from(result).unwrap()
}

// The library's thread may be cancelled inside of it.
#[unsafe(no_mangle)]
extern "C-unwind" fn flock(fd: c_int, operation: c_int) -> c_int {
    if is(VIRTIOFS) && operation & libc::LOCK_NB == 0 {
        return fail(libc::EOPNOTSUPP);
    }
    // SAFETY: no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_flock, fd, operation) };
    if is(CIFS) && result == -1 {
        return fail(libc::EACCES);
    }
    result as c_int
}

type Syscall = unsafe extern "C-unwind" fn(c_long, ...) -> c_long;

/// libc's own `syscall`, looked up at the first call, which is not in a thread that may be cancelled.
fn real_syscall() -> Syscall {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    if REAL.load(Ordering::Relaxed).is_null() {
        // SAFETY: the name is NUL-terminated.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) };
        REAL.store(found, Ordering::Relaxed);
    }
    // SAFETY: libc's function, which has this signature.
    unsafe { mem::transmute::<*mut c_void, Syscall>(REAL.load(Ordering::Relaxed)) }
}

/// The library looks at files by this function.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // SAFETY: the caller's arguments, and where there are less than six, what the kernel does not look at.
    let result = unsafe { real_syscall()(number, a, b, c, d, e, f) };
    if number == libc::SYS_statx && result == 0 {
        let buffer = ptr::with_exposed_provenance_mut::<libc::statx>(e);
        if is(NO_LINKS) {
            // SAFETY: the call has filled it.
            unsafe { (*buffer).stx_nlink = 0 };
        }
        if is(CUT_OFF) {
            // SAFETY: as above.
            unsafe { (*buffer).stx_dev_major = 0 };
        }
        if is(OTHER_INODE) && c & libc::AT_EMPTY_PATH as usize != 0 {
            // SAFETY: as above.
            unsafe { (*buffer).stx_ino += 1 };
        }
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    if is(CUT_OFF) {
        return fail(libc::EIO);
    }
    // SAFETY: no memory is involved.
    unsafe { raw(libc::SYS_fdatasync, [fd as usize, 0, 0, 0, 0]) }
}

#[unsafe(no_mangle)]
extern "C" fn eventfd(count: c_uint, flags: c_int) -> c_int {
    if is(NO_EVENTFD) {
        return fail(libc::ENOSYS);
    }
    // SAFETY: takes two numbers.
    unsafe { raw(libc::SYS_eventfd2, [count as usize, flags as usize, 0, 0, 0]) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn signalfd(fd: c_int, set: *const libc::sigset_t, flags: c_int) -> c_int {
    if is(NO_SIGNALFD) {
        return fail(libc::EPERM);
    }
    // The kernel's sets have 64 signals.
    let arguments = [fd as usize, set.expose_provenance(), 8, flags as usize, 0];
    // SAFETY: the caller's arguments.
    unsafe { raw(libc::SYS_signalfd4, arguments) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn backtrace(frames: *mut *mut c_void, _size: c_int) -> c_int {
    if is(NO_UNWINDER) {
        return 0;
    }
    // SAFETY: there is room for one.
    unsafe { *frames = ptr::null_mut() };
    1
}

/// The processor of the busy loops.
static BUSY: AtomicU32 = AtomicU32::new(0);

fn only(processor: u32) -> libc::cpu_set_t {
    // SAFETY: a struct of integers, for which zeros are valid.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the call checks the number.
    unsafe { libc::CPU_SET(processor as usize, &mut set) };
    set
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_cancel(thread: libc::pthread_t) -> c_int {
    type Cancel = unsafe extern "C" fn(libc::pthread_t) -> c_int;
    if is(STARVED) {
        let processor = only(BUSY.load(Ordering::Relaxed));
        let size = size_of_val(&processor);
        // SAFETY: the set lives through the call.
        let moved = unsafe { libc::pthread_setaffinity_np(thread, size, &raw const processor) };
        // SAFETY: a struct of integers, for which zeros are valid.
        let priority: libc::sched_param = unsafe { mem::zeroed() };
        // SAFETY: the struct lives through the call.
        let demoted =
            unsafe { libc::pthread_setschedparam(thread, libc::SCHED_IDLE, &raw const priority) };
        assert_eq!((moved, demoted), (0, 0));
    }
    // SAFETY: the name is NUL-terminated.
    let real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_cancel".as_ptr()) };
    // SAFETY: libc's function, which has this signature.
    let real = unsafe { mem::transmute::<*mut c_void, Cancel>(real) };
    // SAFETY: as the caller promises.
    unsafe { real(thread) }
}

/// Lets a wait run into its deadline, one be handed the lock, and one be cancelled, each with the
/// oddity; the handed over lock is released, too.
fn wait_with(oddity: u32, timeouts: &[Option<Duration>]) {
    let dir = support::scratch();
    let path = dir.path().join("s.lock");
    let wait = |timeout| SessionLock::wait(Some(dir.path()), "s", timeout, None);
    for &timeout in timeouts {
        let mut holder = start_holder(dir.path());
        ODDITY.store(oddity, Ordering::Relaxed);
        let descriptors = support::open_descriptors();
        let start = Instant::now();
        let result = wait(Some(ms(20)));
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        assert!(start.elapsed() >= ms(20) && start.elapsed() < MINUTE / 10);
        let result = SessionLock::acquire(Some(dir.path()), "s");
        assert!(matches!(result, Err(Error::Held { .. })), "{result:?}");
        let (cancel, mut other_end) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let wait = || SessionLock::wait(Some(dir.path()), "s", None, Some(cancel.as_fd()));
            let waiter = scope.spawn(wait);
            // It may not have begun: then it is cancelled at its start.
            other_end.write_all(b"x").unwrap();
            let result = waiter.join().unwrap();
            assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
        });
        drop((cancel, other_end));
        assert_eq!(support::open_descriptors(), descriptors);
        let lock = thread::scope(|scope| {
            let waiter = scope.spawn(|| wait(timeout));
            holder.say("release");
            holder.hear("released");
            waiter.join().unwrap().unwrap()
        });
        lock.check().unwrap();
        assert!(ODDITY.swap(NONE, Ordering::Relaxed) == oddity && !support::is_free(&path));
        ODDITY.store(oddity, Ordering::Relaxed);
        lock.release().unwrap();
        ODDITY.store(NONE, Ordering::Relaxed);
        assert!(support::is_free(&path));
    }
}

fn what_does_not_block_is_tried_again_and_again(_: &mut Stage) {
    wait_with(VIRTIOFS, &[Some(MINUTE), None]);
}

fn a_refusal_may_be_called_eacces(_: &mut Stage) {
    wait_with(CIFS, &[Some(MINUTE), None]);
}

fn what_a_wait_needs_may_be_denied(_: &mut Stage) {
    wait_with(NO_EVENTFD, &[Some(MINUTE)]);
    wait_with(NO_SIGNALFD, &[Some(MINUTE)]);
}

/// A thread that was started could not be cancelled without an end of the whole process.
fn without_libgcc_there_is_no_thread(_: &mut Stage) {
    if !cfg!(target_env = "gnu") {
        return eprintln!("not run: only glibc needs libgcc to cancel a thread");
    }
    let dir = support::scratch();
    let _holder = start_holder(dir.path());
    ODDITY.store(NO_UNWINDER, Ordering::Relaxed);
    let before = support::thread_count();
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let waiter = scope.spawn(move || {
            // SAFETY: cannot fail, and no memory is involved.
            tell.send(unsafe { libc::gettid() }).unwrap();
            SessionLock::wait(Some(dir.path()), "s", Some(ms(300)), None)
        });
        let state = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
        let polls = format!("{} ", libc::SYS_ppoll);
        support::until("it polls", || std::fs::read_to_string(&state).unwrap().starts_with(&polls));
        assert_eq!(support::thread_count(), before + 1);
        let result = waiter.join().unwrap();
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
    });
    wait_with(NO_UNWINDER, &[Some(MINUTE)]);
}

/// What is written there does not arrive, so the lock may be another host's already.
fn a_host_that_is_cut_off_gets_no_lock(_: &mut Stage) {
    let dir = support::scratch();
    let path = dir.path().join("s.lock");
    SessionLock::acquire(Some(dir.path()), "s").unwrap().release().unwrap();
    let descriptors = support::open_descriptors();
    for timeout in [Duration::ZERO, ms(20)] {
        ODDITY.store(CUT_OFF, Ordering::Relaxed);
        let result = SessionLock::wait(Some(dir.path()), "s", Some(timeout), None);
        ODDITY.store(NONE, Ordering::Relaxed);
        assert!(
            matches!(&result, Err(Error::Os { call: "fdatasync", source, .. })
                if source.raw_os_error() == Some(libc::EIO)),
            "{result:?}"
        );
        assert!(support::is_free(&path) && support::open_descriptors() == descriptors);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("0\n"), "no label is left");
    }
}

fn a_file_that_is_never_the_one_at_its_path_is_an_error(_: &mut Stage) {
    for oddity in [OTHER_INODE, NO_LINKS] {
        let dir = support::scratch();
        let descriptors = support::open_descriptors();
        ODDITY.store(oddity, Ordering::Relaxed);
        let acquire = || SessionLock::acquire(Some(dir.path()), "s");
        let wait = || SessionLock::wait(Some(dir.path()), "s", None, None);
        for result in [acquire(), wait()] {
            assert!(matches!(result, Err(Error::Untrusted { .. })), "{result:?}");
        }
        ODDITY.store(NONE, Ordering::Relaxed);
        assert_eq!(support::open_descriptors(), descriptors);
        acquire().unwrap().release().unwrap();
    }
}

// ----------------------------------------------------------------------------------------- leases

/// Takes a lease on the file `args[0]`, and gives it up when it is told to.
fn lease(stage: &mut Stage) {
    // Else the kernel's request would end this process.
    // SAFETY: sets a disposition; no handler is involved.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let file = File::options().read(true).write(true).open(&stage.args[0]).unwrap();
    let set = |kind: c_int| {
        // SAFETY: no memory is involved; the file is open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    };
    set(libc::F_WRLCK);
    stage.say("leased");
    stage.hear("give it up");
    set(libc::F_UNLCK);
    stage.say("given up");
    while stage.next().is_some() {}
}

fn an_open_that_a_lease_delays_is_tried_again(_: &mut Stage) {
    let dir = support::scratch();
    let path = dir.path().join("s.lock");
    for timeout in [Some(MINUTE), None] {
        SessionLock::acquire(Some(dir.path()), "s").unwrap().release().unwrap();
        let mut leaser = Actor::start("lease", &[&path]);
        leaser.hear("leased");
        let acquire = || SessionLock::acquire(Some(dir.path()), "s");
        let wait = |timeout| SessionLock::wait(Some(dir.path()), "s", timeout, None);
        let result = acquire();
        assert!(matches!(result, Err(Error::Held { .. })), "{result:?}");
        for timeout in [Duration::ZERO, ms(20)] {
            let start = Instant::now();
            let result = wait(Some(timeout));
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
            assert!(start.elapsed() >= timeout && start.elapsed() < MINUTE / 10);
        }
        thread::scope(|scope| {
            let waiter = scope.spawn(|| wait(timeout));
            leaser.say("give it up");
            leaser.hear("given up");
            waiter.join().unwrap().unwrap().release().unwrap();
        });
        leaser.finish();
    }
}

// ---------------------------------------------------------------------------------------- signals

extern "C" fn nothing(_signal: c_int) {}

/// The C library makes each thread take part, by a signal of its own.
fn setgid_in_another_thread_ends_no_wait(_: &mut Stage) {
    if !cfg!(target_env = "gnu") {
        return eprintln!("not run: musl's setgid hangs if a thread is cancelled meanwhile");
    }
    // SAFETY: a struct of integers and null pointers, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
    // SAFETY: the action is initialised, and its handler does nothing.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()) }, 0);
    let dir = support::scratch();
    let _holder = start_holder(dir.path());
    let path = dir.path().join("s.lock");
    let inode = support::inode(&path);
    // SAFETY: cannot fail, and no memory is involved.
    let group = unsafe { libc::getgid() };
    for oddity in [NONE, NO_EVENTFD] {
        ODDITY.store(oddity, Ordering::Relaxed);
        let over = AtomicBool::new(false);
        let calls = AtomicU32::new(0);
        thread::scope(|scope| {
            let _over = support::StopAtEnd(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: no memory is involved; the group stays the same.
                    assert_eq!(unsafe { libc::setgid(group) }, 0);
                    calls.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(100));
                }
            });
            let wait = |timeout| SessionLock::wait(Some(dir.path()), "s", Some(timeout), None);
            for _ in 0..5 {
                let result = wait(ms(40));
                assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
            }
            // One of the program's own does end it.
            let (tell, told) = mpsc::channel();
            let waiter = scope.spawn(move || {
                // SAFETY: cannot fail, and no memory is involved.
                tell.send(unsafe { libc::gettid() }).unwrap();
                wait(MINUTE)
            });
            let tid = told.recv().unwrap();
            let state = format!("/proc/self/task/{tid}/syscall");
            let polls = format!("{} ", libc::SYS_ppoll);
            support::until("it waits", || {
                std::fs::read_to_string(&state).unwrap().starts_with(&polls)
            });
            // Nor is `setgid` held up by the wait.
            let before = calls.load(Ordering::Relaxed);
            support::until("setgid goes on", || calls.load(Ordering::Relaxed) > before + 10);
            let me = c_int::try_from(process::id()).unwrap();
            // SAFETY: no memory is involved; the thread has not been joined.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, me, tid, libc::SIGUSR2) };
            assert_eq!(sent, 0);
            let result = waiter.join().unwrap();
            assert!(matches!(result, Err(Error::Interrupted { .. })), "{result:?}");
        });
    }
    assert!(!support::flocks().iter().any(|lock| lock.blocked && lock.ino == inode));
}

// ---------------------------------------------------------------------------- waits without an end

fn who_waits_for_its_own_lock_is_told(_: &mut Stage) {
    let dir = support::scratch();
    let acquire = || SessionLock::acquire(Some(dir.path()), "s").unwrap();
    let wait = |timeout| SessionLock::wait(Some(dir.path()), "s", timeout, None);
    // A child has one thread, whatever the test harness has.
    support::fork(|| {
        let lock = acquire();
        let result = wait(None);
        assert!(matches!(result, Err(Error::Deadlock { .. })), "{result:?}");
        assert_eq!(result.unwrap_err().errno(), libc::EDEADLK);
        // What has an end is waited for.
        let result = wait(Some(ms(20)));
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        let (cancel, mut other_end) = UnixStream::pair().unwrap();
        let (me, inode) = (process::id(), support::inode(lock.path()));
        let helper = support::fork(|| {
            support::until_blocked(me, inode);
            other_end.write_all(b"x").unwrap();
        });
        let result = SessionLock::wait(Some(dir.path()), "s", None, Some(cancel.as_fd()));
        assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
        helper.ended_well();
        lock.check().unwrap();
        // Another session is nobody's.
        let other = SessionLock::wait(Some(dir.path()), "t", None, None).unwrap();
        drop((lock, other));
        // Another thread can release it.
        let lock = acquire();
        let releaser = thread::spawn(move || {
            support::until_blocked(process::id(), support::inode(lock.path()));
            lock.release().unwrap();
        });
        wait(None).unwrap().release().unwrap();
        releaser.join().unwrap();
    })
    .ended_well();
    // A child waits for its parent's lock.
    let lock = acquire();
    let child = support::fork(|| wait(None).unwrap().release().unwrap());
    support::until_blocked(child.pid.unsigned_abs(), support::inode(lock.path()));
    lock.release().unwrap();
    child.ended_well();
}

/// As a program that `session-lock run` has started would, for the session that it runs under.
fn who_waits_for_its_own_end_is_told(_: &mut Stage) {
    let dir = support::scratch();
    let (mut here, there) = UnixStream::pair().unwrap();
    let child: Forked = support::fork(|| {
        let mut byte = [0];
        io::Read::read_exact(&mut &there, &mut byte).unwrap();
        for timeout in [None, Some(MINUTE)] {
            let result = SessionLock::wait(Some(dir.path()), "s", timeout, None);
            assert!(matches!(result, Err(Error::Deadlock { .. })), "{result:?}");
        }
        let result = SessionLock::wait(Some(dir.path()), "s", Some(Duration::ZERO), None);
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        let result = SessionLock::acquire(Some(dir.path()), "s");
        assert!(matches!(result, Err(Error::Held { .. })), "{result:?}");
        // One that it has started itself may wait for it to end.
        let grandchild = support::fork(|| {
            let result = SessionLock::wait(Some(dir.path()), "s", Some(ms(20)), None);
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        });
        grandchild.ended_well();
    });
    let options = LockOptions::new().directory(dir.path()).until_exit_of(child.pid.unsigned_abs());
    let lock = options.acquire("s").unwrap().into_fd().unwrap();
    here.write_all(b"x").unwrap();
    child.ended_well();
    session_lock::release_fd(lock).unwrap();
}

// -------------------------------------------------------------------------------- busy processors

/// Threads that wait, each for a session of its own in the directory `args[0]`. Once they give up, what
/// waits for them is on one processor with busy loops, and comes last there. For each line one wait
/// of each, and then whether it is still in the queue.
fn starved(stage: &mut Stage) {
    let threads: usize = stage.args[1].parse().unwrap();
    let hogs: usize = stage.args[2].parse().unwrap();
    let dir = stage.args[0].clone();
    // SAFETY: takes nothing.
    let processor = unsafe { libc::sched_getcpu() }.unsigned_abs();
    BUSY.store(processor, Ordering::Relaxed);
    let me = process::id();
    for _ in 0..hogs {
        let _ = support::fork(|| {
            let set = only(processor);
            // SAFETY: the set lives through the call.
            unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
            // SAFETY: no memory is involved.
            unsafe { libc::nice(10) };
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // SAFETY: cannot fail, and no memory is involved.
            if unsafe { libc::getppid() }.unsigned_abs() == me {
                loop {
                    std::hint::spin_loop();
                }
            }
        });
    }
    ODDITY.store(STARVED, Ordering::Relaxed);
    let begin = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for n in 0..threads {
            let (begin, dir) = (&begin, Path::new(&dir));
            let inode = support::inode(&dir.join(format!("{n}.lock")));
            scope.spawn(move || {
                loop {
                    begin.wait();
                    let result = SessionLock::wait(Some(dir), n.to_string(), Some(ms(5)), None);
                    assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
                    let queued =
                        support::flocks().iter().any(|lock| lock.ino == inode && lock.blocked);
                    Stage { args: Vec::new() }.say(&format!("{n} {queued}"));
                }
            });
        }
        stage.say("ready");
        while stage.next().is_some() {
            begin.wait();
        }
        process::exit(0);
    });
}

#[test]
fn a_thread_that_is_starved_is_waited_for() {
    let (threads, hogs, rounds) = if support::long() { (50, 8, 2000) } else { (8, 2, 2) };
    let dir = support::scratch();
    let mut files = Vec::new();
    for n in 0..threads {
        SessionLock::acquire(Some(dir.path()), n.to_string()).unwrap().release().unwrap();
        files.push(File::open(dir.path().join(format!("{n}.lock"))).unwrap());
    }
    let lock = |file: &File, operation: c_int| {
        // SAFETY: no memory is involved; the file is open.
        unsafe { libc::syscall(libc::SYS_flock, file.as_raw_fd(), operation) == 0 }
    };
    let path = dir.path().to_str().unwrap().to_owned();
    let arguments = [path, threads.to_string(), hogs.to_string()];
    let mut waiters = Actor::start("starved", &arguments);
    waiters.hear("ready");
    let (mut timed_out, mut left, mut late) = (0, 0, 0);
    for _ in 0..rounds {
        for file in &files {
            assert!(lock(file, libc::LOCK_EX));
        }
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                waiters.say("wait");
                for _ in 0..threads {
                    tell.send(waiters.next().unwrap()).unwrap();
                }
                drop(tell);
            });
            // Nobody else wants what was waited for in vain: it is free, now and for as long as a thread
            // could take.
            let mut taken = vec![None; threads];
            let mut last = None;
            while last.is_none_or(|last: Instant| last.elapsed() < ms(20)) {
                match told.try_recv() {
                    Ok(line) => {
                        let (n, queued) = line.split_once(' ').unwrap();
                        let n: usize = n.parse().unwrap();
                        timed_out += 1;
                        left += u32::from(queued == "true");
                        taken[n] = Some(false);
                        lock(&files[n], libc::LOCK_UN);
                    }
                    Err(mpsc::TryRecvError::Disconnected) => last = last.or(Some(Instant::now())),
                    Err(mpsc::TryRecvError::Empty) => {}
                }
                for (file, taken) in files.iter().zip(&mut taken) {
                    if let Some(taken) = taken {
                        *taken |= !lock(file, libc::LOCK_EX | libc::LOCK_NB);
                        lock(file, libc::LOCK_UN);
                    }
                }
            }
            late += taken.iter().filter(|&&taken| taken == Some(true)).count();
        });
    }
    println!(
        "{timed_out} waits timed out: {left} were still in the queue, {late} got the lock later"
    );
    assert_eq!((left, late), (0, 0));
}
