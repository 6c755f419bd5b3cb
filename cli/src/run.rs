//! `run`: acquire or wait, then become COMMAND.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, io, process, str};

use session_lock::{Error, Holder, LockOptions, Process, SessionLock, State};

use crate::cli::RunArgs;
use crate::status::Status;
use crate::{FAILED, guardian, show, sys};

const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Returns only if COMMAND was not executed.
pub fn run(args: &RunArgs) -> u8 {
    let lock = match acquire(args) {
        Ok(lock) => lock,
        Err(code) => return code,
    };
    // Before the guardian is forked: what is written afterwards has to be copied.
    let program = Program::new(args, lock.path());
    let lock = match hand_over(args, lock) {
        Ok(lock) => lock,
        Err(error) => {
            show::complain(format_args!("{error}"));
            return FAILED;
        }
    };
    let code = program.execute(args);
    if args.inherit {
        let _ = session_lock::release_fd(lock);
    }
    // The guardian sees the end of this process, and releases the lock.
    code
}

/// The lock, or the exit code of an attempt that failed and was explained.
fn acquire(args: &RunArgs) -> Result<SessionLock, u8> {
    let began = Instant::now();
    let (dir, session) = (args.dir.dir.as_deref(), args.session.as_os_str());
    let command = args.command.join(OsStr::new(" "));
    let mut options = LockOptions::new().command(command);
    if let Some(dir) = dir {
        options = options.directory(dir);
    }
    let wait = |timeout: Option<Duration>| {
        let options = options.clone();
        timeout
            .map_or_else(|| options.clone().wait(), |timeout| options.clone().timeout(timeout))
            .acquire(session)
    };
    let holder = match wait(Some(Duration::ZERO)) {
        Err(Error::TimedOut { .. }) => {
            session_lock::holder(dir, session).map_err(|e| show::failed(&e))?
        }
        result => return result.map_err(|error| show::failed(&error)),
    };
    let to_wait = args.wait || args.timeout.is_some();
    let deadlock = is_held_by_an_ancestor(dir, session, &holder);
    let ending = !to_wait && has_ended(&holder);
    let mut timeout = match () {
        () if deadlock => Some(Duration::ZERO),
        () if to_wait => args.timeout,
        () if ending => Some(ENDING.0),
        () => Some(Duration::ZERO),
    };
    // Dropped, and its thread ended, before the lock is used.
    let status = (to_wait && !deadlock && !args.quiet).then(|| Status::start(dir, session));
    let result = loop {
        let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        match wait(left) {
            Err(Error::Interrupted { .. }) => {}
            Err(Error::TimedOut { .. })
                if ending && timeout == Some(ENDING.0) && has_guardian(dir, session) =>
            {
                // The look took its time, too.
                timeout = Some(began.elapsed() + ENDING.1);
            }
            result => break result,
        }
    };
    drop(status);
    match result {
        Err(Error::TimedOut { .. }) => {}
        result => return result.map_err(|error| show::failed(&error)),
    }
    if !args.quiet {
        // Whoever it is by now.
        let holder = session_lock::holder(dir, session).unwrap_or(holder);
        let held = show::describe(dir, session, &holder);
        let rest = match args.timeout {
            _ if deadlock => ", which has started this command: to wait would never end".to_owned(),
            Some(timeout) => format!("; waited {timeout:?}"),
            None => "; -w waits for it".to_owned(),
        };
        show::complain(format_args!("{} is {held}{rest}", show::quoted(session)));
    }
    Err(args.conflict_exit_code)
}

/// How long the guardian of a COMMAND that has ended may take to be given the processor: at first,
/// and if it is known to be there.
const ENDING: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Whether the process that took the lock has ended. Perhaps only its guardian still has to notice:
/// the next command of a script must not find the lock held by the one before.
fn has_ended(holder: &Holder) -> bool {
    match holder.state {
        State::Free => true,
        State::Held => holder.orphaned,
        // Where the kernel's table is not all, a label of a process of ours that is dead.
        State::Unknown => holder.pid.is_some(),
    }
}

/// Whether those that keep the lock may be its guardian: they are, or have just ended, or cannot be
/// seen.
fn has_guardian(dir: Option<&Path>, session: &OsStr) -> bool {
    let processes = session_lock::processes(dir, session).unwrap_or_default();
    let is_guardian = |process: &Process| process.command.as_bytes().starts_with(b"session-lock");
    processes.is_empty() || processes.iter().any(is_guardian)
}

/// Whether the lock is held by a process that this one descends from, or is itself: it would wait for
/// us, and we for it.
fn is_held_by_an_ancestor(dir: Option<&Path>, session: &OsStr, holder: &Holder) -> bool {
    let ancestors = ancestors();
    if !holder.orphaned {
        return holder.pid.is_some_and(|pid| ancestors.contains(&pid));
    }
    let processes = session_lock::processes(dir, session).unwrap_or_default();
    processes.iter().any(|process| ancestors.contains(&process.pid))
}

/// This process, its parent, and so on, as far as `/proc` tells.
fn ancestors() -> Vec<u32> {
    let mut ancestors = vec![process::id()];
    let own_proc =
        fs::read_link("/proc/self").is_ok_and(|me| me.as_os_str() == &*process::id().to_string());
    let mut next = Some(parent_id());
    while let Some(pid) = next.filter(|&pid| pid != 0) {
        ancestors.push(pid);
        next = if own_proc { parent_of(pid) } else { None };
    }
    ancestors
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name of the command, in parentheses, may contain anything.
    let name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = str::from_utf8(&stat[name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Puts the lock into other hands than this process's memory, which ends with the execution.
fn hand_over(args: &RunArgs, lock: SessionLock) -> Result<OwnedFd, String> {
    let lock = lock.into_fd().map_err(|error| error.to_string())?;
    if args.inherit {
        sys::make_inheritable(lock.as_fd()).map_err(|error| format!("fcntl: {error}"))?;
        return Ok(lock);
    }
    guardian::start(&lock).map_err(|error| {
        format!("cannot start the lock's guardian: {error}; the command was not run")
    })?;
    Ok(lock)
}

/// COMMAND, its arguments and its environment.
struct Program {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    fn new(args: &RunArgs, path: &Path) -> Program {
        // Neither the arguments nor the environment of a process can contain a NUL byte.
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
        let ours = [
            ("SESSION_LOCK_SESSION", args.session.as_os_str()),
            ("SESSION_LOCK_PATH", path.as_os_str()),
        ];
        let is_ours = |name: &OsString| ours.iter().any(|(ours, _)| name == ours);
        let inherited = env::vars_os().filter(|(name, _)| !is_ours(name));
        let added = ours.map(|(name, value)| (name.into(), value.to_owned()));
        let environment = inherited
            .chain(added)
            .map(|(name, value)| c_string(&[name, value].join(OsStr::new("="))))
            .collect();
        Program { arguments: args.command.iter().map(|text| c_string(text)).collect(), environment }
    }

    /// Becomes COMMAND; returns only if that fails.
    fn execute(&self, args: &RunArgs) -> u8 {
        let error = sys::exec(&self.arguments, &self.environment);
        let command = show::escaped(&args.command[0]);
        if error.kind() == io::ErrorKind::NotFound {
            show::complain(format_args!("{command}: command not found"));
            return NOT_FOUND;
        }
        show::complain(format_args!("{command}: cannot be executed: {error}"));
        CANNOT_EXECUTE
    }
}
