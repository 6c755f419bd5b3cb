//! The only calls into libc, one system call each and named like it.
//!
//! Nothing here decides anything. Paths come as `&CStr`, descriptors as `BorrowedFd`, failures leave
//! as `io::Error`. Only the functions that say so restart a call that a signal interrupted.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

pub(crate) mod thread;

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// For the pthread functions, which return the error instead of setting `errno`.
fn check_code(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

// ---------------------------------------------------------------------------------------- files

/// What the lock needs to know about a file.
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
pub struct FileId {
    /// The device, as `makedev(3)` composes it.
    pub dev: u64,
    /// The inode number.
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

    pub fn is_fifo(&self) -> bool {
        self.is(libc::S_IFIFO)
    }

    pub fn is_symlink(&self) -> bool {
        self.is(libc::S_IFLNK)
    }
}

/// With these every file is opened: close-on-exec, without following a link, blocking on a FIFO or
/// taking a terminal.
pub(crate) const OPEN_FLAGS: c_int =
    libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// `open(2)` with [`OPEN_FLAGS`].
pub(crate) fn open(path: &CStr, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | OPEN_FLAGS;
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
    let mut stat = MaybeUninit::<libc::statx>::uninit();
    let buffer = stat.as_mut_ptr();
    // Not by libc's function, which a library such as fakeroot's may stand in for.
    // SAFETY: `path` is NUL-terminated; the buffer has the size of the struct that the call fills.
    if unsafe { libc::syscall(libc::SYS_statx, fd, path.as_ptr(), flags, wanted, buffer) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled the struct.
    Ok(unsafe { stat.assume_init() })
}

fn stat_with(fd: c_int, path: &CStr, flags: c_int) -> io::Result<Stat> {
    let stat = match statx(fd, path, flags, WANTED) {
        // Before Linux 4.11; or a filter that does not know the call, as those of old container
        // runtimes (EPERM).
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            return fstatat(fd, path, flags & !libc::AT_STATX_DONT_SYNC);
        }
        result => result?,
    };
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

/// `fstatat(2)`, which has no way not to ask for the times.
fn fstatat(fd: c_int, path: &CStr, flags: c_int) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: `path` is NUL-terminated; the buffer has the size of the struct that the call fills.
    check(unsafe { libc::fstatat64(fd, path.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: the call succeeded, so it has filled the struct.
    let stat = unsafe { stat.assume_init_ref() };
    Ok(Stat {
        id: FileId { dev: stat.st_dev, ino: stat.st_ino },
        mode: stat.st_mode,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

pub(crate) fn fstat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    fstat_number(fd.as_raw_fd())
}

/// Of a number that may be closed (`EBADF`) or somebody else's.
pub(crate) fn fstat_number(number: RawFd) -> io::Result<Stat> {
    stat_with(number, c"", libc::AT_EMPTY_PATH)
}

/// The access mode and status flags of the description behind a number, which may be closed or
/// somebody else's.
pub(crate) fn fcntl_getfl(number: RawFd) -> Option<c_int> {
    // SAFETY: asking for the flags changes nothing, whoever the number belongs to.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    (flags != -1).then_some(flags)
}

// asm-generic/fcntl.h; libc has them for some targets only.
const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;

/// Which signal would tell of input, were that asked for (`O_ASYNC`).
pub(crate) fn fcntl_setsig(fd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; no memory is involved.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) }).map(drop)
}

/// What [`fcntl_setsig`] has set. The number need not be ours.
pub(crate) fn fcntl_getsig(number: RawFd) -> io::Result<c_int> {
    // SAFETY: asking for the signal changes nothing, whoever the number belongs to.
    check(unsafe { libc::fcntl(number, F_GETSIG) })
}

/// A copy of the descriptor behind a number, which may be closed or somebody else's; close-on-exec.
pub(crate) fn fcntl_dupfd_number(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: to copy a descriptor changes nothing, whoever the number belongs to.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A copy with a number that is not below `least`; close-on-exec.
pub(crate) fn fcntl_dupfd(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for as long as it is borrowed.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) });
    let copy = copy.map_err(|error| match error.raw_os_error() {
        // `least` is not below RLIMIT_NOFILE.
        Some(libc::EINVAL) => io::Error::from_raw_os_error(libc::EMFILE),
        _ => error,
    })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

pub(crate) fn stat(path: &CStr) -> io::Result<Stat> {
    stat_with(libc::AT_FDCWD, path, 0)
}

/// The same as far as this host knows: it does not ask the server of a shared filesystem.
pub(crate) fn stat_from_cache(path: &CStr) -> io::Result<Stat> {
    stat_with(libc::AT_FDCWD, path, libc::AT_STATX_DONT_SYNC)
}

/// Of the link itself, where `path` names one.
pub(crate) fn lstat(path: &CStr) -> io::Result<Stat> {
    stat_with(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
}

/// The type of the filesystem that `path` is on, as `statfs(2)` numbers them.
pub(crate) fn statfs_type(path: &CStr) -> io::Result<u32> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is NUL-terminated; the buffer has the size of the struct that the call fills.
    check(unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled the struct.
    let stat = unsafe { stat.assume_init_ref() };
    #[allow(clippy::cast_possible_truncation, reason = "the type is a 32-bit number everywhere")]
    Ok(stat.f_type as u32)
}

/// The same for an open file.
pub(crate) fn fstatfs_type(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open; the buffer has the size of the struct that the call fills.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled the struct.
    let stat = unsafe { stat.assume_init_ref() };
    #[allow(clippy::cast_possible_truncation, reason = "the type is a 32-bit number everywhere")]
    Ok(stat.f_type as u32)
}

/// Writes what is in the page cache, as `fdatasync(2)`.
pub(crate) fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) }).map(drop)
}

/// Drops what the page cache has of a file: it is read anew (`POSIX_FADV_DONTNEED`).
pub(crate) fn posix_fadvise_dontneed(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed.
    check_code(unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) })
}

/// The number of the mount that `path` is on, as in `/proc/self/mountinfo`; `ENOSYS` where the kernel
/// does not tell (before Linux 5.8).
pub(crate) fn statx_mount_id(path: &CStr) -> io::Result<u64> {
    mount_id(path, libc::STATX_MNT_ID)
}

/// A number of that mount that is never used again; `ENOSYS` before Linux 6.8.
pub(crate) fn statx_unique_mount_id(path: &CStr) -> io::Result<u64> {
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    mount_id(path, STATX_MNT_ID_UNIQUE)
}

fn mount_id(path: &CStr, wanted: u32) -> io::Result<u64> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC;
    let stat = statx(libc::AT_FDCWD, path, flags, wanted)?;
    if stat.stx_mask & wanted == 0 {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(stat.stx_mnt_id)
}

/// Gives an unnamed file (`O_TMPFILE`) its name, which must be a new one.
pub(crate) fn linkat(fd: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // As open(2) has it: by its descriptor alone only those with CAP_DAC_READ_SEARCH could.
    let unnamed = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
    let (cwd, from) = (libc::AT_FDCWD, unnamed.as_ptr().cast());
    // SAFETY: both paths are NUL-terminated and live through the call.
    check(unsafe { libc::linkat(cwd, from, cwd, path.as_ptr(), libc::AT_SYMLINK_FOLLOW) }).map(drop)
}

pub(crate) fn fchmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; no memory is involved.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// `owner` `None` leaves it as it is.
pub(crate) fn fchown(fd: BorrowedFd<'_>, owner: Option<u32>, group: u32) -> io::Result<()> {
    let owner = owner.unwrap_or(libc::uid_t::MAX);
    // SAFETY: the descriptor is open for as long as it is borrowed; no memory is involved.
    check(unsafe { libc::fchown(fd.as_raw_fd(), owner, group) }).map(drop)
}

/// An extended attribute of what `path` names, over links; `None` if there is none, or one of more
/// than 64 KiB, which no attribute can be (xattr(7)).
pub(crate) fn getxattr(path: &CStr, name: &CStr) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 * 1024];
    let start = value.as_mut_ptr().cast::<c_void>();
    // SAFETY: path and name are NUL-terminated; pointer and length are those of the buffer.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), start, value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

pub(crate) fn fsetxattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let start = value.as_ptr().cast::<c_void>();
    // SAFETY: the name is NUL-terminated; pointer and length are those of the value.
    let result = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), start, value.len(), 0) };
    check(result).map(drop)
}

/// Reads at `offset`; how many bytes. Of a regular file less than the buffer takes is all that there is.
pub(crate) fn pread(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: libc::off_t,
) -> io::Result<usize> {
    let start = buffer.as_mut_ptr().cast::<c_void>();
    // SAFETY: pointer and length are those of the buffer.
    let read = unsafe { libc::pread(fd.as_raw_fd(), start, buffer.len(), offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Writes all of `bytes` at `offset`; a part of them only counts as `ENOSPC`.
pub(crate) fn pwrite(fd: BorrowedFd<'_>, bytes: &[u8], offset: libc::off_t) -> io::Result<()> {
    let start = bytes.as_ptr().cast::<c_void>();
    // SAFETY: pointer and length are those of `bytes`.
    let written = unsafe { libc::pwrite(fd.as_raw_fd(), start, bytes.len(), offset) };
    match usize::try_from(written) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// How large a file this process may write, in bytes. A write beyond it raises SIGXFSZ.
pub(crate) fn getrlimit_fsize() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // glibc's function makes another call, prlimit64, which takes twice as long: it is for any process.
    // SAFETY: the struct is the one that the call fills; the kernel's is the same on this processor.
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    let result = unsafe { libc::syscall(libc::SYS_getrlimit, libc::RLIMIT_FSIZE, &raw mut limit) };
    // SAFETY: the struct is the one that the call fills.
    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
    let result = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    if result == -1 {
        return 0;
    }
    #[allow(clippy::useless_conversion, reason = "it has 32 bits on some platforms")]
    u64::from(limit.rlim_cur)
}

/// Sets the file offset, which belongs to the open file description; `ESPIPE` for what has none.
pub(crate) fn lseek_set(fd: BorrowedFd<'_>, offset: libc::off_t) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and only its offset changes.
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
pub(crate) fn lseek_cur(number: RawFd) -> Option<libc::off_t> {
    // SAFETY: asking for the offset changes nothing, whoever the number belongs to.
    let result = unsafe { libc::lseek(number, 0, libc::SEEK_CUR) };
    (result != -1).then_some(result)
}

// ---------------------------------------------------------------------------------------- flock

/// Takes the exclusive lock if it is free; `Ok(false)` if it is not.
pub(crate) fn flock_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match flock(fd, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a `flock` that failed says that the lock is held: `EACCES` is how CIFS says it.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EACCES)
}

/// Whether a blocked `flock` that failed says no more than that the filesystem does not block: it has
/// refused the lock, or (virtiofs) what was asked for.
pub(crate) fn cannot_block(error: &io::Error) -> bool {
    is_refusal(error) || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Waits for the exclusive lock; `EINTR` if a signal handler ran.
pub(crate) fn flock_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    flock(fd, libc::LOCK_EX)
}

/// Gives the lock up, whoever else has a copy of the descriptor. (This never blocks, but virtiofs wants to
/// be told so.)
pub(crate) fn flock_unlock(fd: BorrowedFd<'_>) -> io::Result<()> {
    flock(fd, libc::LOCK_UN | libc::LOCK_NB)
}

fn flock(fd: BorrowedFd<'_>, operation: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed. The lock is on its description,
    // which is the caller's to lock.
    check(unsafe { libc::flock(fd.as_raw_fd(), operation) }).map(drop)
}

// -------------------------------------------------------------------------------------- waiting

/// A new eventfd: readable after [`eventfd_write`].
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers; the descriptor that it makes is nobody else's.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an eventfd readable.
pub(crate) fn eventfd_write(eventfd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: the eight bytes of `one` live through the call. It cannot fail on an open eventfd
    // whose counter is zero, and there would be nobody to tell.
    unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast::<c_void>(), 8) };
}

/// A new signalfd, readable while one of the C library's own signals is pending for the thread that
/// asks. Nothing is read from it.
pub(crate) fn signalfd() -> io::Result<OwnedFd> {
    let signals = thread::library_signals();
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set lives through the call; the descriptor that it makes is nobody else's.
    let fd = check(unsafe { libc::signalfd(-1, &raw const signals, flags) })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What [`ppoll`] saw of each descriptor.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ready {
    pub event: bool,
    pub invalid: bool,
}

/// Waits until one of some descriptors is readable or hung up, at most for `timeout`; `EINTR` if a
/// signal handler ran (`ppoll` is never restarted, also with `SA_RESTART`: signal(7)). Signals that
/// are blocked come in here and nowhere else: one that came before ends the call at once.
pub(crate) fn ppoll<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
    blocked: Option<&thread::BlockedSignals>,
) -> io::Result<[Ready; N]> {
    // A negative number is skipped by the kernel.
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = timeout.map(timespec);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mask = blocked.map_or(ptr::null(), |blocked| ptr::from_ref(blocked.while_polling()));
    let count = N as libc::nfds_t;
    // SAFETY: `polled` has `count` elements; `timeout` and `mask` are null or point at what lives here.
    check(unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, mask) })?;
    Ok(polled.map(|fd| Ready { event: fd.revents != 0, invalid: fd.revents & libc::POLLNVAL != 0 }))
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).into(),
        tv_nsec: duration.subsec_nanos() as libc::c_long,
    }
}

// ------------------------------------------------------------------------------------ processes

/// `pthread_atfork(3)`.
///
/// # Safety
///
/// The functions must leave the process fit to go on: in the child only what is async-signal-safe may
/// be called, and what `prepare` locks must be unlocked on both sides.
pub(crate) unsafe fn pthread_atfork(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the three functions live as long as the library, which is never unmapped (`build.rs`);
    // what they do the caller answers for.
    check_code(unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) })
}

pub(crate) fn getpid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    let pid = unsafe { libc::getpid() };
    pid.unsigned_abs()
}

/// The number of the calling thread. (As a system call: glibc before 2.30 has no function for it.)
pub(crate) fn gettid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    u32::try_from(tid).unwrap_or(0)
}

/// As the kernel knows it, not a library that stands in for libc's function (fakeroot's).
pub(crate) fn geteuid() -> u32 {
    #[cfg(any(target_arch = "x86", target_arch = "arm"))]
    const GETEUID: libc::c_long = libc::SYS_geteuid32;
    #[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
    const GETEUID: libc::c_long = libc::SYS_geteuid;
    // SAFETY: takes nothing and cannot fail.
    let uid = unsafe { libc::syscall(GETEUID) };
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "it has 32 bits")]
    {
        uid as u32
    }
}

/// Whether a process with this number exists, whoever it belongs to.
pub(crate) fn process_exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 is sent to nobody (kill(2)).
    let result = unsafe { libc::kill(pid, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether this program runs with more rights than its caller: set-user-ID, set-group-ID or file
/// capabilities (`AT_SECURE`, getauxval(3)).
pub(crate) fn is_secure() -> bool {
    // SAFETY: takes a number; for one that is not there the answer is 0.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

pub(crate) fn gethostname() -> Vec<u8> {
    let mut buffer = [0u8; 256];
    // SAFETY: the last byte is left out of the length, so the name stays NUL-terminated.
    unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    buffer.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}
