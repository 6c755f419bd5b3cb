//! The only calls into libc, one small function each.
//!
//! Nothing here decides anything. Paths come as `&CStr`, descriptors as `BorrowedFd`, failures leave
//! as `io::Error`.

use std::cell::UnsafeCell;
use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// For the pthread functions, which return the error instead of setting `errno`.
fn check_code(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

// ---------------------------------------------------------------------------------------- files

/// What the lock needs to know of a file.
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub id: FileId,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Which file it is: two paths or descriptors with the same pair are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub dev: u64,
    pub ino: u64,
}

impl Stat {
    fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    pub fn is_file(&self) -> bool {
        self.is(libc::S_IFREG)
    }

    pub fn is_dir(&self) -> bool {
        self.is(libc::S_IFDIR)
    }

    pub fn is_symlink(&self) -> bool {
        self.is(libc::S_IFLNK)
    }
}

/// `open(2)`; close-on-exec, without following a link, blocking on a FIFO or taking a terminal.
pub(crate) fn open(path: &CStr, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags, mode) })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is filled in of [`Stat`]: not the times. Once somebody has asked for these, the kernel writes
/// new ones into the inode at the very next change (a label), where it would else do so once in a
/// clock tick; that is a transaction of the filesystem, and costs more than all else here together.
const WANTED: u32 = libc::STATX_TYPE
    | libc::STATX_MODE
    | libc::STATX_NLINK
    | libc::STATX_UID
    | libc::STATX_GID
    | libc::STATX_INO;

fn statx(fd: c_int, path: &CStr, flags: c_int, wanted: u32) -> io::Result<libc::statx> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: `path` is NUL-terminated; the buffer has the size of the struct that the call fills.
    check(unsafe { libc::statx(fd, path.as_ptr(), flags, wanted, stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled the struct.
    Ok(unsafe { stat.assume_init() })
}

fn stat_with(fd: c_int, path: &CStr, flags: c_int) -> io::Result<Stat> {
    let stat = statx(fd, path, flags, WANTED)?;
    Ok(Stat {
        id: FileId {
            dev: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
        },
        mode: stat.stx_mode.into(),
        links: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
    })
}

pub(crate) fn fstat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    stat_with(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

pub(crate) fn stat(path: &CStr) -> io::Result<Stat> {
    stat_with(libc::AT_FDCWD, path, 0)
}

/// Of the link itself, where `path` names one.
pub(crate) fn lstat(path: &CStr) -> io::Result<Stat> {
    stat_with(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
}

/// The type of the filesystem that `path` is on, as `statfs(2)` numbers them.
pub(crate) fn filesystem_type(path: &CStr) -> io::Result<u32> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is NUL-terminated; the buffer has the size of the struct that the call fills.
    check(unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled the struct.
    let stat = unsafe { stat.assume_init_ref() };
    #[allow(clippy::cast_possible_truncation, reason = "the type is a 32-bit number everywhere")]
    Ok(stat.f_type as u32)
}

/// The number of the mount that `path` is on, as in `/proc/self/mountinfo`.
pub(crate) fn mount_id(path: &CStr) -> io::Result<u64> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC;
    let stat = statx(libc::AT_FDCWD, path, flags, libc::STATX_MNT_ID)?;
    if stat.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(stat.stx_mnt_id)
}

/// Writes `bytes` at the start of the file.
pub(crate) fn write_at_start(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `bytes`.
    let written =
        unsafe { libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast::<c_void>(), bytes.len(), 0) };
    match usize::try_from(written) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// How large a file this process may write, in bytes. A write beyond it raises SIGXFSZ.
pub(crate) fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is the one that the call fills.
    if unsafe { own_limit(&raw mut limit) } == -1 {
        return 0;
    }
    limit.rlim_cur
}

/// glibc's getrlimit(3) asks for the limit of any process, which takes the kernel more than twice as
/// long as to tell our own.
///
/// # Safety
///
/// `limit` is valid for writes.
#[cfg(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn own_limit(limit: *mut libc::rlimit) -> i64 {
    // SAFETY: the struct is the one that the call fills, as the caller promises.
    unsafe { libc::syscall(libc::SYS_getrlimit, libc::RLIMIT_FSIZE, limit) }
}

/// # Safety
///
/// `limit` is valid for writes.
#[cfg(not(all(
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
unsafe fn own_limit(limit: *mut libc::rlimit) -> i64 {
    // SAFETY: the struct is the one that the call fills, as the caller promises.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, limit) }.into()
}

/// Sets the file offset, which belongs to the open file description; `ESPIPE` for what has none.
pub(crate) fn set_offset(fd: BorrowedFd<'_>, offset: i64) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let set = unsafe { libc::lseek(fd.as_raw_fd(), offset, libc::SEEK_SET) };
    if set == offset {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if set == -1 && error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        // A device like /dev/null takes any offset and keeps none, a disk none beyond its end.
        _ => Err(io::Error::from_raw_os_error(libc::ESPIPE)),
    }
}

/// The file offset of the description behind a number, which may be closed or somebody else's.
pub(crate) fn offset_of(number: RawFd) -> Option<i64> {
    // SAFETY: no memory is involved; asking changes nothing, whoever the number belongs to.
    let result = unsafe { libc::lseek(number, 0, libc::SEEK_CUR) };
    (result != -1).then_some(result)
}

/// A number that a table entry keeps open, as the other functions here want it.
pub(crate) fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the number is not -1 (it came from an `OwnedFd`). That it is still open nobody can
    // promise in a process that may call close_range(2); the calls then fail, and no memory is at
    // stake.
    unsafe { BorrowedFd::borrow_raw(number) }
}

// ---------------------------------------------------------------------------------------- flock

/// Takes the exclusive lock if it is free; `Ok(false)` if it is not.
pub(crate) fn try_flock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match flock(fd, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for the exclusive lock; `EINTR` if a signal handler ran.
pub(crate) fn flock_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    flock(fd, libc::LOCK_EX)
}

/// Gives the lock up, whoever else has a copy of the descriptor.
pub(crate) fn unlock(fd: BorrowedFd<'_>) -> io::Result<()> {
    flock(fd, libc::LOCK_UN)
}

fn flock(fd: BorrowedFd<'_>, operation: c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::flock(fd.as_raw_fd(), operation) }).map(drop)
}

// -------------------------------------------------------------------------------------- waiting

/// A new eventfd: readable after [`signal`].
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an eventfd readable.
pub(crate) fn signal(eventfd: RawFd) {
    let one = 1u64;
    // SAFETY: the eight bytes of `one` live through the call. It cannot fail on an open eventfd
    // whose counter is zero, and there would be nobody to tell.
    unsafe { libc::write(eventfd, (&raw const one).cast::<c_void>(), 8) };
}

/// What [`poll`] saw of each descriptor.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ready {
    pub event: bool,
    pub invalid: bool,
}

/// Waits until one of two descriptors is readable or hung up, at most for `timeout`; `EINTR` if a
/// signal handler ran (`ppoll` is never restarted, also with `SA_RESTART`). Where signals are held,
/// they come in here and nowhere else: one that came before ends the call at once.
pub(crate) fn poll(
    fds: [Option<BorrowedFd<'_>>; 2],
    timeout: Option<Duration>,
    held: Option<&SignalsHeld>,
) -> io::Result<[Ready; 2]> {
    // A negative number is skipped by the kernel.
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = timeout.map(timespec);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mask = held.map_or(ptr::null(), |held| ptr::from_ref(&held.before));
    // SAFETY: `polled` has two elements; `timeout` and `mask` are null or point at what lives here.
    check(unsafe { libc::ppoll(polled.as_mut_ptr(), 2, timeout, mask) })?;
    Ok(polled.map(|fd| Ready { event: fd.revents != 0, invalid: fd.revents & libc::POLLNVAL != 0 }))
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

// -------------------------------------------------------------------------------------- threads

/// The entry function of a thread that may be cancelled: the cancellation unwinds its frame.
pub(crate) type Entry = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

// Not in libc, or there only for an entry function that must not be unwound.
unsafe extern "C" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        entry: Entry,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_clockjoin_np(
        thread: libc::pthread_t,
        value: *mut *mut c_void,
        clock: libc::clockid_t,
        deadline: *const libc::timespec,
    ) -> c_int;
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// What the thread calls that may be unwound by its asynchronous cancellation. Declared as functions
/// that do not unwind, and they do not: the cancellation comes as a signal, between two instructions.
/// With `"C-unwind"` the compiler would add a way out of these calls, and under `panic = "abort"` that
/// way aborts the process.
pub(crate) mod unwinding {
    use std::ffi::c_int;

    pub(crate) const PTHREAD_CANCEL_DISABLE: c_int = 1;
    pub(crate) const PTHREAD_CANCEL_ASYNCHRONOUS: c_int = 1;

    unsafe extern "C" {
        pub(crate) fn flock(fd: c_int, operation: c_int) -> c_int;
        pub(crate) fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
        pub(crate) fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int;
    }
}
use unwinding::{PTHREAD_CANCEL_DISABLE, pthread_setcancelstate};

/// While it lives, every signal is blocked in the calling thread, but for the time of a [`poll`].
pub(crate) struct SignalsHeld {
    before: libc::sigset_t,
}

impl SignalsHeld {
    pub fn new() -> io::Result<SignalsHeld> {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: the call fills the set that it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was filled above; `before` has the size of the set that the call fills.
        let code =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        check_code(code)?;
        // SAFETY: the call succeeded, so it has filled in the set.
        Ok(SignalsHeld { before: unsafe { before.assume_init() } })
    }
}

impl Drop for SignalsHeld {
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
    /// that from the caller, who holds them.
    pub fn spawn(_held: &SignalsHeld, entry: Entry, argument: *mut c_void) -> io::Result<Thread> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises the object that it is given.
        check_code(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
        if let Some(size) = stack_size() {
            // SAFETY: the attributes were initialised above. A size that the system does not take
            // leaves its default.
            unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), size) };
        }
        let mut thread = MaybeUninit::uninit();
        // SAFETY: `attributes` is initialised; `entry` has the signature that is asked for, and
        // what it does with `argument` its own comments answer for.
        let code =
            unsafe { pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), entry, argument) };
        // SAFETY: the attributes were initialised above and are not used any more.
        unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
        check_code(code)?;
        // SAFETY: the call succeeded, so it has filled in the thread.
        Ok(Thread(unsafe { thread.assume_init() }))
    }

    /// Asks the thread to end: it does so where it has allowed that.
    pub fn cancel(&self) {
        // SAFETY: the thread has been neither joined nor detached, so its number is valid.
        unsafe { libc::pthread_cancel(self.0) };
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        // SAFETY: the thread has been neither joined nor detached, and `self` goes with the call.
        unsafe { libc::pthread_join(self.0, ptr::null_mut()) };
    }

    /// Waits for the thread's end, but not for ever: where it has not come within `patience`, the
    /// thread is detached (it will be gone when it ends) and the answer is false.
    pub fn join_within(self, patience: Duration) -> bool {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the struct is the one that the call fills.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        let deadline = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds) + patience;
        let deadline = timespec(deadline);
        // SAFETY: the thread has been neither joined nor detached; the deadline lives through the
        // call.
        let code = unsafe {
            pthread_clockjoin_np(
                self.0,
                ptr::null_mut(),
                libc::CLOCK_MONOTONIC,
                &raw const deadline,
            )
        };
        if code != 0 {
            // SAFETY: the join failed, so the thread is still neither joined nor detached.
            unsafe { libc::pthread_detach(self.0) };
        }
        code == 0
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

    /// The destructor will be called with `value` when this thread ends.
    pub fn set(&self, value: *mut c_void) {
        // SAFETY: the key was created before any thread that calls this.
        unsafe { libc::pthread_setspecific(self.key.load(Ordering::Acquire), value) };
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

// ------------------------------------------------------------------------------------ processes

/// `pthread_atfork(3)`.
pub(crate) fn at_fork(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the three functions live as long as the library, which is never unmapped (`build.rs`).
    check_code(unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) })
}

pub(crate) fn process_id() -> u32 {
    // SAFETY: cannot fail, and no memory is involved.
    let pid = unsafe { libc::getpid() };
    pid.unsigned_abs()
}

pub(crate) fn effective_uid() -> u32 {
    // SAFETY: cannot fail, and no memory is involved.
    unsafe { libc::geteuid() }
}

/// Whether the caller has the group, as its effective one or a supplementary one.
pub(crate) fn in_group(group: u32) -> bool {
    // SAFETY: cannot fail, and no memory is involved.
    if unsafe { libc::getegid() } == group {
        return true;
    }
    // SAFETY: with a size of zero the call only counts.
    let count = unsafe { libc::getgroups(0, ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the buffer has room for `count` groups.
    let count = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups.contains(&group)
}

/// Whether a process with this number exists, whoever it belongs to.
pub(crate) fn process_exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 is sent to nobody, and no memory is involved.
    let result = unsafe { libc::kill(pid, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// An environment variable; nothing in a set-user-ID program.
pub(crate) fn secure_variable(name: &CStr) -> Option<OsString> {
    // SAFETY: `name` is NUL-terminated.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, so a NUL-terminated string, which is copied at once. (That no other thread
    // changes the environment meanwhile is what getenv(3) demands of the host program.)
    let value = unsafe { CStr::from_ptr(value) };
    Some(OsString::from_vec(value.to_bytes().to_vec()))
}

pub(crate) fn host_name() -> Vec<u8> {
    let mut buffer = [0u8; 256];
    // SAFETY: the last byte is left out of the length, so the name stays NUL-terminated.
    unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    buffer.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}
