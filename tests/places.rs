//! Where a session's lock is, for whom: who excludes whom with no directory named, and who is let in by
//! a directory that several users share. `docs/places.md` says the same.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use session_lock::{Error, SessionLock, holder, list, path};
use support::{Actor, Stage, have, is_root};

support::alone!(
    who_excludes_whom_with_no_directory_named,
    check_tells_what_the_process_can_see_now;
    ("party", party),
);

// ----------------------------------------------------------------------------------------- a party

/// Does as it is told, one line at a time; DIR "-" is no directory.
fn party(stage: &mut Stage) {
    let mut locks: BTreeMap<String, SessionLock> = BTreeMap::new();
    while let Some(line) = stage.next() {
        let words: Vec<&str> = line.split(' ').collect();
        let named = words.get(1).filter(|word| **word != "-").map(Path::new);
        let session = words.get(2).copied().unwrap_or_default();
        let mut keep = |lock: Result<SessionLock, Error>| {
            lock.map(|lock| drop(locks.insert(session.to_owned(), lock))).map(|()| "ok".to_owned())
        };
        let answer = match words[0] {
            "acquire" => keep(SessionLock::acquire(named, session)),
            "wait" => {
                let timeout = Duration::from_millis(words[3].parse().unwrap());
                keep(SessionLock::wait(named, session, Some(timeout), None))
            }
            "release" => locks.remove(words[1]).unwrap().release().map(|()| "ok".to_owned()),
            "holder" => holder(named, session)
                .map(|holder| format!("{:?} {}", holder.state, holder.pid.unwrap_or(0))),
            "list" => list(named).map(|sessions| sessions.len().to_string()),
            "path" => path(named, session).map(|path| path.display().to_string()),
            "chroot" => {
                std::os::unix::fs::chroot(named.unwrap()).unwrap();
                Ok("ok".to_owned())
            }
            "deny-unnamed-files" => {
                let unnamed = (libc::O_TMPFILE & !libc::O_DIRECTORY).unsigned_abs();
                support::filter::deny_with_flag(libc::SYS_openat, 2, unnamed, libc::EOPNOTSUPP);
                Ok("ok".to_owned())
            }
            _ => panic!("{line}?"),
        };
        stage.say(&answer.unwrap_or_else(|error| format!("{} {error}", error.errno())));
    }
}

struct Party(Actor);

impl Party {
    /// What `script`, which is one of a shell, becomes in the end by executing `command`.
    fn start(script: &str, command: &str) -> Party {
        // By a descriptor: the party may not be able to reach the program's path. (The test has the
        // program open, too, wherever it is itself.)
        let script = format!(
            "exec 9</proc/{}/exe; shift; unset SESSION_LOCK_DIR; {script}\n\
             exec {command} /proc/self/fd/9 \"$@\"",
            process::id()
        );
        let shell = ["unshare", "--mount", "sh", "-ec", &script, "sh"];
        Party(Actor::start_under(&shell, "party", &[""; 0]))
    }

    fn told(&mut self, line: &str) -> String {
        self.0.say(line);
        self.0.next().unwrap_or_else(|| panic!("{line}: the party has ended"))
    }

    #[track_caller]
    fn does(&mut self, line: &str) {
        assert_eq!(self.told(line), "ok", "{line}");
    }

    #[track_caller]
    fn fails(&mut self, line: &str, errno: i32) -> String {
        let answer = self.told(line);
        assert!(answer.starts_with(&format!("{errno} ")), "{line}: {answer}");
        answer
    }
}

fn can_be_others() -> bool {
    is_root() && ["unshare", "setpriv", "mount"].into_iter().all(have)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory that other users can reach.
fn public_scratch() -> tempfile::TempDir {
    let scratch = support::scratch();
    chmod(scratch.path(), 0o755);
    scratch
}

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn document() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/places.md");
    fs::read_to_string(file).unwrap()
}

// ------------------------------------------------------------------------------ no directory named

/// The other process of a pair.
struct Place {
    /// As `docs/places.md` says it.
    name: &'static str,
    /// In a shell: what it does first, and the command by which the user is started. `{user}` is one
    /// that becomes the user, `{scratch}` a directory.
    script: &'static str,
    command: &'static str,
    /// Whether the two exclude each other: "yes", "no", or "refused".
    answer: &'static str,
}

/// The user has a name, and the program one in `/tmp`.
const WITH_A_NAME: &str =
    "{ cat /etc/passwd; echo 'name:*:1234:1234::/:/bin/sh'; } >{scratch}/passwd
    mount --bind {scratch}/passwd /etc/passwd
    install -m 755 /proc/self/fd/9 /tmp/program";

const PLACES: [Place; 14] = [
    Place {
        name: "in a terminal, in a script, in a service",
        script: "",
        command: "{user}",
        answer: "yes",
    },
    Place {
        name: "in a cron job, with an empty environment",
        script: "",
        command: "env -i $(env | grep ^SESSION_LOCK_TEST_) {user}",
        answer: "yes",
    },
    Place {
        name: "by `su USER` from another user",
        script: WITH_A_NAME,
        command: "su -s /bin/sh -c 'exec \"$0\" \"$@\"' -- name",
        answer: "yes",
    },
    Place {
        name: "by `sudo -u USER` from another user",
        script: WITH_A_NAME,
        // It keeps neither the environment nor descriptors.
        command: "sh -c 'shift; exec sudo -u name env $(env | grep ^SESSION_LOCK_TEST_) /tmp/program \"$@\"' sh",
        answer: "yes",
    },
    Place { name: "as root, by `sudo`", script: "", command: "env", answer: "no" },
    Place {
        name: "under `fakeroot`",
        script: "",
        command: "unshare --pid --fork --kill-child {user} fakeroot",
        answer: "yes",
    },
    Place {
        name: "as root of a user namespace with the same `/tmp` (`unshare -r`, a rootless container)",
        script: "",
        command: "{user} unshare --map-root-user",
        answer: "yes",
    },
    Place {
        name: "in a user namespace that does not map the user",
        script: "",
        command: "{user} unshare --user",
        answer: "refused",
    },
    Place {
        name: "in PID, network, UTS and IPC namespaces with the same `/tmp`",
        script: "",
        command: "unshare --pid --net --uts --ipc --fork --kill-child {user}",
        answer: "yes",
    },
    Place {
        name: "in a container or a mount namespace with a `/tmp` of its own",
        script: "mount -t tmpfs -o mode=1777 none /tmp",
        command: "{user}",
        answer: "no",
    },
    Place {
        name: "in a `chroot` with a `/tmp` of its own",
        script: "mkdir -p {scratch}/tmp; chmod 1777 {scratch}/tmp",
        command: "{user} --inh-caps +sys_chroot --ambient-caps +sys_chroot",
        answer: "no",
    },
    Place {
        name: "in a systemd service with `PrivateTmp=`",
        script: "private={scratch}/systemd-private-0123456789abcdef-a.service-abcdef/tmp\n\
                 mkdir -p $private; chmod 1777 $private; mount --bind $private /tmp",
        command: "{user}",
        answer: "refused",
    },
    Place {
        name: "with `$SESSION_LOCK_DIR` set for only one of the two",
        script: "export SESSION_LOCK_DIR={scratch}/named",
        command: "{user}",
        answer: "no",
    },
    Place {
        name: "with a `$SESSION_LOCK_DIR` that is not an absolute path",
        script: "cd {scratch}; export SESSION_LOCK_DIR=named",
        command: "{user}",
        answer: "refused",
    },
];

#[test]
fn each_place_is_in_the_documentation() {
    let text = document();
    let table = text.split("| the other process runs | ").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<&str>> =
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).take(2).collect()).collect();
    let places: Vec<[&str; 2]> = PLACES.iter().map(|place| [place.name, place.answer]).collect();
    assert_eq!(rows, places);
}

fn who_excludes_whom_with_no_directory_named(_: &mut Stage) {
    if !can_be_others() {
        return;
    }
    // In a /tmp of our own: the superuser's directory is not to be touched.
    // SAFETY: no memory is involved.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(result, 0, "unshare: {}", io::Error::last_os_error());
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &["-t", "tmpfs", "-o", "mode=1777", "none", "/tmp"]);
    let user = "setpriv --reuid 1234 --regid 1234 --clear-groups";
    for place in &PLACES {
        // fakeroot loads a library of the system's into the program.
        let foreign = place.command.contains("fakeroot") && support::target().is_some();
        let missing = |tool: &&str| place.command.contains(tool) && !have(tool);
        if foreign || ["fakeroot", "sudo"].iter().any(missing) {
            continue;
        }
        let scratch = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        fs::create_dir(scratch.path().join("named")).unwrap();
        chown(scratch.path().join("named"), Some(1234), Some(1234)).unwrap();
        chmod(scratch.path(), 0o755);
        let fill = |text: &str| {
            text.replace("{user}", user).replace("{scratch}", scratch.path().to_str().unwrap())
        };
        let mut here = Party::start("", user);
        let mut there = Party::start(&fill(place.script), &fill(place.command));
        if place.name.contains("chroot") {
            there.does(&format!("chroot {}", scratch.path().display()));
        }
        println!("{}: {}, {}", place.name, here.told("path - s"), there.told("path - s"));
        exclude(&mut here, &mut there, place.answer);
        here.0.finish();
        there.0.finish();
        // Nobody is locked out by what was left.
        let mut root = Party::start("", "env");
        root.does("acquire - s");
        root.0.finish();
    }
}

fn exclude(here: &mut Party, there: &mut Party, answer: &str) {
    match answer {
        "yes" => {
            for [one, other] in [[0, 1], [1, 0]] {
                let parties = &mut [&mut *here, &mut *there];
                parties[one].does("acquire - s");
                parties[other].fails("acquire - s", libc::EWOULDBLOCK);
                let held = parties[other].told("holder - s");
                assert!(held.starts_with("Held "), "{held}");
                parties[one].does("release s");
            }
            assert_eq!(here.told("path - s"), there.told("path - s"));
        }
        "no" => {
            here.does("acquire - s");
            there.does("acquire - s");
            here.does("release s");
            there.does("release s");
        }
        _ => {
            for line in
                ["acquire - s", "wait - s 0", "wait - s 5", "holder - s", "list -", "path - s"]
            {
                let answer = there.fails(line, libc::EPERM);
                assert!(answer.contains("set SESSION_LOCK_DIR") || answer.contains("set it to"));
            }
            // And it works once it does what it was told to do.
            here.does("acquire /tmp/session-lock-1234 s");
            here.does("release s");
        }
    }
}

// ------------------------------------------------------------------------------ shared directories

/// Users of a shared directory: two members of a group, and the superuser.
const MEMBERS: [u32; 2] = [1301, 1302];
const GROUP: u32 = 1300;

/// A way to share a directory.
struct Way {
    name: &'static str,
    owner: u32,
    group: u32,
    mode: u32,
    /// What setfacl(1) is told.
    list: &'static [&'static str],
    /// The mode of the files.
    files: u32,
}

const WAYS: [Way; 7] = [
    Way { name: "sticky", owner: 0, group: 0, mode: 0o1777, list: &[], files: 0o666 },
    Way { name: "set-group-ID", owner: 0, group: GROUP, mode: 0o2775, list: &[], files: 0o660 },
    Way { name: "a group's", owner: 0, group: GROUP, mode: 0o770, list: &[], files: 0o660 },
    Way { name: "a member's", owner: 1301, group: GROUP, mode: 0o775, list: &[], files: 0o660 },
    Way {
        name: "list",
        owner: 1301,
        group: 1301,
        mode: 0o700,
        list: &["-m", "u:1302:rwx"],
        files: 0o660,
    },
    Way {
        name: "list with a default",
        owner: 0,
        group: 0,
        mode: 0o750,
        list: &["-m", "u:1301:rwx,u:1302:rwx,d:u:1301:rwx,d:u:1302:rwx"],
        files: 0o660,
    },
    Way {
        name: "list for a group",
        owner: 0,
        group: 0,
        mode: 0o755,
        list: &["-m", "g:1300:rwx"],
        files: 0o660,
    },
];

#[test]
fn whoever_a_directory_lets_in_gets_their_turn_whatever_the_umask() {
    everybodys_turn(&["022", "027", "077"], false);
}

#[test]
fn the_same_where_no_file_is_without_a_name() {
    everybodys_turn(&["077"], true);
}

fn everybodys_turn(umasks: &[&str], deny_unnamed_files: bool) {
    if !can_be_others() || !have("setfacl") {
        return;
    }
    for umask in umasks {
        let start = |command: &str| {
            let mut party = Party::start(&format!("umask {umask}"), command);
            if deny_unnamed_files {
                party.does("deny-unnamed-files");
            }
            party
        };
        let mut parties = vec![start("env")];
        for id in MEMBERS {
            parties.push(start(&format!("setpriv --reuid {id} --regid {id} --groups {GROUP}")));
        }
        for (way, first) in WAYS.iter().flat_map(|way| [0, 1, 2].map(|first| (way, first))) {
            println!("{}, umask {umask}, party {first} first", way.name);
            let scratch = public_scratch();
            let dir = scratch.path().join("locks");
            fs::create_dir(&dir).unwrap();
            chown(&dir, Some(way.owner), Some(way.group)).unwrap();
            chmod(&dir, way.mode);
            if !way.list.is_empty() {
                let mut args = way.list.to_vec();
                args.push(dir.to_str().unwrap());
                run("setfacl", &args);
            }
            let dir = dir.to_str().unwrap();
            parties[first].does(&format!("acquire {dir} s"));
            parties[first].does("release s");
            let file = Path::new(dir).join("s.lock");
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, way.files);
            turns(&mut parties, dir, &file);
        }
    }
}

/// Each of them after each other: hold, be refused, ask, wait, hold two.
fn turns(parties: &mut [Party], dir: &str, file: &Path) {
    for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2)] {
        parties[one].does(&format!("acquire {dir} s"));
        let label = fs::read_to_string(file).unwrap();
        let pid = parties[one].0.pid();
        assert_eq!(label.lines().next(), Some(pid.to_string().as_str()), "there is a label");
        parties[other].fails(&format!("acquire {dir} s"), libc::EWOULDBLOCK);
        parties[other].fails(&format!("wait {dir} s 1"), libc::ETIMEDOUT);
        assert_eq!(parties[other].told(&format!("holder {dir} s")), format!("Held {pid}"));
        parties[other].0.say(&format!("wait {dir} s 600000"));
        support::until_blocked(parties[other].0.pid(), support::inode(file));
        parties[one].does("release s");
        parties[other].0.hear("ok");
        parties[other].does(&format!("acquire {dir} within-{one}-{other}"));
        parties[one].fails(&format!("acquire {dir} within-{one}-{other}"), libc::EWOULDBLOCK);
        parties[other].does(&format!("release within-{one}-{other}"));
        parties[other].does("release s");
    }
}

#[test]
fn who_may_not_write_a_directory_gets_no_right_to_its_files() {
    if !can_be_others() || !have("setfacl") {
        return;
    }
    let mut stranger = Party::start("", "setpriv --reuid 1303 --regid 1303 --clear-groups");
    let mut reader = Party::start("", "setpriv --reuid 1304 --regid 1304 --clear-groups");
    for way in WAYS.iter().filter(|way| way.name != "sticky") {
        let scratch = public_scratch();
        let dir = scratch.path().join("locks");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(way.owner), Some(way.group)).unwrap();
        chmod(&dir, way.mode | 0o005);
        let mut args = way.list.to_vec();
        args.extend(["-m", "u:1304:r-x", dir.to_str().unwrap()]);
        run("setfacl", &args);
        SessionLock::acquire(Some(&dir), "s").unwrap().release().unwrap();
        for party in [&mut stranger, &mut reader] {
            party.fails(&format!("acquire {} s", dir.display()), libc::EACCES);
            party.fails(&format!("acquire {} new", dir.display()), libc::EACCES);
        }
    }
}

#[test]
fn the_superuser_locks_no_owner_out() {
    if !can_be_others() {
        return;
    }
    let scratch = public_scratch();
    for mode in [0o700, 0o755] {
        let dir = scratch.path().join(format!("{mode:o}"));
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(1301), Some(1301)).unwrap();
        chmod(&dir, mode);
        SessionLock::acquire(Some(&dir), "s").unwrap().release().unwrap();
        let stat = dir.join("s.lock").metadata().unwrap();
        assert_eq!((stat.uid(), stat.mode() & 0o7777), (1301, 0o600));
        let mut owner = Party::start("", "setpriv --reuid 1301 --regid 1301 --clear-groups");
        owner.does(&format!("acquire {} s", dir.display()));
        SessionLock::acquire(Some(&dir), "s").unwrap_err();
        owner.does("release s");
    }
}

/// On a filesystem without `O_TMPFILE` a file has its name before it has its rights.
#[test]
fn a_file_that_is_about_to_be_opened_to_others_is_waited_for() {
    if !can_be_others() {
        return;
    }
    let scratch = public_scratch();
    let dir = scratch.path().join("locks");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o1777);
    let file = dir.join("s.lock");
    fs::write(&file, "").unwrap();
    chmod(&file, 0o600);
    let mut other = Party::start("", "setpriv --reuid 1301 --regid 1301 --clear-groups");
    other.does(&format!("acquire {} another", dir.display()));
    other.0.say(&format!("acquire {} s", dir.display()));
    let threads = format!("/proc/{}/task", other.0.pid());
    let sleeps = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].map(|call| format!("{call} "));
    support::until("it tries again", || {
        fs::read_dir(&threads).unwrap().any(|thread| {
            let call =
                fs::read_to_string(thread.unwrap().path().join("syscall")).unwrap_or_default();
            sleeps.iter().any(|sleep| call.starts_with(sleep))
        })
    });
    chmod(&file, 0o666);
    other.0.hear("ok");
    other.does("release s");
    // But not for ever.
    chmod(&file, 0o600);
    other.fails(&format!("acquire {} s", dir.display()), libc::EACCES);
}

// ----------------------------------------------------------------------------- what others may do

/// hardlink(1) makes one file of those with the same contents; then they are one lock.
#[test]
fn released_files_are_not_merged_into_one() {
    if !have("hardlink") {
        return;
    }
    let scratch = support::scratch();
    let dir = scratch.path();
    let file = |name: &str| dir.join(name);
    for session in ["one", "other"] {
        SessionLock::acquire(Some(dir), session).unwrap().release().unwrap();
    }
    for (name, text) in
        [("copy", "the same"), ("original", "the same"), ("a.lock", ""), ("b.lock", "")]
    {
        fs::write(file(name), text).unwrap();
    }
    run("hardlink", &["-c", dir.to_str().unwrap()]);
    assert_eq!(
        support::inode(&file("copy")),
        support::inode(&file("original")),
        "it does its work"
    );
    let sessions = ["one", "other", "a", "b"];
    let locks = sessions.map(|session| SessionLock::acquire(Some(dir), session).unwrap());
    for lock in locks {
        lock.release().unwrap();
    }
    // Whose files are merged is told what to do.
    fs::remove_file(file("b.lock")).unwrap();
    fs::hard_link(file("a.lock"), file("b.lock")).unwrap();
    let error = SessionLock::acquire(Some(dir), "b").unwrap_err();
    assert_eq!(error.errno(), libc::EPERM);
    assert!(error.to_string().contains("cp -p FILE COPY; mv COPY FILE"), "{error}");
    let (from, copy) = (file("b.lock"), file("copy.new"));
    run("cp", &["-p", from.to_str().unwrap(), copy.to_str().unwrap()]);
    run("mv", &[copy.to_str().unwrap(), from.to_str().unwrap()]);
    for session in ["a", "b"] {
        SessionLock::acquire(Some(dir), session).unwrap().release().unwrap();
    }
}

#[test]
fn a_cleaner_of_tmp_leaves_lock_files_alone() {
    if !have("systemd-tmpfiles") {
        return;
    }
    let scratch = support::scratch();
    let root = scratch.path();
    let tmp = root.join("tmp");
    fs::create_dir_all(tmp.join("session-lock-1234")).unwrap();
    fs::create_dir_all(root.join("usr/lib/tmpfiles.d")).unwrap();
    for file in ["session-lock-1234/s.lock", "other"] {
        fs::write(tmp.join(file), "").unwrap();
    }
    // As tmp.conf of systemd, but everything is old enough.
    fs::write(root.join("usr/lib/tmpfiles.d/tmp.conf"), "q /tmp 1777 root root 0\n").unwrap();
    let clean = || {
        run("systemd-tmpfiles", &["--clean", &format!("--root={}", root.display())]);
        ["session-lock-1234/s.lock", "other"].map(|file| tmp.join(file).exists())
    };
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/tmpfiles.d/session-lock.conf");
    let installed = root.join("usr/lib/tmpfiles.d/session-lock.conf");
    fs::copy(ours, &installed).unwrap();
    assert_eq!(clean(), [true, false]);
    fs::remove_file(installed).unwrap();
    assert_eq!(clean(), [false, false]);
}

// ------------------------------------------------------------------------------ a change of identity

fn check_tells_what_the_process_can_see_now(_: &mut Stage) {
    if !is_root() {
        return;
    }
    let scratch = support::scratch();
    let (dir, other) = (scratch.path().join("locks"), scratch.path().join("root"));
    fs::create_dir(&other).unwrap();
    let acquire = |session: &str| SessionLock::acquire(Some(&dir), session).unwrap();
    let file = dir.join("s.lock");
    let errno = |result: Result<(), Error>| result.unwrap_err().errno();

    let lock = acquire("s");
    become_user(1301);
    assert_eq!(errno(lock.check()), libc::EACCES);
    become_user(0);
    lock.check().unwrap();
    become_user(1301);
    // It is released all the same.
    assert_eq!(errno(lock.release()), libc::EACCES);
    become_user(0);
    assert!(support::is_free(&file));

    let lock = acquire("s");
    let child = support::fork(|| {
        let lock = acquire("t");
        std::os::unix::fs::chroot(&other).unwrap();
        assert_eq!(errno(lock.check()), libc::ESTALE);
        assert_eq!(errno(lock.release()), libc::ESTALE);
    });
    child.ended_well();
    assert!(support::is_free(&dir.join("t.lock")));
    lock.release().unwrap();
}

fn become_user(id: u32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::seteuid(id) }, 0);
}
