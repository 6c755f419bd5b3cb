//! `session-lock`: the lock for shell users.
//!
//! * `cli`: the command line
//! * `habits`: what users of flock(1) type
//! * `run`: acquire or wait, then become COMMAND
//! * `acquire`: `acquire`, `release` and `check`, for a process that is running already
//! * `attempt`: what `run` and `acquire` have in common
//! * `progress`: what the wait says and watches for meanwhile
//! * `circle`: circles of waits
//! * `mount`: filesystems that keep locks to themselves
//! * `blocked`: what a process is blocked in
//! * `guardian`: the small process that holds the lock
//! * `show`: what is printed about holders
//! * `completions`, `docs`: completions and the man page, made from the command line's definition
//! * `sys`: what is not safe in itself, and `main`

#![no_main]
#![deny(unsafe_code)]

mod acquire;
mod attempt;
mod blocked;
mod circle;
mod cli;
mod completions;
mod docs;
mod guardian;
mod habits;
mod mount;
mod progress;
mod run;
mod show;
mod sys;

use std::ffi::OsString;

use clap::Parser;
use cli::{Cli, Command};

/// The helper's own failure.
const FAILED: u8 = 125;
/// Wrong usage.
const USAGE: u8 = 2;

/// The whole program, with its name and arguments; what it returns is the exit code. (`sys` has the C `main`.)
fn session_lock(words: Vec<OsString>) -> u8 {
    let checked = habits::check(words.get(1..).unwrap_or_default());
    match checked.and_then(|()| Cli::try_parse_from(words)) {
        Ok(Cli { command: Command::Run(args) }) => run::run(&args),
        Ok(Cli { command: Command::Acquire(args) }) => acquire::acquire(&args),
        Ok(Cli { command: Command::Release(args) }) => acquire::release(&args),
        Ok(Cli { command: Command::Check(args) }) => acquire::check(&args),
        Ok(Cli { command: Command::Holder(args) }) => show::holder(&args),
        Ok(Cli { command: Command::List(args) }) => show::list(&args),
        Ok(Cli { command: Command::Path(args) }) => show::path(&args),
        Ok(Cli { command: Command::Completions(args) }) => completions::script(&args),
        Ok(Cli { command: Command::Complete(args) }) => completions::complete(&args),
        Ok(Cli { command: Command::Man }) => docs::man(),
        Err(error) => {
            // Help and version go to standard output, and are no errors. A reader that has gone away
            // needs no message.
            let _ = error.print();
            error.exit_code().try_into().unwrap_or(FAILED)
        }
    }
}
