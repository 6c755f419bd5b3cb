//! Virtual machines, for filesystems that are in the kernel: another kernel, and a first process that runs
//! what it is told over the network. Emulated, for where this test runs there may be no hardware for them.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::hosts::{self, Host};
use crate::support::{Actor, have, skip, until};

const INIT: &str = include_str!("init");
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "virtio_blk", "nfsv4", "nfsd"];

/// What a machine starts with: a kernel, and a first filesystem with this very program.
pub struct Image {
    kernel: PathBuf,
    initial: PathBuf,
    /// Files of the machines' own.
    dir: PathBuf,
}

/// The kernel's version and modules, below `$SESSION_LOCK_KERNEL`: what `dpkg -x` makes of a package of a
/// kernel. Or the kernel that is installed.
fn kernel() -> Option<(PathBuf, PathBuf)> {
    let root = env::var_os("SESSION_LOCK_KERNEL").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let versions = fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten();
    let found = versions.map(|version| version.path()).find_map(|modules| {
        let version = modules.file_name()?.to_str()?;
        let kernel = root.join(format!("boot/vmlinuz-{version}"));
        (kernel.is_file() && modules.join("kernel/fs/nfsd/nfsd.ko").is_file())
            .then_some((kernel, modules))
    });
    if found.is_none() {
        skip(
            "there is no kernel with nfsd.ko: apt-get download a linux-image-…-cloud-amd64, dpkg -x it, and \
             name the directory in SESSION_LOCK_KERNEL",
        );
    }
    found
}

impl Image {
    /// `None` where it cannot be had; why not has been said.
    pub fn new(dir: &Path) -> Option<Image> {
        if !["qemu-system-x86_64", "busybox", "mke2fs", "ldd"].iter().all(|tool| have(tool)) {
            return None;
        }
        let (kernel, modules) = kernel()?;
        let root = dir.join("root");
        for place in ["bin", "dev", "proc", "sys", "tmp", "mnt"] {
            fs::create_dir_all(root.join(place)).unwrap();
        }
        let init = INIT.replace("MODULES", &MODULES.join(" "));
        fs::write(root.join("init"), init).unwrap();
        let make = r#"
            root=$1 modules=$2 program=$3
            chmod +x "$root/init"
            cp "$(command -v busybox)" "$root/bin/busybox"
            ln -s busybox "$root/bin/sh"
            version=${modules##*/}
            mkdir -p "$root/lib/modules/$version"
            shift 3
            # Not in the directory of the kernel, which may be that of the system.
            busybox depmod -n -b "${modules%/lib/modules/*}/" "$version" >"$root/../modules"
            sed -n '/\.ko:/p' "$root/../modules" >"$root/lib/modules/$version/modules.dep"
            cd "$modules"
            for name; do
                files=$(grep "/$name\.ko:" "$root/lib/modules/$version/modules.dep" | tr -d :)
                cp --parents $files "$root/lib/modules/$version"
            done
            for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
                mkdir -p "$root${file%/*}"
                cp -L "$file" "$root$file"
            done
            cd "$root"
            find . | busybox cpio -o -H newc >../initial
        "#;
        let mut command = Command::new("sh");
        command.args(["-euc", make, "sh"]).args([&root, &modules]);
        command.arg(env::current_exe().unwrap()).args(MODULES);
        hosts::succeed(&mut command);
        fs::remove_dir_all(&root).unwrap();
        Some(Image { kernel, initial: dir.join("initial"), dir: dir.to_owned() })
    }
}

/// A running machine.
pub struct Machine {
    pid: Cell<u32>,
    command: Vec<String>,
    log: PathBuf,
    address: String,
    console: PathBuf,
}

impl Machine {
    /// Starts it on the host, whose bridge leads it to the others. It has `host.address` but for the last
    /// number, which is larger by 100.
    pub fn new(host: &Host, image: &Image, options: &[&str]) -> Machine {
        let (network, number) = host.address.rsplit_once('.').unwrap();
        let number: u32 = number.parse().unwrap();
        let address = format!("{network}.{}", number + 100);
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let append =
            format!("console=ttyS0 loglevel=6 panic=-1 name={} address={address}", host.name);
        let console = image.dir.join(format!("{}.console", host.name));
        let serial = format!("file:{}", path(&console));
        let mac = format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:{number:02x}");
        let (kernel, initial) = (path(&image.kernel), path(&image.initial));
        let words = [
            &["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"][..],
            // Where there is one processor only, what is atomic for its programs is not so for other
            // machines: see the oracle of the storm.
            &["-accel", "tcg,thread=multi", "-smp", "2", "-m", "256", "-no-reboot"],
            &["-kernel", &kernel, "-initrd", &initial, "-append", &append, "-serial", &serial],
            &["-netdev", "tap,id=net,ifname=tap,script=no,downscript=no", "-device", &mac],
            options,
        ]
        .concat();
        let log = image.dir.join(format!("{}.qemu", host.name));
        let pid = Cell::new(host.start(&words, &log));
        let command = words.into_iter().map(str::to_owned).collect();
        Machine { pid, command, log, address, console }
    }

    /// As if its plug were pulled out, and put in again; its disk stays.
    pub fn restart(&self, host: &Host) {
        hosts::kill(self.pid.get());
        let gone = Path::new("/proc").join(self.pid.get().to_string());
        until("the machine has ended", || !gone.exists());
        let words: Vec<&str> = self.command.iter().map(String::as_str).collect();
        self.pid.set(host.start(&words, &self.log));
        self.until_started(host);
    }

    pub fn until_started(&self, host: &Host) {
        until("the machine has started", || {
            let mut connection = host.connection(&self.address, "1");
            connection.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap().status.success()
        });
    }

    /// Starts a command, whose input and output are the actor's; and its PID.
    fn start_line(&self, host: &Host, line: &str) -> (Actor, u32) {
        let mut actor = Actor::start_other(host.connection(&self.address, "1"));
        actor.say(line);
        let pid = actor.next().unwrap_or_else(|| panic!("{}: no connection", host.name));
        (actor, pid.parse().unwrap())
    }

    pub fn start(&self, host: &Host, command: &Command) -> (Actor, u32) {
        let variables = command.get_envs().map(|(name, value)| {
            quoted(&format!("{}={}", text(name), text(value.expect("a variable is only set"))))
        });
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words = words.map(|word| quoted(text(word)));
        let line = ["env".to_owned()].into_iter().chain(variables).chain(words);
        self.start_line(host, &line.collect::<Vec<_>>().join(" "))
    }

    #[track_caller]
    pub fn run(&self, host: &Host, words: &[&str]) {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let line = format!("sh -c '\"$@\"; printf \"\\001%s\\n\" $?' sh {}", words.join(" "));
        let (mut actor, _) = self.start_line(host, &line);
        let status = actor.next();
        let console = String::from_utf8_lossy(&fs::read(&self.console).unwrap()).into_owned();
        assert_eq!(status.as_deref(), Some("0"), "{}: {words:?}: {console}", host.name);
    }

    /// The system calls that the threads of a process are in: `/proc/PID/task/*/syscall`.
    pub fn calls(&self, host: &Host, pid: u32) -> Vec<String> {
        let files = format!("/proc/{pid}/task/*/syscall");
        let line = format!(r#"for call in {files}; do printf '\001%s\n' "$(cat $call)"; done"#);
        let (mut actor, _) = self.start_line(host, &format!("sh -c {}", quoted(&line)));
        std::iter::from_fn(|| actor.next()).collect()
    }
}

fn text(text: &OsStr) -> &str {
    text.to_str().unwrap()
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
