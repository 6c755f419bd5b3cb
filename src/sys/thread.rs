//! Threads that can be cancelled, and what belongs to one: its signal mask, a slot with a destructor,
//! an initialisation that runs once. The standard library has none of these, or not across `fork`.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_ulong, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::check_code;

/// The entry function of a thread that may be cancelled: the cancellation unwinds its frame.
pub(crate) type Entry = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

// In libc only for an entry function that must not be unwound.
unsafe extern "C" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        entry: Entry,
        argument: *mut c_void,
    ) -> c_int;
}

/// What a thread calls that may be unwound by its asynchronous cancellation. Declared as functions
/// that do not unwind, and they do not: the cancellation comes as a signal, between two instructions.
/// With `"C-unwind"` the compiler would add a way out of these calls, and under `panic = "abort"` that
/// way aborts the process.
pub(crate) mod nounwind {
    use std::ffi::c_int;

    pub(crate) const PTHREAD_CANCEL_DISABLE: c_int = 1;
    pub(crate) const PTHREAD_CANCEL_ASYNCHRONOUS: c_int = 1;

    unsafe extern "C" {
        pub(crate) fn flock(fd: c_int, operation: c_int) -> c_int;
        pub(crate) fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
        pub(crate) fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int;
    }
}
use nounwind::{PTHREAD_CANCEL_DISABLE, pthread_setcancelstate};

/// Whether a thread can be cancelled. glibc unwinds a cancelled thread with libgcc_s.so.1, which it loads
/// at the first cancellation; where it cannot (there is none below this root, or no descriptor is left),
/// it aborts the process. `backtrace(3)` needs the same library, loads it in the same way, and returns 0
/// where it cannot. In a static program both have it in them.
#[cfg(target_env = "gnu")]
pub(crate) fn can_cancel() -> bool {
    use std::sync::atomic::AtomicBool;
    static LOADED: AtomicBool = AtomicBool::new(false);
    if !LOADED.load(Ordering::Relaxed) {
        let mut frame = ptr::null_mut();
        // SAFETY: there is room for the one address that is asked for.
        let frames = unsafe { libc::backtrace(&raw mut frame, 1) };
        LOADED.store(frames > 0, Ordering::Relaxed);
    }
    LOADED.load(Ordering::Relaxed)
}

/// musl runs the handlers of a cancelled thread, and unwinds nothing.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn can_cancel() -> bool {
    true
}

/// Calls a function from the destructor of a [`ThreadExit`], with the alignment of the stack that functions
/// may expect. musl before 1.2.4 calls the destructors of a cancelled thread with the alignment that there was
/// where the signal came; on x86-64, whose calls push, that can be another one.
///
/// # Safety
///
/// As the function.
pub(crate) unsafe fn call_aligned(
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) {
    #[cfg(all(target_env = "musl", target_arch = "x86_64"))]
    // SAFETY: the stack below is free; the function keeps r12, and may change what `clobber_abi` names.
    unsafe {
        std::arch::asm!(
            "mov r12, rsp",
            "and rsp, -16",
            "call {function}",
            "mov rsp, r12",
            function = in(reg) function,
            in("rdi") argument,
            out("r12") _,
            clobber_abi("C"),
        );
    }
    #[cfg(not(all(target_env = "musl", target_arch = "x86_64")))]
    // SAFETY: as the caller promises.
    unsafe {
        function(argument);
    }
}

/// Blocks the signal by which glibc cancels a thread (SIGCANCEL, 32) in the calling one, for the rest of
/// its life. By the system call, for pthread_sigmask(3) leaves that signal out. The thread may be
/// cancelled meanwhile: nothing here has a destructor.
pub(crate) fn block_cancellation() {
    const SIGNALS: usize = 64;
    static SET: [c_ulong; SIGNALS / c_ulong::BITS as usize] = {
        let mut set = [0; SIGNALS / c_ulong::BITS as usize];
        set[0] = 1 << (32 - 1);
        set
    };
    let (set, none) = (&raw const SET, ptr::null_mut::<c_ulong>());
    // An error would be a filter's or a tracer's. Nothing else keeps a cancellation out.
    for _ in 0..3 {
        // SAFETY: the set lives for ever, and has the size that is given; the old one is not asked for.
        let result = unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, set, none, size_of_val(&SET))
        };
        if result == 0 {
            return;
        }
    }
}

/// glibc lets every thread take part in a `setgid(2)` by a signal of its own (SIGSETXID, 33) and waits
/// until all have answered. A cancellation (SIGCANCEL, 32) that cut a thread off in the handler of that
/// signal would let the caller of `setgid` wait for ever: so the handler's mask gets SIGCANCEL, and the
/// cancellation comes after it. To be called when a thread was started, for by then the handler is there
/// (nptl/nptl_setxid.c). By the system call, for sigaction(3) refuses that signal.
#[cfg(target_env = "gnu")]
fn keep_cancellation_out_of_setxid() {
    /// The kernel's struct: handler, flags, and on most processors a restorer; then the mask.
    const MASK: usize = if cfg!(target_arch = "riscv64") { 2 } else { 3 };
    const MASK_WORDS: usize = 64 / c_ulong::BITS as usize;
    const SIGCANCEL: c_ulong = 1 << (32 - 1);
    extern "C" fn change_mask() {
        let change = |new: *const c_ulong, old: *mut c_ulong| {
            // SAFETY: null, or the kernel's struct with room for its mask of 8 bytes.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, 33, new, old, 8) }
        };
        let mut action = [0; MASK + MASK_WORDS];
        if change(ptr::null(), action.as_mut_ptr()) == 0 && action[0] != 0 {
            action[MASK] |= SIGCANCEL;
            change(action.as_ptr(), ptr::null_mut());
        }
    }
    static CHANGED: Once = Once::new();
    CHANGED.call(change_mask);
}

/// musl's handler of that kind waits by sem_wait(3), which is a cancellation point: a thread that is cancelled
/// meanwhile ends there, and `setgid` waits for ever (src/thread/synccall.c, up to 1.2.5). Nothing here can
/// change that.
#[cfg(not(target_env = "gnu"))]
fn keep_cancellation_out_of_setxid() {}

/// While it lives, every signal is blocked in the calling thread, but for the time of a
/// [`ppoll`](super::ppoll). Except those of the C library itself, by which it makes all threads do
/// something at once (`setgid(2)`): these never wait for long, and end nothing. `ppoll` leaves them
/// pending, and a [`signalfd`](super::signalfd) for them ends it.
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
    while_polling: libc::sigset_t,
}

/// Adds the C library's own signals to a set: those between the last standard one and SIGRTMIN
/// (nptl(7)), which it leaves out of every set itself.
fn add_library_signals(set: &mut libc::sigset_t) {
    const WORDS: usize = size_of::<libc::sigset_t>() / size_of::<c_ulong>();
    // SAFETY: a set is an array of words with a bit for each signal, which is the kernel's form of it.
    let words = unsafe { &mut *ptr::from_mut(set).cast::<[c_ulong; WORDS]>() };
    for signal in 32..libc::SIGRTMIN() {
        let bit = signal.unsigned_abs() - 1;
        words[(bit / c_ulong::BITS) as usize] |= 1 << (bit % c_ulong::BITS);
    }
}

fn no_signals() -> libc::sigset_t {
    let mut none = MaybeUninit::uninit();
    // SAFETY: the call fills the set that it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: filled above; the call cannot fail.
    unsafe { none.assume_init() }
}

/// The C library's own signals.
pub(super) fn library_signals() -> libc::sigset_t {
    let mut set = no_signals();
    add_library_signals(&mut set);
    set
}

impl BlockedSignals {
    pub fn new() -> io::Result<BlockedSignals> {
        let mut all = MaybeUninit::uninit();
        let mut before = no_signals();
        // SAFETY: the call fills the set that it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was filled above; `before` is the set that the call fills.
        let code =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), &raw mut before) };
        check_code(code)?;
        let mut while_polling = before;
        add_library_signals(&mut while_polling);
        Ok(BlockedSignals { before, while_polling })
    }

    /// The mask that was there before, and the C library's own signals.
    pub fn while_polling(&self) -> &libc::sigset_t {
        &self.while_polling
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let before = &raw const self.before;
        // SAFETY: `before` is a set that the system gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
    }
}

/// Enough for a thread that only blocks in `flock`, is unwound and runs one key's destructor.
const STACK_SIZE: usize = 64 * 1024;

/// [`STACK_SIZE`] and what glibc itself takes from each thread's stack, the thread-local storage of
/// the whole program among it. (The standard library asks the same function.) `None` if it cannot
/// be known: then the default size is the safe one.
fn stack_size() -> Option<usize> {
    type Minimum = unsafe extern "C" fn(*const libc::pthread_attr_t) -> usize;
    let name = c"__pthread_get_minstack";
    // SAFETY: `name` is NUL-terminated.
    let minimum = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: null or glibc's function, which has this signature.
    let minimum = unsafe { mem::transmute::<*mut c_void, Option<Minimum>>(minimum) }?;
    // SAFETY: the function does not look at its argument.
    Some(unsafe { minimum(ptr::null()) } + STACK_SIZE)
}

/// A thread that has neither been joined nor detached.
pub(crate) struct Thread(libc::pthread_t);

impl Thread {
    /// Starts a thread, in which every signal is blocked from its first instruction on: it inherits
    /// that from the caller.
    ///
    /// # Safety
    ///
    /// `entry` may be called with `argument`, in another thread, until it has ended. If the thread is
    /// ever [cancelled](Thread::cancel), no frame of it may have a destructor while it allows that.
    pub unsafe fn spawn(
        _blocked: &BlockedSignals,
        entry: Entry,
        argument: *mut c_void,
    ) -> io::Result<Thread> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises the object that it is given.
        check_code(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
        if let Some(size) = stack_size() {
            // SAFETY: the attributes were initialised above. A size that the system does not take
            // leaves its default.
            unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), size) };
        }
        let mut thread = MaybeUninit::uninit();
        // SAFETY: `attributes` is initialised; `entry` has the signature that is asked for, and may be
        // called with `argument`, as the caller promises.
        let code =
            unsafe { pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), entry, argument) };
        // SAFETY: the attributes were initialised above and are not used any more.
        unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
        check_code(code)?;
        keep_cancellation_out_of_setxid();
        // SAFETY: the call succeeded, so it has filled in the thread.
        Ok(Thread(unsafe { thread.assume_init() }))
    }

    /// Asks the thread to end: it does so where it has allowed that. Only where threads
    /// [can be cancelled](can_cancel).
    ///
    /// # Safety
    ///
    /// Where the thread allows it, it holds nothing that being cut off between any two instructions
    /// could leave half done: no lock, no allocation, no frame with a destructor.
    pub unsafe fn cancel(&self) {
        // SAFETY: the thread has been neither joined nor detached, so its number is valid; that it may
        // be cut off the caller promises.
        unsafe { libc::pthread_cancel(self.0) };
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        // SAFETY: the thread has been neither joined nor detached, and `self` goes with the call.
        unsafe { libc::pthread_join(self.0, ptr::null_mut()) };
    }

    /// Leaves the thread to itself: it will be gone when it ends.
    pub fn detach(self) {
        // SAFETY: the thread has been neither joined nor detached, and `self` goes with the call.
        unsafe { libc::pthread_detach(self.0) };
    }
}

/// While it lives, the calling thread is not cancelled: `pthread_cancel` from the host program
/// would unwind our frames in the middle of a system call.
pub(crate) struct NotCancellable(c_int);

impl NotCancellable {
    pub fn new() -> NotCancellable {
        let mut before = 0;
        // SAFETY: the call stores an int where `before` is.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut before) };
        NotCancellable(before)
    }
}

impl Drop for NotCancellable {
    fn drop(&mut self) {
        // SAFETY: the state is one that the system gave us; a null pointer is allowed.
        unsafe { pthread_setcancelstate(self.0, ptr::null_mut()) };
    }
}

/// A thread-local slot whose destructor runs however a thread ends, by its cancellation too.
pub(crate) struct ThreadExit {
    once: Once,
    key: AtomicU32,
}

impl ThreadExit {
    pub const fn new() -> ThreadExit {
        ThreadExit { once: Once::new(), key: AtomicU32::new(u32::MAX) }
    }

    /// Makes the slot ready, once; `init` is to call [`ThreadExit::create`].
    pub fn ready(&self, init: extern "C" fn()) -> io::Result<()> {
        self.once.call(init);
        match self.key.load(Ordering::Acquire) {
            u32::MAX => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            _ => Ok(()),
        }
    }

    pub fn create(&self, destructor: unsafe extern "C" fn(*mut c_void)) {
        let mut key = 0;
        // SAFETY: the call stores a key where `key` is.
        if unsafe { libc::pthread_key_create(&raw mut key, Some(destructor)) } == 0 {
            self.key.store(key, Ordering::Release);
        }
    }

    /// The destructor will be called with `value` when this thread ends. False if there is no memory for
    /// that.
    ///
    /// # Safety
    ///
    /// The slot is [ready](ThreadExit::ready), and its destructor may be called with `value` once.
    #[must_use]
    pub unsafe fn set(&self, value: *mut c_void) -> bool {
        // SAFETY: the key has been created, and the destructor may be called, as the caller promises.
        unsafe { libc::pthread_setspecific(self.key.load(Ordering::Acquire), value) == 0 }
    }
}

/// `pthread_once(3)`. Unlike the standard library's, glibc's knows when a fork has cut an
/// initialisation off in the middle, and runs it again in the child.
pub(crate) struct Once(UnsafeCell<libc::pthread_once_t>);

// SAFETY: the control variable is only touched by pthread_once, which synchronises.
unsafe impl Sync for Once {}

impl Once {
    pub const fn new() -> Once {
        Once(UnsafeCell::new(libc::PTHREAD_ONCE_INIT))
    }

    pub fn call(&self, init: extern "C" fn()) {
        // SAFETY: the control variable was initialised statically and never moves (it lives in a
        // static).
        unsafe { libc::pthread_once(self.0.get(), init) };
    }
}
