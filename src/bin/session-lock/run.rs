//! `run`: acquire or wait, then become COMMAND.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use session_lock::{Error, SessionLock};

use crate::cli::RunArgs;
use crate::{FAILED, guardian, show, status, sys};

const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Returns only if COMMAND was not executed.
pub fn run(args: &RunArgs) -> u8 {
    let lock = match acquire(args) {
        Ok(lock) => lock,
        Err(code) => return code,
    };
    let path = lock.path().to_owned();
    let lock = match hand_over(args, lock) {
        Ok(lock) => lock,
        Err(error) => {
            show::complain(format_args!("{error}"));
            return FAILED;
        }
    };
    let code = execute(args, &path);
    if args.inherit {
        let _ = session_lock::release_fd(lock);
    }
    // The guardian sees the end of this process, and releases the lock.
    code
}

fn acquire(args: &RunArgs) -> Result<SessionLock, u8> {
    let dir = args.dir.dir.as_deref();
    let failed = |error: &Error| {
        show::complain(format_args!("{error}"));
        FAILED
    };
    let began = Instant::now();
    match SessionLock::acquire(dir, &args.session) {
        Err(Error::Held { .. }) => {}
        result => return result.map_err(|error| failed(&error)),
    }
    if args.wait || args.timeout.is_some() {
        let _status = (!args.quiet).then(|| status::Status::start(dir, &args.session));
        loop {
            let left = args.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
            match SessionLock::wait(dir, &args.session, left, None) {
                Err(Error::Interrupted { .. }) => {}
                Err(Error::TimedOut { .. }) => break,
                result => return result.map_err(|error| failed(&error)),
            }
        }
    }
    if !args.quiet {
        show::complain(format_args!("held"));
    }
    Err(args.conflict_exit_code)
}

/// Puts the lock into other hands than this process's memory, which ends with the execution.
fn hand_over(args: &RunArgs, lock: SessionLock) -> Result<OwnedFd, String> {
    // The lock is as good with another label.
    let _ = lock.set_command(args.command.join(OsStr::new(" ")));
    let lock = lock.into_fd().map_err(|error| error.to_string())?;
    if args.inherit {
        sys::make_inheritable(lock.as_fd()).map_err(|error| format!("fcntl: {error}"))?;
        return Ok(lock);
    }
    guardian::start(lock).map_err(|error| {
        format!("cannot start the lock's guardian: {error}; the command was not run")
    })
}

/// Becomes COMMAND; returns only if that fails.
fn execute(args: &RunArgs, path: &Path) -> u8 {
    // Neither the arguments nor the environment of a process can contain a NUL byte.
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let arguments: Vec<CString> = args.command.iter().map(|text| c_string(text)).collect();
    let ours = [
        ("SESSION_LOCK_SESSION", args.session.as_os_str()),
        ("SESSION_LOCK_PATH", path.as_os_str()),
    ];
    let is_ours = |name: &OsString| ours.iter().any(|(ours, _)| name == ours);
    let inherited = env::vars_os().filter(|(name, _)| !is_ours(name));
    let added = ours.map(|(name, value)| (name.into(), value.to_owned()));
    let environment: Vec<CString> = inherited
        .chain(added)
        .map(|(name, value)| c_string(&[name, value].join(OsStr::new("="))))
        .collect();
    let error = sys::exec(&arguments, &environment);
    let command = show::escaped(&args.command[0]);
    if error.kind() == io::ErrorKind::NotFound {
        show::complain(format_args!("{command}: command not found"));
        return NOT_FOUND;
    }
    show::complain(format_args!("{command}: cannot be executed: {error}"));
    CANNOT_EXECUTE
}
