//! Everything that can go wrong, and the one mapping to an errno.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

/// Why a call did not do what it was asked to.
///
/// The variants that callers usually tell apart come first: they are expected outcomes, not failures. [`errno`](Error::errno) is what the C functions return (negated).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another holder has the lock (`EWOULDBLOCK`).
    #[error("{}: locked by another holder", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },

    /// The time ran out before the lock was free (`ETIMEDOUT`).
    #[error("{}: still locked by another holder when the time ran out", path.display())]
    TimedOut {
        /// The lock file.
        path: PathBuf,
    },

    /// The cancel descriptor became readable or was hung up (`ECANCELED`).
    #[error("{}: the wait was cancelled", path.display())]
    Cancelled {
        /// The lock file.
        path: PathBuf,
    },

    /// A signal handler ran in the waiting thread (`EINTR`). Call again with the time that is left.
    #[error("{}: the wait was interrupted by a signal", path.display())]
    Interrupted {
        /// The lock file.
        path: PathBuf,
    },

    /// The wait could never end (`EDEADLK`): a guardian (see [`set_guardian`](crate::set_guardian)) holds
    /// the lock until this very process ends; or this process holds the lock itself, has only one thread,
    /// and gave neither a timeout nor a cancel descriptor.
    #[error("{}: held by this process itself; waiting would never end", path.display())]
    Deadlock {
        /// The lock file.
        path: PathBuf,
    },

    /// The path no longer names the file that is locked: somebody deleted or replaced it, or closed
    /// the descriptor; or a filesystem that is shared with other hosts took the lock away. Exclusion
    /// may have been lost (`ESTALE`).
    #[error("{}: no longer the file that was locked; exclusion may have been lost", path.display())]
    Stale {
        /// The lock file.
        path: PathBuf,
        /// The filesystem's own error, if there was one.
        source: Option<io::Error>,
    },

    /// The label of the lock could not be read or written, so there is no fencing token (`ENODATA`).
    #[error("{}: its label could not be read or written, so there is no token", path.display())]
    NoToken {
        /// The lock file.
        path: PathBuf,
    },

    /// The lock was acquired by the process that this one was forked from (`EPERM`).
    #[error("{}: acquired by the process that this one was forked from", path.display())]
    NotOwner {
        /// The lock file.
        path: PathBuf,
    },

    /// No such handle: never issued, or already released (`EBADF`).
    #[error("no such lock handle: never given, or released already")]
    BadHandle,

    /// The directory or the lock file is not safe to trust, or the default directory would not be the
    /// same for all processes of the user (`EPERM`). The reason says what to do.
    #[error("{}: not safe to use: {reason}", path.display())]
    Untrusted {
        /// The directory or the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The lock file is a symbolic link (`ELOOP`).
    #[error("{}: is a symbolic link, which is never followed", path.display())]
    Symlink {
        /// The lock file.
        path: PathBuf,
    },

    /// The session's file name would be longer than 255 bytes (`ENAMETOOLONG`).
    #[error("the session's lock file name would have {length} bytes; at most 255 are possible")]
    NameTooLong {
        /// How long the file name would be, in bytes.
        length: usize,
    },

    /// An argument that is never valid (`EINVAL`).
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),

    /// A system call failed.
    #[error("{}: {call}: {source}", path.display())]
    Os {
        /// The file or directory it was about.
        path: PathBuf,
        /// The system call.
        call: &'static str,
        /// The error that it returned.
        source: io::Error,
    },
}

impl Error {
    /// The errno (positive) that a C caller gets for this error.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Error::Held { .. } => libc::EWOULDBLOCK,
            Error::TimedOut { .. } => libc::ETIMEDOUT,
            Error::Cancelled { .. } => libc::ECANCELED,
            Error::Interrupted { .. } => libc::EINTR,
            Error::Deadlock { .. } => libc::EDEADLK,
            Error::Stale { .. } => libc::ESTALE,
            Error::NotOwner { .. } | Error::Untrusted { .. } => libc::EPERM,
            Error::NoToken { .. } => libc::ENODATA,
            Error::BadHandle => libc::EBADF,
            Error::Symlink { .. } => libc::ELOOP,
            Error::NameTooLong { .. } => libc::ENAMETOOLONG,
            Error::InvalidArgument(_) => libc::EINVAL,
            // An error without a number would be one of the standard library's own.
            Error::Os { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// The kind is the one a Rust user would expect: `WouldBlock` for [`Error::Held`], `TimedOut`,
/// `Interrupted`, `PermissionDenied` for what is not safe to trust, `InvalidInput` for arguments. For
/// [`Error::Os`] it is the kind of the system call's own error.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Held { .. } => io::ErrorKind::WouldBlock,
            Error::TimedOut { .. } => io::ErrorKind::TimedOut,
            Error::Interrupted { .. } => io::ErrorKind::Interrupted,
            Error::NotOwner { .. } | Error::Untrusted { .. } => io::ErrorKind::PermissionDenied,
            Error::Stale { .. } => io::ErrorKind::StaleNetworkFileHandle,
            Error::Deadlock { .. } => io::ErrorKind::Deadlock,
            Error::InvalidArgument(_) | Error::NameTooLong { .. } | Error::BadHandle => {
                io::ErrorKind::InvalidInput
            }
            Error::Cancelled { .. } | Error::Symlink { .. } | Error::NoToken { .. } => {
                io::ErrorKind::Other
            }
            Error::Os { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_has_the_kind_that_its_user_expects() {
        let path = PathBuf::from("/x/s.lock");
        let source = io::Error::from_raw_os_error(libc::EACCES);
        for (error, kind) in [
            (Error::Held { path: path.clone() }, io::ErrorKind::WouldBlock),
            (Error::TimedOut { path: path.clone() }, io::ErrorKind::TimedOut),
            (Error::Interrupted { path: path.clone() }, io::ErrorKind::Interrupted),
            (Error::NotOwner { path: path.clone() }, io::ErrorKind::PermissionDenied),
            (Error::InvalidArgument("x"), io::ErrorKind::InvalidInput),
            (Error::Os { path, call: "open", source }, io::ErrorKind::PermissionDenied),
        ] {
            let text = error.to_string();
            let error = io::Error::from(error);
            assert_eq!((error.kind(), error.to_string()), (kind, text));
        }
    }
}
