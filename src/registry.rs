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
//! nothing else is locked while one of them is held, and nothing is allocated or freed: an allocator may
//! have fork handlers of its own, and hold its locks when ours waits for `FORK_LOCK`.
//!
//! * `FORK_LOCK` is held shared while a descriptor is opened and entered, and exclusively around
//!   `fork`: no child is born between the two steps. Opening can take long on a network filesystem;
//!   then `fork` waits for it, and so does every other open. Looking a lock up and releasing it wait
//!   for neither.
//! * A shared descriptor's lock is held while it is looked up or opened, always under `FORK_LOCK`, so no thread
//!   holds it when a child is born.
//! * `REGISTRY` is held for a few instructions, and for the `close` of a descriptor. A fork does not
//!   wait for it, so its child may find it locked by a thread that does not exist there. What that thread
//!   was changing is intact: entries come and go only while `FORK_LOCK` is held, and each field of an entry
//!   changes in a single step.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CString, OsStr, c_int};
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
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

/// What a descriptor is marked with, to tell it from another one that has its number by now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Offset,
    Signal,
    /// None: the number is trusted.
    None,
}

struct Entry {
    id: u64,
    mark: Mark,
    /// -1 in a child, and once it is the caller's.
    number: AtomicI32,
    /// The file whose lock it is for; empty for a descriptor of another purpose, and until the file
    /// has been looked at.
    file: OnceLock<FileId>,
    /// Empty during a wait.
    lock: OnceLock<Arc<LockRecord>>,
    /// The lock is being released.
    taken: AtomicBool,
    /// Nobody asks for it any more: the descriptor is closed. A child that is born meanwhile may have it: fork copies the descriptors
    /// before the memory (`copy_process()`).
    ended: AtomicBool,
    next: Option<Box<Entry>>,
}

/// The entries, in chains by their number: a chain takes one in without allocating anything.
struct Registry {
    /// The last handle that was given; 0 before the first one.
    last: u64,
    chains: [Option<Box<Entry>>; CHAINS],
}

const CHAINS: usize = 256;

struct Global(UnsafeCell<Mutex<Registry>>);

// SAFETY: it is only reached through the mutex, but in a child of fork that has one thread.
unsafe impl Sync for Global {}

static FORK_LOCK: RwLock<()> = RwLock::new(());
static REGISTRY: Global = Global(UnsafeCell::new(Mutex::new(Registry::new())));

fn registry() -> MutexGuard<'static, Registry> {
    // SAFETY: it is changed in the child's hook alone, when this thread is in fork(2).
    let registry = unsafe { &*REGISTRY.0.get() };
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

type NoFork = RwLockReadGuard<'static, ()>;

impl Registry {
    const fn new() -> Registry {
        Registry { last: 0, chains: [const { None }; CHAINS] }
    }

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

    fn insert(&mut self, _: &NoFork, mut entry: Box<Entry>) {
        let chain = &mut self.chains[chain_of(entry.id)];
        entry.next = chain.take();
        *chain = Some(entry);
    }

    /// Takes the entries that have ended out of the chain of `id`. The caller drops them when nothing is locked.
    fn sweep(&mut self, _: &NoFork, id: u64) -> Option<Box<Entry>> {
        let mut swept = None;
        let mut at = &mut self.chains[chain_of(id)];
        while let Some(mut entry) = at.take() {
            if entry.ended() {
                *at = mem::replace(&mut entry.next, swept);
                swept = Some(entry);
            } else {
                at = &mut at.insert(entry).next;
            }
        }
        swept
    }

    fn chain(&self, number: usize) -> impl Iterator<Item = &Entry> {
        let mut at = &self.chains[number];
        std::iter::from_fn(move || {
            let entry = at.as_deref()?;
            at = &entry.next;
            Some(entry)
        })
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        (0..CHAINS).flat_map(|number| self.chain(number))
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.all().filter(|entry| !entry.ended())
    }

    fn find(&self, id: u64) -> Option<&Entry> {
        self.chain(chain_of(id)).find(|entry| entry.id == id && !entry.ended())
    }
}

fn chain_of(id: u64) -> usize {
    // What is cut off are multiples of the length.
    id as usize % CHAINS
}

// A descriptor number that the host program has closed behind our back may by now be another file's.
// So each description carries a mark that tells it from all others: its file offset, which we do not
// use (labels are read and written at given positions). It stays below 2 GiB, which every filesystem
// can seek to, and above what a file of another purpose would be at.
fn offset_mark(id: u64) -> libc::off_t {
    const BASE: libc::off_t = 1 << 30;
    BASE | (scattered(id) >> 34) as libc::off_t
}

// What has no offset has the number of a signal for `O_ASYNC` (F_SETSIG, fcntl(2)), which we do not use
// either. It is 0 elsewhere.
fn signal_mark(id: u64) -> c_int {
    1 + (scattered(id) >> 58) as c_int
}

/// Fibonacci hashing: numbers that are near each other, and those of another copy of the library, get
/// first bits of their own.
fn scattered(id: u64) -> u64 {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Entry {
    fn new(mark: Mark) -> Box<Entry> {
        Box::new(Entry {
            id: 0,
            mark,
            number: AtomicI32::new(-1),
            file: OnceLock::new(),
            lock: OnceLock::new(),
            taken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            next: None,
        })
    }

    /// Makes it the entry of an open descriptor, and marks that.
    fn set(&mut self, mut fd: OwnedFd) -> io::Result<()> {
        if fd.as_raw_fd() <= libc::STDERR_FILENO {
            // A program that has closed its standard descriptors may go on using their numbers.
            fd = sys::fcntl_dupfd(fd.as_fd(), libc::STDERR_FILENO + 1)?;
        }
        self.id = registry().next_handle();
        match self.mark {
            Mark::Offset => sys::lseek_set(fd.as_fd(), offset_mark(self.id))?,
            Mark::Signal if sys::fcntl_setsig(fd.as_fd(), signal_mark(self.id)).is_err() => {
                self.mark = Mark::None;
            }
            Mark::Signal | Mark::None => {}
        }
        *self.number.get_mut() = fd.into_raw_fd();
        Ok(())
    }

    /// Enters it. No fork may have begun since its descriptor was opened.
    fn enter(self: Box<Self>, no_fork: &NoFork) -> Descriptor {
        let descriptor = Descriptor { id: self.id, number: self.number() };
        registry().insert(no_fork, self);
        descriptor
    }

    fn number(&self) -> RawFd {
        self.number.load(Ordering::Relaxed)
    }

    /// Gives the descriptor to the caller, if there still is one.
    fn take_fd(&self) -> Option<OwnedFd> {
        match self.number.swap(-1, Ordering::Relaxed) {
            -1 => None,
            // SAFETY: the number came from an `OwnedFd`, and nobody gets it a second time.
            number => Some(unsafe { OwnedFd::from_raw_fd(number) }),
        }
    }

    /// Closes the descriptor. To be called once.
    fn close(&self) {
        if self.number() != -1 {
            // SAFETY: the number came from an `OwnedFd`, and nobody closes it a second time.
            drop(unsafe { OwnedFd::from_raw_fd(self.number()) });
        }
    }

    /// Whether its number is the description that was opened for it, as far as the mark tells.
    fn has_mark(&self) -> Option<bool> {
        let number = self.number();
        match self.mark {
            _ if number == -1 => Some(false),
            Mark::None => None,
            Mark::Offset => Some(sys::lseek_cur(number) == Some(offset_mark(self.id))),
            Mark::Signal => match sys::fcntl_getsig(number) {
                Ok(signal) => Some(signal == signal_mark(self.id)),
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => Some(false),
                Err(_) => None,
            },
        }
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The lock that was handed out and has not been taken back.
    fn lock(&self) -> Option<&Arc<LockRecord>> {
        self.lock.get().filter(|_| !self.taken.load(Ordering::Relaxed))
    }
}

impl Registry {
    /// Whether an entry's number still is the description that was opened for it.
    fn is_ours(&self, entry: &Entry) -> bool {
        if entry.has_mark().unwrap_or(true) {
            return true;
        }
        let number = entry.number();
        // The host program has moved the offset: it has read or written through a number that it takes
        // for its own. The lock must still be released. A descriptor of this very file with the flags
        // that we open with is not one that the host would have opened. (F_GETFL shows O_NOFOLLOW:
        // do_dentry_open() clears only O_CREAT, O_EXCL, O_NOCTTY and O_TRUNC.) But it may be a later
        // one of ours.
        const FLAGS: c_int = sys::OPEN_FLAGS & (libc::O_NOFOLLOW | libc::O_NONBLOCK);
        entry.file.get().is_some_and(|&file| {
            sys::fcntl_getfl(number).is_some_and(|flags| flags & FLAGS == FLAGS)
                && sys::fstat_number(number).is_ok_and(|stat| stat.id == file)
                && !self.entries().any(|other| other.id != entry.id && other.number() == number)
        })
    }

    /// Closes an entry's descriptor, unless the number has become somebody else's.
    fn close(&self, entry: &Entry) {
        if self.is_ours(entry) {
            entry.close();
        }
    }
}

/// An open descriptor with its entry in the registry; dropped, both end.
pub(crate) struct Descriptor {
    /// 0: none.
    id: u64,
    number: RawFd,
}

impl Descriptor {
    /// Opens a lock file and enters it.
    pub fn open_file(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Descriptor> {
        Descriptor::open(open, Mark::Offset)
    }

    /// Opens something that has no file offset to mark it with.
    pub fn open_other(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Descriptor> {
        Descriptor::open(open, Mark::Signal)
    }

    /// `open` must not allocate or free memory.
    fn open(open: impl FnOnce() -> io::Result<OwnedFd>, mark: Mark) -> io::Result<Descriptor> {
        let mut entry = Entry::new(mark);
        let no_fork = no_fork()?;
        entry.set(open()?)?;
        Ok(entry.enter(&no_fork))
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
        if let Some(entry) = registry().find(self.id) {
            let _ = entry.file.set(file);
        }
    }

    /// Whether the number still is the description that was opened.
    pub fn is_ours(&self) -> bool {
        let registry = registry();
        registry.find(self.id).is_some_and(|entry| registry.is_ours(entry))
    }

    /// Makes it a lock that has been handed out; the answer is its handle. `None` in a child that
    /// was forked by a signal handler during the wait: there it has been closed.
    pub fn hand_out(self, lock: Arc<LockRecord>) -> Option<u64> {
        let registry = registry();
        let entry = registry.find(self.id).filter(|entry| entry.number() != -1)?;
        let _ = entry.lock.set(lock);
        drop(registry);
        let id = self.id;
        mem::forget(self);
        Some(id)
    }

    /// Closes it without another look at whose it is by now.
    pub fn close(self) {
        self.end(|_, entry| entry.close());
        mem::forget(self);
    }

    /// Takes the descriptor out of the registry: it is the caller's from now on.
    pub fn into_fd(self) -> Option<OwnedFd> {
        let mut fd = None;
        self.end(|_, entry| fd = entry.take_fd());
        mem::forget(self);
        fd
    }

    /// Ends the entry; `last` says what becomes of its descriptor. This waits for no fork: while there is one,
    /// the entry stays in its chain until the next one there ends.
    fn end(&self, last: impl FnOnce(&Registry, &Entry)) {
        let no_fork = FORK_LOCK.try_read().ok();
        let mut registry = registry();
        if let Some(entry) = registry.find(self.id) {
            last(&registry, entry);
            entry.ended.store(true, Ordering::Relaxed);
        }
        let swept = no_fork.as_ref().and_then(|no_fork| registry.sweep(no_fork, self.id));
        drop(registry);
        drop(no_fork);
        drop(swept);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.end(Registry::close);
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
        // Made before anything is locked, and dropped after that.
        let mut entry = Entry::new(Mark::Signal);
        let mut new = Arc::new(Descriptor { id: 0, number: -1 });
        let (known, _old);
        let no_fork = no_fork()?;
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A child of fork has closed its parent's.
        if shared.0 == forks() {
            known = shared.1.upgrade();
            if let Some(known) = known.as_ref().filter(|known| known.is_ours()) {
                return Ok(Arc::clone(known));
            }
        }
        entry.set(open()?)?;
        if let Some(new) = Arc::get_mut(&mut new) {
            *new = entry.enter(&no_fork);
        }
        _old = mem::replace(&mut *shared, (forks(), Arc::downgrade(&new)));
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
    let entry = registry.find(handle).ok_or(Error::BadHandle)?;
    let lock = Arc::clone(entry.lock().ok_or(Error::BadHandle)?);
    let (number, ours) = (entry.number(), registry.is_ours(entry));
    drop(registry);
    if number == -1 || lock.owner != sys::getpid() {
        return Err(not_owner(&lock));
    }
    if !ours {
        return Err(Error::Stale { path: to_path(&lock), source: None });
    }
    Ok((number, lock))
}

/// Ends a handle: from now on nobody else can use it.
pub(crate) fn take(handle: u64) -> Result<(Descriptor, Arc<LockRecord>), Error> {
    let registry = registry();
    let entry = registry.find(handle).ok_or(Error::BadHandle)?;
    let lock = Arc::clone(entry.lock().ok_or(Error::BadHandle)?);
    if entry.number() == -1 || lock.owner != sys::getpid() {
        // The second half is for a child of _Fork(3) or a bare clone(2), for which no hook ran. It may share
        // its parent's descriptors, so this one stays open.
        entry.ended.store(true, Ordering::Relaxed);
        drop(registry);
        return Err(not_owner(&lock));
    }
    entry.taken.store(true, Ordering::Relaxed);
    Ok((Descriptor { id: handle, number: entry.number() }, lock))
}

/// Whether this process holds a lock on the file.
pub(crate) fn holds(file: FileId) -> bool {
    let me = sys::getpid();
    let registry = registry();
    let holds = |entry: &Entry| {
        entry.lock().is_some_and(|lock| lock.owner == me && lock.file == file)
            && registry.is_ours(entry)
    };
    registry.entries().any(holds)
}

// ----------------------------------------------------------------------------------------- fork

thread_local! {
    // What `prepare` took and one of the two others gives back. Without a destructor of its own, so that a
    // fork in a thread's last moments finds it, too.
    static FORKING: Cell<Option<ManuallyDrop<RwLockWriteGuard<'static, ()>>>> =
        const { Cell::new(None) };
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
/// ours: what they wait for may be held by a thread that is inside this library. In a static program the
/// priority, the first one that is not the C library's, puts this before the host's constructors.
#[used]
#[unsafe(link_section = ".init_array.00101")]
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
fn no_fork() -> io::Result<NoFork> {
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
    FORKING.set(Some(ManuallyDrop::new(fork_lock)));
}

extern "C" fn parent() {
    drop(FORKING.take().map(ManuallyDrop::into_inner));
}

/// Runs in a child that may have been forked from a process with many threads: only
/// async-signal-safe calls, so nothing is allocated and nothing is freed.
extern "C" fn child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    let Some(fork_lock) = FORKING.take().map(ManuallyDrop::into_inner) else { return };
    // SAFETY: this is the only thread, and it is in fork(2).
    let mutex = unsafe { &mut *REGISTRY.0.get() };
    let registry = mutex.get_mut().unwrap_or_else(PoisonError::into_inner);
    for entry in registry.all() {
        let open =
            if entry.ended() { entry.has_mark() == Some(true) } else { registry.is_ours(entry) };
        if open {
            entry.close();
        }
        entry.number.store(-1, Ordering::Relaxed);
    }
    // The old one may be locked by a thread of the parent.
    *mutex = Mutex::new(mem::replace(registry, Registry::new()));
    drop(fork_lock);
}
