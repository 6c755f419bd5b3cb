//! The command line.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Named, crash-safe locks between processes
#[derive(Parser)]
#[command(name = "session-lock", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
A session is any name that processes agree on. At most one process at a time holds its lock. When
that process ends, however it ends, the lock is free: there are never stale locks to clean up.

Examples:
  session-lock run nightly -- ./nightly.sh       run it, unless it is running already
  session-lock run -w deploy -- make deploy      wait until it is free
  session-lock run -t 30 -E 0 sync -- ./sync.sh  wait at most 30 seconds; a timeout is not an error
  session-lock acquire nightly || exit           hold it until this script ends
  session-lock holder nightly                    the PID of the holder
  session-lock list                              all sessions, held ones first
  flock \"$(session-lock path build)\" make        the same lock, with another tool";

#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Hold a session's lock while a command runs
    Run(RunArgs),
    /// Take a session's lock for the script that runs this
    Acquire(AcquireArgs),
    /// Release a lock that `acquire` has taken
    Release(HeldArgs),
    /// Check whether the script that runs this holds a session's lock
    Check(HeldArgs),
    /// Print who holds a session's lock, without touching it
    Holder(HolderArgs),
    /// List the sessions and who holds them
    List(ListArgs),
    /// Print the path of a session's lock file
    Path(PathArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the man page session-lock(1)
    Man,
    #[command(hide = true)]
    Complete(CompleteArgs),
}

#[derive(Args)]
pub struct Dir {
    /// The directory of the lock files [default: $SESSION_LOCK_DIR, or else
    /// `/tmp/session-lock-UID`]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

// Here and below no documentation: it would replace that of the subcommands.
// How long to wait, and what if that is not enough.
#[derive(Args)]
pub struct WaitArgs {
    /// Wait for the lock as long as it takes
    #[arg(short, long, conflicts_with = "timeout")]
    pub wait: bool,

    /// Wait at most SECONDS, such as 30 or 0.5
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub timeout: Option<Duration>,

    /// Exit with CODE instead of 75 if the lock is held
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 75, hide_default_value = true)]
    pub conflict_exit_code: u8,

    /// Do not say who holds the lock, or that session-lock is waiting
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten)]
    pub dir: Dir,
}

#[derive(Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    pub wait: WaitArgs,

    /// Share the lock between COMMAND and everything it starts, until the last of them ends
    #[arg(short, long)]
    pub inherit: bool,

    /// The session's name
    pub session: OsString,

    /// The command to run, and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

#[derive(Args)]
#[command(after_help = ACQUIRE_HELP)]
pub struct AcquireArgs {
    #[command(flatten)]
    pub wait: WaitArgs,

    /// The process that is to hold the lock, instead of the one that runs session-lock
    #[arg(long = "for", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub process: Option<u32>,

    /// The session's name
    pub session: OsString,
}

const ACQUIRE_HELP: &str = "\
The process that runs session-lock, usually the shell that executes a script, holds the lock
until `session-lock release`, or until it ends, however it ends. It keeps the lock if it executes
another program. A small background process, the guardian, keeps the lock for it.

In a subshell, a pipeline or a command substitution, the process that counts is the one that the
shell started for it. To lock for the whole script there, or through a wrapper such as timeout
or sudo, use --for $$.

Exit codes:
    0  the lock is held
    2  wrong usage
   75  another process holds the lock, or still held it when the time ran out, or this process
       already holds it (-E sets another code)
  125  session-lock itself failed

Examples:
  session-lock acquire -w deploy || exit
  make && make install
  session-lock release deploy";

// For a lock that a process holds.
#[derive(Args)]
#[command(after_help = "\
Exit codes:
    0  that process holds the lock (check), or has released it (release)
    1  it does not hold the lock, or the lock file is no longer at its path
    2  wrong usage
  125  session-lock itself failed")]
pub struct HeldArgs {
    /// The process that holds the lock, instead of the one that runs session-lock
    #[arg(long = "for", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub process: Option<u32>,

    #[command(flatten)]
    pub dir: Dir,

    /// The session's name
    pub session: OsString,
}

const RUN_HELP: &str = "\
COMMAND replaces session-lock: same process, terminal, signals and exit status. The lock is held
exactly as long as COMMAND runs, however it ends. Processes that COMMAND leaves running in the
background do not keep it (except with -i). A small background process, the guardian, keeps it.

In COMMAND's environment, SESSION_LOCK_SESSION and SESSION_LOCK_PATH name the session and its
lock file, and SESSION_LOCK_TOKEN is a number larger than that of every earlier holder.

Exit codes:
  COMMAND's own, or
    2  wrong usage
   75  the lock is held, or was still held when the time ran out (-E sets another code)
  125  session-lock itself failed; COMMAND was not run
  126  COMMAND cannot be executed
  127  COMMAND was not found

Examples:
  session-lock run nightly -- ./nightly.sh
  session-lock run -t 2.5 -E 0 sync -- sh -c 'git pull && make'";

#[derive(Args)]
#[command(after_help = "\
Exit codes:
    0  held; the holder's PID is printed, or \"unknown\"
    1  free; nothing is printed
    2  wrong usage
    3  it cannot be determined from here; \"unknown\" is printed
  125  session-lock itself failed")]
pub struct HolderArgs {
    /// Print a JSON object with everything that is known
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub dir: Dir,

    /// The session's name
    pub session: OsString,
}

#[derive(Args)]
pub struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub dir: Dir,
}

#[derive(Args)]
pub struct PathArgs {
    #[command(flatten)]
    pub dir: Dir,

    /// The session's name
    pub session: OsString,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

// What the completions of a shell ask for at each Tab.
#[derive(Args)]
pub struct CompleteArgs {
    /// The words behind the program's name, the last one as far as it is written
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| "must be 0 or more seconds, such as 30 or 0.5".to_owned())
}

/// An error of the command line, with the usage of a subcommand (or the program's).
pub fn error(subcommand: &str, kind: ErrorKind, message: String) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut(subcommand) {
        Some(subcommand) => subcommand.error(kind, message),
        None => command.error(kind, message),
    }
}
