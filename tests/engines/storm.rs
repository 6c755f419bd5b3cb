//! Contenders on three hosts, of which one is killed all the time: an oracle in shared memory says who
//! holds the lock.

use std::fs;
use std::hint;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use session_lock::SessionLock;

use crate::kill;
use crate::setup::{Cluster, Engine};
use crate::support::{self, Actor, Stage, until};

const CONTENDERS: usize = 6;
const KILLS: u64 = 100;

/// Lives in a file that all processes map.
#[repr(C)]
struct Oracle {
    /// The number of the contender that says that it holds the lock; 0 for none.
    owner: AtomicU64,
    last_token: AtomicU64,
    acquisitions: AtomicU64,
    double_holds: AtomicU64,
    tokens_not_larger: AtomicU64,
    wrong_checks: AtomicU64,
    /// Which contenders are dead for certain.
    dead: [AtomicBool; 1 << 16],
}

impl Oracle {
    fn map(path: &Path) -> &'static Oracle {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        file.set_len(size_of::<Oracle>() as u64).unwrap();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (size, file) = (size_of::<Oracle>(), file.as_raw_fd());
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory =
            unsafe { libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, file, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        // SAFETY: the mapping is as large as the file, page-aligned and never unmapped; zeros are a valid
        // value of every field, and all of them are atomic.
        unsafe { &*memory.cast::<Oracle>() }
    }

    fn enter(&self, me: u64, token: u64) {
        self.acquisitions.fetch_add(1, SeqCst);
        let start = Instant::now();
        while let Err(other) = self.owner.compare_exchange(0, me, SeqCst, SeqCst) {
            // The lock of one that is killed is free a moment before it is known to be dead.
            if self.dead[usize::try_from(other).unwrap()].load(SeqCst) {
                let _ = self.owner.compare_exchange(other, 0, SeqCst, SeqCst);
            } else if self.owner.load(SeqCst) != other || start.elapsed() > Duration::from_secs(10)
            {
                // It has left while we hold the lock, or it lives.
                self.double_holds.fetch_add(1, SeqCst);
                self.owner.store(me, SeqCst);
                break;
            }
            hint::spin_loop();
        }
        if self.last_token.swap(token, SeqCst) >= token {
            self.tokens_not_larger.fetch_add(1, SeqCst);
        }
    }

    fn leave(&self, me: u64) {
        if self.owner.compare_exchange(me, 0, SeqCst, SeqCst).is_err() {
            self.double_holds.fetch_add(1, SeqCst);
        }
    }
}

/// `args`: the directory, the oracle, its own number.
pub fn contend(stage: &mut Stage) {
    let oracle = Oracle::map(Path::new(&stage.args[1]));
    let me: u64 = stage.args[2].parse().unwrap();
    loop {
        let lock = SessionLock::wait(Some(Path::new(&stage.args[0])), "s", None, None).unwrap();
        oracle.enter(me, lock.token().unwrap());
        if lock.check().is_err() {
            oracle.wrong_checks.fetch_add(1, SeqCst);
        }
        oracle.leave(me);
        lock.release().unwrap();
    }
}

pub fn run(engine: &Engine, cluster: &Cluster) {
    let scratch = support::scratch();
    let path = scratch.path().join("oracle");
    fs::write(&path, "").unwrap();
    let oracle = Oracle::map(&path);
    let start = |number: u64, place: usize| -> (Actor, u32, u64) {
        let host = &cluster.network.hosts[place % 3];
        let args = [&cluster.locks, path.to_str().unwrap(), &number.to_string()];
        let (actor, pid) = host.actor("contender", &args);
        (actor, pid, number)
    };
    let began = Instant::now();
    let mut number = 0;
    let mut contenders: Vec<_> = (0..CONTENDERS)
        .map(|place| {
            number += 1;
            start(number, place)
        })
        .collect();
    let kills = if support::long() { 3 * KILLS } else { KILLS };
    for round in 0..kills {
        let place = usize::try_from(round).unwrap() % CONTENDERS;
        let seen = oracle.acquisitions.load(SeqCst);
        until("somebody got the lock", || oracle.acquisitions.load(SeqCst) > seen + round % 3);
        let (mut actor, pid, dead) = contenders.swap_remove(place);
        kill(pid);
        actor.child.wait().unwrap();
        oracle.dead[usize::try_from(dead).unwrap()].store(true, SeqCst);
        number += 1;
        contenders.push(start(number, place));
    }
    for (actor, pid, _) in &mut contenders {
        kill(*pid);
        actor.child.wait().unwrap();
    }
    let figures = [
        ("acquisitions", &oracle.acquisitions),
        ("double holds", &oracle.double_holds),
        ("tokens not larger", &oracle.tokens_not_larger),
        ("wrong checks", &oracle.wrong_checks),
    ]
    .map(|(what, figure)| (what, figure.load(SeqCst)));
    let name = engine.name;
    eprintln!(
        "{name}: storm of {:.1} s, {kills} kills: {figures:?}",
        began.elapsed().as_secs_f64()
    );
    assert!(figures[0].1 > kills);
    assert!(figures[1..].iter().all(|&(_, figure)| figure == 0), "{figures:?}");
}
