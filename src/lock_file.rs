//! The lock file: where it is, whether to trust its directory, how it is opened, whether it is still at
//! its path.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::default_dir;
use crate::error::Error;
use crate::registry::Descriptor;
use crate::rights;
use crate::session_name::file_name;
use crate::sys::{self, FileId, Stat};

/// A directory of lock files. Its path is absolute: it must go on naming it after a `chdir`.
pub(crate) struct Directory {
    pub path: CString,
    /// Nobody named it: then it must be the caller's own.
    default: bool,
}

/// Where a session's lock is.
pub(crate) struct LockFile {
    dir: Directory,
    pub path: CString,
}

/// A lock file that was opened and found to be fit to be one; not locked yet.
pub(crate) struct Opened {
    pub descriptor: Descriptor,
    pub stat: Stat,
    pub writable: bool,
}

/// In a directory of several users, how often to try to open a file that is closed to us: where the
/// filesystem has no files without a name, its creator may not have given it its rights yet.
const TRIES_OF_CLOSED: u32 = 200;

/// Returns the path of the lock file of `session`: `<dir>/<name>.lock`. Creates nothing.
///
/// `dir` `None` means `$SESSION_LOCK_DIR`, or else `/tmp/session-lock-<uid>` with the effective user ID
/// as the parent of the caller's user namespace sees it. In the file's name every byte of the session
/// other than `A-Z a-z 0-9 _ - .` is written as `%XX`, and so is a leading `.`.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for an empty session or directory, or one with a NUL byte;
/// [`Error::NameTooLong`] if the file's name would be longer than 255 bytes. With `dir`
/// `None`, [`Error::Untrusted`] if the user's other processes would use a different directory:
///
/// * `$SESSION_LOCK_DIR` is set, and not an absolute path, or this program runs with raised privileges
///   (set-user-ID, set-group-ID, file capabilities);
/// * it is not set, and `/tmp` is private to a service (systemd's `PrivateTmp=`), or the user has no
///   ID outside the user namespace.
pub fn path(dir: Option<&Path>, session: impl AsRef<OsStr>) -> Result<PathBuf, Error> {
    let file_name = file_name(session.as_ref().as_bytes())?;
    let (dir, _) = directory(dir)?;
    Ok(dir.join(OsStr::from_bytes(&file_name)))
}

/// The directory, and whether nobody named it.
fn directory(dir: Option<&Path>) -> Result<(Cow<'_, Path>, bool), Error> {
    match dir {
        Some(dir) if dir.as_os_str().is_empty() => {
            Err(Error::InvalidArgument("the directory's name is empty"))
        }
        Some(dir) if dir.as_os_str().as_bytes().contains(&0) => {
            Err(Error::InvalidArgument("the directory's name contains a NUL byte"))
        }
        Some(dir) => Ok((Cow::Borrowed(dir), false)),
        None => match default_dir::from_environment()? {
            Some(dir) => Ok((Cow::Owned(dir), false)),
            None => Ok((Cow::Owned(default_dir::default_directory()?), true)),
        },
    }
}

pub(crate) fn to_path(path: &CStr) -> PathBuf {
    as_path(path).to_path_buf()
}

pub(crate) fn as_path(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

/// A path that has been searched for NUL bytes, or came from the kernel.
pub(crate) fn to_c_string(path: Vec<u8>) -> CString {
    CString::new(path).unwrap_or_else(|_| panic!("a path has no NUL byte"))
}

/// Whether `path` names the file `id`.
pub(crate) fn is_at_path(path: &CStr, id: FileId) -> io::Result<bool> {
    match sys::lstat(path) {
        Ok(stat) => Ok(stat.id == id),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn untrusted(path: &CStr, reason: &'static str) -> Error {
    Error::Untrusted { path: to_path(path), reason }
}

impl Directory {
    pub fn new(dir: Option<&Path>) -> Result<Directory, Error> {
        let (mut dir, default) = directory(dir)?;
        if dir.is_relative() {
            let failed = |source| Error::Os { path: dir.to_path_buf(), call: "getcwd", source };
            dir = Cow::Owned(std::path::absolute(&dir).map_err(failed)?);
        }
        let dir = dir.as_os_str().as_bytes();
        // With room for the NUL byte: to make a string of the same vector copies nothing.
        let mut path = Vec::with_capacity(dir.len() + 1);
        path.extend_from_slice(dir);
        Ok(Directory { path: to_c_string(path), default })
    }

    fn failed(&self, call: &'static str, source: io::Error) -> Error {
        Error::Os { path: to_path(&self.path), call, source }
    }

    /// Checks the directory; `None` if there is none.
    pub fn trusted(&self) -> Result<Option<Stat>, Error> {
        // A link in place of the default directory would be somebody else's doing: anybody may
        // create names in /tmp. A directory that the caller named may be reached over links.
        let stat = if self.default { sys::lstat } else { sys::stat };
        let found = match stat(&self.path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            result => result.map_err(|error| self.failed("stat", error))?,
        };
        if self.default && found.is_symlink() {
            return Err(untrusted(&self.path, "it is a symbolic link"));
        }
        if !found.is_dir() {
            return Err(self.failed("stat", io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        if self.default {
            if found.uid != sys::geteuid() {
                return Err(untrusted(&self.path, "it belongs to another user"));
            }
            if found.mode & 0o077 != 0 {
                return Err(untrusted(&self.path, "others have access to it (chmod 700)"));
            }
        }
        // Whom a group or an access control list lets in is up to whoever named the directory.
        if found.mode & 0o002 != 0 && found.mode & libc::S_ISVTX == 0 {
            let reason = "it is writable by everybody and has no sticky bit (chmod +t)";
            return Err(untrusted(&self.path, reason));
        }
        Ok(Some(found))
    }

    /// Checks the directory, creating it where it is missing.
    pub fn trusted_or_new(&self) -> Result<Stat, Error> {
        if let Some(found) = self.trusted()? {
            return Ok(found);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(as_path(&self.path))
            .map_err(|error| self.failed("mkdir", error))?;
        let gone = || self.failed("stat", io::Error::from_raw_os_error(libc::ENOENT));
        self.trusted()?.ok_or_else(gone)
    }
}

impl LockFile {
    /// Like [`path`], but absolute.
    pub fn new(dir: Option<&Path>, session: &OsStr) -> Result<LockFile, Error> {
        let file_name = file_name(session.as_bytes())?;
        let dir = Directory::new(dir)?;
        let name = dir.path.as_bytes();
        // This is done for every lock: so not by `Path::join`, which looks at each component.
        let mut path = Vec::with_capacity(name.len() + 1 + file_name.len() + 1);
        path.extend_from_slice(name);
        if !name.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(&file_name);
        Ok(LockFile { dir, path: to_c_string(path) })
    }

    pub fn path(&self) -> PathBuf {
        to_path(&self.path)
    }

    pub fn dir(&self) -> &Directory {
        &self.dir
    }

    pub fn failed(&self, call: &'static str, source: io::Error) -> Error {
        Error::Os { path: self.path(), call, source }
    }

    /// Whether what is at the path can be a lock file.
    pub fn check_kind(&self, stat: &Stat) -> Result<(), Error> {
        if stat.is_symlink() {
            return Err(Error::Symlink { path: self.path() });
        }
        if !stat.is_file() {
            return Err(self.not_regular());
        }
        if stat.links > 1 {
            let reason = "it has more than one hard link, so it could be the lock of several sessions; while \
                          nobody holds one, give it a file of its own (cp -p FILE COPY; mv COPY FILE)";
            return Err(untrusted(&self.path, reason));
        }
        Ok(())
    }

    fn not_regular(&self) -> Error {
        untrusted(&self.path, "not a regular file")
    }

    /// Opens the lock file, creating it and its directory where they are missing; `None` where
    /// somebody deleted it just then: try again. [`Error::Held`] where another process has a lease on
    /// it, and was asked to give it up just now (`F_SETLEASE` in fcntl(2)).
    pub fn open(&self) -> Result<Option<Opened>, Error> {
        let dir = self.dir.trusted_or_new()?;
        let Some((descriptor, writable)) = self.open_any(&dir)? else { return Ok(None) };
        let stat = sys::fstat(descriptor.fd()).map_err(|error| self.failed("fstat", error))?;
        descriptor.set_file(stat.id);
        self.check_kind(&stat)?;
        Ok((stat.links > 0).then_some(Opened { descriptor, stat, writable }))
    }

    fn open_any(&self, dir: &Stat) -> Result<Option<(Descriptor, bool)>, Error> {
        let open = |flags| open_file(&self.path, flags, 0);
        // An existing file is opened without O_CREAT: in a sticky directory the kernel refuses that
        // for another user's file (fs.protected_regular).
        let mut result = open(libc::O_RDWR).map(|descriptor| (descriptor, true));
        if errno(&result) == Some(libc::ENOENT) {
            result = self.create(dir).map(|descriptor| (descriptor, true));
            match errno(&result) {
                Some(libc::EEXIST) => return Ok(None),
                Some(libc::ENOENT) if sys::stat(&self.dir.path).is_err() => return Ok(None),
                _ => {}
            }
        } else if matches!(errno(&result), Some(libc::EACCES | libc::EPERM | libc::EROFS)) {
            // A lock needs no more than a descriptor; without a label it is as good.
            result = open(libc::O_RDONLY).map(|descriptor| (descriptor, false));
            let mut tries = TRIES_OF_CLOSED;
            while errno(&result) == Some(libc::EACCES) && rights::is_shared(dir) && tries > 0 {
                thread::sleep(Duration::from_millis(1));
                result = open(libc::O_RDWR).map(|descriptor| (descriptor, true));
                tries -= 1;
            }
            if errno(&result) == Some(libc::ENOENT) {
                return Ok(None);
            }
        }
        match errno(&result) {
            Some(libc::ELOOP) => Err(Error::Symlink { path: self.path() }),
            Some(libc::EWOULDBLOCK) => Err(Error::Held { path: self.path() }),
            // What is there instead is a directory, a socket or a device without a driver.
            Some(libc::EISDIR | libc::ENXIO | libc::ENODEV | libc::ESPIPE) => {
                Err(self.not_regular())
            }
            _ => result.map(Some).map_err(|error| self.failed("open", error)),
        }
    }

    /// Creates the file; `EEXIST` if somebody else was first.
    fn create(&self, dir: &Stat) -> io::Result<Descriptor> {
        if rights::is_shared(dir) {
            // The file gets its rights first and its name last, so that nobody finds it closed, and a
            // death in between leaves none. Not every filesystem has files without a name.
            match self.create_unnamed(dir) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {}
                result => return result,
            }
        }
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let file = open_file(&self.path, flags, rights::mode_in(dir))?;
        rights::give(file.fd(), &self.dir.path, dir);
        Ok(file)
    }

    fn create_unnamed(&self, dir: &Stat) -> io::Result<Descriptor> {
        // Also where the directory's name is a link, which `sys::open` does not follow.
        let mut place = self.dir.path.as_bytes().to_vec();
        place.extend_from_slice(b"/.");
        let flags = libc::O_RDWR | libc::O_TMPFILE;
        let file = open_file(&to_c_string(place), flags, rights::mode_in(dir))?;
        rights::give(file.fd(), &self.dir.path, dir);
        sys::linkat(file.fd(), &self.path)?;
        Ok(file)
    }
}

fn open_file(path: &CStr, flags: i32, mode: u32) -> io::Result<Descriptor> {
    Descriptor::open_file(|| sys::open(path, flags, mode))
}

fn errno<T>(result: &io::Result<T>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}
