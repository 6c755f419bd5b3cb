//! A filesystem whose blocked `flock` ignores every signal: bindfs with several threads that hands
//! locks on to the filesystem below.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::c::Program;

struct Mount(PathBuf);

impl Mount {
    fn new(below: &Path, at: &Path) -> Mount {
        let options = ["--multithreaded", "--enable-lock-forwarding"];
        let status = Command::new("bindfs").args(options).args([below, at]).status().unwrap();
        assert!(status.success(), "bindfs: {status}");
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_flock_that_cannot_be_interrupted_is_abandoned() {
    if !support::is_root() || !support::have("bindfs") {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        return support::skip("there is no /dev/fuse");
    }
    let below = support::scratch();
    let at = support::scratch();
    let mount = Mount::new(below.path(), at.path());
    Program::new("wait_abandons_what_cannot_be_stopped").arg("fuse").run_in(&mount.0);
}
