//! The filesystems: their servers on one host, a mount on each of the others.

use std::fs;
use std::path::{Path, PathBuf};

use crate::hosts::{self, Host, Network};
use crate::support::have;

pub struct Engine {
    pub name: &'static str,
    pub tools: &'static [&'static str],
    /// A mount whose host was cut off works again by itself; CephFS must be mounted again.
    pub mount_lives_on: bool,
    /// Starts the servers, which keep their files in the directory.
    serve: fn(&Host, &Path),
    /// The command that mounts it and stays in the foreground.
    mount: fn(&Host, &Cluster) -> Vec<String>,
}

pub const MOOSEFS: Engine = Engine {
    name: "MooseFS",
    tools: &["mfsmaster", "mfschunkserver", "mfsmount"],
    mount_lives_on: true,
    serve: serve_moosefs,
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
    serve: serve_cephfs,
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
    serve: serve_glusterfs,
    mount: |host, cluster| {
        let server = format!("--volfile-server={}", cluster.network.server.address);
        let log = format!("--log-file={}/{}.log", cluster.scratch.path().display(), host.name);
        let place = cluster.place.to_str().unwrap();
        let words = ["glusterfs", "--no-daemon", &server, "--volfile-id=shared", &log, place];
        words.map(str::to_owned).to_vec()
    },
};

/// The servers and three hosts, each with the filesystem at the same place.
pub struct Cluster {
    pub network: Network<3>,
    place: PathBuf,
    /// The directory of the lock files, on each host.
    pub locks: String,
    /// The processes that serve the mounts.
    pub mounts: [u32; 3],
    scratch: tempfile::TempDir,
}

impl Cluster {
    /// `None` where it cannot be had; why not has been said.
    pub fn new(engine: &Engine) -> Option<Cluster> {
        if !hosts::can_be_made() || !engine.tools.iter().all(|tool| have(tool)) {
            return None;
        }
        let scratch = crate::support::scratch();
        let place = scratch.path().join("mnt");
        fs::create_dir(&place).unwrap();
        let network = Network::new(["alpha", "beta", "gamma"]);
        (engine.serve)(&network.server, scratch.path());
        // Not the filesystem's root, which everybody can write.
        let locks = place.join("locks").to_str().unwrap().to_owned();
        let mut cluster = Cluster { network, place, locks, mounts: [0; 3], scratch };
        for number in 0..3 {
            let host = &cluster.network.hosts[number];
            let command = (engine.mount)(host, &cluster);
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            cluster.mounts[number] = host.start(&words, &cluster.scratch.path().join(host.name));
            host.until_mounted(&cluster.place);
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
        "client.strict-locks on",
        "performance.quick-read off",
        "performance.open-behind off",
    ] {
        run(&format!("set shared {setting}"));
    }
    run("start shared");
}
