//! The interleave that this library exists for. A holder has died and left its PID in the lock file;
//! several contenders come at the same instant. A protocol for which "its owner is dead" is a reason
//! to delete the file lets two of them hold the lock, on two inodes.
//!
//! The contenders are processes of their own. The test lets them run until each of them holds the
//! lock, has been refused, or is blocked in the kernel's queue, and only then lets the next thing
//! happen: so two that hold at the same time are always seen. The broken protocol goes through the
//! same hands, and is found out.

mod support;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str;
use std::time::Duration;

use session_lock::{Error, SessionLock, State};
use support::{Actor, Stage};

const SESSION: &str = "s";
/// How the contenders come to the lock; two of each are let loose.
const WAYS: [&str; 3] = ["try", "wait", "wait with a deadline"];
const CONTENDERS: usize = 2 * WAYS.len();

#[test]
fn role() {
    support::play(&[
        ("holder", hold::<SessionLock>),
        ("contender", contend::<SessionLock>),
        ("broken holder", hold::<Broken>),
        ("broken contender", contend::<Broken>),
    ]);
}

#[test]
fn one_contender_holds_and_all_waiters_get_their_turn() {
    for _ in 0..if support::long() { 200 } else { 10 } {
        let mut scene = Scene::new("");
        let before = support::inode(&scene.path);
        let Outcome { turns, refusals } = scene.play().expect("two held at the same time");
        // A trying one can be the first to hold; whoever waits gets its turn.
        assert!(refusals == 1 || refusals == 2, "{refusals} were refused");
        assert_eq!(turns + refusals, CONTENDERS);
        assert_eq!(support::inode(&scene.path), before, "the lock file is another one");
        assert_eq!(session_lock::holder(Some(&scene.dir), SESSION).unwrap().state, State::Free);
    }
}

#[test]
fn the_broken_protocol_is_found_out() {
    let mut scene = Scene::new("broken ");
    let before = support::inode(&scene.path);
    // As long as it is open, no new file gets its inode number.
    let _before = File::open(&scene.path).unwrap();
    assert!(scene.play().is_err(), "the double hold was not seen");
    assert_ne!(support::inode(&scene.path), before);
}

#[test]
fn nothing_in_the_source_deletes_renames_or_truncates_a_file() {
    let mut sources = Vec::new();
    find_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    assert!(sources.iter().any(|path| path.ends_with("lock.rs")), "{sources:?}");
    for path in sources {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in ["unlink", "remove_file", "remove_dir", "rename", "O_TRUNC", "set_len"] {
                assert!(!code.contains(word), "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

fn find_sources(dir: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { find_sources(&path, sources) } else { sources.push(path) }
    }
}

// -------------------------------------------------------------------------------------- the scene

/// A lock file with a dead holder's PID in it, and contenders at the start.
struct Scene {
    dir: PathBuf,
    path: PathBuf,
    /// While this is open, the contenders wait.
    start: Option<File>,
    /// What the contenders say.
    news: File,
    contenders: BTreeMap<u32, Contender>,
    _scratch: tempfile::TempDir,
}

struct Contender {
    actor: Actor,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// On its way, or blocked.
    Large,
    /// The point between reading a dead PID and deleting the file.
    Deletion,
    Hold,
    End,
}

#[derive(Default)]
struct Outcome {
    turns: usize,
    refusals: usize,
}

#[derive(Debug)]
struct DoubleHold;

impl Scene {
    fn new(protocol: &str) -> Scene {
        let scratch = support::scratch();
        let dir = scratch.path().join("locks");
        fs::create_dir(&dir).unwrap();
        let path = session_lock::path(Some(&dir), SESSION).unwrap();

        let mut holder = Actor::start(&format!("{protocol}holder"), &[&dir]);
        holder.hear("held");
        holder.kill();
        let label = fs::read_to_string(&path).unwrap();
        assert_eq!(label.lines().next(), Some(holder.pid().to_string().as_str()));

        let (start, start_path) = fifo(scratch.path(), "start");
        let (news, news_path) = fifo(scratch.path(), "news");
        let contender = |number: usize| {
            let way = Path::new(WAYS[number % WAYS.len()]);
            let args = [&dir, way, &start_path, &news_path];
            let mut actor = Actor::start(&format!("{protocol}contender"), &args);
            actor.hear("ready");
            (actor.pid(), Contender { actor, at: At::Large })
        };
        let contenders = (0..CONTENDERS).map(contender).collect();
        Scene { dir, path, start: Some(start), news, contenders, _scratch: scratch }
    }

    /// Lets the contenders loose; then one more step whenever all of them are at rest.
    fn play(&mut self) -> Result<Outcome, DoubleHold> {
        let mut outcome = Outcome::default();
        drop(self.start.take());
        loop {
            let mut double_hold = false;
            support::until("the contenders are at rest", || {
                self.hear_news(&mut outcome);
                double_hold = self.count(At::Hold) > 1;
                double_hold || self.is_at_rest()
            });
            if double_hold {
                return Err(DoubleHold);
            }
            // Whoever is about to delete the file does it while another one holds, if one does.
            let at = |at| move |contender: &&mut Contender| contender.at == at;
            let next = match self.contenders.values_mut().find(at(At::Deletion)) {
                Some(contender) => Some(contender),
                None => self.contenders.values_mut().find(at(At::Hold)),
            };
            let Some(next) = next else { return Ok(outcome) };
            next.actor.say("go on");
            next.at = At::Large;
        }
    }

    fn count(&self, at: At) -> usize {
        self.contenders.values().filter(|contender| contender.at == at).count()
    }

    /// Nothing will happen by itself: each contender that is at large is blocked, by one that holds.
    fn is_at_rest(&self) -> bool {
        let blocked: Vec<u32> =
            support::flocks().iter().filter(|lock| lock.blocked).map(|lock| lock.pid).collect();
        let mut large = self.contenders.iter().filter(|(_, contender)| contender.at == At::Large);
        self.count(At::Large) == 0
            || self.count(At::Hold) > 0 && large.all(|(pid, _)| blocked.contains(pid))
    }

    fn hear_news(&mut self, outcome: &mut Outcome) {
        let mut news = [0; 4096];
        let read = match self.news.read(&mut news) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        };
        // Whole lines: each was written at once.
        for line in str::from_utf8(&news[..read]).unwrap().lines() {
            let (pid, what) = line.split_once(' ').unwrap();
            let contender = self.contenders.get_mut(&pid.parse().unwrap()).unwrap();
            contender.at = match what {
                "dead" => At::Deletion,
                "held" => At::Hold,
                _ => At::End,
            };
            outcome.turns += usize::from(what == "held");
            outcome.refusals += usize::from(what == "refused");
        }
    }
}

/// Open for both directions, so that opening does not wait for the other side.
fn fifo(dir: &Path, name: &str) -> (File, PathBuf) {
    let path = dir.join(name);
    let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is NUL-terminated and lives through the call.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    (file, path)
}

// ------------------------------------------------------------------------------------- the actors

fn hold<P: Protocol>(stage: &mut Stage) {
    let lock = P::acquire(Path::new(&stage.args[0]), "try", || ());
    stage.say("held");
    stage.next();
    drop(lock);
}

fn contend<P: Protocol>(stage: &mut Stage) {
    let [dir, way, start, news] = &stage.args[..] else { panic!("{:?}", stage.args) };
    let (dir, way) = (PathBuf::from(dir), way.clone());
    let mut start = File::open(start).unwrap();
    let mut news = OpenOptions::new().write(true).open(news).unwrap();
    let mut tell = |what| news.write_all(format!("{} {what}\n", std::process::id()).as_bytes());
    stage.say("ready");
    assert_eq!(start.read(&mut [0]).unwrap(), 0);

    let lock = P::acquire(&dir, &way, || {
        tell("dead").unwrap();
        stage.hear("go on");
    });
    let Some(lock) = lock else { return tell("refused").unwrap() };
    tell("held").unwrap();
    stage.hear("go on");
    lock.release();
    tell("released").unwrap();
}

trait Protocol: Sized {
    /// `None`: another one holds. `before_deletion` is called when a file is about to be deleted
    /// because its owner is dead.
    fn acquire(dir: &Path, way: &str, before_deletion: impl FnMut()) -> Option<Self>;
    fn release(self);
}

impl Protocol for SessionLock {
    fn acquire(dir: &Path, way: &str, _: impl FnMut()) -> Option<SessionLock> {
        let dir = Some(dir);
        let result = match way {
            "try" => SessionLock::acquire(dir, SESSION),
            "wait" => SessionLock::wait(dir, SESSION, None, None),
            _ => SessionLock::wait(dir, SESSION, Some(Duration::from_secs(600)), None),
        };
        match result {
            Err(Error::Held { .. }) => None,
            result => Some(result.unwrap()),
        }
    }

    fn release(self) {
        self.check().unwrap();
        SessionLock::release(self).unwrap();
    }
}

/// How not to do it.
struct Broken(File);

impl Protocol for Broken {
    fn acquire(dir: &Path, way: &str, mut before_deletion: impl FnMut()) -> Option<Broken> {
        let path = dir.join(format!("{SESSION}.lock"));
        let owner = fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            before_deletion();
            let _ = fs::remove_file(&path);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).unwrap();
        let operation = if way == "try" { libc::LOCK_EX | libc::LOCK_NB } else { libc::LOCK_EX };
        // SAFETY: no memory is involved; the file is open.
        if unsafe { libc::flock(file.as_raw_fd(), operation) } != 0 {
            return None;
        }
        file.set_len(0).unwrap();
        write!(file, "{}", std::process::id()).unwrap();
        Some(Broken(file))
    }

    fn release(self) {
        let Broken(file) = self;
        drop(file);
    }
}
