//! What is printed about holders.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use session_lock::{Error, Holder, Session, State};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::circle::Waits;
use crate::cli::{HolderArgs, ListArgs, PathArgs};
use crate::{FAILED, guardian, sys};

/// `holder`: it cannot be known.
const UNKNOWN: u8 = 3;

// ------------------------------------------------------------------------------------- the commands

pub fn path(args: &PathArgs) -> u8 {
    match session_lock::path(args.dir.dir.as_deref(), &args.session).and_then(make_directory) {
        Ok(path) => print(&[path.as_os_str().as_bytes(), b"\n"].concat(), 0),
        Err(error) => failed(&error),
    }
}

/// For the tool that will make the file: the directory, as acquiring would make it.
fn make_directory(path: PathBuf) -> Result<PathBuf, Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::Os { path: directory.to_owned(), call: "mkdir", source })?;
    Ok(path)
}

pub fn holder(args: &HolderArgs) -> u8 {
    let holder = match session_lock::holder(args.dir.dir.as_deref(), &args.session) {
        Ok(holder) => holder,
        Err(error) => return failed(&error),
    };
    let (code, mut text) = match holder.state {
        State::Held => (0, format!("{}\n", pid(&holder))),
        State::Free => (1, String::new()),
        State::Unknown => (UNKNOWN, "unknown\n".to_owned()),
    };
    if args.json {
        text = json_text(&record(&args.session, &holder));
    }
    print(text.as_bytes(), code)
}

pub fn list(args: &ListArgs) -> u8 {
    let dir = args.dir.dir.as_deref();
    let sessions = match session_lock::list(dir) {
        Ok(sessions) => sessions,
        Err(error) => return failed(&error),
    };
    let text = if args.json {
        let record = |session: &Session| record(&session.name, &session.holder);
        json_text(&sessions.iter().map(record).collect())
    } else {
        table(dir, &sessions)
    };
    print(text.as_bytes(), 0)
}

/// Writes to standard output. A reader that has gone away is no failure of ours.
pub fn print(text: &[u8], code: u8) -> u8 {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output: {error}"));
            FAILED
        }
        _ => code,
    }
}

/// Writes a message to standard error, where that is possible.
pub fn complain(message: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("session-lock: {message}\n").as_bytes());
}

/// For an error of the library: the exit code.
pub fn failed(error: &Error) -> u8 {
    complain(format_args!("{}", message(error)));
    FAILED
}

pub fn message(error: &Error) -> String {
    escaped(OsStr::new(&error.to_string()))
}

/// Standard error for what COMMAND must not wait for: what there is no room for (a full pipe, Ctrl-S) is
/// not written.
pub enum Notices {
    Socket,
    /// Opened once more: without waiting is a property of the open file, which others share.
    Reopened(File),
    /// Where that is denied, and for files.
    Shared,
}

impl Notices {
    pub fn open() -> Notices {
        let kind = fs::metadata("/proc/self/fd/2").map(|metadata| metadata.file_type());
        let reopen = || {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            let path = "/proc/self/fd/2";
            File::options().append(true).custom_flags(flags).open(path).map(Notices::Reopened)
        };
        match kind {
            Ok(kind) if kind.is_socket() => Notices::Socket,
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                reopen().unwrap_or(Notices::Shared)
            }
            _ => Notices::Shared,
        }
    }

    pub fn write(&self, text: &str) {
        let stderr = io::stderr();
        let _ = match self {
            Notices::Socket => sys::send_nonblocking(stderr.as_fd(), text.as_bytes()),
            Notices::Reopened(file) => (&*file).write_all(text.as_bytes()),
            Notices::Shared if sys::is_writable(stderr.as_fd()) => {
                stderr.lock().write_all(text.as_bytes())
            }
            Notices::Shared => Ok(()),
        };
    }
}

// -------------------------------------------------------------------------------------- in sentences

/// Who holds a lock that was not to be had: "held by 4242 (make all)".
pub fn describe(dir: Option<&Path>, session: &OsStr, holder: &Holder) -> String {
    const UNSEEN: &str = "held by a process that cannot be seen from here";
    match holder.state {
        State::Free if holder.confirmed => "held until just now".to_owned(),
        State::Free => UNSEEN.to_owned(),
        State::Unknown => match labelled(dir, session, holder) {
            Some(who) => format!("{UNSEEN}; the last one known is {who}"),
            None => UNSEEN.to_owned(),
        },
        State::Held if holder.orphaned => {
            format!("held by {}", inherited(dir, session, holder))
        }
        State::Held => match holder.pid {
            Some(pid) if holder.suspended => {
                format!("held by {}, suspended", process(pid, &holder.command))
            }
            Some(pid) => format!("held by {}", process(pid, &holder.command)),
            None => UNSEEN.to_owned(),
        },
    }
}

/// Whom a label names that proves nothing, by its number there: "4242 (make all) on hosta".
fn labelled(dir: Option<&Path>, session: &OsStr, holder: &Holder) -> Option<String> {
    if holder.host.is_empty() && holder.command.is_empty() {
        return None;
    }
    let label = session_lock::path(dir, session).ok().and_then(|path| guardian::label(&path));
    let pid = label.and_then(|label| String::from_utf8(label).ok()?.lines().next()?.parse().ok());
    let who = pid.map_or_else(|| quoted(&holder.command), |pid| process(pid, &holder.command));
    Some(format!("{who} on {}", escaped(&holder.host)))
}

/// "4242 (tmux: server), which inherited it from 4100 (gone)"
fn inherited(dir: Option<&Path>, session: &OsStr, holder: &Holder) -> String {
    let processes = session_lock::processes(dir, session).unwrap_or_default();
    let who = match processes.as_slice() {
        [] => "a process that cannot be seen from here".to_owned(),
        [one] => process(one.pid, &one.command),
        [first, others @ ..] => {
            format!("{} and {} more", process(first.pid, &first.command), others.len())
        }
    };
    format!("{who}, which inherited it from {} (gone)", pid(holder))
}

/// "4242 (make all)"
pub fn process(pid: u32, command: &OsStr) -> String {
    if command.is_empty() { pid.to_string() } else { format!("{pid} ({})", escaped(command)) }
}

pub fn state(holder: &Holder) -> &'static str {
    match holder.state {
        State::Held => "held",
        State::Free => "free",
        State::Unknown => "unknown",
    }
}

fn pid(holder: &Holder) -> String {
    holder.pid.map_or("unknown".to_owned(), |pid| pid.to_string())
}

pub fn os_string(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}

pub fn quoted(name: &OsStr) -> String {
    format!("'{}'", escaped(name))
}

/// As text that cannot do anything to a terminal: control characters, bytes that are not UTF-8, and
/// characters that hide or reorder others are written as escapes.
pub fn escaped(text: &OsStr) -> String {
    let mut escaped = String::new();
    for chunk in text.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                _ if character.is_control() => escaped.extend(character.escape_default()),
                _ if is_unsafe(character) => escaped.extend(character.escape_unicode()),
                _ => escaped.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

/// Control characters, and what hides or reorders other characters.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{00AD}'
                | '\u{034F}'
                | '\u{061C}'
                | '\u{180E}'
                | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}'
                | '\u{FFF9}'..='\u{FFFB}'
                | '\u{E0000}'..='\u{E007F}'
        )
}

/// The largest unit that fits, and the next one: "12s", "3m05s", "2h10m", "4d03h".
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// How long ago the lock was taken, if that is known.
fn age(holder: &Holder) -> Option<String> {
    let acquired = Duration::from_millis(holder.acquired_at_ms?.try_into().ok()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(duration(now.saturating_sub(acquired)))
}

// --------------------------------------------------------------------------------------- in a table

const HEAD: [&str; 6] = ["SESSION", "STATE", "PID", "AGE", "WAITERS", "COMMAND"];

fn table(dir: Option<&Path>, sessions: &[Session]) -> String {
    let stdout = io::stdout();
    let width = if stdout.is_terminal() { sys::terminal_width(stdout.as_fd()) } else { None };
    let mut rows = vec![HEAD.map(str::to_owned)];
    let waits = Waits::look();
    rows.extend(sessions.iter().map(|session| row(dir, session, &waits)));
    if let Some(width) = width {
        // A long name must leave room for the rest.
        for row in &mut rows {
            row[0] = cut(&row[0], (width / 2).max(16)).into_owned();
        }
    }
    let column = |at: usize| rows.iter().map(|row| row[at].width()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(column);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let padding = widths[at] - cell.width();
            // Numbers stand at the right of their column.
            let (before, after) = if matches!(at, 2 | 4) { (padding, 0) } else { (0, padding) };
            let _ = write!(line, "{:before$}{cell}{:after$}  ", "", "");
        }
        let line = line.trim_end();
        text.push_str(&width.map_or(line.into(), |width| cut(line, width)));
        text.push('\n');
    }
    text
}

fn row(dir: Option<&Path>, Session { name, holder, .. }: &Session, waits: &Waits) -> [String; 6] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut command = match holder.state {
        State::Unknown => labelled(dir, name, holder).unwrap_or_default(),
        _ if holder.orphaned => inherited(dir, name, holder),
        _ => escaped(&holder.command),
    };
    if command.is_empty() {
        command.push('-');
    }
    if holder.suspended {
        command.push_str(" (suspended)");
    }
    let living = holder.pid.filter(|_| holder.state == State::Held && !holder.orphaned);
    if let Some(deadlock) = living.and_then(|pid| waits.deadlock(pid)) {
        let _ = write!(command, " (deadlock: waits for {})", quoted(&deadlock.first_session(dir)));
    }
    [
        escaped(name),
        state(holder).to_owned(),
        known(holder.pid.map(|pid| pid.to_string())),
        known(age(holder)),
        known((holder.waiters > 0).then(|| holder.waiters.to_string())),
        command,
    ]
}

/// At most `width` columns of a terminal, the last one of a text that is cut a "…".
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut room = width.saturating_sub(1);
    let mut short = String::new();
    for character in text.chars() {
        let Some(left) = room.checked_sub(character.width().unwrap_or(0)) else { break };
        room = left;
        short.push(character);
    }
    short.push('…');
    short.into()
}

// ------------------------------------------------------------------------------------------ in JSON

/// The fields of the C struct, the session, and the token. What is not known is `null`; what is not UTF-8 is
/// replaced.
fn record(session: &OsStr, holder: &Holder) -> Value {
    let text = |text: &OsStr| (!text.is_empty()).then(|| text.to_string_lossy().into_owned());
    json!({
        "session": session.to_string_lossy(),
        "state": state(holder),
        "pid": holder.pid,
        "orphaned": holder.orphaned,
        "confirmed": holder.confirmed,
        "acquired_at_ms": holder.acquired_at_ms,
        "command": text(&holder.command),
        "host": text(&holder.host),
        "waiters": holder.waiters,
        "suspended": holder.suspended,
        // As text: it has more digits than a number can have in JavaScript and in jq.
        "token": holder.token.map(|token| token.to_string()),
    })
}

/// As text in which every character that `escaped` would escape is a `\uXXXX`, and so nothing but its line
/// feeds moves a terminal's cursor: of the control characters, JSON itself escapes only those below 0x20.
fn json_text(value: &Value) -> String {
    let mut text = String::new();
    for character in format!("{value:#}\n").chars() {
        if character != '\n' && is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    text
}
