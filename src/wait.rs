//! A blocked `flock` with a deadline and a cancel descriptor.
//!
//! `flock(2)` has no timeout. Polling loses against everybody who waits in the kernel's queue, and a
//! signal that interrupts the call would belong to the host program. So a helper thread blocks in
//! `flock`, and the caller waits for three things at once: the thread's word that it has got the
//! lock, the cancel descriptor, the deadline. Nothing wakes up before one of them happens.
//!
//! What makes it sound:
//!
//! * The lock belongs to the open file description, not to the thread: what the thread gets, the
//!   caller has.
//! * When the caller gives up, it cancels the thread *asynchronously*, for `flock` is no
//!   cancellation point. The cancellation may race the grant, and then the lock is on the
//!   description and nobody was told. So, once the thread is gone, the caller tries once more on the
//!   same description: a grant is neither lost nor taken twice.
//! * The thread runs no signal handler of the host program: all signals are blocked in it, from
//!   before its first instruction. The caller has them blocked, too, but while it polls: one that
//!   comes any time after the first try ends the wait, and is not lost before it.
//! * Its frame has no destructor that the cancellation would have to run, and it allocates nothing
//!   while it can be cancelled. What it shares with the caller is reference counted. The destructor of
//!   a thread-specific key, which runs however the thread ends, drops its reference and tells the
//!   caller: from then on the thread is in no `flock` any more.
//! * A cancelled thread leaves the kernel's queue when it next runs. On a busy processor that can take
//!   a while, and a lock that becomes free meanwhile is the thread's: so the caller waits for it. Only
//!   a thread that is still asleep in `flock` after [`PATIENCE`] is left to itself. It has had its
//!   turn, or needs none: the filesystem does not interrupt a blocked `flock` (some in user space), or
//!   the signal could not be sent (`RLIMIT_SIGPENDING`). The caller closes the descriptor; should the
//!   lock be granted later, it goes with the description's last reference, which is the thread's own
//!   call.

use std::ffi::c_void;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::procfs;
use crate::registry::{Descriptor, SharedDescriptor};
use crate::sys;
use crate::sys::thread::nounwind::{self, PTHREAD_CANCEL_ASYNCHRONOUS, PTHREAD_CANCEL_DISABLE};
use crate::sys::thread::{self, BlockedSignals, Thread, ThreadExit};

/// When to look for the first time whether a cancelled thread is stuck. Where it can be interrupted and
/// gets the processor it ends in less than a millisecond; the caller must not be later than 10 ms where
/// it cannot.
const PATIENCE: Duration = Duration::from_millis(8);

/// When to look again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Between two tries where nothing tells that the next one is worthwhile.
const NAPS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));

/// When to give up.
#[derive(Clone, Copy, Default)]
pub(crate) struct WaitLimits<'a> {
    /// `None`: never.
    pub deadline: Option<Instant>,
    /// Give up when it becomes readable or is hung up.
    pub cancel: Option<BorrowedFd<'a>>,
}

impl<'a> WaitLimits<'a> {
    /// From now on.
    pub fn new(timeout: Option<Duration>, cancel: Option<BorrowedFd<'a>>) -> WaitLimits<'a> {
        // A deadline beyond the clock's range is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        WaitLimits { deadline, cancel }
    }
}

/// Why a wait ended without the lock.
#[derive(Debug)]
pub(crate) enum WaitError {
    TimedOut,
    Cancelled,
    Interrupted,
    /// The cancel descriptor is not open.
    BadCancel,
    Failed(&'static str, io::Error),
}

/// Waits for the exclusive lock on the description of `fd`, which was just found not to be free.
pub(crate) fn lock(fd: &Descriptor, limits: &WaitLimits<'_>) -> Result<(), WaitError> {
    if limits.is_endless() {
        match sys::flock_blocking(fd.fd()) {
            Err(error) if sys::cannot_block(&error) => {}
            result => return result.map_err(flock_failed),
        }
    }
    let signals = block_signals()?;
    match Blocked::start(fd, &signals).map(|blocked| blocked.wait(fd, limits, &signals)) {
        Ok(Err(WaitError::Failed(_, error))) if must_poll(&error) => {}
        Ok(result) => return result,
        // No thread (RLIMIT_NPROC), or none that could be cancelled, or no descriptor for it.
        Err(_) => {}
    }
    again_and_again(limits, &signals, || Ok(retry(fd)?.then_some(())))
}

fn block_signals() -> Result<BlockedSignals, WaitError> {
    BlockedSignals::new().map_err(|error| WaitError::Failed("pthread_sigmask", error))
}

/// Whether a thread in `flock` cannot help: the filesystem does not let it wait, or there is no memory for
/// it to tell that it ends.
fn must_poll(error: &io::Error) -> bool {
    sys::cannot_block(error) || error.raw_os_error() == Some(libc::ENOMEM)
}

fn flock_failed(error: io::Error) -> WaitError {
    match error.kind() {
        io::ErrorKind::Interrupted => WaitError::Interrupted,
        _ => WaitError::Failed("flock", error),
    }
}

/// Takes the lock if it is free.
pub(crate) fn try_lock(fd: &Descriptor) -> Result<bool, WaitError> {
    sys::flock_nonblocking(fd.fd()).map_err(flock_failed)
}

/// The same after a wait, in which the host program may have closed all descriptors, as daemons do: the
/// number may be another file's.
fn retry(fd: &Descriptor) -> Result<bool, WaitError> {
    if fd.is_ours() { try_lock(fd) } else { Err(closed("flock")) }
}

fn closed(call: &'static str) -> WaitError {
    WaitError::Failed(call, io::Error::from_raw_os_error(libc::EBADF))
}

impl WaitLimits<'_> {
    /// Whether the time was over before the wait began.
    pub fn is_one_try(&self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// Whether nothing but the lock can end the wait.
    pub fn is_endless(&self) -> bool {
        self.deadline.is_none() && self.cancel.is_none()
    }

    /// Whether the wait may begin: a cancelled caller gets no lock, and one whose descriptor is not
    /// open an answer. To be asked before the lock file is opened, which could take that number.
    pub fn check_cancel(&self) -> Result<(), WaitError> {
        match self.cancel {
            Some(_) => loop {
                match self.poll(None, Some(Duration::ZERO), None) {
                    // That was before the wait.
                    Err(WaitError::Interrupted) => {}
                    result => return result.map(drop),
                }
            },
            None => Ok(()),
        }
    }

    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for the end of `thread`, at most for `timeout`; whether it came. It may return sooner. An
    /// error is a reason to give up.
    fn poll(
        &self,
        thread: Option<&Blocked>,
        timeout: Option<Duration>,
        signals: Option<&BlockedSignals>,
    ) -> Result<bool, WaitError> {
        let done = thread.map(|thread| thread.shared.done.fd());
        let library_signals = thread.map(|thread| thread.library_signals.fd());
        match sys::ppoll([done, self.cancel, library_signals], timeout, signals) {
            // The host program has closed what is not its own: nothing would tell of the lock.
            Ok([done, _, library_signals]) if done.invalid || library_signals.invalid => {
                Err(closed("ppoll"))
            }
            Ok([done, ..]) if done.event => match thread.is_some_and(Blocked::has_ended) {
                true => Ok(true),
                // The number is another file's.
                false => Err(closed("ppoll")),
            },
            Ok([_, cancel, _]) if cancel.invalid => Err(WaitError::BadCancel),
            Ok([_, cancel, _]) if cancel.event => Err(WaitError::Cancelled),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(WaitError::Interrupted),
            Err(error) => Err(WaitError::Failed("ppoll", error)),
        }
    }
}

/// Tries with growing sleeps, until `attempt` has an answer: the last resort, still obeying deadline,
/// cancellation and signals.
fn again_and_again<T>(
    limits: &WaitLimits<'_>,
    signals: &BlockedSignals,
    mut attempt: impl FnMut() -> Result<Option<T>, WaitError>,
) -> Result<T, WaitError> {
    let (mut nap, longest) = NAPS;
    loop {
        let left = limits.left();
        let timeout = left.map_or(nap, |left| nap.min(left));
        let slept = limits.poll(None, Some(timeout), Some(signals));
        if let Some(answer) = attempt()? {
            return Ok(answer);
        }
        slept?;
        if left == Some(Duration::ZERO) {
            return Err(WaitError::TimedOut);
        }
        nap = (nap * 2).min(longest);
    }
}

/// Waits until `attempt` has an answer, where the kernel has no queue for it.
pub(crate) fn until<T>(
    limits: &WaitLimits<'_>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    again_and_again(limits, &block_signals()?, || Ok(attempt()))
}

// --------------------------------------------------------------------------------------- thread

/// What the caller and the thread both need; gone when both are done with it.
struct Shared {
    lock: RawFd,
    /// The thread is in no `flock` any more, and ends.
    ended: AtomicBool,
    /// An eventfd that tells of it.
    done: Descriptor,
    /// The thread's number; 0 until it has run.
    tid: AtomicU32,
    /// [`PENDING`], 0 for granted, or an errno.
    answer: AtomicI32,
}

const PENDING: i32 = -1;

/// Calls [`end`] in the thread, also when it is cancelled.
static EXIT: ThreadExit = ThreadExit::new();

extern "C" fn init_exit() {
    EXIT.create(end);
}

/// # Safety
///
/// As [`drop_share`].
unsafe extern "C" fn end(shared: *mut c_void) {
    // SAFETY: as the caller promises.
    unsafe { thread::call_aligned(drop_share, shared) };
}

/// # Safety
///
/// `shared` came from `Arc::into_raw`, and this takes that reference.
unsafe extern "C" fn drop_share(shared: *mut c_void) {
    // SAFETY: see above; the key's destructor runs once for the thread.
    let shared = unsafe { Arc::from_raw(shared.cast_const().cast::<Shared>()) };
    shared.ended.store(true, Ordering::Release);
    if shared.done.is_ours() {
        sys::eventfd_write(shared.done.fd());
    }
}

/// A thread that is blocked in `flock`, seen from its caller.
struct Blocked {
    thread: Thread,
    shared: Arc<Shared>,
    library_signals: Arc<Descriptor>,
    owner: u32,
}

/// A signalfd: the C library wants something of the thread that polls it. One for all waits, for it is
/// about whoever asks (`signalfd_poll()`).
static LIBRARY_SIGNALS: SharedDescriptor = SharedDescriptor::new();

impl Blocked {
    fn start(fd: &Descriptor, signals: &BlockedSignals) -> io::Result<Blocked> {
        if !thread::can_cancel() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        EXIT.ready(init_exit)?;
        let library_signals = LIBRARY_SIGNALS.get(sys::signalfd)?;
        let shared = Arc::new(Shared {
            lock: fd.number(),
            ended: AtomicBool::new(false),
            done: Descriptor::open_other(sys::eventfd)?,
            tid: AtomicU32::new(0),
            answer: AtomicI32::new(PENDING),
        });
        let argument = Arc::into_raw(Arc::clone(&shared));
        // SAFETY: `block_in_flock` takes the reference that the argument is, and has no destructor.
        match unsafe { Thread::spawn(signals, block_in_flock, argument.cast_mut().cast()) } {
            Ok(thread) => Ok(Blocked { thread, shared, library_signals, owner: sys::getpid() }),
            Err(error) => {
                // SAFETY: from `Arc::into_raw` above, and no thread has taken it.
                drop(unsafe { Arc::from_raw(argument) });
                Err(error)
            }
        }
    }

    fn wait(
        self,
        fd: &Descriptor,
        limits: &WaitLimits<'_>,
        signals: &BlockedSignals,
    ) -> Result<(), WaitError> {
        let stop = loop {
            let left = limits.left();
            match limits.poll(Some(&self), left, Some(signals)) {
                Ok(true) => {
                    // It has nothing left to do but to end, so this does not wait.
                    self.thread.join();
                    return match self.shared.answer.load(Ordering::Acquire) {
                        0 => Ok(()),
                        errno => Err(flock_failed(io::Error::from_raw_os_error(errno))),
                    };
                }
                Ok(false) if left == Some(Duration::ZERO) => break WaitError::TimedOut,
                Ok(false) => {}
                Err(stop) => break stop,
            }
        };
        if self.owner != sys::getpid() {
            // A signal handler has forked, and this is the child: neither thread nor lock is here.
            return Err(WaitError::Interrupted);
        }
        // SAFETY: the thread allows it only in `block_in_flock`, whose frame has no destructor, around
        // one system call.
        unsafe { self.thread.cancel() };
        let mut patience = PATIENCE;
        while !self.ends_within(patience) {
            // It may have ended while we looked.
            if self.is_stuck() && !self.ends_within(Duration::ZERO) {
                self.thread.detach();
                return Err(stop);
            }
            patience = LOOK_AGAIN;
        }
        self.thread.join();
        if retry(fd)? { Ok(()) } else { Err(stop) }
    }

    fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Waits for the thread's end, or for some other reason to look.
    fn ends_within(&self, patience: Duration) -> bool {
        let done = sys::ppoll([Some(self.shared.done.fd())], Some(patience), None);
        if done.map_or(true, |[done]| done.event) && !self.has_ended() {
            // The host program has closed it; or the call failed.
            std::thread::sleep(patience);
        }
        self.has_ended()
    }

    /// Whether the thread is asleep in `flock`. Once it has been cancelled, it is not, unless nothing
    /// wakes it: one that was asleep has been made runnable by then. Where this cannot be known, it
    /// is taken for stuck, for the deadline's sake.
    fn is_stuck(&self) -> bool {
        match self.shared.tid.load(Ordering::Relaxed) {
            0 => false,
            tid => procfs::is_asleep_in(tid, libc::SYS_flock).unwrap_or(true),
        }
    }
}

/// The thread. Whatever stands here must have no destructor, and allocate nothing.
extern "C-unwind" fn block_in_flock(argument: *mut c_void) -> *mut c_void {
    // SAFETY: from `Arc::into_raw`; this thread's reference lives until the key's destructor runs,
    // after this function.
    let shared = unsafe { &*argument.cast_const().cast::<Shared>() };
    // SAFETY: `EXIT` was made ready before the thread was started; this thread's reference, which the
    // destructor drops, is in `argument`.
    if !unsafe { EXIT.set(argument) } {
        // The write(2) to tell it is a cancellation point.
        // SAFETY: a null pointer is allowed.
        unsafe { nounwind::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, ptr::null_mut()) };
        shared.answer.store(libc::ENOMEM, Ordering::Release);
        // SAFETY: the destructor will not run, and `shared` is not used any more.
        unsafe { drop_share(argument) };
        return ptr::null_mut();
    }
    shared.tid.store(sys::gettid(), Ordering::Relaxed);
    // SAFETY: a null pointer is allowed. From here to the call's counterpart below, this thread
    // holds nothing that being cut off anywhere could leave half done.
    unsafe { nounwind::pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, ptr::null_mut()) };
    // The descriptor cannot have become another file's: the caller closes it only after it has
    // cancelled this thread, and then the line above does not return. For the same reason there is
    // only this one call: should it be interrupted (no handler runs here, but a filesystem may
    // think so), that is the caller's answer.
    // SAFETY: see above: the number is the caller's descriptor.
    let result = unsafe { nounwind::flock(shared.lock, libc::LOCK_EX) };
    // SAFETY: takes nothing and cannot fail.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: errno's address is this thread's own, and valid while it runs.
    let errno = if result == 0 { 0 } else { unsafe { *location } };
    // SAFETY: a null pointer is allowed.
    unsafe { nounwind::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, ptr::null_mut()) };
    // A cancellation that was sent before that line comes after it all the same: glibc's handler does not
    // look at the state again, and would cut off the key's destructor. (Not by setting the type back:
    // then, where the signal is never sent, the next `write` or `close` would wait for it.)
    thread::block_cancellation();
    shared.answer.store(errno, Ordering::Release);
    ptr::null_mut()
}
