//! The text in the lock file: who took the lock. A label, never evidence of ownership.
//!
//! The first line is the holder's PID, as in a pidfile, `0` once released; `key=value` lines
//! follow, a checksum last. A label always has the same size, padded with line feeds, so that it is
//! written and cleared by one `pwrite` each that allocates nothing on the disk (a truncation would
//! cost more than the rest of the lock).
//!
//! | key | value |
//! |---|---|
//! | `start` | when the process started, in clock ticks since boot: field 22 of `/proc/PID/stat` |
//! | `boot`, `pidns`, `host` | where its PID counts: boot id, inode of the PID namespace, host name |
//! | `acquired` | milliseconds since the Unix epoch |
//! | `command` | its command line, percent-coded |
//! | `token` | the fencing token, also while the lock is free |
//! | `until` | `exit`: a guardian holds the lock until that process has ended |
//! | `fd` | the number of the descriptor with the lock, in that process or in its guardian |
//! | `guardian` | the guardian's PID |

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::str;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::percent;
use crate::procfs::{self, ProcId, ProcStat};
use crate::registry;
use crate::sys;

/// How long a label is, in bytes.
pub const SIZE: usize = 512;
/// Room for the command as it is handed out: 64 bytes with a NUL.
const COMMAND_MAX: usize = 63;
const HOST_MAX: usize = 63;
/// How long the host's name may be in percent-code, beside the longest of all other fields.
const HOST_CODE_MAX: usize = 80;
const CHECKSUM_KEY: &[u8] = b"checksum=";

// ---------------------------------------------------------------------------------------- write

/// What a new label says beside what is known of this process.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish<'a> {
    /// Instead of this process's own command line.
    pub command: Option<&'a [u8]>,
    /// The lock is held for this process until it ends, by a guardian.
    pub until_exit_of: Option<u32>,
}

/// What this process writes into every label: read once.
struct Identity {
    pid: u32,
    forks: u32,
    boot: String,
    pidns: u64,
    host: Vec<u8>,
    /// The first lines of its labels, which never change.
    lines: Encoder,
    /// In percent-code. Read only where no other command is to be written.
    command: OnceLock<Vec<u8>>,
}

/// What a label says beside who the process is.
struct Details<'a> {
    acquired_ms: i64,
    /// In percent-code.
    command: &'a [u8],
    token: u64,
    until_exit: bool,
    descriptor: Option<RawFd>,
    guardian: Option<u32>,
}

/// Writes a label on a lock that this process, `me`, holds; its token.
///
/// # Errors
///
/// A missing label does not affect the lock: callers go on.
pub(crate) fn write(fd: BorrowedFd<'_>, me: u32, wish: &Wish<'_>) -> io::Result<u64> {
    let identity = identity(me)?;
    let mut label = match wish.until_exit_of {
        Some(pid) if pid != me => {
            let start = procfs::stat(ProcId::Pid(pid))?.start;
            Encoder::process(pid, start, &identity.boot, identity.pidns, &identity.host)
        }
        _ => identity.lines.clone(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = next_token(fd, u64::try_from(now.as_nanos()).unwrap_or(0))?;
    let command = wish.command.map(encode_command);
    let text = label.with(&Details {
        acquired_ms: i64::try_from(now.as_millis()).unwrap_or(0),
        command: command.as_deref().unwrap_or_else(|| identity.command()),
        token,
        until_exit: wish.until_exit_of.is_some(),
        descriptor: Some(fd.as_raw_fd()),
        guardian: None,
    })?;
    put(fd, text)?;
    Ok(token)
}

/// Adds to the label that another process, which has a copy of the descriptor, is the guardian.
pub(crate) fn set_guardian(fd: BorrowedFd<'_>, guardian: u32) -> io::Result<()> {
    match Label::read(fd) {
        Label::Holder(mut holder) => {
            holder.guardian = Some(guardian);
            put(fd, &holder.encode()?)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Clears the label of the holder that got this token, and no other's: a filesystem that several hosts
/// share may have given the lock to somebody else meanwhile.
pub(crate) fn clear_own(fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    match read_token(fd) {
        Ok(Some(last)) if last > token => Ok(()),
        _ => clear(fd, Some(token), None),
    }
}

/// Says that nobody holds the lock. The token stays, and which guardian is just about to unlock it.
pub(crate) fn clear(
    fd: BorrowedFd<'_>,
    token: Option<u64>,
    guardian: Option<u32>,
) -> io::Result<()> {
    put(fd, &cleared(token, guardian)?)
}

/// The text of a label that names nobody.
pub(crate) fn cleared(token: Option<u64>, guardian: Option<u32>) -> io::Result<[u8; SIZE]> {
    let mut label = Encoder::new();
    label.number(b"", 0);
    if let Some(token) = token {
        label.number(b"token=", token);
        if let Some(guardian) = guardian {
            label.number(b"guardian=", guardian.into());
        }
        label.checksum();
    }
    label.text().copied()
}

fn put(fd: BorrowedFd<'_>, text: &[u8; SIZE]) -> io::Result<()> {
    // A write beyond the limit would not only fail: SIGXFSZ would end the host program.
    if sys::getrlimit_fsize() < SIZE as u64 {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    sys::pwrite(fd, text, 0)
}

/// A number larger than that of every earlier holder: also if the clock was set back, and also if
/// the file was deleted, as far as the clock is right.
fn next_token(fd: BorrowedFd<'_>, now_ns: u64) -> io::Result<u64> {
    let last = read_token(fd)?.unwrap_or(0);
    Ok(last.saturating_add(1).max(now_ns))
}

fn read_token(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut text = [0; SIZE];
    let length = sys::pread(fd, &mut text, 0)?;
    Ok(last_token(&text[..length]))
}

/// The token in a lock file. Also in a label that is torn: to go on from a number that is too large
/// does no harm.
fn last_token(text: &[u8]) -> Option<u64> {
    let lines = text.split(|&byte| byte == b'\n');
    // Behind the first empty line there is only padding. A label that is torn in there is whole.
    let lines = lines.take_while(|line| !line.is_empty());
    lines.filter_map(|line| number(line.strip_prefix(b"token=")?)).max()
}

/// Looks up now what the first label of this process needs, and no later one.
pub(crate) fn prepare(wish: &Wish<'_>) {
    if let (Ok(identity), None) = (identity(sys::getpid()), wish.command) {
        identity.command();
    }
}

/// The inode of this process's PID namespace.
pub(crate) fn own_pid_namespace() -> io::Result<u64> {
    Ok(identity(sys::getpid())?.pidns)
}

/// Of this process, whose number is `pid`.
fn identity(pid: u32) -> io::Result<Arc<Identity>> {
    static CACHE: Mutex<Option<Arc<Identity>>> = Mutex::new(None);
    // A child can have its parent's number: both can be the first process of a PID namespace.
    let forks = registry::forks();
    // Never waits: in a child, the thread that had it locked at the fork may not exist.
    if let Ok(cache) = CACHE.try_lock() {
        let mine = |identity: &&Arc<Identity>| (identity.pid, identity.forks) == (pid, forks);
        if let Some(identity) = cache.as_ref().filter(mine) {
            return Ok(Arc::clone(identity));
        }
    }
    let start = procfs::stat(ProcId::Me)?.start;
    let (boot, pidns) = (procfs::boot_id()?, procfs::pid_namespace(ProcId::Me)?);
    let host = sys::gethostname();
    let lines = Encoder::process(pid, start, &boot, pidns, &host);
    let command = OnceLock::new();
    let identity = Arc::new(Identity { pid, forks, boot, pidns, host, lines, command });
    if let Ok(mut cache) = CACHE.try_lock() {
        *cache = Some(Arc::clone(&identity));
    }
    Ok(identity)
}

impl Identity {
    fn command(&self) -> &[u8] {
        let command = || encode_command(&procfs::command(ProcId::Me).unwrap_or_default());
        self.command.get_or_init(command)
    }
}

/// The text of a label as it grows, with its padding. (Not by `write!`, which takes twice as many
/// instructions: a label is written for every lock.)
#[derive(Clone)]
struct Encoder {
    text: [u8; SIZE],
    /// More than there is room for, if something was left out.
    used: usize,
    /// Of what is in the text.
    checksum: u64,
}

impl Encoder {
    fn new() -> Encoder {
        Encoder { text: [b'\n'; SIZE], used: 0, checksum: NO_TEXT }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if let Some(room) = self.text.get_mut(self.used..end) {
            room.copy_from_slice(bytes);
        }
        self.used = end;
        self.checksum = checksum(self.checksum, bytes);
    }

    fn line(&mut self, key: &[u8], value: &[u8]) {
        self.bytes(key);
        self.bytes(value);
        self.bytes(b"\n");
    }

    fn number(&mut self, key: &[u8], mut number: u64) {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        while first == digits.len() || number > 0 {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        self.line(key, &digits[first..]);
    }

    fn checksum(&mut self) {
        self.line(CHECKSUM_KEY, &hexadecimal(self.checksum));
    }

    fn text(&self) -> io::Result<&[u8; SIZE]> {
        if self.used > SIZE { Err(io::ErrorKind::InvalidData.into()) } else { Ok(&self.text) }
    }

    /// The lines that say which process it is.
    fn process(pid: u32, start: u64, boot: &str, pidns: u64, host: &[u8]) -> Encoder {
        let mut label = Encoder::new();
        label.number(b"", pid.into());
        label.number(b"start=", start);
        label.line(b"boot=", boot.as_bytes());
        label.number(b"pidns=", pidns);
        let mut code = encode(cut(host, HOST_MAX));
        if code.len() > HOST_CODE_MAX {
            code = encode(cut(host, HOST_CODE_MAX / 3));
        }
        label.line(b"host=", &code);
        label
    }

    /// All other lines.
    fn with(&mut self, details: &Details<'_>) -> io::Result<&[u8; SIZE]> {
        self.number(b"acquired=", details.acquired_ms.unsigned_abs());
        self.line(b"command=", details.command);
        self.number(b"token=", details.token);
        if details.until_exit {
            self.line(b"until=", b"exit");
        }
        if let Some(descriptor) = details.descriptor {
            self.number(b"fd=", descriptor.unsigned_abs().into());
        }
        if let Some(guardian) = details.guardian {
            self.number(b"guardian=", guardian.into());
        }
        self.checksum();
        self.text()
    }
}

impl Holder {
    fn encode(&self) -> io::Result<[u8; SIZE]> {
        let mut label = Encoder::process(self.pid, self.start, &self.boot, self.pidns, &self.host);
        let text = label.with(&Details {
            acquired_ms: self.acquired_ms,
            command: &encode_command(&self.command),
            token: self.token,
            until_exit: self.until_exit,
            descriptor: self.descriptor,
            guardian: self.guardian,
        });
        text.copied()
    }
}

fn encode_command(command: &[u8]) -> Vec<u8> {
    encode(cut(command, COMMAND_MAX))
}

/// Printable ASCII as it is, all else as `%XX`: a line stays a line.
fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte),
            _ => percent::push(&mut encoded, byte),
        }
    }
    encoded
}

/// At most `max` bytes of a text, without the first half of a UTF-8 character at the end.
pub(crate) fn cut(bytes: &[u8], max: usize) -> &[u8] {
    let Some(next) = bytes.get(max) else { return bytes };
    let is_continuation = |byte: u8| byte & 0xC0 == 0x80;
    if !is_continuation(*next) {
        return &bytes[..max];
    }
    // Not UTF-8 if there is no first byte within three: then anywhere is as good.
    let start = (max.saturating_sub(3)..max).rev().find(|&at| !is_continuation(bytes[at]));
    &bytes[..start.unwrap_or(max)]
}

/// FNV-1a of nothing.
const NO_TEXT: u64 = 0xCBF2_9CE4_8422_2325;

/// FNV-1a of a text, of which `before` is the checksum of what comes before `bytes`: finds a torn label,
/// and is no protection against a forged one.
fn checksum(before: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(before, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

fn hexadecimal(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (nth, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * nth)) as usize & 15];
    }
    digits
}

// ----------------------------------------------------------------------------------------- read

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// Nobody: released, or never locked; the token of the last holder, if it had one.
    Cleared(Option<u64>),
    /// Somebody, in whole.
    Holder(Holder),
    /// No whole label: torn, another program's, or not to be read.
    Unreadable,
}

/// Who a label says has taken the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    pub pid: u32,
    pub start: u64,
    pub boot: String,
    pub pidns: u64,
    pub host: Vec<u8>,
    pub acquired_ms: i64,
    pub command: Vec<u8>,
    /// 0 in a label of version 0.1.
    pub token: u64,
    pub until_exit: bool,
    pub descriptor: Option<RawFd>,
    pub guardian: Option<u32>,
}

impl Label {
    /// Reads a label from an open file.
    pub fn read(file: BorrowedFd<'_>) -> Label {
        Label::try_read(file).unwrap_or(Label::Unreadable)
    }

    /// The same, where it matters why a file cannot be read.
    pub fn try_read(file: BorrowedFd<'_>) -> io::Result<Label> {
        // One byte more than there can be: then it is not one of ours.
        let mut text = [0; SIZE + 1];
        let length = sys::pread(file, &mut text, 0)?;
        Ok(Label::parse(&text[..length]))
    }

    /// Any bytes at all: the file may belong to another user.
    pub fn parse(text: &[u8]) -> Label {
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        if text.is_empty() || first == b"0" {
            return Label::Cleared(last_token(text));
        }
        parse_holder(text).map_or(Label::Unreadable, Label::Holder)
    }
}

/// The guardian of a lock that is about to be free, as far as the label tells.
#[derive(Clone, Copy)]
pub(crate) enum Leaving {
    /// This process.
    Process(u32),
    /// The label names none.
    Unknown,
}

impl Leaving {
    /// `None` if there is no such guardian: one whose process has ended, which it has not noticed yet, or
    /// one that has cleared the label and not yet unlocked the file.
    pub fn read(file: BorrowedFd<'_>) -> Option<Leaving> {
        let mut text = [0; SIZE];
        let length = sys::pread(file, &mut text, 0).ok()?;
        let leaving = match Label::parse(&text[..length]) {
            Label::Cleared(_) => {
                let mut lines = text.split(|&byte| byte == b'\n');
                let pid = lines.find_map(|line| number(line.strip_prefix(b"guardian=")?))?;
                Leaving::Process(pid)
            }
            Label::Holder(holder) if holder.is_of_here() && !holder.lives() => {
                match holder.guardian {
                    // Its start time was read in another time namespace.
                    Some(pid) if holder.is_watched_by(pid) => return None,
                    Some(pid) => Leaving::Process(pid),
                    None if holder.until_exit => Leaving::Unknown,
                    None => return None,
                }
            }
            _ => return None,
        };
        (!leaving.has_left()).then_some(leaving)
    }

    /// Whether the guardian has ended.
    pub fn has_left(self) -> bool {
        match self {
            Leaving::Process(pid) => match procfs::stat(ProcId::Pid(pid)) {
                Ok(stat) => stat.zombie,
                Err(_) => !sys::process_exists(pid),
            },
            Leaving::Unknown => false,
        }
    }
}

impl Holder {
    pub fn is_of_this_boot(&self) -> bool {
        procfs::boot_id().is_ok_and(|boot| boot == self.boot)
    }

    /// Whether the number stands for the same process here as where the label was written.
    pub fn is_of_here(&self) -> bool {
        self.is_of_this_boot() && own_pid_namespace().is_ok_and(|pidns| pidns == self.pidns)
    }

    /// Whether it is this process that the label names as the holder.
    pub fn is_this_process(&self) -> bool {
        self.pid == sys::getpid() && self.is_of_here() && self.lives()
    }

    /// Whether a guardian holds the lock, as far as the label tells: one that was killed leaves its
    /// label behind.
    pub fn is_guarded(&self) -> bool {
        let has_a_lock = |pid| {
            let number = self.descriptor?.try_into().ok()?;
            procfs::flock_of(pid, number)
        };
        // A filesystem in user space may keep its locks to itself.
        let holds = |pid| has_a_lock(pid).is_some() || self.is_watched_by(pid);
        self.until_exit && self.is_of_here() && self.guardian.is_none_or(holds)
    }

    /// Whether a guardian watches a process of the number that the label names, whatever its start time.
    fn is_watched_by(&self, guardian: u32) -> bool {
        procfs::stat(ProcId::Pid(self.pid)).is_ok_and(|stat| !stat.zombie)
            && procfs::pidfd_target(guardian) == Some(Some(self.pid))
    }

    fn lives(&self) -> bool {
        match procfs::stat(ProcId::Pid(self.pid)) {
            Ok(stat) => self.is_of(self.pid, &stat),
            // Without a `/proc` that shows it.
            Err(_) => sys::process_exists(self.pid),
        }
    }

    /// Whether this is the living process that the label names, not its number's next; `number` is the
    /// one that it has in the mounted `/proc`.
    pub fn is_of(&self, number: u32, stat: &ProcStat) -> bool {
        let same = stat.start == self.start || !procfs::has_our_clock(ProcId::Pid(number));
        !stat.zombie && same
    }
}

fn parse_holder(text: &[u8]) -> Option<Holder> {
    if text.len() > SIZE {
        return None;
    }
    let text = text.trim_ascii_end();
    let last = text.iter().rposition(|&byte| byte == b'\n')? + 1;
    let digits = text[last..].strip_prefix(CHECKSUM_KEY)?;
    if digits != hexadecimal(checksum(NO_TEXT, &text[..last])) {
        return None;
    }
    let mut lines = text[..last - 1].split(|&byte| byte == b'\n');
    let mut holder = Holder { pid: number(lines.next()?)?, ..Holder::default() };
    let (mut start, mut boot, mut pidns) = (None, None, None);
    for line in lines {
        let equals = line.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&line[..equals], &line[equals + 1..]);
        match key {
            b"start" => start = Some(number(value)?),
            b"boot" => boot = Some(str::from_utf8(value).ok()?.to_owned()),
            b"pidns" => pidns = Some(number(value)?),
            b"host" => holder.host = percent::decode(value)?,
            b"acquired" => holder.acquired_ms = number(value)?,
            b"command" => holder.command = percent::decode(value)?,
            b"token" => holder.token = number(value)?,
            b"until" => holder.until_exit = value == b"exit",
            b"fd" => holder.descriptor = Some(number(value)?),
            b"guardian" => holder.guardian = Some(number(value)?),
            // A later version's.
            _ => {}
        }
    }
    (holder.start, holder.boot, holder.pidns) = (start?, boot?, pidns?);
    Some(holder)
}

/// Decimal digits and nothing else.
fn number<T: TryFrom<u64>>(digits: &[u8]) -> Option<T> {
    let mut number = None;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        number = Some(number.unwrap_or(0u64).checked_mul(10)?.checked_add(value.into())?);
    }
    number?.try_into().ok()
}

// ---------------------------------------------------------------------------------------- tests

/// What must hold of a lock file with any contents.
#[cfg(any(test, fuzzing))]
pub(crate) fn assert_any_bytes_will_do(text: &[u8]) {
    let label = Label::parse(text);
    let _ = last_token(text);
    match label {
        Label::Cleared(_) => assert!(text.is_empty() || text == b"0" || text.starts_with(b"0\n")),
        Label::Unreadable => {}
        Label::Holder(holder) => {
            assert!(text.len() <= SIZE);
            let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
            assert_eq!(number(first), Some(holder.pid));
            for field in [&holder.command, &holder.host] {
                assert_eq!(percent::decode(&encode(field)).as_ref(), Some(field));
                assert!(cut(field, COMMAND_MAX).len() <= COMMAND_MAX);
            }
        }
    }
}

/// The text as the lines of a label, with the checksum that they have.
#[cfg(any(test, fuzzing))]
pub(crate) fn with_checksum(text: &[u8]) -> Vec<u8> {
    let mut label = text.to_vec();
    label.push(b'\n');
    let checksum = hexadecimal(checksum(NO_TEXT, &label));
    label.extend_from_slice(&[CHECKSUM_KEY, &checksum, b"\n"].concat());
    label
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::testing::Random;

    fn open(path: &Path) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    fn written(command: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("label");
        let file = open(&path);
        write(file.as_fd(), sys::getpid(), &Wish { command: Some(command), ..Wish::default() })
            .unwrap();
        fs::read(path).unwrap()
    }

    fn holder(text: &[u8]) -> Holder {
        match Label::parse(text) {
            Label::Holder(holder) => holder,
            label => panic!("{label:?}: {}", String::from_utf8_lossy(text)),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = written(b"make -j2 \x1b[2J\n100%\xff");
        assert_eq!(text.len(), SIZE);
        let read = holder(&text);
        let life = procfs::stat(ProcId::Me).unwrap();
        assert_eq!((read.pid, read.start), (sys::getpid(), life.start));
        assert_eq!(read.boot, procfs::boot_id().unwrap());
        assert_eq!(read.pidns, procfs::pid_namespace(ProcId::Me).unwrap());
        assert_eq!(read.host, cut(&sys::gethostname(), HOST_MAX));
        assert_eq!(read.command, b"make -j2 \x1b[2J\n100%\xff");
        assert!(read.acquired_ms > 1_700_000_000_000);
    }

    #[test]
    fn the_longest_label_has_room() {
        for host in [vec![0xff; 64], vec![b'h'; 64]] {
            let longest = Holder {
                pid: u32::MAX,
                start: u64::MAX,
                boot: "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
                pidns: u64::MAX,
                host: host.clone(),
                acquired_ms: 9_999_999_999_999,
                command: vec![0xff; 1000],
                token: u64::MAX,
                until_exit: true,
                descriptor: Some(RawFd::MAX),
                guardian: Some(u32::MAX),
            };
            let read = holder(&longest.encode().unwrap());
            assert_eq!(read.command, [0xff; COMMAND_MAX]);
            assert!(host.starts_with(&read.host) && read.host.len() >= HOST_CODE_MAX / 3);
            let told = (read.token, read.until_exit, read.descriptor, read.guardian);
            assert_eq!(told, (u64::MAX, true, Some(RawFd::MAX), Some(u32::MAX)));
        }
    }

    #[test]
    fn each_token_is_larger_than_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("label");
        let file = open(&path);
        let next = || write(file.as_fd(), sys::getpid(), &Wish::default()).unwrap();
        let first = next();
        assert!(first > 1_700_000_000_000_000_000, "nanoseconds since the epoch");
        // The clock is far behind the last token, in a label, in a cleared one, in a torn one.
        let ahead = u64::MAX / 2;
        clear(file.as_fd(), Some(ahead), None).unwrap();
        assert_eq!(Label::read(file.as_fd()), Label::Cleared(Some(ahead)));
        assert_eq!(next(), ahead + 1);
        assert_eq!(next(), ahead + 2);
        sys::pwrite(file.as_fd(), b"x", 3).unwrap();
        assert_eq!(Label::read(file.as_fd()), Label::Unreadable);
        assert_eq!(next(), ahead + 3);
    }

    #[test]
    fn only_a_label_of_its_own_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir.path().join("label"));
        let first = write(file.as_fd(), sys::getpid(), &Wish::default()).unwrap();
        let second = write(file.as_fd(), sys::getpid(), &Wish::default()).unwrap();
        clear_own(file.as_fd(), first).unwrap();
        let Label::Holder(holder) = Label::read(file.as_fd()) else { panic!("cleared") };
        assert_eq!(holder.token, second);
        clear_own(file.as_fd(), second).unwrap();
        assert_eq!(Label::read(file.as_fd()), Label::Cleared(Some(second)));
        clear_own(file.as_fd(), first).unwrap();
        assert_eq!(Label::read(file.as_fd()), Label::Cleared(Some(second)), "the last token stays");
    }

    #[test]
    fn a_guardian_is_added_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir.path().join("label"));
        let wish = Wish { command: Some(b"make"), until_exit_of: Some(sys::getpid()) };
        write(file.as_fd(), sys::getpid(), &wish).unwrap();
        let Label::Holder(before) = Label::read(file.as_fd()) else { panic!("no label") };
        assert!(before.until_exit && before.guardian.is_none());
        set_guardian(file.as_fd(), 77).unwrap();
        let after = Holder { guardian: Some(77), ..before };
        assert_eq!(Label::read(file.as_fd()), Label::Holder(after));
    }

    #[test]
    fn a_command_of_any_bytes_comes_back_cut_at_a_character() {
        let mut random = Random::new(1);
        for _ in 0..300 {
            let command = random.bytes(100);
            assert_eq!(holder(&written(&command)).command, cut(&command, COMMAND_MAX));
            let text: String = (0..40).map(|_| random.char()).collect();
            let read = String::from_utf8(holder(&written(text.as_bytes())).command).unwrap();
            assert!(text.starts_with(&read) && (read == text || read.len() > COMMAND_MAX - 4));
        }
    }

    #[test]
    fn a_torn_label_is_none() {
        let (text, later) = (written(b"sleep 1"), written(b"sleep 2"));
        for end in 1..text.trim_ascii_end().len() {
            assert_eq!(Label::parse(&text[..end]), Label::Unreadable, "cut at {end}");
            for other in [b'0', b'\n', b'x', 0, 0xff] {
                let mut torn = text.clone();
                torn[end] = other;
                if torn != text {
                    assert_eq!(Label::parse(&torn), Label::Unreadable, "{other} at {end}");
                }
            }
            let mut torn = text.clone();
            torn[end..].copy_from_slice(&later[end..]);
            if torn != text && torn != later {
                assert_eq!(Label::parse(&torn), Label::Unreadable, "two labels, from {end}");
            }
        }
    }

    #[test]
    fn any_bytes_will_do() {
        let mut random = Random::new(2);
        let whole = written(b"sleep 1");
        for _ in 0..1_000 {
            assert_any_bytes_will_do(&random.bytes(700));
            let text = random.changed(&whole);
            assert_any_bytes_will_do(&text);
            assert_any_bytes_will_do(&with_checksum(&text));
        }
        assert_any_bytes_will_do(&vec![b'1'; 1 << 20]);
    }
}
