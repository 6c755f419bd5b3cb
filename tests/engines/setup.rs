//! The filesystems: their servers on one host, a mount on each of the others.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::hosts::{self, Host, Network};
use crate::machine::Image;
use crate::storm;
use crate::support::{have, skip, until};

pub struct Engine {
    pub name: &'static str,
    pub tools: &'static [&'static str],
    /// A mount whose host was cut off works again by itself; CephFS must be mounted again.
    pub mount_lives_on: bool,
    /// It is in the kernel, and each host a virtual machine. Otherwise a process serves each mount.
    pub in_kernel: bool,
    /// Starts the servers, which keep their files in the directory.
    serve: fn(&Host, &Path),
    /// The servers: each process, and the command that starts it again.
    pub servers: &'static [(&'static str, &'static str)],
    /// The command that mounts it; where a process serves the mount, that stays in the foreground.
    mount: fn(&Host, &Cluster) -> Vec<String>,
}

pub const MOOSEFS: Engine = Engine {
    name: "MooseFS",
    tools: &["mfsmaster", "mfschunkserver", "mfsmount"],
    mount_lives_on: true,
    in_kernel: false,
    serve: serve_moosefs,
    // One that has the only copy of a label may lose it when it is killed.
    servers: &[("mfsmaster", "mfsmaster -c $0/master.cfg -a start")],
    mount: |_, cluster| {
        let place = cluster.place.to_str().unwrap();
        let server = format!("mfsmaster={}", cluster.network.server.address);
        ["mfsmount", place, "-f", "-o", &server].map(str::to_owned).to_vec()
    },
};

pub const CEPHFS: Engine = Engine {
    name: "CephFS",
    tools: &["ceph", "ceph-fuse", "ceph-mds", "ceph-mon", "ceph-osd", "monmaptool"],
    mount_lives_on: false,
    in_kernel: false,
    serve: serve_cephfs,
    // Not the one that has all data in memory.
    servers: &[
        ("ceph-mon", "ceph-mon -c $0/ceph.conf -i a"),
        ("ceph-mds", "ceph-mds -c $0/ceph.conf -i a"),
    ],
    mount: |host, cluster| {
        let name = format!("client.{}", host.name);
        let configuration = cluster.scratch.path().join("ceph.conf");
        let paths = [&configuration, &cluster.place].map(|path| path.to_str().unwrap());
        ["ceph-fuse", "-f", "-c", paths[0], "-n", &name, paths[1]].map(str::to_owned).to_vec()
    },
};

pub const GLUSTERFS: Engine = Engine {
    name: "GlusterFS",
    tools: &["gluster", "glusterd", "glusterfs"],
    mount_lives_on: true,
    in_kernel: false,
    serve: serve_glusterfs,
    servers: &[
        ("glusterd", "glusterd"),
        ("glusterfsd", "gluster --mode=script volume start shared force"),
    ],
    mount: |host, cluster| {
        let server = format!("--volfile-server={}", cluster.network.server.address);
        let log = format!("--log-file={}/{}.log", cluster.scratch.path().display(), host.name);
        let place = cluster.place.to_str().unwrap();
        let words = ["glusterfs", "--no-daemon", &server, "--volfile-id=shared", &log, place];
        words.map(str::to_owned).to_vec()
    },
};

pub const NFS: Engine = Engine {
    name: "NFS 4.2",
    tools: &[],
    mount_lives_on: true,
    in_kernel: true,
    serve: serve_nfs,
    servers: &[("the machine", "")],
    mount: |_, cluster| {
        let place = cluster.place.to_str().unwrap();
        let line = "mkdir -p $0 && mount -t nfs4 -o vers=4.2 10.0.0.101:/ $0";
        ["sh", "-c", line, place].map(str::to_owned).to_vec()
    },
};

/// The servers and three hosts, each with the filesystem at the same place.
pub struct Cluster {
    pub network: Network<3>,
    place: PathBuf,
    /// The directory of the lock files, on each host.
    pub locks: String,
    /// The processes that serve the mounts, if there are any.
    pub mounts: [Cell<u32>; 3],
    /// What all hosts share, however they are cut off: see the storm.
    pub oracle: PathBuf,
    image: Option<Image>,
    scratch: tempfile::TempDir,
}

fn fuse_is_there() -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        skip("there is no /dev/fuse");
    }
    there
}

impl Cluster {
    /// `None` where it cannot be had; why not has been said.
    pub fn new(engine: &Engine) -> Option<Cluster> {
        if !hosts::can_be_made() || !engine.tools.iter().all(|tool| have(tool)) {
            return None;
        }
        let scratch = crate::support::scratch();
        let image = if engine.in_kernel { Some(Image::new(scratch.path())?) } else { None };
        if image.is_none() && !fuse_is_there() {
            return None;
        }
        let place = scratch.path().join("mnt");
        fs::create_dir(&place).unwrap();
        let oracle = scratch.path().join("oracle");
        fs::File::create(&oracle).unwrap().set_len(storm::ORACLE_SIZE).unwrap();
        let network = Network::new(["alpha", "beta", "gamma"]);
        // Not the filesystem's root, which everybody can write.
        let locks = place.join("locks").to_str().unwrap().to_owned();
        let mut cluster =
            Cluster { network, place, locks, mounts: Default::default(), oracle, image, scratch };
        cluster.start_machines();
        (engine.serve)(&cluster.network.server, cluster.scratch.path());
        for number in 0..3 {
            cluster.mount(engine, number);
        }
        // Servers that have only just started are slow to take what is written the second time.
        let file = format!("of={}", cluster.place.join("written").display());
        for _ in 0..2 {
            let write = ["dd", "if=/dev/zero", &file, "count=1", "conv=fsync,notrunc"];
            cluster.network.hosts[0].run(&write);
        }
        // The clock is far behind the last token: so it rises only if each host reads what the last holder wrote.
        let token =
            "mkdir -m 700 \"$0\" && printf '0\\ntoken=9000000000000000000\\n' >\"$0\"/s.lock";
        cluster.network.hosts[0].run(&["sh", "-c", token, &cluster.locks]);
        Some(cluster)
    }

    fn start_machines(&mut self) {
        let Some(image) = &self.image else { return };
        let file = self.oracle.display();
        let size = storm::ORACLE_SIZE;
        let memory = format!("memory-backend-file,id=oracle,share=on,mem-path={file},size={size}");
        let options = ["-object", &memory, "-device", "ivshmem-plain,memdev=oracle"];
        // The server's stays what it is when the machine is killed.
        let disk = self.scratch.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        hosts::succeed(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&disk));
        let drive = format!("if=virtio,format=raw,file={}", disk.display());
        self.network.server.start_machine(image, &["-drive", &drive]);
        for host in &mut self.network.hosts {
            host.start_machine(image, &options);
        }
        self.network.server.until_started();
        for host in &self.network.hosts {
            host.until_started();
        }
    }

    /// Mounts the filesystem on a host.
    fn mount(&self, engine: &Engine, number: usize) {
        let host = &self.network.hosts[number];
        let command = (engine.mount)(host, self);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        if engine.in_kernel {
            host.run(&words);
            return;
        }
        let log = self.scratch.path().join(host.name);
        self.mounts[number].set(host.start(&words, &log));
        host.until_mounted(&self.place);
    }

    /// Mounts it once more, after the process that served the mount was killed.
    pub fn mount_again(&self, engine: &Engine, number: usize) {
        let host = &self.network.hosts[number];
        host.run(&["umount", "--lazy", self.place.to_str().unwrap()]);
        host.until_not_mounted(&self.place);
        self.mount(engine, number);
    }

    /// Kills a server and starts it again.
    pub fn restart(&self, engine: &Engine, process: &str, again: &str) {
        let server = &self.network.server;
        let dir = self.scratch.path();
        if engine.in_kernel {
            server.restart_machine();
            (engine.serve)(server, dir);
            return;
        }
        server.run(&["pkill", "-KILL", "-x", process]);
        until("the server has ended", || {
            let running = server.command(&["pgrep", "-x", process]).output().unwrap();
            !running.status.success()
        });
        server.run(&["sh", "-euc", again, dir.to_str().unwrap()]);
    }
}

/// The kernel's own server, told directly what `exportfs` and `mountd` would tell it.
fn serve_nfs(server: &Host, _: &Path) {
    // In the export: insecure ports, no check of subtrees, a filesystem's number, no NLM.
    let commands = [
        "mkdir -p /srv",
        "mount -t ext4 /dev/vda /srv",
        "{ [ -d /srv/clients ] || first=yes; }",
        "mkdir -p /srv/shared /srv/clients",
        "mount -t nfsd none /proc/fs/nfsd",
        "cd /proc/fs/nfsd",
        "echo /srv/clients >nfsv4recoverydir",
        "echo 10 >nfsv4leasetime",
        "echo 30 >nfsv4gracetime",
        "echo -2 -3 +4 +4.1 +4.2 >versions",
        "cd /proc/net/rpc",
        r#"for number in 102 103 104; do echo "nfsd 10.0.0.$number 2147483647 all" >auth.unix.ip/channel; done"#,
        "echo 'all /srv/shared 2147483647 11266 65534 65534 0' >nfsd.export/channel",
        r"echo 'all 1 \x00000000 2147483647 /srv/shared' >nfsd.fh/channel",
        "echo 8 >/proc/fs/nfsd/threads",
        // What is written of the clients while the server waits for those of before is lost afterwards.
        "{ [ -z \"$first\" ] || echo Y >/proc/fs/nfsd/v4_end_grace; }",
    ];
    server.run(&["sh", "-c", &commands.join(" && ")]);
}

fn serve_moosefs(server: &Host, dir: &Path) {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for name in ["master", "chunks", "disk"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(path("master/metadata.mfs"), "MFSM NEW").unwrap();
    fs::write(path("exports"), "* / rw,alldirs,maproot=0\n").unwrap();
    fs::write(path("disks"), path("disk")).unwrap();
    // A minute is the least that a host's locks outlive its connection.
    let master = format!(
        "WORKING_USER = root\nNICE_LEVEL = 0\nDATA_PATH = {}\nEXPORTS_FILENAME = {}\n\
         SESSION_SUSTAIN_TIME = 60\n",
        path("master"),
        path("exports"),
    );
    let chunkserver = format!(
        "WORKING_USER = root\nNICE_LEVEL = 0\nDATA_PATH = {}\nHDD_CONF_FILENAME = {}\n\
         MASTER_HOST = {}\nHDD_LEAVE_SPACE_DEFAULT = 16MiB\n",
        path("chunks"),
        path("disks"),
        server.address,
    );
    fs::write(path("master.cfg"), master).unwrap();
    fs::write(path("chunkserver.cfg"), chunkserver).unwrap();
    server.run(&["mfsmaster", "-c", &path("master.cfg"), "start"]);
    server.run(&["mfschunkserver", "-c", &path("chunkserver.cfg"), "start"]);
}

fn serve_cephfs(server: &Host, dir: &Path) {
    const ID: &str = "11111111-2222-3333-4444-555555555555";
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (configuration, map) = (path("ceph.conf"), path("monmap"));
    let address = format!("[v1:{}:6789]", server.address);
    // One of each, nobody has to prove who they are, and all data is in memory.
    let text = format!(
        "[global]\nfsid = {ID}\nmon_host = {address}\nms_bind_msgr2 = false\n\
         auth_cluster_required = none\nauth_service_required = none\nauth_client_required = none\n\
         mon_data = {0}/mon\nosd_data = {0}/osd\nmds_data = {0}/mds\nlog_file = {0}/$name.log\n\
         run_dir = /run\nadmin_socket = /run/$name.sock\n\
         osd_objectstore = memstore\nmemstore_device_bytes = 268435456\n\
         osd_pool_default_size = 1\nosd_pool_default_min_size = 1\nmon_allow_pool_size_one = true\n\
         osd_crush_chooseleaf_type = 0\nosd_class_update_on_start = false\nosd_crush_update_on_start = false\nosd_pool_default_pg_autoscale_mode = off\n",
        dir.display()
    );
    fs::write(&configuration, text).unwrap();
    for name in ["mon", "osd", "mds"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    // Without authentication, a monitor refuses one command in a hundred ("wrong fsid"). All of these may be
    // given twice.
    let again = "for n in 1 2 3 4 5; do \"$@\" && exit; done; exit 1";
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let name = ["sh", "-c", again, "sh", words[0], "-c", &configuration];
        server.run(&[&name[..], &words[1..]].concat());
    };
    server.run(&["monmaptool", "--create", "--fsid", ID, "--addv", "a", &address, &map]);
    run(&format!("ceph-mon --mkfs -i a --monmap {map}"));
    run("ceph-mon -i a");
    run(&format!("ceph osd new {ID}"));
    run(&format!("ceph-osd --mkfs -i 0 --osd-uuid {ID}"));
    run("ceph osd crush add osd.0 1 root=default host=server");
    run("ceph-osd -i 0");
    run("ceph osd pool create metadata 4");
    run("ceph osd pool create data 4");
    run("ceph fs new shared metadata data");
    // The least that a host's locks outlive its connection; without, five minutes.
    run("ceph fs set shared session_timeout 30");
    run("ceph fs set shared session_autoclose 30");
    run("ceph-mds -i a");
    // ceph-fuse does not wait for that.
    let active = "until ceph -c \"$0\" mds stat | grep -q up:active; do :; done";
    server.run(&["sh", "-c", active, &configuration]);
}

/// One brick; the settings are those of `docs/more-than-one-machine.md`.
fn serve_glusterfs(server: &Host, dir: &Path) {
    let brick = dir.join("brick");
    fs::create_dir(&brick).unwrap();
    let brick = format!("{}:{}", server.address, brick.display());
    for place in ["/var/lib/glusterd", "/var/log/glusterfs", "/var/run"] {
        server.run(&["mount", "-t", "tmpfs", "none", place]);
    }
    server.run(&["glusterd"]);
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        server.run(&[&["gluster", "--mode=script", "volume"], &words[..]].concat());
    };
    run(&format!("create shared {brick} force"));
    for setting in [
        "network.ping-timeout 5",
        "server.tcp-user-timeout 5",
        "server.keepalive-time 2",
        "server.keepalive-interval 1",
        "client.strict-locks on",
        "performance.quick-read off",
        "performance.open-behind off",
    ] {
        run(&format!("set shared {setting}"));
    }
    run("start shared");
}
