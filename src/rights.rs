//! The rights of a new lock file: whoever may write the directory may write the file, too. Otherwise
//! the first user of a session, or that user's umask, would lock the others out for ever.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use crate::sys::{self, Stat};

const READ_WRITE: u16 = 0o6;
const WRITE: u16 = 0o2;

/// The mode of a file in this directory: 0600, 0660, 0606 or 0666.
pub(crate) fn mode_in(dir: &Stat) -> u32 {
    let write = dir.mode & 0o022;
    0o600 | write | write << 1
}

/// Whether somebody else but the caller (and the superuser) may write the directory.
pub(crate) fn is_shared(dir: &Stat) -> bool {
    dir.mode & 0o022 != 0 || dir.uid != sys::geteuid()
}

/// Gives a file that the caller has just created in `dir` its rights, whatever the umask. What the
/// filesystem refuses is left as it is: the lock is as good without.
pub(crate) fn give(file: BorrowedFd<'_>, dir: &CStr, dir_stat: &Stat) {
    let mode = mode_in(dir_stat);
    if is_shared(dir_stat) && mode & 0o006 == 0 {
        // The superuser does not lock the owner of the directory out, and who is in its group not
        // that group. In a directory with the set-group-ID bit the file has the group already.
        if sys::fchown(file, Some(dir_stat.uid), dir_stat.gid).is_err() {
            let _ = sys::fchown(file, None, dir_stat.gid);
        }
        // Where there is an access control list, the group's bits show the most that it gives to
        // anybody (acl(5)).
        let list = if mode & 0o060 == 0 { None } else { sys::getxattr(dir, ACCESS_LIST) };
        if let Some(list) = list.and_then(|list| list_for_file(&list, dir_stat)) {
            if sys::fsetxattr(file, ACCESS_LIST, &list).is_ok() {
                return;
            }
        }
    }
    let _ = sys::fchmod(file, mode);
}

// The kernel's own form of an access control list (linux/posix_acl_xattr.h): a version, and then for
// each entry who, what and which ID, little-endian.
const ACCESS_LIST: &CStr = c"system.posix_acl_access";
const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

/// Who, and which ID; what they may do.
type Entry = ((u16, u32), u16);

/// Keeps the list in the order that the kernel asks for (posix_acl_valid() in fs/posix_acl.c).
fn set(list: &mut Vec<Entry>, who: u16, id: u32, what: u16) {
    match list.binary_search_by_key(&(who, id), |entry| entry.0) {
        Ok(at) => list[at].1 = what,
        Err(at) => list.insert(at, ((who, id), what)),
    }
}

/// The list for a file in a directory with `list`: to read and write for whoever may write there. The
/// owner and the group of the directory, which need not be the file's, get entries of their own.
fn list_for_file(list: &[u8], dir: &Stat) -> Option<Vec<u8>> {
    let entries = list.strip_prefix(&VERSION)?.chunks_exact(8).map(|entry| {
        let number = |at| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        ((number(0), id), number(2))
    });
    let of_dir: Vec<Entry> = entries.collect();
    let right = |whose| of_dir.iter().find(|entry| entry.0.0 == whose).map(|entry| entry.1);
    let (owner, mask) = (right(USER_OBJ)?, right(MASK)?);
    let read_write = |what: u16| if what & WRITE != 0 { READ_WRITE } else { 0 };
    let mut of_file = Vec::new();
    set(&mut of_file, USER_OBJ, NO_ID, READ_WRITE);
    set(&mut of_file, GROUP_OBJ, NO_ID, 0);
    set(&mut of_file, MASK, NO_ID, READ_WRITE);
    set(&mut of_file, OTHER, NO_ID, 0);
    for &((who, id), what) in &of_dir {
        match who {
            USER | GROUP => set(&mut of_file, who, id, read_write(what & mask)),
            GROUP_OBJ => set(&mut of_file, GROUP, dir.gid, read_write(what & mask)),
            _ => {}
        }
    }
    set(&mut of_file, USER, dir.uid, read_write(owner));
    let mut text = VERSION.to_vec();
    for ((who, id), what) in of_file {
        text.extend(who.to_le_bytes());
        text.extend(what.to_le_bytes());
        text.extend(id.to_le_bytes());
    }
    Some(text)
}
