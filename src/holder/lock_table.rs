//! The kernel's table of locks, `/proc/locks`: what it names is so; its silence has to be proven.
//!
//! The kernel fills one buffer at a time, in one walk of its list, and goes on by index at the next
//! read (`seq_read_iter()`). If an earlier lock goes away between the two, the record at the border is
//! skipped. The border is where the buffer (a page, or as much as the largest record so far needs) is
//! full; and before each record that does not fit behind the others. A lock and all that wait for it
//! are one record (`locks_show()`): from about 45 waiters on it does not fit on a page at all.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::procfs::{self, Flock};
use crate::sys::{self, FileId};

/// The `flock`s of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Who took it: several for a shared lock.
    pub takers: Vec<u32>,
    /// How many wait for it.
    pub waiters: u32,
}

/// As the mounted `/proc` numbers processes, and the kernel filesystems.
#[derive(Debug, Default)]
pub(super) struct LockTable {
    /// What each reading has found, sorted by file.
    readings: Vec<Vec<Flock>>,
    /// A file that is not in here was not locked at some moment of the reading. Only a short table is known to
    /// be complete.
    pub complete: bool,
    /// The same of a longer one, as far as two readings tell.
    pub at_rest: bool,
}

impl LockTable {
    /// Reads the table until it is known to be complete or seems to be, or has the file that is asked for.
    /// But not for ever: in a storm of locks and releases it never comes to rest.
    pub fn read(wanted: Option<FileId>) -> io::Result<LockTable> {
        const PROC: u32 = 0x9FA0;
        let file = File::open("/proc/locks")?;
        // Something else may be mounted there, to hide it.
        if sys::fstatfs_type(file.as_fd())? != PROC {
            return Err(io::ErrorKind::Unsupported.into());
        }
        LockTable::read_with(wanted, |buffer, at| {
            sys::pread(file.as_fd(), buffer, at as libc::off_t)
        })
    }

    fn read_with(
        wanted: Option<FileId>,
        mut pread: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
    ) -> io::Result<LockTable> {
        let mut table = LockTable::default();
        let mut buffer = vec![0; 16 * 1024];
        let mut last = None;
        for reading in 0..READINGS {
            let (text, pieces) = read_to_end(&mut pread, &mut buffer, BORDERS[reading % 2])?;
            table.readings.push(locks(&text));
            if wanted.is_some_and(|file| !table.record(file).takers.is_empty()) {
                break;
            }
            let mut is_all =
                |behind| Ok::<_, io::Error>(pread(&mut [0], text.len() + behind)? == 0);
            let whole = is_all(1)?;
            table.complete = whole && pieces <= 1 && text.len() < SHORT && is_all(2)? && is_all(3)?;
            table.at_rest = whole && last.as_ref() == Some(&text);
            if table.complete || table.at_rest {
                // Of what was read before, all that is still there is in this text.
                table.readings.drain(..reading);
                break;
            }
            last = whole.then_some(text);
        }
        Ok(table)
    }

    /// Whether it could be read.
    pub fn is_known(&self) -> bool {
        !self.readings.is_empty()
    }

    /// What the last reading that has found the file says of it.
    pub fn record(&self, file: FileId) -> Record {
        for locks in self.readings.iter().rev() {
            let first = locks.partition_point(|lock| lock.file < file);
            let its_own = locks[first..].iter().take_while(|lock| lock.file == file);
            let record = its_own.fold(Record::default(), Record::add);
            if !record.takers.is_empty() {
                return record;
            }
        }
        Record::default()
    }
}

impl Record {
    fn add(mut self, lock: &Flock) -> Record {
        if lock.waits {
            self.waiters += 1;
        } else if self.takers.contains(&lock.pid) {
            // Where others came, the record at a border is read twice.
            self.waiters = 0;
        } else {
            self.takers.push(lock.pid);
        }
        self
    }
}

// A short text comes in one piece, from one walk of the list. A record that is not in it did not fit behind it,
// so it is longer than half a page, and the table is longer than the text. That is measured afterwards by a walk
// of its own (`traverse()`): a read beyond the end of the text must find nothing. A walk that ends just between
// two records goes on by index, and finds nothing if an earlier lock goes away at that moment: once in 2,000
// answers in a storm. So it is measured at three places, which are closer to each other than two ends of records
// are: none in 290,000.
//
// A longer text comes in pieces, and in a storm one can be missing between them. What speaks against that:
//
// * A small record can be skipped only where it stands at a border. Each second reading has its borders
//   half a page from those of the first, so two readings that are alike cannot both have skipped the
//   same one.
// * A large record makes its own border. But it makes the table longer than what was read, which is measured
//   as above. The walk also lets the buffer grow to the record that it meets there, so the next
//   reading has room for it. (A walk that ends just between two records goes on by index, and could be
//   misled once, but not at each of two readings that are alike.)

/// Below half a page.
const SHORT: usize = 2048;

/// Enough where other locks come and go now and then; in a storm, each takes some milliseconds.
const READINGS: usize = 4;

/// Where the first border of a reading is, in turns.
const BORDERS: [usize; 2] = [4096, 2048];

fn read_to_end(
    mut pread: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
    buffer: &mut [u8],
    border: usize,
) -> io::Result<(Vec<u8>, usize)> {
    let mut text = Vec::new();
    let mut pieces = 0;
    let mut read = pread(&mut buffer[..border], 0)?;
    while read > 0 {
        text.extend_from_slice(&buffer[..read]);
        pieces += 1;
        read = pread(buffer, text.len())?;
    }
    Ok((text, pieces))
}

/// The locks in a text of the table, sorted by file; those of one file as they stand there.
fn locks(text: &[u8]) -> Vec<Flock> {
    let mut locks: Vec<Flock> = procfs::flocks(text).collect();
    locks.sort_by_key(|lock| lock.file);
    locks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_takers_and_waiters() {
        const SHARED: &[u8] = b"1: FLOCK  ADVISORY  READ  7 fd:01:5 0 EOF\n\
            1: -> FLOCK  ADVISORY  WRITE 9 fd:01:5 0 EOF\n\
            2: FLOCK  ADVISORY  READ  8 fd:01:5 0 EOF\n";
        const ONE: &[u8] = b"3: FLOCK  ADVISORY  WRITE 3 fd:01:6 0 EOF\n\
            3: -> FLOCK  ADVISORY  WRITE 4 fd:01:6 0 EOF\n";
        let ino = |ino| FileId { dev: libc::makedev(0xfd, 1), ino };
        let both = [SHARED, ONE].concat();
        // Another reading that lacks one of them takes nothing away. Where another lock came before
        // it, a record is read twice.
        for readings in
            [vec![both.clone()], vec![both, SHARED.to_vec()], vec![[SHARED, ONE, ONE].concat()]]
        {
            let readings = readings.iter().map(|text| locks(text)).collect();
            let table = LockTable { readings, ..LockTable::default() };
            assert_eq!(table.record(ino(5)), Record { takers: vec![7, 8], waiters: 1 });
            assert_eq!(table.record(ino(6)), Record { takers: vec![3], waiters: 1 });
            assert_eq!(table.record(ino(7)), Record::default());
        }
    }

    /// A table of the kernel's whose text is another one at each reading, behind so many bytes of other locks.
    fn kernel(length: usize, texts: &[&str], behind: &[&str]) -> LockTable {
        wanted(None, length, texts, behind)
    }

    fn wanted(file: Option<FileId>, length: usize, texts: &[&str], behind: &[&str]) -> LockTable {
        let others = "1: POSIX  ADVISORY  WRITE 6 fd:01:4 0 EOF\n";
        let others = others.repeat(length.div_ceil(others.len()));
        let mut texts = texts.iter().cycle();
        let (mut text, mut longer) = (None, false);
        let mut behind = behind.iter().cycle();
        LockTable::read_with(file, |buffer, at| {
            if at == 0 {
                text = texts.next();
                longer = behind.next().is_some_and(|behind| !behind.is_empty());
            }
            let now = [&others, *text.unwrap_or(&"")].concat();
            if at > now.len() {
                return Ok(usize::from(longer));
            }
            let rest = &now.as_bytes()[at..];
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        })
        .unwrap()
    }

    const ONE: &str = "1: FLOCK  ADVISORY  WRITE 7 fd:01:5 0 EOF\n";
    const BOTH: &str = "1: FLOCK  ADVISORY  WRITE 7 fd:01:5 0 EOF\n\
        2: FLOCK  ADVISORY  WRITE 8 fd:01:6 0 EOF\n";

    fn ino(ino: u64) -> FileId {
        FileId { dev: libc::makedev(0xfd, 1), ino }
    }

    fn takers(table: &LockTable, file: FileId) -> Vec<u32> {
        table.record(file).takers
    }

    #[test]
    fn a_short_table_is_complete_if_nothing_is_behind_it() {
        let table = kernel(0, &[ONE], &[]);
        assert!(table.complete);
        assert!(takers(&table, ino(6)).is_empty());
        // A record that does not fit on a page is skipped, but the table is longer.
        let table = kernel(0, &[ONE, ONE, BOTH], &["2", "2", ""]);
        assert!(table.complete);
        assert_eq!(takers(&table, ino(6)), [8]);
        assert!(!kernel(0, &[ONE], &["2"]).complete);
        // Behind half a page, one can be as long as what is left of it, and no longer than the text.
        assert!(kernel(1900, &[ONE], &[]).complete);
        assert!(!kernel(2048, &[ONE; 2], &[]).complete);
    }

    #[test]
    fn a_long_table_is_at_rest_if_two_readings_are_alike_and_nothing_is_behind_them() {
        const LONG: usize = 5000;
        let kernel = |texts: &[&str], behind: &[&str]| kernel(LONG, texts, behind);
        let table = kernel(&[BOTH, BOTH], &[]);
        assert!(table.at_rest && !table.complete);
        // What a border has swallowed at one reading is there at the next.
        let table = kernel(&[ONE, BOTH, BOTH], &[]);
        assert!(table.at_rest);
        assert_eq!(takers(&table, ino(6)), [8]);
        let table = kernel(&[ONE, BOTH], &[]);
        assert!(!table.at_rest);
        assert_eq!(takers(&table, ino(6)), [8]);
        // What was released in the meantime is not.
        let table = kernel(&[BOTH, ONE, ONE], &[]);
        assert!(table.at_rest);
        assert!(takers(&table, ino(6)).is_empty());
        // Whoever wants one file only reads on until it is there.
        let table = wanted(Some(ino(6)), LONG, &[ONE, BOTH], &[]);
        assert!(!table.at_rest);
        assert_eq!(takers(&table, ino(6)), [8]);
        // A record that does not fit on a page is skipped each time, but the table is longer.
        assert!(!kernel(&[ONE], &["2"]).at_rest);
        assert!(!kernel(&[ONE, ONE, BOTH], &["2", "", ""]).at_rest);
        assert!(kernel(&[ONE, ONE, ONE, BOTH], &["2", "", "", ""]).at_rest);
    }
}
