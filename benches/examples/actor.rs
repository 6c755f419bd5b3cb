//! A process that locks FILE with one of Rust's libraries, as it is told on standard input: see
//! `comparison/compare.py`.

use std::fs::File;
use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use session_lock::{LockOptions, SessionLock};

trait Lock {
    /// Tries once, or waits.
    fn take(&mut self, seconds: f64) -> bool;
    fn release(&mut self);
    fn is_told(&self) -> bool {
        false
    }
}

fn open(file: &str) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(file).unwrap()
}

struct Ours(String, Option<SessionLock>);

impl Lock for Ours {
    fn take(&mut self, seconds: f64) -> bool {
        let file = Path::new(&self.0);
        let options = LockOptions::new().directory(file.parent().unwrap());
        let options = options.timeout(Duration::from_secs_f64(seconds));
        self.1 = options.acquire(file.file_stem().unwrap()).ok();
        self.1.is_some()
    }

    fn release(&mut self) {
        let _ = self.1.take().unwrap().release();
    }

    fn is_told(&self) -> bool {
        self.1.as_ref().is_some_and(|lock| lock.check().is_err())
    }
}

struct Std(String, Option<File>);

impl Lock for Std {
    fn take(&mut self, seconds: f64) -> bool {
        let file = open(&self.0);
        // There is no wait with a deadline.
        let taken = if seconds > 0.0 { file.lock().is_ok() } else { file.try_lock().is_ok() };
        self.1 = taken.then_some(file);
        taken
    }

    fn release(&mut self) {
        let _ = self.1.take().unwrap().unlock();
    }
}

struct FdLock(String, Option<fd_lock::RwLockWriteGuard<'static, File>>);

impl Lock for FdLock {
    fn take(&mut self, seconds: f64) -> bool {
        // A guard borrows its lock, which lives as long as this process.
        let lock = Box::leak(Box::new(fd_lock::RwLock::new(open(&self.0))));
        self.1 = if seconds > 0.0 { lock.write().ok() } else { lock.try_write().ok() };
        self.1.is_some()
    }

    fn release(&mut self) {
        self.1 = None;
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let file = args[2].clone();
    let mut lock: Box<dyn Lock> = match args[1].as_str() {
        "session-lock" => Box::new(Ours(file, None)),
        "std" => Box::new(Std(file, None)),
        "fd-lock" => Box::new(FdLock(file, None)),
        other => panic!("{other}?"),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match command {
            "take" => lock.take(argument.parse().unwrap()),
            "release" => {
                lock.release();
                true
            }
            "told" => lock.is_told(),
            "fork" => {
                println!("{}", fork(&mut *lock, argument == "release"));
                continue;
            }
            _ => panic!("{line}"),
        };
        println!("{}", if answer { "yes" } else { "no" });
    }
}

/// A child that lives on, or one that releases what it has inherited.
fn fork(lock: &mut dyn Lock, release: bool) -> i32 {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    // SAFETY: neither call touches memory, but `waitpid` with a null pointer.
    unsafe {
        if child == 0 {
            if release {
                lock.release();
                libc::_exit(0);
            }
            libc::pause();
        }
        if release {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    child
}
