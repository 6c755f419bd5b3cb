//! What is measured. Ways that are compared take turns, so that whatever else the machine does meets
//! all of them.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::actor::{self, Actor, cpu, now, until_blocked};
use crate::locks::{self, Library, Lock, Ours, OursRust, Plain, SESSION, Same, Thread, c_path};
use crate::report::{Report, Times, time};

const CYCLE: &str = "acquire + release, nobody else there";
const RELEASE: &str = "hand-over to a waiter, from the holder's release";
pub const KILL: &str = "hand-over to a waiter, from the holder's SIGKILL";
const RUN: &str = "true(1), run under the lock, start to end";

fn lock_file(dir: &Path) -> std::path::PathBuf {
    dir.join(format!("{SESSION}.lock"))
}

// ---------------------------------------------------------------------------------- uncontended

/// The system calls of ours and of its floor in C, which must be the same.
pub fn same_calls(bench: &Bench, report: &mut Report) {
    let dir = bench.dir("calls");
    File::create(lock_file(&dir)).unwrap();
    let names = |way: &str| -> Option<Vec<String>> {
        let output = bench.scratch.join("strace");
        let mut command = Command::new("strace");
        command.arg("-o").arg(&output).arg(fs::read_link("/proc/self/exe").unwrap());
        command.args(["actor", way]).arg(&dir).arg(&bench.library_file);
        if !command.status().is_ok_and(|status| status.success()) {
            return None;
        }
        let text = fs::read_to_string(output).unwrap();
        let mut marked = text.split("getppid()");
        // Behind the second mark: the second lock.
        let second = marked.nth(2)?;
        let name = |line: &str| Some(line.split_once('(')?.0.to_owned());
        Some(second.lines().filter_map(name).collect())
    };
    match (names("trace:ours"), names("trace:same")) {
        (Some(ours), Some(same)) => {
            assert_eq!(ours, same, "src/bare.c must make the calls that the library makes");
            let calls = format!("One lock's {} system calls: {}.", ours.len(), ours.join(", "));
            report.notes.push(calls);
        }
        _ => report.notes.push("strace is not there to compare the system calls.".into()),
    }
}

pub fn cycle(bench: &Bench, report: &mut Report) {
    const CALLS: usize = 1000;
    let dir = bench.dir("cycle");
    let path = lock_file(&dir);
    let mut plain = Plain::new(&dir, SESSION);
    let mut same = Same::new(&dir, false);
    let mut ours = Ours::new(bench.library, &dir, SESSION, None);
    let mut rust = OursRust::new(&dir);
    // The first lock creates the file.
    ours.acquire();
    ours.release();
    fn cycle(lock: &mut impl Lock) {
        lock.acquire();
        lock.release();
    }
    let mut ways: [(&str, bool, &mut dyn FnMut()); 7] = [
        ("C: open, flock, unlock, close", false, &mut || cycle(&mut plain)),
        ("C: the same calls as ours", false, &mut || cycle(&mut same)),
        ("session-lock, C functions", true, &mut || cycle(&mut ours)),
        ("session-lock, Rust", true, &mut || cycle(&mut rust)),
        ("std File::lock", false, &mut || locks::std_file(&path)),
        ("fd-lock", false, &mut || locks::fd_lock(&path)),
        ("fs4", false, &mut || locks::fs4(&path)),
    ];
    let mut rounds = vec![Vec::new(); ways.len()];
    for _ in bench.rounds(100) {
        for ((_, _, way), times) in ways.iter_mut().zip(&mut rounds) {
            let begin = Instant::now();
            for _ in 0..CALLS {
                way();
            }
            times.push(begin.elapsed().as_nanos() as f64 / CALLS as f64);
        }
    }
    let ratio = |a: usize, b: usize| {
        let pairs = rounds[a].iter().zip(&rounds[b]);
        Times::new(pairs.map(|(a, b)| a / b).collect()).median()
    };
    let times: Vec<Times> = rounds.iter().cloned().map(Times::new).collect();
    let median = |way: usize| times[way].median();
    for (at, (label, ours, _)) in ways.iter().enumerate() {
        // A p99 of means over many calls would say nothing.
        report.point(CYCLE, label, *ours, &Times::new(vec![median(at)]));
    }
    let what = "acquire + release, C functions";
    report.at_most(what, median(2), median(1), "the same system calls in C", ratio(2, 1), 1.05);
    report.pair(what, median(2), median(0), "open, flock, unlock, close in C");
    report.at_most(what, median(2), median(5), "fd-lock", ratio(2, 5), 3.2);
    report.pair("the same system calls in C", median(1), median(5), "fd-lock");
    report.pair("acquire + release, Rust", median(3), median(4), "std File::lock");
    report.pair("acquire + release, Rust", median(3), median(6), "fs4");

    let mut ways: Vec<String> = bench.python.iter().map(|name| format!("python:{name}")).collect();
    if bench.gofrs.is_some() {
        ways.push("gofrs:endless".into());
    }
    if bench.go.is_some() {
        ways.push("go".into());
    }
    let mut actors: Vec<Actor> = ways.iter().map(|way| bench.actor(way, &dir)).collect();
    let mut rounds = vec![Vec::new(); ways.len()];
    for round in bench.rounds(20) {
        for (actor, times) in actors.iter_mut().zip(&mut rounds) {
            let time = actor.ask("cycles 300") as f64;
            // Python looks a lot up the first time.
            if round > 0 {
                times.push(time);
            }
        }
    }
    let medians: HashMap<&str, f64> = ways
        .iter()
        .zip(&rounds)
        .map(|(way, times)| (way.as_str(), Times::new(times.clone()).median()))
        .collect();
    for way in &ways {
        let (label, ours) = label(way);
        report.point(CYCLE, &label, ours, &Times::new(vec![medians[way.as_str()]]));
    }
    if let Some(&gofrs) = medians.get("gofrs:endless") {
        report.at_most(what, median(2), gofrs, "gofrs/flock", median(2) / gofrs, 3.0);
    }
    if let (Some(&ours), Some(&gofrs)) = (medians.get("go"), medians.get("gofrs:endless")) {
        report.pair("acquire + release, Go", ours, gofrs, "gofrs/flock");
    }
    let said = |way: &str| medians.get(way).map(|&median| time(median));
    let others = [("fd-lock", Some(time(median(5)))), ("gofrs/flock", said("gofrs:endless"))];
    report.choice("acquire and release, from C", time(median(2)), &others);
    if let Some(&ours) = medians.get("python:session_lock") {
        let names = ["portalocker", "fasteners", "filelock"];
        let others = names.map(|name| (name, said(&format!("python:{name}"))));
        report.choice("`with`, in Python", time(ours), &others);
        report.alone("`with`, nobody else there, Python", time(ours), "≤ 12 µs", ours <= 12e3);
        for name in ["filelock", "fasteners", "portalocker"] {
            if let Some(&theirs) = medians.get(format!("python:{name}").as_str()) {
                report.pair("`with`, nobody else there, Python", ours, theirs, name);
            }
        }
    }
}

/// A way's name in the figure, and whether it is ours.
fn label(way: &str) -> (String, bool) {
    let label = match way {
        "flock" => "C: blocked flock",
        "same" => "C: the same calls as ours",
        "ours" => "session-lock, no deadline",
        "ours:deadline" => "session-lock, deadline",
        "python:session_lock" => "session-lock, Python",
        "python:fcntl" => "Python fcntl.flock",
        "go" => "session-lock, Go",
        "gofrs:endless" => "Go gofrs/flock",
        "gofrs:deadline" => "Go gofrs/flock, deadline",
        _ => return (format!("Python {}", way.trim_start_matches("python:")), false),
    };
    (label.into(), label.starts_with("session-lock"))
}

// ------------------------------------------------------------------------------------ contended

/// Waits in the kernel's queue, so it can be seen there.
fn in_kernel(way: &str) -> bool {
    matches!(way, "flock" | "same" | "ours" | "ours:deadline" | "go")
        || matches!(way, "python:session_lock" | "python:fcntl" | "gofrs:endless")
}

/// Until the one who was told to acquire is waiting, and asleep.
fn settle(way: &str, file: &Path, round: usize) {
    let ms = if in_kernel(way) {
        until_blocked(file, 1);
        0.5
    } else {
        // At each point of its interval as often as at any other: the fractions of this number's
        // multiples are evenly spread, and those of its fifth multiple, too (250 ms, and the 50 ms of
        // most). None polls more seldom than four times a second.
        50.0 + 250.0 * (0.754_877_666 * round as f64).fract()
    };
    thread::sleep(Duration::from_secs_f64(ms / 1e3));
}

pub fn hand_over(bench: &Bench, report: &mut Report) {
    let mut ways = vec!["flock", "same", "ours", "ours:deadline"];
    let python: Vec<String> = bench.python.iter().map(|name| format!("python:{name}")).collect();
    ways.extend(python.iter().map(String::as_str));
    if bench.gofrs.is_some() {
        ways.extend(["gofrs:endless", "gofrs:deadline"]);
    }
    if bench.go.is_some() {
        ways.push("go");
    }
    let dirs: Vec<_> = (0..ways.len()).map(|at| bench.dir(&format!("hand-over-{at}"))).collect();
    // Not everyone creates it.
    dirs.iter().for_each(|dir| drop(File::create(lock_file(dir)).unwrap()));
    // Holder and waiter each on a processor of its own: left to itself the scheduler puts them
    // together or apart as it likes, and the one is four times as fast as the other.
    let start = |at: usize, processor| bench.actor(ways[at], &dirs[at]).on_processor(processor);
    let mut pairs: Vec<_> = (0..ways.len()).map(|at| [start(at, 0), start(at, 1)]).collect();
    let mut released = vec![Vec::new(); ways.len()];
    let mut killed = vec![Vec::new(); ways.len()];
    for round in bench.rounds(1000) {
        for (at, way) in ways.iter().enumerate() {
            // A poller keeps one waiting; and an interpreter takes its time to start.
            let here = matches!(*way, "flock" | "same" | "ours" | "ours:deadline");
            let (releases, kills) = if here { (1000, 200) } else { (20, 10) };
            let file = lock_file(&dirs[at]);
            if round < bench.count(releases) {
                let [holder, waiter] = &mut pairs[at];
                holder.ask("acquire");
                waiter.tell("acquire");
                settle(way, &file, round);
                let before = holder.ask("release");
                let after = waiter.answer()[0];
                waiter.ask("release");
                released[at].push((after - before) as f64);
            }
            if round < bench.count(kills) {
                let mut holder = start(at, 0);
                let waiter = &mut pairs[at][1];
                holder.ask("acquire");
                waiter.tell("acquire");
                settle(way, &file, round);
                let before = holder.kill();
                let after = waiter.answer()[0];
                waiter.ask("release");
                killed[at].push((after - before) as f64);
            }
        }
    }
    for (group, times) in [(RELEASE, released), (KILL, killed)] {
        let times: HashMap<&str, Times> =
            ways.iter().copied().zip(times.into_iter().map(Times::new)).collect();
        for way in &ways {
            let (label, ours) = label(way);
            report.point(group, &label, ours, &times[way]);
        }
        let event = if group == RELEASE { "release" } else { "SIGKILL" };
        let name = "blocked flock";
        let [floor, same, endless, deadline] =
            ["flock", "same", "ours", "ours:deadline"].map(|way| &times[way]);
        let what = |kind: &str| format!("hand-over after {event}, {kind}");
        let ratio = endless.median() / floor.median();
        let (a, b) = (endless.median(), floor.median());
        report.at_most(&what("no deadline, p50"), a, b, name, ratio, 1.3);
        report.pair(&what("no deadline, p50"), a, same.median(), "the same system calls in C");
        let (a, b) = (endless.quantile(0.99), floor.quantile(0.99));
        report.pair(&what("no deadline, p99"), a, b, name);
        let (a, b) = (deadline.median(), floor.median());
        report.not_later(&what("deadline, p50"), a, b, name, 100_000.0);
        let (a, b) = (deadline.quantile(0.99), floor.quantile(0.99));
        report.pair(&what("deadline, p99"), a, b, name);
        if let Some(filelock) = times.get("python:filelock") {
            let what = what("deadline, p50");
            report.sooner(&what, deadline.median(), filelock.median(), "filelock", 100.0);
        }
        if let (Some(ours), Some(theirs)) =
            (times.get("python:session_lock"), times.get("python:filelock"))
        {
            let what = what("Python, deadline, p50");
            report.pair(&what, ours.median(), theirs.median(), "filelock");
        }
        if let (Some(ours), Some(theirs)) = (times.get("go"), times.get("gofrs:deadline")) {
            let name = "gofrs, polling every 50 ms";
            report.pair(&what("Go, deadline, p50"), ours.median(), theirs.median(), name);
        }
        let said = |way: &str| times.get(way).map(|times| time(times.median()));
        let others = [
            ("gofrs/flock", said("gofrs:deadline")),
            ("filelock", said("python:filelock")),
            ("fasteners", said("python:fasteners")),
            ("portalocker", said("python:portalocker")),
        ];
        let event = if group == RELEASE { "was released" } else { "lost its holder to SIGKILL" };
        let choice = format!("a waiter with a timeout gets a lock that {event}, after");
        report.choice(&choice, time(deadline.median()), &others);
        for (other, name) in [
            ("python:fasteners", "fasteners"),
            ("python:portalocker", "portalocker"),
            ("gofrs:deadline", "gofrs, polling every 50 ms"),
        ] {
            if let Some(other) = times.get(other) {
                report.pair(&what("deadline, p50"), deadline.median(), other.median(), name);
            }
        }
    }
}

/// One drain of a queue: processes that come one after another, wait, have the lock once, and end.
struct Drain {
    /// Per hand-over: the time, the CPU time of a process from `fork` to its end, and that of its two
    /// calls alone.
    wall: f64,
    life: f64,
    calls: f64,
    /// The longest wait by the median one; the part of all pairs that got the lock in the order in
    /// which they had come.
    longest: f64,
    ordered: f64,
}

fn drain(dir: &Path, count: usize, mut lock: impl Lock) -> Drain {
    let mut holder = Plain::new(dir, SESSION);
    holder.acquire();
    let shared = Shared::new(2 * count);
    let before = cpu_of_children();
    for at in 0..count {
        // SAFETY: this process has one thread, so the child can do what it likes.
        if unsafe { libc::fork() } == 0 {
            let cpu = cpu();
            lock.acquire();
            shared.set(2 * at, now());
            lock.release();
            shared.set(2 * at + 1, actor::cpu() - cpu);
            // SAFETY: does not return.
            unsafe { libc::_exit(0) };
        }
        until_blocked(&lock_file(dir), at + 1);
    }
    thread::sleep(Duration::from_millis(2));
    let begin = now();
    holder.release();
    for _ in 0..count {
        // SAFETY: a null pointer is allowed.
        unsafe { libc::wait(std::ptr::null_mut()) };
    }
    let life = cpu_of_children() - before;
    let waits: Vec<f64> = (0..count).map(|at| (shared.get(2 * at) - begin) as f64).collect();
    let calls: u64 = (0..count).map(|at| shared.get(2 * at + 1)).sum();
    let mut ordered = 0;
    for (at, wait) in waits.iter().enumerate() {
        ordered += waits[at + 1..].iter().filter(|later| *later > wait).count();
    }
    let waits = Times::new(waits);
    Drain {
        wall: waits.worst() / count as f64,
        life: life / count as f64,
        calls: calls as f64 / count as f64,
        longest: waits.worst() / waits.median(),
        ordered: ordered as f64 / (count * (count - 1) / 2).max(1) as f64,
    }
}

/// Numbers that forked children can set.
struct Shared {
    numbers: *mut AtomicU64,
    count: usize,
}

impl Shared {
    fn new(count: usize) -> Shared {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, nobody else's memory.
        let numbers =
            unsafe { libc::mmap(std::ptr::null_mut(), count * 8, protection, flags, -1, 0) };
        assert!(numbers != libc::MAP_FAILED);
        Shared { numbers: numbers.cast(), count }
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has room for so many numbers, is zeroed, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.numbers, self.count) }
    }

    fn set(&self, at: usize, number: u64) {
        self.all()[at].store(number, Ordering::Relaxed);
    }

    fn get(&self, at: usize) -> u64 {
        self.all()[at].load(Ordering::Relaxed)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it is left.
        unsafe { libc::munmap(self.numbers.cast(), self.count * 8) };
    }
}

/// In nanoseconds.
fn cpu_of_children() -> f64 {
    // SAFETY: all its fields are integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is the one that the call fills.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let time = |time: libc::timeval| time.tv_sec as f64 * 1e9 + time.tv_usec as f64 * 1e3;
    time(usage.ru_utime) + time(usage.ru_stime)
}

const THREAD: &str = "a thread in C that is blocked in flock";

pub fn waiters(bench: &Bench, report: &mut Report) {
    let mut curves: [Vec<f64>; 2] = Default::default();
    for (count, rounds) in [(1, 100), (10, 50), (100, 10), (1000, 5)] {
        let ways = ["flock", "thread", "ours"];
        let dirs = ways.map(|way| bench.dir(&format!("waiters-{count}-{way}")));
        let (mut theirs, mut threads, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in bench.rounds(rounds) {
            threads.push(drain(&dirs[1], count, Thread::new(&dirs[1], SESSION)));
            theirs.push(drain(&dirs[0], count, Plain::new(&dirs[0], SESSION)));
            let lock = Ours::new(bench.library, &dirs[2], SESSION, Some(600_000));
            ours.push(drain(&dirs[2], count, lock));
        }
        let median = |drains: &[Drain], of: fn(&Drain) -> f64| {
            Times::new(drains.iter().map(of).collect()).median()
        };
        let name = "blocked flock";
        let mut row = |what: &str, of: fn(&Drain) -> f64, most: f64| {
            let [ours, theirs, thread] =
                [&ours, &theirs, &threads].map(|drains| median(drains, of));
            let waiters = if count == 1 { "waiter" } else { "waiters" };
            let what = format!("{count} {waiters} with a deadline, {what} per hand-over");
            if count == 1000 && most > 0.0 {
                report.at_most(&what, ours, theirs, name, ours / theirs, most);
            } else {
                report.pair(&what, ours, theirs, name);
            }
            if count == 1000 {
                report.pair(&what, ours, thread, THREAD);
                report.pair(&format!("the same, {THREAD}"), thread, theirs, name);
            }
        };
        row("time", |drain| drain.wall, 1.5);
        row("CPU of the process", |drain| drain.life, 2.0);
        row("CPU of the two calls", |drain| drain.calls, 0.0);
        curves[0].push(median(&ours, |drain| drain.wall));
        curves[1].push(median(&theirs, |drain| drain.wall));
        if count > 1 {
            let fair = |drains| {
                let longest = median(drains, |drain| drain.longest);
                format!("{longest:.2}, {:.3}", median(drains, |drain| drain.ordered))
            };
            let what = format!("{count} waiters: longest wait / median, part of pairs in order");
            report.words(&what, fair(&ours), &format!("{} ({name})", fair(&theirs)));
        }
    }
    for (name, curve) in ["session-lock", "blocked flock"].iter().zip(curves) {
        let what = format!("each hand-over, so many wait with a deadline: {name}");
        report.curve(&what, curve.into_iter().map(time).chain(["".into()]).collect());
    }
}

pub fn deadline(bench: &Bench, report: &mut Report) {
    let dir = bench.dir("deadline");
    let mut holder = Plain::new(&dir, SESSION);
    holder.acquire();
    let (dir, session) = (c_path(&dir), CString::new(SESSION).unwrap());
    for (timeout_ms, rounds) in [(0, 1000), (1, 1000), (20, 100), (100, 50), (500, 10)] {
        let timeout = f64::from(timeout_ms) * 1e6;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in bench.rounds(rounds) {
            let begin = now();
            let error = bench.library.wait(&dir, &session, timeout_ms.into(), &mut 0);
            ours.push((now() - begin) as f64 - timeout);
            assert_eq!(error, -libc::ETIMEDOUT);
            let begin = now();
            // SAFETY: no descriptors, so no memory is involved.
            unsafe { libc::poll(std::ptr::null_mut(), 0, timeout_ms) };
            bare.push((now() - begin) as f64 - timeout);
        }
        let early = ours.iter().any(|&late| late < 0.0);
        let (ours, bare) = (Times::new(ours), Times::new(bare));
        let three = |times: &Times| {
            let parts = [0.5, 0.99, 1.0].map(|part| time(times.quantile(part)));
            parts.join(", ")
        };
        let what = format!("{timeout_ms} ms over: late by (p50, p99, worst)");
        let theirs = format!("{} (bare poll)", three(&bare));
        report.words_judged(
            &what,
            three(&ours),
            &theirs,
            "0 to 10 ms",
            !early && ours.worst() < 10e6,
        );
    }
}

pub fn idle(bench: &Bench, report: &mut Report) {
    let mut ways = vec!["flock", "ours", "ours:deadline"];
    let python: Vec<String> = bench.python.iter().map(|name| format!("python:{name}")).collect();
    ways.extend(python.iter().map(String::as_str));
    if bench.gofrs.is_some() {
        ways.push("gofrs:deadline");
    }
    if bench.go.is_some() {
        ways.push("go");
    }
    let seconds = if bench.quick { 1 } else { 10 };
    let waiting: Vec<_> = ways
        .iter()
        .map(|way| {
            let dir = bench.dir(&format!("idle-{}", way.replace(':', "-")));
            // For the one that uses record locks, the other kind, too.
            let mut holder = Plain::new(&dir, SESSION);
            holder.acquire();
            let record = record_lock(&lock_file(&dir));
            let mut actor = bench.actor(way, &dir);
            actor.tell("acquire");
            (actor, holder, record)
        })
        .collect();
    // Also for the slowest to start.
    thread::sleep(Duration::from_millis(1500));
    let before: Vec<_> = waiting.iter().map(|(actor, ..)| actor.activity()).collect();
    thread::sleep(Duration::from_secs(seconds));
    let mut found = Vec::new();
    for ((actor, ..), before) in waiting.iter().zip(before) {
        let after = actor.activity();
        found.push((after.0 - before.0, (after.1 - before.1) as f64));
    }
    for (actor, mut holder, _) in waiting {
        drop(actor);
        holder.release();
    }
    let said = |way: &str| {
        let at = ways.iter().position(|name| *name == way)?;
        Some((found[at].0 * 10 / seconds).to_string())
    };
    let others = [
        ("portalocker", said("python:portalocker")),
        ("fasteners", said("python:fasteners")),
        ("filelock", said("python:filelock")),
        ("gofrs/flock", said("gofrs:deadline")),
    ];
    let what = "wake-ups while one waits for 10 s, with a timeout";
    report.choice(what, said("ours:deadline").unwrap_or_default(), &others);
    let floor = found[0];
    for (way, (wakes, cpu)) in ways.iter().zip(&found).skip(1) {
        let what = format!("idle wait of {seconds} s: wake-ups, CPU: {}", label(way).0);
        let this = format!("{wakes}, {}", time(*cpu));
        if label(way).1 {
            let theirs = format!("{}, {} (blocked flock)", floor.0, time(floor.1));
            report.words_judged(&what, this, &theirs, "0", *wakes == 0);
        } else {
            report.words(&what, String::new(), &this);
        }
    }
}

fn record_lock(path: &Path) -> File {
    use std::os::fd::AsRawFd;
    let file = File::options().read(true).write(true).open(path).unwrap();
    // SAFETY: all its fields are integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    // SAFETY: the struct lives through the call.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) }, 0);
    file
}

// ---------------------------------------------------------------------------------------- asking

/// Played: takes as many locks as it is told, and says how much memory it then has.
pub fn hoard(library: Library, dir: &Path) {
    let dir = c_path(dir);
    let mut count = 0;
    for line in io::stdin().lock().lines() {
        let target: usize = line.unwrap().parse().unwrap();
        while count < target {
            library.acquire(&dir, &CString::new(count.to_string()).unwrap());
            count += 1;
        }
        println!("{}", memory_of("self").0);
    }
}

/// How many locks there are, for the table of how things grow.
pub const COUNTS: [usize; 5] = [1, 10, 100, 1000, 10_000];

pub fn query(bench: &Bench, report: &mut Report) {
    let (dir, own) = (bench.dir_in_memory("query"), bench.dir_in_memory("own"));
    let mut hoard = bench.actor("hoard", &dir);
    let (c_dir, c_own) = (c_path(&dir), c_path(&own));
    let (held, free) = (c"0", c"another");
    let library = &bench.library;
    let cycle = |dir| library.release(library.acquire(dir, free));
    // The files are there before they are looked for.
    cycle(&c_own);
    let mut memory = Vec::new();
    let mut mine = Vec::new();
    let mut curves: [Vec<f64>; 7] = Default::default();
    for count in COUNTS {
        hoard.tell(&count.to_string());
        memory.push(hoard.answer()[0]);
        mine.resize_with(count, || 0);
        // Each is asked many times in a row: what was read before the first time is no part of it.
        let median = |ask: &mut dyn FnMut()| {
            let times = bench.rounds((20_000 / count).clamp(20, 1000)).map(|_| {
                let begin = Instant::now();
                ask();
                begin.elapsed().as_nanos() as f64
            });
            Times::new(times.collect()).median()
        };
        let found = [
            median(&mut || assert_eq!(library.holder(&c_dir, held, false), 1)),
            median(&mut || assert_eq!(library.holder(&c_dir, held, true), 1)),
            median(&mut || assert_eq!(library.holder(&c_own, free, false), 0)),
            median(&mut || drop(read_table())),
            median(&mut || assert_eq!(session_lock::list(Some(&dir)).unwrap().len(), count)),
            median(&mut || cycle(&c_own)),
            {
                for (nth, lock) in mine.iter_mut().enumerate().filter(|(_, lock)| **lock == 0) {
                    *lock = library.acquire(&c_own, &CString::new(nth.to_string()).unwrap());
                }
                let time = median(&mut || cycle(&c_own));
                mine.drain(..).for_each(|lock| library.release(lock));
                time
            },
        ];
        for (curve, found) in curves.iter_mut().zip(found) {
            curve.push(found);
        }
        let [held, _, free, table, ..] = found;
        let table = format!("{} (read /proc/locks once)", time(table));
        if count >= 10 && count != 100 {
            let what = format!("who holds it, {count} locks in the system");
            report.words_judged(&what, time(held), &table, "≤ 40 µs", held <= 40e3);
            let what = format!("{what}: nobody");
            if count == 10 {
                report.words_judged(&what, time(free), &table, "≤ 40 µs", free <= 40e3);
            } else {
                report.words(&what, time(free), &table);
            }
        }
    }
    let [few, many] = [1, 4].map(|at| time(curves[0][at]));
    let what = "who holds a lock, of 10 and of 10,000";
    report.choice(
        what,
        format!("{few}, {many}"),
        &[("(the others cannot tell)", Some(String::new()))],
    );
    let names = [
        "who holds it: held",
        "who holds it: held, and how many wait",
        "who holds it: nobody",
        "read /proc/locks once",
        "list, all of them held",
        "acquire + release another lock, all held by one other process",
        "acquire + release another lock, all held by this process",
    ];
    for (name, curve) in names.iter().zip(curves) {
        report.curve(name, curve.into_iter().map(time).collect());
    }
    hoard.kill();
    let times = bench.rounds(10).map(|_| {
        let begin = Instant::now();
        assert_eq!(session_lock::list(Some(&dir)).unwrap().len(), 10_000);
        begin.elapsed().as_nanos() as f64
    });
    report.plain("list, 10,000 files, none locked", time(Times::new(times.collect()).median()));
    let each = (memory[4] - memory[0]) as f64 / 9999.0;
    report.plain("memory of 10,000 held locks, each", format!("{each:.0} bytes"));
}

fn read_table() -> Vec<u8> {
    let mut text = Vec::with_capacity(4096);
    File::open("/proc/locks").unwrap().read_to_end(&mut text).unwrap();
    text
}

// --------------------------------------------------------------------------------------- program

pub fn run(bench: &Bench, report: &mut Report) {
    let dir = bench.dir("run");
    let file = lock_file(&dir);
    File::create(&file).unwrap();
    let [program, dir, file] = [&bench.program, &dir, &file].map(|path| path.to_str().unwrap());
    let guardian = bench.scratch.join("guardian");
    let guardian = guardian.to_str().unwrap();
    let fixed = bench.scratch.join("static");
    let fixed = fixed.to_str().unwrap();
    // Two programs each, as a script has it.
    let script = |text: String| {
        let script = bench.scratch.join(format!("{}.sh", text.len()));
        fs::write(&script, text).unwrap();
        format!("sh {}", script.to_str().unwrap())
    };
    let acquire =
        script(format!("{program} acquire --dir {dir} s && {program} release --dir {dir} s"));
    let flocks = script(format!("exec 9>>{file} && flock 9 && flock -u 9"));
    let mut ways = vec![
        ("true alone", "true".to_owned()),
        ("session-lock run", format!("{program} run --dir {dir} s true")),
        ("session-lock run, static", format!("{fixed} run --dir {dir} s true")),
        ("session-lock run --inherit", format!("{program} run -i --dir {dir} s true")),
        ("flock(1)", format!("flock {file} true")),
        ("s6-setlock", format!("s6-setlock {file} true")),
        ("with-lock-ex", format!("with-lock-ex -w {file} true")),
        ("a guardian in C", format!("{guardian} {file} true")),
        ("acquire, release", acquire),
        ("flock 9 twice", flocks),
    ];
    let works = |line: &str| {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    ways.retain(|(name, way)| {
        let works = works(way);
        if !works {
            eprintln!("not measured: {name}");
        }
        works
    });
    let mut rounds = vec![Vec::new(); ways.len()];
    for _ in bench.rounds(500) {
        for ((_, way), times) in ways.iter().zip(&mut rounds) {
            let begin = Instant::now();
            works(way);
            times.push(begin.elapsed().as_nanos() as f64);
        }
    }
    let times: Vec<_> = rounds.into_iter().map(Times::new).collect();
    let of = |name: &str| Some(&times[ways.iter().position(|way| way.0 == name)?]);
    for (name, ours) in [
        ("session-lock run", true),
        ("session-lock run, static", true),
        ("flock(1)", false),
        ("s6-setlock", false),
        ("with-lock-ex", false),
    ] {
        if let Some(times) = of(name) {
            report.point(RUN, name, ours, times);
        }
    }
    let Some(ours) = of("session-lock run") else { return };
    let ours = ours.median();
    let what = "run x -- true, start to end";
    for name in ["flock(1)", "s6-setlock", "with-lock-ex", "a guardian in C", "true alone"] {
        let Some(theirs) = of(name).map(Times::median) else { continue };
        if matches!(name, "flock(1)" | "s6-setlock") {
            report.at_most(what, ours, theirs, name, ours / theirs, 1.0);
        } else {
            report.pair(what, ours, theirs, name);
        }
    }
    for (what, way) in [
        ("the same, the static program", "session-lock run, static"),
        ("run --inherit x -- true", "session-lock run --inherit"),
        ("the same, a guardian in C", "a guardian in C"),
    ] {
        if let (Some(this), Some(s6)) = (of(way), of("s6-setlock")) {
            report.pair(what, this.median(), s6.median(), "s6-setlock");
        }
    }
    let said = |name: &str| of(name).map(|times| time(times.median()));
    let others = ["s6-setlock", "flock(1)"].map(|name| (name, said(name)));
    let fixed = said("session-lock run, static").map(|time| format!("; {time} as a static file"));
    let choice = format!("{}{}", time(ours), fixed.unwrap_or_default());
    report.choice("`run x -- true`, start to end", choice, &others);
    if let (Some(ours), Some(theirs)) = (of("acquire, release"), of("flock 9 twice")) {
        let what = "a script that only calls `acquire` and `release`";
        let others = [("with `flock 9` and `flock -u 9`", said("flock 9 twice"))];
        report.choice(what, time(ours.median()), &others);
        let what = "acquire, release in a script";
        report.not_later(what, ours.median(), theirs.median(), "flock 9; flock -u 9", 1e6);
    }
}

// ---------------------------------------------------------------------------------------- memory

/// Resident, and of that what the process has for itself alone, in bytes.
fn memory_of(process: &str) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let field = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (field("Rss:"), field("Private_Dirty:"))
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

/// Played: what the library adds to a process that loads it and takes a lock.
pub fn footprint(library: impl FnOnce() -> Library, dir: &Path) {
    // What the measuring itself needs is there before.
    memory_of("self");
    let before = memory_of("self");
    let mut lock = Ours::new(library(), dir, SESSION, None);
    lock.acquire();
    let after = memory_of("self");
    println!("{} {}", after.0 - before.0, after.1 - before.1);
    io::stdout().flush().unwrap();
    let _ = io::stdin().read_line(&mut String::new());
}

pub fn memory(bench: &Bench, report: &mut Report) {
    let dir = bench.dir("memory");
    let added = bench.actor("footprint", &dir).answer();
    let what = "memory that the library and a lock add to a process: resident, its own";
    report.plain(what, format!("{}, {}", kib(added[0]), kib(added[1])));
    let mut command = Command::new(&bench.program);
    command.args(["run", "--dir"]).arg(&dir).args(["g", "sleep", "60"]).stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        let pids = || session_lock::processes(Some(&dir), "g").unwrap_or_default();
        let limit = Instant::now() + Duration::from_secs(2);
        let guardian = loop {
            // The program itself has the lock until it has become the command.
            let command = fs::read_to_string(format!("/proc/{}/comm", child.id()));
            let other = pids().into_iter().find(|process| process.pid != child.id());
            if other.is_some() && command.is_ok_and(|name| name == "sleep\n") {
                break other;
            }
            if Instant::now() > limit {
                break None;
            }
            thread::sleep(Duration::from_millis(1));
        };
        if let Some(guardian) = guardian {
            let (resident, own) = memory_of(&guardian.pid.to_string());
            let what = "memory of run's guardian: resident, its own";
            let said = format!("{}, {}", kib(resident), kib(own));
            report.alone(what, said, "≤ 250 KiB its own", own <= 250 << 10);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    for (what, file, most) in [
        ("size of the shared library, stripped", &bench.library_file, Some(400 * 1024)),
        ("size of the program, stripped", &bench.program, None),
    ] {
        let stripped = bench.scratch.join("stripped");
        let mut strip = Command::new("strip");
        if !strip.args(["-s", "-o"]).arg(&stripped).arg(file).status().is_ok_and(|s| s.success()) {
            continue;
        }
        let size = fs::metadata(&stripped).unwrap().len();
        match most {
            Some(most) => report.alone(what, kib(size), &format!("≤ {}", kib(most)), size <= most),
            None => report.plain(what, kib(size)),
        }
    }
}
