//! The directory of a caller who names none: the same one for every process of a user, or an error.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::procfs;
use crate::sys;

/// What `$SESSION_LOCK_DIR` names; `None` if it is not set, or empty.
pub(crate) fn from_environment() -> Result<Option<PathBuf>, Error> {
    let Some(dir) = env::var_os("SESSION_LOCK_DIR").filter(|dir| !dir.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(dir);
    // Its caller could lead such a program to any directory; and in another one than the caller's
    // it would exclude nobody.
    if sys::is_secure() {
        let reason = "$SESSION_LOCK_DIR is refused in a program with raised privileges (set-user-ID, \
                      set-group-ID, file capabilities); unset it, or have the program name a directory";
        return Err(Error::Untrusted { path, reason });
    }
    if path.is_relative() {
        let reason = "$SESSION_LOCK_DIR is not an absolute path, so it is another directory in each working \
                      directory; set it to one that begins with /";
        return Err(Error::Untrusted { path, reason });
    }
    Ok(Some(path))
}

/// `/tmp/session-lock-<uid>`, with the effective user ID as it is outside of the caller's user
/// namespace: there the same user may have other processes.
pub(crate) fn default_directory() -> Result<PathBuf, Error> {
    /// The last answer, and the effective user ID that it was given for (in the upper half). That
    /// changes with setuid(2), and with unshare(2) and setns(2) to another user namespace.
    static LAST: AtomicU64 = AtomicU64::new(u64::MAX);
    const LOW: u64 = u32::MAX as u64;

    let euid = sys::geteuid();
    let last = LAST.load(Ordering::Relaxed);
    let uid = if last >> 32 == u64::from(euid) && last != u64::MAX {
        last & LOW
    } else {
        let uid = u64::from(outer_uid(euid)?);
        tmp_is_everybodys(uid)?;
        LAST.store(u64::from(euid) << 32 | uid, Ordering::Relaxed);
        uid
    };
    Ok(directory_of(uid))
}

fn directory_of(uid: u64) -> PathBuf {
    PathBuf::from(format!("/tmp/session-lock-{uid}"))
}

fn outer_uid(euid: u32) -> Result<u32, Error> {
    let map = match procfs::uid_map() {
        // Without /proc, or in a kernel without user namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(euid),
        Err(source) => {
            return Err(Error::Os { path: procfs::UID_MAP.into(), call: "read", source });
        }
        Ok(map) => map,
    };
    map.iter().find_map(|range| range.outside(euid)).ok_or(Error::Untrusted {
        path: "/tmp".into(),
        reason: "the user has no ID outside this user namespace to name the default directory after; set \
                 SESSION_LOCK_DIR, or name a directory",
    })
}

/// In a service of systemd with `PrivateTmp=`, `/tmp` is not the one that the user's other processes
/// see.
fn tmp_is_everybodys(uid: u64) -> Result<(), Error> {
    let root = match procfs::mount_root("/tmp") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(Error::Os { path: procfs::MOUNTINFO.into(), call: "read", source });
        }
        Ok(root) => root.unwrap_or_default(),
    };
    if root.split(|&byte| byte == b'/').any(|name| name.starts_with(b"systemd-private-")) {
        return Err(Error::Untrusted {
            path: directory_of(uid),
            reason: "/tmp is private to this service (PrivateTmp=), so the lock would exclude nobody outside it; set \
                     SESSION_LOCK_DIR to a directory that everybody sees, or name one",
        });
    }
    Ok(())
}
