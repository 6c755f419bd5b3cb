//! Other processes that lock, and are told when over a pipe: this program started again, or a peer's
//! in another language. Commands and answers are lines; times are nanoseconds of CLOCK_MONOTONIC.
//!
//! | command | does | answer |
//! |---|---|---|
//! | `acquire` | waits for the lock | when it had it |
//! | `release` | releases it | the moment before |
//! | `turn` | both | when it had it, and the CPU time of both calls |
//! | `cycles N` | both, N times | the time of all, divided by N |

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::locks::Lock;

fn clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is the one that the call fills.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Of this process, in nanoseconds.
pub fn cpu() -> u64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Seen from inside.
pub fn play(mut lock: impl Lock) {
    let mut output = io::stdout();
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("acquire", _) => {
                lock.acquire();
                now().to_string()
            }
            ("release", _) => {
                let before = now();
                lock.release();
                before.to_string()
            }
            ("cycles", count) => {
                let count: u64 = count.parse().unwrap();
                let before = now();
                for _ in 0..count {
                    lock.acquire();
                    lock.release();
                }
                ((now() - before) / count).to_string()
            }
            _ => panic!("no such command: {line}"),
        };
        // One write.
        output.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
}

/// Seen from outside. Killed when dropped.
pub struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Actor {
    pub fn start(command: &mut Command) -> Actor {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Actor { child, input, output }
    }

    /// From now on it runs on one processor, counted among those that there are for us.
    pub fn on_processor(self, number: usize) -> Actor {
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: a bit set, for which all zeros is the empty one.
        let (mut ours, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { mem::zeroed() };
        // SAFETY: the set is as large as is said.
        assert_eq!(unsafe { libc::sched_getaffinity(0, size, &raw mut ours) }, 0);
        // SAFETY: no number is beyond the set.
        let is_ours = |&processor: &usize| unsafe { libc::CPU_ISSET(processor, &ours) };
        let processors: Vec<_> = (0..8 * size).filter(is_ours).collect();
        // SAFETY: the number is one of the set's.
        unsafe { libc::CPU_SET(processors[number % processors.len()], &mut one) };
        let pid = self.pid().try_into().unwrap();
        // SAFETY: the set is as large as is said.
        assert_eq!(unsafe { libc::sched_setaffinity(pid, size, &raw const one) }, 0);
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, command: &str) {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    pub fn answer(&mut self) -> Vec<u64> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "an actor ended before its time");
        line.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    pub fn ask(&mut self, command: &str) -> u64 {
        self.tell(command);
        self.answer()[0]
    }

    /// The moment before the kill.
    pub fn kill(mut self) -> u64 {
        let before = now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        before
    }

    /// Switches to another task and CPU time so far, of all threads.
    pub fn activity(&self) -> (u64, u64) {
        let (mut switches, mut cpu) = (0, 0);
        for task in fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap() {
            let task = task.unwrap().path();
            let status = fs::read_to_string(task.join("status")).unwrap();
            switches += status
                .lines()
                .filter(|line| line.contains("voluntary_ctxt_switches:"))
                .map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap())
                .sum::<u64>();
            let times = fs::read_to_string(task.join("schedstat")).unwrap();
            cpu += times.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
        (switches, cpu)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many processes are blocked in `flock` on the file.
pub fn blocked(file: &Path) -> usize {
    let inode = format!(":{} ", fs::metadata(file).unwrap().ino());
    let table = fs::read_to_string("/proc/locks").unwrap();
    table.lines().filter(|line| line.contains("->") && line.contains(&inode)).count()
}

/// Until so many are.
pub fn until_blocked(file: &Path, count: usize) {
    let limit = Instant::now() + Duration::from_secs(30);
    while blocked(file) < count {
        assert!(Instant::now() < limit, "{count} waiters should be blocked");
        thread::sleep(Duration::from_micros(100));
    }
}
