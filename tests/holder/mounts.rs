//! On real filesystems, whose files the kernel's table may know by another device than `stat` does.
//! Each test mounts them in a mount namespace of its own, which nothing outlives.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use session_lock::SessionLock;

use crate::player::{Player, ask, ask_both, pids_of_processes};
use crate::support::bindfs::Bindfs;
use crate::support::{Actor, Stage, have, is_root, scratch, until};

/// Runs one of the functions below in a mount namespace.
fn mounted(what: &str, tools: &[&str]) {
    if !is_root() || !have("unshare") || !tools.iter().all(|tool| have(tool)) {
        return;
    }
    let dir = scratch();
    Actor::start_under(&["unshare", "--mount"], "mounts", &[what, dir.path().to_str().unwrap()])
        .finish();
}

/// The role.
pub fn on_a_mount(stage: &mut Stage) {
    let dir = PathBuf::from(&stage.args[1]);
    match stage.args[0].as_str() {
        "tmpfs" => whole_story(&tmpfs(&dir, "tmpfs")),
        "ext4" => whole_story(&image(&dir, "ext4", "16M")),
        "xfs" => whole_story(&image(&dir, "xfs", "300M")),
        "btrfs" => btrfs(&dir),
        "overlay" => overlay(&dir),
        "overlay on one" => overlay_on_one(&dir),
        "overlay with names" => overlay_with_names(&dir),
        "file from elsewhere" => file_from_elsewhere(&dir),
        "two tmpfs" => two_tmpfs(&dir),
        "bindfs" => bindfs(&dir),
        "lost" => lost(&dir),
        "no answer" => no_answer(&dir),
        "bindfs with locks" => bindfs_with_locks(&dir),
        _ => unreachable!(),
    }
}

#[test]
fn on_tmpfs() {
    mounted("tmpfs", &[]);
}

#[test]
fn on_ext4() {
    mounted("ext4", &["mkfs.ext4"]);
}

#[test]
fn on_xfs() {
    mounted("xfs", &["mkfs.xfs"]);
}

#[test]
fn on_btrfs() {
    mounted("btrfs", &["mkfs.btrfs", "btrfs"]);
}

#[test]
fn on_overlayfs_with_layers_on_different_filesystems() {
    mounted("overlay", &["mkfs.ext4"]);
}

#[test]
fn on_overlayfs_with_layers_on_one_filesystem() {
    mounted("overlay on one", &[]);
}

#[test]
fn on_overlayfs_under_names_of_any_bytes() {
    mounted("overlay with names", &[]);
}

#[test]
fn on_a_lock_file_that_is_mounted_from_another_filesystem() {
    mounted("file from elsewhere", &["mkfs.btrfs", "btrfs"]);
}

#[test]
fn on_two_filesystems_with_the_same_inode_number() {
    mounted("two tmpfs", &[]);
}

#[test]
fn on_a_fuse_filesystem_whose_locks_the_kernel_keeps() {
    mounted("bindfs", &["bindfs"]);
}

#[test]
fn on_a_fuse_filesystem_that_has_given_the_lock_to_somebody_else() {
    mounted("lost", &["bindfs"]);
}

#[test]
fn beside_a_fuse_filesystem_that_does_not_answer() {
    mounted("no answer", &["bindfs"]);
}

#[test]
fn on_a_fuse_filesystem_that_keeps_its_locks_to_itself() {
    mounted("bindfs with locks", &["bindfs"]);
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn mount(kind: &str, options: &str, source: &str, target: &Path) {
    run(&["mount", "-t", kind, "-o", options, source, target.to_str().unwrap()]);
}

fn subdirectory(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir(&path).unwrap();
    path
}

fn tmpfs(dir: &Path, name: &str) -> PathBuf {
    let target = subdirectory(dir, name);
    mount("tmpfs", "mode=755", "tmpfs", &target);
    target
}

/// A new filesystem in a file of the given size, which takes no more room than is used of it.
fn image(dir: &Path, kind: &str, size: &str) -> PathBuf {
    let image = dir.join(format!("{kind}.image"));
    let image = image.to_str().unwrap();
    run(&["truncate", "-s", size, image]);
    run(&[&format!("mkfs.{kind}"), "-q", image]);
    let target = subdirectory(dir, kind);
    mount(kind, "loop", image, &target);
    target
}

/// Everything that can happen to one lock, where the table sees everybody.
fn whole_story(dir: &Path) {
    assert_eq!(ask(dir, "s"), "Free confirmed");
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    assert_eq!(ask_both(dir, "s"), format!("Held {} confirmed labelled", process::id()));
    lock.release().unwrap();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");

    for (take, label) in [("acquire s", " labelled"), ("flock s", ""), ("share s", "")] {
        let mut player = Player::start(dir);
        let pid = player.pid_of(take);
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed{label}"));
        let child = player.pid_of("child s");
        player.0.kill();
        assert_eq!(ask_both(dir, "s"), format!("Held {pid} orphaned confirmed{label}"));
        assert_eq!(pids_of_processes(dir, "s"), [child]);
        drop(player);
        until("the child's end", || ask(dir, "s") == "Free confirmed");
    }
}

fn device_and_inode(dir: &Path) -> (u64, u64) {
    let stat = fs::metadata(session_lock::path(Some(dir), "s").unwrap()).unwrap();
    (stat.dev(), stat.ino())
}

/// Two locks that the table cannot tell apart, each held or not.
fn told_apart(one: &Path, two: &Path) {
    let free = "Free confirmed";
    for dir in [one, two] {
        SessionLock::acquire(Some(dir), "s").unwrap().release().unwrap();
    }
    let (seen_one, seen_two) = (device_and_inode(one), device_and_inode(two));
    assert_eq!(seen_one.1, seen_two.1, "these are to have the same inode number");
    assert_ne!(seen_one.0, seen_two.0);
    for (take, label) in [("acquire s", " labelled"), ("flock s", "")] {
        let (mut player_one, mut player_two) = (Player::start(one), Player::start(two));
        let pid_one = player_one.pid_of(take);
        let held_one = format!("Held {pid_one} confirmed{label}");
        assert_eq!((ask_both(one, "s"), ask_both(two, "s").as_str()), (held_one.clone(), free));
        let pid_two = player_two.pid_of(take);
        let held_two = format!("Held {pid_two} confirmed{label}");
        assert_eq!((ask_both(one, "s"), ask_both(two, "s")), (held_one, held_two.clone()));
        let child = player_one.pid_of("child s");
        player_one.0.kill();
        let orphaned = format!("Held {pid_one} orphaned confirmed{label}");
        assert_eq!((ask_both(one, "s"), ask_both(two, "s")), (orphaned, held_two.clone()));
        assert_eq!(pids_of_processes(one, "s"), [child]);
        drop(player_one);
        until("the child's end", || ask(one, "s") == free);
        assert_eq!((ask_both(one, "s").as_str(), ask_both(two, "s")), (free, held_two));
    }
}

/// A holder whose descriptor nobody can look at. The table names who took the lock, but that may be another
/// file's; so only a label can say that this one is held.
fn unseen_holder_is_never_called_free(dir: &Path) {
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire-in-a-table-of-its-own s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} labelled"));
    player.0.kill();
    assert_eq!(ask_both(dir, "s"), "Free confirmed");
    let mut player = Player::start(dir);
    player.tell("flock-into-a-socket s");
    // With the label of the one that was killed, and without any.
    assert_eq!(ask_both(dir, "s"), format!("Unknown {pid} labelled"));
    player.tell("flock-into-a-socket t");
    assert_eq!(ask_both(dir, "t"), "Unknown");
    // A lock of the same process that can be seen does not speak for the other ones.
    player.tell("flock u");
    assert_eq!(ask_both(dir, "s"), format!("Unknown {pid} labelled"));
    assert_eq!(ask(dir, "v"), "Free confirmed");
    player.0.kill();
    for session in ["s", "t"] {
        assert_eq!(ask_both(dir, session), "Free confirmed");
    }
}

fn btrfs(dir: &Path) {
    let root = image(dir, "btrfs", "120M");
    let subvolume = |name| {
        let path = root.join(name);
        run(&["btrfs", "-q", "subvolume", "create", path.to_str().unwrap()]);
        path
    };
    let (one, two) = (subvolume("one"), subvolume("two"));
    whole_story(&root);
    told_apart(&one, &two);
    unseen_holder_is_never_called_free(&one);
}

fn overlay(dir: &Path) {
    let lower = tmpfs(dir, "lower");
    let upper = image(dir, "ext4", "16M");
    let (data, work) = (subdirectory(&upper, "data"), subdirectory(&upper, "work"));
    let target = subdirectory(dir, "merged");
    // A lock file that is there already, in the lower layer.
    SessionLock::acquire(Some(&lower), "s").unwrap().release().unwrap();
    fs::set_permissions(&lower, fs::metadata(dir).unwrap().permissions()).unwrap();
    let options = format!(
        "xino=off,lowerdir={},upperdir={},workdir={}",
        lower.display(),
        data.display(),
        work.display()
    );
    mount("overlay", &options, "overlay", &target);
    whole_story(&target);
    whole_story(&subdirectory(&target, "new"));
    unseen_holder_is_never_called_free(&target);
}

fn overlay_on_one(dir: &Path) {
    let base = tmpfs(dir, "base");
    let [lower, data, work] = ["lower", "data", "work"].map(|name| subdirectory(&base, name));
    let target = subdirectory(dir, "merged");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        data.display(),
        work.display()
    );
    mount("overlay", &options, "overlay", &target);
    whole_story(&target);
}

/// Wherever the mounts' names are cut or not UTF-8 in `/proc/self/mountinfo`.
fn overlay_with_names(dir: &Path) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    for (n, name) in [&b"\xff"[..], "\u{fc}".repeat(40).as_bytes(), b"a b\nc"].iter().enumerate() {
        for padding in ["", "a"] {
            let base = subdirectory(dir, &format!("{n}{padding}"));
            let (lower, upper) = (tmpfs(&base, "lower"), tmpfs(&base, "upper"));
            let (data, work) = (subdirectory(&upper, "data"), subdirectory(&upper, "work"));
            let target = base.join(OsStr::from_bytes(&[padding.as_bytes(), name].concat()));
            fs::create_dir(&target).unwrap();
            let options = format!(
                "xino=off,lowerdir={},upperdir={},workdir={}",
                lower.display(),
                data.display(),
                work.display()
            );
            let mut command = Command::new("mount");
            command.args(["-t", "overlay", "-o", &options, "overlay"]).arg(&target);
            assert!(command.status().unwrap().success());
            let mut player = Player::start_in(&target);
            let pid = player.pid_of("flock s");
            assert_eq!(ask_both(&target, "s"), format!("Held {pid} confirmed"));
        }
    }
}

/// The directory's filesystem and that of a file in it have different devices in the table.
fn file_from_elsewhere(dir: &Path) {
    let (locks, elsewhere) = (tmpfs(dir, "locks"), image(dir, "btrfs", "120M"));
    for name in ["s.lock", "t.lock"] {
        fs::write(locks.join(name), "").unwrap();
        fs::write(elsewhere.join(name), "").unwrap();
    }
    run(&[
        "mount",
        "--bind",
        elsewhere.join("s.lock").to_str().unwrap(),
        locks.join("s.lock").to_str().unwrap(),
    ]);
    let mut player = Player::start(&locks);
    let pid = player.pid_of("flock s");
    assert_eq!(ask_both(&locks, "s"), format!("Held {pid} confirmed"));
    assert_eq!(ask_both(&locks, "t"), "Free confirmed");
}

fn two_tmpfs(dir: &Path) {
    told_apart(&tmpfs(dir, "one"), &tmpfs(dir, "two"));
}

fn bindfs_at(dir: &Path, options: &[&str]) -> Bindfs {
    Bindfs::mount(options, &subdirectory(dir, "source"), &subdirectory(dir, "fuse"))
}

/// A filesystem that other hosts might share: it may have given the lock to somebody else meanwhile,
/// whose label then stands in the file.
fn lost(dir: &Path) {
    let fuse = bindfs_at(dir, &[]);
    let dir = &fuse.at;
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    lock.check().unwrap();
    // Through another mount of the same files these two do not exclude each other.
    let source = dir.parent().unwrap().join("source");
    let mut next = Player::start(&source);
    next.tell("acquire s");
    let stale = |result| matches!(result, Err(session_lock::Error::Stale { .. }));
    assert!(stale(lock.check()));
    next.tell("release s");
    assert!(stale(lock.check()), "what is lost stays lost");
    next.tell("acquire s");
    let label = fs::read(source.join("s.lock")).unwrap();
    assert!(stale(lock.release()));
    assert_eq!(fs::read(source.join("s.lock")).unwrap(), label, "the next holder's label stays");
    next.tell("release s");

    // One that loses nothing.
    let lock = SessionLock::acquire(Some(dir), "s").unwrap();
    lock.check().unwrap();
    lock.check().unwrap();
    lock.release().unwrap();
    assert_eq!(ask(&source, "s"), "Free confirmed");
}

/// A search looks at what every process has open, also on a filesystem whose server has stopped.
fn no_answer(dir: &Path) {
    let local = subdirectory(dir, "local");
    let _lock = SessionLock::acquire(Some(&local), "s").unwrap();
    let fuse = bindfs_at(dir, &[]);
    let stopped = fuse.stop();
    let (answer, answered) = mpsc::channel();
    let search = thread::spawn(move || answer.send(pids_of_processes(&local, "s")));
    let pids = answered.recv_timeout(Duration::from_secs(20));
    drop(stopped);
    search.join().unwrap().unwrap();
    assert_eq!(pids, Ok(vec![process::id()]));
}

/// The table has every lock, but from here that cannot be known.
fn bindfs(dir: &Path) {
    let fuse = bindfs_at(dir, &[]);
    let dir = &fuse.at;
    assert_eq!(ask(dir, "s"), "Free");
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} confirmed labelled"));
    player.tell("release s");
    assert_eq!(ask_both(dir, "s"), "Free");
    let foreign = player.pid_of("flock s");
    assert_eq!(ask_both(dir, "s"), format!("Held {foreign} confirmed"));
    player.0.kill();
    player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    player.0.kill();
    assert_eq!(ask_both(dir, "s"), format!("Unknown {pid} labelled"));
}

/// No lock is in the table: the label decides.
fn bindfs_with_locks(dir: &Path) {
    let fuse = bindfs_at(dir, &["--multithreaded", "--enable-lock-forwarding"]);
    let dir = &fuse.at;
    let mut player = Player::start(dir);
    let pid = player.pid_of("acquire s");
    assert_eq!(ask_both(dir, "s"), format!("Held {pid} labelled"));
    player.tell("release s");
    assert_eq!(ask_both(dir, "s"), "Free");
    player.pid_of("acquire s");
    player.0.kill();
    assert_eq!(ask_both(dir, "s"), format!("Unknown {pid} labelled"));
}
