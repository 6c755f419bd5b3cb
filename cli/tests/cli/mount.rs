//! Filesystems that keep `flock` to one mount.

use crate::{Place, support};

/// A script that runs where all mounts are of a type, as far as the program can see.
fn on(place: &Place, kind: &str, script: &str) -> (String, String) {
    let script = format!(
        "mount -t tmpfs none . && export SESSION_LOCK_DIR=$PWD/locks &&
        sed 's/ - [^ ]* \\([^ ]* .*\\)/ - {kind} \\1/' /proc/self/mountinfo >mounts &&
        as() {{ sh -c 'mount --bind mounts /proc/$$/mountinfo; exec \"$@\"' sh \"$@\"; }} && {script}"
    );
    let mut command = place.command("unshare");
    let output = command.args(["-m", "sh", "-c", &script]).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn run_and_acquire_warn_once_where_locks_are_kept_to_one_mount() {
    if !support::is_root() || !support::have("unshare") {
        return;
    }
    let place = Place::new();
    let warning = |kind: &str| {
        format!(
            "session-lock: warning: {}/locks/s.lock is on {kind}, which keeps locks to one mount: who has \
             the same files by another mount, or on another host, is not locked out\n",
            place.path().display()
        )
    };
    let run = "as session-lock run s -- echo ran";
    for kind in ["9p", "fuse.sshfs", "fuse.rclone", "vboxsf"] {
        assert_eq!(on(&place, kind, run), ("ran\n".to_owned(), warning(kind)));
    }
    for (kind, option) in [("nfs4", "local_lock=all"), ("cifs", "nobrl")] {
        let (out, err) = on(&place, &format!("{kind} x rw,{option},a"), run);
        assert_eq!((out.as_str(), err), ("ran\n", warning(kind)));
    }
    for kind in ["tmpfs", "nfs4 x rw,local_lock=none", "cifs x rw", "ceph", "fuse.bindfs"] {
        assert_eq!(on(&place, kind, run), ("ran\n".to_owned(), String::new()), "{kind}");
    }
    // Once, also for a wait; and not with -q.
    let script = "as session-lock acquire --for $$ s; as session-lock run -q s -- true; echo $?
        as session-lock run -t 0.3 -E 9 s -- true; echo $?; session-lock release --for $$ s
        as session-lock acquire -q --for $$ s; as session-lock acquire -q --for $$ s; echo $?";
    let (out, err) = on(&place, "9p", script);
    assert_eq!(out, "75\n9\n75\n");
    assert_eq!(err.matches("warning").count(), 2, "{err}");
    assert!(err.starts_with(&warning("9p")), "{err}");
}
