//! `acquire`, `release` and `check`: the lock for a process that is running already.
//!
//! `acquire` starts the guardian first, and the guardian takes the lock: so the kernel's table names a
//! process that lives. The process in the foreground says what is waited for, listens to signals, and ends
//! when the lock is held. If it ends before, so does the attempt.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::time::Duration;
use std::{fmt, process};

use nix::fcntl::OFlag;
use nix::unistd::{geteuid, pipe2};
use session_lock::procfs::{self, ProcId};
use session_lock::{Error, LockOptions, State};

use crate::attempt::Attempt;
use crate::cli::{AcquireArgs, HeldArgs};
use crate::guardian::{self, AtEnd, Watched};
use crate::progress;
use crate::sys::{self, BlockedSignals};
use crate::{FAILED, USAGE, show};

/// `check` and `release`: no.
const NOT_HELD: u8 = 1;

/// How long a guardian may take to release the lock, on a busy machine.
const RELEASE_TIME: Duration = Duration::from_secs(10);

// ---------------------------------------------------------------------------------------- acquire

pub fn acquire(args: &AcquireArgs) -> u8 {
    match try_acquire(args) {
        Ok(()) => 0,
        Err(code) => code,
    }
}

fn try_acquire(args: &AcquireArgs) -> Result<(), u8> {
    let failed = |what: fmt::Arguments<'_>| {
        show::complain(what);
        FAILED
    };
    let (pid, watched) = process(args.process)?;
    let attempt = Attempt::new(&args.session, &args.wait, pid);
    let command = procfs::command(ProcId::Pid(pid)).unwrap_or_default();
    let options = attempt.options().until_exit_of(pid).command(show::os_string(command));
    let pipe =
        || pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(format_args!("pipe: {}", error.desc())));
    let (answers, answer) = pipe()?;
    let (waiting, patience) = pipe()?;
    let blocked = BlockedSignals::all();
    // SAFETY: no thread has been started in this process.
    let child = unsafe { sys::fork() };
    match child {
        Ok(None) => {
            drop((answers, patience));
            let line = Line { answers: answer.into(), waiting: waiting.into() };
            take(&attempt, options, &watched, line)
        }
        Ok(Some(guardian)) => {
            drop((blocked, answer, waiting));
            wait_for(&attempt, guardian, &watched, answers.into(), patience.into())
        }
        Err(error) => Err(failed(format_args!(
            "cannot start the lock's guardian: fork: {error}{}",
            guardian::help(&error)
        ))),
    }
}

// What the guardian says to the process in the foreground.
const HELD: u8 = b'h';
const MUST_WAIT: u8 = b'w';
const TIMED_OUT: u8 = b't';
const ERROR: u8 = b'e';

/// In the foreground.
fn wait_for(
    attempt: &Attempt<'_>,
    guardian: u32,
    watched: &Watched,
    mut answers: File,
    mut patience: File,
) -> Result<(), u8> {
    let read = |answers: &mut File| {
        let mut answer = [0];
        answers.read_exact(&mut answer).map(|()| answer[0])
    };
    let mut answer = read(&mut answers);
    attempt.warn_of_mount();
    loop {
        match answer {
            Ok(HELD) => {
                // From here on the guardian does not depend on this process.
                let _ = patience.write_all(b"\n");
                return Ok(());
            }
            Ok(MUST_WAIT) => {
                attempt.go_on_waiting()?;
                let _ = patience.write_all(b"\n");
                progress::watch(*attempt, guardian, watched, answers.as_fd());
                answer = read(&mut answers);
            }
            Ok(TIMED_OUT) => return Err(attempt.time_is_over()),
            Ok(_) => {
                let mut message = String::new();
                let _ = answers.read_to_string(&mut message);
                show::complain(format_args!("{message}"));
                return Err(FAILED);
            }
            Err(_) => {
                show::complain(format_args!("the guardian was killed; the lock is not held"));
                return Err(FAILED);
            }
        }
    }
}

/// The guardian's end of the two pipes.
struct Line {
    answers: File,
    /// Hung up when the process in the foreground has ended.
    waiting: File,
}

/// In the guardian, in which all signals are blocked.
fn take(attempt: &Attempt<'_>, options: LockOptions<'_>, watched: &Watched, mut line: Line) -> ! {
    sys::set_name(guardian::NAME);
    let mut say = |text: &[u8]| line.answers.write_all(text).is_ok();
    let mut result = options.acquire(attempt.session);
    if matches!(result, Err(Error::Held { .. })) {
        // It waits when it is told to: until then, whoever asks for the holder finds another one.
        if !(say(&[MUST_WAIT]) && line.waiting.read_exact(&mut [0]).is_ok()) {
            sys::exit_now(0);
        }
        let options = options.cancel(line.waiting.as_fd());
        result = loop {
            match attempt.wait(&options).acquire(attempt.session) {
                Err(Error::Interrupted { .. }) => {}
                result => break result,
            }
        };
    }
    let result = result.and_then(|lock| {
        let release = lock.prepare_release();
        Ok((lock.into_fd()?, release))
    });
    let (lock, release) = match result {
        Ok(taken) => taken,
        Err(error) => {
            match error {
                Error::TimedOut { .. } => say(&[TIMED_OUT]),
                error => say(&[&[ERROR], show::message(&error).as_bytes()].concat()),
            };
            sys::exit_now(0);
        }
    };
    let _ = session_lock::set_guardian(lock.as_fd(), process::id());
    // With an answer that is heard, and acknowledged, the lock is held.
    let is_wanted = say(&[HELD]) && line.waiting.read_exact(&mut [0]).is_ok();
    if !is_wanted {
        let _ = session_lock::release_fd(lock);
        sys::exit_now(0);
    }
    guardian::serve(lock, watched, AtEnd::Release(release))
}

/// The process that the lock is for: the one that was named, or else the one that has started this one.
fn process(named: Option<u32>) -> Result<(u32, Watched), u8> {
    let pid = caller(named)?;
    let complain = |what: fmt::Arguments<'_>| {
        show::complain(what);
        FAILED
    };
    let watched = Watched::open(pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => complain(format_args!("there is no process {pid}")),
        _ => complain(format_args!(
            "process {pid} cannot be watched: {error}{}",
            guardian::help(&error)
        )),
    })?;
    // It has ended, and left this process to another one.
    if named.is_none() && parent_id() != pid || watched.has_ended() {
        return Err(complain(format_args!("process {pid} has ended")));
    }
    let owner = fs::metadata(format!("/proc/{pid}")).map(|metadata| metadata.uid());
    if !geteuid().is_root() && owner.is_ok_and(|owner| owner != geteuid().as_raw()) {
        return Err(complain(format_args!("process {pid} belongs to another user")));
    }
    Ok((pid, watched))
}

fn caller(named: Option<u32>) -> Result<u32, u8> {
    match named.unwrap_or_else(parent_id) {
        pid @ (0 | 1) if named.is_none() => {
            let who = if pid == 0 { "outside this PID namespace" } else { "PID 1" };
            show::complain(format_args!(
                "started by {who}: use --for PID to say which process is to hold the lock"
            ));
            Err(USAGE)
        }
        pid => Ok(pid),
    }
}

// ------------------------------------------------------------------------------ check and release

pub fn check(args: &HeldArgs) -> u8 {
    let pid = match caller(args.process) {
        Ok(pid) => pid,
        Err(code) => return code,
    };
    match is_held_by(args, pid) {
        Ok(true) => 0,
        Ok(false) => NOT_HELD,
        Err(error) => show::failed(&error),
    }
}

/// Whether the process holds the lock of the file at the path: by a guardian, or by itself.
fn is_held_by(args: &HeldArgs, pid: u32) -> Result<bool, Error> {
    let dir = args.dir.dir.as_deref();
    if guardian::find(dir, &args.session, pid).is_some() {
        return Ok(true);
    }
    let holder = session_lock::holder(dir, &args.session)?;
    Ok(holder.state == State::Held && holder.pid == Some(pid) && !holder.orphaned)
}

pub fn release(args: &HeldArgs) -> u8 {
    let pid = match caller(args.process) {
        Ok(pid) => pid,
        Err(code) => return code,
    };
    let dir = args.dir.dir.as_deref();
    let session = show::quoted(&args.session);
    let Some(guardian) = guardian::find(dir, &args.session, pid) else {
        let holder = match session_lock::holder(dir, &args.session) {
            Ok(holder) => holder,
            Err(error) => return show::failed(&error),
        };
        match holder.state {
            State::Free => {
                show::complain(format_args!("{session} is not held by process {pid}: it is free"));
            }
            State::Held if holder.pid == Some(pid) && !holder.orphaned => {
                show::complain(format_args!(
                    "{session} was acquired by process {pid} itself, so only that process can release it"
                ))
            }
            _ => {
                let held = show::describe(dir, &args.session, &holder);
                show::complain(format_args!("{session} is not held by process {pid}, but {held}"));
            }
        }
        return NOT_HELD;
    };
    match guardian.release(RELEASE_TIME) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            show::complain(format_args!(
                "the guardian of {session}, process {}, does not answer; is it stopped?",
                guardian.pid()
            ));
            FAILED
        }
        Err(error) => {
            show::complain(format_args!(
                "{session}: its guardian, process {}: {error}",
                guardian.pid()
            ));
            FAILED
        }
    }
}
