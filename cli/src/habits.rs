//! What users of flock(1) type out of habit, and the line that does it here.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use clap::error::ErrorKind;

use crate::cli;

/// Options of flock(1) that are not ours, and what there is instead.
const HABITS: [(&str, &str, &str); 9] = [
    ("-n", "--nonblock", "session-lock does not wait without -w or -t"),
    ("--nb", "--nonblocking", "session-lock does not wait without -w or -t"),
    ("-x", "--exclusive", "every session lock is exclusive"),
    ("-e", "--exclusive", "every session lock is exclusive"),
    ("-s", "--shared", "every session lock is exclusive"),
    ("-o", "--close", "COMMAND does not get the lock's descriptor, except with -i"),
    ("-c", "--command", "to run a shell command line: session-lock run SESSION -- sh -c '...'"),
    ("-u", "--unlock", "session-lock release SESSION releases what acquire has taken"),
    ("-F", "--no-fork", "COMMAND is always executed in place"),
];

/// The options that take a value in the next word.
const WITH_VALUE: [&str; 6] = ["-t", "--timeout", "-E", "--conflict-exit-code", "--dir", "--for"];

/// The error for a command line that means something else in flock(1); `words` without the program's name.
pub fn check(words: &[OsString]) -> Result<(), clap::Error> {
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let (subcommand, words) = match words.split_first() {
        Some((&"run", rest)) => ("run", rest),
        Some((&"acquire", rest)) => ("acquire", rest),
        // `session-lock -n FILE COMMAND`
        Some((word, _)) if word.starts_with('-') => ("", &words[..]),
        _ => return Ok(()),
    };
    match find(words, subcommand == "run") {
        Some(message) => Err(cli::error(subcommand, ErrorKind::UnknownArgument, message)),
        None => Ok(()),
    }
}

fn find(words: &[&str], is_run: bool) -> Option<String> {
    let mut words = words.iter().copied().peekable();
    // SESSION; and in the place of COMMAND, too, an option can only be a habit: `run s -c 'make'`.
    let mut names = if is_run { 2 } else { 1 };
    while let Some(word) = words.next() {
        if word == "--" || names == 0 {
            return None;
        }
        if !word.starts_with('-') || word == "-" {
            names -= 1;
        } else if WITH_VALUE.contains(&word) {
            words.next();
        } else if let Some(seconds) = seconds_after_wait(word, words.peek().copied()) {
            return Some(format!(
                "-w takes no number: it waits as long as it takes; -t {seconds} waits {seconds} seconds"
            ));
        } else if let Some(help) = help(word) {
            return Some(format!("'{word}' is an option of flock(1), not of session-lock: {help}"));
        }
    }
    None
}

/// `-w 10`, `-w10`, `--wait=10`: a session of that name is `-w -- 10`.
fn seconds_after_wait<'a>(word: &'a str, next: Option<&'a str>) -> Option<&'a str> {
    let seconds = match word {
        "-w" | "--wait" | "-qw" | "-iw" => next?,
        _ => word.strip_prefix("-w").or_else(|| word.strip_prefix("--wait="))?,
    };
    seconds.parse::<f64>().is_ok().then_some(seconds)
}

fn help(word: &str) -> Option<&'static str> {
    let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
    HABITS.iter().find_map(|(short, long, help)| {
        // In a cluster, too: `-xn`. Behind `-t` and `-E` there is a value.
        let clustered = letters.is_some_and(|letters| {
            let flags = letters.split(['t', 'E']).next().unwrap_or_default();
            short.len() == 2 && flags.contains(&short[1..])
        });
        (word == *short || word == *long || clustered).then_some(*help)
    })
}
