//! Asking disturbs nobody, misses nobody, and is quick.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use session_lock::{Error, SessionLock, State, holder, list};

use crate::player::{Player, ask, flock, open};
use crate::support::{Actor, Stage, flocks, have, long, scratch};

/// Whether standard input has ended.
pub fn until_told(mut work: impl FnMut()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            work();
        }
    });
}

/// A role: asks in a tight loop.
pub fn ask_all_the_time(stage: &mut Stage) {
    let dir = stage.args[0].clone();
    let dir = Path::new(&dir);
    stage.say("ready");
    let mut asked = 0u64;
    until_told(|| {
        holder(Some(dir), "s").unwrap();
        asked += 1;
        if asked == 300 {
            stage.say("enough");
        }
    });
}

#[test]
fn asking_makes_nobody_elses_attempt_fail() {
    let dir = scratch();
    let dir = dir.path();
    let mut askers = [(); 2].map(|()| Actor::start("asker", &[dir]));
    for asker in &mut askers {
        asker.hear("ready");
    }
    let attempts = if long() { 200_000 } else { 4_000 };
    let enough = AtomicBool::new(false);
    let (mut tried, mut failed) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for asker in &mut askers {
                asker.hear("enough");
            }
            enough.store(true, Ordering::Relaxed);
        });
        // On a busy machine the askers may get their turn late.
        while tried < attempts || !enough.load(Ordering::Relaxed) {
            tried += 1;
            match SessionLock::acquire(Some(dir), "s") {
                Ok(lock) => lock.release().unwrap(),
                Err(Error::Held { .. }) => failed += 1,
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(failed, 0, "of {tried} attempts on a free lock");
    for asker in askers {
        asker.finish();
    }
}

#[test]
fn asking_locks_nothing_and_creates_and_changes_nothing() {
    if !have("strace") {
        return;
    }
    let dir = scratch();
    let locks = dir.path().join("locks");
    let trace = dir.path().join("trace");
    let lock = SessionLock::acquire(Some(&locks), "s").unwrap();
    let before = look_at(&locks);
    let mut strace = vec!["strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
    strace.extend(["-e", "trace=flock,fcntl,%file,write,pwrite64,ftruncate,fchmod,fchown"]);
    let mut player = Player::start_under(&strace, &locks);
    let pid = std::process::id();
    assert_eq!(player.tell("ask s"), format!("Held {pid} confirmed labelled"));
    assert_eq!(player.tell("processes s"), format!("[{pid}]"));
    assert_eq!(player.tell("ask never"), "Free confirmed");
    assert_eq!(player.tell("list s"), format!("Held {pid} confirmed labelled"));
    player.0.finish();
    assert_eq!(look_at(&locks), before);
    lock.release().unwrap();

    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("\"/proc/locks\""), "the trace has nothing of the questions");
    let harmless = |call: &str| {
        // With 64 on a processor that has 32 bits.
        ["stat", "lstat", "newfstatat", "statx", "statfs", "readlink", "access", "execve"]
            .contains(&call.trim_end_matches("64"))
    };
    for line in trace.lines() {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let call = call.split('(').next().unwrap();
        assert_ne!(call, "flock", "{line}");
        assert!(call != "fcntl" || !line.contains("SETLK"), "{line}");
        if line.contains(locks.to_str().unwrap()) && !harmless(call) {
            let only_reads = ["open", "openat"].contains(&call) && line.contains("O_RDONLY");
            assert!(only_reads && !line.contains("O_CREAT"), "{line}");
        }
    }
}

/// Everything in the directory: name, modification and change times, contents.
fn look_at(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut seen: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let stat = path.metadata().unwrap();
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            format!("{path:?} {times:?} {:?}", fs::read(&path).unwrap())
        })
        .collect();
    seen.sort();
    seen
}

/// A role: takes and gives up sixty locks, again and again.
pub fn churn(stage: &mut Stage) {
    let dir = Path::new(&stage.args[0]);
    let name = |n| dir.join(format!("{}-{n}", std::process::id()));
    let files: Vec<File> = (0..60).map(|n| open(&name(n))).collect();
    stage.say("ready");
    until_told(|| {
        for file in &files {
            flock(file, libc::LOCK_EX);
        }
        for file in &files {
            flock(file, libc::LOCK_UN);
        }
    });
}

/// The kernel shows a long table in pieces, and a lock can slip from one to the next while others
/// come and go.
#[test]
fn a_lock_that_is_held_all_the_time_is_never_called_free() {
    let (dir, other) = (scratch(), scratch());
    let dir = dir.path();
    let locks: Vec<SessionLock> = (0..300)
        .map(|n| SessionLock::acquire(Some(dir), format!("session {n}")).unwrap())
        .collect();
    let mut churners = [(); 2].map(|()| Actor::start("churner", &[other.path()]));
    for churner in &mut churners {
        churner.hear("ready");
    }
    let duration = Duration::from_secs(if long() { 60 } else { 2 });
    let start = Instant::now();
    let mut slipped = 0;
    while start.elapsed() < duration {
        // Each list asks about every place in the table.
        let sessions = list(Some(dir)).unwrap();
        assert_eq!(sessions.len(), locks.len());
        for session in &sessions {
            assert_eq!(session.holder.state, State::Held, "{session:?}");
            assert_eq!(session.holder.pid, Some(std::process::id()));
        }
        // Without this the test would say nothing.
        let pid = std::process::id();
        let shown: HashSet<u64> =
            flocks().iter().filter(|lock| lock.pid == pid).map(|lock| lock.ino).collect();
        slipped += usize::from(shown.len() < locks.len());
    }
    println!("{slipped} readings of the table lacked a lock");
    for churner in churners {
        churner.finish();
    }
}

/// A holder that dies between the reading of the table and the look at its process seems to be one
/// whose lock lives on.
#[test]
fn a_holder_that_dies_just_now_is_not_called_orphaned() {
    let dir = scratch();
    let dir = dir.path();
    let mut asker = Actor::start("orphan-hunter", &[dir]);
    asker.hear("ready");
    for _ in 0..if long() { 2_000 } else { 100 } {
        let mut player = Player::start(dir);
        player.tell("acquire s");
        player.0.kill();
    }
    asker.finish();
}

/// A role: asks in a tight loop, and nothing it hears may be of an orphaned lock.
pub fn hunt_orphans(stage: &mut Stage) {
    let dir = stage.args[0].clone();
    stage.say("ready");
    until_told(|| {
        let holder = holder(Some(Path::new(&dir)), "s").unwrap();
        assert!(!holder.orphaned, "{holder:?}");
    });
}

#[test]
fn ten_thousand_held_locks_are_listed_in_half_a_second() {
    let dir = scratch();
    let dir = dir.path();
    raise_descriptor_limit();
    let count = if cfg!(debug_assertions) && !long() { 1_000 } else { 10_000 };
    let locks: Vec<SessionLock> =
        (0..count).map(|n| SessionLock::acquire(Some(dir), format!("{n:05}")).unwrap()).collect();
    let start = Instant::now();
    let sessions = list(Some(dir)).unwrap();
    let elapsed = start.elapsed();
    println!("{count} sessions held: listed in {elapsed:?}");
    assert_eq!(sessions.len(), locks.len());
    assert!(sessions.iter().all(|one| one.holder.state == State::Held));
    assert!(sessions.iter().all(|one| one.holder.acquired_at_ms.is_some()));
    assert!(sessions.is_sorted_by_key(|one| &one.name));
    // Half a second on a quiet machine in a release build; reading the table for each session would
    // take minutes.
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    println!("one question among {count} locks: {:?}", cost(|| drop(ask(dir, "00000")), 20));
}

#[test]
fn held_sessions_are_listed_first() {
    let dir = scratch();
    let dir = dir.path();
    let name = "\u{1b}[2J/.. %\n\u{ff}";
    for free in ["a", "c", name] {
        SessionLock::acquire(Some(dir), free).unwrap().release().unwrap();
    }
    for not_ours in ["readme", "%41.lock", ".lock", ".hidden.lock", "a%2.lock", "a%00.lock"] {
        fs::write(dir.join(not_ours), "").unwrap();
    }
    let _held = ["d", "b"].map(|held| SessionLock::acquire(Some(dir), held).unwrap());
    let sessions = list(Some(dir)).unwrap();
    let names: Vec<&str> = sessions.iter().map(|one| one.name.to_str().unwrap()).collect();
    assert_eq!(names, ["b", "d", name, "a", "c"]);
}

fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is the one that the call fills.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    assert!(limit.rlim_cur > 10_500, "the hard limit for descriptors is {}", limit.rlim_max);
    // SAFETY: the struct lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// The median of so many calls.
fn cost(mut call: impl FnMut(), calls: usize) -> Duration {
    let mut times: Vec<Duration> = (0..calls)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[calls / 2]
}

/// `cargo test --release --test holder -- --ignored --nocapture what_a_question_costs`
#[test]
#[ignore = "prints figures, proves nothing"]
fn what_a_question_costs() {
    let dir = scratch();
    let dir = dir.path();
    let print = |what| {
        let cost = cost(|| drop(black_box(holder(Some(dir), "s"))), 20_000);
        println!("{what}: {cost:?} with {} locks in the table", flocks().len());
    };
    print("no file");
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    print("held");
    lock.release().unwrap();
    print("free");
    let file = open(&session_lock::path(Some(dir), "s").unwrap());
    flock(&file, libc::LOCK_EX);
    print("held by another program");
}
