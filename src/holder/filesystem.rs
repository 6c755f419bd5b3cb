//! Which device a filesystem has in the kernel's table of locks, and whether that table has all its
//! locks.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::str;
use std::sync::Mutex;

use crate::procfs::{self, ProcId};
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
        let Ok(Some(mount)) = mount_id(path).and_then(mount) else {
            return Filesystem { device: None, local: false, remote: false };
        };
        // A stat on btrfs and overlayfs gives a device of its own for each subvolume or layer; the
        // table has the mount's.
        let local = LOCAL.contains(&&mount.kind[..]);
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
    sys::statx_mount_id(path).or_else(|_| {
        // Before Linux 5.8, or where a filter denies statx: what an open file says.
        let file = sys::open(path, libc::O_PATH, 0)?;
        let info = ProcId::Me.file(&format!("fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        let text = procfs::read(info)?;
        let id = procfs::field(&text, b"mnt_id:");
        let id = id.and_then(|id| str::from_utf8(id).ok()?.parse().ok());
        id.ok_or_else(|| io::ErrorKind::InvalidData.into())
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    kind: Vec<u8>,
}

/// A mount, from `/proc/self/mountinfo`.
fn mount(id: u64) -> io::Result<Option<Mount>> {
    let text = procfs::read(ProcId::Me.file("mountinfo"))?;
    Ok(text.split(|&byte| byte == b'\n').find_map(|line| parse(line, id)))
}

/// `36 35 98:0 /root /mnt options [tags...] - ext4 source options`: any bytes but blanks and line feeds
/// can be in the names of files and devices.
fn parse(line: &[u8], id: u64) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut text = || str::from_utf8(fields.next()?).ok();
    if text()?.parse() != Ok(id) {
        return None;
    }
    let (major, minor) = (text()?, text()?).1.split_once(':')?;
    let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    // After root, place and options.
    let kind = fields.skip(3).skip_while(|&field| field != b"-").nth(1)?.to_vec();
    Some(Mount { device, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_whatever_the_names_in_its_line() {
        let line =
            b"36 35 98:7 /\xff\xc3 - x /mnt/\xe9 rw,noatime shared:1 master:2 - ext4 /dev/\xff rw";
        let mount = Mount { device: libc::makedev(98, 7), kind: b"ext4".to_vec() };
        assert_eq!(
            parse(b"36 35 98:7 /\xff\\040 /mnt/\xe9 rw,noatime - ext4 /dev/\xff rw", 36),
            Some(mount)
        );
        assert_eq!(parse(line, 35), None);
        for end in 0..line.len() {
            let _ = parse(&line[..end], 36);
        }
    }
}
