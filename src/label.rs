//! The text in the lock file: who took the lock. A label, never evidence of ownership.
//!
//! The first line is the holder's PID, as in a pidfile, `0` once released; `key=value` lines
//! follow, a checksum last. A label has always the same size, padded with line feeds, so that it is
//! written and cleared by one `pwrite` each that allocates nothing on the disk (a truncation would
//! cost more than the rest of the lock).

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::str::{self, FromStr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::name;
use crate::procfs::{self, Process};
use crate::sys;

pub(crate) const SIZE: usize = 512;
/// Room for the command as it is handed out: 64 bytes with a NUL.
const COMMAND_MAX: usize = 63;
const HOST_MAX: usize = 63;
const CHECKSUM_KEY: &[u8] = b"checksum=";

// ---------------------------------------------------------------------------------------- write

/// What this process writes into every label: read once.
struct Identity {
    pid: u32,
    /// The first lines, up to where the time of the acquisition stands.
    head: Vec<u8>,
    head_checksum: u64,
    /// Read only where no other command is to be written.
    command: OnceLock<Vec<u8>>,
}

/// Writes the label of this process, whose number is `pid`; `command` `None` means its own command
/// line.
///
/// # Errors
///
/// The lock is as good without: callers go on.
pub(crate) fn write(fd: BorrowedFd<'_>, pid: u32, command: Option<&[u8]>) -> io::Result<()> {
    let identity = identity(pid)?;
    let mut text = [b'\n'; SIZE];
    let mut rest = &mut text[..];
    rest.write_all(&identity.head)?;
    writeln!(rest, "{}", now_ms())?;
    rest.write_all(b"command=")?;
    match command {
        Some(command) => rest.write_all(&encode(command, COMMAND_MAX))?,
        None => rest.write_all(identity.command())?,
    }
    rest.write_all(b"\n")?;
    let used = SIZE - rest.len();
    let checksum = checksum_on(identity.head_checksum, &text[identity.head.len()..used]);
    let mut rest = &mut text[used..];
    rest.write_all(CHECKSUM_KEY)?;
    writeln!(rest, "{checksum:016x}")?;
    put(fd, &text)
}

/// Says that nobody holds the lock.
pub(crate) fn clear(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut text = [b'\n'; SIZE];
    text[0] = b'0';
    put(fd, &text)
}

fn put(fd: BorrowedFd<'_>, text: &[u8; SIZE]) -> io::Result<()> {
    // A write beyond the limit would not only fail: SIGXFSZ would end the host program.
    if sys::file_size_limit() < SIZE as u64 {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    sys::write_at_start(fd, text)
}

/// Looks up now what the first label of this process needs, and no later one.
pub(crate) fn prepare(command: Option<&[u8]>) {
    if let (Ok(identity), None) = (identity(sys::process_id()), command) {
        identity.command();
    }
}

fn identity(pid: u32) -> io::Result<Arc<Identity>> {
    static CACHE: Mutex<Option<Arc<Identity>>> = Mutex::new(None);
    // Never waits: in a child, the thread that had it locked at the fork may not exist.
    if let Ok(cache) = CACHE.try_lock() {
        if let Some(identity) = cache.as_ref().filter(|identity| identity.pid == pid) {
            return Ok(Arc::clone(identity));
        }
    }
    let identity = Arc::new(Identity::read(pid)?);
    if let Ok(mut cache) = CACHE.try_lock() {
        *cache = Some(Arc::clone(&identity));
    }
    Ok(identity)
}

impl Identity {
    fn read(pid: u32) -> io::Result<Identity> {
        let start = procfs::life(Process::Me)?.start;
        let boot = procfs::boot_id()?;
        let pidns = procfs::pid_namespace(Process::Me)?;
        let mut head = Vec::new();
        write!(head, "{pid}\nstart={start}\nboot={boot}\npidns={pidns}\nhost=")?;
        head.extend(encode(&sys::host_name(), HOST_MAX));
        head.extend_from_slice(b"\nacquired=");
        let head_checksum = checksum(&head);
        Ok(Identity { pid, head, head_checksum, command: OnceLock::new() })
    }

    fn command(&self) -> &[u8] {
        self.command.get_or_init(|| {
            let command = procfs::command(Process::Me).unwrap_or_default();
            encode(&command, COMMAND_MAX)
        })
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// Printable ASCII as it is, all else as `%XX`: a line stays a line. Of more than `max` bytes the
/// first ones, less a character that would be torn.
fn encode(bytes: &[u8], max: usize) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len());
    for &byte in cut(bytes, max) {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte),
            _ => name::push_percent(&mut encoded, byte),
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

/// FNV-1a: finds a torn label, and is no protection against a forged one.
fn checksum(bytes: &[u8]) -> u64 {
    checksum_on(0xCBF2_9CE4_8422_2325, bytes)
}

/// The checksum of a text that goes on with `bytes`.
fn checksum_on(checksum: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(checksum, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

// ----------------------------------------------------------------------------------------- read

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// Nobody: released, or never locked.
    Cleared,
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
}

impl Label {
    /// Reads a label from an open file.
    pub fn read(file: impl Read) -> Label {
        // One byte more than there can be: then it is not one of ours.
        let mut text = Vec::with_capacity(SIZE + 1);
        match file.take(SIZE as u64 + 1).read_to_end(&mut text) {
            Ok(_) => Label::parse(&text),
            Err(_) => Label::Unreadable,
        }
    }

    /// Any bytes at all: the file may belong to another user.
    pub fn parse(text: &[u8]) -> Label {
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        if text.is_empty() || first == b"0" {
            return Label::Cleared;
        }
        parse_holder(text).map_or(Label::Unreadable, Label::Holder)
    }
}

fn parse_holder(text: &[u8]) -> Option<Holder> {
    if text.len() > SIZE {
        return None;
    }
    let text = text.trim_ascii_end();
    let last = text.iter().rposition(|&byte| byte == b'\n')? + 1;
    let digits = str::from_utf8(text[last..].strip_prefix(CHECKSUM_KEY)?).ok()?;
    if digits != format!("{:016x}", checksum(&text[..last])) {
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
            b"host" => holder.host = name::percent_decode(value)?,
            b"acquired" => holder.acquired_ms = number(value)?,
            b"command" => holder.command = name::percent_decode(value)?,
            // A later version's.
            _ => {}
        }
    }
    (holder.start, holder.boot, holder.pidns) = (start?, boot?, pidns?);
    Some(holder)
}

/// Decimal digits and nothing else.
fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    if all_digits { str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

// ---------------------------------------------------------------------------------------- tests

/// What must hold of a lock file with any contents.
#[cfg(any(test, fuzzing))]
pub(crate) fn assert_any_bytes_will_do(text: &[u8]) {
    let label = Label::read(text);
    assert_eq!(label, Label::parse(text), "the end beyond a label's size is not read in vain");
    match label {
        Label::Cleared => assert!(text.is_empty() || text == b"0" || text.starts_with(b"0\n")),
        Label::Unreadable => {}
        Label::Holder(holder) => {
            assert!(text.len() <= SIZE);
            let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
            assert_eq!(number(first), Some(holder.pid));
            for field in [&holder.command, &holder.host] {
                assert_eq!(name::percent_decode(&encode(field, SIZE)).as_ref(), Some(field));
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
    let checksum = checksum(&label);
    label.extend_from_slice(CHECKSUM_KEY);
    label.extend_from_slice(format!("{checksum:016x}\n").as_bytes());
    label
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;
    use crate::testing::Random;

    fn written(command: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("label");
        write(File::create(&path).unwrap().as_fd(), sys::process_id(), Some(command)).unwrap();
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
        let life = procfs::life(Process::Me).unwrap();
        assert_eq!((read.pid, read.start), (sys::process_id(), life.start));
        assert_eq!(read.boot, procfs::boot_id().unwrap());
        assert_eq!(read.pidns, procfs::pid_namespace(Process::Me).unwrap());
        assert_eq!(read.host, cut(&sys::host_name(), HOST_MAX));
        assert_eq!(read.command, b"make -j2 \x1b[2J\n100%\xff");
        assert!(read.acquired_ms > 1_700_000_000_000);
    }

    #[test]
    fn the_longest_label_has_room() {
        let text = written(&[0xff; 1000]);
        assert_eq!(holder(&text).command, [0xff; COMMAND_MAX]);
        // A longer host's name and, in time, more digits: of four numbers.
        let used = text.trim_ascii_end().len() + HOST_MAX - sys::host_name().len() + 4 * 12;
        assert!(used < SIZE, "{used}");
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
