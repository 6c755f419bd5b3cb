//! Where a process does not see all others: in namespaces, and with less than a whole `/proc`. Each
//! player that is in one was started by `unshare(1)`, which nothing outlives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use session_lock::SessionLock;

use crate::player::{Player, ask, ask_both};
use crate::support::{have, is_root, scratch, skip};

fn can_unshare() -> bool {
    have("unshare") && is_root()
}

const OWN_PIDS: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
const OWN_PIDS_OLD_PROC: &[&str] = &["unshare", "--pid", "--fork", "--kill-child"];

/// A player that sees what is left of `/proc` after the commands.
fn with_proc(commands: &str, dir: &Path) -> Player {
    let script = format!("{commands} && exec \"$@\"");
    Player::start_under(&["unshare", "--mount", "sh", "-ec", &script, "sh"], dir)
}

/// The number that a player started by `unshare --fork` has outside.
fn outside(player: &Player) -> u32 {
    let unshare = player.0.pid();
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// A session that this process holds, one that it has released, and one that nobody ever locked.
fn held_free_and_never(player: &mut Player, dir: &Path) -> [String; 3] {
    let lock = SessionLock::acquire(Some(dir), "held").unwrap();
    SessionLock::acquire(Some(dir), "free").unwrap().release().unwrap();
    let answers = ["ask held", "ask free", "ask never"].map(|question| player.tell(question));
    lock.release().unwrap();
    answers
}

#[test]
fn from_inside_a_pid_namespace_a_holder_outside_is_not_seen() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut inside = Player::start_under(OWN_PIDS, dir);
    // What the label says is told, but for the PID, which is another's here.
    let expected = ["Unknown labelled", "Free", "Free"];
    assert_eq!(held_free_and_never(&mut inside, dir), expected);
    // A holder in there is seen.
    let pid = inside.pid_of("acquire s");
    assert_eq!(inside.tell("list s"), format!("Held {pid} confirmed labelled"));
    inside.tell("release s");
    assert_eq!(inside.tell("list s"), "Free");
}

#[test]
fn from_outside_a_holder_in_a_pid_namespace_is_seen_with_the_number_it_has_here() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut inside = Player::start_under(OWN_PIDS, dir);
    let pid = inside.pid_of("acquire s");
    assert_ne!(pid, outside(&inside));
    assert_eq!(ask_both(dir, "s"), format!("Held {} confirmed labelled", outside(&inside)));
    inside.tell("release s");
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
}

#[test]
fn in_a_pid_namespace_with_the_outer_proc_numbers_are_not_mixed_up() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut inside = Player::start_under(OWN_PIDS_OLD_PROC, dir);
    // The table has the holder, but it has no number in there.
    let expected = ["Held confirmed labelled", "Free", "Free"];
    assert_eq!(held_free_and_never(&mut inside, dir), expected);
    let pid = inside.pid_of("acquire s");
    assert_eq!(inside.tell("list s"), format!("Held {pid} confirmed labelled"));
    assert_eq!(ask_both(dir, "s"), format!("Held {} confirmed labelled", outside(&inside)));
}

/// In a PID namespace the kernel hides the lock of a taker that is dead. A label must not bring it
/// back to life because there is a process with its number.
#[test]
fn in_a_pid_namespace_a_label_of_a_dead_process_leaves_it_open() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut inside = Player::start_under(OWN_PIDS, dir);
    let pid = inside.pid_of("nested-acquire s");
    assert_eq!(inside.tell("ask s"), format!("Held {pid} confirmed labelled"));
    inside.tell("nested-kill s");
    assert_eq!(inside.tell("ask s"), format!("Unknown {pid} labelled"));
    assert_eq!(inside.tell("nested-reborn s"), "reborn");
    assert_eq!(inside.tell("ask s"), format!("Unknown {pid} labelled"));
    assert_eq!(ask(dir, "s"), "Free confirmed");
}

/// A lock that the table does not show, as on a filesystem that keeps its locks to itself: then a
/// label is worth as much as the process that it names.
#[test]
fn where_the_table_is_not_complete_a_label_of_a_living_process_is_believed() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut inside = Player::start_under(OWN_PIDS, dir);
    let pid = inside.pid_of("acquire s");
    let file = session_lock::path(Some(dir), "s").unwrap();
    let label = fs::read(&file).unwrap();
    inside.tell("release s");
    fs::write(&file, label).unwrap();
    assert_eq!(inside.tell("list s"), format!("Held {pid} labelled"));
}

/// In a time namespace of its own a process has another start time to itself than to others.
#[test]
fn a_holder_in_a_time_namespace_is_not_taken_for_its_numbers_next() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let wrapper = ["unshare", "--time", "--boottime", "100000", "--fork", "--kill-child"];
    let mut player = Player::start_under(&wrapper, dir);
    let pid = player.pid_of("acquire s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed labelled"));
    // And the other way round.
    let lock = SessionLock::acquire(Some(dir), "t").unwrap();
    let me = std::process::id();
    assert_eq!(player.tell("list t"), format!("Held {me} confirmed labelled"));
    lock.release().unwrap();
}

#[test]
fn in_a_user_namespace_all_is_seen() {
    if !have("unshare") {
        return;
    }
    if !Command::new("unshare").args(["--user", "true"]).status().unwrap().success() {
        return skip("this system allows no user namespaces");
    }
    let dir = scratch();
    let dir = dir.path();
    let me = std::process::id();
    let mut inside = Player::start_under(&["unshare", "--user"], dir);
    // Not root any more in there: the directory must be open.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let lock = SessionLock::acquire(Some(dir), "held").unwrap();
    SessionLock::acquire(Some(dir), "free").unwrap().release().unwrap();
    let held = inside.tell("ask held").replace(" labelled", "");
    assert_eq!(held, format!("Held {me} confirmed"));
    for free in ["free", "never"] {
        assert_eq!(inside.tell_for_certain(&format!("ask {free}")), "Free confirmed");
    }
    lock.release().unwrap();
}

#[test]
fn without_proc_the_label_is_all_there_is_and_proves_nothing() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut player = with_proc("umount -l /proc", dir);
    assert_eq!(held_free_and_never(&mut player, dir), ["Unknown labelled", "Free", "Free"]);
}

/// With `subset=pid` there is neither the table of locks nor the boot id: a holder is found by its
/// descriptor, and nobody is known not to hold the lock.
#[test]
fn without_a_table_a_holder_is_found_by_its_descriptor() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    let mut player = with_proc("mount -t proc -o subset=pid proc /proc", dir);
    let held = format!("Held {} confirmed", std::process::id());
    assert_eq!(held_free_and_never(&mut player, dir), [held.as_str(), "Free", "Free"]);
}

/// Containers have `/proc/locks` hidden from them in this way.
#[test]
fn where_something_else_is_mounted_over_the_table_it_proves_nothing() {
    if !can_unshare() {
        return;
    }
    let (dir, other) = (scratch(), scratch());
    let (dir, empty) = (dir.path(), other.path().join("empty"));
    fs::write(&empty, "").unwrap();
    for hidden_by in [Path::new("/dev/null"), &empty] {
        let mount = format!("mount --bind {} /proc/locks", hidden_by.display());
        let mut asker = with_proc(&mount, dir);
        let mut holder = Player::start(dir);
        let pid = holder.pid_of("flock s");
        assert_eq!(asker.tell("list s"), format!("Held {pid} confirmed"), "{mount}");
        holder.0.kill();
        assert_eq!(asker.tell("list s"), "Free", "{mount}");
        let mut holder = Player::start(dir);
        holder.tell("flock-into-a-socket s");
        assert_eq!(asker.tell("list s"), "Free", "{mount}");
    }
}

#[test]
fn hidden_processes_are_seen_in_the_table_all_the_same() {
    if !can_unshare() {
        return;
    }
    let dir = scratch();
    let dir = dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    for option in ["hidepid=1", "hidepid=2", "hidepid=4"] {
        let mut player = with_proc(&format!("mount -t proc -o {option} proc /proc"), dir);
        player.tell("become 65534");
        let mut holder = Player::start(dir);
        let pid = holder.pid_of("acquire s");
        assert_eq!(player.tell("ask s"), format!("Held {pid} confirmed"), "{option}");
        let file = session_lock::path(Some(dir), "s").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(player.tell("ask s"), format!("Held {pid} confirmed labelled"), "{option}");
        assert_eq!(player.tell("ask never"), "Free confirmed", "{option}");
        // The process is gone, and that can be seen.
        let _child = holder.pid_of("child s");
        holder.0.kill();
        let answer = player.tell("ask s");
        assert_eq!(answer, format!("Held {pid} orphaned confirmed labelled"), "{option}");
        fs::remove_file(file).unwrap();
    }
}
