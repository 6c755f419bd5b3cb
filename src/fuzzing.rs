//! What the targets in `fuzz/` call: there is no other way to it from outside.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::{label, session_name};

/// Reads the bytes of a lock file as a label. One that the checksum keeps out gets the right
/// checksum, too: what is behind it wants to be reached.
pub fn label(text: &[u8]) {
    label::assert_any_bytes_will_do(text);
    label::assert_any_bytes_will_do(&label::with_checksum(text));
}

/// Reads a file's name as that of a lock file, and makes a session of it.
pub fn name(bytes: &[u8]) {
    session_name::assert_one_file_for_one_session(OsStr::from_bytes(bytes));
}
