//! The lock: acquire, wait, check, release.

#![forbid(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::label;
use crate::name::{self, LockFile, Opened};
use crate::sys::{self, FileId};
use crate::table::{self, Held};
use crate::wait::{self, Limits, Stop};

/// The lock of a session, held by this process until it is released or dropped.
///
/// It is an exclusive `flock(2)` on `<dir>/<session>.lock`. The kernel ends it when the process
/// dies, however that happens. It belongs to the process, not to its children: a child made by
/// `fork` has no part in it (there every method says [`Error::NotOwner`], and dropping does
/// nothing), and a program that is started does not inherit it.
///
/// All methods may be called from any thread. None of them is for signal handlers.
#[derive(Debug)]
pub struct SessionLock {
    handle: u64,
    path: PathBuf,
}

impl SessionLock {
    /// Takes the lock if it is free.
    ///
    /// `dir` `None` means `$SESSION_LOCK_DIR`, or else `/tmp/session-lock-<effective uid>`; a
    /// missing directory is created with mode 0700. `session` is any name of at least one byte
    /// without a NUL byte.
    ///
    /// # Errors
    ///
    /// [`Error::Held`] if another holder has it, in this process or another one;
    /// [`Error::Untrusted`] or [`Error::Symlink`] if the directory or the file could be somebody
    /// else's trap; [`Error::InvalidArgument`], [`Error::NameTooLong`]; [`Error::Os`] for a system
    /// call that failed. Nothing is left open, locked or written.
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
        obtain(dir, session.as_ref(), None, None)
    }

    /// Waits for the lock in the kernel's own queue: a blocked `flock(2)`, with or without a
    /// deadline. A wait wakes up for nothing but its end.
    ///
    /// `timeout` `None` waits for ever, zero tries once. The wait also ends when `cancel` becomes
    /// readable or is hung up (an eventfd, a pipe, a socket: anything that `poll(2)` takes). If it
    /// is so already, the lock is not taken even if it is free.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], [`Error::Cancelled`]; [`Error::Interrupted`] if a signal handler ran in
    /// this thread (without deadline and `cancel`: one that was installed without `SA_RESTART`);
    /// else as [`acquire`](SessionLock::acquire).
    pub fn wait(
        dir: Option<&Path>,
        session: impl AsRef<OsStr>,
        timeout: Option<Duration>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<SessionLock, Error> {
        obtain(dir, session.as_ref(), None, Some(Limits::new(timeout, cancel)))
    }

    /// As [`wait`](SessionLock::wait), with `command` in the lock's label instead of this process's
    /// own command line: for a program that is about to execute another one.
    ///
    /// # Errors
    ///
    /// As [`wait`](SessionLock::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use session_lock::SessionLock;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = Some(dir.path());
    /// let lock = SessionLock::wait_as("make -j2", dir, "build", None, None)?;
    /// assert_eq!(session_lock::holder(dir, "build")?.command, "make -j2");
    /// # drop(lock);
    /// # Ok::<(), session_lock::Error>(())
    /// ```
    pub fn wait_as(
        command: impl AsRef<OsStr>,
        dir: Option<&Path>,
        session: impl AsRef<OsStr>,
        timeout: Option<Duration>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<SessionLock, Error> {
        let command = command.as_ref().as_bytes();
        obtain(dir, session.as_ref(), Some(command), Some(Limits::new(timeout, cancel)))
    }

    /// Is the lock that we hold still *the* lock? To be asked before a step that must not run twice.
    ///
    /// It is not, if somebody deleted, renamed or replaced the file (then the next one who comes
    /// locks another file), or closed our descriptor. Two system calls; nothing is changed.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`]; [`Error::NotOwner`] in a forked child; [`Error::Os`] if the path cannot be
    /// looked at.
    pub fn check(&self) -> Result<(), Error> {
        check(self.handle)
    }

    /// Frees the lock at once, even where a child still has a copy of the descriptor.
    ///
    /// # Errors
    ///
    /// As [`check`](SessionLock::check). With [`Error::Stale`] the lock is released, too; with
    /// [`Error::NotOwner`] it is not, for it is the parent's.
    pub fn release(self) -> Result<(), Error> {
        release(self.into_handle())
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands the lock out of this library's care, on purpose: as long as the descriptor or a copy
    /// of it is open in any process, the session is locked. Close-on-exec is set, but a forked child
    /// does have a copy. [`release_fd`] ends it at once.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`]; [`Error::Stale`] if the descriptor was closed behind our back.
    pub fn into_fd(self) -> Result<OwnedFd, Error> {
        let (descriptor, held) = table::take(self.into_handle())?;
        if !descriptor.is_ours() {
            return Err(stale(&held.path));
        }
        descriptor.into_fd().ok_or_else(|| stale(&held.path))
    }

    /// The number by which the C functions know this lock, which is theirs from now on.
    pub(crate) fn into_handle(self) -> u64 {
        let handle = self.handle;
        let mut this = mem::ManuallyDrop::new(self);
        drop(mem::take(&mut this.path));
        handle
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // There is nobody to tell, and what can be released is.
        let _ = release(self.handle);
    }
}

/// Frees a lock that [`SessionLock::into_fd`] handed out: clears the label, unlocks (for all copies
/// of the descriptor, in whatever process), closes.
///
/// # Errors
///
/// What `flock(2)` says; the descriptor is closed all the same.
pub fn release_fd(fd: OwnedFd) -> io::Result<()> {
    // It cannot be written if it was opened read-only; then there is no label either.
    let _ = label::clear(fd.as_fd());
    sys::unlock(fd.as_fd())
}

/// `command` `None`: this process's own; `limits` `None`: a single try.
fn obtain(
    dir: Option<&Path>,
    session: &OsStr,
    command: Option<&[u8]>,
    limits: Option<Limits<'_>>,
) -> Result<SessionLock, Error> {
    let file = LockFile::new(dir, session)?;
    loop {
        if let Some(limits) = &limits {
            limits.admit().map_err(|stop| stopped(&file, stop))?;
        }
        if let Some(opened) = file.open()? {
            if let Some(lock) = lock_opened(&file, opened, command, limits.as_ref())? {
                return Ok(lock);
            }
        }
        // Somebody has deleted or replaced the file: the whole attempt starts again, with the time
        // that is left.
        let deadline = limits.and_then(|limits| limits.deadline);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Error::TimedOut { path: file.path() });
        }
    }
}

/// Locks an open lock file. `None` if by then it is not at its path any more: whoever comes after us
/// would lock another file, so this lock would exclude nobody.
fn lock_opened(
    file: &LockFile,
    opened: Opened,
    command: Option<&[u8]>,
    limits: Option<&Limits<'_>>,
) -> Result<Option<SessionLock>, Error> {
    let Opened { descriptor, stat, writable } = opened;
    match limits {
        None => match sys::try_flock(descriptor.fd()) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Held { path: file.path() }),
            Err(error) => return Err(file.failed("flock", error)),
        },
        Some(limits) => {
            // Before the wait, not after it, when others wait for us.
            label::prepare(command);
            wait::lock(&descriptor, limits).map_err(|stop| stopped(file, stop))?;
        }
    }
    if !names(&file.path, stat.id).map_err(|error| file.failed("lstat", error))? {
        return Ok(None);
    }
    // A label that cannot be written (disk full, RLIMIT_FSIZE) is no reason to refuse a lock.
    let owner = sys::process_id();
    let has_label = writable && label::write(descriptor.fd(), owner, command).is_ok();
    let held = Held { path: file.path.clone(), file: stat.id, owner, has_label };
    match descriptor.hand_out(held) {
        Some(handle) => Ok(Some(SessionLock { handle, path: file.path() })),
        None => Err(Error::Interrupted { path: file.path() }),
    }
}

fn stopped(file: &LockFile, stop: Stop) -> Error {
    match stop {
        Stop::TimedOut => Error::TimedOut { path: file.path() },
        Stop::Cancelled => Error::Cancelled { path: file.path() },
        Stop::Interrupted => Error::Interrupted { path: file.path() },
        Stop::BadCancel => Error::InvalidArgument("the cancel descriptor is not open"),
        Stop::Failed(call, error) => file.failed(call, error),
    }
}

/// Whether `path` names the file `id`.
fn names(path: &CStr, id: FileId) -> io::Result<bool> {
    match sys::lstat(path) {
        Ok(stat) => Ok(stat.id == id),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn stale(path: &CStr) -> Error {
    Error::Stale { path: name::to_path(path) }
}

fn check_path(held: &Held) -> Result<(), Error> {
    match names(&held.path, held.file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(stale(&held.path)),
        Err(source) => Err(Error::Os { path: name::to_path(&held.path), call: "lstat", source }),
    }
}

pub(crate) fn check(handle: u64) -> Result<(), Error> {
    let (number, held) = table::get(handle)?;
    if !table::is_ours(number, handle) {
        return Err(stale(&held.path));
    }
    check_path(&held)
}

pub(crate) fn release(handle: u64) -> Result<(), Error> {
    let (descriptor, held) = table::take(handle)?;
    if !descriptor.is_ours() {
        return Err(stale(&held.path));
    }
    // While it is still locked: afterwards the file is the next holder's.
    let checked = check_path(&held);
    if held.has_label {
        let _ = label::clear(descriptor.fd());
    }
    sys::unlock(descriptor.fd()).map_err(|source| Error::Os {
        path: name::to_path(&held.path),
        call: "flock",
        source,
    })?;
    checked
}
