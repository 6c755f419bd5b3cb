//! Who holds a session's lock, without touching the lock.
//!
//! The kernel's table (`/proc/locks`) is asked first, and wins. The label in the lock file adds what
//! the table does not know (when, which command), and only where it is the label of the very
//! process that the table names: same PID, start time, boot and PID namespace.
//!
//! What decides in each situation:
//!
//! | the table | the label | the answer |
//! |---|---|---|
//! | names a living process | is that process's | held, with all that the label says |
//! | names a living process that has the lock open | another's, or none | held; the command from `/proc/PID` |
//! | names a process that is dead, or a PID that is another process's now | any | held, orphaned |
//! | names nobody, and sees everybody | any | free |
//! | names nobody, but does not see everybody | cleared, or no file | free, not confirmed |
//! | names nobody, but does not see everybody | of a process that lives, here | held, not confirmed |
//! | names nobody, but does not see everybody | anything else | unknown |
//!
//! The table *sees everybody* in the initial PID namespace with its own `/proc`, for a filesystem
//! whose locks the local kernel keeps. So what decides depends on the place:
//!
//! | place | what decides |
//! |---|---|
//! | the initial PID namespace, a local filesystem; also in a user namespace | the table |
//! | the same, with `hidepid` | the table; that a process is dead is known from `kill(2)`, and the command only from the label |
//! | btrfs, overlayfs with layers on different filesystems | the table, where the mount's device stands; two files of the same number are told apart by the descriptors of those who are named. If these may not be looked at, the label |
//! | a table longer than a page | the table, read until two readings agree, or else eight times: a lock that is held all the while is in one of them |
//! | a PID namespace | the table for holders in it; it hides those outside, and a taker that is dead: then the label |
//! | a PID namespace with the outer `/proc` | the table for who holds it (a PID only for those inside), the label for who does not |
//! | no `/proc`, or one of `subset=pid` | the label: free or unknown |
//! | FUSE where the kernel keeps the locks | the table for who holds it, the label for who does not |
//! | FUSE that keeps its locks to itself | the label |
//! | a network filesystem | the table for holders on this host, the label for the others |

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::label::{self, Label};
use crate::lock_file::{self, LockFile, to_c_string};
use crate::procfs::{self, ProcId, ProcStat};
use crate::session_name;
use crate::sys::{self, FileId, Stat};

/// Whether a session is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Somebody holds the lock.
    Held,
    /// It cannot be known from here.
    #[default]
    Unknown,
    /// Nobody holds the lock: only said when it is known.
    Free,
}

/// Who holds a session's lock. The answer can be out of date when it arrives: never gate on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Whether there is one.
    pub state: State,
    /// Who took the lock, as seen from the caller's PID namespace; `None` if not visible there.
    pub pid: Option<u32>,
    /// The process that took the lock is dead, and one that it started still holds it: see
    /// [`processes`].
    pub orphaned: bool,
    /// The kernel's lock table says so; otherwise only the label in the file does.
    pub confirmed: bool,
    /// When, in milliseconds since the Unix epoch; `None` if unknown.
    pub acquired_at_ms: Option<i64>,
    /// The holder's command line, at most 63 bytes; empty if unknown. Any bytes: written by another
    /// process, perhaps another user's.
    pub command: OsString,
    /// The holder's host, at most 63 bytes; empty if unknown.
    pub host: OsString,
    /// How many processes wait in the kernel's queue for the lock, as far as visible.
    pub waiters: u32,
    /// The holder is stopped: by SIGSTOP, by Ctrl-Z, or by a debugger.
    pub suspended: bool,
}

/// A session of a directory, as [`list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The session's name, decoded from its file's.
    pub name: OsString,
    /// Who holds it.
    pub holder: Holder,
}

/// A process that has a descriptor of the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its PID, as seen in `/proc`.
    pub pid: u32,
    /// Its command line; empty if unknown.
    pub command: OsString,
}

/// Who holds the session's lock? Makes no `flock` call, takes nothing, creates nothing, and needs
/// no permission but to search the directory. A session that nobody ever locked is free.
///
/// # Errors
///
/// [`Error::Symlink`] if the lock file is a symbolic link; [`Error::InvalidArgument`],
/// [`Error::NameTooLong`]; [`Error::Os`] if the path cannot be looked at.
///
/// # Examples
///
/// ```
/// use session_lock::{SessionLock, State, holder};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = Some(dir.path());
/// let lock = SessionLock::acquire(dir, "nightly-build")?;
/// let holder = holder(dir, "nightly-build")?;
/// assert_eq!(holder.state, State::Held);
/// assert_eq!(holder.pid, Some(std::process::id()));
/// # Ok::<(), session_lock::Error>(())
/// ```
pub fn holder(dir: Option<&Path>, session: impl AsRef<OsStr>) -> Result<Holder, Error> {
    let file = LockFile::new(dir, session.as_ref())?;
    let Some(stat) = look(&file)? else {
        let confirmed = Snapshot::new(Filesystem::of(file.dir())).sees_everybody;
        return Ok(Holder { state: State::Free, confirmed, ..Holder::default() });
    };
    let filesystem = Filesystem::of(&file.path);
    Ok(holder_of(filesystem, &[(file.path, stat)]).pop().unwrap_or_default())
}

/// Every session that has a lock file in the directory (`dir` as in [`holder()`]): held ones first,
/// then by name. A missing directory has none. The kernel's table is read once for all of them.
///
/// # Errors
///
/// [`Error::Os`] if the directory cannot be read, [`Error::InvalidArgument`].
pub fn list(dir: Option<&Path>) -> Result<Vec<Session>, Error> {
    let dir = lock_file::directory(dir)?;
    let failed = |call, source| Error::Os { path: dir.clone(), call, source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("open", error)),
    };
    let (mut names, mut files) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(|error| failed("getdents64", error))?;
        let Some(name) = session_name::session(&entry.file_name()) else { continue };
        let path = to_c_string(entry.path().into_os_string().into_vec());
        match sys::lstat(&path) {
            Ok(stat) if stat.is_file() => {
                names.push(name);
                files.push((path, stat));
            }
            _ => {}
        }
    }
    let filesystem = Filesystem::of(&to_c_string(dir.as_os_str().as_bytes()));
    let holders = holder_of(filesystem, &files);
    let session = |(name, holder)| Session { name, holder };
    let mut sessions: Vec<Session> = names.into_iter().zip(holders).map(session).collect();
    sessions.sort_by(|a, b| (a.holder.state, &a.name).cmp(&(b.holder.state, &b.name)));
    Ok(sessions)
}

/// The processes that have a descriptor of the session's lock, as far as they may be looked at: for
/// an orphaned lock, those that keep it. Reads the descriptors of every process: not fast.
///
/// # Errors
///
/// As [`holder()`].
pub fn processes(dir: Option<&Path>, session: impl AsRef<OsStr>) -> Result<Vec<Process>, Error> {
    let file = LockFile::new(dir, session.as_ref())?;
    let Some(stat) = look(&file)? else { return Ok(Vec::new()) };
    let (pids, _) = Snapshot::new(Filesystem::of(&file.path)).processes(stat.id);
    let command = |pid| procfs::command(ProcId::Pid(pid)).unwrap_or_default();
    Ok(pids.into_iter().map(|pid| Process { pid, command: text(&command(pid)) }).collect())
}

/// The lock file, if there is one.
fn look(file: &LockFile) -> Result<Option<Stat>, Error> {
    match sys::lstat(&file.path) {
        Ok(stat) if stat.is_symlink() => Err(Error::Symlink { path: file.path() }),
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(file.failed("lstat", error)),
    }
}

/// Who holds each of the files, by one reading of the table for all.
fn holder_of(filesystem: Filesystem, files: &[(CString, Stat)]) -> Vec<Holder> {
    let mut snapshot = Snapshot::new(filesystem);
    let mut holders: Vec<Holder> =
        files.iter().map(|(path, stat)| snapshot.holder_of(path, stat)).collect();
    // A process that died after the table was read looks like one whose lock lives on. What a table
    // says that was read after the death is so.
    let mut doubtful: Vec<usize> = (0..files.len()).filter(|&n| holders[n].orphaned).collect();
    while !doubtful.is_empty() {
        let mut snapshot = Snapshot::new(filesystem);
        doubtful.retain(|&n| {
            let (path, stat) = &files[n];
            let before = mem::replace(&mut holders[n], snapshot.holder_of(path, stat));
            holders[n].orphaned && holders[n] != before
        });
    }
    holders
}

fn text(bytes: &[u8]) -> OsString {
    OsString::from_vec(label::cut(bytes, 63).to_vec())
}

// --------------------------------------------------------------------------------- the lock file

/// How the kernel's table names the files of a filesystem.
#[derive(Clone, Copy)]
struct Filesystem {
    /// The table's device, where it is not the one that `stat` gives.
    device: Option<u64>,
    /// The local kernel keeps all locks on it.
    local: bool,
}

impl Filesystem {
    fn of(path: &CStr) -> Filesystem {
        const EXT: u32 = 0xEF53;
        const XFS: u32 = 0x5846_5342;
        const TMPFS: u32 = 0x0102_1994;
        /// Btrfs, overlayfs, ramfs, f2fs, zfs, bcachefs, jfs, nilfs2, reiserfs, vfat, exfat, ntfs3, squashfs,
        /// erofs, iso9660.
        const OTHER_LOCAL: [u32; 15] = [
            0x9123_683E,
            0x794C_7630,
            0x8584_58F6,
            0xF2F5_2010,
            0x2FC1_2FC1,
            0xCA45_1A4E,
            0x3153_464A,
            0x3434,
            0x5265_4973,
            0x4D44,
            0x2011_BAB0,
            0x7366_746E,
            0x7371_7368,
            0xE0F5_E1E2,
            0x9660,
        ];
        let kind = sys::statfs_type(path).unwrap_or(0);
        // A stat on btrfs and overlayfs gives a device of its own for each subvolume or layer; the
        // table has the mount's. For the three most common ones there is nothing to look up.
        let device = match kind {
            EXT | XFS | TMPFS => None,
            _ => sys::statx_mount_id(path).and_then(procfs::mount_device).ok().flatten(),
        };
        // Without such a list a filesystem that is new, or kept by another host, would count as
        // local: the answer "free" must not come from not knowing it.
        let local = matches!(kind, EXT | XFS | TMPFS) || OTHER_LOCAL.contains(&kind);
        Filesystem { device, local }
    }

    fn in_table(&self, file: FileId) -> FileId {
        FileId { dev: self.device.unwrap_or(file.dev), ino: file.ino }
    }
}

fn read_label(path: &CStr, stat: &Stat) -> Label {
    if !stat.is_file() {
        return Label::Unreadable;
    }
    sys::open(path, libc::O_RDONLY, 0).map_or(Label::Unreadable, |file| Label::read(file.as_fd()))
}

// ------------------------------------------------------------------------------- what we can see

type OpenFiles = BTreeMap<FileId, Vec<PathBuf>>;

/// What this process can see of the others, at one moment.
struct Snapshot {
    filesystem: Filesystem,
    /// Who took each lock, numbered as in the mounted `/proc`.
    takers: BTreeMap<FileId, Vec<u32>>,
    sees_everybody: bool,
    /// The PID namespace of this process; 0 if unknown.
    pidns: u64,
    /// `/proc` is mounted for that namespace: its numbers are ours.
    own_proc: bool,
    /// The processes that were looked at, and the files that they have open (`None`: not shown).
    stats: BTreeMap<u32, Option<ProcStat>>,
    open_files: BTreeMap<u32, Option<OpenFiles>>,
    boot: Option<String>,
}

impl Snapshot {
    fn new(filesystem: Filesystem) -> Snapshot {
        let table = procfs::locks();
        let pidns = procfs::pid_namespace(ProcId::Me).unwrap_or(0);
        let own_proc = procfs::own_number() == Some(sys::getpid());
        let initial = pidns == procfs::INITIAL_PID_NAMESPACE && own_proc;
        let sees_everybody = table.is_ok() && initial && filesystem.local;
        let mut takers: BTreeMap<FileId, Vec<u32>> = BTreeMap::new();
        for lock in table.unwrap_or_default() {
            takers.entry(lock.file).or_default().push(lock.pid);
        }
        Snapshot {
            filesystem,
            takers,
            sees_everybody,
            pidns,
            own_proc,
            stats: BTreeMap::new(),
            open_files: BTreeMap::new(),
            boot: None,
        }
    }

    fn holder_of(&mut self, path: &CStr, stat: &Stat) -> Holder {
        let in_table = self.filesystem.in_table(stat.id);
        let mut takers = self.takers.get(&in_table).cloned().unwrap_or_default();
        let mut sees_everybody = self.sees_everybody;
        if in_table != stat.id && !takers.is_empty() {
            // Files of two subvolumes or layers can have the same number in the table.
            sees_everybody &= self.sort_out(&mut takers, stat.id);
        }
        if takers.is_empty() && sees_everybody {
            return Holder { state: State::Free, confirmed: true, ..Holder::default() };
        }
        let label = read_label(path, stat);
        if takers.is_empty() { self.by_label(&label) } else { self.held(&takers, &label, stat.id) }
    }

    /// Keeps those who took the lock of this very file. Whether that can be known.
    fn sort_out(&mut self, takers: &mut Vec<u32>, file: FileId) -> bool {
        let its = |&pid: &u32| self.has_locked(pid, file) == Some(true);
        let own: Vec<u32> = takers.iter().copied().filter(its).collect();
        if !own.is_empty() {
            *takers = own;
            return true;
        }
        let (processes, complete) = self.processes(file);
        if processes.is_empty() {
            takers.clear();
        }
        complete
    }

    /// The processes that have a descriptor of the file's lock, and whether all could be looked at.
    fn processes(&mut self, file: FileId) -> (Vec<u32>, bool) {
        // With `hidepid` nothing is shown of the first process, either.
        let mut complete = self.stat(1).is_some();
        let mut pids = procfs::processes();
        pids.retain(|&pid| {
            let locked = self.has_locked(pid, file);
            complete &= locked.is_some();
            locked == Some(true)
        });
        (pids, complete)
    }

    /// Whether a process has a descriptor of the file's lock; `None` where we may not look.
    fn has_locked(&mut self, pid: u32, file: FileId) -> Option<bool> {
        let open = self.open_files.entry(pid).or_insert_with(|| match procfs::open_files(pid) {
            Ok(open) => Some(open),
            // One that is gone has nothing open; one that is hidden may have.
            Err(error) => {
                let gone = error.kind() == io::ErrorKind::NotFound && !sys::process_exists(pid);
                gone.then(OpenFiles::new)
            }
        });
        let descriptors = open.as_ref()?.get(&file);
        Some(descriptors.is_some_and(|all| all.iter().any(|one| procfs::is_locked(one))))
    }

    /// The table names who took the lock.
    fn held(&mut self, takers: &[u32], label: &Label, file: FileId) -> Holder {
        let label = match label {
            Label::Holder(label) => Some(label),
            _ => None,
        };
        // Several hold a shared lock, or the table means several files: the one who is labelled, or
        // else one who still has it, or one who is dead.
        let labelled = takers.iter().find(|&&pid| label.is_some_and(|l| self.is_label_of(l, pid)));
        let mut label = label.filter(|_| labelled.is_some());
        let pid = labelled
            .or_else(|| takers.iter().find(|&&pid| self.is_alive(pid) && self.may_hold(pid, file)))
            .or_else(|| takers.iter().find(|&&pid| !self.is_alive(pid)))
            .copied()
            .unwrap_or(takers[0]);
        let mut alive = self.is_alive(pid);
        if alive && !label.is_some_and(|label| self.is_start_of(label, pid)) {
            // No label of this process: an earlier one with its number took the lock, and a child of
            // that one keeps it; or this one took it, and wrote no label.
            alive = self.may_hold(pid, file);
            label = label.filter(|_| !alive);
        }
        let mut holder = Holder {
            state: State::Held,
            pid: self.own_pid(pid),
            orphaned: !alive,
            confirmed: true,
            ..Holder::default()
        };
        if let Some(label) = label {
            holder.describe(label);
        } else {
            if alive {
                holder.command = text(&procfs::command(ProcId::Pid(pid)).unwrap_or_default());
            }
            holder.host = text(&sys::gethostname());
        }
        holder
    }

    fn is_alive(&mut self, pid: u32) -> bool {
        match self.stat(pid) {
            Some(life) => !life.zombie,
            // With `hidepid` a living process is not in `/proc`.
            None => self.own_proc && sys::process_exists(pid),
        }
    }

    /// Whether a living process has the lock; without permission to look, it is believed to.
    fn may_hold(&mut self, pid: u32, file: FileId) -> bool {
        self.has_locked(pid, file).unwrap_or(true)
    }

    /// Whether the label's start time is that of the process; believed where it cannot be seen.
    fn is_start_of(&mut self, label: &label::Holder, pid: u32) -> bool {
        self.stat(pid).is_none_or(|life| life.start == label.start)
    }

    /// The table names nobody and does not see everybody.
    fn by_label(&mut self, label: &Label) -> Holder {
        let mut holder = Holder::default();
        match label {
            Label::Cleared(_) => holder.state = State::Free,
            Label::Unreadable => {}
            Label::Holder(label) => {
                holder.describe(label);
                if label.pidns == self.pidns && self.is_this_boot(label) {
                    holder.pid = Some(label.pid);
                    if self.lives_as_labelled(label) {
                        holder.state = State::Held;
                    }
                }
            }
        }
        holder
    }

    /// Whether the process that a label names is here and alive: the same one, not its number's next.
    fn lives_as_labelled(&mut self, label: &label::Holder) -> bool {
        self.own_proc
            && label.pidns == self.pidns
            && self.is_this_boot(label)
            && self.stat(label.pid).is_some_and(|life| !life.zombie && life.start == label.start)
    }

    /// Whether the label was written by a process with the number `pid` (perhaps an earlier one).
    fn is_label_of(&mut self, label: &label::Holder, pid: u32) -> bool {
        if !self.is_this_boot(label) {
            return false;
        }
        if self.own_proc && label.pidns == self.pidns {
            return label.pid == pid;
        }
        let process = ProcId::Pid(pid);
        procfs::pid_namespace(process).is_ok_and(|pidns| pidns == label.pidns)
            && procfs::innermost_pid(process) == Some(label.pid)
    }

    fn is_this_boot(&mut self, label: &label::Holder) -> bool {
        let boot = self.boot.get_or_insert_with(|| procfs::boot_id().unwrap_or_default());
        !boot.is_empty() && *boot == label.boot
    }

    fn stat(&mut self, pid: u32) -> Option<ProcStat> {
        *self.stats.entry(pid).or_insert_with(|| procfs::stat(ProcId::Pid(pid)).ok())
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

impl Holder {
    fn describe(&mut self, label: &label::Holder) {
        self.acquired_at_ms = Some(label.acquired_ms).filter(|&ms| ms > 0);
        self.command = text(&label.command);
        self.host = text(&label.host);
    }
}
