//! `ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...`
//!
//! Runs COMMAND while no other process holds the lock of SESSION, and then publishes COMMAND's output. That
//! step must not run twice, so it only happens if the lock is still held.
//!
//! Exit status: COMMAND's; 75 if another process has the lock; 125 if the lock fails or was lost; 2 for wrong
//! usage. (If this program is killed, COMMAND runs on, without the lock. To tie the lock to the command itself, use
//! `session-lock run`.)

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use session_lock::{Error as LockError, SessionLock, holder};

const USAGE: u8 = 2;
const HELD: u8 = 75;
const FAILED: u8 = 125;

/// Says who has the lock. The answer may be out of date: it is for the reader, not for decisions.
fn say_who(session: &OsStr, what: &str) {
    let who = match holder(None, session) {
        // Another process wrote the command: it may be anything.
        Ok(holder) => holder.pid.map_or(String::new(), |pid| {
            format!(" by PID {pid} ({})", holder.command.to_string_lossy().escape_debug())
        }),
        Err(_) => String::new(),
    };
    eprintln!("ensure: {}: {what}{who}", session.to_string_lossy());
}

/// Takes the lock; waits for it if there is a timeout.
fn take(session: &OsStr, wait: Option<Duration>) -> Result<SessionLock, LockError> {
    match SessionLock::acquire(None, session) {
        // This program has no signal handler that could interrupt the wait.
        Err(LockError::Held { .. }) if wait.is_some() => {
            say_who(session, "waiting, locked");
            SessionLock::wait(None, session, wait, None)
        }
        result => result,
    }
}

/// Does the work while the lock is held; returns the exit status.
fn work(lock: &SessionLock, command: &[OsString]) -> Result<u8, Box<dyn Error>> {
    let run = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            eprintln!("ensure: {}: {error}", command[0].to_string_lossy());
            return Ok(if error.kind() == ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    if !output.status.success() {
        let killed = 128 + output.status.signal().unwrap_or(0);
        return Ok(u8::try_from(output.status.code().unwrap_or(killed))?);
    }
    lock.check().map_err(|error| format!("not published, the lock was lost: {error}"))?;
    io::stdout().write_all(&output.stdout)?;
    Ok(0)
}

fn ensure(session: &OsStr, wait: Option<Duration>, command: &[OsString]) -> u8 {
    let lock = match take(session, wait) {
        Ok(lock) => lock,
        Err(LockError::Held { .. }) => {
            say_who(session, "locked");
            return HELD;
        }
        Err(LockError::TimedOut { .. }) => {
            say_who(session, "still locked");
            return HELD;
        }
        Err(error) => {
            eprintln!("ensure: {}: {error}", session.to_string_lossy());
            return FAILED;
        }
    };
    work(&lock, command).unwrap_or_else(|error| {
        eprintln!("ensure: {}: {error}", session.to_string_lossy());
        FAILED
    })
}

/// `None` for wrong usage.
fn run(args: &[OsString]) -> Option<u8> {
    let (session, mut rest) = args.split_first()?;
    let mut wait = None;
    if rest.first()? == "--wait-lock" {
        let seconds: f64 = rest.get(1)?.to_str()?.parse().ok()?;
        wait = Some(Duration::try_from_secs_f64(seconds).ok()?);
        rest = &rest[2..];
    }
    let (dashes, command) = rest.split_first()?;
    (dashes == "--" && !command.is_empty()).then(|| ensure(session, wait, command))
}

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let status = run(&args).unwrap_or_else(|| {
        eprintln!("usage: ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...");
        USAGE
    });
    ExitCode::from(status)
}
