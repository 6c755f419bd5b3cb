//! The ways to lock that are measured from here: the bare system calls, ours, other crates'.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use session_lock::SessionLock;

/// The one session that everything is measured on, and so the file `s.lock`.
pub const SESSION: &str = "s";

unsafe extern "C" {
    fn plain_acquire(path: *const c_char) -> c_int;
    fn plain_release(fd: c_int);
    fn thread_acquire(path: *const c_char) -> c_int;
    fn same_acquire(dir: *const c_char, path: *const c_char, wait: c_int) -> c_int;
    fn same_release(fd: c_int, path: *const c_char);
}

/// A lock that is taken (waiting as long as it takes) and released, over and over.
pub trait Lock {
    fn acquire(&mut self);
    fn release(&mut self);
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

// ---------------------------------------------------------------------------- bare system calls

/// open, flock, LOCK_UN, close.
pub struct Plain {
    path: CString,
    fd: c_int,
}

impl Plain {
    pub fn new(dir: &Path, session: &str) -> Plain {
        Plain { path: c_path(&dir.join(format!("{session}.lock"))), fd: -1 }
    }
}

impl Lock for Plain {
    fn acquire(&mut self) {
        // SAFETY: the path is NUL-terminated.
        self.fd = unsafe { plain_acquire(self.path.as_ptr()) };
        assert!(self.fd >= 0);
    }

    fn release(&mut self) {
        // SAFETY: no memory is involved.
        unsafe { plain_release(self.fd) };
    }
}

/// The same, with a thread that waits for a caller with a deadline, and nothing else.
pub struct Thread(Plain);

impl Thread {
    pub fn new(dir: &Path, session: &str) -> Thread {
        Thread(Plain::new(dir, session))
    }
}

impl Lock for Thread {
    fn acquire(&mut self) {
        // SAFETY: the path is NUL-terminated.
        self.0.fd = unsafe { thread_acquire(self.0.path.as_ptr()) };
        assert!(self.0.fd >= 0);
    }

    fn release(&mut self) {
        self.0.release();
    }
}

/// The library's own sequence of calls.
pub struct Same {
    dir: CString,
    path: CString,
    wait: c_int,
    fd: c_int,
}

impl Same {
    /// `wait`: as long as it takes; else it tries.
    pub fn new(dir: &Path, wait: bool) -> Same {
        let path = c_path(&dir.join(format!("{SESSION}.lock")));
        Same { dir: c_path(dir), path, wait: wait.into(), fd: -1 }
    }
}

impl Lock for Same {
    fn acquire(&mut self) {
        // SAFETY: both paths are NUL-terminated.
        self.fd = unsafe { same_acquire(self.dir.as_ptr(), self.path.as_ptr(), self.wait) };
        assert!(self.fd >= 0);
    }

    fn release(&mut self) {
        // SAFETY: the path is NUL-terminated.
        unsafe { same_release(self.fd, self.path.as_ptr()) };
    }
}

// ----------------------------------------------------------------------------------------- ours

type Acquire = unsafe extern "C" fn(*const c_char, *const c_char, *mut u64) -> c_int;
type Wait = unsafe extern "C" fn(*const c_char, *const c_char, i64, c_int, *mut u64) -> c_int;
type Release = unsafe extern "C" fn(u64) -> c_int;
type Holder = unsafe extern "C" fn(*const c_char, *const c_char, *mut c_void, usize) -> c_int;

/// The shared library as another language would use it: by dlopen, through its C functions.
#[derive(Clone, Copy)]
pub struct Library {
    acquire: Acquire,
    wait: Wait,
    release: Release,
    holder: Holder,
}

impl Library {
    pub fn load(file: &Path) -> Library {
        let path = c_path(file);
        // SAFETY: the path is NUL-terminated; the library runs no code when it is loaded.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "cannot load {}", file.display());
        let symbol = |name: &CStr| {
            // SAFETY: the library was loaded and is never unloaded; the name is NUL-terminated.
            let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
            assert!(!symbol.is_null(), "{name:?}");
            symbol
        };
        // SAFETY: the types are those of include/session_lock.h.
        unsafe {
            Library {
                acquire: std::mem::transmute::<*mut c_void, Acquire>(symbol(
                    c"session_lock_acquire",
                )),
                wait: std::mem::transmute::<*mut c_void, Wait>(symbol(c"session_lock_wait")),
                release: std::mem::transmute::<*mut c_void, Release>(symbol(
                    c"session_lock_release",
                )),
                holder: std::mem::transmute::<*mut c_void, Holder>(symbol(c"session_lock_holder")),
            }
        }
    }

    pub fn acquire(&self, dir: &CStr, session: &CStr) -> u64 {
        let mut handle = 0;
        // SAFETY: both strings are NUL-terminated; the handle is stored where `handle` is.
        let error = unsafe { (self.acquire)(dir.as_ptr(), session.as_ptr(), &raw mut handle) };
        assert_eq!(error, 0);
        handle
    }

    /// The errno, negative.
    pub fn wait(&self, dir: &CStr, session: &CStr, timeout_ms: i64, handle: &mut u64) -> c_int {
        // SAFETY: both strings are NUL-terminated; the handle is stored where `handle` is.
        unsafe {
            (self.wait)(dir.as_ptr(), session.as_ptr(), timeout_ms, -1, ptr::from_mut(handle))
        }
    }

    pub fn release(&self, handle: u64) {
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { (self.release)(handle) }, 0);
    }

    /// The state; how many wait is not looked up for a shorter struct.
    pub fn holder(&self, dir: &CStr, session: &CStr, waiters: bool) -> u32 {
        let mut info = [0u32; 40];
        let size = if waiters { 160 } else { 152 };
        // SAFETY: both strings are NUL-terminated; the buffer has the size that is said.
        let error = unsafe {
            (self.holder)(dir.as_ptr(), session.as_ptr(), info.as_mut_ptr().cast(), size)
        };
        assert_eq!(error, 0);
        info[0]
    }
}

/// `session_lock_acquire`, or `session_lock_wait` where there is a time-out.
pub struct Ours {
    library: Library,
    dir: CString,
    session: CString,
    timeout_ms: Option<i64>,
    handle: u64,
}

impl Ours {
    pub fn new(library: Library, dir: &Path, session: &str, timeout_ms: Option<i64>) -> Ours {
        let session = CString::new(session).unwrap();
        Ours { library, dir: c_path(dir), session, timeout_ms, handle: 0 }
    }
}

impl Lock for Ours {
    fn acquire(&mut self) {
        match self.timeout_ms {
            None => self.handle = self.library.acquire(&self.dir, &self.session),
            Some(ms) => {
                let error = self.library.wait(&self.dir, &self.session, ms, &mut self.handle);
                assert_eq!(error, 0);
            }
        }
    }

    fn release(&mut self) {
        self.library.release(self.handle);
    }
}

/// The Rust library, linked in.
pub struct OursRust {
    dir: PathBuf,
    lock: Option<SessionLock>,
}

impl OursRust {
    pub fn new(dir: &Path) -> OursRust {
        OursRust { dir: dir.to_path_buf(), lock: None }
    }
}

impl Lock for OursRust {
    fn acquire(&mut self) {
        self.lock = Some(SessionLock::acquire(Some(&self.dir), SESSION).unwrap());
    }

    fn release(&mut self) {
        self.lock.take().unwrap().release().unwrap();
    }
}

// --------------------------------------------------------------------------------- other crates

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

pub fn std_file(path: &Path) {
    let file = open(path);
    file.lock().unwrap();
    file.unlock().unwrap();
}

pub fn fd_lock(path: &Path) {
    let mut lock = fd_lock::RwLock::new(open(path));
    drop(lock.write().unwrap());
}

pub fn fs4(path: &Path) {
    let file = open(path);
    fs4::fs_std::FileExt::lock_exclusive(&file).unwrap();
    fs4::fs_std::FileExt::unlock(&file).unwrap();
}
