//! Filesystems that keep `flock` to one mount, although others share the files.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str;

use session_lock::procfs::{self, ProcId};

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
    let info = ProcId::Me.file(&format!("fdinfo/{}", file.as_raw_fd()));
    let info = procfs::read(info).ok()?;
    let id = str::from_utf8(procfs::field(&info, b"mnt_id:")?).ok()?;
    let mounts = procfs::read(ProcId::Me.file("mountinfo")).ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    // `36 35 98:0 /root /mnt options [tags...] - ext4 source options`
    let mount = mounts.lines().find(|line| line.split(' ').next() == Some(id))?;
    let mut fields = mount.split(' ').skip_while(|&field| field != "-").skip(1);
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let has = |option: &str| options.split(',').any(|other| other == option);
    let listed = ALWAYS.contains(&kind)
        || WITH_OPTION.iter().any(|&(of_kind, option)| of_kind == kind && has(option));
    listed.then(|| kind.to_owned())
}
