//! The descriptors that this process has open for its locks, by handle; what `fork` does to them.
//!
//! A lock belongs to an open file description, and `fork` gives the child a copy of it: the lock
//! would live as long as the child, and the child could release it. So each descriptor is entered
//! here in the same breath as it is opened, also those of waits in progress, and the child closes
//! every one as it starts.
//!
//! Two locks keep that exact. The *gate* is held shared while a descriptor is opened and entered,
//! or removed and closed, and exclusively around `fork`: no child is born in between. (Opening can
//! take long on a network filesystem; then only `fork` waits for it, not the other calls here.) The
//! *table* is held for a few instructions at a time. Both are ours in the child, where no other
//! thread is left, and are opened again there.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Error;
use crate::name;
use crate::sys::{self, FileId};

/// A lock that was handed out.
pub(crate) struct Held {
    pub path: CString,
    pub file: FileId,
    pub owner: u32,
    pub has_label: bool,
}

struct Entry {
    /// Nothing in a child, where it has been closed.
    fd: Option<OwnedFd>,
    marked: bool,
    /// Nothing while a wait is in progress or a release is.
    held: Option<Arc<Held>>,
}

struct Table {
    last: u64,
    entries: BTreeMap<u64, Entry>,
}

static GATE: RwLock<()> = RwLock::new(());
static TABLE: Mutex<Table> = Mutex::new(Table { last: 0, entries: BTreeMap::new() });

fn gate() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

// A descriptor number that the host program has closed behind our back may by now be another file's.
// So each description carries a mark that tells it from all others: its file offset, which we do not
// use (labels are read and written at given positions) and nobody else can reach. It stays below
// 2 GiB, which every filesystem can seek to, and above what a file of another purpose would be at.
fn mark(id: u64) -> i64 {
    const BASE: i64 = 1 << 30;
    BASE | i64::try_from(id % (1 << 30)).unwrap_or(0)
}

fn has_mark(number: RawFd, id: u64) -> bool {
    sys::offset_of(number) == Some(mark(id))
}

impl Entry {
    /// Closes the descriptor, unless the number has become somebody else's.
    fn close(&mut self, id: u64) {
        if let Some(fd) = self.fd.take() {
            if self.marked && !has_mark(fd.as_raw_fd(), id) {
                let _ = fd.into_raw_fd();
            }
        }
    }
}

/// An open descriptor with its entry in the table; dropped, both end.
pub(crate) struct Descriptor {
    id: u64,
    number: RawFd,
}

impl Descriptor {
    /// Opens a lock file and enters it.
    pub fn open_file(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Descriptor> {
        Descriptor::open(open, true)
    }

    /// Opens something that has no file offset to mark it with.
    pub fn open_other(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Descriptor> {
        Descriptor::open(open, false)
    }

    fn open(open: impl FnOnce() -> io::Result<OwnedFd>, marked: bool) -> io::Result<Descriptor> {
        fork_hooks()?;
        let _gate = gate();
        let fd = open()?;
        let number = fd.as_raw_fd();
        let mut table = table();
        table.last += 1;
        let id = table.last;
        if marked {
            sys::set_offset(sys::borrow(number), mark(id))?;
        }
        table.entries.insert(id, Entry { fd: Some(fd), marked, held: None });
        Ok(Descriptor { id, number })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        sys::borrow(self.number)
    }

    pub fn number(&self) -> RawFd {
        self.number
    }

    /// Whether the number still is the description that we opened.
    pub fn is_ours(&self) -> bool {
        has_mark(self.number, self.id)
    }

    /// Makes it a lock that has been handed out; the answer is its handle. `None` in a child that
    /// was forked by a signal handler during the wait: there it has been closed.
    pub fn hand_out(self, held: Held) -> Option<u64> {
        let mut table = table();
        let entry = table.entries.get_mut(&self.id)?;
        entry.fd.as_ref()?;
        entry.held = Some(Arc::new(held));
        let id = self.id;
        mem::forget(self);
        Some(id)
    }

    /// Takes the descriptor out of the table: it is the caller's from now on.
    pub fn into_fd(self) -> Option<OwnedFd> {
        table().entries.remove(&self.id)?.fd
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let _gate = gate();
        let entry = table().entries.remove(&self.id);
        if let Some(mut entry) = entry {
            entry.close(self.id);
        }
    }
}

/// Looks a handle up; `EPERM` for one that was inherited by `fork`.
pub(crate) fn get(handle: u64) -> Result<(RawFd, Arc<Held>), Error> {
    let table = table();
    let entry = table.entries.get(&handle).ok_or(Error::BadHandle)?;
    let held = entry.held.as_ref().ok_or(Error::BadHandle)?;
    match &entry.fd {
        Some(fd) if held.owner == sys::process_id() => Ok((fd.as_raw_fd(), Arc::clone(held))),
        _ => Err(Error::NotOwner { path: name::to_path(&held.path) }),
    }
}

/// Ends a handle: from now on nobody else can use it.
pub(crate) fn take(handle: u64) -> Result<(Descriptor, Arc<Held>), Error> {
    let mut table = table();
    let entry = table.entries.get_mut(&handle).ok_or(Error::BadHandle)?;
    let held = entry.held.take().ok_or(Error::BadHandle)?;
    let number = entry.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    drop(table);
    let descriptor = Descriptor { id: handle, number };
    // The second half is for a child of _Fork(3) or a bare clone(2), for which no hook ran.
    if number == -1 || held.owner != sys::process_id() {
        return Err(Error::NotOwner { path: name::to_path(&held.path) });
    }
    Ok((descriptor, held))
}

/// The mark of a handle's description is still behind the number.
pub(crate) fn is_ours(number: RawFd, handle: u64) -> bool {
    has_mark(number, handle)
}

// ----------------------------------------------------------------------------------------- fork

type Guards = (RwLockWriteGuard<'static, ()>, MutexGuard<'static, Table>);

thread_local! {
    // What `prepare` took and the two others give back. Without a destructor of its own, so that a
    // fork in a thread's last moments finds it, too.
    static FORKING: Cell<Option<ManuallyDrop<Guards>>> = const { Cell::new(None) };
}

static HOOKS: sys::Once = sys::Once::new();
/// 0, or the error of the registration.
static HOOKS_ERROR: AtomicI32 = AtomicI32::new(0);

fn fork_hooks() -> io::Result<()> {
    HOOKS.call(register);
    match HOOKS_ERROR.load(Ordering::Acquire) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

extern "C" fn register() {
    if let Err(error) = sys::at_fork(prepare, parent, child) {
        HOOKS_ERROR.store(error.raw_os_error().unwrap_or(libc::ENOMEM), Ordering::Release);
    }
}

extern "C" fn prepare() {
    let gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    FORKING.set(Some(ManuallyDrop::new((gate, table()))));
}

extern "C" fn parent() {
    drop(FORKING.take().map(ManuallyDrop::into_inner));
}

/// Runs in a child that may have been forked from a process with many threads: only
/// async-signal-safe calls, so nothing is allocated and nothing is freed.
extern "C" fn child() {
    let Some((gate, mut table)) = FORKING.take().map(ManuallyDrop::into_inner) else { return };
    for (&id, entry) in &mut table.entries {
        entry.close(id);
    }
    drop(table);
    drop(gate);
}
