//! `session-lock`: the lock for shell users.
//!
//! * `cli`: the command line
//! * `run`: acquire or wait, then become COMMAND
//! * `guardian`: the small process that holds the lock while COMMAND runs
//! * `status`: what the wait says meanwhile
//! * `show`: what is printed about holders
//! * `docs`: completions and the man page, made from the command line's definition
//! * `sys`: the only calls into libc, and `main`

#![no_main]
#![deny(unsafe_code)]

mod cli;
mod docs;
mod guardian;
mod run;
mod show;
mod status;
mod sys;

use clap::Parser;
use cli::{Cli, Command};

/// The helper's own failure.
const FAILED: u8 = 125;

/// The whole program; what it returns is the exit code. (`sys` has the C `main`.)
fn session_lock() -> u8 {
    match Cli::try_parse() {
        Ok(Cli { command: Command::Run(args) }) => run::run(&args),
        Ok(Cli { command: Command::Holder(args) }) => show::holder(&args),
        Ok(Cli { command: Command::List(args) }) => show::list(&args),
        Ok(Cli { command: Command::Path(args) }) => show::path(&args),
        Ok(Cli { command: Command::Completions(args) }) => docs::completions(&args),
        Ok(Cli { command: Command::Man }) => docs::man(),
        Err(error) => {
            // Help and version go to standard output, and are no errors. A reader that has gone away
            // needs no message.
            let _ = error.print();
            error.exit_code().try_into().unwrap_or(FAILED)
        }
    }
}
