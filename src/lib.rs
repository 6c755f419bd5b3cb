//! A lock that command-line tools, agents and scripts on one machine use so that *at most one process
//! at a time works on a session*, and that can be trusted when everything around it dies, forks or
//! misbehaves.
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
//!   There is no stale lock, so there is nothing to clean up and nothing to steal.
//! * **The file is never deleted, renamed or replaced**, not even while it is locked: deleting it is
//!   what lets two processes hold "the" lock on two inodes. An unlocked lock file means nothing.
//! * **What is written in the file is a label.** No decision to acquire, to wait or to give up reads
//!   it.
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
//! | a system call fails | an error, or a lock that is held; never a lock that is believed to be held |
//! | the label cannot be written | the lock is as good without |
//! | the filesystem cannot lock | an error |
//!
//! # What it does not do
//!
//! * It does not exclude programs that use POSIX record locks (`fcntl(F_SETLK)`): on a local
//!   filesystem these and `flock` do not see each other.
//! * It does not reach a child that is made by a bare `clone(2)` or by `_Fork(3)`: no fork hook runs
//!   there. Such a child keeps the lock while it lives, but it cannot release its parent's.
//! * It is not async-signal-safe: not to be called from a signal handler, and a signal handler that
//!   interrupts one of its functions must not `fork`. A `fork` in another thread waits while a lock
//!   file is being opened.
//! * Between hosts it is worth what the shared filesystem's own `flock` is worth.
//!
//! # The modules
//!
//! * `error`: everything that can go wrong, and the one mapping to an errno
//! * `sys`: the only calls into libc, one small function each
//! * `table`: the descriptors that are open, by handle; what `fork` does to them
//! * `name`: from a session's name to its lock file and back; whether to trust the directory
//! * `procfs`: what `/proc` says
//! * `label`: the text in the lock file
//! * `wait`: a blocked `flock` with a deadline and a cancel descriptor
//! * `lock`: acquire, wait, check, release
//! * `holder`: who holds it
//! * `ffi`: the C functions
//!
//! `ffi` calls `lock` and `holder`; these call `label`, `name` and `wait`; those call `table` and
//! `procfs`; all call `sys`. Never upwards.

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
compile_error!("session-lock stands on Linux's flock(2) and /proc/locks, and on glibc's threads");

mod error;
mod ffi;
mod holder;
mod label;
mod lock;
mod name;
mod procfs;
mod sys;
mod table;
mod wait;

pub use error::Error;
pub use holder::{Holder, Keeper, Session, State, holder, keepers, list};
pub use lock::{SessionLock, release_fd};
pub use name::path;

#[cfg(test)]
mod testing {
    //! Bytes at random, always the same ones for a seed.

    pub(crate) struct Random(u64);

    impl Random {
        pub fn new(seed: u64) -> Random {
            Random(seed)
        }

        /// Less than `end`. (Steele, Lea and Flood's `SplitMix64`.)
        pub fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
        }

        pub fn byte(&mut self) -> u8 {
            u8::try_from(self.below(256)).unwrap()
        }

        pub fn char(&mut self) -> char {
            char::from_u32(u32::try_from(self.below(0x11_0000)).unwrap()).unwrap_or('x')
        }

        /// So many at most.
        pub fn bytes(&mut self, max: usize) -> Vec<u8> {
            (0..self.below(max + 1)).map(|_| self.byte()).collect()
        }

        /// The same bytes but for a few that were changed, removed, doubled or moved.
        pub fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
            let mut changed = bytes.to_vec();
            for _ in 0..=self.below(4) {
                let at = self.below(changed.len().max(1));
                let end = (at + self.below(8)).min(changed.len());
                match self.below(4) {
                    0 if at < changed.len() => changed[at] = self.byte(),
                    1 => drop(changed.drain(at..end)),
                    2 => changed.extend_from_within(at..end),
                    _ => changed.insert(at, self.byte()),
                }
            }
            changed
        }
    }
}

/// What the targets in `fuzz/` call: there is no other way to it from outside.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use crate::{label, name};

    /// Reads the bytes of a lock file as a label. One that the checksum keeps out gets the right
    /// checksum, too: what is behind it wants to be reached.
    pub fn label(text: &[u8]) {
        label::assert_any_bytes_will_do(text);
        label::assert_any_bytes_will_do(&label::with_checksum(text));
    }

    /// Reads a file's name as that of a lock file, and makes a session of it.
    pub fn name(bytes: &[u8]) {
        name::assert_one_file_for_one_session(OsStr::from_bytes(bytes));
    }
}
