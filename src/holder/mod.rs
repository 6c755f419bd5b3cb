//! Who holds a session's lock, without touching the lock.
//!
//! The kernel's word wins: a descriptor that has the lock (`/proc/PID/fdinfo`), or the kernel's table of
//! locks (`/proc/locks`). The label in the lock file adds what the kernel does not know (when, which
//! command, on whose behalf), and says where to look first.
//!
//! What decides, in this order:
//!
//! | | the answer |
//! |---|---|
//! | the descriptor that the label names has the lock, and the process that it names lives | held |
//! | the table names who took the lock, and the label is that process's, or says that it is the guardian of a living one | held, with all that the label says |
//! | the table names a living process that has the lock, or that may not be looked at | held; the command from `/proc/PID` |
//! | the table names somebody, and a guardian has the lock | held by the process whose pidfd the guardian has |
//! | the same, and that process has ended | free, not confirmed: the guardian has not noticed yet |
//! | the table names somebody, and others have the lock | held, orphaned |
//! | the table names somebody, and nobody has the lock who can be seen | held |
//! | the table names nobody, is short and complete, and sees everybody | free |
//! | a search of all descriptors finds who has the lock | held, as above |
//! | the same finds nobody, and could look at everybody; and no thread of the process that the label names, or of its guardian, has the lock in a table of its own | free |
//! | else: the label is cleared, or there is no file | free, not confirmed |
//! | else: the label is of a process that lives, here (and has the lock, if the table sees everybody) | held, not confirmed |
//! | else: the table sees everybody, and is at rest | free, not confirmed |
//! | else | unknown |
//!
//! When the table is *complete*, and when it is *at rest*, is said in `lock_table`. It *sees everybody* in
//! the initial PID namespace with its own `/proc`, on a filesystem whose locks the local kernel keeps. So
//! what decides depends on the place:
//!
//! | place | what decides |
//! |---|---|
//! | the initial PID namespace, a local filesystem; also in a user namespace | the descriptor, the table, or a search |
//! | the same, with `hidepid`, or beside other users' processes | the table. That a process is dead is known from `kill(2)`, and the command only from the label. A search is not complete: where the table is long, the label has the last word |
//! | btrfs, overlayfs with layers on different filesystems | the table, where the mount's device stands; two files of the same number are told apart by the descriptors of those who are named. Where these do not tell, the label: held, not confirmed, or unknown |
//! | a PID namespace | the descriptor and the table for holders in it; the table hides those outside, and a taker that is dead: then the label |
//! | a PID namespace with the outer `/proc` | the table for who holds it (a PID only for those inside), the label for who does not |
//! | no `/proc`, or one of `subset=pid` | the label: free or unknown |
//! | FUSE where the kernel keeps the locks | the table for who holds it, the label for who does not |
//! | FUSE that keeps its locks to itself | the label |
//! | a network filesystem | the table for holders on this host, the label for the others |

#![forbid(unsafe_code)]

use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io;
use std::mem;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::error::Error;
use crate::label;
use crate::lock_file::{Directory, LockFile, to_c_string, to_path};
use crate::procfs::{self, ProcId};
use crate::session_name;
use crate::sys::{self, Stat};

mod filesystem;
mod lock_table;
mod snapshot;

use filesystem::Filesystem;
use snapshot::{File, Snapshot};

/// Whether a session is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Somebody holds the lock.
    Held,
    /// It cannot be determined from here.
    #[default]
    Unknown,
    /// Nobody holds the lock: only returned when that is certain.
    Free,
}

/// Who holds a session's lock. The answer may be out of date by the time you read it: never use it to
/// decide whether to go ahead.
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
    /// The holder's fencing token, see [`SessionLock::token`](crate::SessionLock::token); `None` if unknown.
    pub token: Option<u64>,
    /// How many processes wait in the kernel's queue for the lock, as far as they are visible.
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

/// Tells who holds a session's lock. It makes no `flock` call, takes and creates nothing, and needs only
/// permission to search the directory. A session that was never locked is free.
///
/// # Errors
///
/// [`Error::Symlink`] if the lock file is a symbolic link, [`Error::Untrusted`] if the directory or the
/// file is not safe to trust; [`Error::InvalidArgument`], [`Error::NameTooLong`]; [`Error::Os`] if the
/// path cannot be looked at.
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
    holder_with(dir, session.as_ref(), true)
}

/// Without the number of waiters, where nobody asks for it: for that the kernel's table must be read,
/// however long it is.
pub(crate) fn holder_with(
    dir: Option<&Path>,
    session: &OsStr,
    waiters: bool,
) -> Result<Holder, Error> {
    let lock_file = LockFile::new(dir, session)?;
    let Some(stat) = look(&lock_file)? else {
        let confirmed = Snapshot::new().sees_everybody(&of_directory(&lock_file.dir().path));
        return Ok(Holder { state: State::Free, confirmed, ..Holder::default() });
    };
    let file = File::new(&lock_file.path, stat);
    let mut snapshot = Snapshot::new();
    let mut holder = snapshot.holder_of(&file);
    if snapshot.doubtful {
        holder = settle(&file, holder);
    } else if waiters && holder.state == State::Held {
        holder.waiters = snapshot.waiters(&file);
    }
    Ok(holder)
}

/// The filesystem of a directory, which may be reached over links.
fn of_directory(dir: &CStr) -> Filesystem {
    let dir = to_c_string([dir.to_bytes(), b"/."].concat());
    let dev = sys::stat(&dir).map_or(0, |stat| stat.id.dev);
    Filesystem::of(&dir, dev)
}

/// A process that died after the table was read looks like one whose lock lives on. What a table says
/// that was read after the death is so.
fn settle(file: &File<'_>, mut holder: Holder) -> Holder {
    const LOOKS: usize = 8;
    for _ in 0..LOOKS {
        let mut snapshot = Snapshot::new();
        let before = mem::replace(&mut holder, snapshot.holder_of(file));
        if !snapshot.doubtful || holder == before {
            break;
        }
    }
    holder
}

/// Lists every session that has a lock file in the directory (`dir` as in [`holder()`]): held ones first,
/// then by name. A missing directory has none. A lock file with several hard links, about which
/// [`holder()`] says nothing, is unknown. The kernel's table is read once for all of them.
///
/// # Errors
///
/// [`Error::Os`] if the directory cannot be read or a file in it cannot be looked at,
/// [`Error::Untrusted`] if the directory is not safe to trust; [`Error::InvalidArgument`].
pub fn list(dir: Option<&Path>) -> Result<Vec<Session>, Error> {
    let directory = Directory::new(dir)?;
    directory.trusted()?;
    let dir = to_path(&directory.path);
    let failed = |call, source| Error::Os { path: dir.clone(), call, source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("open", error)),
    };
    let filesystem = of_directory(&directory.path);
    let dev = fs::metadata(&dir).map_or(0, |stat| std::os::unix::fs::MetadataExt::dev(&stat));
    let mut snapshot = Snapshot::with_table();
    let mut sessions = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("getdents64", error))?;
        let Some(name) = session_name::session(&entry.file_name()) else { continue };
        let path = to_c_string(entry.path().into_os_string().into_vec());
        let stat = match sys::lstat(&path) {
            Ok(stat) if stat.is_file() => stat,
            Ok(_) => continue,
            // Somebody has just deleted it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(source) => return Err(Error::Os { path: to_path(&path), call: "lstat", source }),
        };
        if stat.links > 1 {
            // It could be the lock of several sessions, and is one that nobody is given.
            sessions.push(Session { name, holder: Holder::default() });
            continue;
        }
        // A file can be mounted from elsewhere, or be in another layer.
        let own = stat.id.dev != dev;
        let filesystem = if own { Filesystem::of(&path, stat.id.dev) } else { filesystem };
        let file = File { path: &path, stat, filesystem };
        let mut holder = snapshot.holder_of(&file);
        if snapshot.doubtful {
            holder = settle(&file, holder);
        }
        sessions.push(Session { name, holder });
    }
    let held = |session: &Session| session.holder.state == State::Held;
    sessions.sort_unstable_by(|a, b| held(b).cmp(&held(a)).then_with(|| a.name.cmp(&b.name)));
    Ok(sessions)
}

/// Lists the processes that have a descriptor of the session's lock, as far as this process may examine
/// them: for an orphaned lock, those that keep it. This reads the descriptors of every process, which is
/// slow.
///
/// # Errors
///
/// As [`holder()`].
pub fn processes(dir: Option<&Path>, session: impl AsRef<OsStr>) -> Result<Vec<Process>, Error> {
    let file = LockFile::new(dir, session.as_ref())?;
    let Some(stat) = look(&file)? else { return Ok(Vec::new()) };
    let command = |pid| procfs::command(ProcId::Pid(pid)).unwrap_or_default();
    let pids = Snapshot::new().search(&File::new(&file.path, stat)).pids;
    Ok(pids.into_iter().map(|pid| Process { pid, command: text(&command(pid)) }).collect())
}

/// The lock file, if there is one.
fn look(file: &LockFile) -> Result<Option<Stat>, Error> {
    file.dir().trusted()?;
    match sys::lstat(&file.path) {
        Ok(stat) => file.check_kind(&stat).map(|()| Some(stat)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(file.failed("lstat", error)),
    }
}

fn text(bytes: &[u8]) -> OsString {
    OsString::from_vec(label::cut(bytes, 63).to_vec())
}

impl Holder {
    fn describe(&mut self, label: &label::Holder) {
        self.acquired_at_ms = Some(label.acquired_ms).filter(|&ms| ms > 0);
        self.command = text(&label.command);
        self.host = text(&label.host);
        self.token = Some(label.token).filter(|&token| token > 0);
    }
}
