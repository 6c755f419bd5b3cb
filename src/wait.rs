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
//!   while it can be cancelled. What it shares with the caller is reference counted, and its own
//!   reference is dropped by the destructor of a thread-specific key, which runs however it ends.
//! * Where a blocked `flock` cannot be interrupted (some filesystems in user space, or the user has
//!   used up `RLIMIT_SIGPENDING`), the thread is left to itself after [`PATIENCE`]. The caller closes
//!   the descriptor; should the lock be granted later, it goes with the description's last reference,
//!   which is the thread's own call.

use std::ffi::c_void;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::registry::Descriptor;
use crate::sys;
use crate::sys::thread::nounwind::{self, PTHREAD_CANCEL_ASYNCHRONOUS, PTHREAD_CANCEL_DISABLE};
use crate::sys::thread::{BlockedSignals, Thread, ThreadExit};

/// How long a cancelled thread may take to end. Where it can be interrupted it takes less than a
/// millisecond; the caller must not be later than 10 ms where it cannot.
const PATIENCE: Duration = Duration::from_millis(8);

/// Between two tries where no thread can be started.
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
        return sys::flock_blocking(fd.fd()).map_err(flock_failed);
    }
    let signals =
        BlockedSignals::new().map_err(|error| WaitError::Failed("pthread_sigmask", error))?;
    match Blocked::start(fd, &signals) {
        Ok(blocked) => blocked.wait(fd, limits, &signals),
        // No thread (RLIMIT_NPROC) or no descriptor for it.
        Err(_) => lock_by_polling(fd, limits, &signals),
    }
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
            Some(_) => self.poll(None, Some(Duration::ZERO), None).map(drop),
            None => Ok(()),
        }
    }

    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for `done`, at most for `timeout`; whether it came. An error is a reason to give up.
    fn poll(
        &self,
        done: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
        signals: Option<&BlockedSignals>,
    ) -> Result<bool, WaitError> {
        match sys::ppoll([done, self.cancel], timeout, signals) {
            Ok([done, _]) if done.event => Ok(true),
            Ok([_, cancel]) if cancel.invalid => Err(WaitError::BadCancel),
            Ok([_, cancel]) if cancel.event => Err(WaitError::Cancelled),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(WaitError::Interrupted),
            Err(error) => Err(WaitError::Failed("ppoll", error)),
        }
    }
}

/// Growing sleeps: the last resort, still obeying deadline, cancellation and signals.
fn lock_by_polling(
    fd: &Descriptor,
    limits: &WaitLimits<'_>,
    signals: &BlockedSignals,
) -> Result<(), WaitError> {
    let (mut nap, longest) = NAPS;
    loop {
        let left = limits.left();
        let timeout = left.map_or(nap, |left| nap.min(left));
        let slept = limits.poll(None, Some(timeout), Some(signals));
        if try_lock(fd)? {
            return Ok(());
        }
        slept?;
        if left == Some(Duration::ZERO) {
            return Err(WaitError::TimedOut);
        }
        nap = (nap * 2).min(longest);
    }
}

// --------------------------------------------------------------------------------------- thread

/// What the caller and the thread both need; gone when both are done with it.
struct Shared {
    lock: RawFd,
    /// An eventfd: the thread has an answer.
    done: Descriptor,
    /// [`PENDING`], 0 for granted, or an errno.
    answer: AtomicI32,
}

const PENDING: i32 = -1;

/// Drops the thread's reference to [`Shared`], also when it is cancelled.
static EXIT: ThreadExit = ThreadExit::new();

extern "C" fn init_exit() {
    EXIT.create(drop_shared);
}

/// # Safety
///
/// `shared` came from `Arc::into_raw`, and this takes that reference.
unsafe extern "C" fn drop_shared(shared: *mut c_void) {
    // SAFETY: see above; the key's destructor runs once for the thread.
    drop(unsafe { Arc::from_raw(shared.cast_const().cast::<Shared>()) });
}

/// A thread that is blocked in `flock`, seen from its caller.
struct Blocked {
    thread: Thread,
    shared: Arc<Shared>,
    owner: u32,
}

impl Blocked {
    fn start(fd: &Descriptor, signals: &BlockedSignals) -> io::Result<Blocked> {
        EXIT.ready(init_exit)?;
        let done = Descriptor::open_other(sys::eventfd)?;
        let answer = AtomicI32::new(PENDING);
        let shared = Arc::new(Shared { lock: fd.number(), done, answer });
        let argument = Arc::into_raw(Arc::clone(&shared)).cast_mut().cast::<c_void>();
        // SAFETY: `block_in_flock` takes the reference that `argument` is, and has no destructor.
        match unsafe { Thread::spawn(signals, block_in_flock, argument) } {
            Ok(thread) => Ok(Blocked { thread, shared, owner: sys::getpid() }),
            Err(error) => {
                // SAFETY: from `Arc::into_raw` above, and no thread has taken it.
                unsafe { drop_shared(argument) };
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
            match limits.poll(Some(self.shared.done.fd()), left, Some(signals)) {
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
        if self.thread.join_within(PATIENCE) && try_lock(fd)? {
            return Ok(());
        }
        Err(stop)
    }
}

/// The thread. Whatever stands here must have no destructor, and allocate nothing.
extern "C-unwind" fn block_in_flock(argument: *mut c_void) -> *mut c_void {
    // SAFETY: `EXIT` was made ready before the thread was started; this thread's reference, which the
    // destructor drops, is in `argument`.
    unsafe { EXIT.set(argument) };
    // SAFETY: from `Arc::into_raw`; this thread's reference lives until the key's destructor runs,
    // after this function.
    let shared = unsafe { &*argument.cast_const().cast::<Shared>() };
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
    shared.answer.store(errno, Ordering::Release);
    sys::eventfd_write(shared.done.fd());
    ptr::null_mut()
}
