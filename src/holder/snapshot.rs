//! What can be seen of the others at one moment, and what follows from it.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use super::filesystem::Filesystem;
use super::lock_table::{LockTable, Record};
use super::{Holder, State, text};
use crate::label::{self, Label};
use crate::procfs::{self, Locked, ProcId, ProcStat};
use crate::sys::{self, FileId, Stat};

pub(super) struct Snapshot {
    /// `None` until it is needed; an empty one if it cannot be read.
    table: Option<LockTable>,
    /// The PID namespace of this process; 0 if unknown.
    pidns: u64,
    /// `/proc` is mounted for that namespace: its numbers are ours.
    own_proc: bool,
    /// What was looked at, sorted by PID.
    processes: Vec<Seen>,
    /// The last answer was about a taker that does not have the lock any more. If it has died or
    /// released the lock since the table was read, a later snapshot says something else.
    pub doubtful: bool,
}

/// A process that was looked at: the outer `None` stands for "not yet", the inner one for "not shown".
struct Seen {
    pid: u32,
    stat: Option<Option<ProcStat>>,
    locked: Option<Option<Vec<Locked>>>,
}

/// Who has a descriptor of a lock.
pub(super) struct Search {
    pub pids: Vec<u32>,
    /// All processes could be looked at.
    pub complete: bool,
}

/// A lock file, and how the kernel's table names its filesystem.
pub(super) struct File<'a> {
    pub path: &'a CStr,
    pub stat: Stat,
    pub filesystem: Filesystem,
}

impl<'a> File<'a> {
    pub fn new(path: &'a CStr, stat: Stat) -> File<'a> {
        File { path, stat, filesystem: Filesystem::of(path, stat.id.dev) }
    }

    fn in_table(&self) -> FileId {
        self.filesystem.in_table(self.stat.id)
    }

    /// Files of two subvolumes or layers can have the same number in the table.
    fn is_ambiguous(&self) -> bool {
        self.in_table() != self.stat.id
    }

    /// Whether it is this file's lock that a descriptor has; `None` where we may not see that.
    fn is_locked_by(&self, locked: &Locked) -> Option<bool> {
        let is_it = |locked: &Locked| locked.stat().is_ok_and(|id| id == self.stat.id);
        match locked.file {
            Some(file) => Some(file == self.in_table() && (!self.is_ambiguous() || is_it(locked))),
            // It is not, if the descriptor is another file's.
            None => {
                if is_it(locked) {
                    None
                } else {
                    Some(false)
                }
            }
        }
    }
}

impl Snapshot {
    pub fn new() -> Snapshot {
        Snapshot {
            table: None,
            pidns: label::own_pid_namespace().unwrap_or(0),
            own_proc: procfs::own_number() == Some(sys::getpid()),
            processes: Vec::new(),
            doubtful: false,
        }
    }

    /// Reads the kernel's table at once: for many files that is faster than to ask for each.
    pub fn with_table() -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.table();
        snapshot
    }

    fn table(&mut self) -> &LockTable {
        self.table.get_or_insert_with(|| LockTable::read(None).unwrap_or_default())
    }

    /// What the kernel's table says of a file; false if it may be about another one of the same number.
    fn record(&mut self, file: &File<'_>) -> (Record, bool) {
        let mut record = self.table().record(file.in_table());
        if !file.is_ambiguous() || record.takers.is_empty() {
            return (record, true);
        }
        let its = |&pid: &u32| self.has_locked(pid, file) == Some(true);
        let own: Vec<u32> = record.takers.iter().copied().filter(its).collect();
        if !own.is_empty() {
            record.takers = own;
            return (record, true);
        }
        let another = |&pid: &u32| self.has_locked_another(pid, file);
        if record.takers.iter().all(another) {
            return (Record::default(), true);
        }
        let known = !self.search(file).pids.is_empty();
        (record, known)
    }

    /// Whether the kernel shows every holder of a lock on this filesystem.
    pub fn sees_everybody(&self, filesystem: &Filesystem) -> bool {
        self.pidns == procfs::INITIAL_PID_NAMESPACE && self.own_proc && filesystem.local
    }

    pub fn holder_of(&mut self, file: &File<'_>) -> Holder {
        self.doubtful = false;
        let label = read_label(file);
        if self.table.is_none() {
            if let Some(holder) = self.by_descriptor(&label, file) {
                return holder;
            }
        }
        let (record, known) = self.record(file);
        let remote = file.filesystem.remote;
        // There, what another host has written since then is right.
        let from_elsewhere = matches!(&label, Label::Holder(label) if !label.is_of_this_boot());
        let mut holder = if remote && from_elsewhere {
            self.by_label(&label, file)
        } else if !known {
            let mut holder = self.by_label(&label, file);
            if holder.state == State::Free {
                holder.state = State::Unknown;
            }
            holder
        } else if !record.takers.is_empty() {
            self.by_takers(&record.takers, &label, file)
        } else {
            self.by_search(&label, file)
        };
        holder.confirmed &= !remote;
        if holder.state == State::Held {
            holder.waiters = record.waiters;
        }
        holder
    }

    /// How many wait for the lock, where it is known to be held.
    pub fn waiters(&mut self, file: &File<'_>) -> u32 {
        let in_table = file.in_table();
        self.table.get_or_insert_with(|| LockTable::read(Some(in_table)).unwrap_or_default());
        self.record(file).0.waiters
    }

    /// The descriptor that the label names has the lock: of the process itself, or of its guardian. To
    /// look there takes a time that does not depend on how many locks there are.
    fn by_descriptor(&mut self, label: &Label, file: &File<'_>) -> Option<Holder> {
        let Label::Holder(label) = label else { return None };
        let number = label.descriptor?.try_into().ok()?;
        let has_it = label.guardian.unwrap_or(label.pid);
        let here = self.own_proc && file.filesystem.local && label.is_of_here();
        let locked = here.then(|| procfs::flock_of(has_it, number)).flatten()?;
        if file.is_locked_by(&locked) != Some(true) {
            return None;
        }
        self.lives(label, label.pid).then(|| self.held_by(label, Some(label.pid)))
    }

    /// The table names nobody, which proves nothing if it is long. A search that finds nobody does, but for a
    /// lock that is on its way in a socket, or in a thread's own table of descriptors.
    fn by_search(&mut self, label: &Label, file: &File<'_>) -> Holder {
        let free = |confirmed| Holder { state: State::Free, confirmed, ..Holder::default() };
        let everybody = self.sees_everybody(&file.filesystem);
        let mut searched = false;
        if self.own_proc && file.filesystem.local {
            if let Some(holder) = self.by_descriptor(label, file) {
                return holder;
            }
            if everybody && self.table().complete {
                return free(true);
            }
            let search = self.search(file);
            if !search.pids.is_empty() {
                return self.by_takers(&search.pids, label, file);
            }
            searched = search.complete && self.table().is_known();
        }
        let told = self.by_label(label, file);
        match told.state {
            State::Held => told,
            _ if everybody && searched => free(true),
            State::Unknown if everybody && self.table().at_rest => free(false),
            _ => told,
        }
    }

    /// Only the label is left. Where the table sees everybody, it is wrong if whoever should have the lock can
    /// be looked at, and has not.
    fn by_label(&mut self, label: &Label, file: &File<'_>) -> Holder {
        let mut holder = Holder::default();
        match label {
            Label::Cleared(_) => holder.state = State::Free,
            Label::Unreadable => {}
            Label::Holder(label) => {
                holder.describe(label);
                if label.is_of_here() {
                    holder.pid = Some(label.pid);
                    let seen = self.own_proc && self.stat(label.pid).is_some();
                    if seen && self.lives(label, label.pid) && self.may_have_locked(label, file) {
                        holder.state = State::Held;
                        holder.suspended = self.is_stopped(label.pid);
                    }
                }
            }
        }
        holder
    }

    /// The table names who took the lock, or a search of the descriptors has found who has it.
    fn by_takers(&mut self, takers: &[u32], label: &Label, file: &File<'_>) -> Holder {
        // Several have a shared lock, or the table means several files: one of them may be labelled.
        let label = match label {
            Label::Holder(label) => Some(label).zip(self.number_of(label, takers)),
            _ => None,
        };
        if let Some((label, number)) = label {
            if number.is_none_or(|number| self.lives(label, number)) {
                return self.held_by(label, number);
            }
            if label.until_exit && self.is_about_to_leave(label) {
                return Holder { state: State::Free, ..Holder::default() };
            }
        }
        // No label of a living taker: it wrote none, or an earlier process with its number did.
        for &pid in takers {
            if self.has_locked(pid, file) == Some(true) && self.guarded_by(pid).is_none() {
                return self.held_without_label(pid);
            }
        }
        let alive = takers.iter().copied().find(|&pid| self.exists(pid));
        if let Some(pid) = alive.filter(|&pid| self.has_locked(pid, file).is_none()) {
            // It may not be looked at, and is believed to have what it took.
            return self.held_without_label(pid);
        }
        let search = self.search(file);
        for &pid in &search.pids {
            match self.guarded_by(pid) {
                Some(Some(guarded)) => return self.held_without_label(guarded),
                Some(None) => return Holder { state: State::Free, ..Holder::default() },
                None => {}
            }
        }
        self.doubtful = true;
        let pid = takers.iter().copied().find(|&pid| !self.exists(pid)).unwrap_or(takers[0]);
        let mut holder = self.held_without_label(pid);
        holder.suspended = false;
        // If nobody has it who can be seen, it is on its way in a socket, or in a thread's own table of
        // descriptors.
        holder.orphaned = !search.pids.is_empty() || alive.is_none() && !search.complete;
        if holder.orphaned {
            holder.command.clear();
        }
        if let Some((label, _)) = label {
            holder.describe(label);
        }
        holder
    }

    fn held_by(&mut self, label: &label::Holder, number: Option<u32>) -> Holder {
        let mut holder = Holder {
            state: State::Held,
            confirmed: true,
            pid: number.and_then(|number| self.own_pid(number)),
            suspended: number.is_some_and(|number| self.is_stopped(number)),
            ..Holder::default()
        };
        holder.describe(label);
        holder
    }

    fn held_without_label(&mut self, pid: u32) -> Holder {
        Holder {
            state: State::Held,
            confirmed: true,
            pid: self.own_pid(pid),
            command: text(&procfs::command(ProcId::Pid(pid)).unwrap_or_default()),
            host: text(&sys::gethostname()),
            suspended: self.is_stopped(pid),
            ..Holder::default()
        }
    }

    // --------------------------------------------------------------------------- the processes

    /// The processes that have a descriptor of the file's lock.
    pub fn search(&mut self, file: &File<'_>) -> Search {
        // With `hidepid` nothing is shown of the first process, either.
        let mut complete = self.stat(1).is_some();
        let mut pids = procfs::processes();
        complete &= !pids.is_empty();
        pids.retain(|&pid| {
            let locked = self.has_locked(pid, file);
            complete &= locked.is_some();
            locked == Some(true)
        });
        Search { pids, complete }
    }

    fn seen(&mut self, pid: u32) -> &mut Seen {
        let at = self.processes.binary_search_by_key(&pid, |seen| seen.pid).unwrap_or_else(|at| {
            self.processes.insert(at, Seen { pid, stat: None, locked: None });
            at
        });
        &mut self.processes[at]
    }

    /// Whether a process has a descriptor of the file's lock; `None` where we may not look.
    fn has_locked(&mut self, pid: u32, file: &File<'_>) -> Option<bool> {
        let locked = &mut self.seen(pid).locked;
        let locked = locked.get_or_insert_with(|| match procfs::locked(pid) {
            Ok(locked) => Some(locked),
            // One that is gone has no lock; one that is hidden may have.
            Err(error) => {
                let gone = error.kind() == io::ErrorKind::NotFound && !sys::process_exists(pid);
                gone.then(Vec::new)
            }
        });
        let mut answer = Some(false);
        for locked in locked.as_ref()? {
            match file.is_locked_by(locked) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => answer = None,
            }
        }
        answer
    }

    /// Whether the process that must have the lock if the label is right has it, or one of its threads in a
    /// table of its own; or may not be looked at.
    fn may_have_locked(&mut self, label: &label::Holder, file: &File<'_>) -> bool {
        if !self.sees_everybody(&file.filesystem) {
            return true;
        }
        let process = label.guardian.unwrap_or(label.pid);
        let threads = procfs::threads(process).unwrap_or_default();
        [process].into_iter().chain(threads).any(|pid| self.has_locked(pid, file) != Some(false))
    }

    /// Whether a process has the lock of another file that the table calls by the same number.
    fn has_locked_another(&mut self, pid: u32, file: &File<'_>) -> bool {
        self.has_locked(pid, file) == Some(false)
            && self.seen(pid).locked.iter().flatten().flatten().any(|locked| {
                locked.file == Some(file.in_table()) && file.is_locked_by(locked) == Some(false)
            })
    }

    /// Whether the guardian that the label names has nobody to hold the lock for any more, as far as may be
    /// looked at.
    fn is_about_to_leave(&mut self, label: &label::Holder) -> bool {
        let Some(guardian) = label.guardian else { return true };
        if !self.own_proc || label.pidns != self.pidns {
            return true;
        }
        let guards = |target: Option<u32>| target.is_some_and(|pid| self.exists(pid));
        is_guardian(guardian) && !procfs::pidfd_target(guardian).is_some_and(guards)
    }

    /// Whom a process that has the lock holds it for, if it is a guardian: its pidfd says so.
    /// `Some(None)`: for one that has ended.
    fn guarded_by(&mut self, pid: u32) -> Option<Option<u32>> {
        if !is_guardian(pid) {
            return None;
        }
        let target = procfs::pidfd_target(pid)?;
        Some(target.filter(|&pid| self.exists(pid)))
    }

    fn stat(&mut self, pid: u32) -> Option<ProcStat> {
        *self.seen(pid).stat.get_or_insert_with(|| procfs::stat(ProcId::Pid(pid)).ok())
    }

    fn is_stopped(&mut self, pid: u32) -> bool {
        self.stat(pid).is_some_and(|stat| stat.stopped)
    }

    fn exists(&mut self, pid: u32) -> bool {
        match self.stat(pid) {
            Some(stat) => !stat.zombie,
            // With `hidepid` a living process is not in `/proc`.
            None => self.own_proc && sys::process_exists(pid),
        }
    }

    // ------------------------------------------------------------------------------- the label

    /// The number in the mounted `/proc` of the process that a label names, if the label is that of one
    /// of the takers: it was written by the process itself, or for one whose guardian the taker is
    /// (`Some(None)`: that one cannot be seen).
    fn number_of(&mut self, label: &label::Holder, takers: &[u32]) -> Option<Option<u32>> {
        if !label.is_of_this_boot() {
            return None;
        }
        if self.own_proc && label.pidns == self.pidns {
            let written_by = |&pid: &u32| pid == label.pid || Some(pid) == label.guardian;
            return takers.iter().any(written_by).then_some(Some(label.pid));
        }
        takers.iter().find_map(|&pid| {
            let process = ProcId::Pid(pid);
            if procfs::pid_namespace(process).ok()? != label.pidns {
                return None;
            }
            match procfs::innermost_pid(process)? {
                number if number == label.pid => Some(Some(pid)),
                number if Some(number) == label.guardian => Some(self.guarded_by(pid).flatten()),
                _ => None,
            }
        })
    }

    /// Whether the process that a label names is alive: the same one, not its number's next. One that
    /// is hidden is believed to be the same.
    fn lives(&mut self, label: &label::Holder, number: u32) -> bool {
        match self.stat(number) {
            Some(stat) => label.is_of(number, &stat),
            None => self.exists(number),
        }
    }

    /// A number of the mounted `/proc` as this process would see it.
    fn own_pid(&self, pid: u32) -> Option<u32> {
        if self.own_proc {
            return Some(pid);
        }
        let process = ProcId::Pid(pid);
        let here = procfs::pid_namespace(process).is_ok_and(|pidns| pidns == self.pidns);
        if here { procfs::innermost_pid(process) } else { None }
    }
}

/// Whether a process has a guardian's name, or the one that it is born with.
fn is_guardian(pid: u32) -> bool {
    procfs::name(ProcId::Pid(pid))
        .is_ok_and(|name| matches!(&name[..], b"session-lock-g" | b"session-lock"))
}

fn read_label(file: &File<'_>) -> Label {
    if !file.stat.is_file() {
        return Label::Unreadable;
    }
    let Ok(descriptor) = sys::open(file.path, libc::O_RDONLY, 0) else { return Label::Unreadable };
    if !file.filesystem.local {
        // What this host remembers of the file may be older than the holder's label.
        let _ = sys::posix_fadvise_dontneed(descriptor.as_fd());
    }
    Label::read(descriptor.as_fd())
}
