//! What `run` and `acquire` say and watch for while they wait.
//!
//! The wait itself is one blocked call, in the main thread or in another process. Beside it, about once a
//! second, somebody looks who holds the lock, and whether the wait can end at all.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use std::{env, mem, process, thread};

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::pipe2;
use session_lock::{Holder, State};

use crate::FAILED;
use crate::attempt::Attempt;
use crate::circle::{Circle, Waits};
use crate::guardian::Watched;
use crate::show::{self, Notices};
use crate::sys::{self, BlockedSignals};

/// A wait that ends sooner needs no explanation.
const SHORT: Duration = Duration::from_millis(100);
const INTERVAL: Duration = Duration::from_secs(1);

/// Waits in this thread, and watches in another one, which has ended when this returns. If the wait cannot
/// end, it ends this process.
pub fn while_watched<T>(attempt: Attempt<'_>, wait: impl FnOnce() -> T) -> T {
    // On a terminal, what would end this process must wait until the line is cleared.
    let (signals, blocked) = hold_signals().unzip();
    let result = thread::scope(|scope| {
        // Closing `stop` ends the thread. Without it (`RLIMIT_NPROC`) the wait is as good.
        let stop = pipe2(OFlag::O_CLOEXEC).ok().and_then(|(stopped, stop)| {
            let watch =
                move || Watch::new(attempt, process::id()).run(stopped.as_fd(), signals, None);
            thread::Builder::new().spawn_scoped(scope, watch).ok().map(|_| stop)
        });
        let result = wait();
        drop(stop);
        result
    });
    drop(blocked);
    result
}

/// Watches the wait of another process, which is over when `answer` is readable or hung up.
pub fn watch(attempt: Attempt<'_>, waiter: u32, process: &Watched, answer: BorrowedFd<'_>) {
    let (signals, _blocked) = hold_signals().unzip();
    Watch::new(attempt, waiter).run(answer, signals, Some(process));
}

/// A descriptor for the signals that a terminal or its user sends, which are held back.
fn hold_signals() -> Option<(SignalFd, BlockedSignals)> {
    // Nothing that PID 1 does not ask for reaches it.
    if !on_terminal() && process::id() != 1 {
        return None;
    }
    let pending = SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC).ok()?;
    Some((pending, BlockedSignals::new(&signals()).ok()?))
}

fn signals() -> SigSet {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP].into_iter().collect()
}

/// A terminal that cannot clear a line is written to like a file.
fn on_terminal() -> bool {
    io::stderr().is_terminal() && env::var_os("TERM").is_some_and(|term| term != "dumb")
}

struct Watch<'a> {
    attempt: Attempt<'a>,
    /// The process in the kernel's queue.
    waiter: u32,
    notices: Notices,
    line: Option<Line>,
    /// The holder that was named last.
    told: Option<Holder>,
    /// The circle that was seen at the last look.
    circle: Option<Circle>,
}

impl<'a> Watch<'a> {
    fn new(attempt: Attempt<'a>, waiter: u32) -> Watch<'a> {
        Watch { attempt, waiter, notices: Notices::open(), line: None, told: None, circle: None }
    }

    fn run(mut self, over: BorrowedFd<'_>, signals: Option<SignalFd>, process: Option<&Watched>) {
        if signals.is_some() && on_terminal() {
            self.line = Some(Line { width: 0 });
        }
        let mut timeout = SHORT;
        loop {
            let fds = [over, signals.as_ref().map_or(over, |signals| signals.as_fd())];
            match sys::wait_for_any(fds, Some(timeout)) {
                Ok([false, true]) => {
                    // Ctrl-C, Ctrl-Z, a hang-up: whatever it does to this process, or somebody has
                    // decided that it shall not, happens here.
                    self.clear();
                    match &signals {
                        Some(signals) if process::id() == 1 => end_first_process(signals),
                        _ => sys::let_signals_in(&crate::progress::signals()),
                    }
                }
                Ok([false, false]) => {}
                _ => return self.clear(),
            }
            timeout = INTERVAL;
            if process.is_some_and(Watched::has_ended) {
                self.clear();
                sys::exit_now(FAILED);
            }
            self.look_for_circle();
            if !self.attempt.args.quiet {
                self.tell();
            }
        }
    }

    /// A circle that is seen twice is one.
    fn look_for_circle(&mut self) {
        let circle = Waits::look().circle(self.waiter);
        let last = mem::replace(&mut self.circle, circle);
        if let (Some(circle), true) = (&self.circle, self.circle == last) {
            if circle.is_youngest(self.waiter) {
                let chain = circle.describe(self.attempt.dir());
                self.clear();
                let code = self.attempt.give_up(format_args!("deadlock: {chain}"));
                // The thread that waits ends with the process, wherever it is.
                sys::exit_now(code);
            }
        }
    }

    fn tell(&mut self) {
        let session = show::quoted(self.attempt.session);
        let holder = self.holder();
        let is_new = holder.as_ref().is_some_and(|holder| !self.is_told(holder));
        self.told = holder.or(self.told.take());
        let Some(told) = &self.told else { return };
        let told = show::describe(self.attempt.dir(), self.attempt.session, told);
        if let Some(line) = &mut self.line {
            let waited = show::duration(self.attempt.waited());
            line.draw(
                &self.notices,
                &format!("session-lock: waiting {waited} for {session}, {told}"),
            );
        } else if is_new {
            self.notices.write(&format!("session-lock: waiting for {session}, {told}\n"));
        }
    }

    fn is_told(&self, holder: &Holder) -> bool {
        // The number of another host's process, or of one in another namespace, is not known here.
        let who = |holder: &Holder| {
            let command = holder.pid.is_none().then(|| holder.command.clone());
            (holder.pid, holder.orphaned, holder.host.clone(), command)
        };
        self.told.as_ref().is_some_and(|told| who(told) == who(holder))
    }

    /// `None` in the moment between two holders.
    fn holder(&self) -> Option<Holder> {
        let holder = session_lock::holder(self.attempt.dir(), self.attempt.session).ok()?;
        match holder.state {
            State::Free if holder.confirmed || self.told.is_some() => None,
            // Nobody is seen, and the lock is not to be had.
            State::Free => Some(Holder::default()),
            _ => Some(holder),
        }
    }

    fn clear(&mut self) {
        if let Some(line) = &mut self.line {
            line.clear(&self.notices);
        }
    }
}

/// No signal ends PID 1 that it has no handler for (pid_namespaces(7)): so it ends itself, as a shell would
/// report it.
fn end_first_process(signals: &SignalFd) {
    let Ok(Some(info)) = signals.read_signal() else { return };
    let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { return };
    if signal != Signal::SIGTSTP && sys::has_default_action(signal) {
        sys::exit_now(128 + signal as u8);
    }
}

/// The line of a terminal that the cursor is in.
struct Line {
    /// How much of it is ours.
    width: usize,
}

impl Line {
    fn draw(&mut self, notices: &Notices, text: &str) {
        let stderr = io::stderr();
        // In the background the terminal is somebody else's.
        let Some(width) = sys::terminal_width(stderr.as_fd()) else { return };
        if !sys::in_foreground(&stderr) {
            return;
        }
        // Room for the terminal's own "^C" and for the cursor: in the next line they would be out of
        // reach.
        let text = show::cut(text, width.saturating_sub(3));
        self.width = text.len();
        notices.write(&format!("\r{text}\x1b[K"));
    }

    fn clear(&mut self, notices: &Notices) {
        if mem::take(&mut self.width) > 0 {
            notices.write("\r\x1b[K");
        }
    }
}
