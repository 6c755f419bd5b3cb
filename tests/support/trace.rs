//! A debugger for one small program: it follows every system call that one function of the library
//! makes, can let any of them fail, and can kill the program before or after any of them.
//!
//! The program (*target*) is this test program with the role [`TARGET`]. It makes one call of the C
//! interface between two marks (system calls with arguments that nobody else gives), so that the
//! debugger knows which system calls to count, and looks from outside while the target stands still
//! at a mark: what is open, how many threads there are, and by a `flock` of its own whether the lock
//! is free.

#![allow(dead_code, reason = "no test program uses everything")]

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int};
use std::fs::{self, File};
use std::io::Write;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{self, Stage};

/// What the target does between its marks, and what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    AcquireFree,
    AcquireNewDirectory,
    AcquireHeld,
    WaitEndlessFree,
    WaitEndlessHandedOver,
    WaitDeadlineFree,
    WaitDeadlineHandedOver,
    WaitDeadlineMissed,
    /// The lock is handed over when the deadline has passed, and the thread is about to be cancelled.
    WaitLateGrant,
    WaitCancelled,
    Check,
    CheckStale,
    Release,
    ReleaseStale,
    HolderFree,
    HolderHeld,
    HolderNoFile,
}
use Scenario::*;

pub const SCENARIOS: [Scenario; 17] = [
    AcquireFree,
    AcquireNewDirectory,
    AcquireHeld,
    WaitEndlessFree,
    WaitEndlessHandedOver,
    WaitDeadlineFree,
    WaitDeadlineHandedOver,
    WaitDeadlineMissed,
    WaitLateGrant,
    WaitCancelled,
    Check,
    CheckStale,
    Release,
    ReleaseStale,
    HolderFree,
    HolderHeld,
    HolderNoFile,
];

impl Scenario {
    /// Somebody else, the debugger, holds the lock at first.
    pub fn is_contended(self) -> bool {
        matches!(
            self,
            AcquireHeld
                | WaitEndlessHandedOver
                | WaitDeadlineHandedOver
                | WaitDeadlineMissed
                | WaitLateGrant
                | WaitCancelled
                | HolderHeld
        )
    }

    pub fn takes(self) -> bool {
        !self.has_lock() && !self.asks()
    }

    pub fn has_lock(self) -> bool {
        matches!(self, Check | CheckStale | Release | ReleaseStale)
    }

    pub fn releases(self) -> bool {
        matches!(self, Release | ReleaseStale)
    }

    pub fn is_stale(self) -> bool {
        matches!(self, CheckStale | ReleaseStale)
    }

    pub fn asks(self) -> bool {
        matches!(self, HolderFree | HolderHeld | HolderNoFile)
    }
}

// --------------------------------------------------------------------------------------- target

pub const TARGET: support::Role = ("target", target);

unsafe extern "C" {
    fn session_lock_acquire(dir: *const c_char, session: *const c_char, lock: *mut u64) -> c_int;
    fn session_lock_wait(
        dir: *const c_char,
        session: *const c_char,
        timeout_ms: i64,
        cancel_fd: c_int,
        lock: *mut u64,
    ) -> c_int;
    safe fn session_lock_check(lock: u64) -> c_int;
    safe fn session_lock_release(lock: u64) -> c_int;
    fn session_lock_holder(
        dir: *const c_char,
        session: *const c_char,
        info: *mut [c_int; 38],
        info_size: usize,
    ) -> c_int;
}

/// In the first argument of a mark.
const MAGIC: u64 = 0x5e55_1041_10c4;

#[derive(Clone, Copy, PartialEq)]
#[repr(u64)]
enum Mark {
    /// The call comes next.
    Begin,
    /// It has returned `value`; `holder`'s state is `more`, plus 16 if it is confirmed.
    End,
    /// What the call left has been released, with the result `value`; again, with `more`.
    Released,
    /// The lock has been taken and released once more, with these results.
    Again,
}

fn mark(mark: Mark, value: c_int, more: c_int) {
    // SAFETY: getppid has no arguments, and ignores these.
    unsafe { libc::syscall(libc::SYS_getppid, MAGIC, mark as u64, value, more) };
}

fn target(stage: &mut Stage) {
    // Whatever hangs is ended by this.
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(60) };
    let dir = CString::new(stage.args[0].as_str()).unwrap();
    let (dir, session) = (dir.as_ptr(), c"s".as_ptr());
    let scenario = SCENARIOS[stage.args[1].parse::<usize>().unwrap()];
    let path = lock_file(Path::new(&stage.args[0]));
    let mut lock = 0;
    let mut info = [0; 38];
    // SAFETY: the strings and the handle live through the calls.
    let acquire = |lock: &mut u64| unsafe { session_lock_acquire(dir, session, lock) };
    // SAFETY: as above.
    let wait =
        |lock: &mut u64, ms, cancel| unsafe { session_lock_wait(dir, session, ms, cancel, lock) };
    // SAFETY: as above; the buffer has the size that is said.
    let holder = |info: &mut [c_int; 38]| unsafe { session_lock_holder(dir, session, info, 152) };
    if scenario.has_lock() {
        assert_eq!(acquire(&mut lock), 0);
    }
    if scenario.is_stale() {
        fs::rename(&path, path.with_extension("moved")).unwrap();
    }

    // SAFETY: no memory is involved. The debugger follows us from here on.
    unsafe { libc::raise(libc::SIGSTOP) };
    mark(Mark::Begin, 0, 0);
    let result = match scenario {
        AcquireFree | AcquireNewDirectory | AcquireHeld => acquire(&mut lock),
        WaitEndlessFree | WaitEndlessHandedOver => wait(&mut lock, -1, -1),
        WaitDeadlineFree | WaitDeadlineHandedOver => wait(&mut lock, 20_000, -1),
        WaitDeadlineMissed | WaitLateGrant => wait(&mut lock, 5, -1),
        WaitCancelled => wait(&mut lock, -1, 0),
        Check | CheckStale => session_lock_check(lock),
        Release | ReleaseStale => session_lock_release(lock),
        HolderFree | HolderHeld | HolderNoFile => holder(&mut info),
    };
    mark(Mark::End, result, info[0] + 16 * info[3]);

    let released = session_lock_release(lock);
    mark(Mark::Released, released, session_lock_release(lock));
    let taken = acquire(&mut lock);
    mark(Mark::Again, taken, session_lock_release(lock));
}

pub fn lock_file(dir: &Path) -> PathBuf {
    dir.join("s.lock")
}

// ------------------------------------------------------------------------------------- debugger

/// One of the target's system calls: which thread's, which, and how many of these the thread had
/// made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub thread: usize,
    pub number: i64,
    pub nth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Watch,
    Fail(Call, c_int),
    KillBefore(Call),
    KillAfter(Call),
}

/// What the debugger saw at a mark.
#[derive(Clone, Debug)]
pub struct Sight {
    pub value: c_int,
    pub more: c_int,
    pub descriptors: usize,
    pub threads: usize,
    /// An independent `flock` could take the lock, after the debugger had given up its own.
    pub free: bool,
    /// The debugger's own lock, if it still had it, was still there.
    pub ours: bool,
}

#[derive(Debug)]
pub struct Report {
    pub calls: Vec<Call>,
    /// The system call that the plan was for was made.
    pub reached: bool,
    pub begin: Option<Sight>,
    pub end: Option<Sight>,
    pub released: Option<Sight>,
    pub again: Option<Sight>,
    /// Of `waitpid`.
    pub status: c_int,
    pub pid: u32,
}

struct Thread {
    tid: libc::pid_t,
    made: HashMap<i64, usize>,
    /// What is to become of the system call that it is in.
    at_exit: AtExit,
}

#[derive(Clone, Copy, PartialEq)]
enum AtExit {
    Nothing,
    Answer(c_int),
    Kill,
}

struct Debugger {
    scenario: Scenario,
    plan: Plan,
    path: PathBuf,
    child: Child,
    threads: Vec<Thread>,
    watching: bool,
    /// Our own lock, in a scenario that has one.
    ours: Option<File>,
    /// What is to happen once the target waits in the kernel's queue.
    then: Option<Then>,
    report: Report,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    HandOver,
    Cancel,
}

/// Runs one scenario in the directory `dir`, in which there is nothing yet.
pub fn run(dir: &Path, scenario: Scenario, plan: Plan) -> Report {
    let path = lock_file(dir);
    if scenario != AcquireNewDirectory {
        fs::create_dir_all(dir).unwrap();
        if scenario != HolderNoFile {
            File::create(&path).unwrap();
        }
    }
    let ours = scenario.is_contended().then(|| {
        let file = File::open(&path).unwrap();
        assert!(flock(&file, libc::LOCK_EX | libc::LOCK_NB));
        file
    });
    let position = SCENARIOS.iter().position(|&other| other == scenario).unwrap();
    let args = [dir.to_str().unwrap(), &position.to_string()];
    let mut command = support::actor_command("target", &args);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // SAFETY: runs in the child between fork and exec: one system call.
    unsafe {
        command.pre_exec(|| {
            ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    let pid = child.id();
    let report = Report {
        calls: Vec::new(),
        reached: false,
        begin: None,
        end: None,
        released: None,
        again: None,
        status: 0,
        pid,
    };
    let (threads, watching, then) = (Vec::new(), false, None);
    let debugger = Debugger { scenario, plan, path, child, threads, watching, ours, then, report };
    debugger.follow()
}

/// The system calls that the scenario makes undisturbed, which can differ a little from run to run.
pub fn calls(mut watch: impl FnMut() -> Report) -> Vec<Call> {
    let mut calls = Vec::new();
    for _ in 0..3 {
        for call in watch().calls {
            if !calls.contains(&call) {
                calls.push(call);
            }
        }
    }
    calls
}

pub fn flock(file: &File, operation: c_int) -> bool {
    // SAFETY: no memory is involved; the file is open.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}

/// What the C library calls the number of a request.
#[cfg(target_env = "gnu")]
type Request = libc::c_uint;
#[cfg(not(target_env = "gnu"))]
type Request = libc::c_int;

// In <linux/ptrace.h>; the libc crate has them for glibc only.
const PTRACE_GET_SYSCALL_INFO: Request = 0x420e;
const PTRACE_SYSCALL_INFO_ENTRY: u8 = 1;
const PTRACE_SYSCALL_INFO_EXIT: u8 = 2;

fn ptrace(request: Request, tid: libc::pid_t, address: usize, data: usize) -> libc::c_long {
    // SAFETY: the callers pass addresses of what the request fills, or none. A request to a thread
    // that has just been killed fails, and nothing comes of it.
    unsafe { libc::ptrace(request, tid, address, data) }
}

fn registers(tid: libc::pid_t) -> Option<libc::user_regs_struct> {
    let mut registers: libc::user_regs_struct = unsafe_zeroed();
    let done = ptrace(libc::PTRACE_GETREGS, tid, 0, ptr::from_mut(&mut registers) as usize);
    (done == 0).then_some(registers)
}

/// A struct of numbers, all of them zero.
fn unsafe_zeroed() -> libc::user_regs_struct {
    // SAFETY: it has only integer fields.
    unsafe { mem::zeroed() }
}

fn set_registers(tid: libc::pid_t, registers: &libc::user_regs_struct) {
    ptrace(libc::PTRACE_SETREGS, tid, 0, ptr::from_ref(registers) as usize);
}

impl Debugger {
    fn pid(&self) -> libc::pid_t {
        self.report.pid as libc::pid_t
    }

    fn kill(&mut self) {
        self.report.reached = true;
        self.child.kill().unwrap();
    }

    fn follow(mut self) -> Report {
        let mut begun = false;
        loop {
            let Some((tid, status)) = self.next_stop() else { continue };
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                if tid == self.pid() {
                    self.give_up();
                    self.report.status = status;
                    return self.report;
                }
                self.threads.retain(|thread| thread.tid != tid);
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            let mut deliver = 0;
            if !begun {
                // The first stop is the program's start, the next one its SIGSTOP.
                let options = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_EXITKILL;
                if signal == libc::SIGSTOP {
                    begun = true;
                } else {
                    ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options as usize);
                    ptrace(libc::PTRACE_CONT, tid, 0, 0);
                    continue;
                }
            } else if signal == libc::SIGTRAP | 0x80 {
                self.system_call(tid);
            } else if signal != libc::SIGTRAP && signal != libc::SIGSTOP {
                deliver = signal;
            }
            ptrace(libc::PTRACE_SYSCALL, tid, 0, deliver.unsigned_abs() as usize);
        }
    }

    /// Waits for the next thing that happens to the target, and does meanwhile what is to be done
    /// once it waits for the lock.
    fn next_stop(&mut self) -> Option<(libc::pid_t, c_int)> {
        let nohang = if self.then.is_some() { libc::WNOHANG } else { 0 };
        let mut status = 0;
        // Children of this thread only: other tests have theirs.
        let flags = libc::__WALL | libc::__WNOTHREAD | nohang;
        // SAFETY: the call stores an int where `status` is.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
        assert!(tid >= 0, "waitpid");
        if tid > 0 {
            return Some((tid, status));
        }
        if let Some(then) = self.then {
            // Where it cannot wait in the queue (no thread could be started) it sleeps in ppoll
            // between its tries.
            let naps = self.threads.first().and_then(|thread| thread.made.get(&libc::SYS_ppoll));
            if is_queued(self.report.pid) || naps.is_some_and(|&naps| naps > 3) {
                self.then = None;
                match then {
                    Then::HandOver => self.give_up(),
                    Then::Cancel => self.child.stdin.as_mut().unwrap().write_all(b".").unwrap(),
                }
            } else {
                thread::sleep(Duration::from_micros(50));
            }
        }
        None
    }

    fn thread(&mut self, tid: libc::pid_t) -> usize {
        if let Some(index) = self.threads.iter().position(|thread| thread.tid == tid) {
            return index;
        }
        self.threads.push(Thread { tid, made: HashMap::new(), at_exit: AtExit::Nothing });
        self.threads.len() - 1
    }

    fn system_call(&mut self, tid: libc::pid_t) {
        let Some(mut registers) = registers(tid) else { return };
        let index = self.thread(tid);
        // At an entry rax is -ENOSYS, but also after a call that was made to fail with it: the
        // kernel says which it is.
        // Of `ptrace_syscall_info` only the first field is asked for.
        let mut op = 0_u8;
        ptrace(PTRACE_GET_SYSCALL_INFO, tid, size_of_val(&op), ptr::from_mut(&mut op) as usize);
        if op == PTRACE_SYSCALL_INFO_EXIT {
            match mem::replace(&mut self.threads[index].at_exit, AtExit::Nothing) {
                AtExit::Nothing => {}
                AtExit::Answer(errno) => {
                    registers.rax = i64::from(-errno) as u64;
                    set_registers(tid, &registers);
                }
                AtExit::Kill => self.kill(),
            }
            return;
        }
        if op != PTRACE_SYSCALL_INFO_ENTRY {
            return;
        }
        let number = registers.orig_rax as i64;
        if number == libc::SYS_getppid && registers.rdi == MAGIC {
            let mark = [Mark::Begin, Mark::End, Mark::Released, Mark::Again]
                .into_iter()
                .find(|&mark| mark as u64 == registers.rsi)
                .unwrap();
            #[allow(clippy::cast_possible_truncation, reason = "they were ints")]
            self.at_mark(tid, mark, registers.rdx as c_int, registers.r10 as c_int);
            return;
        }
        if !self.watching {
            return;
        }
        let made = self.threads[index].made.entry(number).or_default();
        let call = Call { thread: index, number, nth: *made };
        *made += 1;
        self.report.calls.push(call);
        if self.scenario == WaitLateGrant && SIGNALS_A_THREAD.contains(&number) {
            self.give_up();
        }
        match self.plan {
            Plan::Fail(which, errno) if which == call => {
                self.report.reached = true;
                self.threads[index].at_exit = AtExit::Answer(errno);
                // A close that fails has closed all the same: it is made, and its answer replaced.
                if number != libc::SYS_close {
                    registers.orig_rax = u64::MAX;
                    set_registers(tid, &registers);
                }
            }
            Plan::KillBefore(which) if which == call => self.kill(),
            Plan::KillAfter(which) if which == call => self.threads[index].at_exit = AtExit::Kill,
            _ => {}
        }
    }

    fn at_mark(&mut self, tid: libc::pid_t, mark: Mark, value: c_int, more: c_int) {
        match mark {
            Mark::Begin => {
                self.threads.retain(|thread| thread.tid == tid);
                self.watching = true;
                self.then = match self.scenario {
                    WaitEndlessHandedOver | WaitDeadlineHandedOver => Some(Then::HandOver),
                    WaitCancelled => Some(Then::Cancel),
                    _ => None,
                };
            }
            _ => {
                self.watching = false;
                self.then = None;
                self.await_threads(tid);
            }
        }
        let count =
            |name: &str| fs::read_dir(format!("/proc/{}/{name}", self.report.pid)).unwrap().count();
        let (descriptors, threads) = (count("fd"), count("task"));
        // Nobody else has been able to take what is ours.
        let ours = self.ours.is_some() && !support::is_free(&self.path);
        let free = if mark == Mark::Begin {
            self.ours.is_none() && support::is_free(&self.path)
        } else {
            self.give_up();
            self.await_threads(tid);
            support::is_free(&self.path)
        };
        let sight = Sight { value, more, descriptors, threads, free, ours };
        match mark {
            Mark::Begin => self.report.begin = Some(sight),
            Mark::End => self.report.end = Some(sight),
            Mark::Released => self.report.released = Some(sight),
            Mark::Again => self.report.again = Some(sight),
        }
    }

    /// Unlocks, and does not only close: another test's child may have a copy until its exec.
    fn give_up(&mut self) {
        if let Some(file) = self.ours.take() {
            assert!(flock(&file, libc::LOCK_UN));
        }
    }

    /// How many there are; some are the test harness's.
    fn count_threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.report.pid)).unwrap().count()
    }

    /// Lets the other threads run while the one at the mark stands still, until those of the call have
    /// ended. (One that cannot be cancelled ends only when it has got the lock.)
    fn await_threads(&mut self, at_mark: libc::pid_t) {
        let begin = Instant::now();
        let limit = Duration::from_millis(if self.ours.is_some() { 20 } else { 5000 });
        let before = self.report.begin.as_ref().map_or(0, |begin| begin.threads);
        while self.count_threads() > before && begin.elapsed() < limit {
            let mut status = 0;
            let flags = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
            // SAFETY: the call stores an int where `status` is.
            let tid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
            if tid <= 0 {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            assert_ne!(tid, at_mark);
            if libc::WIFSTOPPED(status) {
                let signal = libc::WSTOPSIG(status);
                let ours = [libc::SIGTRAP | 0x80, libc::SIGTRAP, libc::SIGSTOP].contains(&signal);
                let deliver = if ours { 0 } else { signal };
                if signal == libc::SIGTRAP | 0x80 {
                    self.system_call(tid);
                }
                ptrace(libc::PTRACE_SYSCALL, tid, 0, deliver.unsigned_abs() as usize);
            } else {
                self.threads.retain(|thread| thread.tid != tid);
            }
        }
    }
}

/// Whether the process waits for a lock, in the kernel's own words.
fn is_queued(pid: u32) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = pid.to_string();
    locks.lines().any(|line| line.contains("->") && line.split_whitespace().any(|word| word == pid))
}

/// How the C library sends the signal that cancels a thread.
pub const SIGNALS_A_THREAD: [i64; 2] = [libc::SYS_tgkill, libc::SYS_tkill];

/// The name of a system call, for the reader.
pub fn name(number: i64) -> String {
    NAMES
        .iter()
        .find(|(known, ..)| *known == number)
        .map_or_else(|| format!("system call {number}"), |(_, name, _)| (*name).to_owned())
}

/// The errnos that a system call can give, and some that it should not. Empty: it cannot fail.
pub fn errnos(number: i64) -> &'static [c_int] {
    let known = NAMES.iter().find(|(known, ..)| *known == number);
    known.unwrap_or_else(|| panic!("system call {number} is not in the table of errors")).2
}

use libc::*;

/// Of `open` in all its forms.
const OPEN: &[c_int] = &[
    EACCES,
    EPERM,
    ENOENT,
    EEXIST,
    ENOTDIR,
    EISDIR,
    ELOOP,
    EMFILE,
    ENFILE,
    ENOMEM,
    ENOSPC,
    EDQUOT,
    EROFS,
    ENXIO,
    ENODEV,
    EINTR,
    EIO,
    ESTALE,
    EWOULDBLOCK,
];

const NAMES: &[(i64, &str, &[c_int])] = &[
    (SYS_fchmod, "fchmod", &[EPERM, EROFS, ENOSPC, EDQUOT, EIO, EOPNOTSUPP, ENOSYS]),
    (SYS_open, "open", OPEN),
    (SYS_openat, "openat", OPEN),
    (
        SYS_flock,
        "flock",
        &[
            EWOULDBLOCK,
            EINTR,
            ENOLCK,
            EBADF,
            EINVAL,
            ENOSYS,
            EOPNOTSUPP,
            EIO,
            ENOMEM,
            EDEADLK,
            ESTALE,
        ],
    ),
    (SYS_fstat, "fstat", &[EBADF, EIO, ENOMEM, EOVERFLOW, EACCES, ESTALE]),
    (
        SYS_newfstatat,
        "newfstatat",
        &[ENOENT, ENOTDIR, EACCES, EIO, ELOOP, ENOMEM, EOVERFLOW, ESTALE, EINTR],
    ),
    (SYS_stat, "stat", &[ENOENT, ENOTDIR, EACCES, EIO, ELOOP, ENOMEM, ESTALE]),
    (SYS_lstat, "lstat", &[ENOENT, ENOTDIR, EACCES, EIO, ENOMEM, ESTALE]),
    (SYS_statx, "statx", &[ENOENT, ENOTDIR, EACCES, EIO, ENOMEM, ENOSYS, EINVAL, EBADF]),
    (SYS_statfs, "statfs", &[EACCES, EIO, ENOENT, ENOSYS, EINTR]),
    (SYS_fstatfs, "fstatfs", &[EBADF, EIO, ENOSYS, EINTR]),
    (SYS_lseek, "lseek", &[EBADF, ESPIPE, EINVAL, EOVERFLOW]),
    (SYS_pread64, "pread64", &[EIO, EINTR, EAGAIN, EBADF, EISDIR, ESPIPE]),
    (
        SYS_pwrite64,
        "pwrite64",
        &[ENOSPC, EDQUOT, EIO, EFBIG, EBADF, EINTR, EAGAIN, EPERM, EROFS, ESPIPE],
    ),
    // To the eventfd of a wait, where it cannot fail: the wait would go on until its deadline, and
    // then say that it has the lock.
    (SYS_write, "write", &[]),
    (SYS_read, "read", &[EIO, EINTR, EAGAIN, EBADF, EISDIR, ESRCH]),
    (SYS_close, "close", &[EIO, EINTR, ENOSPC, EDQUOT]),
    (SYS_mkdir, "mkdir", &[EACCES, EEXIST, ENOENT, ENOTDIR, ENOSPC, EDQUOT, EROFS, EMLINK, EIO]),
    (SYS_readlink, "readlink", &[EACCES, ENOENT, EIO, EINVAL]),
    (SYS_getdents64, "getdents64", &[EIO, ENOENT, EBADF]),
    (SYS_getcwd, "getcwd", &[ENOENT, EACCES]),
    (SYS_kill, "kill", &[ESRCH, EPERM]),
    // Only in debug builds: the standard library looks whether a descriptor is open before it
    // closes it, and ends the program for EBADF.
    (SYS_fcntl, "fcntl", &[EINVAL]),
    (SYS_getrlimit, "getrlimit", &[EPERM, EINVAL, ENOSYS]),
    // glibc's getrlimit(3).
    (SYS_prlimit64, "prlimit64", &[EPERM, EINVAL, ENOSYS]),
    // Not ENOSYS: the standard library then opens /dev/urandom, and keeps it for good.
    (SYS_getrandom, "getrandom", &[EINTR, EAGAIN]),
    (SYS_getgroups, "getgroups", &[EINVAL]),
    (SYS_uname, "uname", &[EFAULT]),
    (SYS_eventfd2, "eventfd2", &[EMFILE, ENFILE, ENODEV, ENOMEM, ENOSYS]),
    (SYS_signalfd4, "signalfd4", &[EMFILE, ENFILE, ENODEV, ENOMEM, ENOSYS, EPERM]),
    (SYS_ppoll, "ppoll", &[EINTR, ENOMEM, EINVAL, EAGAIN]),
    (SYS_clone3, "clone3", &[EAGAIN, ENOMEM, EPERM, ENOSYS]),
    (SYS_clone, "clone", &[EAGAIN, ENOMEM, EPERM]),
    (SYS_tgkill, "tgkill", &[ESRCH, EPERM, EAGAIN]),
    // musl's.
    (SYS_tkill, "tkill", &[ESRCH, EPERM, EAGAIN]),
    (SYS_rt_sigprocmask, "rt_sigprocmask", &[EINVAL]),
    (SYS_rt_sigaction, "rt_sigaction", &[EINVAL]),
    (SYS_set_robust_list, "set_robust_list", &[EINVAL]),
    (SYS_sched_getaffinity, "sched_getaffinity", &[ESRCH]),
    (SYS_mmap, "mmap", &[ENOMEM, EAGAIN, EPERM]),
    (SYS_munmap, "munmap", &[ENOMEM, EINVAL]),
    (SYS_mremap, "mremap", &[ENOMEM]),
    (SYS_mprotect, "mprotect", &[ENOMEM, EACCES]),
    (SYS_madvise, "madvise", &[EAGAIN, EINVAL]),
    (SYS_brk, "brk", &[ENOMEM]),
    // glibc's own locks and threads: it ends the program for an error that it does not expect.
    (SYS_rseq, "rseq", &[]),
    (SYS_futex, "futex", &[]),
    // These cannot fail, or do not return.
    (SYS_getpid, "getpid", &[]),
    (SYS_gettid, "gettid", &[]),
    (SYS_geteuid, "geteuid", &[]),
    (SYS_getegid, "getegid", &[]),
    (SYS_clock_gettime, "clock_gettime", &[]),
    (SYS_rt_sigreturn, "rt_sigreturn", &[]),
    (SYS_restart_syscall, "restart_syscall", &[]),
    (SYS_sched_yield, "sched_yield", &[]),
    (SYS_exit, "exit", &[]),
];
