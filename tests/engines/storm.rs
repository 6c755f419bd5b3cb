//! Contenders on three hosts, of which one is killed all the time: an oracle in shared memory says who
//! holds the lock.

use std::fs;
use std::hint;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use session_lock::SessionLock;

use crate::hosts::{self, Host};
use crate::setup::{Cluster, Engine};
use crate::support::{self, Actor, Stage, until};

const CONTENDERS: usize = 6;
const KILLS: u64 = 100;

/// Of the memory that all hosts share: a power of two.
pub const ORACLE_SIZE: u64 = 1 << 17;
const _: () = assert!(size_of::<Oracle>() as u64 <= ORACLE_SIZE);

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
    /// For the storm with cuts: the largest token that anybody has got.
    newest: AtomicU64,
    /// The number of the host of which somebody holds the lock, from 1; 0 for none.
    holding: AtomicU64,
    /// Who holds the lock on the host with this number, from 1, keeps it until a check fails.
    keep: AtomicU64,
    /// How often somebody has begun to do so.
    kept: AtomicU64,
    /// How often somebody on each host got the lock.
    grants: [AtomicU64; 3],
    same_tokens: AtomicU64,
    /// A check that began when somebody else had a larger token said that all is well.
    late_checks: AtomicU64,
    /// The lock was lost, and a check said so.
    told: AtomicU64,
    without_token: AtomicU64,
    /// Which contenders are dead for certain.
    dead: [AtomicBool; 1 << 16],
}

impl Oracle {
    fn map(path: &Path) -> &'static Oracle {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (size, file) = (usize::try_from(ORACLE_SIZE).unwrap(), file.as_raw_fd());
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
    let path = cluster.oracle.to_str().unwrap();
    let oracle = Oracle::map(&cluster.oracle);
    let start = |number: u64, place: usize| -> (Actor, &Host, u32, u64) {
        let host = &cluster.network.hosts[place % 3];
        let args = [&cluster.locks, host.oracle(path), &number.to_string()];
        let (actor, pid) = host.actor("contender", &args);
        (actor, host, pid, number)
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
        let (mut actor, host, pid, dead) = contenders.swap_remove(place);
        host.kill(pid);
        actor.child.wait().unwrap();
        oracle.dead[usize::try_from(dead).unwrap()].store(true, SeqCst);
        number += 1;
        contenders.push(start(number, place));
    }
    for (actor, host, pid, _) in &mut contenders {
        host.kill(*pid);
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

/// `args`: the directory, the oracle, the host's number, how many checks it makes while it holds the lock.
/// What it gets may be an error at any time.
pub fn hold(stage: &mut Stage) {
    let oracle = Oracle::map(Path::new(&stage.args[1]));
    let host: usize = stage.args[2].parse().unwrap();
    let checks: u32 = stage.args[3].parse().unwrap();
    loop {
        let Ok(lock) = SessionLock::wait(Some(Path::new(&stage.args[0])), "cuts", None, None)
        else {
            // Where the mount is dead, the error comes at once.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let Ok(token) = lock.token() else {
            oracle.without_token.fetch_add(1, SeqCst);
            continue;
        };
        if oracle.newest.fetch_max(token, SeqCst) == token {
            oracle.same_tokens.fetch_add(1, SeqCst);
        }
        oracle.holding.store(host as u64 + 1, SeqCst);
        oracle.grants[host].fetch_add(1, SeqCst);
        let (mut made, mut kept) = (0, false);
        let mut lost = loop {
            let keep = oracle.keep.load(SeqCst) == host as u64 + 1;
            if keep && !kept {
                kept = true;
                oracle.kept.fetch_add(1, SeqCst);
            }
            if made >= checks && !keep {
                break false;
            }
            let newest = oracle.newest.load(SeqCst);
            if lock.check().is_err() {
                break true;
            }
            if newest > token {
                oracle.late_checks.fetch_add(1, SeqCst);
            }
            made += 1;
        };
        let _ = oracle.holding.compare_exchange(host as u64 + 1, 0, SeqCst, SeqCst);
        lost |= lock.release().is_err();
        oracle.told.fetch_add(u64::from(lost), SeqCst);
    }
}

/// The host of the holder is cut off, and connected again when somebody on another host has got the lock;
/// meanwhile a process on a third host is killed.
pub fn with_cuts(engine: &Engine, cluster: &Cluster) {
    const CUTS: u32 = 3;
    let oracle = Oracle::map(&cluster.oracle);
    let path = cluster.oracle.to_str().unwrap();
    let start = |number: usize, checks: &str| -> (Actor, u32) {
        let host = &cluster.network.hosts[number];
        let args = [&cluster.locks, host.oracle(path), &number.to_string(), checks];
        host.actor("holder", &args)
    };
    let start_two = |number: usize| [start(number, "1"), start(number, "20")];
    let grants = |number: usize| oracle.grants[number].load(SeqCst);
    let mut holders = [0, 1, 2].map(start_two);
    let began = Instant::now();
    let (mut cuts, mut longest, mut mounted_again) = (0, Duration::ZERO, 0);
    while cuts < CUTS {
        let mut number = 0;
        until("somebody holds the lock", || {
            number = oracle.holding.load(SeqCst);
            number > 0
        });
        let kept = oracle.kept.load(SeqCst);
        oracle.keep.store(number, SeqCst);
        until("it keeps it, or has released it", || {
            oracle.kept.load(SeqCst) > kept || oracle.holding.load(SeqCst) != number
        });
        if oracle.kept.load(SeqCst) == kept {
            oracle.keep.store(0, SeqCst);
            continue;
        }
        let number = usize::try_from(number).unwrap() - 1;
        let host = &cluster.network.hosts[number];
        let told = oracle.told.load(SeqCst);
        let others = || -> u64 { (0..3).filter(|&other| other != number).map(grants).sum() };
        let (seen, cut) = (others(), Instant::now());
        cluster.network.cut_off(host);
        let third = (number + 1) % 3;
        cluster.network.hosts[third].kill(holders[third][0].1);
        holders[third][0] = start(third, "1");
        // The servers may take as long as they like.
        while others() < seen + 2 {
            thread::sleep(Duration::from_millis(1));
        }
        longest = longest.max(cut.elapsed());
        cluster.network.connect(host);
        until("the old holder is told", || oracle.told.load(SeqCst) > told);
        oracle.keep.store(0, SeqCst);
        cuts += 1;
        let seen = grants(number);
        let limit = if engine.mount_lives_on { support::LIMIT } else { Duration::ZERO };
        let connected = Instant::now();
        // Now and then a mount of GlusterFS does not connect again.
        while grants(number) < seen + 2 {
            if connected.elapsed() > limit && !engine.in_kernel {
                mounted_again += 1;
                for (_, pid) in &holders[number] {
                    host.kill(*pid);
                }
                hosts::kill(cluster.mounts[number].get());
                cluster.mount_again(engine, number);
                holders[number] = start_two(number);
                until("the new mount works", || grants(number) >= seen + 2);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    for (number, holder) in holders.iter_mut().enumerate() {
        for (actor, pid) in holder {
            cluster.network.hosts[number].kill(*pid);
            actor.child.wait().unwrap();
        }
    }
    let name = engine.name;
    let grants: u64 = (0..3).map(grants).sum();
    let [told, without_token, same_tokens, late_checks] =
        [&oracle.told, &oracle.without_token, &oracle.same_tokens, &oracle.late_checks]
            .map(|figure| figure.load(SeqCst));
    eprintln!(
        "{name}: storm of {:.1} s, {cuts} cuts of a holder, the longest of {:.1} s, {mounted_again} mounts \
         made anew: {grants} grants, {told} holders told of a loss, {without_token} locks without a token, \
         {same_tokens} tokens twice, {late_checks} checks too late",
        began.elapsed().as_secs_f64(),
        longest.as_secs_f64(),
    );
    assert_eq!((same_tokens, late_checks), (0, 0));
}
