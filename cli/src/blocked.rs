//! What a process is blocked in, from the system call that each of its threads is in.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::str;

use session_lock::procfs::{self, ProcId};

/// What a thread waits for, without a timeout.
pub enum Wait {
    /// For nothing, for a time, or for what can come from anywhere.
    Unknown,
    /// For the end of this child.
    Child(u32),
    /// For the end of any child, or for what the handler of the signal that tells it, or another thread of
    /// the same process, does then.
    Children,
    /// For any of these descriptors.
    Descriptors(Vec<RawFd>),
}

/// What makes a descriptor ready.
pub enum Source {
    Unknown,
    Signal,
    /// The end of this process.
    Process(u32),
    /// Whoever has the pipe with this inode number.
    Pipe(u64),
}

/// More threads than a program has that waits for its children.
const THREADS: usize = 64;
/// More descriptors than it watches.
const DESCRIPTORS: usize = 1024;

/// What each thread of a process waits for.
pub fn waits(pid: u32) -> Vec<Wait> {
    // A timer of its own may end the wait at any time: timeout(1). (One of alarm(2) is not shown.)
    let has_timers = fs::read(format!("/proc/{pid}/timers")).is_ok_and(|timers| !timers.is_empty());
    let threads = procfs::threads(pid).unwrap_or_default();
    if has_timers || threads.len() > THREADS {
        return vec![Wait::Unknown];
    }
    let wait = |&thread: &u32| match Call::of(thread) {
        Ok(call) => call.map_or(Wait::Unknown, |call| call.wait(pid)),
        // Yama denies it (`ptrace_scope`).
        Err(_) if threads.len() == 1 => wait_by_function(pid),
        Err(_) => Wait::Unknown,
    };
    threads.iter().map(wait).collect()
}

/// Whether a process does nothing but wait by the library, with a deadline or a `cancel_fd`: one thread is
/// in `flock`, and the other one polls for its end. Not where this cannot be known.
pub fn is_in_librarys_wait(pid: u32) -> bool {
    let threads = procfs::threads(pid).unwrap_or_default();
    let [first, second] = threads[..] else { return false };
    let (Ok(Some(first)), Ok(Some(second))) = (Call::of(first), Call::of(second)) else {
        return false;
    };
    let is_pair =
        |one: &Call, other: &Call| one.number == libc::SYS_flock && other.is_librarys_poll(pid);
    is_pair(&first, &second) || is_pair(&second, &first)
}

/// From the name of the kernel's function: which descriptor, or how long, it does not say.
fn wait_by_function(pid: u32) -> Wait {
    let function = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    match function.as_str() {
        name if name.contains("do_wait") || name.contains("sigsuspend") => Wait::Children,
        name if name.contains("pipe_read") => Wait::Descriptors(pipes(pid)),
        _ => Wait::Unknown,
    }
}

/// A system call: its number and its arguments.
struct Call {
    number: libc::c_long,
    args: [u64; 6],
}

impl Call {
    /// The one that a thread is in, if it is in any.
    fn of(thread: u32) -> io::Result<Option<Call>> {
        fs::read_to_string(format!("/proc/{thread}/syscall")).map(|text| Call::parse(&text))
    }

    /// `NUMBER 0xARG... 0xSP 0xPC`; "running" and "-1 ..." are no calls.
    fn parse(text: &str) -> Option<Call> {
        let mut words = text.split_ascii_whitespace();
        let number = words.next()?.parse().ok().filter(|&number| number >= 0)?;
        let mut hexadecimal = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = hexadecimal()?;
        }
        // A 32-bit program on a 64-bit kernel numbers its calls in another way.
        let stack = hexadecimal()?;
        let ours = cfg!(target_pointer_width = "32") || stack > u64::from(u32::MAX);
        ours.then_some(Call { number, args })
    }

    /// As signed numbers: -1 is a timeout without end, and all children.
    fn int(&self, at: usize) -> i32 {
        self.args[at] as i32
    }

    fn wait(&self, pid: u32) -> Wait {
        const P_PID: i32 = libc::P_PID as i32;
        const P_PIDFD: i32 = libc::P_PIDFD as i32;
        let is_null = |at: usize| self.args[at] == 0;
        let descriptors =
            |list: io::Result<Vec<RawFd>>| list.map_or(Wait::Unknown, Wait::Descriptors);
        match self.number {
            libc::SYS_wait4 => match self.int(0) {
                child @ 1.. => Wait::Child(child as u32),
                _ => Wait::Children,
            },
            libc::SYS_waitid => match self.int(0) {
                P_PID => Wait::Child(self.int(1) as u32),
                P_PIDFD => Wait::Descriptors(vec![self.int(1)]),
                _ => Wait::Children,
            },
            libc::SYS_rt_sigsuspend => Wait::Children,
            libc::SYS_rt_sigtimedwait if is_null(2) => Wait::Children,
            libc::SYS_read | libc::SYS_readv => Wait::Descriptors(vec![self.int(0)]),
            libc::SYS_ppoll if is_null(2) => descriptors(self.polled(pid)),
            libc::SYS_pselect6 if is_null(4) => descriptors(self.selected(pid)),
            libc::SYS_epoll_pwait if self.int(3) < 0 => descriptors(self.in_epoll(pid)),
            libc::SYS_epoll_pwait2 if is_null(3) => descriptors(self.in_epoll(pid)),
            // Of no other process: fish waits for its children in sem_wait(3).
            libc::SYS_futex if is_null(3) && self.int(1) & libc::FUTEX_PRIVATE_FLAG != 0 => {
                match self.int(1) & libc::FUTEX_CMD_MASK {
                    libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => Wait::Children,
                    _ => Wait::Unknown,
                }
            }
            _ => self.older_wait(pid),
        }
    }

    /// The calls that newer processors do not have.
    #[cfg(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm"))]
    fn older_wait(&self, pid: u32) -> Wait {
        #[cfg(target_arch = "x86_64")]
        const SELECT: libc::c_long = libc::SYS_select;
        #[cfg(not(target_arch = "x86_64"))]
        const SELECT: libc::c_long = libc::SYS__newselect;
        let descriptors =
            |list: io::Result<Vec<RawFd>>| list.map_or(Wait::Unknown, Wait::Descriptors);
        match self.number {
            libc::SYS_pause => Wait::Children,
            libc::SYS_poll if self.int(2) < 0 => descriptors(self.polled(pid)),
            SELECT if self.args[4] == 0 => descriptors(self.selected(pid)),
            libc::SYS_epoll_wait if self.int(3) < 0 => descriptors(self.in_epoll(pid)),
            _ => Wait::Unknown,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm")))]
    fn older_wait(&self, _pid: u32) -> Wait {
        Wait::Unknown
    }

    /// The last descriptor that the library polls is for the C library's own signals, which that leaves out of
    /// every set that a program makes.
    fn is_librarys_poll(&self, pid: u32) -> bool {
        /// On all 32-bit processors; on others it is no call's number.
        const PPOLL_TIME64: libc::c_long = 414;
        /// Those between the last standard one and SIGRTMIN, 32 to 34 at most.
        const OWN_SIGNALS: u64 = 0b111 << 31;
        let is_poll = [libc::SYS_ppoll, PPOLL_TIME64].contains(&self.number);
        let last = is_poll.then(|| self.polled(pid).ok()?.last().copied()).flatten();
        last.and_then(|fd| signals_of_signalfd(pid, fd))
            .is_some_and(|signals| signals != 0 && signals & !OWN_SIGNALS == 0)
    }

    fn polled(&self, pid: u32) -> io::Result<Vec<RawFd>> {
        let size = mem::size_of::<libc::pollfd>();
        let memory = self.memory(pid, 0, self.args[1] as usize * size)?;
        let fds = memory.chunks_exact(size).map(|polled| {
            // The number is the first field.
            RawFd::from_ne_bytes([polled[0], polled[1], polled[2], polled[3]])
        });
        Ok(fds.filter(|&fd| fd >= 0).collect())
    }

    fn selected(&self, pid: u32) -> io::Result<Vec<RawFd>> {
        const SIZE: usize = mem::size_of::<usize>();
        let end = self.args[0] as usize;
        let mut fds = Vec::new();
        for set in 1..=3 {
            if self.args[set] == 0 {
                continue;
            }
            let memory = self.memory(pid, set, end.div_ceil(SIZE * 8) * SIZE)?;
            for (at, word) in memory.chunks_exact(SIZE).enumerate() {
                let word = usize::from_ne_bytes(word.try_into().expect("chunks of that size"));
                let bits = (0..SIZE * 8).filter(|bit| word >> bit & 1 == 1);
                fds.extend(bits.map(|bit| (at * SIZE * 8 + bit) as RawFd));
            }
        }
        Ok(fds)
    }

    fn in_epoll(&self, pid: u32) -> io::Result<Vec<RawFd>> {
        let info = fdinfo(pid, self.int(0))?;
        let info = String::from_utf8_lossy(&info);
        let lines = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
        Ok(lines.filter_map(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).collect())
    }

    /// Of that process, from where an argument points to.
    fn memory(&self, pid: u32, arg: usize, length: usize) -> io::Result<Vec<u8>> {
        if length > DESCRIPTORS * mem::size_of::<libc::pollfd>() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = vec![0; length];
        if length > 0 {
            File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, self.args[arg])?;
        }
        Ok(bytes)
    }
}

/// What makes a process's descriptor ready.
pub fn source(pid: u32, fd: RawFd) -> Source {
    let path = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
    let Ok(target) = fs::read_link(&path) else { return Source::Unknown };
    match target.to_string_lossy().as_ref() {
        "anon_inode:[signalfd]" => Source::Signal,
        "anon_inode:[pidfd]" => process_of_pidfd(pid, fd).map_or(Source::Unknown, Source::Process),
        name if name.starts_with("pidfd:") => {
            process_of_pidfd(pid, fd).map_or(Source::Unknown, Source::Process)
        }
        // One with a name in a directory can be opened by anybody at any time.
        name if name.starts_with("pipe:") => pipe(pid, fd).map_or(Source::Unknown, Source::Pipe),
        _ => Source::Unknown,
    }
}

fn fdinfo(pid: u32, fd: RawFd) -> io::Result<Vec<u8>> {
    procfs::fdinfo(ProcId::Pid(pid), fd.try_into().map_err(io::Error::other)?)
}

/// The process that a pidfd stands for.
pub fn process_of_pidfd(pid: u32, fd: RawFd) -> Option<u32> {
    procfs::process_of_pidfd(ProcId::Pid(pid), fd.try_into().ok()?)?
}

/// The signals that a signalfd is for, a bit for each.
fn signals_of_signalfd(pid: u32, fd: RawFd) -> Option<u64> {
    let info = fdinfo(pid, fd).ok()?;
    u64::from_str_radix(str::from_utf8(procfs::field(&info, b"sigmask:")?).ok()?, 16).ok()
}

fn pipe(pid: u32, fd: RawFd) -> Option<u64> {
    let behind = procfs::behind(ProcId::Pid(pid), fd.try_into().ok()?).ok()?;
    behind.is_pipe.then_some(behind.file.ino)
}

fn descriptors(pid: u32) -> impl Iterator<Item = RawFd> {
    let numbers = procfs::descriptors(ProcId::Pid(pid)).unwrap_or_default();
    numbers.into_iter().filter_map(|number| number.try_into().ok())
}

/// The pipes that a process may read from.
fn pipes(pid: u32) -> Vec<RawFd> {
    let flags = |fd: RawFd| {
        pipe(pid, fd)?;
        let info = fdinfo(pid, fd).ok()?;
        let flags = str::from_utf8(procfs::field(&info, b"flags:")?).ok()?;
        libc::c_int::from_str_radix(flags, 8).ok()
    };
    let may_read =
        |&fd: &RawFd| flags(fd).is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_WRONLY);
    descriptors(pid).filter(may_read).collect()
}

/// The processes that have a pipe open, as far as they may be looked at: others have it only if they
/// inherited it from the same process, as another user.
pub fn holders_of_pipe(pipe_number: u64) -> Vec<u32> {
    let mut pids = procfs::processes();
    let has_it = |&pid: &u32| descriptors(pid).any(|fd| pipe(pid, fd) == Some(pipe_number));
    pids.retain(has_it);
    pids
}
