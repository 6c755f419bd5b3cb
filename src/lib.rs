//! Named, crash-safe locks between processes on one Linux machine, for command-line tools, agents and
//! scripts. A *session* is any name that these agree on; at most one process at a time holds its lock.
//!
//! ```
//! use session_lock::SessionLock;
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = Some(dir.path());
//! let lock = SessionLock::acquire(dir, "nightly-build")?;
//! // ... at most one process is here ...
//! lock.check()?; // before the step that must not run twice
//! lock.release()?;
//! # Ok::<(), session_lock::Error>(())
//! ```
//!
//! # The model
//!
//! A session's lock is an exclusive `flock(2)` on one small file, `<dir>/<session>.lock`, and nothing
//! else.
//!
//! * **The kernel is the truth.** When a holder dies, however it dies, the kernel releases its lock.
//!   There are no stale locks, so there is nothing to clean up and nothing to steal.
//! * **The file is never deleted, renamed or replaced**, not even while it is locked: deleting it is
//!   what lets two processes hold "the" lock on two inodes. An unlocked lock file means nothing.
//! * **What is written in the file is a label.** It tells people and tools who holds the lock. No lock
//!   is ever granted because of what it says.
//! * **Asking never disturbs.** [`holder()`] and [`list`] read the kernel's lock table; they do not
//!   take the lock, not even for a moment.
//! * **The lock belongs to the process that acquired it**, not to its forked children and not to the
//!   programs that it starts.
//!
//! To acquire: check the directory, open the file (never truncating, never following a link), lock
//! it, compare it with the file at the path and start again if it is another one, write the label.
//! To release: compare once more (for [`Error::Stale`]), clear the label, unlock, close.
//!
//! # What can go wrong, and what happens then
//!
//! | | |
//! |---|---|
//! | the holder dies, by whatever signal | its lock is free at once |
//! | the holder forks | the child closes its copies as it starts, and can do nothing to the lock |
//! | the holder starts a program | close-on-exec |
//! | the file is deleted or replaced | the next one locks the file at the path; the old holder's [`check`](SessionLock::check) and [`release`](SessionLock::release) say [`Error::Stale`] |
//! | a system call fails | an error, or a lock that is really held |
//! | the label cannot be written | the lock works without it |
//! | the filesystem cannot lock | an error |
//!
//! # What it does not do
//!
//! * It does not exclude programs that use POSIX record locks (`fcntl(F_SETLK)`): on a local
//!   filesystem, these and `flock` do not affect each other.
//! * It does not reach a child that is made by a bare `clone(2)` or by `_Fork(3)`, where no fork hook
//!   runs. Such a child keeps the lock while it lives, but it cannot release its parent's.
//! * It is not async-signal-safe: do not call it from a signal handler; and a signal handler that
//!   interrupts one of its functions must not `fork`. A `fork` in another thread waits while a lock
//!   file is being opened.
//! * Between hosts it is only as good as the shared filesystem's own `flock`: see
//!   `docs/more-than-one-machine.md`.

// The map: a module uses only those on lines below its own. `tests/arrows.rs` reads these lines and the
// `use` lines of the modules, and fails where one points sideways or upwards.
//
//   ffi           the C functions
//   lock          acquire, wait, check, release
//   holder        who holds it, and the evidence for it
//   wait          a blocked flock with a deadline and a cancel descriptor
//   lock_file     where the file is, whether to trust it, how it is opened
//   default_dir   the directory of a caller who names none
//   rights        who may use a new lock file
//   label         the text in the file
//   registry      the open descriptors, by handle; what fork does to them
//   procfs        what /proc says
//   session_name  from a session to the name of its file, and back
//   percent       percent-coding
//   error         everything that can go wrong, and its errno
//   sys           one system call each; sys::thread: cancellable threads, signal masks, once

#[cfg(not(all(target_os = "linux", any(target_env = "gnu", target_env = "musl"))))]
compile_error!(
    "session-lock stands on Linux's flock(2) and /proc, and on the threads of glibc or musl"
);

mod default_dir;
mod error;
mod ffi;
mod holder;
mod label;
mod lock;
mod lock_file;
mod percent;
#[doc(hidden)]
pub mod procfs;
mod registry;
mod rights;
mod session_name;
mod sys;
mod wait;

pub use error::Error;
pub use holder::{Holder, Process, Session, State, holder, list, processes};
#[doc(hidden)]
pub use label::SIZE as LABEL_SIZE;
pub use lock::{LockOptions, PreparedRelease, SessionLock, release_fd, set_guardian};
pub use lock_file::path;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod testing;
