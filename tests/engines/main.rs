//! Several hosts: filesystems whose `flock` holds across them, and what the library says on each host
//! when everything goes well, when a holder dies, and when its host is cut off.
//!
//! `SESSION_LOCK_LONG=1 cargo test --test engines -- --nocapture` gives the figures of
//! `docs/more-than-one-machine.md`.

mod hosts;
mod machine;
mod setup;
mod storm;
#[path = "../support/mod.rs"]
mod support;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use hosts::Host;
use session_lock::{Error, LockOptions, State};
use setup::{Cluster, Engine};
use support::{Actor, Stage, until};

#[test]
fn role() {
    support::play(&[("client", client), ("contender", storm::contend), ("holder", storm::hold)]);
}

#[test]
fn moosefs() {
    run(&setup::MOOSEFS);
}

#[test]
fn cephfs() {
    run(&setup::CEPHFS);
}

#[test]
fn glusterfs() {
    run_if_long(&setup::GLUSTERFS);
}

#[test]
fn nfs() {
    run_if_long(&setup::NFS);
}

fn run_if_long(engine: &Engine) {
    if support::long() {
        run(engine);
    } else {
        eprintln!("not run: only with SESSION_LOCK_LONG=1");
    }
}

fn run(engine: &Engine) {
    if !support::long() && !support::in_ci() {
        return support::skip(
            "it starts the servers of a filesystem; SESSION_LOCK_LONG=1 does that",
        );
    }
    let start = Instant::now();
    let Some(cluster) = Cluster::new(engine) else { return };
    report(engine, "set up", start);
    in_turn(engine, &cluster);
    holder_dies(engine, &cluster);
    servers_die(engine, &cluster);
    storm::run(engine, &cluster);
    // The servers wait a minute or two for a host that has gone.
    if support::long() {
        cut_off(engine, &cluster);
        if !engine.in_kernel {
            mount_dies(engine, &cluster);
        }
        storm::with_cuts(engine, &cluster);
    }
}

fn report(engine: &Engine, what: &str, start: Instant) {
    eprintln!("{}: {what}: {:.1} ms", engine.name, start.elapsed().as_secs_f64() * 1e3);
}

// ------------------------------------------------------------------------------------- a client

/// Does what it is told, with one lock at a time, in the directory `args[0]`.
fn client(stage: &mut Stage) {
    let dir = stage.args[0].clone();
    let dir = Path::new(&dir);
    let mut lock = None;
    while let Some(line) = stage.next() {
        let (order, session) = line.split_once(' ').unwrap_or((&line, ""));
        let stdin = io::stdin();
        let options = LockOptions::new().directory(dir).command("a client");
        let mut acquire = |options: LockOptions<'_>| {
            lock = Some(options.acquire(session)?);
            Ok(lock.as_ref().unwrap().token()?.to_string())
        };
        let answer = match order {
            "acquire" => acquire(options),
            "wait" => acquire(options.wait().cancel(stdin.as_fd())),
            "wait-500" => acquire(options.timeout(Duration::from_millis(500))),
            // It has cancelled a wait.
            "enough" => continue,
            "check" => lock.as_ref().unwrap().check().map(|()| "ok".to_owned()),
            "release" => lock.take().unwrap().release().map(|()| "ok".to_owned()),
            "holder" => session_lock::holder(Some(dir), session).map(|holder| told(&holder)),
            "list" => session_lock::list(Some(dir)).map(|sessions| {
                let told =
                    sessions.iter().map(|one| format!("{:?} {}", one.name, told(&one.holder)));
                told.collect::<Vec<_>>().join(", ")
            }),
            _ => panic!("no such order: {order}"),
        };
        stage.say(&answer.unwrap_or_else(|error| name(&error)));
    }
}

fn told(holder: &session_lock::Holder) -> String {
    match holder.state {
        State::Free => "free".to_owned(),
        // Only a kernel that has all locks can confirm one.
        State::Held if holder.confirmed => "held, confirmed".to_owned(),
        State::Held => format!("held on {}", holder.host.to_string_lossy()),
        State::Unknown => format!("unknown, of {}", holder.host.to_string_lossy()),
    }
}

fn name(error: &Error) -> String {
    match error {
        Error::Held { .. } => "held".to_owned(),
        Error::TimedOut { .. } => "timed out".to_owned(),
        Error::Cancelled { .. } => "cancelled".to_owned(),
        Error::Stale { .. } => "stale".to_owned(),
        other => format!("{other}"),
    }
}

/// A client, seen from the test.
struct Client<'a> {
    actor: Actor,
    pid: u32,
    host: &'a Host,
}

impl Client<'_> {
    fn on(cluster: &Cluster, host: usize) -> Client<'_> {
        let host = &cluster.network.hosts[host];
        let (actor, pid) = host.actor("client", &[&cluster.locks]);
        Client { actor, pid, host }
    }

    fn ask(&mut self, order: &str) -> String {
        self.actor.say(order);
        self.answer(order)
    }

    #[track_caller]
    fn answer(&mut self, order: &str) -> String {
        self.actor.next().unwrap_or_else(|| panic!("{}, {order}: it has ended", self.host.name))
    }

    #[track_caller]
    fn must(&mut self, order: &str, answer: &str) {
        let host = self.host.name;
        assert_eq!(self.ask(order), answer, "{host}: {order}");
    }

    /// What `order` gets must be the lock: its token.
    #[track_caller]
    fn get(&mut self, order: &str) -> u64 {
        self.actor.say(order);
        self.token(order)
    }

    #[track_caller]
    fn token(&mut self, order: &str) -> u64 {
        let answer = self.answer(order);
        answer.parse().unwrap_or_else(|_| panic!("{}, {order}: {answer}", self.host.name))
    }

    /// Gives an order that waits for the lock, and returns when it does wait.
    fn begin(&mut self, order: &str) {
        self.actor.say(order);
        until("the client waits in flock", || self.host.is_in_flock(self.pid));
    }

    fn kill(&mut self) {
        self.host.kill(self.pid);
        while self.actor.next().is_some() {}
    }
}

fn end<const N: usize>(clients: [Client<'_>; N]) {
    for client in clients {
        client.actor.finish();
    }
}

// ---------------------------------------------------------------------------- what must be so

/// Exclusion, refusals, waits, hand-over; what is said meanwhile on each host.
fn in_turn(engine: &Engine, cluster: &Cluster) {
    let [mut alpha, mut beta, mut gamma] = [0, 1, 2].map(|host| Client::on(cluster, host));
    let first = alpha.get("acquire s");
    // At once, and again, when what was read the first time may have been remembered.
    for _ in 0..3 {
        alpha.must("holder s", "held on alpha");
        for other in [&mut beta, &mut gamma] {
            other.must("holder s", "unknown, of alpha");
            other.must("list", r#""s" unknown, of alpha"#);
            other.must("acquire s", "held");
        }
        alpha.must("check", "ok");
    }

    let start = Instant::now();
    beta.must("wait-500 s", "timed out");
    let took = start.elapsed();
    report(engine, "a wait of 500 ms", start);
    assert!((500..5_000).contains(&took.as_millis()), "{took:?}");

    gamma.begin("wait s");
    let start = Instant::now();
    gamma.must("enough", "cancelled");
    report(engine, "a cancelled wait ends", start);
    alpha.must("check", "ok");

    beta.begin("wait s");
    let start = Instant::now();
    alpha.must("release", "ok");
    let second = beta.token("wait s");
    report(engine, "handed over by release", start);
    assert!(second > first);
    for other in [&mut alpha, &mut gamma] {
        other.must("holder s", "unknown, of beta");
    }
    beta.must("release", "ok");
    for client in [&mut alpha, &mut beta, &mut gamma] {
        let start = Instant::now();
        until("it is known to be free", || client.ask("holder s") == "free");
        report(engine, &format!("{}: known to be free", client.host.name), start);
        assert!(client.get("acquire s") > second);
        client.must("release", "ok");
    }
    end([alpha, beta, gamma]);
}

/// SIGKILL of the holder frees the lock at once, also for other hosts.
fn holder_dies(engine: &Engine, cluster: &Cluster) {
    let [mut alpha, mut beta, mut gamma] = [0, 1, 2].map(|host| Client::on(cluster, host));
    let first = alpha.get("acquire s");
    beta.begin("wait s");
    let start = Instant::now();
    alpha.kill();
    let second = beta.token("wait s");
    report(engine, "handed over by SIGKILL", start);
    assert!(second > first);
    beta.must("check", "ok");
    gamma.must("holder s", "unknown, of beta");
    beta.kill();
    gamma.must("holder s", "unknown, of beta");
    assert!(gamma.get("wait s") > second);
    end([gamma]);
}

/// Each server is killed under the lock and started again: the lock is still held, or its holder is told.
fn servers_die(engine: &Engine, cluster: &Cluster) {
    for (process, again) in engine.servers {
        let [mut alpha, mut beta, mut gamma] = [0, 1, 2].map(|host| Client::on(cluster, host));
        let first = alpha.get("acquire server");
        beta.begin("wait server");
        let start = Instant::now();
        cluster.restart(engine, process, again);
        report(engine, &format!("{process}: killed and started again"), start);
        let checked = alpha.ask("check");
        report(engine, &format!("{process}: the holder's check says {checked}"), start);
        if checked == "ok" {
            gamma.must("acquire server", "held");
            report(engine, &format!("{process}: another host is refused"), start);
            alpha.must("check", "ok");
            alpha.must("release", "ok");
        } else {
            assert_eq!(checked, "stale");
            alpha.must("check", "stale");
            alpha.must("release", "stale");
        }
        // A wait may end with the server; that is an error, and not the lock.
        let mut waited = beta.answer("wait server");
        if waited.parse::<u64>().is_err() {
            eprintln!("{}: {process}: a wait says: {waited}", engine.name);
            until("the server works again", || {
                waited = beta.ask("wait server");
                waited.parse::<u64>().is_ok()
            });
        }
        report(engine, &format!("{process}: handed over"), start);
        assert!(waited.parse::<u64>().unwrap() > first);
        beta.must("check", "ok");
        gamma.must("holder server", "unknown, of beta");
        beta.must("release", "ok");
        end([alpha, beta, gamma]);
    }
}

/// The process that serves a holder's mount is killed.
fn mount_dies(engine: &Engine, cluster: &Cluster) {
    let [mut beta, mut gamma] = [1, 2].map(|host| Client::on(cluster, host));
    beta.get("acquire killed");
    gamma.begin("wait killed");
    hosts::kill(cluster.mounts[1].get());
    let start = Instant::now();
    beta.must("check", "stale");
    beta.must("check", "stale");
    report(engine, "check, the mount being killed", start);
    gamma.token("wait killed");
    report(engine, "another host gets the lock, the mount being killed", start);
    end([beta, gamma]);
    cluster.mount_again(engine, 1);
}

/// The holder's host is cut off, until somebody else has the lock.
fn cut_off(engine: &Engine, cluster: &Cluster) {
    let [mut alpha, mut gamma] = [0, 2].map(|host| Client::on(cluster, host));
    let first = alpha.get("acquire cut");
    gamma.begin("wait cut");

    // A short time without the network costs nobody the lock.
    cluster.network.cut_off(&cluster.network.hosts[0]);
    cluster.network.connect(&cluster.network.hosts[0]);
    alpha.must("check", "ok");

    cluster.network.cut_off(&cluster.network.hosts[0]);
    let start = Instant::now();
    alpha.actor.say("check");
    let second = gamma.token("wait cut");
    report(engine, "another host gets the lock, the holder's being cut off", start);
    assert!(second > first);

    cluster.network.connect(&cluster.network.hosts[0]);
    let meanwhile = alpha.answer("check");
    report(engine, "check, begun when it was cut off", start);
    assert_eq!(meanwhile, "stale");
    let start = Instant::now();
    alpha.must("check", "stale");
    report(engine, "check, when it is connected again", start);
    gamma.must("check", "ok");
    // An error, or the truth: which need not come at once.
    let on_alpha = |alpha: &mut Client| {
        let mut holder = alpha.ask("holder cut");
        if engine.mount_lives_on {
            until("the mount works again", || {
                let works = !holder.contains("os error");
                if !works {
                    holder = alpha.ask("holder cut");
                }
                works
            });
            assert_eq!(holder, "unknown, of gamma");
        } else {
            assert!(holder.contains("(os error 108)"), "{holder}");
        }
    };
    on_alpha(&mut alpha);
    // It stays lost when it is free again.
    gamma.must("release", "ok");
    alpha.must("check", "stale");
    let third = gamma.get("acquire cut");
    assert!(third > second);
    // And the next holder's label is left alone.
    alpha.must("release", "stale");
    gamma.must("check", "ok");
    gamma.must("holder cut", "held on gamma");
    on_alpha(&mut alpha);
    gamma.must("release", "ok");
    if engine.mount_lives_on {
        assert!(alpha.get("acquire cut") > third);
        alpha.must("check", "ok");
    }
    end([alpha, gamma]);
}
