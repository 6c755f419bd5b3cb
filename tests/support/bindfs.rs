//! bindfs: a filesystem that is served by a process, which can be stopped.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::{have, is_root, skip, until};

/// Unmounted when dropped.
pub struct Bindfs {
    pub at: PathBuf,
}

impl Bindfs {
    /// Whether it can be mounted here; if not, the reason is reported.
    pub fn is_possible() -> bool {
        if !is_root() || !have("bindfs") {
            return false;
        }
        let possible = Path::new("/dev/fuse").exists();
        if !possible {
            skip("there is no /dev/fuse");
        }
        possible
    }

    pub fn mount(options: &[&str], below: &Path, at: &Path) -> Bindfs {
        let status = Command::new("bindfs").args(options).args([below, at]).status().unwrap();
        assert!(status.success(), "bindfs: {status}");
        Bindfs { at: at.to_owned() }
    }

    /// Stops the server, with a file open there.
    pub fn stop(&self) -> Stopped {
        let open = File::create(self.at.join("open")).unwrap();
        let is_server = |pid: &u32| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with("bindfs") && command.contains(self.at.to_str().unwrap())
        };
        let all = fs::read_dir("/proc").unwrap().map(Result::unwrap);
        let mut all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let server = all.find(is_server).unwrap();
        signal(server, "-STOP");
        // For about a second the kernel answers from what the server has said before.
        let enough = Arc::new(AtomicBool::new(false));
        let asks = {
            let enough = Arc::clone(&enough);
            thread::spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    ask_for_the_type(&open);
                }
            })
        };
        let stopped = Stopped { server, enough, asks: Some(asks) };
        let is_asked = |task: fs::DirEntry| {
            let at = fs::read_to_string(task.path().join("wchan"));
            at.is_ok_and(|at| at == "request_wait_answer")
        };
        until("the server is asked", || {
            fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap).any(is_asked)
        });
        stopped
    }
}

/// Asks only for what the kernel may remember. For the time of birth, say, it asks the server at once.
fn ask_for_the_type(file: &File) {
    let mut stat = MaybeUninit::<libc::statx>::uninit();
    let (fd, path, buffer) = (file.as_raw_fd(), c"".as_ptr(), stat.as_mut_ptr());
    // SAFETY: the path is NUL-terminated, and the buffer has the size of what the call fills.
    unsafe { libc::statx(fd, path, libc::AT_EMPTY_PATH, libc::STATX_TYPE, buffer) };
}

impl Drop for Bindfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// A server that answers nothing. Goes on when dropped.
pub struct Stopped {
    server: u32,
    enough: Arc<AtomicBool>,
    asks: Option<JoinHandle<()>>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.server, "-CONT");
        self.enough.store(true, Ordering::Relaxed);
        let _ = self.asks.take().map(JoinHandle::join);
    }
}

fn signal(server: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &server.to_string()]).status().unwrap();
    assert!(status.success(), "kill {signal}: {status}");
}
