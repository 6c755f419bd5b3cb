//! What `/proc` says of a process, and of where it is. Nothing is judged here.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::Mutex;

use crate::sys;
pub use crate::sys::FileId;

/// The inode number of the initial PID namespace, the same on every Linux.
pub(crate) const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// How a process is named in a path below `/proc`.
#[derive(Clone, Copy)]
pub enum ProcId {
    /// This process.
    Me,
    /// The one with this number.
    Pid(u32),
}

impl ProcId {
    pub fn file(self, name: &str) -> PathBuf {
        match self {
            ProcId::Me => PathBuf::from(format!("/proc/self/{name}")),
            ProcId::Pid(pid) => PathBuf::from(format!("/proc/{pid}/{name}")),
        }
    }
}

/// A file below `/proc`, in whole.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    // `fs::read` would ask for a size that these files do not have, and then feel its way in small
    // pieces.
    let mut text = Vec::with_capacity(4096);
    File::open(path)?.take(u64::MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// What stands behind a key that begins a line, without the blanks around it.
pub fn field<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let value = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))?;
    Some(value.trim_ascii())
}

/// The parts of `/proc/PID/stat` that tell one life of a PID from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// In clock ticks since boot.
    pub start: u64,
    /// Has ended, but its parent has not asked for its status.
    pub zombie: bool,
    /// Stopped by a signal or a debugger.
    pub stopped: bool,
    /// The parent's PID; 0 if it is not in this PID namespace.
    pub parent: u32,
    /// How many threads it has.
    pub threads: u32,
}

/// # Errors
///
/// There is no such process, or it is not shown.
pub fn stat(process: ProcId) -> io::Result<ProcStat> {
    let text = read(process.file("stat"))?;
    parse_stat(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_stat(text: &[u8]) -> Option<ProcStat> {
    // The command, in parentheses, may itself contain parentheses, blanks and line feeds.
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = str::from_utf8(text.get(end + 2..)?).ok()?.split(' ');
    // Field 3 is the first one here.
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let threads = fields.nth(15)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    Some(ProcStat {
        start,
        // A process whose first thread has ended is a zombie to look at, but it lives on.
        zombie: matches!(state, "Z" | "X" | "x") && threads <= 1,
        stopped: matches!(state, "T" | "t"),
        parent,
        threads,
    })
}

/// Who took a `flock`, or waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flock {
    pub pid: u32,
    pub file: FileId,
    pub waits: bool,
}

/// The `flock`s of a text of `/proc/locks`.
pub fn flocks(table: &[u8]) -> impl Iterator<Item = Flock> {
    table.split(|&byte| byte == b'\n').filter_map(parse_flock)
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF`; a waiter has `->` behind the number.
fn parse_flock(line: &[u8]) -> Option<Flock> {
    let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    let first = fields.next()?;
    let waits = first == "->";
    if (if waits { fields.next()? } else { first }) != "FLOCK" {
        return None;
    }
    let pid = fields.nth(2)?.parse().ok()?;
    let mut file = fields.next()?.split(':');
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let ino = file.next()?.parse().ok()?;
    Some(Flock { pid, file: FileId { dev: libc::makedev(major, minor), ino }, waits })
}

/// Whether a thread of this process is asleep in the system call with this number.
pub(crate) fn is_asleep_in(thread: u32, call: libc::c_long) -> io::Result<bool> {
    let of_thread = |name| format!("/proc/self/task/{thread}/{name}");
    match read(of_thread("syscall")) {
        // "running", or the number and what else is in the registers (proc(5)).
        Ok(text) => Ok(text.starts_with(format!("{call} ").as_bytes())),
        // Not every kernel has it, and a process that is not dumpable may not read its own.
        Err(_) => {
            let text = read(of_thread("stat"))?;
            let state = text.iter().rposition(|&byte| byte == b')').map(|end| &text[end + 1..]);
            Ok(state.is_some_and(|state| state.starts_with(b" S") || state.starts_with(b" D")))
        }
    }
}

/// The command line, its words separated by blanks, without the directory of the program; or else
/// the short name that a kernel thread or a zombie has.
///
/// # Errors
///
/// There is no such process, or it is not shown.
pub fn command(process: ProcId) -> io::Result<Vec<u8>> {
    let mut line = read(process.file("cmdline"))?;
    while line.last().is_some_and(|&byte| byte == 0 || byte == b' ') {
        line.pop();
    }
    if line.is_empty() {
        return name(process);
    }
    let program = line.iter().position(|&byte| byte == 0).unwrap_or(line.len());
    let directory = line[..program].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    line.drain(..directory);
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    Ok(line)
}

/// The inode of a process's PID namespace.
pub(crate) fn pid_namespace(process: ProcId) -> io::Result<u64> {
    Ok(fs::metadata(process.file("ns/pid"))?.ino())
}

/// A process's number in its own, innermost PID namespace.
pub(crate) fn innermost_pid(process: ProcId) -> Option<u32> {
    let status = read(process.file("status")).ok()?;
    let pids = str::from_utf8(field(&status, b"NSpid:")?).ok()?;
    pids.split_ascii_whitespace().next_back()?.parse().ok()
}

/// The same for as long as this process lives: read once.
pub(crate) fn boot_id() -> io::Result<String> {
    static CACHE: Mutex<Option<String>> = Mutex::new(None);
    // Never waits: in a child, the thread that had it locked at the fork may not exist.
    let mut cache = CACHE.try_lock().ok();
    if let Some(known) = cache.as_ref().and_then(|cache| cache.as_ref()) {
        return Ok(known.clone());
    }
    let text = read("/proc/sys/kernel/random/boot_id")?;
    let boot = String::from_utf8_lossy(text.trim_ascii_end()).into_owned();
    if let Some(cache) = &mut cache {
        **cache = Some(boot.clone());
    }
    Ok(boot)
}

/// The number that the mounted `/proc` knows this process by; differs from `getpid` where it was
/// mounted for another PID namespace.
pub fn own_number() -> Option<u32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// The entries of a directory whose names are numbers.
fn numbers_in(dir: PathBuf) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// All processes that are visible.
pub fn processes() -> Vec<u32> {
    numbers_in("/proc".into()).unwrap_or_default()
}

/// The threads of a process.
pub fn threads(pid: u32) -> io::Result<Vec<u32>> {
    numbers_in(ProcId::Pid(pid).file("task"))
}

/// The numbers of a process's descriptors; an error where we may not look.
pub fn descriptors(process: ProcId) -> io::Result<Vec<u32>> {
    numbers_in(process.file("fd"))
}

/// What a descriptor stands for.
pub struct Behind {
    pub file: FileId,
    /// A pipe, with or without a name in a directory.
    pub is_pipe: bool,
}

/// What a process's descriptor stands for, as far as this host knows: it may be on a filesystem whose server
/// does not answer, and `stat` would wait for that.
///
/// # Errors
///
/// It is closed, or we may not look.
pub fn behind(process: ProcId, number: u32) -> io::Result<Behind> {
    let path = process.file(&format!("fd/{number}")).into_os_string();
    let path = CString::new(path.into_vec()).unwrap_or_default();
    let stat = sys::stat_from_cache(&path)?;
    Ok(Behind { file: stat.id, is_pipe: stat.is_fifo() })
}

/// A descriptor of a process that has a `flock`, or may have one.
#[derive(Clone, Copy)]
pub(crate) struct Locked {
    /// The file, as the kernel's table names it; `None` where we may not see which lock it has.
    pub file: Option<FileId>,
    process: ProcId,
    number: u32,
}

impl Locked {
    /// The file, as `stat` names it.
    pub fn stat(self) -> io::Result<FileId> {
        Ok(behind(self.process, self.number)?.file)
    }
}

/// The descriptors of a process that have a `flock`; an error where we may not look. No file is touched: one
/// of them may be on a filesystem whose server does not answer, and a `stat` would wait for that.
pub(crate) fn locked(pid: u32) -> io::Result<Vec<Locked>> {
    let process = ProcId::Pid(pid);
    let numbers = descriptors(process)?;
    if !numbers.is_empty() {
        return Ok(locked_of(process, &numbers));
    }
    // When the first thread has ended, only the others show what they share. (`/proc` has them under
    // their own numbers, too, and does not list these: proc(5).)
    for thread in threads(pid)? {
        let process = ProcId::Pid(thread);
        let numbers = descriptors(process).unwrap_or_default();
        if !numbers.is_empty() {
            return Ok(locked_of(process, &numbers));
        }
    }
    Ok(Vec::new())
}

fn locked_of(process: ProcId, numbers: &[u32]) -> Vec<Locked> {
    numbers.iter().filter_map(|&number| locked_by(process, number)).collect()
}

/// The `flock` of a process's descriptor `number`, if it has one.
pub(crate) fn flock_of(pid: u32, number: u32) -> Option<Locked> {
    locked_by(ProcId::Pid(pid), number)
}

fn locked_by(process: ProcId, number: u32) -> Option<Locked> {
    let file = match fdinfo(process, number) {
        Ok(text) => {
            // As in the table, behind a key (`show_fd_locks()`).
            let mut lines = text.split(|&byte| byte == b'\n');
            Some(lines.find_map(|line| parse_flock(line.strip_prefix(b"lock:")?))?.file)
        }
        // It was closed just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => None,
    };
    Some(Locked { file, process, number })
}

/// What the kernel tells about a process's descriptor `number`.
pub fn fdinfo(process: ProcId, number: u32) -> io::Result<Vec<u8>> {
    read(process.file(&format!("fdinfo/{number}")))
}

/// The process that one of a process's descriptors stands for, if there is a pidfd among them;
/// `Some(None)` once that has been waited for (`pidfd_show_fdinfo()`).
pub(crate) fn pidfd_target(pid: u32) -> Option<Option<u32>> {
    let process = ProcId::Pid(pid);
    descriptors(process).ok()?.into_iter().find_map(|number| process_of_pidfd(process, number))
}

/// The process that a process's descriptor `number` stands for, if it is a pidfd; `Some(None)` as above.
pub fn process_of_pidfd(process: ProcId, number: u32) -> Option<Option<u32>> {
    let text = fdinfo(process, number).ok()?;
    Some(str::from_utf8(field(&text, b"Pid:")?).ok()?.parse().ok())
}

/// The short name of a process: `prctl(PR_SET_NAME)`.
pub fn name(process: ProcId) -> io::Result<Vec<u8>> {
    let mut name = read(process.file("comm"))?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(name)
}

/// Whether a start time that the process itself has read can be compared with one that we read: each
/// is counted from the boot as the reader's time namespace has it (`do_task_stat()`, Linux 5.5). Where
/// the other's namespace may not be looked at, it is taken for ours.
pub(crate) fn has_our_clock(process: ProcId) -> bool {
    let namespace = |process: ProcId| fs::metadata(process.file("ns/time")).ok().map(|ns| ns.ino());
    match (namespace(process), namespace(ProcId::Me)) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    }
}

/// A line of `/proc/self/uid_map`: a range of user IDs in this user namespace, and where it begins in
/// the parent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UidRange {
    inside: u32,
    outside: u32,
    length: u32,
}

impl UidRange {
    /// The number of a user of this namespace in the parent's; `None` if it is not of this range.
    pub fn outside(&self, uid: u32) -> Option<u32> {
        let nth = uid.checked_sub(self.inside).filter(|&nth| nth < self.length)?;
        self.outside.checked_add(nth)
    }
}

pub(crate) const UID_MAP: &str = "/proc/self/uid_map";

/// How user IDs of this user namespace are numbered in its parent; in the initial one all of them as
/// they are (user_namespaces(7)).
pub(crate) fn uid_map() -> io::Result<Vec<UidRange>> {
    let text = read(UID_MAP)?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse_uid_range).collect())
}

fn parse_uid_range(line: &[u8]) -> Option<UidRange> {
    let mut numbers = str::from_utf8(line).ok()?.split_ascii_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(UidRange { inside: next()?, outside: next()?, length: next()? })
}

pub const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A line of `/proc/self/mountinfo`. Any bytes but blanks and line feeds can be in its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    pub id: u64,
    /// As the kernel's table of locks names it.
    pub device: u64,
    /// The directory of its filesystem that it shows.
    pub root: &'a [u8],
    /// Where it is mounted.
    pub place: &'a [u8],
    pub kind: &'a [u8],
    /// Of the filesystem, separated by commas.
    pub options: &'a [u8],
}

/// The mounts of a text of `/proc/self/mountinfo`, those on top behind those that they hide.
pub fn mounts(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(parse_mount)
}

/// `36 35 98:0 /root /mnt options [tags...] - ext4 source options`
fn parse_mount(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut text = || str::from_utf8(fields.next()?).ok();
    let id = text()?.parse().ok()?;
    let (major, minor) = (text()?, text()?).1.split_once(':')?;
    let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
    let (root, place) = (fields.next()?, fields.next()?);
    let mut fields = fields.skip_while(|&field| field != b"-").skip(1);
    Some(Mount { id, device, root, place, kind: fields.next()?, options: fields.nth(1)? })
}

/// The directory of its filesystem that the topmost mount at `place` shows; `None` if nothing is
/// mounted there.
pub(crate) fn mount_root(place: &str) -> io::Result<Option<Vec<u8>>> {
    let text = read(MOUNTINFO)?;
    let there = mounts(&text).filter(|mount| mount.place == place.as_bytes()).last();
    Ok(there.map(|mount| mount.root.to_vec()))
}

/// The number of the mount that a descriptor of this process is on.
pub fn mount_id(fd: BorrowedFd) -> io::Result<u64> {
    let text = read(ProcId::Me.file(&format!("fdinfo/{}", fd.as_raw_fd())))?;
    let id = field(&text, b"mnt_id:").and_then(|id| str::from_utf8(id).ok()?.parse().ok());
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_shift_the_fields_behind_it() {
        let text = b"42 (a) Z 1 (x\n) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 9876 0 0";
        assert_eq!(
            parse_stat(text),
            Some(ProcStat { start: 9876, zombie: false, stopped: false, parent: 7, threads: 3 })
        );
        assert_eq!(parse_stat(b"42 (a"), None);
        assert_eq!(parse_stat(b"42 (a) S"), None);
    }

    #[test]
    fn waiters_and_other_kinds_of_lock_are_not_holders() {
        let file = FileId { dev: libc::makedev(0xfd, 1), ino: 5678 };
        let holder = b"1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF";
        assert_eq!(parse_flock(holder), Some(Flock { pid: 1234, file, waits: false }));
        for waiter in [
            "1: -> FLOCK  ADVISORY  WRITE 7 fd:01:5678 0 EOF",
            "1:  -> FLOCK  ADVISORY  WRITE 7 fd:01:5678 0 EOF",
        ] {
            assert_eq!(parse_flock(waiter.as_bytes()), Some(Flock { pid: 7, file, waits: true }));
        }
        assert_eq!(parse_flock(b"2: POSIX  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"), None);
        assert_eq!(parse_flock(b"2: -> POSIX  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"), None);
        assert_eq!(parse_flock(b"3: OFDLCK ADVISORY  WRITE -1 fd:01:5678 0 EOF"), None);
        for end in 0..holder.len() {
            let _ = parse_flock(&holder[..end]);
        }
    }

    #[test]
    fn a_user_id_is_looked_up_in_its_range() {
        let range = parse_uid_range(b"         0       1000          1").unwrap();
        assert_eq!((range.outside(0), range.outside(1)), (Some(1000), None));
        let range = parse_uid_range(b"1 100000 65536").unwrap();
        assert_eq!((range.outside(0), range.outside(33)), (None, Some(100_032)));
        assert_eq!((range.outside(65536), range.outside(65537)), (Some(165_535), None));
        let all = parse_uid_range(b"0 0 4294967295").unwrap();
        assert_eq!(all.outside(u32::MAX - 1), Some(u32::MAX - 1));
        assert_eq!(parse_uid_range(b"0 1000"), None);
        assert_eq!(parse_uid_range(b""), None);
    }

    #[test]
    fn only_a_process_without_living_threads_is_a_zombie() {
        let stat = |threads| format!("42 (a) Z 7 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 {threads} 0 5 0");
        assert!(parse_stat(stat(1).as_bytes()).unwrap().zombie);
        assert!(!parse_stat(stat(2).as_bytes()).unwrap().zombie);
    }

    #[test]
    fn a_mount_is_read_whatever_the_names_in_its_line() {
        let mount = |root, place, kind, options| Mount {
            id: 36,
            device: libc::makedev(98, 7),
            root,
            place,
            kind,
            options,
        };
        assert_eq!(
            parse_mount(b"36 35 98:7 /\xff\\040 /mnt/\xe9 rw,noatime - ext4 /dev/\xff rw,a"),
            Some(mount(b"/\xff\\040", b"/mnt/\xe9", b"ext4", b"rw,a"))
        );
        // Tags, and a source without a name.
        let line = b"36 35 98:7 / /mnt/- rw shared:1 master:2 - tmpfs  rw";
        assert_eq!(parse_mount(line), Some(mount(b"/", b"/mnt/-", b"tmpfs", b"rw")));
        for end in 0..line.len() {
            let _ = parse_mount(&line[..end]);
        }
    }
}
