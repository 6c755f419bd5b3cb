//! Filesystems that keep `flock` to one mount, although others share the files.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str;

use session_lock::procfs;

/// Those that never tell others of a lock, as `/proc/self/mountinfo` calls them.
const ALWAYS: [&str; 7] =
    ["9p", "vboxsf", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.vmhgfs-fuse"];
/// Those that were mounted so.
const WITH_OPTION: [(&str, &str); 6] = [
    ("nfs", "local_lock=flock"),
    ("nfs", "local_lock=all"),
    ("nfs4", "local_lock=flock"),
    ("nfs4", "local_lock=all"),
    ("cifs", "nobrl"),
    ("smb3", "nobrl"),
];

/// The type of the filesystem that a file is on, if it is one of those.
pub fn that_keeps_locks_to_itself(file: &Path) -> Option<String> {
    // One on a disk of its own is not shared, and its device has a driver.
    if libc::major(fs::metadata(file).ok()?.dev()) != 0 {
        return None;
    }
    let file = File::options().read(true).custom_flags(libc::O_PATH).open(file).ok()?;
    let id = procfs::mount_id(file.as_fd()).ok()?;
    let text = procfs::read(procfs::MOUNTINFO).ok()?;
    let mount = procfs::mounts(&text).find(|mount| mount.id == id)?;
    let kind = str::from_utf8(mount.kind).ok()?;
    let options = || mount.options.split(|&byte| byte == b',');
    let has = |option: &str| options().any(|other| other == option.as_bytes());
    let listed = ALWAYS.contains(&kind)
        || WITH_OPTION.iter().any(|&(of_kind, option)| of_kind == kind && has(option));
    listed.then(|| kind.to_owned())
}
