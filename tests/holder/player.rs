//! A process that takes locks and asks about them when it is told to.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::{process, ptr, thread};

use session_lock::{Holder, LockOptions, SessionLock, holder, list, processes};

use crate::support::{Actor, Stage, until};

/// An answer in words: `Held 4711 orphaned confirmed labelled`. *Labelled* means that it knows more
/// than the kernel does.
pub fn words(holder: &Holder) -> String {
    let mut words = format!("{:?}", holder.state);
    if let Some(pid) = holder.pid {
        words += &format!(" {pid}");
    }
    for (is, word) in [
        (holder.orphaned, " orphaned"),
        (holder.confirmed, " confirmed"),
        (holder.acquired_at_ms.is_some(), " labelled"),
    ] {
        if is {
            words += word;
        }
    }
    words
}

pub fn ask(dir: &Path, session: &str) -> String {
    words(&holder(Some(dir), session).unwrap())
}

/// What `list` says of the session; it must be what `holder` says.
pub fn ask_both(dir: &Path, session: &str) -> String {
    let sessions = list(Some(dir)).unwrap();
    let listed = sessions.iter().find(|one| one.name == session).expect("not listed");
    let asked = holder(Some(dir), session).unwrap();
    assert_eq!(listed.holder, asked);
    words(&asked)
}

pub fn pids_of_processes(dir: &Path, session: &str) -> Vec<u32> {
    let mut pids: Vec<u32> =
        processes(Some(dir), session).unwrap().iter().map(|process| process.pid).collect();
    pids.sort_unstable();
    pids
}

/// The role. Each line of the test is a command and the session that it is about.
pub fn play(stage: &mut Stage) {
    let dir = stage.args[0].clone();
    let dir = Path::new(&dir);
    let mut locks: HashMap<String, SessionLock> = HashMap::new();
    let mut files = Vec::new();
    let mut nested: Option<(Player, Life)> = None;
    let mut reborn = Vec::new();
    let mut sockets = Vec::new();
    let mut guarded = Vec::new();
    let mut pidfds = Vec::new();
    while let Some(line) = stage.next() {
        let (command, session) = line.split_once(' ').unwrap();
        let answer = match command {
            "acquire" => {
                let lock = SessionLock::acquire(Some(dir), session).unwrap();
                locks.insert(session.to_owned(), lock);
                process::id().to_string()
            }
            "release" => {
                locks.remove(session).unwrap().release().unwrap();
                "released".to_owned()
            }
            "flock" | "share" | "wait" => {
                let file = open(&session_lock::path(Some(dir), session).unwrap());
                let operation = match command {
                    "flock" => libc::LOCK_EX | libc::LOCK_NB,
                    "share" => libc::LOCK_SH | libc::LOCK_NB,
                    _ => libc::LOCK_EX,
                };
                flock(&file, operation);
                files.push(file);
                process::id().to_string()
            }
            "flock-in-thread-and-end-the-first-one" => {
                let file = open(&session_lock::path(Some(dir), session).unwrap());
                flock(&file, libc::LOCK_EX | libc::LOCK_NB);
                stage.say(&process::id().to_string());
                end_all_threads_but_one()
            }
            // A player of this one's own, in the same namespaces.
            "nested-acquire" => {
                let mut player = Player::start(dir);
                let pid = player.pid_of(&format!("acquire {session}"));
                nested = Some((player, Life::of(pid)));
                pid.to_string()
            }
            "nested-kill" => nested.as_mut().unwrap().0.0.kill().to_string(),
            "nested-reborn" => {
                reborn.push(Reborn::start(&nested.as_ref().unwrap().1, None).expect("too late"));
                "reborn".to_owned()
            }
            "child" => bare_child().to_string(),
            // The lock's only descriptor is on its way to nobody.
            "flock-into-a-socket" => {
                let file = open(&session_lock::path(Some(dir), session).unwrap());
                flock(&file, libc::LOCK_EX | libc::LOCK_NB);
                sockets.push(send_to_nobody(file));
                process::id().to_string()
            }
            // Nor does the process's own table of descriptors have it.
            "acquire-in-a-table-of-its-own" => {
                acquire_in_a_table_of_its_own(dir, session);
                process::id().to_string()
            }
            // As a guardian does, for the process with that number.
            "guard" => {
                let options = LockOptions::new().directory(dir);
                let lock = options.until_exit_of(session.parse().unwrap()).acquire("s").unwrap();
                let lock = lock.into_fd().unwrap();
                session_lock::set_guardian(lock.as_fd(), process::id()).unwrap();
                guarded.push(lock);
                process::id().to_string()
            }
            "call-itself" => {
                // The name of the first thread, which the process is shown with.
                fs::write("/proc/self/comm", session).unwrap();
                session.to_owned()
            }
            "watch-a-child-that-ends" => {
                let mut child = Command::new("true").spawn().unwrap();
                pidfds.push(pidfd_open(child.id()));
                child.wait().unwrap();
                "it has ended".to_owned()
            }
            "ask" => ask(dir, session),
            "list" => ask_both(dir, session),
            // What both say where neither has an answer.
            "errors" => format!(
                "holder: {}; list: {}",
                holder(Some(dir), session).unwrap_err(),
                list(Some(dir)).unwrap_err()
            ),
            "processes" => format!("{:?}", pids_of_processes(dir, session)),
            "pin" => pin(session.parse().unwrap()),
            "become" => become_user(session.parse().unwrap()),
            _ => unreachable!("no such command: {command}"),
        };
        stage.say(&answer);
    }
}

/// Leaves a descriptor in a socket's queue (`SCM_RIGHTS`, unix(7)).
fn send_to_nobody(file: File) -> (UnixStream, UnixStream) {
    let (from, to) = UnixStream::pair().unwrap();
    let mut byte = [0u8];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0u64; 8];
    // SAFETY: zeros are a valid message, of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: computes a size.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as _;
    // SAFETY: the message has room for a header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the header is within `control`, which is aligned for it.
    let header = unsafe { &mut *header };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: computes a size.
    header.cmsg_len = unsafe { libc::CMSG_LEN(4) } as _;
    // SAFETY: the header is whole.
    let payload = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the data follow the header, within `control`.
    unsafe { payload.cast::<i32>().write_unaligned(file.as_raw_fd()) };
    // SAFETY: the message and all that it points to live through the call.
    assert_eq!(unsafe { libc::sendmsg(from.as_raw_fd(), &raw const message, 0) }, 1);
    (from, to)
}

/// By a thread that shares its descriptors with no other one, and lives as long as the process.
fn acquire_in_a_table_of_its_own(dir: &Path, session: &str) {
    let (dir, session) = (dir.to_owned(), session.to_owned());
    let (acquired, is_acquired) = mpsc::channel();
    thread::spawn(move || {
        // SAFETY: the descriptors stay as they are; no memory is involved.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        let _lock = SessionLock::acquire(Some(&dir), session).unwrap();
        acquired.send(()).unwrap();
        loop {
            thread::park();
        }
    });
    is_acquired.recv().expect("the thread has failed");
}

fn pidfd_open(pid: u32) -> OwnedFd {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the call has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

pub fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

pub fn flock(file: &File, operation: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::flock(file.as_raw_fd(), operation) }, 0);
}

/// A child by a bare `clone(2)`: no fork hook runs, so it keeps the descriptors. It lives until
/// standard input ends.
fn bare_child() -> libc::c_long {
    // SAFETY: without a stack of its own the child is a copy, as from fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        let mut byte = 0u8;
        // SAFETY: the buffer has room for the one byte; the call is safe in a copy of a program
        // with threads, as the next one is.
        while unsafe { libc::read(0, (&raw mut byte).cast(), 1) } > 0 {}
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    assert_ne!(pid, -1);
    pid
}

/// Goes on in a second thread after the first one, the process's own, has ended.
fn end_all_threads_but_one() -> ! {
    thread::spawn(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        process::exit(0);
    });
    // The role runs in a thread of the test harness. Signal handlers run in the first thread, if it
    // takes the signal: this one ends it.
    extern "C" fn end_thread(_: i32) {
        // SAFETY: ends the calling thread only.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    let handler = end_thread as extern "C" fn(i32);
    // SAFETY: the handler makes one system call.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let pid = process::id();
    // SAFETY: the first thread exists, and has the process's number.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1) };
    loop {
        thread::park();
    }
}

/// From now on this thread runs on one processor: the kernel lists the locks that were taken on each
/// processor one after the other.
pub fn pin(processor: usize) -> String {
    // SAFETY: zeros are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set has room for 1024 processors.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set lives through the call.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    format!("pinned {failed}")
}

fn become_user(uid: u32) -> String {
    // SAFETY: the list is empty.
    assert_eq!(unsafe { libc::setgroups(0, ptr::null()) }, 0);
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::setgid(uid) }, 0);
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::setuid(uid) }, 0);
    format!("user {uid}")
}

/// The player, seen from the test.
pub struct Player(pub Actor);

impl Player {
    pub fn start(dir: &Path) -> Player {
        Player(Actor::start("player", &[dir]))
    }

    /// In a directory with a name of any bytes, which it reaches as its working directory.
    pub fn start_in(dir: &Path) -> Player {
        Player(Actor::start_with("player", &["."], |command| {
            command.current_dir(dir);
        }))
    }

    pub fn start_under(wrapper: &[&str], dir: &Path) -> Player {
        Player(Actor::start_under(wrapper, "player", &[dir]))
    }

    /// Its answer.
    #[track_caller]
    pub fn tell(&mut self, line: &str) -> String {
        self.0.say(line);
        self.0.next().expect("the player has failed")
    }

    /// Its answer, once it is a certain one: who may not look at everybody has to wait until the
    /// kernel's table comes to rest.
    #[track_caller]
    pub fn tell_for_certain(&mut self, line: &str) -> String {
        let mut answer = String::new();
        until("a certain answer", || {
            answer = self.tell(line);
            answer != "Free" && answer != "Unknown"
        });
        answer
    }

    /// The PID, as the player sees itself.
    #[track_caller]
    pub fn pid_of(&mut self, line: &str) -> u32 {
        self.tell(line).parse().unwrap()
    }
}

pub fn stat_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap()
}

/// Whether all threads of a process are dead, and nobody has waited for it.
pub fn is_zombie(pid: u32) -> bool {
    let stat = stat_of(pid);
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[0], fields[17]) == ("Z", "1")
}

/// One use of a PID.
pub struct Life {
    pub pid: u32,
    start: String,
}

impl Life {
    pub fn of(pid: u32) -> Life {
        // The 22nd of 52 fields; a blank in the second one does no harm from this end.
        let start = stat_of(pid).rsplit(' ').nth(30).unwrap().to_owned();
        Life { pid, start }
    }
}

/// A process with the number of one that is gone; killed when dropped.
pub struct Reborn(i32);

impl Reborn {
    /// `None` if another process got the number first. With `path`, it has flocked that file.
    pub fn start(gone: &Life, path: Option<&CStr>) -> Option<Reborn> {
        loop {
            let reborn = Reborn::start_now(gone.pid, path)?;
            // Not in the same tick of the clock (10 ms), which a number that nobody asks for never
            // comes back in.
            if Life::of(gone.pid).start != gone.start {
                return Some(reborn);
            }
        }
    }

    fn start_now(pid: u32, path: Option<&CStr>) -> Option<Reborn> {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let number = pid as libc::pid_t;
        // `clone_args` of clone3(2), which the libc crate does not have for every target.
        let mut args = [0_u64; 11];
        args[4] = libc::SIGCHLD as u64; // exit_signal
        args[8] = (&raw const number) as u64; // set_tid
        args[9] = 1; // set_tid_size
        // SAFETY: `args` and what it points to live through the call; without a stack of its own the
        // child is a copy, as from fork.
        let child = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
        if child == 0 {
            // SAFETY: the child ends with this thread of its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if let Some(path) = path {
                // SAFETY: `path` is NUL-terminated; the call is safe in a copy of a program with
                // threads, as the next ones are.
                let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR) };
                // SAFETY: no memory is involved.
                if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(1) };
                }
            }
            // SAFETY: the buffer has one byte.
            unsafe { libc::write(writer.as_raw_fd(), c"!".as_ptr().cast(), 1) };
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        if child == -1 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
            return None;
        }
        drop(writer);
        let reborn = Reborn(number);
        std::io::Read::read_exact(&mut reader, &mut [0]).expect("it could not lock the file");
        Some(reborn)
    }
}

impl Drop for Reborn {
    fn drop(&mut self) {
        // SAFETY: our child, not yet waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: a null pointer is allowed.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) };
    }
}
