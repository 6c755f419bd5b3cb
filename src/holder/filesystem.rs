//! Which device a filesystem has in the kernel's table of locks, and whether that table has all its
//! locks.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;

use crate::procfs::{self, MOUNTINFO};
use crate::sys::{self, FileId};

#[derive(Clone, Copy)]
pub(super) struct Filesystem {
    /// The table's device, where it is not the one that `stat` gives.
    device: Option<u64>,
    /// The local kernel keeps all locks on it.
    pub local: bool,
    /// A server keeps them, and the kernel's table goes on naming a holder that has lost the lock because
    /// this host was cut off. (What FUSE leaves to a process is not in the table.)
    pub remote: bool,
}

/// Filesystems whose locks the local kernel keeps, as `/proc/self/mountinfo` calls them. Without such a
/// list one that is new, or kept by another host, would count as local: the answer "free" must not come
/// from not knowing it.
const LOCAL: [&[u8]; 22] = [
    b"ext2",
    b"ext3",
    b"ext4",
    b"xfs",
    b"tmpfs",
    b"ramfs",
    b"rootfs",
    b"btrfs",
    b"overlay",
    b"f2fs",
    b"zfs",
    b"bcachefs",
    b"jfs",
    b"nilfs2",
    b"reiserfs",
    b"vfat",
    b"exfat",
    b"ntfs3",
    b"squashfs",
    b"erofs",
    b"iso9660",
    b"udf",
];

impl Filesystem {
    /// Of the file or directory `path` with the device `dev`.
    pub fn of(path: &CStr, dev: u64) -> Filesystem {
        const EXT: u32 = 0xEF53;
        const XFS: u32 = 0x5846_5342;
        // On a disk of its own there is nothing to look up. (9p hands on the server's type, but has a
        // device without a driver, of the major number 0.)
        let disk = libc::major(dev) != 0;
        if disk && matches!(sys::statfs_type(path), Ok(EXT | XFS)) {
            return Filesystem { device: None, local: true, remote: false };
        }
        // A number that no other mount will have until the next boot: what it stands for never changes.
        static CACHE: Mutex<Option<(u64, Filesystem)>> = Mutex::new(None);
        let unique = sys::statx_unique_mount_id(path).ok();
        // Never waits: in a child, the thread that had it locked at the fork may not exist.
        let mut cache = CACHE.try_lock().ok();
        if let Some((id, known)) = cache.as_deref().copied().flatten() {
            if unique == Some(id) {
                return known;
            }
        }
        let unknown = Filesystem { device: None, local: false, remote: false };
        let Ok(number) = mount_id(path) else { return unknown };
        let Ok(text) = procfs::read(MOUNTINFO) else { return unknown };
        let Some(mount) = procfs::mounts(&text).find(|mount| mount.id == number) else {
            return unknown;
        };
        // A stat on btrfs and overlayfs gives a device of its own for each subvolume or layer; the
        // table has the mount's.
        let local = LOCAL.contains(&mount.kind);
        let remote = !local && !mount.kind.starts_with(b"fuse");
        let filesystem = Filesystem { device: Some(mount.device), local, remote };
        // If it still is the same mount that is there.
        let again = sys::statx_unique_mount_id(path).ok();
        if let (Some(cache), Some(id)) = (&mut cache, unique.filter(|_| unique == again)) {
            **cache = Some((id, filesystem));
        }
        filesystem
    }

    pub fn in_table(&self, file: FileId) -> FileId {
        FileId { dev: self.device.unwrap_or(file.dev), ino: file.ino }
    }
}

/// The number of the mount that `path` is on.
fn mount_id(path: &CStr) -> io::Result<u64> {
    // Before Linux 5.8, or where a filter denies statx: what an open file says.
    sys::statx_mount_id(path)
        .or_else(|_| procfs::mount_id(sys::open(path, libc::O_PATH, 0)?.as_fd()))
}
