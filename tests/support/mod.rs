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
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub mod bindfs;

pub mod c;

pub mod filter;

pub mod installed;

const ROLE: &str = "SESSION_LOCK_TEST_ROLE";
/// In front of every line of ours: the test harness writes to the same standard output.
const MARK: &str = "\u{1}";

/// Where the workspace is: the tests of both its packages use this file.
pub fn root() -> &'static Path {
    let is_root = |dir: &&Path| dir.join("Cargo.lock").is_file();
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(is_root).expect("no Cargo.lock")
}

/// A directory that is gone afterwards. (It holds lock files; the library never deletes one.)
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("session-lock-test-").tempdir().unwrap()
}

/// This test program, to be started with a role.
pub fn actor_command<S: AsRef<OsStr>>(role: &str, args: &[S]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    assign(&mut command, role, args);
    command
}

fn assign<S: AsRef<OsStr>>(command: &mut Command, role: &str, args: &[S]) {
    command.args(["role", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(format!("{ROLE}_ARGS"), args.len().to_string());
    for (position, arg) in args.iter().enumerate() {
        command.env(format!("{ROLE}_{position}"), arg);
    }
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

    /// `wrapper` is a command that executes the one which follows its arguments: `strace`, `unshare`.
    pub fn start_under<S: AsRef<OsStr>>(wrapper: &[&str], role: &str, args: &[S]) -> Actor {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(env::current_exe().unwrap());
        Actor::start_command(command, role, args)
    }

    /// `prepare` may change the command before it is started: environment, `pre_exec`.
    pub fn start_with<S: AsRef<OsStr>>(
        role: &str,
        args: &[S],
        prepare: impl FnOnce(&mut Command),
    ) -> Actor {
        let mut command = Command::new(env::current_exe().unwrap());
        prepare(&mut command);
        Actor::start_command(command, role, args)
    }

    fn start_command<S: AsRef<OsStr>>(mut command: Command, role: &str, args: &[S]) -> Actor {
        assign(&mut command, role, args);
        Actor::start_other(command)
    }

    /// A command of another kind, which speaks as an actor does.
    pub fn start_other(mut command: Command) -> Actor {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Actor { child, input, output }
    }

    /// Of the wrapper, if there is one.
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
    let free = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
    // Not by the close alone: a process that another test is just starting may have a copy.
    // SAFETY: as above.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
    free
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

/// Nothing may be skipped.
pub fn in_ci() -> bool {
    env::var_os("SESSION_LOCK_REQUIRE_TOOLS").is_some()
}

/// Says that a test is skipped; fails where nothing may be.
pub fn skip(why: &str) {
    assert!(!in_ci(), "not to be skipped here: {why}");
    eprintln!("skipped: {why}");
}

/// For what must happen soon, on a machine that may be very busy with other things.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Polls a state that nothing announces; how long it took. (It must be the presence of something:
/// `/proc/locks` may miss a line of a long table.)
#[track_caller]
pub fn until(state: &str, mut reached: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < LIMIT, "still not so: {state}");
        thread::sleep(Duration::from_micros(200));
    }
    start.elapsed()
}

/// A line of `/proc/locks` about a `flock`, held or waited for.
#[derive(Debug, PartialEq, Eq)]
pub struct Flock {
    pub pid: u32,
    pub ino: u64,
    pub blocked: bool,
}

pub fn flocks() -> Vec<Flock> {
    let table = fs::read_to_string("/proc/locks").unwrap();
    table.lines().filter_map(parse_flock).collect()
}

fn parse_flock(line: &str) -> Option<Flock> {
    let (_, lock) = line.split_once(':')?;
    let lock = lock.trim_start();
    let blocked = lock.starts_with("->");
    let mut fields = lock.trim_start_matches("->").split_ascii_whitespace();
    if fields.next()? != "FLOCK" {
        return None;
    }
    let pid = fields.nth(2)?.parse().ok()?;
    let ino = fields.next()?.rsplit(':').next()?.parse().ok()?;
    Some(Flock { pid, ino, blocked })
}

/// How many calls of `flock` are in the kernel's queue for the file with this inode number.
pub fn waiters(ino: u64) -> usize {
    flocks().iter().filter(|flock| flock.blocked && flock.ino == ino).count()
}

/// Waits until a process is in the kernel's queue for the file with this inode number.
#[track_caller]
pub fn until_blocked(pid: u32, ino: u64) {
    let queued = Flock { pid, ino, blocked: true };
    until("the waiter is in the kernel's queue", || flocks().contains(&queued));
}

pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// A child made by `fork(2)`; to be waited for with [`Forked::ended_well`].
#[must_use]
pub struct Forked {
    pub pid: libc::pid_t,
}

/// Runs `body` in a child made by `fork(2)`: not in a program of its own, as an [`Actor`] is. A
/// panic there is a failure of the child.
pub fn fork(body: impl FnOnce()) -> Forked {
    // SAFETY: the child runs `body` and ends; with glibc it may allocate even if there were other
    // threads.
    fork_with(|| unsafe { libc::fork() }, body)
}

/// `fork` may be another function of that kind.
pub fn fork_with(fork: impl FnOnce() -> libc::pid_t, body: impl FnOnce()) -> Forked {
    let pid = fork();
    assert_ne!(pid, -1, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        let panicked = panic::catch_unwind(AssertUnwindSafe(body)).is_err();
        // SAFETY: ends the process; no destructor and no exit handler of the parent's runs.
        unsafe { libc::_exit(i32::from(panicked)) };
    }
    Forked { pid }
}

impl Forked {
    #[track_caller]
    pub fn ended_well(self) {
        let mut status = 0;
        loop {
            // SAFETY: `status` is an int that the call fills.
            if unsafe { libc::waitpid(self.pid, &raw mut status, 0) } != -1 {
                break;
            }
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "waitpid: {error}");
        }
        assert_eq!(status, 0, "the child failed");
    }
}

/// Whether the tests that can run longer shall do so.
pub fn long() -> bool {
    env::var_os("SESSION_LOCK_LONG").is_some()
}

/// Tests that each need a process to themselves, because they fork, count descriptors or change what
/// belongs to the whole process: functions from `&mut Stage`, by name, and then the other roles.
#[allow(unused_macros, reason = "no test program uses everything")]
macro_rules! alone {
    ($($test:ident),* $(,)?; $($role:expr),* $(,)?) => {
        #[test]
        fn role() {
            support::play(&[$((stringify!($test), $test),)* $($role),*]);
        }

        mod alone {
            use super::support::Actor;

            $(
                #[test]
                fn $test() {
                    Actor::start(stringify!($test), &[""; 0]).finish();
                }
            )*
        }
    };
}
#[allow(unused_imports, reason = "no test program uses everything")]
pub(crate) use alone;
/// Ends the threads that go on until they are told, also when the test fails.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What this program was built for with `cargo test --target`, if it was.
pub fn target() -> Option<String> {
    // <target directory>/<target>/<profile>/deps/<this program>, or without <target>
    let program = env::current_exe().unwrap();
    let name = program.ancestors().nth(3).and_then(Path::file_name).unwrap().to_str().unwrap();
    name.contains("-linux-").then(|| name.to_owned())
}

/// The shared library of this very build.
pub fn shared_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build_library("libsession_lock.so"))
}

/// Builds the library as this program was built, for the same target, and says where the file of this name
/// is. (`cargo test` leaves it somewhere among the intermediate files.)
pub fn build_library(name: &str) -> PathBuf {
    let program = env::current_exe().unwrap();
    let profile = program.ancestors().nth(2).and_then(Path::file_name).unwrap();
    let profile = if profile == "debug" { OsStr::new("dev") } else { profile };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--lib", "--quiet", "--locked", "--message-format=json"]);
    cargo.arg("--manifest-path").arg(root().join("Cargo.toml"));
    let mut directory = program.ancestors().nth(3).unwrap();
    if let Some(target) = target() {
        cargo.args(["--target", &target]);
        directory = directory.parent().unwrap();
    }
    cargo.arg("--profile").arg(profile).arg("--target-dir").arg(directory);
    let output = cargo.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the library does not build");
    // Of the messages only the file names are needed, and those have no characters to escape.
    let messages = String::from_utf8(output.stdout).unwrap();
    let library = messages.split('"').find(|text| text.ends_with(&format!("/{name}")));
    PathBuf::from(library.unwrap_or_else(|| panic!("cargo names no {name}")))
}
