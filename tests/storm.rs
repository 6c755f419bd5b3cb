//! Everything at once: processes that acquire, wait, cancel, check, release and ask, over one session;
//! one of them is killed every two milliseconds and replaced; children are forked that meddle with
//! the handles they inherit.
//!
//! What is true is said by an oracle in shared memory, which no code of the lock touches: who has got
//! the lock enters, and leaves before it releases.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use session_lock::{Error, SessionLock, State};
use support::{Actor, Stage};

const SESSION: &str = "s";
const WORKERS: usize = 8;
const BETWEEN_KILLS: Duration = Duration::from_millis(2);

#[test]
fn role() {
    support::play(&[("storm", storm)]);
}

#[test]
fn no_two_hold_at_the_same_time() {
    run("", 4_000);
}

/// Here holders delete the file now and then, which is safe for others that compare the file they
/// have locked with the one at the path.
#[test]
fn no_two_hold_where_holders_delete_the_file() {
    run("deleting", 1_000);
}

fn run(variant: &str, acquisitions: u64) {
    let scratch = support::scratch();
    let dir = scratch.path();
    // A process of its own, with one thread: it forks.
    let mut storm =
        Actor::start("storm", &[dir.to_str().unwrap(), variant, &acquisitions.to_string()]);
    let mut figures = BTreeMap::new();
    while let Some(line) = storm.next() {
        let (what, number) = line.rsplit_once(' ').unwrap();
        figures.insert(what.to_owned(), number.parse::<u64>().unwrap());
    }
    storm.finish();
    if support::long() {
        eprintln!("storm {variant}: {figures:#?}");
    }
    assert_eq!(figures["double holds"], 0);
    assert_eq!(figures["wrong answers"], 0);
    assert!(figures["acquisitions"] >= acquisitions, "{figures:?}");
    for what in ["killed", "children", "waits cancelled", "waits timed out", "refusals"] {
        assert!(figures[what] > 0, "{figures:?}");
    }
    let path = session_lock::path(Some(dir), SESSION).unwrap();
    assert!(support::is_free(&path));
    assert_eq!(session_lock::holder(Some(dir), SESSION).unwrap().state, State::Free);
}

// ------------------------------------------------------------------------------------- the oracle

/// Lives in memory that all processes of a storm share.
#[derive(Default)]
struct Oracle {
    /// The PID of the process that says that it holds the lock; 0 for none.
    owner: AtomicU32,
    double_holds: AtomicU64,
    wrong_answers: AtomicU64,
    acquisitions: AtomicU64,
    refusals: AtomicU64,
    timed_out: AtomicU64,
    cancelled: AtomicU64,
    interrupted: AtomicU64,
    children: AtomicU64,
    deletions: AtomicU64,
}

impl Oracle {
    fn new() -> &'static Oracle {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let size = size_of::<Oracle>();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        // SAFETY: the mapping is large enough, page-aligned, never unmapped, and all zeros, which is
        // a valid value of every field. All of them are atomic.
        unsafe { &*memory.cast::<Oracle>() }
    }

    fn enter(&self) {
        self.acquisitions.fetch_add(1, SeqCst);
        let me = process::id();
        let start = Instant::now();
        loop {
            let Err(other) = self.owner.compare_exchange(0, me, SeqCst, SeqCst) else { return };
            // The kernel frees a killed process's lock a moment before the process is gone.
            while !is_gone(other) {
                // If it lives, it may leave: then it was in here together with us.
                if self.owner.load(SeqCst) != other || start.elapsed() > Duration::from_secs(10) {
                    self.double_holds.fetch_add(1, SeqCst);
                    self.owner.store(me, SeqCst);
                    return;
                }
                thread::yield_now();
            }
            let _ = self.owner.compare_exchange(other, 0, SeqCst, SeqCst);
        }
    }

    fn leave(&self) {
        if self.owner.compare_exchange(process::id(), 0, SeqCst, SeqCst).is_err() {
            self.double_holds.fetch_add(1, SeqCst);
        }
    }

    #[track_caller]
    fn expect(&self, right: bool, answer: impl std::fmt::Debug) {
        if !right {
            self.wrong_answers.fetch_add(1, SeqCst);
            let place = std::panic::Location::caller();
            eprintln!("process {}, {place}: {answer:?}", process::id());
        }
    }
}

fn is_gone(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // Behind the name in parentheses stands the state.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

// -------------------------------------------------------------------------------------- the storm

fn storm(stage: &mut Stage) {
    let dir = PathBuf::from(&stage.args[0]);
    let deleting = stage.args[1] == "deleting";
    let acquisitions: u64 = stage.args[2].parse().unwrap();
    let oracle = Oracle::new();
    // What a killed worker has forked becomes ours to wait for.
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let handler: extern "C" fn(libc::c_int) = ignore;
    // SAFETY: the handler does nothing, so it may run at any time; glibc's `signal` sets SA_RESTART.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };

    let worker = || support::fork(|| Worker::new(&dir, oracle, deleting).work()).pid;
    let mut workers: Vec<libc::pid_t> = (0..WORKERS).map(|_| worker()).collect();
    let mut chance = Chance::new();
    let mut killed = 0;
    let start = Instant::now();
    let length = Duration::from_secs(if support::long() { 300 } else { 2 });
    while start.elapsed() < length || oracle.acquisitions.load(SeqCst) < acquisitions {
        assert!(start.elapsed() < length + Duration::from_secs(120), "the storm makes no headway");
        thread::sleep(BETWEEN_KILLS);
        let victim = chance.below(WORKERS);
        signal(workers[victim], libc::SIGKILL);
        killed += 1;
        signal(workers[(victim + 1) % WORKERS], libc::SIGUSR1);
        while let Some((ended, status)) = reap(libc::WNOHANG) {
            // Nobody ends by himself but children that have done what they should.
            oracle.expect(libc::WIFSIGNALED(status) || status == 0, status);
            if let Some(worker_ended) = workers.iter_mut().find(|pid| **pid == ended) {
                *worker_ended = worker();
            }
        }
    }
    for &pid in &workers {
        signal(pid, libc::SIGKILL);
    }
    while reap(0).is_some() {}

    for (what, number) in [
        ("double holds", &oracle.double_holds),
        ("wrong answers", &oracle.wrong_answers),
        ("acquisitions", &oracle.acquisitions),
        ("refusals", &oracle.refusals),
        ("waits timed out", &oracle.timed_out),
        ("waits cancelled", &oracle.cancelled),
        ("waits interrupted", &oracle.interrupted),
        ("children", &oracle.children),
        ("deletions", &oracle.deletions),
        ("killed", &AtomicU64::new(killed)),
        ("milliseconds", &AtomicU64::new(start.elapsed().as_millis().try_into().unwrap())),
    ] {
        stage.say(&format!("{what} {}", number.load(SeqCst)));
    }
}

extern "C" fn ignore(_: libc::c_int) {}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: no memory is involved. The process is a child that nobody has waited for yet, so the
    // number is its own.
    unsafe { libc::kill(pid, signal) };
}

/// The next child that has ended, and how; `None` if there is none.
fn reap(flags: libc::c_int) -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: `status` is an int that the call fills.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
    (pid > 0).then_some((pid, status))
}

struct Worker<'a> {
    dir: &'a Path,
    oracle: &'static Oracle,
    deleting: bool,
    chance: Chance,
}

impl Worker<'_> {
    fn new<'a>(dir: &'a Path, oracle: &'static Oracle, deleting: bool) -> Worker<'a> {
        Worker { dir, oracle, deleting, chance: Chance::new() }
    }

    fn work(mut self) {
        loop {
            if let Some(lock) = self.obtain() {
                self.oracle.enter();
                self.hold(&lock);
                self.oracle.leave();
                self.end(lock);
            }
            if self.chance.one_in(4) {
                let holder = session_lock::holder(Some(self.dir), SESSION);
                self.oracle.expect(holder.is_ok(), holder);
            }
        }
    }

    fn obtain(&mut self) -> Option<SessionLock> {
        let dir = Some(self.dir);
        let short = Duration::from_micros(self.chance.below(3000) as u64);
        let result = match self.chance.below(5) {
            0 => SessionLock::acquire(dir, SESSION),
            1 => SessionLock::wait(dir, SESSION, None, None),
            2 => SessionLock::wait(dir, SESSION, Some(short), None),
            3 => SessionLock::wait(dir, SESSION, Some(Duration::from_secs(60)), None),
            _ => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                thread::scope(|scope| {
                    scope.spawn(move || {
                        thread::sleep(short);
                        drop(theirs);
                    });
                    SessionLock::wait(dir, SESSION, None, Some(ours.as_fd()))
                })
            }
        };
        let counter = match &result {
            Ok(_) => return result.ok(),
            Err(Error::Held { .. }) => &self.oracle.refusals,
            Err(Error::TimedOut { .. }) => &self.oracle.timed_out,
            Err(Error::Cancelled { .. }) => &self.oracle.cancelled,
            Err(Error::Interrupted { .. }) => &self.oracle.interrupted,
            Err(error) => {
                self.oracle.expect(false, error);
                return None;
            }
        };
        counter.fetch_add(1, SeqCst);
        None
    }

    fn hold(&mut self, lock: &SessionLock) {
        let check = lock.check();
        self.oracle.expect(check.is_ok(), check);
        match self.chance.below(16) {
            0 => self.fork(lock),
            1 => thread::sleep(Duration::from_micros(self.chance.below(200) as u64)),
            2 => {
                let holder = session_lock::holder(Some(self.dir), SESSION).unwrap();
                let right = holder.state == State::Held && holder.pid == Some(process::id());
                self.oracle.expect(right, holder);
            }
            _ => {}
        }
        let check = lock.check();
        self.oracle.expect(check.is_ok(), check);
    }

    fn end(&mut self, lock: SessionLock) {
        let delete = self.deleting && self.chance.one_in(16);
        if delete {
            // Whoever comes now locks a new file; whoever waits for this one must notice.
            fs::remove_file(lock.path()).unwrap();
            self.oracle.deletions.fetch_add(1, SeqCst);
        }
        if self.chance.one_in(8) {
            return drop(lock);
        }
        let released = lock.release();
        let right =
            if delete { matches!(released, Err(Error::Stale { .. })) } else { released.is_ok() };
        self.oracle.expect(right, released);
    }

    /// A child that meddles with the lock; this process goes on, and may be killed meanwhile.
    fn fork(&mut self, lock: &SessionLock) {
        let meddling = self.chance.below(5);
        let time = Duration::from_micros(self.chance.below(5000) as u64);
        self.oracle.children.fetch_add(1, SeqCst);
        let child = support::fork(|| {
            match meddling {
                0 => {}
                1 => thread::sleep(time),
                2 => {
                    let check = lock.check();
                    self.oracle.expect(matches!(check, Err(Error::NotOwner { .. })), check);
                }
                3 => {
                    // SAFETY: the parent's value is in the parent's memory; this is a copy of it,
                    // and the process ends without using the original.
                    let release = unsafe { ptr::read(lock) }.release();
                    self.oracle.expect(matches!(release, Err(Error::NotOwner { .. })), release);
                }
                _ => {
                    if let Ok(lock) = SessionLock::acquire(Some(self.dir), SESSION) {
                        self.oracle.enter();
                        self.oracle.leave();
                        drop(lock);
                    }
                }
            }
        });
        if self.chance.one_in(2) {
            child.ended_well();
        }
    }
}

/// Numbers that differ from process to process.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        Chance(u64::from(process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}
