//! What is refused, with which error; and that a refusal leaves nothing behind.

mod support;

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::ptr;
use std::thread;
use std::time::Duration;

use session_lock::{Error, SessionLock, State, holder, list, path};
use support::{Actor, Forked, Stage};

support::alone!(
    the_expected_outcomes,
    names,
    files_that_are_no_lock_files,
    directories,
    directories_of_other_users_and_groups,
    the_default_directory,
    another_users_file_in_a_sticky_directory,
    a_file_that_may_only_be_read,
    a_read_only_filesystem,
    a_full_filesystem,
    modes,
    a_relative_directory,
    no_descriptors_left,
    no_threads_left,
    no_file_may_be_written;
    ("default path", |stage| {
        // SAFETY: cannot fail, and no memory is involved.
        let uid = unsafe { libc::geteuid() };
        let found = path(None, "s").map(|path| path.display().to_string());
        let found = found.unwrap_or_else(|error| format!("{} {error}", error.errno()));
        stage.say(&format!("{uid} {found}"));
    }),
);

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(600);

// -------------------------------------------------------------------------------------- a refusal

/// What a call could leave behind.
#[derive(Debug, PartialEq)]
struct Traces {
    descriptors: Vec<(String, String)>,
    threads: usize,
    locks: Vec<support::Flock>,
}

impl Traces {
    fn now() -> Traces {
        let ours = |lock: &support::Flock| lock.pid == process::id();
        Traces {
            descriptors: support::open_descriptors(),
            threads: support::thread_count(),
            locks: support::flocks().into_iter().filter(ours).collect(),
        }
    }
}

#[track_caller]
fn leaving_no_trace<T>(body: impl FnOnce() -> T) -> T {
    let before = Traces::now();
    let result = body();
    // A thread that was joined can be seen in /proc for a moment.
    support::until("the threads are as before", || support::thread_count() == before.threads);
    assert_eq!(Traces::now(), before);
    result
}

/// All that is in a directory: names, inodes, modes, and what regular files contain.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, Vec<u8>)> {
    let mut tree = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            tree.extend(self::tree(&path));
        }
        let text = if stat.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        tree.insert(path, (stat.ino(), stat.mode(), text));
    }
    tree
}

type Attempt = fn(Option<&Path>, &OsStr) -> Result<SessionLock, Error>;
const ATTEMPTS: [Attempt; 4] = [
    |dir, session| SessionLock::acquire(dir, session),
    |dir, session| SessionLock::wait(dir, session, None, None),
    |dir, session| SessionLock::wait(dir, session, Some(Duration::ZERO), None),
    |dir, session| SessionLock::wait(dir, session, Some(SHORT), None),
];

/// Every way to ask for the lock fails with this error, and changes nothing in the directory.
#[track_caller]
fn assert_refused(dir: Option<&Path>, session: impl AsRef<OsStr>, errno: i32) {
    let before = dir.map(tree);
    for attempt in ATTEMPTS {
        let error = leaving_no_trace(|| attempt(dir, session.as_ref())).unwrap_err();
        assert_eq!(error.errno(), errno, "{error}");
        assert_eq!(dir.map(tree), before, "{error}");
    }
}

/// Every way to ask for the lock gets it. The answer is whether there was a label.
#[track_caller]
fn assert_granted(dir: Option<&Path>) -> bool {
    let mut labelled = false;
    for attempt in ATTEMPTS {
        leaving_no_trace(|| {
            let lock = attempt(dir, "s".as_ref()).unwrap();
            assert!(!support::is_free(lock.path()));
            let text = fs::read_to_string(lock.path()).unwrap();
            labelled = text.lines().next() == Some(process::id().to_string().as_str());
            assert_eq!(holder(dir, "s").unwrap().pid, Some(process::id()));
            lock.check().unwrap();
            lock.release().unwrap();
        });
    }
    labelled
}

/// Says which row of a table it was that failed.
struct Row(String);

impl Drop for Row {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the row: {}", self.0);
        }
    }
}

// ----------------------------------------------------------------------------------- other parties

/// A child that holds `s` until it is told.
struct Elsewhere {
    child: Forked,
    go_on: UnixStream,
}

impl Elsewhere {
    fn hold(dir: &Path) -> Elsewhere {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Some(ours);
        let child = support::fork(|| {
            // Then it also sees that the test has ended.
            drop(ours.take());
            let lock = SessionLock::acquire(Some(dir), "s").unwrap();
            theirs.write_all(b"!").unwrap();
            let _ = theirs.read(&mut [0]);
            lock.release().unwrap();
        });
        let mut go_on = ours.unwrap();
        go_on.read_exact(&mut [0]).unwrap();
        Elsewhere { child, go_on }
    }

    fn release(&mut self) {
        self.go_on.write_all(b"!").unwrap();
    }
}

/// Runs `body` in a child with this user and no group but this one.
#[track_caller]
fn as_user(id: u32, body: impl FnOnce()) {
    let child = support::fork(|| {
        // SAFETY: a null pointer is allowed for no groups.
        assert_eq!(unsafe { libc::setgroups(0, ptr::null()) }, 0);
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::setresgid(id, id, id) }, 0);
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::setresuid(id, id, id) }, 0);
        // Or else its own /proc/self is closed to it.
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }, 0);
        body();
    });
    child.ended_well();
}

/// A user whom nobody else is: tests of several checkouts may run at the same time.
fn somebody(number: u32) -> u32 {
    3_000_000_000 + 10 * process::id() + number
}

/// One that other users can reach.
fn public_scratch() -> tempfile::TempDir {
    let scratch = support::scratch();
    chmod(scratch.path(), 0o755);
    scratch
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn make_node(path: &Path, kind: libc::mode_t, major: u32, minor: u32) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is NUL-terminated and lives through the call.
    let result = unsafe { libc::mknod(path.as_ptr(), kind | 0o666, libc::makedev(major, minor)) };
    assert_eq!(result, 0, "mknod: {}", io::Error::last_os_error());
}

fn set_umask(mask: libc::mode_t) {
    // SAFETY: cannot fail, and no memory is involved.
    unsafe { libc::umask(mask) };
}

/// What the C library calls the number of a limit.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn set_limit(resource: Resource, soft: libc::rlim_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is the one that the call fills.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: the struct is the one that the call reads.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

// ------------------------------------------------------------------------------ what may be expected

fn the_expected_outcomes(_: &mut Stage) {
    let scratch = support::scratch();
    let dir = Some(scratch.path());
    let (cancelled, hung_up) = UnixStream::pair().unwrap();
    let (readable, mut writer) = UnixStream::pair().unwrap();
    drop(hung_up);
    writer.write_all(b"!").unwrap();
    let cancels = [&cancelled, &readable].map(AsFd::as_fd);

    let assert_cancelled = || {
        for cancel in cancels {
            for timeout in [None, Some(Duration::ZERO), Some(LONG)] {
                let result =
                    leaving_no_trace(|| SessionLock::wait(dir, "s", timeout, Some(cancel)));
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Cancelled { .. }), "{error}");
                assert_eq!(error.errno(), libc::ECANCELED);
            }
        }
    };
    // Also where the lock could be had.
    assert_cancelled();

    let mut elsewhere = Elsewhere::hold(scratch.path());
    let before = tree(scratch.path());
    assert_cancelled();
    let is_held: fn(&Error) -> bool = |error| matches!(error, Error::Held { .. });
    let is_timed_out: fn(&Error) -> bool = |error| matches!(error, Error::TimedOut { .. });
    for (attempt, is_right, errno) in [
        (ATTEMPTS[0], is_held, libc::EWOULDBLOCK),
        (ATTEMPTS[2], is_timed_out, libc::ETIMEDOUT),
        (ATTEMPTS[3], is_timed_out, libc::ETIMEDOUT),
    ] {
        let error = leaving_no_trace(|| attempt(dir, "s".as_ref())).unwrap_err();
        assert!(is_right(&error), "{error}");
        assert_eq!(error.errno(), errno);
        assert!(error.to_string().contains("s.lock"), "{error}");
    }
    assert_interrupted(dir);
    assert_eq!(tree(scratch.path()), before, "a contender has changed the label");

    let number = readable.as_raw_fd();
    drop(readable);
    // SAFETY: not so: it is closed. But the number is only handed to ppoll(2), which says that.
    let closed = unsafe { BorrowedFd::borrow_raw(number) };
    let result = leaving_no_trace(|| SessionLock::wait(dir, "s", Some(LONG), Some(closed)));
    assert_eq!(result.unwrap_err().errno(), libc::EINVAL);
    elsewhere.release();
    elsewhere.child.ended_well();
}

/// A signal handler runs every now and then: a single signal could come before the wait begins.
fn assert_interrupted(dir: Option<&Path>) {
    extern "C" fn ignore(_: libc::c_int) {}
    let child = support::fork(|| {
        let handler: extern "C" fn(libc::c_int) = ignore;
        // SAFETY: all zeros is a valid value: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: the handler does nothing, so it may run at any time.
        let result = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
        assert_eq!(result, 0);
        let every = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: the struct is the one that the call reads.
        let result =
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
        assert_eq!(result, 0);
        for timeout in [None, Some(LONG)] {
            let result = leaving_no_trace(|| SessionLock::wait(dir, "s", timeout, None));
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Interrupted { .. }), "{error}");
            assert_eq!(error.errno(), libc::EINTR);
        }
    });
    child.ended_well();
}

// ------------------------------------------------------------------------------------------- names

fn names(_: &mut Stage) {
    let scratch = support::scratch();
    let dir = Some(scratch.path());
    let long = |bytes: &str, count, more: &str| bytes.repeat(count) + more;
    for (session, errno) in [
        ("", libc::EINVAL),
        ("a\0b", libc::EINVAL),
        (&long("a", 251, ""), libc::ENAMETOOLONG),
        (&long("/", 83, "aa"), libc::ENAMETOOLONG),
        (&long("a", 100_000, ""), libc::ENAMETOOLONG),
    ] {
        assert_refused(dir, session, errno);
        assert_eq!(holder(dir, session).unwrap_err().errno(), errno);
        assert_eq!(path(dir, session).unwrap_err().errno(), errno);
    }
    for bad in ["", "a\0b"] {
        assert_refused(Some(Path::new(bad)), "s", libc::EINVAL);
    }

    let sessions = [
        "a/b",
        "a--b",
        "a%2Fb",
        "a%2fb",
        "a b",
        ".",
        "..",
        "../a",
        "/",
        ".hidden",
        "a.lock",
        "A",
        "a",
        "a\nb",
        "\n",
        "\u{7f}",
        "-",
        "%",
        "%%",
        "ä",
        "a\u{308}",
        "~",
        "$HOME",
        "*",
        "'\"\\",
        &long("a", 250, ""),
        &long("/", 83, "a"),
    ];
    let mut sessions: Vec<OsString> = sessions.map(OsString::from).to_vec();
    sessions.push(OsString::from_vec(vec![0xff, 0xfe]));
    sessions.push(OsString::from_vec((1..=70).collect()));
    // All at the same time: no two share a file.
    let locks: Vec<_> = sessions.iter().map(|name| SessionLock::acquire(dir, name)).collect();
    for (session, lock) in sessions.iter().zip(locks) {
        let lock = lock.unwrap();
        assert_eq!(lock.path(), path(dir, session).unwrap());
        assert_eq!(lock.path().parent(), dir);
        assert!(!lock.path().file_name().unwrap().as_bytes().starts_with(b"."));
        mem::forget(lock);
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), sessions.len());
    let mut listed: Vec<_> = list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
    listed.sort();
    sessions.sort();
    assert_eq!(listed, sessions);
}

// ------------------------------------------------------------------------------------------- files

fn files_that_are_no_lock_files(_: &mut Stage) {
    type Put = fn(&Path);
    let mut files: Vec<(&str, Put, i32)> = vec![
        (
            "a symlink",
            |path| {
                let target = path.with_extension("target");
                fs::write(&target, "precious").unwrap();
                symlink(target, path).unwrap();
            },
            libc::ELOOP,
        ),
        ("a dangling symlink", |path| symlink("nowhere", path).unwrap(), libc::ELOOP),
        ("a symlink to itself", |path| symlink(path, path).unwrap(), libc::ELOOP),
        ("a directory", |path| fs::create_dir(path).unwrap(), libc::EPERM),
        ("a FIFO", |path| make_node(path, libc::S_IFIFO, 0, 0), libc::EPERM),
        ("a socket", |path| drop(UnixListener::bind(path).unwrap()), libc::EPERM),
        (
            "a hard link",
            |path| {
                let other = path.with_extension("other");
                fs::write(&other, "precious").unwrap();
                fs::hard_link(other, path).unwrap();
            },
            libc::EPERM,
        ),
    ];
    if support::is_root() {
        files.extend([
            ("/dev/null", (|path| make_node(path, libc::S_IFCHR, 1, 3)) as Put, libc::EPERM),
            ("/dev/full", |path| make_node(path, libc::S_IFCHR, 1, 7), libc::EPERM),
            ("/dev/tty", |path| make_node(path, libc::S_IFCHR, 5, 0), libc::EPERM),
            ("a disk", |path| make_node(path, libc::S_IFBLK, 7, 0), libc::EPERM),
            (
                "a device without a driver",
                |path| make_node(path, libc::S_IFCHR, 511, 9),
                libc::EPERM,
            ),
            ("a disk without a driver", |path| make_node(path, libc::S_IFBLK, 511, 9), libc::EPERM),
        ]);
    }
    for (what, put, errno) in files {
        let scratch = support::scratch();
        let path = path(Some(scratch.path()), "s").unwrap();
        put(&path);
        let _row = Row(what.to_owned());
        assert_refused(Some(scratch.path()), "s", errno);
        assert_eq!(holder(Some(scratch.path()), "s").unwrap_err().errno(), errno);
    }
}

// ------------------------------------------------------------------------------------- directories

fn directories(_: &mut Stage) {
    let scratch = support::scratch();
    let scratch = scratch.path();
    let file = scratch.join("file");
    fs::write(&file, "").unwrap();
    assert_refused(Some(&file), "s", libc::ENOTDIR);
    assert_refused(Some(&file.join("below")), "s", libc::ENOTDIR);
    symlink("loop", scratch.join("loop")).unwrap();
    assert_refused(Some(&scratch.join("loop")), "s", libc::ELOOP);
    let too_long = scratch.join("a".repeat(256));
    assert_refused(Some(&too_long), "s", libc::ENAMETOOLONG);

    // Missing, parents too; whatever the umask.
    set_umask(0);
    let missing = scratch.join("one/two/three");
    assert_eq!(holder(Some(&missing), "s").unwrap().state, State::Free);
    assert!(!scratch.join("one").exists(), "a question has created something");
    assert!(assert_granted(Some(&missing)));
    for dir in ["one", "one/two", "one/two/three"] {
        assert_eq!(mode(&scratch.join(dir)), 0o700);
    }
    // One that the caller names may be reached over a link.
    symlink(&missing, scratch.join("link")).unwrap();
    assert!(assert_granted(Some(&scratch.join("link"))));

    let dir = scratch.join("dir");
    fs::create_dir(&dir).unwrap();
    for (mode, errno) in [
        (0o777, libc::EPERM),
        (0o702, libc::EPERM),
        (0o1777, 0),
        (0o1702, 0),
        (0o775, 0),
        (0o755, 0),
        (0o700, 0),
    ] {
        chmod(&dir, mode);
        let _row = Row(format!("mode {mode:o}"));
        match errno {
            0 => assert!(assert_granted(Some(&dir))),
            _ => {
                assert_refused(Some(&dir), "s", errno);
                assert_eq!(holder(Some(&dir), "s").unwrap_err().errno(), errno);
                assert_eq!(list(Some(&dir)).unwrap_err().errno(), errno);
            }
        }
    }
}

fn directories_of_other_users_and_groups(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    let scratch = public_scratch();
    let (us, them) = (somebody(1), somebody(2));
    // Who owns it, its group, its mode, and what we are told.
    for (owner, group, mode, errno) in [
        (0, 0, 0o755, libc::EACCES),
        (0, 0, 0o700, libc::EACCES),
        (them, them, 0o755, libc::EACCES),
        (0, us, 0o770, 0),
        (0, us, 0o1770, 0),
        (us, us, 0o770, 0),
        (us, them, 0o770, 0),
        (us, them, 0o1770, 0),
        (us, them, 0o750, 0),
        (them, us, 0o777, libc::EPERM),
        (them, them, 0o1777, 0),
    ] {
        let dir = scratch.path().join(format!("{owner}-{group}-{mode:o}"));
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(owner), Some(group)).unwrap();
        chmod(&dir, mode);
        let _row = Row(dir.display().to_string());
        as_user(us, || match errno {
            0 => assert!(assert_granted(Some(&dir))),
            _ => assert_refused(Some(&dir), "s", errno),
        });
        assert_eq!(fs::read_dir(&dir).unwrap().count(), usize::from(errno == 0));
    }
    // It cannot be created either.
    as_user(us, || assert_refused(Some(&scratch.path().join("new")), "s", libc::EACCES));
    // The superuser is let in everywhere.
    for dir in fs::read_dir(scratch.path()).unwrap() {
        let dir = dir.unwrap().path();
        if mode(&dir) != 0o777 {
            assert!(assert_granted(Some(&dir)));
        }
    }
}

/// Removes what a test has put into /tmp.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_variable(value: Option<&OsStr>) {
    match value {
        // SAFETY: only called in a forked child, which has one thread.
        Some(value) => unsafe { env::set_var("SESSION_LOCK_DIR", value) },
        // SAFETY: as above.
        None => unsafe { env::remove_var("SESSION_LOCK_DIR") },
    }
}

fn the_default_directory(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    let scratch = public_scratch();
    let us = somebody(1);
    let default = PathBuf::from(format!("/tmp/session-lock-{us}"));
    let _removed = Removed(default.clone());
    let elsewhere = scratch.path().join("elsewhere");
    let put = |owner: u32, mode: u32| {
        fs::create_dir(&default).unwrap();
        chown(&default, Some(owner), Some(owner)).unwrap();
        chmod(&default, mode);
    };
    type Put<'a> = Box<dyn Fn() + 'a>;
    let situations: Vec<(&str, Put<'_>, i32)> = vec![
        ("missing", Box::new(|| ()), 0),
        ("ours", Box::new(|| put(us, 0o700)), 0),
        ("ours, for the group to see", Box::new(|| put(us, 0o750)), libc::EPERM),
        ("ours, for the group to search", Box::new(|| put(us, 0o710)), libc::EPERM),
        ("ours, for all to see", Box::new(|| put(us, 0o704)), libc::EPERM),
        ("ours, sticky", Box::new(|| put(us, 0o1777)), libc::EPERM),
        ("the superuser's", Box::new(|| put(0, 0o700)), libc::EPERM),
        ("the superuser's, for all", Box::new(|| put(0, 0o1777)), libc::EPERM),
        ("another user's", Box::new(|| put(somebody(2), 0o777)), libc::EPERM),
        ("a file", Box::new(|| fs::write(&default, "").unwrap()), libc::ENOTDIR),
        ("a dangling link", Box::new(|| symlink(&elsewhere, &default).unwrap()), libc::EPERM),
        (
            "a link to a directory of ours",
            Box::new(|| {
                fs::create_dir(&elsewhere).unwrap();
                chown(&elsewhere, Some(us), Some(us)).unwrap();
                chmod(&elsewhere, 0o700);
                symlink(&elsewhere, &default).unwrap();
            }),
            libc::EPERM,
        ),
    ];
    for (what, put, errno) in situations {
        assert!(fs::symlink_metadata(&default).is_err());
        put();
        let _row = Row(what.to_owned());
        // An empty variable is none.
        for variable in [None, Some(OsStr::new(""))] {
            as_user(us, || {
                set_variable(variable);
                assert_eq!(path(None, "s").unwrap(), default.join("s.lock"));
                match errno {
                    0 => assert!(assert_granted(None)),
                    _ => assert_refused(None, "s", errno),
                }
            });
        }
        if errno == 0 {
            assert_eq!(mode(&default), 0o700);
        }
        drop(Removed(default.clone()));
    }

    // The variable is honoured; what the caller says comes first.
    as_user(us, || {
        set_variable(Some(elsewhere.as_os_str()));
        assert!(assert_granted(None));
        assert!(elsewhere.join("s.lock").exists());
        set_variable(Some(OsStr::new("/nowhere")));
        assert!(assert_granted(Some(&elsewhere)));
        assert!(!default.exists());
    });
}

/// Its caller could lead it to any directory.
#[test]
fn a_set_user_id_program_does_not_obey_the_variable() {
    if !support::is_root() {
        return;
    }
    let scratch = public_scratch();
    let program = scratch.path().join("program");
    // Not by ourselves: a child of another thread could have it open for writing when it is started.
    let mut copy = Command::new("cp");
    assert!(copy.args([&env::current_exe().unwrap(), &program]).status().unwrap().success());
    let us = somebody(1);
    chown(&program, Some(us), None).unwrap();
    chmod(&program, 0o4755);
    let answer = |variable: Option<&str>| {
        let mut actor = Actor::start_with("default path", &[""; 0], |command| {
            let mut other = Command::new(&program);
            other.args(command.get_args()).stdin(Stdio::piped()).stdout(Stdio::piped());
            for (name, value) in command.get_envs() {
                other.env(name, value.unwrap());
            }
            other.env("SESSION_LOCK_DIR", variable.unwrap_or_default());
            *command = other;
        });
        let answer = actor.next().unwrap();
        actor.finish();
        answer
    };
    let without = answer(None);
    if without.starts_with("0 ") {
        return support::skip("the scratch directory is mounted nosuid");
    }
    assert_eq!(without, format!("{us} /tmp/session-lock-{us}/s.lock"));
    let with = answer(Some("/nowhere"));
    assert!(with.starts_with(&format!("{us} {} /nowhere: ", libc::EPERM)), "{with}");
    assert!(with.contains("raised privileges") && with.contains("unset it"), "{with}");
}

#[test]
fn a_program_with_file_capabilities_does_not_obey_the_variable() {
    if !support::is_root() || !support::have("setcap") {
        return;
    }
    let scratch = public_scratch();
    let program = scratch.path().join("program");
    let mut copy = Command::new("cp");
    assert!(copy.args([&env::current_exe().unwrap(), &program]).status().unwrap().success());
    let mut setcap = Command::new("setcap");
    setcap.arg("cap_net_raw=ep").arg(&program);
    if !setcap.status().unwrap().success() {
        return support::skip("the scratch directory takes no file capabilities");
    }
    let us = somebody(1).to_string();
    let as_user = ["setpriv", "--reuid", &us, "--regid", &us, "--clear-groups"];
    let answer = |variable: &str| {
        let variable = format!("SESSION_LOCK_DIR={variable}");
        let script = ["sh", "-c", "program=$1; shift 2; exec \"$program\" \"$@\"", "sh"];
        let mut words = vec!["env", &variable];
        words.extend(as_user);
        words.extend(script);
        words.push(program.to_str().unwrap());
        let mut actor = Actor::start_under(&words, "default path", &[""; 0]);
        let answer = actor.next().unwrap();
        actor.finish();
        answer
    };
    assert_eq!(answer(""), format!("{us} /tmp/session-lock-{us}/s.lock"));
    let refused = answer("/nowhere");
    assert!(refused.starts_with(&format!("{us} {} /nowhere: ", libc::EPERM)), "{refused}");
}

// ------------------------------------------------------------------------- files of other users

/// A kernel setting, for as long as this lives.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    /// `None` where it cannot be changed.
    fn change(path: &'static str, value: &str) -> Option<Setting> {
        let before = fs::read_to_string(path).ok()?;
        fs::write(path, value).ok()?;
        Some(Setting { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.before);
    }
}

fn another_users_file_in_a_sticky_directory(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    let scratch = public_scratch();
    let (us, them) = (somebody(1), somebody(2));
    // In such a directory the kernel may refuse O_CREAT for another user's file.
    for value in ["0", "1", "2"] {
        let Some(_setting) = Setting::change("/proc/sys/fs/protected_regular", value) else {
            support::skip("fs.protected_regular cannot be set");
            continue;
        };
        for umask in [0, 0o022, 0o077] {
            let dir = scratch.path().join(format!("{value}-{umask:o}"));
            fs::create_dir(&dir).unwrap();
            chmod(&dir, 0o1777);
            as_user(them, || {
                set_umask(umask);
                assert!(assert_granted(Some(&dir)));
                assert_eq!(mode(&dir.join("s.lock")), 0o666);
            });
            as_user(us, || assert!(assert_granted(Some(&dir))));
            as_user(them, || assert!(assert_granted(Some(&dir))));
        }
    }
}

fn a_file_that_may_only_be_read(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    let scratch = public_scratch();
    let dir = scratch.path();
    let file = dir.join("s.lock");
    fs::write(&file, "not ours\n").unwrap();
    for (mode, granted) in [(0o644, true), (0o444, true), (0o600, false), (0o622, false)] {
        chmod(&file, mode);
        as_user(somebody(1), || {
            if granted {
                assert!(!assert_granted(Some(dir)));
                // It excludes others as well as one with a label does.
                let lock = SessionLock::acquire(Some(dir), "s").unwrap();
                assert!(!support::is_free(&file));
                assert_eq!(holder(Some(dir), "s").unwrap().state, State::Held);
                lock.release().unwrap();
            } else {
                assert_refused(Some(dir), "s", libc::EACCES);
            }
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), "not ours\n");
    }
}

/// A filesystem of its own for a child, which sees it alone.
#[track_caller]
fn with_filesystem(options: &str, body: impl FnOnce(&Path)) {
    let scratch = support::scratch();
    let dir = CString::new(scratch.path().as_os_str().as_bytes()).unwrap();
    let options = CString::new(options).unwrap();
    let child = support::fork(|| {
        // SAFETY: no memory is involved.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        assert_eq!(result, 0, "unshare: {}", io::Error::last_os_error());
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE, c"");
        mount(&dir, &dir, 0, &options);
        body(scratch.path());
    });
    child.ended_well();
}

fn mount(
    what: &std::ffi::CStr,
    dir: &std::ffi::CStr,
    flags: libc::c_ulong,
    options: &std::ffi::CStr,
) {
    // SAFETY: all strings are NUL-terminated and live through the call.
    let result = unsafe {
        libc::mount(what.as_ptr(), dir.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast())
    };
    assert_eq!(result, 0, "mount: {}", io::Error::last_os_error());
}

fn a_read_only_filesystem(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    with_filesystem("mode=755", |dir| {
        assert!(assert_granted(Some(dir)));
        let c_dir = CString::new(dir.as_os_str().as_bytes()).unwrap();
        mount(c"none", &c_dir, libc::MS_REMOUNT | libc::MS_RDONLY, c"");
        assert!(!assert_granted(Some(dir)));
        assert_refused(Some(dir), "another", libc::EROFS);
        assert_refused(Some(&dir.join("new")), "s", libc::EROFS);
    });
}

fn a_full_filesystem(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    with_filesystem("mode=755,size=64k,nr_inodes=4", |dir| {
        let mut filler = File::create(dir.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        // The file is created, the label does not fit.
        assert!(!assert_granted(Some(dir)));
        File::create(dir.join("another filler")).unwrap();
        assert_refused(Some(dir), "another", libc::ENOSPC);
        assert!(!assert_granted(Some(dir)));
    });
}

fn modes(_: &mut Stage) {
    let scratch = support::scratch();
    for umask in [0, 0o027, 0o777] {
        for (dir_mode, file_mode) in
            [(0o700, 0o600), (0o755, 0o600), (0o770, 0o660), (0o1777, 0o666), (0o1755, 0o600)]
        {
            let dir = scratch.path().join(format!("{umask:o}-{dir_mode:o}"));
            fs::create_dir_all(&dir).unwrap();
            chmod(&dir, dir_mode);
            set_umask(umask);
            assert!(assert_granted(Some(&dir)));
            set_umask(0);
            assert_eq!(mode(&dir.join("s.lock")), file_mode, "{dir_mode:o}, umask {umask:o}");
            // What is there is left as it is.
            chmod(&dir.join("s.lock"), 0o606);
            assert!(assert_granted(Some(&dir)));
            assert_eq!(mode(&dir.join("s.lock")), 0o606);
        }
    }
}

fn a_relative_directory(_: &mut Stage) {
    let scratch = support::scratch();
    env::set_current_dir(scratch.path()).unwrap();
    let lock = SessionLock::acquire(Some(Path::new("locks")), "s").unwrap();
    assert!(lock.path().is_absolute());
    fs::create_dir("elsewhere").unwrap();
    env::set_current_dir("elsewhere").unwrap();
    lock.check().unwrap();
    assert_eq!(fs::read_dir(".").unwrap().count(), 0);
    assert!(!support::is_free(&scratch.path().join("locks/s.lock")));
    lock.release().unwrap();
    // Where the current directory is gone.
    fs::remove_dir(scratch.path().join("elsewhere")).unwrap();
    assert_refused(Some(Path::new("locks")), "s", libc::ENOENT);
}

// ------------------------------------------------------------------------------------------ limits

/// While it lives, this process can open only so many more descriptors.
struct DescriptorsLeft {
    _fillers: Vec<OwnedFd>,
}

impl DescriptorsLeft {
    fn new(left: libc::rlim_t) -> DescriptorsLeft {
        let mut last = 0;
        for (number, _) in support::open_descriptors() {
            last = last.max(number.parse().unwrap());
        }
        let mut fillers = Vec::new();
        loop {
            // SAFETY: no memory is involved.
            let number = unsafe { libc::dup(0) };
            assert_ne!(number, -1);
            // SAFETY: the call has just given us this descriptor.
            let filler = unsafe { OwnedFd::from_raw_fd(number) };
            if number > last {
                break;
            }
            fillers.push(filler);
        }
        set_limit(libc::RLIMIT_NOFILE, libc::rlim_t::try_from(last).unwrap() + 1 + left);
        DescriptorsLeft { _fillers: fillers }
    }
}

impl Drop for DescriptorsLeft {
    fn drop(&mut self) {
        set_limit(libc::RLIMIT_NOFILE, libc::RLIM_INFINITY);
    }
}

fn no_descriptors_left(_: &mut Stage) {
    let scratch = support::scratch();
    let dir = Some(scratch.path());
    // The file exists, or is to be created.
    for session in ["s", "another"] {
        for attempt in ATTEMPTS {
            let result = leaving_no_trace(|| {
                let _left = DescriptorsLeft::new(0);
                attempt(dir, session.as_ref())
            });
            assert_eq!(result.unwrap_err().errno(), libc::EMFILE);
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), usize::from(session != "s"));
        SessionLock::acquire(dir, "s").unwrap().release().unwrap();
    }
    // Enough for the lock file.
    let lock = {
        let _left = DescriptorsLeft::new(1);
        SessionLock::acquire(dir, "s").unwrap()
    };
    assert!(!support::is_free(lock.path()));
    lock.release().unwrap();
    // But not for an eventfd.
    assert_waits(scratch.path(), || DescriptorsLeft::new(1));
}

fn no_threads_left(_: &mut Stage) {
    if !support::is_root() {
        return;
    }
    let scratch = public_scratch();
    let dir = scratch.path().join("locks");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o1777);
    // (The superuser has no such limit.)
    as_user(somebody(1), || {
        assert_waits(&dir, || set_limit(libc::RLIMIT_NPROC, 0));
    });
}

/// A wait with a deadline works where there is no helper thread to be had.
fn assert_waits<T>(dir: &Path, starve: impl Fn() -> T) {
    let mut elsewhere = Elsewhere::hold(dir);
    let result = leaving_no_trace(|| {
        let _starved = starve();
        SessionLock::wait(Some(dir), "s", Some(SHORT), None)
    });
    assert_eq!(result.unwrap_err().errno(), libc::ETIMEDOUT);
    let lock = {
        let _starved = starve();
        elsewhere.release();
        SessionLock::wait(Some(dir), "s", Some(LONG), None).unwrap()
    };
    assert!(!support::is_free(lock.path()));
    lock.release().unwrap();
    elsewhere.child.ended_well();
}

fn no_file_may_be_written(_: &mut Stage) {
    let scratch = support::scratch();
    let dir = Some(scratch.path());
    let child = support::fork(|| {
        // A write would raise SIGXFSZ, which ends the process.
        let lock = SessionLock::acquire(dir, "s").unwrap();
        set_limit(libc::RLIMIT_FSIZE, 0);
        lock.check().unwrap();
        lock.release().unwrap();
        let label = fs::read(scratch.path().join("s.lock")).unwrap();
        assert_eq!(holder(dir, "s").unwrap().state, State::Free);
        for limit in [0, 1, 511] {
            set_limit(libc::RLIMIT_FSIZE, limit);
            let lock = SessionLock::acquire(dir, "s").unwrap();
            assert!(!support::is_free(lock.path()));
            assert_eq!(holder(dir, "s").unwrap().pid, Some(process::id()));
            lock.check().unwrap();
            lock.release().unwrap();
            assert_eq!(fs::read(scratch.path().join("s.lock")).unwrap(), label);
        }
        set_limit(libc::RLIMIT_FSIZE, 512);
        assert!(assert_granted(dir));
    });
    child.ended_well();
}
