//! The label of a guardian: of one that was killed, which says nothing of the lock any more, and of one whose
//! number another process has by now.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use session_lock::{Error, SessionLock};

use crate::player::{Life, Player, Reborn, ask_both, is_zombie};
use crate::support::{Flock, LIMIT, flocks, inode, is_root, scratch, until};

/// What has left its label: a process, and its guardian, which held the lock.
struct Killed {
    process: Life,
    guardian: Life,
}

impl Killed {
    fn leave_a_label(dir: &Path) -> Killed {
        let mut process = Player::start(dir);
        let mut guardian = Player::start(dir);
        let lives = [process.0.pid(), guardian.pid_of(&format!("guard {}", process.0.pid()))];
        let [process_life, guardian_life] = lives.map(Life::of);
        let held = format!("Held {} confirmed labelled", lives[0]);
        assert_eq!(ask_both(dir, "s"), held);
        guardian.0.kill();
        process.0.kill();
        Killed { process: process_life, guardian: guardian_life }
    }
}

#[test]
fn a_dead_guardians_label_does_not_make_the_lock_of_its_numbers_next_free() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let file = CString::new(dir.join("s.lock").as_os_str().as_bytes()).unwrap();
    for whose in [|killed: Killed| killed.process, |killed: Killed| killed.guardian] {
        // Whoever starts a process at that moment may be quicker; not ten times.
        let reborn = (0..10).find_map(|_| {
            let life = whose(Killed::leave_a_label(dir));
            Some((Reborn::start(&life, Some(&file))?, life.pid))
        });
        let (_reborn, pid) = reborn.unwrap();
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
    }
}

#[test]
fn a_program_that_is_named_nearly_like_a_guardian_is_none() {
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    player.tell("call-itself session-lock-ag");
    player.tell("watch-a-child-that-ends s");
    let pid = player.pid_of("flock s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
}

/// Whether a wait for this process's own end is told so.
fn is_a_deadlock(dir: &Path) -> bool {
    match SessionLock::wait(Some(dir), "s", Some(LIMIT), None) {
        Err(Error::Deadlock { .. }) => true,
        result => panic!("{result:?}"),
    }
}

/// Waits for a lock that the player has, which then gives it up.
fn wait_without_an_end(dir: &Path, mut holder: Player) {
    thread::scope(|scope| {
        let waiter = scope.spawn(|| SessionLock::wait(Some(dir), "s", None, None));
        until("it waits, or has failed", || waiter.is_finished() || is_blocked(dir));
        holder.0.kill();
        waiter.join().unwrap().unwrap().release().unwrap();
    });
}

fn is_blocked(dir: &Path) -> bool {
    let (pid, ino) = (std::process::id(), inode(&dir.join("s.lock")));
    flocks().contains(&Flock { pid, ino, blocked: true })
}

fn flocked(dir: &Path) -> Player {
    let mut holder = Player::start(dir);
    holder.pid_of("flock s");
    holder
}

#[test]
fn who_waits_for_its_own_end_is_told_only_while_its_guardian_lives() {
    let dir = scratch();
    let dir = dir.path();
    let guard = format!("guard {}", std::process::id());
    let mut guardian = Player::start(dir);
    let pid = guardian.pid_of(&guard);
    assert!(is_a_deadlock(dir));
    // Dead, but not yet waited for.
    guardian.0.child.kill().unwrap();
    until("a zombie", || is_zombie(pid));
    wait_without_an_end(dir, flocked(dir));

    // Gone.
    let mut guardian = Player::start(dir);
    guardian.pid_of(&guard);
    guardian.0.kill();
    wait_without_an_end(dir, flocked(dir));

    // Its number is another process's now.
    if !is_root() {
        return;
    }
    let reborn = (0..10).find_map(|_| {
        let mut guardian = Player::start(dir);
        let life = Life::of(guardian.pid_of(&guard));
        assert!(is_a_deadlock(dir));
        guardian.0.kill();
        Reborn::start(&life, None)
    });
    let _reborn = reborn.unwrap();
    wait_without_an_end(dir, flocked(dir));
}
