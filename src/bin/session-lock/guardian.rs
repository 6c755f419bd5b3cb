//! The guardian: a small process of its own that holds the lock for as long as COMMAND lives.
//!
//! COMMAND itself must not have the descriptor: what it leaves running in the background would keep
//! the lock. And nobody must be COMMAND's parent but the caller. So the guardian is forked twice: the
//! one in the middle makes itself what the guardian is to be (a session of its own, nothing open but
//! the lock and a descriptor of COMMAND's process), forks, and ends. When its end is seen, the
//! guardian stands.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::parent_id;

use crate::sys::{self, Fork, Undisturbed};

/// How `ps` shows a guardian, with COMMAND's PID behind it.
pub const TITLE: &str = "session-lock: guardian";

/// Starts the guardian of this process, which goes on and executes COMMAND.
///
/// # Errors
///
/// There is no guardian then, and the lock is not held any more.
pub fn start(lock: OwnedFd) -> io::Result<OwnedFd> {
    let command = sys::pidfd_of_myself()?;
    // Until the guardian is in its own session a Ctrl-C would reach it; and then, too, it has nobody
    // to listen to.
    let _undisturbed = Undisturbed::new();
    match sys::fork()? {
        Fork::Child => {
            let Err(error) = become_guardian(lock, &command);
            sys::exit_now(error.raw_os_error().and_then(|errno| errno.try_into().ok()).unwrap_or(1))
        }
        Fork::Parent(middle) => match sys::wait_for(middle)? {
            Some(0) => Ok(lock),
            Some(errno) => Err(io::Error::from_raw_os_error(errno.into())),
            None => Err(io::Error::other("it was killed")),
        },
    }
}

fn become_guardian(lock: OwnedFd, command: &OwnedFd) -> io::Result<Infallible> {
    sys::set_title(&format!("{TITLE} of {}", parent_id()));
    sys::new_session()?;
    env::set_current_dir("/")?;
    sys::close_all_but([lock.as_fd(), command.as_fd()])?;
    if let Fork::Parent(_) = sys::fork()? {
        sys::exit_now(0);
    }
    // Should the wait itself fail, the lock ends with this process: better free than held for ever.
    let waited = sys::poll([Some(command.as_fd()), None], None);
    let released = waited.and_then(|_| session_lock::release_fd(lock));
    sys::exit_now(released.is_err().into())
}
