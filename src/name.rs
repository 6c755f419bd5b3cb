//! From a session's name to its lock file and back; the directory, and whether to trust it.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::sys::{self, Stat};
use crate::table::Descriptor;

const SUFFIX: &[u8] = b".lock";
const NAME_MAX: usize = 255;

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
        None => Ok(sys::secure_variable(c"SESSION_LOCK_DIR")
            .filter(|dir| !dir.is_empty())
            .map(|dir| Cow::Owned(PathBuf::from(dir)))),
    }
}

fn default_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/session-lock-{}", sys::effective_uid()))
}

fn file_name(session: &[u8]) -> Result<Vec<u8>, Error> {
    if session.is_empty() {
        return Err(Error::InvalidArgument("the session's name is empty"));
    }
    if session.contains(&0) {
        return Err(Error::InvalidArgument("the session's name contains a NUL byte"));
    }
    let mut name = Vec::with_capacity(session.len() + SUFFIX.len());
    for (position, &byte) in session.iter().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte),
            b'.' if position > 0 => name.push(byte),
            _ => push_percent(&mut name, byte),
        }
    }
    name.extend_from_slice(SUFFIX);
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong { length: name.len() });
    }
    Ok(name)
}

/// The session that a file in the directory belongs to; `None` for a name that none would have.
pub(crate) fn session(file_name: &OsStr) -> Option<OsString> {
    let encoded = file_name.as_bytes().strip_suffix(SUFFIX)?;
    let session = percent_decode(encoded)?;
    // Two spellings of one session (`%41` is `A`) would be two files: only one of them is ours.
    let ours = self::file_name(&session).is_ok_and(|name| name == file_name.as_bytes());
    ours.then(|| OsString::from_vec(session))
}

pub(crate) fn push_percent(to: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    to.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

pub(crate) fn percent_decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(*rest.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

pub(crate) fn to_path(path: &CStr) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}

fn c_string(path: impl Into<Vec<u8>>) -> CString {
    // The names that came from outside were searched for NUL bytes, and no other source has any.
    CString::new(path).unwrap_or_default()
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
        Ok(LockFile { dir: c_string(dir), default, path: c_string(path) })
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
    /// somebody deleted it just then: try again.
    pub fn open(&self) -> Result<Option<Opened>, Error> {
        let dir = self.trusted_directory()?;
        let Some((descriptor, writable)) = self.open_any(&dir)? else { return Ok(None) };
        let stat = sys::fstat(descriptor.fd()).map_err(|error| self.failed("fstat", error))?;
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
            let ours_alone = dir.uid == sys::effective_uid() && dir.mode & 0o022 == 0;
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
            if found.uid != sys::effective_uid() {
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

/// What must hold of any bytes, as a file's name and as a session.
#[cfg(any(test, fuzzing))]
pub(crate) fn assert_one_file_for_one_session(name: &OsStr) {
    // No file belongs to two sessions.
    if let Some(session) = session(name) {
        assert_eq!(file_name(session.as_bytes()).ok().as_deref(), Some(name.as_bytes()));
    }
    // No session has two files, and each can be told from its file.
    if let Ok(file) = file_name(name.as_bytes()) {
        let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.%".contains(byte);
        assert!(file.iter().all(fit) && file[0] != b'.' && file.len() <= NAME_MAX);
        assert_eq!(session(OsStr::from_bytes(&file)).as_deref(), Some(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn names_are_encoded_as_documented() {
        let encoded = |session: &[u8]| String::from_utf8(file_name(session).unwrap()).unwrap();
        assert_eq!(encoded(b"nightly-build_2.0"), "nightly-build_2.0.lock");
        assert_eq!(encoded(b"a/b"), "a%2Fb.lock");
        assert_eq!(encoded(b".."), "%2E..lock");
        assert_eq!(encoded("\u{e9}\n%".as_bytes()), "%C3%A9%0A%25.lock");
        assert_eq!(encoded(&[b'a'; 250]).len(), NAME_MAX);
        assert!(matches!(file_name(&[b'a'; 251]), Err(Error::NameTooLong { length: 256 })));
        assert!(matches!(file_name(b""), Err(Error::InvalidArgument(_))));
        assert!(matches!(file_name(b"a\0"), Err(Error::InvalidArgument(_))));
    }

    #[test]
    fn files_of_no_session_are_left_out() {
        for name in
            ["a", ".lock", "%41.lock", "a%2f.lock", "a%2.lock", "a%.lock", ".a.lock", "%00.lock"]
        {
            assert_eq!(session(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn one_file_for_one_session() {
        let mut random = Random::new(3);
        for byte in 1..=u8::MAX {
            assert_one_file_for_one_session(OsStr::from_bytes(&[byte]));
            assert_one_file_for_one_session(OsStr::from_bytes(&[b'a', byte]));
        }
        for _ in 0..20_000 {
            assert_one_file_for_one_session(OsStr::from_bytes(&random.bytes(100)));
            let name = random.changed(b"nightly%2Fbuild.1%41.lock");
            assert_one_file_for_one_session(OsStr::from_bytes(&name));
        }
    }
}
