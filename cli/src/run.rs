//! `run`: acquire or wait, then become COMMAND.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::{env, process};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::execvpe;
use session_lock::{Error, SessionLock};

use crate::attempt::Attempt;
use crate::cli::RunArgs;
use crate::guardian::{self, AtEnd};
use crate::{FAILED, progress, show};

const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Returns only if COMMAND was not executed.
pub fn run(args: &RunArgs) -> u8 {
    let lock = match acquire(args) {
        Ok(lock) => lock,
        Err(code) => return code,
    };
    // Before the guardian is made: what is written afterwards has to be copied.
    let image = ExecImage::new(args, &lock);
    let lock = match hand_over(args, lock) {
        Ok(lock) => lock,
        Err(error) => {
            show::complain(format_args!("{error}"));
            return FAILED;
        }
    };
    let code = image.execute(args);
    if args.inherit {
        // The guardian would leave it to the others that share it; COMMAND was not executed, so there are none.
        let _ = session_lock::release_fd(lock);
    }
    code
}

/// The lock, or the exit code of an attempt that failed and was explained.
fn acquire(args: &RunArgs) -> Result<SessionLock, u8> {
    let me = process::id();
    let attempt = Attempt::new(&args.session, &args.wait, me);
    let mut options = attempt.options().command(args.command.join(OsStr::new(" ")));
    if !args.inherit {
        options = options.until_exit_of(me);
    }
    let first = options.acquire(attempt.session);
    attempt.warn_of_mount();
    match first {
        Err(Error::Held { .. }) => attempt.go_on_waiting()?,
        result => return result.map_err(|error| show::failed(&error)),
    }
    let result = progress::while_watched(attempt, || {
        loop {
            match attempt.wait(&options).acquire(attempt.session) {
                Err(Error::Interrupted { .. }) => {}
                result => return result,
            }
        }
    });
    match result {
        Err(Error::TimedOut { .. }) => Err(attempt.time_is_over()),
        result => result.map_err(|error| show::failed(&error)),
    }
}

/// Puts the lock into other hands than this process's memory, which ends with the execution.
fn hand_over(args: &RunArgs, lock: SessionLock) -> Result<OwnedFd, String> {
    let mut at_end = AtEnd::Release(lock.prepare_release());
    let lock = lock.into_fd().map_err(|error| error.to_string())?;
    if args.inherit {
        fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|error| format!("fcntl: {error}"))?;
        at_end = AtEnd::Close;
    }
    // SAFETY: the only other thread there was, the one that says what is waited for, has ended.
    let (lock, guardian) = unsafe { guardian::start(lock, at_end) }?;
    // Who asks for the holder finds it sooner by that; without it the lock is as good.
    let _ = session_lock::set_guardian(lock.as_fd(), guardian);
    Ok(lock)
}

/// COMMAND, its arguments and its environment.
struct ExecImage {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl ExecImage {
    fn new(args: &RunArgs, lock: &SessionLock) -> ExecImage {
        let c_string = |text: &OsStr| {
            CString::new(text.as_bytes()).expect("no argument and no variable contains a NUL byte")
        };
        let token = lock.token().map(|token| token.to_string());
        let ours = [
            ("SESSION_LOCK_SESSION", Some(args.session.as_os_str())),
            ("SESSION_LOCK_PATH", Some(lock.path().as_os_str())),
            ("SESSION_LOCK_TOKEN", token.as_deref().ok().map(OsStr::new)),
        ];
        // Another lock's are not inherited.
        let is_ours = |name: &OsString| ours.iter().any(|(ours, _)| name == ours);
        let inherited = env::vars_os().filter(|(name, _)| !is_ours(name));
        let added =
            ours.iter().filter_map(|(name, value)| Some((name.into(), (*value)?.to_owned())));
        let environment = inherited
            .chain(added)
            .map(|(name, value)| c_string(&[name, value].join(OsStr::new("="))))
            .collect();
        ExecImage {
            arguments: args.command.iter().map(|text| c_string(text)).collect(),
            environment,
        }
    }

    /// Becomes COMMAND; returns only if that fails.
    fn execute(&self, args: &RunArgs) -> u8 {
        let Err(error) = execvpe(&self.arguments[0], &self.arguments, &self.environment);
        let command = show::escaped(&args.command[0]);
        if error == nix::Error::ENOENT {
            show::complain(format_args!("{command}: command not found"));
            return NOT_FOUND;
        }
        show::complain(format_args!("{command}: cannot be executed: {}", error.desc()));
        CANNOT_EXECUTE
    }
}
