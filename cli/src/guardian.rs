//! The guardian: a small process of its own that holds the lock for as long as COMMAND lives.
//!
//! COMMAND itself must not have the descriptor: what it leaves running in the background would keep
//! the lock. And nobody must be COMMAND's parent but the caller. So the guardian is forked twice: the
//! one in the middle makes itself what the guardian is to be (a session of its own, nothing open but
//! the lock and a descriptor of COMMAND's process), forks, and ends. When its end is seen, the
//! guardian stands.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::{env, io, process};

use crate::sys::{self, Undisturbed};

/// Starts the guardian of this process, which goes on and executes COMMAND.
///
/// # Errors
///
/// There is no guardian then.
pub fn start(lock: &OwnedFd) -> io::Result<()> {
    let command = sys::pidfd_of_myself()?;
    // Until the guardian is in its own session a Ctrl-C would reach it; and then, too, it has nobody
    // to listen to.
    let _undisturbed = Undisturbed::new();
    let me = process::id();
    let mut middle = || match leave_guardian(lock, &command, me) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().and_then(|errno| errno.try_into().ok()).unwrap_or(1),
    };
    match sys::in_a_child(&mut middle)? {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.into())),
        None => Err(io::Error::other("it was killed")),
    }
}

/// In the middle one.
fn leave_guardian(lock: &OwnedFd, command: &OwnedFd, pid: u32) -> io::Result<()> {
    sys::new_session()?;
    env::set_current_dir("/")?;
    sys::close_all_but([lock.as_fd(), command.as_fd()])?;
    if sys::fork()? {
        guard(lock, command, pid);
    }
    Ok(())
}

/// The guardian.
fn guard(lock: &OwnedFd, command: &OwnedFd, pid: u32) -> ! {
    sys::set_title(&format!("session-lock: guardian of {pid}"));
    let waited = sys::poll([Some(command.as_fd()), None], None);
    // Should the wait itself fail, the lock ends with this process: better free than held for ever.
    let released = waited.and_then(|_| lock.try_clone()).and_then(session_lock::release_fd);
    sys::exit_now(released.is_err().into())
}
