//! Each holder's fencing token is larger than the one before: eight processes take turns, delete the lock file
//! now and then, and tear its label.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use session_lock::SessionLock;
use support::{Actor, Stage};

const PROCESSES: u64 = 8;

#[test]
fn role() {
    support::play(&[("taker", take)]);
}

#[test]
fn every_token_is_larger_than_the_one_before() {
    let acquisitions = if support::long() { 1_000_000 } else { 4_000 };
    let dir = support::scratch();
    let last = dir.path().join("last");
    fs::write(&last, 0_u64.to_ne_bytes()).unwrap();
    let args = [dir.path().to_str().unwrap(), &(acquisitions / PROCESSES).to_string()];
    let actors: Vec<_> = (0..PROCESSES).map(|_| Actor::start("taker", &args)).collect();
    actors.into_iter().for_each(Actor::finish);
}

/// `args`: the directory, and how often.
fn take(stage: &mut Stage) {
    let dir = Path::new(&stage.args[0]);
    let count: u64 = stage.args[1].parse().unwrap();
    let last = fs::File::options().read(true).write(true).open(dir.join("last")).unwrap();
    for number in 1..=count {
        let lock = SessionLock::wait(Some(dir), "s", None, None).unwrap();
        let token = lock.token().unwrap();
        let mut before = [0; 8];
        last.read_exact_at(&mut before, 0).unwrap();
        assert!(token > u64::from_ne_bytes(before), "number {number}");
        last.write_all_at(&token.to_ne_bytes(), 0).unwrap();
        match number % 64 {
            0 => fs::remove_file(lock.path()).unwrap(),
            32 => {
                let label = fs::File::options().write(true).open(lock.path()).unwrap();
                label.set_len(number % 512).unwrap();
            }
            _ => {}
        }
        // It says so where the file was deleted.
        let _ = lock.release();
    }
}
