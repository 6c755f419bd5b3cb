//! From a session's name to the name of its lock file, and back.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::Error;
use crate::percent;

const SUFFIX: &[u8] = b".lock";
/// How long a file's name may be, in bytes: `NAME_MAX` of limits.h, on every filesystem of Linux.
const NAME_MAX: usize = 255;

/// The name of a session's lock file.
pub(crate) fn file_name(session: &[u8]) -> Result<Vec<u8>, Error> {
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
            _ => percent::push(&mut name, byte),
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
    let session = percent::decode(encoded)?;
    // Two spellings of one session (`%41` is `A`) would be two files: only one of them is ours.
    let ours = self::file_name(&session).is_ok_and(|name| name == file_name.as_bytes());
    ours.then(|| OsString::from_vec(session))
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
