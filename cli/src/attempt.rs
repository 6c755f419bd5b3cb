//! What `run` and `acquire` have in common: how long they wait, and what they say when they do not get
//! the lock.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process;
use std::time::{Duration, Instant};

use session_lock::procfs::{self, ProcId};
use session_lock::{Holder, LockOptions, State};

use crate::cli::WaitArgs;
use crate::mount;
use crate::show::{self, Notices};

/// An attempt to take a session's lock.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    pub session: &'a OsStr,
    pub args: &'a WaitArgs,
    /// The process that is to hold the lock.
    pub process: u32,
    began: Instant,
}

impl<'a> Attempt<'a> {
    pub fn new(session: &'a OsStr, args: &'a WaitArgs, process: u32) -> Attempt<'a> {
        Attempt { session, args, process, began: Instant::now() }
    }

    pub fn dir(&self) -> Option<&'a Path> {
        self.args.dir.dir.as_deref()
    }

    /// One try.
    pub fn options<'c>(&self) -> LockOptions<'c> {
        match self.dir() {
            Some(dir) => LockOptions::new().directory(dir),
            None => LockOptions::new(),
        }
    }

    pub fn is_to_wait(&self) -> bool {
        self.args.wait || self.args.timeout.is_some_and(|timeout| !timeout.is_zero())
    }

    /// For the time that is left.
    pub fn wait<'c>(&self, options: &LockOptions<'c>) -> LockOptions<'c> {
        match self.args.timeout {
            Some(timeout) => options.clone().timeout(timeout.saturating_sub(self.waited())),
            None => options.clone().wait(),
        }
    }

    pub fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// After the first try: says it if the lock is worth less than one would think.
    pub fn warn_of_mount(&self) {
        if self.args.quiet {
            return;
        }
        let Ok(path) = session_lock::path(self.dir(), self.session) else { return };
        if let Some(kind) = mount::that_keeps_locks_to_itself(&path) {
            Notices::open().write(&format!(
                "session-lock: warning: {} is on {}, which keeps locks to one mount: who has the same files \
                 by another mount, or on another host, is not locked out\n",
                show::escaped(path.as_os_str()),
                show::escaped(OsStr::new(&kind)),
            ));
        }
    }

    /// The lock is not free: says so and gives the exit code, if there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// That exit code.
    pub fn go_on_waiting(&self) -> Result<(), u8> {
        let holder =
            session_lock::holder(self.dir(), self.session).map_err(|e| show::failed(&e))?;
        if let Some(relation) = self.relation_to(&holder) {
            return Err(self.refuse(&holder, &format!(", {relation}")));
        }
        if self.is_to_wait() { Ok(()) } else { Err(self.refuse(&holder, "; use -w to wait")) }
    }

    /// The time is over.
    pub fn time_is_over(&self) -> u8 {
        let holder = session_lock::holder(self.dir(), self.session).unwrap_or_default();
        let waited = self.args.timeout.unwrap_or_default();
        self.refuse(&holder, &format!("; gave up after {waited:?}"))
    }

    fn refuse(&self, holder: &Holder, rest: &str) -> u8 {
        let session = show::quoted(self.session);
        let is = if holder.state == State::Free && holder.confirmed { "was" } else { "is" };
        let held = show::describe(self.dir(), self.session, holder);
        self.give_up(format_args!("{session} {is} {held}{rest}"))
    }

    /// Says why, and gives the exit code.
    pub fn give_up(&self, why: std::fmt::Arguments<'_>) -> u8 {
        if !self.args.quiet {
            show::complain(why);
        }
        self.args.conflict_exit_code
    }

    /// If the holder waits for us, and we would wait for it: what it is to us.
    fn relation_to(&self, holder: &Holder) -> Option<&'static str> {
        // Of a label that proves nothing, the number can be another process's by now.
        if holder.state != State::Held {
            return None;
        }
        let is = |pid: u32| holder.pid == Some(pid) && !holder.orphaned;
        if self.process != process::id() && is(self.process) {
            return Some("which is the process to acquire it for");
        }
        if is(process::id()) {
            return Some("which has become this command: waiting would deadlock");
        }
        let mut ancestors = ancestors(process::id());
        ancestors.extend(ancestors_of_another(self.process));
        let held_by_ancestor = if holder.orphaned {
            let processes = session_lock::processes(self.dir(), self.session).unwrap_or_default();
            processes.iter().any(|process| ancestors.contains(&process.pid))
        } else {
            ancestors.iter().any(|&pid| is(pid))
        };
        held_by_ancestor.then_some("an ancestor of this command: waiting would deadlock")
    }
}

/// This process, its parent, and so on, as far as `/proc` tells.
fn ancestors(me: u32) -> Vec<u32> {
    let mut ancestors = vec![me, parent_id()];
    // Where `/proc` is another PID namespace's, its numbers mean other processes.
    if procfs::own_number() == Some(me) {
        ancestors.extend(ancestors_of_another(parent_id()));
    }
    ancestors
}

fn ancestors_of_another(pid: u32) -> impl Iterator<Item = u32> {
    let parent = |&pid: &u32| procfs::stat(ProcId::Pid(pid)).ok().map(|stat| stat.parent);
    std::iter::successors(Some(pid), parent).take_while(|&pid| pid != 0)
}
