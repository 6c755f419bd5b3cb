//! What the tests share: scratch directories, and other processes that are told what to do over a
//! pipe, so that no test sleeps to "make sure".
//!
//! A second process is this very test program, started again with a *role*:
//!
//! ```ignore
//! #[test]
//! fn role() {
//!     support::play(&[("holder", holder)]);
//! }
//!
//! fn holder(stage: &mut Stage) {
//!     let lock = SessionLock::acquire(Some(Path::new(&stage.args[0])), "s").unwrap();
//!     stage.say("held");
//!     stage.hear("release");
//!     lock.release().unwrap();
//! }
//!
//! let mut actor = Actor::start("holder", &[dir]);
//! actor.hear("held");
//! ```

#![allow(dead_code, reason = "no test program uses everything")]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

const ROLE: &str = "SESSION_LOCK_TEST_ROLE";
/// In front of every line of ours: the test harness writes to the same standard output.
const MARK: &str = "\u{1}";

/// A directory that is gone afterwards. (It holds lock files; the library never deletes one.)
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("session-lock-test-").tempdir().unwrap()
}

/// This test program, to be started with a role.
pub fn actor_command<S: AsRef<OsStr>>(role: &str, args: &[S]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["role", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(format!("{ROLE}_ARGS"), args.len().to_string());
    for (position, arg) in args.iter().enumerate() {
        command.env(format!("{ROLE}_{position}"), arg);
    }
    command
}

/// Another process, seen from the test. Killed when dropped.
pub struct Actor {
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Actor {
    pub fn start<S: AsRef<OsStr>>(role: &str, args: &[S]) -> Actor {
        Actor::start_with(role, args, |_| {})
    }

    /// `prepare` may change the command before it is started: environment, `pre_exec`.
    pub fn start_with<S: AsRef<OsStr>>(
        role: &str,
        args: &[S],
        prepare: impl FnOnce(&mut Command),
    ) -> Actor {
        let mut command = actor_command(role, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Actor { child, input, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the actor's input is closed");
        writeln!(input, "{line}").unwrap();
    }

    /// The actor's next line; `None` when it has ended.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The harness may have begun the line.
            if let Some((_, line)) = line.split_once(MARK) {
                return Some(line.trim_end_matches('\n').to_owned());
            }
        }
    }

    #[track_caller]
    pub fn hear(&mut self, line: &str) {
        assert_eq!(self.next().as_deref(), Some(line));
    }

    /// SIGKILL, and the wait for its end.
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    /// Closes its input and waits until it has ended by itself, which must be without a failure.
    #[track_caller]
    pub fn finish(mut self) {
        drop(self.input.take());
        while self.next().is_some() {}
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the actor failed: {status}");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The test, seen from the actor.
pub struct Stage {
    pub args: Vec<String>,
}

impl Stage {
    pub fn say(&mut self, line: &str) {
        // One write: another thread or process may be speaking, too.
        let line = format!("{MARK}{line}\n");
        io::stdout().write_all(line.as_bytes()).unwrap();
        io::stdout().flush().unwrap();
    }

    /// The test's next line; `None` when it has closed the pipe.
    pub fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    #[track_caller]
    pub fn hear(&mut self, line: &str) {
        assert_eq!(self.next().as_deref(), Some(line));
    }
}

pub type Role = (&'static str, fn(&mut Stage));

/// The body of each test program's `#[test] fn role()`: nothing, unless the program was started by
/// [`Actor::start`].
pub fn play(roles: &[Role]) {
    let Ok(name) = env::var(ROLE) else { return };
    let count: usize = env::var(format!("{ROLE}_ARGS")).unwrap().parse().unwrap();
    let args = (0..count).map(|n| env::var(format!("{ROLE}_{n}")).unwrap()).collect();
    let (_, role) = roles.iter().find(|(role, _)| *role == name).expect("no such role");
    role(&mut Stage { args });
}

/// What a process has open, by number and target: to see that a call has left nothing behind.
pub fn open_descriptors() -> Vec<(String, String)> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let mut open: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            // The directory's own descriptor is gone by now.
            let target = fs::read_link(&path).ok()?;
            let number = path.file_name()?.to_str()?.to_owned();
            Some((number, target.to_string_lossy().into_owned()))
        })
        .filter(|(_, target)| !target.starts_with("/proc/"))
        .collect();
    open.sort();
    open
}

pub fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// Whether an independent open of the file can take the lock right now: a look from outside, which
/// uses nothing of the library. It does take the lock for a moment.
pub fn is_free(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return true };
    // SAFETY: no memory is involved; the file is open.
    let flock = |operation| unsafe { libc::flock(file.as_raw_fd(), operation) == 0 };
    // Unlocked, and not only closed: a child that another test starts has a copy until its exec.
    flock(libc::LOCK_EX | libc::LOCK_NB) && flock(libc::LOCK_UN)
}

/// For a tool that a test needs: on a user's machine the test says that it is skipped, and why; in
/// CI (`SESSION_LOCK_REQUIRE_TOOLS=1`) it fails.
pub fn have(tool: &str) -> bool {
    let found = env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(tool).is_file()));
    if !found {
        skip(&format!("{tool} is not installed"));
    }
    found
}

pub fn is_root() -> bool {
    // SAFETY: cannot fail, and no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip("this needs root");
    }
    root
}

/// Says that a test is skipped; fails where nothing may be.
pub fn skip(why: &str) {
    assert!(env::var_os("SESSION_LOCK_REQUIRE_TOOLS").is_none(), "not to be skipped here: {why}");
    eprintln!("skipped: {why}");
}
