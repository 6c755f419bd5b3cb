//! What `run` says while it waits.
//!
//! The wait itself is one blocked call in the main thread. A thread beside it looks who holds the
//! lock, about once a second. It is gone before the guardian is forked.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, mem};

use session_lock::{Holder, State};

use crate::show;
use crate::sys::{self, Held};

/// A wait that ends sooner needs no explanation.
const SHORT: Duration = Duration::from_millis(100);
const INTERVAL: Duration = Duration::from_secs(1);

/// The story of a wait, until it is dropped.
pub struct Status {
    thread: Option<JoinHandle<()>>,
    /// Its other end is the thread's: closing this one ends it.
    stop: Option<UnixStream>,
    /// On a terminal, what would end this process must wait until the line is cleared.
    _signals: Option<Held>,
}

impl Status {
    /// Without a thread (`RLIMIT_NPROC`) there is no story, and the wait is as good.
    pub fn start(dir: Option<&Path>, session: &OsStr) -> io::Result<Status> {
        let stderr = io::stderr();
        // A terminal that cannot clear a line is written to like a file.
        let terminal = stderr.is_terminal() && env::var_os("TERM").is_some_and(|t| t != "dumb");
        let (stop, stopped) = UnixStream::pair()?;
        let signals = if terminal { Some(Held::new()?) } else { None };
        let signal = signals.as_ref().map(|held| held.pending.try_clone()).transpose()?;
        let story = Story {
            dir: dir.map(Path::to_owned),
            session: session.to_owned(),
            began: Instant::now(),
            told: Holder::default(),
        };
        let thread = thread::Builder::new().spawn(move || match signal {
            Some(signal) => story.on_terminal(&stopped, &signal),
            None => story.line_by_line(&stopped),
        })?;
        Ok(Status { thread: Some(thread), stop: Some(stop), _signals: signals })
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Story {
    dir: Option<PathBuf>,
    session: OsString,
    began: Instant,
    /// The holder that was named last.
    told: Holder,
}

impl Story {
    /// A line when the wait begins, and one whenever the holder is another one.
    fn line_by_line(mut self, stopped: &UnixStream) {
        let mut timeout = SHORT;
        while let Ok([false, _]) = sys::poll([Some(stopped.as_fd()), None], Some(timeout)) {
            timeout = INTERVAL;
            let Some(holder) = self.holder() else { continue };
            let same = |a: &Holder, b: &Holder| (a.pid, a.orphaned) == (b.pid, b.orphaned);
            if self.told.state == State::Held && same(&self.told, &holder) {
                continue;
            }
            show::complain(format_args!(
                "waiting for {}, {}",
                show::quoted(&self.session),
                self.describe(&holder)
            ));
            self.told = holder;
        }
    }

    /// One line that is always current, and cleared at the end.
    fn on_terminal(mut self, stopped: &UnixStream, signal: &OwnedFd) {
        let mut line = Line { width: 0 };
        let mut timeout = SHORT;
        loop {
            match sys::poll([Some(stopped.as_fd()), Some(signal.as_fd())], Some(timeout)) {
                Ok([false, true]) => {
                    // Ctrl-C, Ctrl-Z, a hang-up: whatever it does to this process, or somebody has
                    // decided that it shall not, happens here.
                    line.clear();
                    sys::let_signals_in(Held::SIGNALS);
                }
                Ok([false, false]) => {}
                _ => return line.clear(),
            }
            timeout = INTERVAL;
            if let Some(holder) = self.holder() {
                self.told = holder;
            }
            let waited = show::duration(self.began.elapsed());
            let session = show::quoted(&self.session);
            let told = self.describe(&self.told);
            line.draw(&format!("session-lock: waiting {waited} for {session}, {told}"));
        }
    }

    /// `None` in the moment between two holders.
    fn holder(&self) -> Option<Holder> {
        let holder = session_lock::holder(self.dir.as_deref(), &self.session).ok()?;
        (holder.state != State::Free).then_some(holder)
    }

    fn describe(&self, holder: &Holder) -> String {
        show::describe(self.dir.as_deref(), &self.session, holder)
    }
}

/// The line of a terminal that the cursor is in.
struct Line {
    /// How much of it is ours.
    width: usize,
}

impl Line {
    fn draw(&mut self, text: &str) {
        let stderr = io::stderr();
        // In the background the terminal is somebody else's.
        let Some(width) = sys::terminal_width(stderr.as_fd()) else { return };
        if !sys::in_foreground(stderr.as_fd()) {
            return;
        }
        // Room for the terminal's own "^C" and for the cursor: in the next line they would be out of
        // reach.
        let text = show::cut(text, width.saturating_sub(3));
        self.width = text.len();
        let _ = write!(stderr.lock(), "\r{text}\x1b[K");
    }

    fn clear(&mut self) {
        if mem::take(&mut self.width) > 0 {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
