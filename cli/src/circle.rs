//! Circles of waits: A waits for what B holds, and B for what A holds.
//!
//! The kernel's table says who waits and who holds. A holder does not go on, and so does not release its
//! lock, if it waits for a lock itself, or if it waits for its children, or for what they write, and not one
//! of these goes on. What cannot be seen, or could go on for any reason, is not stuck: a wait that could end
//! is never refused.

#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use session_lock::procfs::{self, FileId, Flock, ProcId};

use crate::blocked::{self, Source, Wait};
use crate::{guardian, show};

/// One step: a process waits for a lock, and another one holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    waiter: u32,
    /// As the kernel's table names it.
    file: FileId,
    holder: u32,
}

/// A chain of steps from a waiter to a holder that is, or has started, the waiter of the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    steps: Vec<Step>,
}

/// Who waits for what, and who holds it, at one moment.
pub struct Waits {
    /// From the waiter to the file.
    waiting: BTreeMap<u32, FileId>,
    /// From the file to those who took its lock.
    takers: BTreeMap<FileId, Vec<u32>>,
    /// Those who have a waiter among their descendants, and the waiters, once they are needed.
    ancestors: OnceCell<BTreeSet<u32>>,
}

/// What keeps a process from going on.
enum Stuck {
    /// Nothing, as far as can be seen.
    No,
    /// It waits, by these steps, for the waiter that was asked about, or for itself.
    Yes { steps: Vec<Step>, reaches: bool },
}

impl Waits {
    /// A table that is not read in whole only makes fewer processes stuck.
    pub fn look() -> Waits {
        let table = procfs::read("/proc/locks").unwrap_or_default();
        let mut waits =
            Waits { waiting: BTreeMap::new(), takers: BTreeMap::new(), ancestors: OnceCell::new() };
        for Flock { pid, file, waits: blocked } in procfs::flocks(&table) {
            if blocked {
                waits.waiting.insert(pid, file);
            } else {
                waits.takers.entry(file).or_default().push(pid);
            }
        }
        waits
    }

    /// The circle that a waiter is in.
    pub fn circle(&self, waiter: u32) -> Option<Circle> {
        let &file = self.waiting.get(&waiter)?;
        match self.of_holders(waiter, file, waiter, &mut Vec::new()) {
            Stuck::Yes { steps, reaches: true } => Some(Circle { steps }),
            _ => None,
        }
    }

    /// What a holder waits for without end.
    pub fn deadlock(&self, holder: u32) -> Option<Circle> {
        match self.of_process(holder, 0, &mut Vec::new()) {
            Stuck::Yes { steps, .. } if !steps.is_empty() => Some(Circle { steps }),
            _ => None,
        }
    }

    fn of_process(&self, pid: u32, origin: u32, path: &mut Vec<u32>) -> Stuck {
        if pid == origin || path.contains(&pid) {
            return Stuck::Yes { steps: Vec::new(), reaches: pid == origin };
        }
        let Ok(stat) = procfs::stat(ProcId::Pid(pid)) else { return Stuck::No };
        if stat.zombie || stat.stopped {
            return Stuck::No;
        }
        path.push(pid);
        let is_ours = is_ours(&name(pid));
        let stuck = match self.waiting.get(&pid) {
            // In another program one thread may wait, and the others go on. But one of two only helps
            // a wait of the library's.
            Some(&file) if is_ours || stat.threads == 1 || blocked::is_in_librarys_wait(pid) => {
                self.of_holders(pid, file, origin, path)
            }
            Some(_) => Stuck::No,
            None if is_ours => self.of_children(pid, origin, path),
            None => self.of_threads(pid, origin, path),
        };
        path.pop();
        stuck
    }

    fn of_threads(&self, pid: u32, origin: u32, path: &mut Vec<u32>) -> Stuck {
        all_stuck(blocked::waits(pid).into_iter(), |wait| match wait {
            Wait::Unknown => Stuck::No,
            Wait::Child(child) => self.of_process(child, origin, path),
            Wait::Children => self.of_children(pid, origin, path),
            Wait::Descriptors(fds) => self.of_descriptors(pid, &fds, origin, path),
        })
    }

    /// Stuck if all of them are: any of them can be the one that is waited for.
    fn of_children(&self, pid: u32, origin: u32, path: &mut Vec<u32>) -> Stuck {
        let counts = |&child: &u32| {
            let is_guardian = name(child).as_bytes() == guardian::NAME.to_bytes();
            let has_ended = procfs::stat(ProcId::Pid(child)).is_ok_and(|stat| stat.zombie);
            let is_at_rest = is_guardian && !self.waiting.contains_key(&child) && child != origin;
            !(has_ended || is_at_rest)
        };
        all_stuck(children(pid).into_iter().filter(counts), |child| {
            self.of_process(child, origin, path)
        })
    }

    /// Stuck if all who can make one of them ready are.
    fn of_descriptors(&self, pid: u32, fds: &[RawFd], origin: u32, path: &mut Vec<u32>) -> Stuck {
        if !self.is_near_a_waiter(pid) {
            return Stuck::No;
        }
        let mut others = Vec::new();
        for &fd in fds {
            match blocked::source(pid, fd) {
                Source::Unknown => return Stuck::No,
                Source::Signal => {}
                Source::Process(process) => others.push(process),
                Source::Pipe(pipe) => others.extend(blocked::holders_of_pipe(pipe)),
            }
        }
        others.retain(|&other| other != pid);
        if others.is_empty() {
            // It can only be told by a signal, as by that of a child's end.
            return self.of_children(pid, origin, path);
        }
        all_stuck(others.into_iter(), |other| self.of_process(other, origin, path))
    }

    /// Whether it, or the one that started it, has a waiter among its descendants: only then it is worth
    /// the time to look at all processes for who has the other end of its pipes.
    fn is_near_a_waiter(&self, pid: u32) -> bool {
        let parent = |pid: u32| procfs::stat(ProcId::Pid(pid)).map_or(0, |stat| stat.parent);
        let ancestors = self.ancestors.get_or_init(|| {
            let mut ancestors = BTreeSet::new();
            for &waiter in self.waiting.keys() {
                let mut next = waiter;
                while next > 1 && ancestors.insert(next) {
                    next = parent(next);
                }
            }
            ancestors
        });
        ancestors.contains(&pid) || ancestors.contains(&parent(pid))
    }

    fn of_holders(&self, waiter: u32, file: FileId, origin: u32, path: &mut Vec<u32>) -> Stuck {
        let takers = self.takers.get(&file).map(Vec::as_slice).unwrap_or_default();
        all_stuck(takers.iter(), |&taker| {
            let holder = guardian::process_of(taker).unwrap_or(taker);
            match self.of_process(holder, origin, path) {
                Stuck::Yes { mut steps, reaches } => {
                    steps.insert(0, Step { waiter, file, holder });
                    Stuck::Yes { steps, reaches }
                }
                Stuck::No => Stuck::No,
            }
        })
    }
}

/// Stuck if there are any, and all of them are; by one that reaches the waiter that was asked about, if there
/// is one.
fn all_stuck<T>(items: impl Iterator<Item = T>, mut look: impl FnMut(T) -> Stuck) -> Stuck {
    let mut all = Stuck::No;
    for item in items {
        match (look(item), &all) {
            (Stuck::No, _) => return Stuck::No,
            (_, Stuck::Yes { reaches: true, .. }) => {}
            (stuck, _) => all = stuck,
        }
    }
    all
}

impl Circle {
    /// Whether the waiter that was asked about is the youngest one of those that look for circles. Not if
    /// one of them has given up meanwhile.
    pub fn is_youngest(&self, waiter: u32) -> bool {
        let mut youngest = (0, 0);
        for pid in self.steps.iter().map(|step| step.waiter) {
            let name = name(pid);
            // Asked last: what was read before is of a process that was there.
            let Ok(stat) = procfs::stat(ProcId::Pid(pid)) else { return false };
            if stat.zombie {
                return false;
            }
            if is_ours(&name) {
                youngest = youngest.max((stat.start, pid));
            }
        }
        youngest.1 == waiter
    }

    /// "'b' is held by 4242 (deploy.sh), which waits for 'a', held by 4100 (make), an ancestor of this
    /// command"
    pub fn describe(&self, dir: Option<&Path>) -> String {
        let mut text = String::new();
        for (at, step) in self.steps.iter().enumerate() {
            let session = show::quoted(&session_of(dir, step));
            let command = procfs::command(ProcId::Pid(step.holder)).unwrap_or_default();
            let holder = show::process(step.holder, &show::os_string(command));
            text.push_str(&match at {
                0 => format!("{session} is held by {holder}"),
                _ => format!(", which waits for {session}, held by {holder}"),
            });
        }
        let waiter = self.steps.first().map(|step| step.waiter);
        let last = self.steps.last().map(|step| step.holder);
        text + if waiter == last {
            ", which is this command"
        } else {
            ", an ancestor of this command"
        }
    }

    /// The session that is waited for first.
    pub fn first_session(&self, dir: Option<&Path>) -> OsString {
        self.steps.first().map(|step| session_of(dir, step)).unwrap_or_default()
    }
}

/// The session whose lock file it is; of another directory, the file.
fn session_of(dir: Option<&Path>, step: &Step) -> OsString {
    let Some(path) = path_of(step) else { return format!("inode {}", step.file.ino).into() };
    let is_it = |name: &OsStr| session_lock::path(dir, name).is_ok_and(|of_name| of_name == path);
    let sessions = session_lock::list(dir).unwrap_or_default();
    sessions.into_iter().map(|session| session.name).find(|name| is_it(name)).unwrap_or(path.into())
}

/// The waiter has it open.
fn path_of(step: &Step) -> Option<PathBuf> {
    let waiter = ProcId::Pid(step.waiter);
    let is_it = |&number: &u32| {
        procfs::behind(waiter, number).is_ok_and(|behind| behind.file.ino == step.file.ino)
    };
    let number = procfs::descriptors(waiter).ok()?.into_iter().find(is_it)?;
    fs::read_link(waiter.file(&format!("fd/{number}"))).ok()
}

fn name(pid: u32) -> String {
    String::from_utf8_lossy(&procfs::name(ProcId::Pid(pid)).unwrap_or_default()).into_owned()
}

/// A waiter of this program's, or a guardian that waits.
fn is_ours(name: &str) -> bool {
    name == "session-lock" || name.as_bytes() == guardian::NAME.to_bytes()
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children"));
    let lists = threads.into_iter().flatten().flatten().filter_map(|thread| of_thread(thread).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
