//! The lock file: where it is, whether to trust its directory, how it is opened, whether it is still at
//! its path.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::env;
use std::ffi::{CStr, CString, OsStr};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::registry::Descriptor;
use crate::session_name::file_name;
use crate::sys::{self, FileId, Stat};

/// Where a session's lock is.
pub(crate) struct LockFile {
    dir: CString,
    /// The directory that nobody named: it must be the caller's own.
    default: bool,
    pub path: CString,
}

/// A lock file that was opened and found to be fit to be one; not locked yet.
pub(crate) struct Opened {
    pub descriptor: Descriptor,
    pub stat: Stat,
    pub writable: bool,
}

/// The lock file of `session`: `<dir>/<name>.lock`. Makes no system call and creates nothing.
///
/// `dir` `None` means `$SESSION_LOCK_DIR` (ignored in a set-user-ID program), or else
/// `/tmp/session-lock-<effective uid>`. In the file's name every byte of the session outside
/// `A-Z a-z 0-9 _ - .` stands as `%XX`, and so does a leading `.`.
///
/// # Errors
///
/// [`Error::InvalidArgument`] for an empty session or directory, or one with a NUL byte;
/// [`Error::NameTooLong`] if the file's name would pass 255 bytes.
pub fn path(dir: Option<&Path>, session: impl AsRef<OsStr>) -> Result<PathBuf, Error> {
    let file_name = file_name(session.as_ref().as_bytes())?;
    Ok(directory(dir)?.join(OsStr::from_bytes(&file_name)))
}

/// The directory in which locks are looked for, and whether nobody named it.
pub(crate) fn directory(dir: Option<&Path>) -> Result<PathBuf, Error> {
    Ok(named_directory(dir)?.map_or_else(default_directory, Cow::into_owned))
}

fn named_directory(dir: Option<&Path>) -> Result<Option<Cow<'_, Path>>, Error> {
    match dir {
        Some(dir) if dir.as_os_str().is_empty() => {
            Err(Error::InvalidArgument("the directory's name is empty"))
        }
        Some(dir) if dir.as_os_str().as_bytes().contains(&0) => {
            Err(Error::InvalidArgument("the directory's name contains a NUL byte"))
        }
        Some(dir) => Ok(Some(Cow::Borrowed(dir))),
        None if sys::is_secure() => Ok(None),
        None => Ok(env::var_os("SESSION_LOCK_DIR")
            .filter(|dir| !dir.is_empty())
            .map(|dir| Cow::Owned(PathBuf::from(dir)))),
    }
}

fn default_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/session-lock-{}", sys::geteuid()))
}

pub(crate) fn to_path(path: &CStr) -> PathBuf {
    as_path(path).to_path_buf()
}

pub(crate) fn as_path(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

/// A path that has been searched for NUL bytes, or came from the kernel.
pub(crate) fn to_c_string(path: impl Into<Vec<u8>>) -> CString {
    CString::new(path).expect("a path has no NUL byte")
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

impl LockFile {
    /// Like [`path`], but absolute: it must go on naming the file after a `chdir`.
    pub fn new(dir: Option<&Path>, session: &OsStr) -> Result<LockFile, Error> {
        let file_name = file_name(session.as_bytes())?;
        let named = named_directory(dir)?;
        let default = named.is_none();
        let mut dir = named.unwrap_or_else(|| Cow::Owned(default_directory()));
        if dir.is_relative() {
            let failed = |source| Error::Os { path: dir.to_path_buf(), call: "getcwd", source };
            dir = Cow::Owned(std::path::absolute(&dir).map_err(failed)?);
        }
        let dir = dir.as_os_str().as_bytes();
        // This is done for every lock: so not by `Path::join`, which looks at each component.
        let mut path = Vec::with_capacity(dir.len() + 1 + file_name.len() + 1);
        path.extend_from_slice(dir);
        if !dir.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(&file_name);
        Ok(LockFile { dir: to_c_string(dir), default, path: to_c_string(path) })
    }

    pub fn path(&self) -> PathBuf {
        to_path(&self.path)
    }

    pub fn dir(&self) -> &CStr {
        &self.dir
    }

    pub fn failed(&self, call: &'static str, source: io::Error) -> Error {
        Error::Os { path: self.path(), call, source }
    }

    fn untrusted(&self, path: &CStr, reason: &'static str) -> Error {
        Error::Untrusted { path: to_path(path), reason }
    }

    /// Opens the lock file, creating it and its directory where they are missing; `None` where
    /// somebody deleted it just then: try again. [`Error::Held`] where another process has a lease on
    /// it, and was asked to give it up just now (`F_SETLEASE` in fcntl(2)).
    pub fn open(&self) -> Result<Option<Opened>, Error> {
        let dir = self.trusted_directory()?;
        let Some((descriptor, writable)) = self.open_any(&dir)? else { return Ok(None) };
        let stat = sys::fstat(descriptor.fd()).map_err(|error| self.failed("fstat", error))?;
        descriptor.set_file(stat.id);
        if !stat.is_file() {
            return Err(self.untrusted(&self.path, "not a regular file"));
        }
        match stat.links {
            0 => Ok(None),
            1 => Ok(Some(Opened { descriptor, stat, writable })),
            _ => Err(self.untrusted(&self.path, "it has more than one hard link")),
        }
    }

    fn open_any(&self, dir: &Stat) -> Result<Option<(Descriptor, bool)>, Error> {
        let open = |flags, mode| Descriptor::open_file(|| sys::open(&self.path, flags, mode));
        // An existing file is opened without O_CREAT: in a sticky directory the kernel refuses that
        // for another user's file (fs.protected_regular).
        let mut result = open(libc::O_RDWR, 0).map(|descriptor| (descriptor, true));
        if errno(&result) == Some(libc::ENOENT) {
            let create = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            let ours_alone = dir.uid == sys::geteuid() && dir.mode & 0o022 == 0;
            let mode = if ours_alone { 0o600 } else { 0o666 };
            result = open(create, mode).map(|descriptor| (descriptor, true));
            match errno(&result) {
                Some(libc::EEXIST) => return Ok(None),
                Some(libc::ENOENT) if sys::stat(&self.dir).is_err() => return Ok(None),
                _ => {}
            }
        } else if matches!(errno(&result), Some(libc::EACCES | libc::EPERM | libc::EROFS)) {
            // A lock needs no more than a descriptor; without a label it is as good.
            result = open(libc::O_RDONLY, 0).map(|descriptor| (descriptor, false));
            if errno(&result) == Some(libc::ENOENT) {
                return Ok(None);
            }
        }
        match errno(&result) {
            Some(libc::ELOOP) => Err(Error::Symlink { path: self.path() }),
            Some(libc::EWOULDBLOCK) => Err(Error::Held { path: self.path() }),
            // What is there instead is a directory, a socket or a device without a driver.
            Some(libc::EISDIR | libc::ENXIO | libc::ENODEV | libc::ESPIPE) => {
                Err(self.untrusted(&self.path, "not a regular file"))
            }
            _ => result.map(Some).map_err(|error| self.failed("open", error)),
        }
    }

    /// Checks the directory, creating it where it is missing.
    fn trusted_directory(&self) -> Result<Stat, Error> {
        // A link in place of the default directory would be somebody else's doing: anybody may
        // create names in /tmp. A directory that the caller named may be reached over links.
        let stat = if self.default { sys::lstat } else { sys::stat };
        let failed = |call, source| Error::Os { path: to_path(&self.dir), call, source };
        let mut found = stat(&self.dir);
        if errno(&found) == Some(libc::ENOENT) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(to_path(&self.dir))
                .map_err(|error| failed("mkdir", error))?;
            found = stat(&self.dir);
        }
        let found = found.map_err(|error| failed("stat", error))?;
        if self.default && found.is_symlink() {
            return Err(self.untrusted(&self.dir, "it is a symbolic link"));
        }
        if !found.is_dir() {
            return Err(failed("stat", io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        if self.default {
            if found.uid != sys::geteuid() {
                return Err(self.untrusted(&self.dir, "it belongs to another user"));
            }
            if found.mode & 0o077 != 0 {
                return Err(self.untrusted(&self.dir, "it is not closed to others (chmod 700)"));
            }
        }
        if found.mode & libc::S_ISVTX == 0 {
            if found.mode & 0o002 != 0 {
                let reason = "everybody can write it and it has no sticky bit (chmod +t)";
                return Err(self.untrusted(&self.dir, reason));
            }
            if found.mode & 0o020 != 0 && !sys::in_group(found.gid) {
                let reason = "a group that the caller is not in can write it";
                return Err(self.untrusted(&self.dir, reason));
            }
        }
        Ok(found)
    }
}

fn errno<T>(result: &io::Result<T>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}
