//! A lock with a crowd of waiters, beside others that come and go: it is never called free, and a
//! record that does not fit on a page of the kernel's table is found all the same.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use session_lock::{State, holder, list};

use crate::asking::until_told;
use crate::player::{Player, flock, open, pin};
use crate::support::{Actor, Stage, flocks, inode, is_root, long, scratch, until};

/// A role: so many threads wait for the lock, as other programs do.
pub fn wait_in_a_crowd(stage: &mut Stage) {
    let file = Path::new(&stage.args[0]).to_owned();
    let count: usize = stage.args[1].parse().unwrap();
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(count + 1));
    for _ in 0..count {
        let (file, barrier) = (file.clone(), barrier.clone());
        let wait = move || {
            let file = open(&file);
            barrier.wait();
            flock(&file, libc::LOCK_EX);
        };
        thread::Builder::new().stack_size(64 * 1024).spawn(wait).unwrap();
    }
    barrier.wait();
    stage.say("ready");
    while stage.next().is_some() {}
    std::process::exit(0);
}

/// A role: takes one lock for a moment, again and again, and is before the crowd in the kernel's table.
/// In between the table is at rest for long enough to be read.
pub fn come_and_go(stage: &mut Stage) {
    pin(0);
    let file = open(&Path::new(&stage.args[0]).join("other"));
    stage.say("ready");
    until_told(|| {
        flock(&file, libc::LOCK_EX);
        thread::sleep(Duration::from_micros(50));
        flock(&file, libc::LOCK_UN);
        thread::sleep(Duration::from_micros(50));
    });
}

const WAITERS: usize = 120;

struct Crowd {
    _waiters: Actor,
    _churners: Vec<Actor>,
}

impl Crowd {
    /// Waiters for the lock, and others that take and release other locks all the time.
    fn gather(dir: &Path, others: &'static str) -> Crowd {
        let file = dir.join("s.lock");
        let waiters = WAITERS.to_string();
        let args = [file.as_os_str(), waiters.as_ref()];
        let mut waiters = Actor::start("crowd", &args);
        waiters.hear("ready");
        let ino = inode(&file);
        let waiting = || flocks().iter().filter(|lock| lock.blocked && lock.ino == ino).count();
        // (The table may skip the record, but does not add to it.)
        until("all wait", || waiting() == WAITERS);
        let churners = (0..2).map(|_| {
            let mut churner = Actor::start(others, &[dir]);
            churner.hear("ready");
            churner
        });
        Crowd { _waiters: waiters, _churners: churners.collect() }
    }
}

/// Asks again and again.
fn ask(dir: &Path, questions: u32, mut judge: impl FnMut(&session_lock::Holder)) {
    for n in 0..if long() { questions * 1_000 } else { questions } {
        judge(&holder(Some(dir), "s").unwrap());
        if n % 20 == 0 {
            let sessions = list(Some(dir)).unwrap();
            judge(&sessions.iter().find(|session| session.name == "s").unwrap().holder);
        }
    }
}

#[test]
fn a_lock_with_many_waiters_is_never_called_free() {
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    let crowd = Crowd::gather(dir, "churner");
    let mut most = 0;
    ask(dir, 100, |holder| {
        assert_eq!((holder.state, holder.pid), (State::Held, Some(pid)));
        assert!(holder.confirmed && !holder.orphaned, "{holder:?}");
        assert!(holder.waiters as usize <= WAITERS, "{holder:?}");
        most = most.max(holder.waiters as usize);
    });
    assert_eq!(most, WAITERS, "the waiters are counted");
    drop(crowd);
}

/// Nothing in the file says that it is locked, and by whom.
#[test]
fn a_lock_without_a_label_and_with_many_waiters_is_never_called_free() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    let pid = player.pid_of("flock s");
    let crowd = Crowd::gather(dir, "churner");
    ask(dir, 20, |holder| {
        assert_eq!((holder.state, holder.pid), (State::Held, Some(pid)));
        assert!(holder.confirmed && !holder.orphaned);
    });
    drop(crowd);
}

/// Who may not look at the others' descriptors knows only what the table says; that is not enough to call
/// the lock free, and be sure of it.
#[test]
fn who_may_not_look_at_the_holder_is_not_told_that_it_is_free_for_certain() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    open_to_all(dir);
    let mut player = Player::start(dir);
    // After all those that were taken on the other processors.
    player.tell("pin 1");
    player.tell("flock s");
    let mut stranger = Player::start(dir);
    stranger.tell("become 65534");
    for (others, questions) in [("napper", 100), ("churner", 20)] {
        let crowd = Crowd::gather(dir, others);
        for _ in 0..if long() { 100 * questions } else { questions } {
            let answer = stranger.tell("ask s");
            assert!(answer.starts_with("Held") || answer == "Free", "{others}: {answer}");
        }
        drop(crowd);
    }
}

/// Nor does a search find a holder with a table of descriptors of its own; but it has a label.
#[test]
fn where_a_search_cannot_find_the_holder_its_label_is_believed() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    // After all those that were taken on the other processors.
    player.tell("pin 1");
    let pid = player.pid_of("acquire-in-a-table-of-its-own s");
    let crowd = Crowd::gather(dir, "churner");
    ask(dir, 15, |holder| assert_eq!((holder.state, holder.pid), (State::Held, Some(pid))));
    drop(crowd);
}

/// As somebody makes it who replaces a lock file. Its label names a process that lives, but has not locked it.
#[test]
fn the_copy_of_a_held_lock_file_is_not_held() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    player.tell("acquire s");
    std::fs::copy(dir.join("s.lock"), dir.join("t.lock")).unwrap();
    let crowd = Crowd::gather(dir, "churner");
    for _ in 0..10 {
        assert_eq!(holder(Some(dir), "t").unwrap().state, State::Free);
    }
    drop(crowd);
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = open(&dir.join("s.lock"));
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(file.as_raw_fd() > 2);
}
