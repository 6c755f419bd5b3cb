//! The helper program, as a shell user meets it: through a real shell, a real terminal, real signals.

#[path = "../../../tests/support/mod.rs"]
mod support;

mod circle;
mod completions;
mod filter;
mod flock;
mod guardian;
mod many;
mod mount;
mod recipes;
mod run;
mod script;
mod show;
mod terminal;
mod wait;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use support::{LIMIT, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-lock");

/// A directory with locks, in which scripts run.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        // What is ignored stays so in all that is started here; nohup and a shell's background jobs do that.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: no handler of ours is replaced.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Place { dir: support::scratch() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn lock_file(&self, session: &str) -> PathBuf {
        self.path().join(format!("{session}.lock"))
    }

    /// The first line of the lock file.
    fn holder_in_label(&self, session: &str) -> String {
        let label = fs::read_to_string(self.lock_file(session)).unwrap();
        label.lines().next().unwrap_or_default().to_owned()
    }

    /// A command that finds `session-lock` in its PATH, and its locks here.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut path = Path::new(PROGRAM).parent().unwrap().as_os_str().to_owned();
        path.push(":");
        path.push(env::var_os("PATH").unwrap());
        command.env("PATH", path).env("SESSION_LOCK_DIR", self.path()).current_dir(self.path());
        command
    }

    /// A script that must end by itself.
    fn script(&self, script: &str) -> Command {
        let mut command = self.command("timeout");
        command.args(["--foreground", "-k", "1", "60", "sh", "-c", script]);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> Output {
        self.script(script).output().unwrap()
    }

    /// The standard output of a script, which must say nothing on standard error.
    #[track_caller]
    fn output(&self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{script}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a process that says that it holds the lock, and holds it until told to end.
    fn hold(&self, args: &[&str]) -> Holding {
        let mut command = self.command(PROGRAM);
        command.arg("run").args(args).args(["--", "sh", "-c", "echo held; read line; exit 7"]);
        let mut holding = Holding::start(command);
        holding.hear("held");
        holding
    }

    #[track_caller]
    fn until_free(&self, session: &str) {
        until("the lock is free", || support::is_free(&self.lock_file(session)));
    }
}

/// A process that is told to end by a line.
struct Holding {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Holding {
    fn start(mut command: Command) -> Holding {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Holding { child, output }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    #[track_caller]
    fn hear(&mut self, line: &str) {
        assert_eq!(self.next(), line);
    }

    /// SIGKILL, and the wait for the end. Its children's standard input stays open.
    fn kill(&mut self) {
        let input = self.child.stdin.take();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child.stdin = input;
    }

    fn finish(mut self) -> ExitStatus {
        let _ = self.child.stdin.take().unwrap().write_all(b"\n");
        self.child.wait().unwrap()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody waits for the lock in the kernel's queue.
fn is_waited_for(path: &Path) -> bool {
    support::waiters(support::inode(path)) > 0
}

/// Runs each in a thread of its own.
fn at_once<T: Sync>(items: &[T], test: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for item in items {
            scope.spawn(|| test(item));
        }
    });
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid.try_into().unwrap(), signal) }, 0);
}

/// A process that has neither ended nor become a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
