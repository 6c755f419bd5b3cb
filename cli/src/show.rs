//! What is printed about holders.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use session_lock::{Error, Holder, Session, State};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::{HolderArgs, ListArgs, PathArgs};
use crate::{FAILED, sys};

// ------------------------------------------------------------------------------------- the commands

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
    let (code, mut text) = match holder.state {
        State::Held => (0, format!("{}\n", pid(&holder))),
        State::Free => (1, String::new()),
        State::Unknown => (2, "unknown\n".to_owned()),
    };
    if args.json {
        text = format!("{:#}\n", record(&args.session, &holder));
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
        format!("{:#}\n", sessions.iter().map(record).collect::<Value>())
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
    complain(format_args!("{}", escaped(OsStr::new(&error.to_string()))));
    FAILED
}

// -------------------------------------------------------------------------------------- in sentences

/// Who holds the lock: "held by 4242 (make all)".
pub fn describe(dir: Option<&Path>, session: &OsStr, holder: &Holder) -> String {
    match holder.state {
        State::Free => "held until just now".to_owned(),
        State::Unknown => match (&holder.command, &holder.host) {
            (command, host) if command.is_empty() && host.is_empty() => {
                "held by a process that cannot be seen from here".to_owned()
            }
            (command, host) => format!(
                "held by a process that cannot be seen from here; the last one known is {} on {}",
                quoted(command),
                escaped(host)
            ),
        },
        State::Held if holder.orphaned => {
            format!("held by {}", inherited(dir, session, holder))
        }
        State::Held => match holder.pid {
            Some(pid) => format!("held by {}", process(pid, &holder.command)),
            None => "held by a process that cannot be seen from here".to_owned(),
        },
    }
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

fn process(pid: u32, command: &OsStr) -> String {
    if command.is_empty() { pid.to_string() } else { format!("{pid} ({})", escaped(command)) }
}

fn state(holder: &Holder) -> &'static str {
    match holder.state {
        State::Held => "held",
        State::Free => "free",
        State::Unknown => "unknown",
    }
}

fn pid(holder: &Holder) -> String {
    holder.pid.map_or("unknown".to_owned(), |pid| pid.to_string())
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
                '\u{061C}'
                | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
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

const HEAD: [&str; 5] = ["SESSION", "STATE", "PID", "AGE", "COMMAND"];

fn table(dir: Option<&Path>, sessions: &[Session]) -> String {
    let stdout = io::stdout();
    let width = if stdout.is_terminal() { sys::terminal_width(stdout.as_fd()) } else { None };
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(sessions.iter().map(|session| row(dir, session)));
    if let Some(width) = width {
        // A long name must leave room for the rest.
        for row in &mut rows {
            row[0] = cut(&row[0], (width / 2).max(16)).into_owned();
        }
    }
    let column = |at: usize| rows.iter().map(|row| row[at].width()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(column);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let padding = widths[at] - cell.width();
            // Numbers stand at the right of their column.
            let (before, after) = if at == 2 { (padding, 0) } else { (0, padding) };
            let _ = write!(line, "{:before$}{cell}{:after$}  ", "", "");
        }
        let line = line.trim_end();
        text.push_str(&width.map_or(line.into(), |width| cut(line, width)));
        text.push('\n');
    }
    text
}

fn row(dir: Option<&Path>, Session { name, holder, .. }: &Session) -> [String; 5] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let command =
        if holder.orphaned { inherited(dir, name, holder) } else { escaped(&holder.command) };
    [
        escaped(name),
        state(holder).to_owned(),
        known(holder.pid.map(|pid| pid.to_string())),
        known(age(holder)),
        if command.is_empty() { "-".to_owned() } else { command },
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

/// The fields of the C struct, and the session. What is not known is `null`; what is not UTF-8 is
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
    })
}
