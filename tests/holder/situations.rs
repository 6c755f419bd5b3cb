//! One test for each row of the table in `src/holder.rs` and for each way into it, in plain sight:
//! the namespaces are in `namespaces.rs`.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use session_lock::{Error, SessionLock, State, holder, list};

use crate::player::{
    Life, Player, Reborn, ask, ask_both, flock, is_zombie, open, pids_of_processes, stat_of,
};
use crate::support::{have, inode, is_root, scratch, until, until_blocked};

fn own_pid() -> u32 {
    std::process::id()
}

fn lock_file(dir: &Path) -> std::path::PathBuf {
    session_lock::path(Some(dir), "s").unwrap()
}

/// The label as it stands in the lock file.
fn label(dir: &Path) -> String {
    String::from_utf8(fs::read(lock_file(dir)).unwrap()).unwrap()
}

#[test]
fn a_session_that_nobody_ever_locked_is_free_and_asking_creates_nothing() {
    let dir = scratch();
    assert_eq!(ask(dir.path(), "s"), "Free confirmed");
    assert_eq!(list(Some(dir.path())).unwrap(), []);
    let missing = dir.path().join("missing");
    assert_eq!(holder(Some(&missing), "s").unwrap().state, State::Free);
    assert_eq!(list(Some(&missing)).unwrap(), []);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn held_by_this_process_and_released() {
    let dir = scratch();
    let dir = dir.path();
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    let held = format!("Held {} confirmed labelled", own_pid());
    assert_eq!(ask_both(dir, "s"), held);
    assert_eq!(thread::scope(|scope| scope.spawn(|| ask(dir, "s")).join().unwrap()), held);
    assert_eq!(pids_of_processes(dir, "s"), [own_pid()]);
    lock.release().unwrap();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
    assert_eq!(pids_of_processes(dir, "s"), [0; 0]);
}

#[test]
fn held_by_another_process_released_and_killed() {
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed labelled"));
    let command = holder(Some(dir), "s").unwrap().command.into_string().unwrap();
    assert!(command.ends_with(" role --exact --nocapture --test-th") || command.contains(" role"));
    player.tell("release s");
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
    player.pid_of("acquire s");
    player.0.kill();
    // The label is as it was.
    assert!(label(dir).starts_with(&format!("{pid}\n")));
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
}

#[test]
fn a_lock_file_that_is_a_link_or_no_file_is_an_error() {
    let dir = scratch();
    let dir = dir.path();
    std::os::unix::fs::symlink("elsewhere", lock_file(dir)).unwrap();
    assert!(matches!(holder(Some(dir), "s"), Err(Error::Symlink { .. })));
    assert_eq!(list(Some(dir)).unwrap(), []);
    fs::remove_file(lock_file(dir)).unwrap();
    fs::create_dir(lock_file(dir)).unwrap();
    assert!(matches!(holder(Some(dir), "s"), Err(Error::Untrusted { .. })));
    assert_eq!(list(Some(dir)).unwrap(), []);
}

#[test]
fn a_label_forged_to_name_a_living_process_convinces_nobody() {
    let dir = scratch();
    let dir = dir.path();
    // A whole and true label of this process, in a file that it does not hold.
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    let forged = label(dir);
    lock.release().unwrap();
    fs::write(lock_file(dir), &forged).unwrap();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");

    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    fs::write(lock_file(dir), &forged).unwrap();
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
}

#[test]
fn holders_that_know_nothing_of_this_library_are_named() {
    let dir = scratch();
    let dir = dir.path();
    // A label of ours is left behind.
    let mut player = Player::start(dir);
    player.pid_of("acquire s");
    player.0.kill();

    let mut player = Player::start(dir);
    let pid = player.pid_of("flock s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
    assert!(holder(Some(dir), "s").unwrap().command.as_bytes().starts_with(b"holder"));
    player.0.kill();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");

    let mut player = Player::start(dir);
    let pid = player.pid_of("share s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
}

#[test]
fn flock_1_is_named_and_so_is_the_shell_that_it_locked_for() {
    if !have("flock") {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let start = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(lock_file(dir));
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 3];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(&line, b"ok\n");
        shell
    };

    let mut shell = start("exec flock -n \"$1\" sh -c 'echo ok; read line'");
    assert_eq!(ask_both(dir, "s"), format!("Held {} confirmed", shell.id()));
    assert!(holder(Some(dir), "s").unwrap().command.as_bytes().starts_with(b"flock -n /"));
    drop(shell.stdin.take());
    shell.wait().unwrap();

    // flock(1) is gone as soon as it has the lock, and the shell keeps it.
    let mut shell = start("exec 9>\"$1\"; flock -n 9; echo ok; read line");
    let holder = holder(Some(dir), "s").unwrap();
    assert!(holder.orphaned && holder.confirmed && holder.pid != Some(shell.id()), "{holder:?}");
    assert_eq!(pids_of_processes(dir, "s"), [shell.id()]);
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert_eq!(ask(dir, "s"), "Free confirmed");
}

#[test]
fn one_of_several_that_share_a_lock_is_named() {
    let dir = scratch();
    let dir = dir.path();
    let (mut one, mut two) = (Player::start(dir), Player::start(dir));
    let pids = [one.pid_of("share s"), two.pid_of("share s")];
    let named = holder(Some(dir), "s").unwrap().pid.unwrap();
    assert!(pids.contains(&named));
    // The one that is left, also while a child of the other one keeps its share.
    let (dead, left) = if pids[0] == named { (&mut one, pids[1]) } else { (&mut two, pids[0]) };
    let child = dead.pid_of("child s");
    dead.0.kill();
    assert_eq!(ask_both(dir, "s"), format!("Held {left} confirmed"));
    let mut pids = [left, child];
    pids.sort_unstable();
    assert_eq!(pids_of_processes(dir, "s"), pids);
}

#[test]
fn a_lock_on_its_way_in_a_socket_is_held_and_not_orphaned() {
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    let pid = player.pid_of("flock-into-a-socket s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
    player.0.kill();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
}

#[test]
fn a_stopped_holder_is_suspended() {
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    let suspended = || session_lock::holder(Some(dir), "s").unwrap().suspended;
    assert!(!suspended());
    for (signal, expected) in [(libc::SIGSTOP, true), (libc::SIGCONT, false)] {
        // SAFETY: a signal to a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
        crate::support::until("stopped, or going on", || suspended() == expected);
    }
}

#[test]
fn a_lock_whose_taker_is_dead_is_orphaned_and_who_has_it_is_named() {
    let dir = scratch();
    let dir = dir.path();
    for (take, label) in [("acquire s", " labelled"), ("flock s", "")] {
        let mut player = Player::start(dir);
        let pid = player.pid_of(take);
        let child = player.pid_of("child s");
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed{label}"));
        player.0.child.kill().unwrap();
        // Dead, all threads of it, but not yet waited for: a zombie.
        until("a zombie", || is_zombie(pid));
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} orphaned confirmed{label}"));
        player.0.kill();
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} orphaned confirmed{label}"));
        assert_eq!(pids_of_processes(dir, "s"), [child]);
        drop(player);
        until("the child's end", || ask(dir, "s") == "Free confirmed");
    }
}

#[test]
fn a_process_whose_first_thread_has_ended_is_alive() {
    let dir = scratch();
    let dir = dir.path();
    let mut player = Player::start(dir);
    let pid = player.pid_of("flock-in-thread-and-end-the-first-one s");
    until("a zombie thread", || stat_of(pid).contains(") Z "));
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
    assert_eq!(pids_of_processes(dir, "s"), [pid]);
}

/// Kills the player and starts another process with its number.
fn killed_and_reborn(player: &mut Player, pid: u32, path: Option<&Path>) -> Option<Reborn> {
    let life = Life::of(pid);
    player.0.kill();
    let path = path.map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    Reborn::start(&life, path.as_deref())
}

#[test]
fn a_pid_that_is_another_process_now_is_not_taken_for_the_holder() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    // Whoever starts a process at that moment may be quicker; not ten times.
    let reborn = (0..10).find_map(|_| {
        let mut player = Player::start(dir);
        let pid = player.pid_of("acquire s");
        Some((killed_and_reborn(&mut player, pid, None)?, pid))
    });
    let (reborn, pid) = reborn.unwrap();
    assert!(label(dir).starts_with(&format!("{pid}\n")));
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
    drop(reborn);

    // A child of the old process keeps the lock.
    for (take, label) in [("acquire s", " labelled"), ("flock s", "")] {
        let reborn = (0..10).find_map(|_| {
            until("the child's end", || ask(dir, "s") == "Free confirmed");
            let mut player = Player::start(dir);
            let pid = player.pid_of(take);
            let child = player.pid_of("child s");
            let reborn = killed_and_reborn(&mut player, pid, None)?;
            Some((reborn, player, pid, child))
        });
        let (_reborn, _player, pid, child) = reborn.unwrap();
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} orphaned confirmed{label}"));
        assert_eq!(pids_of_processes(dir, "s"), [child]);
    }

    // The new process has the lock: the label is not its own.
    let reborn = (0..10).find_map(|_| {
        until("the child's end", || ask(dir, "s") == "Free confirmed");
        let mut player = Player::start(dir);
        let pid = player.pid_of("acquire s");
        Some((killed_and_reborn(&mut player, pid, Some(&lock_file(dir)))?, pid))
    });
    let (_reborn, pid) = reborn.unwrap();
    assert!(label(dir).starts_with(&format!("{pid}\n")));
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
}

#[test]
fn where_the_label_cannot_be_read_the_kernels_answer_stands_alone() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    let mut stranger = Player::start(dir);
    stranger.tell("become 65534");
    assert_eq!(stranger.tell("ask s"), format!("Held {pid} confirmed"));
    fs::set_permissions(lock_file(dir), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(stranger.tell("ask s"), format!("Held {pid} confirmed labelled"));
    fs::set_permissions(lock_file(dir), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(stranger.tell("ask s"), format!("Held {pid} confirmed"));
    assert_eq!(stranger.tell("processes s"), "[]");
    player.tell("release s");
    assert_eq!(stranger.tell_for_certain("ask s"), "Free confirmed");
    // A foreign holder whose descriptors cannot be looked at is believed to have it.
    let pid = player.pid_of("flock s");
    assert_eq!(stranger.tell("ask s"), format!("Held {pid} confirmed"));
}

#[test]
fn a_label_of_rubbish_changes_nothing() {
    let dir = scratch();
    let dir = dir.path();
    let file = open(&lock_file(dir));
    for rubbish in [&b"0\n"[..], b"1\n", b"4711\nstart=1\n", &[0xff; 5000], b"\n", b"\0"] {
        fs::write(lock_file(dir), rubbish).unwrap();
        assert_eq!(ask_both(dir, "s"), "Free confirmed");
        flock(&file, libc::LOCK_EX);
        assert_eq!(ask_both(dir, "s"), format!("Held {} confirmed", own_pid()));
        flock(&file, libc::LOCK_UN);
    }
}

#[test]
fn a_waiter_is_not_a_holder() {
    let dir = scratch();
    let dir = dir.path();
    let file = open(&lock_file(dir));
    flock(&file, libc::LOCK_EX);
    let mut waiter = Player::start(dir);
    waiter.0.say("wait s");
    until_blocked(waiter.0.pid(), inode(&lock_file(dir)));
    assert_eq!(ask_both(dir, "s"), format!("Held {} confirmed", own_pid()));
    flock(&file, libc::LOCK_UN);
    let pid = waiter.0.next().unwrap();
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed"));
}

/// `holder` refuses such a file: it could be the lock of several sessions.
#[test]
fn a_lock_file_with_two_links_is_listed_as_unknown() {
    let dir = scratch();
    let dir = dir.path();
    let listed = || -> Vec<State> {
        list(Some(dir)).unwrap().iter().map(|session| session.holder.state).collect()
    };
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    let link = dir.join("a copy in the way of rsync --link-dest");
    fs::hard_link(lock_file(dir), &link).unwrap();
    assert!(matches!(holder(Some(dir), "s"), Err(Error::Untrusted { .. })));
    assert_eq!(listed(), [State::Unknown], "held");
    drop(lock);
    assert_eq!(listed(), [State::Unknown], "free");
    fs::remove_file(link).unwrap();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
}

#[test]
fn a_directory_that_may_be_read_but_not_searched_is_not_an_empty_one() {
    if !is_root() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let _lock = SessionLock::acquire(Some(dir), "s").unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o744)).unwrap();
    let mut stranger = Player::start(dir);
    stranger.tell("become 65534");
    let path = lock_file(dir);
    let error = format!("{}: lstat: Permission denied (os error 13)", path.display());
    assert_eq!(stranger.tell("errors s"), format!("holder: {error}; list: {error}"));
}
