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
    /// A file that is not in here was not locked at some moment of the reading.
    pub complete: bool,
}

impl LockTable {
    /// Reads the table until it is known to be complete, or has the file that is asked for. But not for
    /// ever: in a storm of locks and releases it never comes to rest.
    pub fn read(wanted: Option<FileId>) -> io::Result<LockTable> {
        let file = File::open("/proc/locks")?;
        LockTable::read_with(wanted, |buffer, at| {
            sys::pread(file.as_fd(), buffer, at as libc::off_t)
        })
    }

    fn read_with(
        wanted: Option<FileId>,
        mut pread: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
    ) -> io::Result<LockTable> {
        const READINGS: usize = 4;
        let mut table = LockTable::default();
        let mut buffer = vec![0; 16 * 1024];
        let mut last = None;
        for reading in 0..READINGS {
            let text = read_to_end(&mut pread, &mut buffer, BORDERS[reading % 2])?;
            table.readings.push(locks(&text));
            if wanted.is_some_and(|file| !table.record(file).takers.is_empty()) {
                break;
            }
            let whole = pread(&mut [0], text.len() + 1)? == 0;
            table.complete = whole && last.as_ref() == Some(&text);
            if table.complete {
                // Of what was read before, all that is still there is in this text.
                table.readings.drain(..reading);
                break;
            }
            last = whole.then_some(text);
        }
        Ok(table)
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

// What proves that nothing was skipped:
//
// * A small record can be skipped only where it stands at a border. Each second reading has its borders
//   half a page from those of the first, so two readings that are alike cannot both have skipped the
//   same one.
// * A large record makes its own border. But it makes the table longer than what was read, and that is
//   measured afterwards by one walk of the list (`traverse()`): a read beyond the end of the text must
//   find nothing. The walk also lets the buffer grow to the record that it meets there, so the next
//   reading has room for it. (A walk that ends just between two records goes on by index, and could be
//   misled once, but not at each of two readings that are alike.)

/// Where the first border of a reading is, in turns.
const BORDERS: [usize; 2] = [4096, 2048];

fn read_to_end(
    mut pread: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
    buffer: &mut [u8],
    border: usize,
) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut read = pread(&mut buffer[..border], 0)?;
    while read > 0 {
        text.extend_from_slice(&buffer[..read]);
        read = pread(buffer, text.len())?;
    }
    Ok(text)
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
            let table = LockTable { readings, complete: false };
            assert_eq!(table.record(ino(5)), Record { takers: vec![7, 8], waiters: 1 });
            assert_eq!(table.record(ino(6)), Record { takers: vec![3], waiters: 1 });
            assert_eq!(table.record(ino(7)), Record::default());
        }
    }

    /// A table of the kernel's whose text is another one at each reading.
    fn kernel(texts: &[&str], behind: &[&str]) -> LockTable {
        wanted(None, texts, behind)
    }

    fn wanted(file: Option<FileId>, texts: &[&str], behind: &[&str]) -> LockTable {
        let mut reading = 0;
        LockTable::read_with(file, |buffer, at| {
            let text = texts[reading].as_bytes();
            if at > text.len() {
                reading += 1;
                let longer = behind.get(reading - 1).is_some_and(|text| !text.is_empty());
                return Ok(usize::from(longer));
            }
            let text = &text[at..];
            let read = text.len().min(buffer.len());
            buffer[..read].copy_from_slice(&text[..read]);
            Ok(read)
        })
        .unwrap()
    }

    #[test]
    fn a_table_is_complete_if_two_readings_are_alike_and_nothing_is_behind_them() {
        const ONE: &str = "1: FLOCK  ADVISORY  WRITE 7 fd:01:5 0 EOF\n";
        const BOTH: &str = "1: FLOCK  ADVISORY  WRITE 7 fd:01:5 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 8 fd:01:6 0 EOF\n";
        let ino = |ino| FileId { dev: libc::makedev(0xfd, 1), ino };
        let takers = |table: &LockTable, file| table.record(file).takers;

        assert!(kernel(&[BOTH, BOTH], &[]).complete);
        // What a border has swallowed at one reading is there at the next.
        let table = kernel(&[ONE, BOTH, BOTH], &[]);
        assert!(table.complete);
        assert_eq!(takers(&table, ino(6)), [8]);
        let table = kernel(&[ONE, BOTH, ONE, BOTH], &[]);
        assert!(!table.complete);
        assert_eq!(takers(&table, ino(6)), [8]);
        // What was released in the meantime is not.
        let table = kernel(&[BOTH, ONE, ONE], &[]);
        assert!(table.complete);
        assert!(takers(&table, ino(6)).is_empty());
        // Whoever wants one file only reads on until it is there.
        let table = wanted(Some(ino(6)), &[ONE, BOTH], &[]);
        assert!(!table.complete);
        assert_eq!(takers(&table, ino(6)), [8]);
        // A record that does not fit on a page is skipped each time, but the table is longer.
        assert!(!kernel(&[ONE; 4], &["2", "2", "2", "2"]).complete);
        assert!(!kernel(&[ONE, ONE, ONE, BOTH], &["2", "", "2", ""]).complete);
        assert!(kernel(&[ONE, ONE, ONE, BOTH], &["2", "", "", ""]).complete);
    }
}
