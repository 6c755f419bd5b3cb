//! The command line.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// At most one process at a time works on a session
#[derive(Parser)]
#[command(name = "session-lock", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  session-lock run nightly -- ./nightly.sh       run it, unless it is running already
  session-lock run -w deploy -- make deploy      wait for my turn
  session-lock run -t 30 -E 0 sync -- ./sync.sh  wait 30 seconds; being too late is no error
  session-lock holder nightly                    the PID of the holder
  session-lock list                              all sessions, held ones first
  flock \"$(session-lock path build)\" make        the same lock by another tool";

#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Hold a session's lock while a command runs
    Run(RunArgs),
    /// Print who holds a session's lock, without touching it
    Holder(HolderArgs),
    /// List the sessions and who holds them
    List(ListArgs),
    /// Print the path of a session's lock file
    Path(PathArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Print the man page session-lock(1)
    Man,
}

#[derive(Args)]
pub struct Dir {
    /// The directory of the lock files [default: $SESSION_LOCK_DIR, or else
    /// /tmp/session-lock-<uid>]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// Wait for the lock as long as it takes
    #[arg(short, long, conflicts_with = "timeout")]
    pub wait: bool,

    /// Wait at most so long; fractions are allowed
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub timeout: Option<Duration>,

    /// Exit with CODE instead of 75 if the lock is held
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 75, hide_default_value = true)]
    pub conflict_exit_code: u8,

    /// COMMAND and all that it starts share the lock, until the last of them ends
    #[arg(short, long)]
    pub inherit: bool,

    /// Say nothing while waiting, nor who holds the lock
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten)]
    pub dir: Dir,

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

const RUN_HELP: &str = "\
COMMAND replaces session-lock: same process, terminal, signals and exit status. The lock lives
exactly as long as COMMAND does, whatever ends it; what COMMAND leaves running in the background
does not keep it (unless with -i). COMMAND finds SESSION_LOCK_SESSION and SESSION_LOCK_PATH in its
environment.

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
    0  held; the PID of the holder is printed, or \"unknown\"
    1  free; nothing is printed
    2  it cannot be known from here; \"unknown\" is printed
  125  session-lock itself failed")]
pub struct HolderArgs {
    /// Print a JSON object with all that is known
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

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| "not a time to wait: 0 or more seconds, such as 30 or 0.5".to_owned())
}
