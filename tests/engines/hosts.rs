//! Hosts: network, mount, PID and UTS namespaces, joined by a bridge that leads nowhere else. For what is in
//! the kernel, each has a virtual machine, and what is done on the host is done there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::machine::{Image, Machine};
use crate::support::{self, Actor, have, is_root, skip, until};

/// The first process of a host: it reaps what is left to it, and ends with the test, however that ends;
/// everything else on the host ends with it.
const FIRST_PROCESS: &str = r#"
    trap "" CHLD
    echo "$0" >/proc/sys/kernel/hostname
    mount -t tmpfs none /run
    ip link set lo up
    echo up
    exec cat
"#;

const NAMESPACES: [&str; 4] = ["--net", "--mount", "--pid", "--uts"];

pub struct Host {
    pub name: &'static str,
    pub address: String,
    unshare: Child,
    first: u32,
    machine: Option<Machine>,
}

/// Whether hosts can be made here.
pub fn can_be_made() -> bool {
    if !is_root() || !["unshare", "nsenter", "ip"].iter().all(|tool| have(tool)) {
        return false;
    }
    let mut bridge = Command::new("unshare");
    bridge.args(NAMESPACES).args(["--fork", "ip", "link", "add", "switch", "type", "bridge"]);
    let allowed = bridge.stderr(Stdio::null()).status().unwrap().success();
    if !allowed {
        skip("namespaces and bridges are not allowed here");
    }
    allowed
}

impl Host {
    fn new(name: &'static str, address: String) -> Host {
        let mut command = Command::new("unshare");
        command.args(NAMESPACES).args(["--fork", "--kill-child", "--mount-proc"]);
        // Dash would not ignore SIGCHLD.
        command.args(["bash", "-euc", FIRST_PROCESS, name]);
        let mut unshare = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(unshare.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let first = child_of(unshare.id());
        Host { name, address, unshare, first, machine: None }
    }

    fn enter(&self, namespaces: &[&str]) -> Vec<String> {
        let words = ["nsenter", "--target", &self.first.to_string()].map(str::to_owned);
        let namespaces = namespaces.iter().map(|&namespace| namespace.to_owned());
        words.into_iter().chain(namespaces).chain(["--".to_owned()]).collect()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let enter = self.enter(&NAMESPACES);
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(words);
        command
    }

    /// Runs the command on the host; it must succeed. What it leaves in the background stays.
    #[track_caller]
    pub fn run(&self, words: &[&str]) {
        match &self.machine {
            Some(machine) => machine.run(self, words),
            None => succeed(&mut self.command(words)),
        }
    }

    /// A command that runs until the host ends, or it is killed; its PID as the test sees it.
    pub fn start(&self, words: &[&str], log: &Path) -> u32 {
        let log = fs::File::create(log).unwrap();
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        child_of(command.spawn().unwrap().id())
    }

    /// An actor on the host, and its PID for [`Host::kill`] and [`Host::is_in_flock`].
    pub fn actor(&self, role: &str, args: &[&str]) -> (Actor, u32) {
        if let Some(machine) = &self.machine {
            return machine.start(self, &support::actor_command(role, args));
        }
        let enter = self.enter(&NAMESPACES);
        let words: Vec<&str> = enter.iter().map(String::as_str).collect();
        let actor = Actor::start_under(&words, role, args);
        let pid = child_of(actor.pid());
        (actor, pid)
    }

    pub fn kill(&self, pid: u32) {
        match &self.machine {
            Some(machine) => machine.run(self, &["kill", "-KILL", &pid.to_string()]),
            None => kill(pid),
        }
    }

    /// Whether a thread of the process is in `flock`.
    pub fn is_in_flock(&self, pid: u32) -> bool {
        let flock = format!("{} ", libc::SYS_flock);
        if let Some(machine) = &self.machine {
            return machine.calls(self, pid).iter().any(|call| call.starts_with(&flock));
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut calls =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("syscall")).ok());
        calls.any(|call| call.starts_with(&flock))
    }

    /// Where the host sees the memory that is in the file `oracle` here.
    pub fn oracle<'a>(&self, oracle: &'a str) -> &'a str {
        if self.machine.is_some() { "/oracle" } else { oracle }
    }

    /// Gives the host a virtual machine with an address of its own; from now on, everything is done there.
    pub fn start_machine(&mut self, image: &Image, options: &[&str]) {
        self.ip(&["tuntap", "add", "tap", "mode", "tap"]);
        self.ip(&["link", "set", "tap", "master", "switch", "up"]);
        self.machine = Some(Machine::new(self, image, options));
    }

    pub fn restart_machine(&self) {
        self.machine.as_ref().unwrap().restart(self);
    }

    pub fn until_started(&self) {
        self.machine.as_ref().unwrap().until_started(self);
    }

    /// A command that talks to what listens on the port of that address.
    pub fn connection(&self, address: &str, port: &str) -> Command {
        let enter = self.enter(&["--net"]);
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(["busybox", "nc", address, port]);
        command
    }

    pub fn until_mounted(&self, place: &Path) {
        until("it is mounted", || self.has_mounted(place));
    }

    pub fn until_not_mounted(&self, place: &Path) {
        until("it is not mounted any more", || !self.has_mounted(place));
    }

    fn has_mounted(&self, place: &Path) -> bool {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.first)).unwrap();
        table.contains(&format!(" {} ", place.display()))
    }

    fn ip(&self, words: &[&str]) {
        let enter = self.enter(&["--net"]);
        succeed(Command::new(&enter[0]).args(&enter[1..]).arg("ip").args(words));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

pub fn kill(pid: u32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), libc::SIGKILL) }, 0);
}

/// The only child of a process that starts just one.
fn child_of(pid: u32) -> u32 {
    let mut child = None;
    until("the process has started its child", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        child = children.unwrap_or_default().trim().parse().ok();
        child.is_some()
    });
    child.unwrap()
}

/// A host for the servers, with the bridge, and others that are connected to it.
pub struct Network<const N: usize> {
    pub server: Host,
    pub hosts: [Host; N],
}

impl<const N: usize> Network<N> {
    pub fn new(names: [&'static str; N]) -> Network<N> {
        let server = Host::new("server", "10.0.0.1".to_owned());
        server.ip(&["link", "add", "switch", "type", "bridge"]);
        server.ip(&["link", "set", "switch", "up"]);
        server.ip(&["address", "add", "10.0.0.1/24", "dev", "switch"]);
        let mut number = 1;
        let hosts = names.map(|name| {
            number += 1;
            let host = Host::new(name, format!("10.0.0.{number}"));
            let first = host.first.to_string();
            let veth =
                ["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &first];
            server.ip(&veth);
            server.ip(&["link", "set", name, "master", "switch", "up"]);
            // A virtual machine is connected to it as well, and can be reached when the host is cut off.
            host.ip(&["link", "add", "switch", "type", "bridge"]);
            host.ip(&["link", "set", "switch", "up"]);
            host.ip(&["link", "set", "eth0", "master", "switch", "up"]);
            host.ip(&["address", "add", &format!("{}/24", host.address), "dev", "switch"]);
            host
        });
        Network { server, hosts }
    }

    pub fn cut_off(&self, host: &Host) {
        self.server.ip(&["link", "set", host.name, "down"]);
    }

    pub fn connect(&self, host: &Host) {
        self.server.ip(&["link", "set", host.name, "up"]);
    }
}
