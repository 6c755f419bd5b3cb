//! What is printed about holders.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;

use session_lock::{Error, Session, State};

use crate::FAILED;
use crate::cli::{HolderArgs, ListArgs, PathArgs};

/// Writes a message to standard error, where it can be written.
pub fn complain(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "session-lock: {message}");
}

/// As text that cannot do anything to a terminal: control characters, bytes that are not UTF-8, and
/// characters that reorder or hide others are written as escapes.
pub fn escaped(text: &OsStr) -> String {
    let mut escaped = String::new();
    for chunk in text.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
                | '\u{FEFF}' => escaped.extend(character.escape_unicode()),
                _ if character.is_control() => escaped.extend(character.escape_default()),
                _ => escaped.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

/// Writes to standard output. A reader that has gone away is no failure of ours.
fn print(text: &[u8], code: u8) -> u8 {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output: {error}"));
            FAILED
        }
        _ => code,
    }
}

fn failed(error: &Error) -> u8 {
    complain(format_args!("{error}"));
    FAILED
}

pub fn path(args: &PathArgs) -> u8 {
    match session_lock::path(args.dir.dir.as_deref(), &args.session) {
        Ok(path) => print(&[path.as_os_str().as_bytes(), b"\n"].concat(), 0),
        Err(error) => failed(&error),
    }
}

pub fn holder(args: &HolderArgs) -> u8 {
    let holder = match session_lock::holder(args.dir.dir.as_deref(), &args.session) {
        Ok(holder) => holder,
        Err(error) => return failed(&error),
    };
    let code = match holder.state {
        State::Held => 0,
        State::Free => 1,
        State::Unknown => 2,
    };
    let pid = holder.pid.filter(|_| holder.state == State::Held);
    let text = match (holder.state, pid) {
        (State::Free, _) => String::new(),
        (_, Some(pid)) => format!("{pid}\n"),
        _ => "unknown\n".to_owned(),
    };
    print(text.as_bytes(), code)
}

pub fn list(args: &ListArgs) -> u8 {
    let sessions = match session_lock::list(args.dir.dir.as_deref()) {
        Ok(sessions) => sessions,
        Err(error) => return failed(&error),
    };
    let mut text = String::new();
    for Session { name, holder, .. } in sessions {
        let _ = writeln!(text, "{} {:?} {:?}", escaped(&name), holder.state, holder.pid);
    }
    print(text.as_bytes(), 0)
}
