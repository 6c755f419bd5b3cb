//! The lock: acquire, wait, check, release.

#![forbid(unsafe_code)]

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::label::{self, Label, Leaving, Wish};
use crate::lock_file::{self, LockFile, Opened};
use crate::procfs::{self, ProcId};
use crate::registry::{self, Descriptor, LockRecord};
use crate::sys::{self, Stat};
use crate::wait::{self, WaitError, WaitLimits};

/// The lock of a session, held by this process until it is released or dropped.
///
/// It is an exclusive `flock(2)` on `<dir>/<session>.lock`. The kernel releases it when the process
/// dies, however that happens. It belongs to the process, not to its children: a child made by
/// `fork` holds nothing (there every method returns [`Error::NotOwner`], and dropping does nothing),
/// and a program that is started does not inherit it.
///
/// All methods may be called from any thread, but not from a signal handler.
///
/// A lock that is not bound to a variable is released at once, so this warns:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use session_lock::SessionLock;
/// # fn f() -> Result<(), session_lock::Error> {
/// SessionLock::acquire(None, "nightly-build")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the lock is released when the value is dropped: bind it to a variable"]
pub struct SessionLock {
    handle: u64,
    record: Arc<LockRecord>,
}

/// How to acquire a lock: where, for how long, and what its label says.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use session_lock::LockOptions;
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// let lock = LockOptions::new()
///     .directory(dir)
///     .timeout(Duration::from_secs(30))
///     .command("make -j2")
///     .acquire("build")?;
/// assert_eq!(session_lock::holder(Some(dir), "build")?.command, "make -j2");
/// # drop(lock);
/// # Ok::<(), session_lock::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LockOptions<'a> {
    directory: Option<PathBuf>,
    wait: Wait,
    cancel: Option<BorrowedFd<'a>>,
    command: Option<OsString>,
    until_exit_of: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Wait {
    #[default]
    No,
    AtMost(Duration),
    Forever,
}

impl<'a> LockOptions<'a> {
    /// One try, in the default directory, with this process's own command line in the label.
    #[must_use]
    pub fn new() -> LockOptions<'a> {
        LockOptions::default()
    }

    /// The directory of the lock files. The default is `$SESSION_LOCK_DIR`, or else
    /// `/tmp/session-lock-<uid>`: see [`path`](crate::path). A missing directory is created with mode
    /// 0700. The file is created with mode 0600; anyone else who may write to the directory may also read
    /// and write the file, whatever the umask.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> LockOptions<'a> {
        self.directory = Some(directory.into());
        self
    }

    /// Waits for the lock, at most for this long; zero tries once.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> LockOptions<'a> {
        self.wait = Wait::AtMost(timeout);
        self
    }

    /// Waits for the lock as long as it takes.
    #[must_use]
    pub fn wait(mut self) -> LockOptions<'a> {
        self.wait = Wait::Forever;
        self
    }

    /// The wait also ends when this descriptor becomes readable or is hung up (an eventfd, a pipe, a
    /// socket: anything that `poll(2)` takes). If it already is, the lock is not taken even if it is
    /// free.
    #[must_use]
    pub fn cancel(mut self, cancel: BorrowedFd<'a>) -> LockOptions<'a> {
        self.cancel = Some(cancel);
        self
    }

    /// The command in the lock's label, instead of this process's own command line: for a program
    /// that is about to execute another one.
    #[must_use]
    pub fn command(mut self, command: impl Into<OsString>) -> LockOptions<'a> {
        self.command = Some(command.into());
        self
    }

    /// The lock is to be held for the process `pid` until that ends, by a *guardian*: another process
    /// that gets the descriptor (see [`SessionLock::into_fd`] and [`set_guardian`]). The label names
    /// that process as the holder, and once it has ended the session does not count as held.
    #[must_use]
    pub fn until_exit_of(mut self, pid: u32) -> LockOptions<'a> {
        self.until_exit_of = Some(pid);
        self
    }

    /// Takes the lock.
    ///
    /// `session` is any name of at least one byte without a NUL byte.
    ///
    /// # Errors
    ///
    /// Without a wait [`Error::Held`] if another holder has the lock, in this process or another one.
    /// With one: [`Error::TimedOut`], [`Error::Cancelled`], [`Error::Deadlock`]; [`Error::Interrupted`] if a signal handler
    /// ran in this thread (without timeout and `cancel`: one that was installed without
    /// `SA_RESTART`).
    ///
    /// [`Error::Untrusted`] or [`Error::Symlink`] if the directory or the file is not safe to trust, or
    /// the user's other processes would use a different directory (see
    /// [`path`](crate::path)); [`Error::InvalidArgument`], [`Error::NameTooLong`]; [`Error::Os`] for a system
    /// call that failed. Nothing is left open, locked or written.
    pub fn acquire(&self, session: impl AsRef<OsStr>) -> Result<SessionLock, Error> {
        let wish = Wish {
            command: self.command.as_deref().map(OsStr::as_bytes),
            until_exit_of: self.until_exit_of,
        };
        let limits = match self.wait {
            Wait::No => None,
            Wait::AtMost(timeout) => Some(WaitLimits::new(Some(timeout), self.cancel)),
            Wait::Forever => Some(WaitLimits::new(None, self.cancel)),
        };
        acquire_with(self.directory.as_deref(), session.as_ref(), &wish, limits)
    }
}

impl SessionLock {
    /// Takes the lock if it is free.
    ///
    /// `dir` `None` means `$SESSION_LOCK_DIR`, or else `/tmp/session-lock-<uid>`: see
    /// [`LockOptions::directory`].
    ///
    /// # Errors
    ///
    /// As [`LockOptions::acquire`] without a wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use session_lock::{Error, SessionLock};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = Some(dir.path());
    /// let lock = SessionLock::acquire(dir, "nightly-build")?;
    /// assert!(matches!(SessionLock::acquire(dir, "nightly-build"), Err(Error::Held { .. })));
    /// lock.release()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn acquire(dir: Option<&Path>, session: impl AsRef<OsStr>) -> Result<SessionLock, Error> {
        acquire_with(dir, session.as_ref(), &Wish::default(), None)
    }

    /// Waits for the lock in the kernel's own queue: a blocked `flock(2)`, with or without a
    /// deadline; nothing polls.
    ///
    /// `timeout` `None` waits for ever, zero tries once. The wait also ends when `cancel` becomes
    /// readable or is hung up: see [`LockOptions::cancel`].
    ///
    /// # Errors
    ///
    /// As [`LockOptions::acquire`] with a wait.
    pub fn wait(
        dir: Option<&Path>,
        session: impl AsRef<OsStr>,
        timeout: Option<Duration>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<SessionLock, Error> {
        let limits = WaitLimits::new(timeout, cancel);
        acquire_with(dir, session.as_ref(), &Wish::default(), Some(limits))
    }

    /// Checks that the locked file is still the one at its path, so that the lock still excludes
    /// everyone else. Call it before a step that must not run twice.
    ///
    /// It fails if somebody deleted, renamed or replaced the file (the next process to come then locks
    /// another file), or closed our descriptor. It takes two system calls on a local filesystem, and
    /// changes nothing.
    ///
    /// On a filesystem that is shared with other hosts it also detects that the filesystem took the lock
    /// away because the host was cut off. There it may take as long as the filesystem does. Once it has
    /// returned [`Error::Stale`], it always does.
    ///
    /// The path is resolved as this process sees it now. After `setuid(2)` it may be out of reach:
    /// [`Error::Os`] with `EACCES`. After `chroot(2)`, or in another mount namespace, the same path
    /// names another file or none, which looks just like a deleted file: [`Error::Stale`]. The lock is
    /// still held then, and [`release`](SessionLock::release) releases it, whatever it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`]; [`Error::NotOwner`] in a forked child; [`Error::Os`] if the path cannot be
    /// looked at.
    pub fn check(&self) -> Result<(), Error> {
        check(self.handle)
    }

    /// Releases the lock at once, even if a child still has a copy of the descriptor.
    ///
    /// # Errors
    ///
    /// As [`check`](SessionLock::check). With [`Error::Stale`] the lock is released all the same; with
    /// [`Error::NotOwner`] it is not, because it belongs to the parent.
    pub fn release(self) -> Result<(), Error> {
        release(self.into_handle())
    }

    /// The fencing token: a number larger than that of every earlier holder of the session, on any
    /// host that shares the directory. Pass it to the resource that the lock protects, which can then
    /// refuse a holder that lost the lock without noticing.
    ///
    /// It is `max(last token + 1, nanoseconds since the epoch)`, kept in the label. So it keeps rising if
    /// somebody deletes the file, provided that clocks are right.
    ///
    /// # Errors
    ///
    /// [`Error::NoToken`] if the label could not be read or written; [`Error::NotOwner`] in a forked
    /// child.
    ///
    /// # Examples
    ///
    /// ```
    /// use session_lock::SessionLock;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = Some(dir.path());
    /// let first = SessionLock::acquire(dir, "nightly-build")?;
    /// let token = first.token()?;
    /// first.release()?;
    /// let next = SessionLock::acquire(dir, "nightly-build")?;
    /// assert!(next.token()? > token);
    /// # Ok::<(), session_lock::Error>(())
    /// ```
    pub fn token(&self) -> Result<u64, Error> {
        token(self.handle)
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        lock_file::as_path(&self.record.path)
    }

    /// Takes the lock out of this library's care: the session stays locked as long as the descriptor or
    /// a copy of it is open in any process. Close-on-exec is set, but a forked child does have a copy.
    /// [`release_fd`] releases the lock at once.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`]; [`Error::Stale`] if the descriptor was closed behind our back.
    pub fn into_fd(self) -> Result<OwnedFd, Error> {
        let (descriptor, record) = registry::take(self.into_handle())?;
        if !descriptor.is_ours() {
            return Err(stale(&record.path));
        }
        descriptor.into_fd().ok_or_else(|| stale(&record.path))
    }

    /// For the guardian that will get the lock's descriptor: see [`into_fd`](SessionLock::into_fd).
    #[must_use]
    pub fn prepare_release(&self) -> PreparedRelease {
        PreparedRelease { token: self.record.token, shared: self.record.shared, cleared: None }
    }

    /// The number by which the C functions know this lock, which is theirs from now on.
    pub(crate) fn into_handle(mut self) -> u64 {
        // What is dropped has 0, which is never a lock.
        mem::take(&mut self.handle)
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // There is nobody to tell, and what can be released is.
        let _ = release(self.handle);
    }
}

/// Releases a lock that [`SessionLock::into_fd`] handed out: clears the label, unlocks (for all copies
/// of the descriptor, in any process), closes. If another process holds the lock by now, because a
/// copy of the descriptor was released before, nothing is changed.
///
/// # Errors
///
/// The error of `flock(2)`; the descriptor is closed all the same.
pub fn release_fd(fd: OwnedFd) -> io::Result<()> {
    // This changes nothing if the lock is still on this description.
    if !sys::flock_nonblocking(fd.as_fd())? {
        return Ok(());
    }
    let (token, guardian) = to_keep(fd.as_fd());
    // It cannot be written if it was opened read-only; then there is no label either.
    let _ = label::clear(fd.as_fd(), token, guardian);
    if is_on_shared(fd.as_fd()) {
        // Before the next holder's, on whatever host.
        let _ = sys::fdatasync(fd.as_fd());
    }
    sys::flock_unlock(fd.as_fd())
}

/// What [`release_fd`] does, with nothing left to find out: for a guardian, for whoever has waited for the
/// process that it watches may try the lock at once. Nobody else may release the lock.
#[derive(Debug)]
pub struct PreparedRelease {
    token: Option<u64>,
    shared: bool,
    cleared: Option<[u8; label::SIZE]>,
}

impl PreparedRelease {
    /// To be called in the guardian, while it has time.
    pub fn prepare(&mut self, fd: BorrowedFd<'_>) {
        let guardian = Some(sys::getpid());
        let cleared = |token| label::cleared(Some(token), guardian).ok();
        self.cleared = self.token.and_then(cleared);
        // A process that was just forked looks up each page when it first needs it, also one of code. A write
        // of nothing changes nothing, nor does a lock that is on this description already.
        let _ = sys::pwrite(fd, &[], 0);
        let _ = sys::flock_nonblocking(fd);
    }

    /// Clears the label, unlocks (for all copies of the descriptor, in whatever process), closes.
    ///
    /// # Errors
    ///
    /// What `flock(2)` says; the descriptor is closed all the same.
    pub fn release(self, fd: OwnedFd) -> io::Result<()> {
        if self.shared {
            // The lock, and the label, may be another host's by now.
            return release_fd(fd);
        }
        if let Some(text) = &self.cleared {
            let _ = sys::pwrite(fd.as_fd(), text, 0);
        }
        sys::flock_unlock(fd.as_fd())
    }
}

fn is_on_shared(fd: BorrowedFd<'_>) -> bool {
    sys::fstat(fd).is_ok_and(|stat| is_shared(fd, &stat))
}

/// What a cleared label says: the token, and that this process is the guardian, if it is.
fn to_keep(fd: BorrowedFd<'_>) -> (Option<u64>, Option<u32>) {
    match Label::read(fd) {
        Label::Holder(holder) => (
            Some(holder.token).filter(|&token| token > 0),
            holder.guardian.filter(|&pid| pid == sys::getpid()),
        ),
        Label::Cleared(token) => (token, None),
        Label::Unreadable => (None, None),
    }
}

/// Records in the label of a lock that [`SessionLock::into_fd`] handed out which process is its
/// guardian: that process has a copy of the descriptor, under the same number. This makes finding the
/// holder faster.
///
/// # Errors
///
/// The label could not be read or written. The lock is not affected.
pub fn set_guardian(fd: BorrowedFd<'_>, pid: u32) -> io::Result<()> {
    label::set_guardian(fd, pid)
}

/// How often an attempt starts again because the file was not the one at its path. Somebody who deletes
/// or replaces it is not that fast; but there are filesystems on which it never is.
const ATTEMPTS: u32 = 1000;

/// `limits` `None`: a single try.
fn acquire_with(
    dir: Option<&Path>,
    session: &OsStr,
    wish: &Wish<'_>,
    limits: Option<WaitLimits<'_>>,
) -> Result<SessionLock, Error> {
    let file = LockFile::new(dir, session)?;
    for _ in 0..ATTEMPTS {
        if let Some(limits) = &limits {
            limits.check_cancel().map_err(|error| wait_failed(&file, error))?;
        }
        if let Some(opened) = open(&file, limits.as_ref())? {
            if lock_opened(&file, &opened, wish, limits.as_ref())? {
                return hand_out(file, opened, wish);
            }
        }
        // Somebody has deleted or replaced the file: the whole attempt starts again, with the time
        // that is left.
        let deadline = limits.and_then(|limits| limits.deadline);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Error::TimedOut { path: file.path() });
        }
    }
    let reason = "in a thousand attempts, the file that was opened was never the one at its path: \
                  somebody replaces it all the time, or its filesystem cannot tell which file is which";
    Err(Error::Untrusted { path: file.path(), reason })
}

/// Opens the lock file, and waits for that where a lease on it (`F_SETLEASE`) is in the way.
fn open(file: &LockFile, limits: Option<&WaitLimits<'_>>) -> Result<Option<Opened>, Error> {
    match (file.open(), limits) {
        (Err(Error::Held { .. }), Some(limits)) => wait::until(limits, || match file.open() {
            Err(Error::Held { .. }) => None,
            result => Some(result),
        })
        .map_err(|error| wait_failed(file, error))?,
        (result, _) => result,
    }
}

/// Locks an open lock file. False if by then it is not at its path any more: whoever comes after us
/// would lock another file, so this lock would exclude nobody.
fn lock_opened(
    file: &LockFile,
    opened: &Opened,
    wish: &Wish<'_>,
    limits: Option<&WaitLimits<'_>>,
) -> Result<bool, Error> {
    let failed = |error| wait_failed(file, error);
    if !wait::try_lock(&opened.descriptor).map_err(failed)? {
        match limits {
            Some(limits) if !limits.is_one_try() => {
                // Before the wait, not after it, when others wait for us.
                label::prepare(wish);
                if waits_for_itself(opened)
                    || limits.is_endless() && is_held_by_its_only_thread(opened)
                {
                    return Err(Error::Deadlock { path: file.path() });
                }
                wait::lock(&opened.descriptor, limits).map_err(failed)?;
                // The host program may have closed all descriptors meanwhile, as daemons do. Then nobody
                // has the lock, and the number may be another file's.
                if !opened.descriptor.is_ours() {
                    return Err(file.failed("flock", io::Error::from_raw_os_error(libc::EBADF)));
                }
            }
            _ if after_the_guardian(opened).map_err(failed)? => {}
            None => return Err(Error::Held { path: file.path() }),
            Some(_) => return Err(Error::TimedOut { path: file.path() }),
        }
    }
    lock_file::is_at_path(&file.path, opened.stat.id).map_err(|error| file.failed("lstat", error))
}

/// How long the guardian of a process that has ended may take to be given the processor.
const GUARDIAN_DELAY: Duration = Duration::from_secs(1);

/// A lock that was not free at the first try: whether it is ours after a moment, because the process that
/// it was held for has ended, and only the guardian has not had the processor yet.
fn after_the_guardian(opened: &Opened) -> Result<bool, WaitError> {
    let descriptor = &opened.descriptor;
    let Some(guardian) = Leaving::read(descriptor.fd()) else {
        // It may have been such a guardian's until just now.
        return wait::try_lock(descriptor);
    };
    let deadline = Instant::now() + GUARDIAN_DELAY;
    let mut pause = Duration::from_micros(20);
    loop {
        // Before the last try: when it has ended, whoever holds the lock holds it.
        let last = guardian.has_left() || Instant::now() >= deadline;
        if wait::try_lock(descriptor)? {
            return Ok(true);
        }
        if last {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}

/// Whether a guardian holds the lock until this very process ends.
fn waits_for_itself(opened: &Opened) -> bool {
    match Label::read(opened.descriptor.fd()) {
        Label::Holder(holder) => holder.is_guarded() && holder.is_this_process(),
        _ => false,
    }
}

/// Whether this process holds the lock itself, and has no other thread that could release it.
fn is_held_by_its_only_thread(opened: &Opened) -> bool {
    registry::holds(opened.stat.id) && procfs::stat(ProcId::Me).is_ok_and(|stat| stat.threads == 1)
}

/// Writes the label, and makes it the caller's lock.
fn hand_out(file: LockFile, opened: Opened, wish: &Wish<'_>) -> Result<SessionLock, Error> {
    let Opened { descriptor, stat, writable } = opened;
    let shared = is_shared(descriptor.fd(), &stat);
    if shared {
        // What this host remembers of the file may be older than the last holder's token.
        let _ = sys::posix_fadvise_dontneed(descriptor.fd());
    }
    // A label that cannot be written (disk full, RLIMIT_FSIZE) is no reason to refuse a lock.
    let owner = sys::getpid();
    let written = writable.then(|| label::write(descriptor.fd(), owner, wish)).transpose();
    let token = *written.as_ref().unwrap_or(&None);
    if shared {
        // Where other hosts read it.
        let synced = match written {
            Ok(_) => sys::fdatasync(descriptor.fd()).map_err(|error| ("fdatasync", error)),
            Err(error) => Err(("pwrite", error)),
        };
        // If this host was cut off just now, the lock is lost, and without a label no check would tell.
        if let Some((call, error)) = synced.err().filter(|(_, error)| is_loss(error)) {
            if let Some(token) = token {
                let _ = label::clear_own(descriptor.fd(), token);
            }
            return Err(file.failed(call, error));
        }
    }
    let lost = AtomicBool::new(false);
    let record =
        Arc::new(LockRecord { path: file.path, file: stat.id, owner, token, shared, lost });
    match descriptor.hand_out(Arc::clone(&record)) {
        Some(handle) => Ok(SessionLock { handle, record }),
        None => Err(Error::Interrupted { path: lock_file::to_path(&record.path) }),
    }
}

fn wait_failed(file: &LockFile, error: WaitError) -> Error {
    match error {
        WaitError::TimedOut => Error::TimedOut { path: file.path() },
        WaitError::Cancelled => Error::Cancelled { path: file.path() },
        WaitError::Interrupted => Error::Interrupted { path: file.path() },
        WaitError::BadCancel => Error::InvalidArgument("the cancel descriptor is not open"),
        WaitError::Failed(call, error) => file.failed(call, error),
    }
}

fn stale(path: &CStr) -> Error {
    Error::Stale { path: lock_file::to_path(path), source: None }
}

fn check_path(record: &LockRecord) -> Result<(), Error> {
    match lock_file::is_at_path(&record.path, record.file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(stale(&record.path)),
        Err(error) => Err(failed(record, "lstat", error)),
    }
}

pub(crate) fn check(handle: u64) -> Result<(), Error> {
    let (number, record) = registry::get(handle)?;
    check_path(&record)?;
    if !record.shared {
        return Ok(());
    }
    // A copy, so that a release in another thread does not take the number away meanwhile.
    match Descriptor::open_other(|| sys::fcntl_dupfd_number(number)) {
        Ok(copy) => check_shared(copy.fd(), &record),
        Err(source) => Err(lost(&record, Some(source))),
    }
}

// ------------------------------------------------------- filesystems that several hosts share

const NFS: u32 = 0x6969;

/// Whether other hosts may share the filesystem. One on a disk of its own has a driver's device, which
/// is not of the major number 0.
fn is_shared(fd: BorrowedFd<'_>, stat: &Stat) -> bool {
    /// Tmpfs, btrfs, overlayfs, ramfs, zfs, bcachefs.
    const LOCAL: [u32; 6] =
        [0x0102_1994, 0x9123_683E, 0x794C_7630, 0x8584_58F6, 0x2FC1_2FC1, 0xCA45_1A4E];
    libc::major(stat.id.dev) == 0 && !sys::fstatfs_type(fd).is_ok_and(|kind| LOCAL.contains(&kind))
}

/// Whether an error means that the host was cut off, or the process that serves the mount has ended, and
/// the lock is gone.
fn is_loss(error: &io::Error) -> bool {
    let lost = [
        libc::EBADF,
        libc::EBADFD,
        libc::ECONNABORTED,
        libc::EIO,
        libc::ENOTCONN,
        libc::ESHUTDOWN,
        libc::ESTALE,
    ];
    error.raw_os_error().is_some_and(|errno| lost.contains(&errno))
}

/// Whether the lock is still ours where the filesystem may have given it to another host meanwhile: the
/// label must be ours, and on NFS the kernel must still grant the lock.
fn check_shared(fd: BorrowedFd<'_>, record: &LockRecord) -> Result<(), Error> {
    if record.lost.load(Ordering::Relaxed) {
        return Err(lost(record, None));
    }
    // What this host remembers of the file may be older than the next holder's label.
    let _ = sys::posix_fadvise_dontneed(fd);
    match Label::try_read(fd) {
        Ok(Label::Holder(holder)) if Some(holder.token) == record.token => {}
        // A lock without a label has none to compare.
        Ok(_) if record.token.is_none() => {}
        Ok(_) => return Err(lost(record, None)),
        Err(error) => return Err(failed(record, "pread", error)),
    }
    // The kernel refuses to lock again what it has lost; what it still holds does not change.
    if sys::fstatfs_type(fd).is_ok_and(|kind| kind == NFS) {
        match sys::flock_nonblocking(fd) {
            Ok(true) => {}
            Ok(false) => return Err(lost(record, None)),
            Err(error) => return Err(lost(record, Some(error))),
        }
    }
    Ok(())
}

/// What a failed system call says of the lock.
fn failed(record: &LockRecord, call: &'static str, source: io::Error) -> Error {
    if record.shared && is_loss(&source) {
        return lost(record, Some(source));
    }
    Error::Os { path: lock_file::to_path(&record.path), call, source }
}

/// Notes that the lock is lost, for good.
fn lost(record: &LockRecord, source: Option<io::Error>) -> Error {
    record.lost.store(true, Ordering::Relaxed);
    Error::Stale { path: lock_file::to_path(&record.path), source }
}

pub(crate) fn token(handle: u64) -> Result<u64, Error> {
    let (_, record) = registry::get(handle)?;
    record.token.ok_or_else(|| Error::NoToken { path: lock_file::to_path(&record.path) })
}

pub(crate) fn release(handle: u64) -> Result<(), Error> {
    let (descriptor, record) = registry::take(handle)?;
    // While it is still locked: afterwards the file is the next holder's.
    let mut checked = check_path(&record);
    if !descriptor.is_ours() {
        return Err(stale(&record.path));
    }
    if record.shared && checked.is_ok() {
        checked = check_shared(descriptor.fd(), &record);
    }
    if let Some(token) = record.token.filter(|_| !record.lost.load(Ordering::Relaxed)) {
        if record.shared {
            let _ = label::clear_own(descriptor.fd(), token);
            // Before the next holder's, on whatever host.
            let _ = sys::fdatasync(descriptor.fd());
        } else {
            // Nobody but this process has the description, and it still is the one that was locked.
            let _ = label::clear(descriptor.fd(), Some(token), None);
        }
    }
    let unlocked = sys::flock_unlock(descriptor.fd());
    if !record.shared {
        // Nothing since the look at whose it is has taken long.
        descriptor.close();
    }
    match unlocked {
        Ok(()) => checked,
        Err(error) => Err(failed(&record, "flock", error)),
    }
}
