//! Hosts: network, mount, PID and UTS namespaces, joined by a bridge that leads nowhere else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Actor, have, is_root, skip, until};

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
    let fuse = Path::new("/dev/fuse").exists();
    if !fuse {
        skip("there is no /dev/fuse");
    }
    allowed && fuse
}

impl Host {
    fn new(name: &'static str, address: String) -> Host {
        let mut command = Command::new("unshare");
        command.args(NAMESPACES).args(["--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-euc", FIRST_PROCESS, name]);
        let mut unshare = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(unshare.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let first = child_of(unshare.id());
        Host { name, address, unshare, first }
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
        succeed(&mut self.command(words));
    }

    /// A command that runs until the host ends, or it is killed; its PID as the test sees it.
    pub fn start(&self, words: &[&str], log: &Path) -> u32 {
        let log = fs::File::create(log).unwrap();
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        child_of(command.spawn().unwrap().id())
    }

    /// An actor on the host, and its PID as the test sees it.
    pub fn actor(&self, role: &str, args: &[&str]) -> (Actor, u32) {
        let enter = self.enter(&NAMESPACES);
        let words: Vec<&str> = enter.iter().map(String::as_str).collect();
        let actor = Actor::start_under(&words, role, args);
        let pid = child_of(actor.pid());
        (actor, pid)
    }

    pub fn until_mounted(&self, place: &Path) {
        let table = format!("/proc/{}/mountinfo", self.first);
        let place = format!(" {} ", place.display());
        until("it is mounted", || fs::read_to_string(&table).unwrap().contains(&place));
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
fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
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
            host.ip(&["address", "add", &format!("{}/24", host.address), "dev", "eth0"]);
            host.ip(&["link", "set", "eth0", "up"]);
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
