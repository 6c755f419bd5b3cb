//! The kernel's table of locks, `/proc/locks`: what it names is so; its silence has to be proven.
//!
//! The kernel fills one buffer at a time, in one walk of its list, and goes on by index at the next
//! read (`seq_read_iter()`). If an earlier lock goes away between the two, the record at the border is
//! skipped. The border is where the buffer (a page, or as much as the largest record so far needs) is
//! full; and before each record that does not fit behind the others. A lock and all that wait for it
//! are one record (`locks_show()`): from about 45 waiters on it does not fit on a page at all.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::str;

use crate::sys::{self, FileId};

/// The `flock`s of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Who took it: several for a shared lock.
    pub takers: Vec<u32>,
    /// How many wait for it.
    pub waiters: u32,
}

/// As the mounted `/proc` numbers processes, and the kernel filesystems.
#[derive(Debug, Default)]
pub(super) struct LockTable {
    pub records: BTreeMap<FileId, Record>,
    /// A file that is not in here was not locked at some moment of the reading.
    pub complete: bool,
}

impl LockTable {
    /// Reads the table until it is known to be complete, but not for ever: in a storm of locks and
    /// releases it never comes to rest.
    pub fn read() -> io::Result<LockTable> {
        const READINGS: usize = 4;
        let file = File::open("/proc/locks")?;
        let mut table = LockTable::default();
        let mut last = None;
        for reading in 0..READINGS {
            let text = read_whole(file.as_fd(), reading)?;
            let whole = is_whole(file.as_fd(), text.len())?;
            if whole && last.as_ref() == Some(&text) {
                // Of what was read before, all that is still there is in this text.
                table = LockTable { complete: true, ..LockTable::default() };
                table.add(&text);
                break;
            }
            table.add(&text);
            last = whole.then_some(text);
        }
        Ok(table)
    }

    /// Adds what one reading has found.
    fn add(&mut self, text: &[u8]) {
        let mut found: BTreeMap<FileId, Record> = BTreeMap::new();
        for lock in text.split(|&byte| byte == b'\n').filter_map(parse) {
            let record = found.entry(lock.file).or_default();
            if lock.waits {
                record.waiters += 1;
            } else if record.takers.contains(&lock.pid) {
                // Where others came, the record at a border is read twice.
                record.waiters = 0;
            } else {
                record.takers.push(lock.pid);
            }
        }
        self.records.append(&mut found);
    }
}

// What proves that nothing was skipped:
//
// * A small record can be skipped only where it stands at a border. Each second reading has its borders
//   half a page from those of the first, so two readings that are alike cannot both have skipped the
//   same one.
// * A large record makes its own border. But it makes the table longer than what was read, and that is
//   measured afterwards by one walk of the list (`traverse()`). The walk also lets the buffer grow to
//   the record that it meets there, so the next reading has room for it. (A walk that ends just
//   between two records goes on by index, and could be misled once, but not at each of two readings
//   that are alike.)

/// Where the first border of a reading is, in turns.
const BORDERS: [usize; 2] = [4096, 2048];

fn read_whole(locks: BorrowedFd<'_>, reading: usize) -> io::Result<Vec<u8>> {
    let mut text = vec![0; BORDERS[reading % 2]];
    let mut used = 0;
    loop {
        match sys::pread(locks, &mut text[used..], offset(used))? {
            0 => break,
            read => used += read,
        }
        text.resize(used + 16 * 1024, 0);
    }
    text.truncate(used);
    Ok(text)
}

/// Whether the table is no longer than what was read.
fn is_whole(locks: BorrowedFd<'_>, length: usize) -> io::Result<bool> {
    Ok(sys::pread(locks, &mut [0], offset(length + 1))? == 0)
}

fn offset(length: usize) -> libc::off_t {
    length.try_into().expect("the table fits into memory")
}

#[derive(Debug, PartialEq, Eq)]
struct Lock {
    file: FileId,
    pid: u32,
    waits: bool,
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF`; a waiter has `->` behind the number.
fn parse(line: &[u8]) -> Option<Lock> {
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
    Some(Lock { pid, file: FileId { dev: libc::makedev(major, minor), ino }, waits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_and_other_kinds_of_lock_are_not_holders() {
        let file = FileId { dev: libc::makedev(0xfd, 1), ino: 5678 };
        let holder = b"1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF";
        assert_eq!(parse(holder), Some(Lock { pid: 1234, file, waits: false }));
        for waiter in [
            "1: -> FLOCK  ADVISORY  WRITE 7 fd:01:5678 0 EOF",
            "1:  -> FLOCK  ADVISORY  WRITE 7 fd:01:5678 0 EOF",
        ] {
            assert_eq!(parse(waiter.as_bytes()), Some(Lock { pid: 7, file, waits: true }));
        }
        assert_eq!(parse(b"2: POSIX  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"), None);
        assert_eq!(parse(b"2: -> POSIX  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"), None);
        assert_eq!(parse(b"3: OFDLCK ADVISORY  WRITE -1 fd:01:5678 0 EOF"), None);
        for end in 0..holder.len() {
            let _ = parse(&holder[..end]);
        }
    }

    #[test]
    fn a_record_has_its_takers_and_waiters() {
        let text = b"1: FLOCK  ADVISORY  READ  7 fd:01:5 0 EOF\n\
            1: -> FLOCK  ADVISORY  WRITE 9 fd:01:5 0 EOF\n\
            2: FLOCK  ADVISORY  READ  8 fd:01:5 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 3 fd:01:6 0 EOF\n";
        let mut table = LockTable::default();
        table.add(text);
        // Another reading that lacks one of them takes nothing away.
        table.add(&text[..text.len() - 42]);
        let record = |ino| table.records[&FileId { dev: libc::makedev(0xfd, 1), ino }].clone();
        assert_eq!(record(5), Record { takers: vec![7, 8], waiters: 1 });
        assert_eq!(record(6), Record { takers: vec![3], waiters: 0 });
    }
}
