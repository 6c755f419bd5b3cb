//! The guardian: a small process of its own that holds a lock for as long as another process lives.
//!
//! COMMAND itself must not have the descriptor: what it leaves running in the background would keep the
//! lock. Nobody must be COMMAND's parent but the caller, and COMMAND must find no child that it did not
//! start. So the guardian is COMMAND's child, but one without an exit signal: `wait(2)` does not find it,
//! and whoever adopts it reaps it.
//!
//! It has two descriptors, the lock and one of the process that it watches, and every signal is blocked
//! in it but the one that asks it to release the lock.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_int};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, process};

use nix::sys::signal::Signal;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, setsid};
use session_lock::procfs::{self, ProcId};
use session_lock::{LABEL_SIZE, PreparedRelease};

use crate::blocked;
use crate::sys::{self, BlockedSignals};

/// Its name in `ps` and `top`.
pub const NAME: &CStr = c"session-lock-g";

/// Programs that clean `/tmp` delete what has not been used for days.
const TOUCH_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// Where no descriptor says that a process has ended, nor a signal.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the guardian does when the process has ended.
#[allow(clippy::large_enum_variant, reason = "there is one of it, and it is to be near")]
pub enum AtEnd {
    /// The lock is free, whoever has a copy of the descriptor.
    Release(PreparedRelease),
    /// Others share the lock, and keep it.
    Close,
}

// ------------------------------------------------------------------------- the process it watches

/// A process, which is not confused with a later one of the same number.
pub struct Watched {
    pid: u32,
    descriptor: Descriptor,
}

enum Descriptor {
    Pidfd(OwnedFd),
    /// Its directory in `/proc`, before Linux 5.3, or where a filter denies the other. It is there to be
    /// found by [`find`].
    Directory(OwnedFd, procfs::ProcStat),
}

impl Watched {
    /// # Errors
    ///
    /// ESRCH if there is no such process; what else `pidfd_open(2)` says.
    pub fn open(pid: u32) -> io::Result<Watched> {
        let descriptor = match sys::pidfd_open(pid) {
            Ok(pidfd) => Descriptor::Pidfd(pidfd),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(error),
            Err(error) => {
                let directory = File::options()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(format!("/proc/{pid}"));
                match (directory, procfs::stat(ProcId::Pid(pid))) {
                    (Ok(directory), Ok(stat)) => Descriptor::Directory(directory.into(), stat),
                    _ => return Err(error),
                }
            }
        };
        Ok(Watched { pid, descriptor })
    }

    /// A zombie has ended.
    pub fn has_ended(&self) -> bool {
        match &self.descriptor {
            Descriptor::Pidfd(pidfd) => is_readable_within(pidfd, Duration::ZERO),
            Descriptor::Directory(_, then) => match procfs::stat(ProcId::Pid(self.pid)) {
                Ok(now) => now.zombie || now.start != then.start,
                Err(_) => true,
            },
        }
    }

    /// Whether it has ended within the time.
    fn ends_within(&self, time: Duration) -> bool {
        match &self.descriptor {
            Descriptor::Pidfd(pidfd) => is_readable_within(pidfd, time),
            Descriptor::Directory(..) => {
                let began = Instant::now();
                while !self.has_ended() {
                    if began.elapsed() > time {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                true
            }
        }
    }

    fn signal(&self, signal: c_int) -> io::Result<()> {
        let sent = match &self.descriptor {
            Descriptor::Pidfd(pidfd) => sys::pidfd_send_signal(pidfd.as_fd(), signal),
            Descriptor::Directory(..) => Err(io::ErrorKind::Unsupported.into()),
        };
        match sent {
            // Denied by a filter; or by the kernel, which will say so again.
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) && !self.has_ended() => {
                sys::kill(self.pid, signal)
            }
            sent => sent,
        }
    }

    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.descriptor {
            Descriptor::Pidfd(pidfd) => Some(pidfd.as_fd()),
            Descriptor::Directory(..) => None,
        }
    }
}

fn is_readable_within(fd: &OwnedFd, time: Duration) -> bool {
    matches!(sys::wait_for_any([fd.as_fd()], Some(time)), Ok([true]))
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            Descriptor::Pidfd(fd) | Descriptor::Directory(fd, _) => fd.as_fd(),
        }
    }
}

// ------------------------------------------------------------------------------------- its start

/// Starts the guardian of this process, which goes on and executes COMMAND: the lock, of which the
/// guardian has a copy under the same number, and the guardian's PID.
///
/// # Errors
///
/// There is no guardian then, and the lock is free.
///
/// # Safety
///
/// This process has no other thread.
pub unsafe fn start(lock: OwnedFd, at_end: AtEnd) -> Result<(OwnedFd, u32), String> {
    let failed = |call: &str, error: io::Error| {
        let help = help(&error);
        format!("cannot start the lock's guardian: {call}: {error}{help}; the command was not run")
    };
    let watched = Watched::open(process::id()).map_err(|error| failed("pidfd_open", error))?;
    // The guardian has its name from its first moment; COMMAND gets its own when it is executed.
    sys::set_name(NAME);
    // For good in the guardian: what a terminal or a service manager sends to all is not for it.
    let _blocked = BlockedSignals::all().map_err(|error| failed("sigprocmask", error))?;
    // SAFETY: the caller's promise; `serve` ends by `exit_now`, and the descriptor of the lock is not in
    // the care of the library's fork handlers.
    match unsafe { sys::clone_without_exit_signal() } {
        Ok(Some(pid)) => Ok((lock, pid)),
        Ok(None) => serve(lock, &watched, at_end),
        // SAFETY: the caller's promise.
        Err(_) => unsafe { start_as_grandchild(lock, &watched, at_end) }
            .map_err(|error| failed("clone", error)),
    }
}

/// For an error that comes from a filter of system calls: what helps.
pub fn help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => " (the seccomp profile must allow it)",
        _ => "",
    }
}

/// Where a child must have an exit signal (qemu-user): the one in the middle ends at once.
///
/// # Safety
///
/// This process has no other thread.
unsafe fn start_as_grandchild(
    lock: OwnedFd,
    watched: &Watched,
    at_end: AtEnd,
) -> io::Result<(OwnedFd, u32)> {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the caller's promise.
    let Some(middle) = (unsafe { sys::fork() })? else {
        // SAFETY: the child of the only thread has one thread.
        match unsafe { sys::fork() } {
            Ok(Some(_)) => sys::exit_now(0),
            Ok(None) => {
                let told = File::from(write).write_all(&process::id().to_ne_bytes());
                if told.is_err() {
                    sys::exit_now(0);
                }
                serve(lock, watched, at_end)
            }
            Err(error) => sys::exit_now(error.raw_os_error().unwrap_or(0).try_into().unwrap_or(0)),
        }
    };
    drop(write);
    let mut pid = [0; 4];
    let told = File::from(read).read_exact(&mut pid);
    let status = loop {
        match waitpid(Pid::from_raw(middle.try_into().unwrap_or(0)), None) {
            Err(nix::Error::EINTR) => {}
            status => break status,
        }
    };
    // COMMAND would get it.
    sys::forget_pending(Signal::SIGCHLD);
    match (told, status) {
        (Ok(()), _) => Ok((lock, u32::from_ne_bytes(pid))),
        (Err(_), Ok(WaitStatus::Exited(_, errno))) if errno > 0 => {
            Err(io::Error::from_raw_os_error(errno))
        }
        (Err(error), _) => Err(error),
    }
}

// --------------------------------------------------------------------------------- the guardian

/// Asks a guardian to release the lock. Not one of those that are sent to whole groups of processes.
fn release_signal() -> c_int {
    libc::SIGRTMAX()
}

static RELEASE_ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_release(_: c_int) {
    RELEASE_ASKED.store(true, Ordering::Relaxed);
}

/// Only wakes up: what has ended is looked at then.
const PARENT_ENDED: c_int = libc::SIGUSR1;

extern "C" fn on_parents_end(_: c_int) {}

/// The life of a guardian, in a process in which all signals are blocked.
pub fn serve(lock: OwnedFd, watched: &Watched, mut at_end: AtEnd) -> ! {
    // It cannot fail: the child of a process is no group leader.
    let _ = setsid();
    let _ = env::set_current_dir("/");
    // SAFETY: only these two are used from here on.
    unsafe { sys::close_all_but([lock.as_fd(), watched.as_fd()]) };
    // SAFETY: both handlers do no more than to store a flag.
    unsafe { sys::handle_signal(release_signal(), on_release) };
    // SAFETY: as above.
    unsafe { sys::handle_signal(PARENT_ENDED, on_parents_end) };
    let signals = [release_signal(), PARENT_ENDED];
    if let AtEnd::Release(release) = &mut at_end {
        // It is to be quick then, and has time now.
        sys::populate_code();
        release.prepare(lock.as_fd());
    }
    let mut interval = TOUCH_INTERVAL;
    if watched.pidfd().is_none() {
        sys::signal_at_parents_end(PARENT_ENDED);
        // Asked afterwards: if it is still the parent, there will be a signal.
        if parent_id() != watched.pid {
            interval = LOOK_INTERVAL;
        }
    }
    let mut untouched = Duration::ZERO;
    let is_asked = || RELEASE_ASKED.load(Ordering::Relaxed);
    while !(sys::wait_for(watched.pidfd(), &signals, interval) || watched.has_ended() || is_asked())
    {
        untouched += interval;
        if untouched >= TOUCH_INTERVAL {
            untouched = Duration::ZERO;
            let _ = futimens(&lock, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
        }
    }
    let released = match at_end {
        AtEnd::Release(release) => release.release(lock),
        AtEnd::Close if is_asked() => session_lock::release_fd(lock),
        AtEnd::Close => Ok(()),
    };
    sys::exit_now(released.is_err().into())
}

// ---------------------------------------------------------------------------- found by others

/// A guardian that holds a session's lock for a process.
pub struct Guardian {
    process: Watched,
}

/// Finds the guardian that holds the session's lock for the process `pid`.
pub fn find(dir: Option<&Path>, session: &OsStr, pid: u32) -> Option<Guardian> {
    let path = session_lock::path(dir, session).ok()?;
    let file = fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
    let is_it = |&guardian: &u32| guards(guardian, (file.dev(), file.ino()), pid);
    // What the label says is a hint where to look first.
    let hint = guardian_in_label(&path).filter(is_it);
    let candidates = || session_lock::processes(dir, session).unwrap_or_default();
    let found = hint.or_else(|| candidates().iter().map(|process| process.pid).find(is_it))?;
    let process = Watched::open(found).ok()?;
    // Once more: now it is known to be the process that will get the signal.
    is_it(&found).then_some(Guardian { process })
}

fn guardian_in_label(path: &Path) -> Option<u32> {
    let label = label(path)?;
    let value = procfs::field(&label, b"guardian=")?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The label in a lock file; of any other file the first bytes, or nothing: whoever may write to the
/// directory can put a FIFO there, a link to a device, or a file without end.
pub fn label(path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut label = Vec::new();
    file.take(LABEL_SIZE as u64).read_to_end(&mut label).ok()?;
    Some(label)
}

/// Whether a process has the file open, and a descriptor of the process `pid`.
fn guards(guardian: u32, file: (u64, u64), pid: u32) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{guardian}/fd")) else { return false };
    let descriptors: Vec<PathBuf> = descriptors.flatten().map(|entry| entry.path()).collect();
    let has_file = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == file)
    };
    let watches = |path: &PathBuf| watched_by(guardian, path) == Some(pid);
    is_named(guardian) && descriptors.iter().any(has_file) && descriptors.iter().any(watches)
}

/// Any other process would be ended by the signal that asks a guardian to release its lock.
fn is_named(pid: u32) -> bool {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_ascii_end() == NAME.to_bytes()
}

/// The process that a guardian holds its lock for, if it is one.
pub fn process_of(guardian: u32) -> Option<u32> {
    let descriptors = fs::read_dir(format!("/proc/{guardian}/fd")).ok()?;
    let mut watched = descriptors.flatten().map(|entry| watched_by(guardian, &entry.path()));
    if is_named(guardian) { watched.find_map(|pid| pid) } else { None }
}

fn watched_by(guardian: u32, descriptor: &Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    if let Ok(directory) = target.strip_prefix("/proc") {
        return directory.to_str()?.parse().ok();
    }
    if target != Path::new("anon_inode:[pidfd]") && !target.starts_with("pidfd:") {
        return None;
    }
    blocked::process_of_pidfd(guardian, descriptor.file_name()?.to_str()?.parse().ok()?)
}

impl Guardian {
    /// Asks for the lock, and waits until it is free.
    ///
    /// # Errors
    ///
    /// The guardian is another user's; or it does not do so within the time.
    pub fn release(&self, time: Duration) -> io::Result<()> {
        match self.process.signal(release_signal()) {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            result => result?,
        }
        if self.process.ends_within(time) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid
    }
}
