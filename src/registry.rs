//! The descriptors that this process has open for its locks, by handle; what `fork` does to them.
//!
//! A lock belongs to an open file description, and `fork` gives the child a copy of it: the lock
//! would live as long as the child, and the child could release it. So each descriptor is entered
//! here in the same breath as it is opened, also those of waits in progress, and the child closes
//! every one as it starts.
//!
//! # Lock order
//!
//! [`FORK_LOCK`], then the lock of a [`SharedDescriptor`], then [`REGISTRY`], never the other way round;
//! nothing else is locked while one of them is held.
//!
//! * `FORK_LOCK` is held shared while a descriptor is opened and entered, and exclusively around
//!   `fork`: no child is born between the two steps. Opening can take long on a network filesystem;
//!   then `fork` waits for it, and so does every other open. Nothing else takes this lock, so
//!   looking a lock up and releasing it wait for neither.
//! * A shared descriptor's lock is held while it is looked up or opened, always under `FORK_LOCK`, so no thread
//!   holds it when a child is born.
//! * `REGISTRY` is held for a few instructions, for the `close` of a descriptor that is taken out,
//!   and around `fork`, where it is taken last.
//!
//! Both are held by the forking thread, which is the child's only one, and it opens them again there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, c_int};
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use crate::error::Error;
use crate::sys::{self, FileId, thread::Once};

/// A lock that was handed out.
#[derive(Debug)]
pub(crate) struct LockRecord {
    pub path: CString,
    pub file: FileId,
    pub owner: u32,
    /// The fencing token; `None` if there is no label.
    pub token: Option<u64>,
    /// The filesystem may be shared by other hosts, and take the lock away.
    pub shared: bool,
    /// It has done so: a lost lock that is free again would be taken again without a word.
    pub lost: AtomicBool,
}

struct Entry {
    /// `None` in a child, where it has been closed.
    fd: Option<OwnedFd>,
    /// The file whose lock it is for; `None` for a descriptor of another purpose, and until the file
    /// has been looked at.
    file: Option<FileId>,
    marked: bool,
    /// `None` during a wait or a release.
    lock: Option<Arc<LockRecord>>,
}

struct Registry {
    /// The last handle that was given; 0 before the first one.
    last: u64,
    entries: BTreeMap<u64, Entry>,
}

static FORK_LOCK: RwLock<()> = RwLock::new(());
static REGISTRY: Mutex<Registry> = Mutex::new(Registry { last: 0, entries: BTreeMap::new() });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// A number that no other lock of this process has or had. Each copy of the library counts from
    /// its own address on, so that a handle of another copy is not taken for one of ours: copies are
    /// mapped many pages apart, and there are 2^29 numbers to a page.
    fn next_handle(&mut self) -> u64 {
        if self.last == 0 {
            self.last = (((&raw const REGISTRY).addr() >> 12) as u64) << 29;
        }
        self.last += 1;
        self.last
    }
}

// A descriptor number that the host program has closed behind our back may by now be another file's.
// So each description carries a mark that tells it from all others: its file offset, which we do not
// use (labels are read and written at given positions). It stays below 2 GiB, which every filesystem
// can seek to, and above what a file of another purpose would be at.
fn mark(id: u64) -> libc::off_t {
    const BASE: libc::off_t = 1 << 30;
    BASE | (id as libc::off_t & (BASE - 1))
}

impl Entry {
    fn number(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Registry {
    /// Whether an entry's number still is the description that was opened for it.
    fn is_ours(&self, id: u64, entry: &Entry) -> bool {
        let number = entry.number();
        if !entry.marked || sys::lseek_cur(number) == Some(mark(id)) {
            return true;
        }
        // The host program has moved the offset: it has read or written through a number that it takes
        // for its own. The lock must still be released. A descriptor of this very file with the flags
        // that we open with is not one that the host would have opened. (F_GETFL shows O_NOFOLLOW:
        // do_dentry_open() clears only O_CREAT, O_EXCL, O_NOCTTY and O_TRUNC.) But it may be a later
        // one of ours.
        const FLAGS: c_int = sys::OPEN_FLAGS & (libc::O_NOFOLLOW | libc::O_NONBLOCK);
        entry.file.is_some()
            && sys::fcntl_getfl(number).is_some_and(|flags| flags & FLAGS == FLAGS)
            && sys::fstat_number(number).ok().map(|stat| stat.id) == entry.file
            && !self.entries.iter().any(|(&other, entry)| other != id && entry.number() == number)
    }

    /// Closes an entry's descriptor, unless the number has become somebody else's.
    fn close(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        let ours = self.is_ours(id, entry);
        let fd = self.entries.get_mut(&id).and_then(|entry| entry.fd.take());
        if let Some(fd) = fd.filter(|_| !ours) {
            let _ = fd.into_raw_fd();
        }
    }
}

/// An open descriptor with its entry in the registry; dropped, both end.
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
        let _no_fork = no_fork()?;
        Descriptor::enter(open()?, marked)
    }

    /// Enters an open descriptor. No fork may begin between the opening and the end of this call.
    fn enter(mut fd: OwnedFd, marked: bool) -> io::Result<Descriptor> {
        if fd.as_raw_fd() <= libc::STDERR_FILENO {
            // A program that has closed its standard descriptors may go on using their numbers.
            fd = sys::fcntl_dupfd(fd.as_fd(), libc::STDERR_FILENO + 1)?;
        }
        let number = fd.as_raw_fd();
        let mut registry = registry();
        let id = registry.next_handle();
        if marked {
            sys::lseek_set(fd.as_fd(), mark(id))?;
        }
        registry.entries.insert(id, Entry { fd: Some(fd), file: None, marked, lock: None });
        Ok(Descriptor { id, number })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number came from an `OwnedFd`, so it is not -1, and the entry keeps it open for
        // as long as this value lives. (A host that closes numbers at random breaks that promise; the
        // calls then fail or meet another file, which `is_ours` is for.)
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }

    pub fn number(&self) -> RawFd {
        self.number
    }

    /// Notes which file it is a descriptor of.
    pub fn set_file(&self, file: FileId) {
        if let Some(entry) = registry().entries.get_mut(&self.id) {
            entry.file = Some(file);
        }
    }

    /// Whether the number still is the description that was opened.
    pub fn is_ours(&self) -> bool {
        let registry = registry();
        registry.entries.get(&self.id).is_some_and(|entry| registry.is_ours(self.id, entry))
    }

    /// Makes it a lock that has been handed out; the answer is its handle. `None` in a child that
    /// was forked by a signal handler during the wait: there it has been closed.
    pub fn hand_out(self, lock: Arc<LockRecord>) -> Option<u64> {
        let mut registry = registry();
        let entry = registry.entries.get_mut(&self.id)?;
        entry.fd.as_ref()?;
        entry.file = Some(lock.file);
        entry.lock = Some(lock);
        let id = self.id;
        mem::forget(self);
        Some(id)
    }

    /// Closes it without another look at whose it is by now.
    pub fn close(self) {
        let mut registry = registry();
        // Closed before the registry is unlocked: no child is born in between.
        drop(registry.entries.remove(&self.id));
        mem::forget(self);
    }

    /// Takes the descriptor out of the registry: it is the caller's from now on.
    pub fn into_fd(self) -> Option<OwnedFd> {
        registry().entries.remove(&self.id)?.fd
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // Closed before the registry is unlocked: no child is born in between.
        let mut registry = registry();
        registry.close(self.id);
        registry.entries.remove(&self.id);
    }
}

/// A descriptor that all who use it at the same time share.
pub(crate) struct SharedDescriptor(Mutex<(u32, Weak<Descriptor>)>);

impl SharedDescriptor {
    pub const fn new() -> SharedDescriptor {
        SharedDescriptor(Mutex::new((0, Weak::new())))
    }

    /// The one that is in use, or else a new one: only one, too, if many ask at once.
    pub fn get(&self, open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Arc<Descriptor>> {
        let _no_fork = no_fork()?;
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A child of fork has closed its parent's.
        if shared.0 == forks() {
            if let Some(known) = shared.1.upgrade() {
                return Ok(known);
            }
        }
        let new = Arc::new(Descriptor::enter(open()?, false)?);
        *shared = (forks(), Arc::downgrade(&new));
        Ok(new)
    }
}

fn to_path(lock: &LockRecord) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(lock.path.as_bytes()))
}

fn not_owner(lock: &LockRecord) -> Error {
    Error::NotOwner { path: to_path(lock) }
}

/// Looks a handle up; `EPERM` for one that was inherited by `fork`, `ESTALE` if the descriptor was
/// closed behind our back.
pub(crate) fn get(handle: u64) -> Result<(RawFd, Arc<LockRecord>), Error> {
    let registry = registry();
    let entry = registry.entries.get(&handle).ok_or(Error::BadHandle)?;
    let lock = entry.lock.as_ref().ok_or(Error::BadHandle)?;
    if entry.fd.is_none() || lock.owner != sys::getpid() {
        return Err(not_owner(lock));
    }
    if !registry.is_ours(handle, entry) {
        return Err(Error::Stale { path: to_path(lock), source: None });
    }
    Ok((entry.number(), Arc::clone(lock)))
}

/// Ends a handle: from now on nobody else can use it.
pub(crate) fn take(handle: u64) -> Result<(Descriptor, Arc<LockRecord>), Error> {
    let mut registry = registry();
    let entry = registry.entries.get_mut(&handle).ok_or(Error::BadHandle)?;
    let lock = entry.lock.take().ok_or(Error::BadHandle)?;
    let number = entry.number();
    drop(registry);
    let descriptor = Descriptor { id: handle, number };
    // The second half is for a child of _Fork(3) or a bare clone(2), for which no hook ran.
    if number == -1 || lock.owner != sys::getpid() {
        return Err(not_owner(&lock));
    }
    Ok((descriptor, lock))
}

/// Whether this process holds a lock on the file.
pub(crate) fn holds(file: FileId) -> bool {
    let me = sys::getpid();
    let holds = |entry: &Entry| {
        entry.fd.is_some()
            && entry.lock.as_ref().is_some_and(|lock| lock.owner == me && lock.file == file)
    };
    registry().entries.values().any(holds)
}

// ----------------------------------------------------------------------------------------- fork

type Guards = (RwLockWriteGuard<'static, ()>, MutexGuard<'static, Registry>);

thread_local! {
    // What `prepare` took and the two others give back. Without a destructor of its own, so that a
    // fork in a thread's last moments finds it, too.
    static FORKING: Cell<Option<ManuallyDrop<Guards>>> = const { Cell::new(None) };
}

/// How often this process and those before it were forked.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Tells this process from its parent, whose number it may have in a PID namespace of its own.
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

static HOOKS: Once = Once::new();
/// 0, or the error of the registration.
static HOOKS_ERROR: AtomicI32 = AtomicI32::new(0);

/// The hooks are registered when the library is loaded. The handlers of pthread_atfork(3) that prepare
/// a fork run in the reverse order of their registration, so those of the host program run before
/// ours: what they wait for may be held by a thread that is inside this library.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn at_load() {
        HOOKS.call(register);
    }
    at_load
};

/// At first use, for a program whose linker left [`AT_LOAD`] out.
fn fork_hooks() -> io::Result<()> {
    HOOKS.call(register);
    match HOOKS_ERROR.load(Ordering::Acquire) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Keeps any fork from beginning.
fn no_fork() -> io::Result<RwLockReadGuard<'static, ()>> {
    fork_hooks()?;
    Ok(FORK_LOCK.read().unwrap_or_else(PoisonError::into_inner))
}

extern "C" fn register() {
    // SAFETY: `prepare` locks what `parent` and `child` unlock; `child` calls nothing but close(2),
    // fcntl(2), lseek(2) and fstat(2), all async-signal-safe (signal-safety(7)).
    if let Err(error) = unsafe { sys::pthread_atfork(prepare, parent, child) } {
        HOOKS_ERROR.store(error.raw_os_error().unwrap_or(libc::ENOMEM), Ordering::Release);
    }
}

extern "C" fn prepare() {
    let fork_lock = FORK_LOCK.write().unwrap_or_else(PoisonError::into_inner);
    FORKING.set(Some(ManuallyDrop::new((fork_lock, registry()))));
}

extern "C" fn parent() {
    drop(FORKING.take().map(ManuallyDrop::into_inner));
}

/// Runs in a child that may have been forked from a process with many threads: only
/// async-signal-safe calls, so nothing is allocated and nothing is freed.
extern "C" fn child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    let Some((fork_lock, mut registry)) = FORKING.take().map(ManuallyDrop::into_inner) else {
        return;
    };
    let mut next = 0;
    while let Some((&id, _)) = registry.entries.range(next..).next() {
        registry.close(id);
        next = id + 1;
    }
    drop(registry);
    drop(fork_lock);
}
