//! What `make dist` makes is installed and used, as by somebody who has neither Rust nor these sources.
//! In the long run: it builds everything for release.

mod support;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::installed::run;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where Rust has a standard library for a processor.
fn target(processor: &str) -> Option<String> {
    let target = format!("{processor}-unknown-linux-musl");
    let mut rustc = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
    let libraries = run(rustc.args(["--print", "target-libdir", "--target", &target]));
    if Path::new(libraries.trim()).is_dir() {
        return Some(target);
    }
    // No failure in CI: not every network has a way to where rustup gets it.
    eprintln!("skipped: no Rust for {target}; to get it: rustup target add {target}");
    None
}

/// The directory with all that `make dist` makes; made once. `None`, and a word about it, in the short run or
/// where a tool is missing.
fn dist(tools: &[&str]) -> Option<PathBuf> {
    static DIST: OnceLock<PathBuf> = OnceLock::new();
    if !support::long() {
        eprintln!("skipped: only with SESSION_LOCK_LONG=1");
        return None;
    }
    let all = ["make", "cc", "git", "python3", "dpkg-deb", "dpkg-architecture", "objdump", "tar"];
    if !all.iter().chain(tools).all(|tool| support::have(tool)) {
        return None;
    }
    let mut python = Command::new("python3");
    python.args(["-c", "import setuptools.command.bdist_wheel, venv, pip"]);
    if !python.output().unwrap().status.success() {
        support::skip("Python has no pip, no venv, or no setuptools 70.1");
        return None;
    }
    let make = || {
        let dist = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dist");
        let targets: Vec<_> = ["x86_64", "aarch64"].into_iter().filter_map(target).collect();
        let mut make = Command::new("make");
        make.current_dir(support::root()).args(["--silent", "dist", "VENDOR=1"]);
        make.arg(format!("DIST={}", dist.display())).arg(format!("STATIC={}", targets.join(" ")));
        run(&mut make);
        dist
    };
    Some(DIST.get_or_init(make).clone())
}

fn processor() -> &'static str {
    env::consts::ARCH
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len()
}

/// Unpacks an archive there, without its topmost directory.
fn unpack(archive: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut tar = Command::new("tar");
    run(tar.args(["--strip-components=1", "-xzf"]).arg(archive).arg("-C").arg(to));
}

/// A directory to become another process's root, with a shell of one static file and nothing else.
fn empty_root(at: &Path) -> Option<PathBuf> {
    if !support::is_root() || !support::have("busybox") || !support::have("unshare") {
        return None;
    }
    let root = at.join("root");
    for directory in ["bin", "proc", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    run(Command::new("chmod").arg("1777").arg(root.join("tmp")));
    run(Command::new("sh")
        .args(["-c", "cp \"$(command -v busybox)\" \"$0\""])
        .arg(root.join("bin")));
    for applet in ["echo", "grep", "sh", "true"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    Some(root)
}

/// The output of a script in that root, with `/proc` or without.
fn in_root(root: &Path, proc: bool, script: &str) -> String {
    let mount = if proc { "mount -t proc proc \"$0/proc\"" } else { ":" };
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c"]);
    unshare.arg(format!("{mount} && exec chroot \"$0\" /bin/sh -euc \"$1\" 2>&1"));
    unshare.arg(root).arg(script).env_clear();
    unshare.env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/");
    run(&mut unshare)
}

/// Locks, is refused, waits for nobody, and is free again.
const SHELL: &str = "
    session-lock run s -- sh -c 'session-lock run -q s -- true || echo $?; session-lock list >/tmp/list'
    grep -c '^s  *held' /tmp/list || true
    session-lock run -t 1 s -- echo free";

#[test]
fn everything_is_there_in_one_version() {
    let Some(dist) = dist(&["sha256sum", "dpkg"]) else { return };
    let debian = run(Command::new("dpkg").arg("--print-architecture"));
    let debian = debian.trim();
    let mut expected = vec![
        "SHA256SUMS".to_owned(),
        format!("session-lock-{VERSION}-source.tar.gz"),
        format!("session_lock-{VERSION}-py3-none-linux_{}.whl", processor()),
        format!("session_lock-{VERSION}.tar.gz"),
    ];
    for package in ["session-lock", "libsession-lock0", "libsession-lock-dev"] {
        expected.push(format!("{package}_{VERSION}-1_{debian}.deb"));
    }
    for processor in ["x86_64", "aarch64"] {
        if target(processor).is_some() {
            expected.push(format!("session-lock-{VERSION}-{processor}-linux.tar.gz"));
        }
    }
    expected.sort();
    let entries = fs::read_dir(&dist).unwrap();
    let mut found: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected);
    let sums = run(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(&dist));
    assert_eq!(sums.lines().filter(|line| line.ends_with(": OK")).count(), found.len() - 1);
}

#[test]
fn the_static_program_needs_nothing_at_all() {
    let Some(dist) = dist(&["man"]) else { return };
    for processor in ["x86_64", "aarch64"].into_iter().filter(|name| target(name).is_some()) {
        let scratch = support::scratch();
        let archive = dist.join(format!("session-lock-{VERSION}-{processor}-linux.tar.gz"));
        let tree = scratch.path().join("tree");
        unpack(&archive, &tree);
        let program = tree.join("bin/session-lock");
        assert!(size(&program) <= 1_677_721, "1.6 MiB: {}", size(&program));
        for file in [
            "share/man/man1/session-lock.1",
            "share/bash-completion/completions/session-lock",
            "share/fish/vendor_completions.d/session-lock.fish",
            "share/zsh/site-functions/_session-lock",
            "lib/tmpfiles.d/session-lock.conf",
            "LICENSE-MIT",
        ] {
            assert!(tree.join(file).is_file(), "{file}");
        }
        let page =
            run(Command::new("man").arg("-M").arg(tree.join("share/man")).arg("session-lock"));
        assert!(page.contains("--timeout"));
        if processor != self::processor() {
            let emulator = format!("qemu-{processor}-static");
            // Not a tool that CI is to have.
            if !Command::new(&emulator).arg("--version").output().is_ok_and(|o| o.status.success())
            {
                eprintln!("skipped: {emulator} is not installed");
                continue;
            }
            let mut run_it = Command::new(emulator);
            run_it.arg(program).args(["run", "s", "--", "echo", "locked"]);
            assert_eq!(run(run_it.env("SESSION_LOCK_DIR", scratch.path())), "locked\n");
            continue;
        }
        let Some(root) = empty_root(scratch.path()) else { return };
        fs::copy(program, root.join("bin/session-lock")).unwrap();
        assert_eq!(in_root(&root, true, SHELL), "75\n1\nfree\n");
        // Without /proc nobody knows who holds it.
        assert_eq!(in_root(&root, false, SHELL), "75\n0\nfree\n");
    }
}

#[test]
fn the_debian_packages_are_installed_used_and_removed() {
    let Some(dist) = dist(&["dpkg", "ldconfig", "ldd", "pkg-config"]) else { return };
    let scratch = support::scratch();
    let Some(root) = empty_root(scratch.path()) else { return };
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let files = || -> Vec<String> {
        let mut find = Command::new("find");
        find.current_dir(&root).args([
            ".", "-not", "-type", "d", "-not", "-path", "./var/*", "-not", "-path", "./tmp/*",
        ]);
        let mut files: Vec<_> = run(&mut find).lines().map(str::to_owned).collect();
        files.sort();
        files
    };
    // What libc6 would bring.
    let program = env::current_exe().unwrap();
    for word in run(Command::new("ldd").arg(program)).split_whitespace() {
        if let Some(path) = word.strip_prefix('/') {
            let to = root.join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(word, to).unwrap();
        }
    }
    let before = files();

    let names = ["libsession-lock0", "libsession-lock-dev", "session-lock"];
    let dpkg = |arguments: &[&str]| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", root.display())).args(["--force-depends"]);
        dpkg.args(arguments);
        dpkg
    };
    let archives = fs::read_dir(&dist).unwrap().map(|entry| entry.unwrap().path());
    let archives: Vec<_> =
        archives.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    assert_eq!(archives.len(), names.len());
    run(dpkg(&["--install"]).args(&archives));
    assert_eq!(in_root(&root, true, SHELL), "75\n1\nfree\n");

    // A program that is compiled with what is in the packages.
    let lib = run(Command::new("dpkg-architecture").arg("-qDEB_HOST_MULTIARCH"));
    let lib = format!("usr/lib/{}", lib.trim());
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", root.join(&lib).join("pkgconfig"));
    pkg_config.env("PKG_CONFIG_SYSROOT_DIR", &root);
    pkg_config.env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1").env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1");
    let flags = run(pkg_config.args(["--cflags", "--libs", "session_lock"]));
    let mut cc = Command::new("cc");
    cc.arg(support::root().join("tests/installed/program.c")).args(flags.split_whitespace());
    run(cc.arg("-o").arg(root.join("tmp/program")));
    assert_eq!(in_root(&root, true, "/tmp/program"), format!("{VERSION}\n"));

    let page = root.join("usr/share/man/man3/session_lock_wait.3.gz");
    let mut man = Command::new("man");
    let text = run(man.arg("-M").arg(root.join("usr/share/man")).arg("session_lock_wait"));
    assert!(page.is_file() && text.contains("ETIMEDOUT"));

    run(dpkg(&["--purge"]).args(names));
    assert_eq!(files(), before);
}

#[test]
fn lintian_finds_no_error() {
    let Some(dist) = dist(&["lintian"]) else { return };
    let mut lintian = Command::new("sh");
    lintian.args(["-c", "lintian --fail-on error --allow-root *.deb 2>&1"]).current_dir(dist);
    let output = lintian.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_wheel_is_small_and_needs_nothing_else() {
    const USE: &str = "
import os, sys, session_lock
with session_lock.SessionLock('s', directory=sys.argv[1]):
    print(session_lock.holder('s', directory=sys.argv[1]).pid == os.getpid())";
    let Some(dist) = dist(&[]) else { return };
    let wheel = dist.join(format!("session_lock-{VERSION}-py3-none-linux_{}.whl", processor()));
    assert!(size(&wheel) <= 1 << 20, "{}", size(&wheel));
    let scratch = support::scratch();
    let environment = scratch.path().join("environment");
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let python = environment.join("bin/python");
    let mut pip = Command::new(&python);
    run(pip.args(["-m", "pip", "install", "--quiet", "--no-index"]).arg(wheel));
    let mut python = Command::new(python);
    python.current_dir("/").env_clear().args(["-I", "-c", USE]).arg(scratch.path());
    assert_eq!(run(&mut python), "True\n");
}

/// With `VENDOR=1` nothing else is needed: neither a network nor what cargo has downloaded before.
#[test]
fn the_sources_build_by_themselves() {
    let Some(dist) = dist(&[]) else { return };
    let scratch = support::scratch();
    let tree = scratch.path().join("tree");
    unpack(&dist.join(format!("session-lock-{VERSION}-source.tar.gz")), &tree);
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(&tree).args(arguments);
        cargo.env("CARGO_HOME", scratch.path().join("cargo")).env("CARGO_NET_OFFLINE", "true");
        cargo.env("SESSION_LOCK_DIR", scratch.path()).env_remove("CARGO_TARGET_DIR");
        cargo
    };
    // The README's first command.
    let told = run(&mut cargo(&[
        "run", "--quiet", "--locked", "--", "run", "demo", "--", "echo", "alone",
    ]));
    assert_eq!(told, "alone\n");
    let pages =
        ["README.md", "docs/guide.md", "man/session_lock.3", "LICENSE-MIT", "tests/installed.rs"];
    assert!(pages.iter().all(|file| tree.join(file).is_file()));
}

/// The crates build from what is in them, and have no more than a user needs.
#[test]
fn the_crates_have_what_a_user_needs() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("session-lock", &["src/", "include/session_lock.h", "packaging/crate.md"][..]),
        ("session-lock-cli", &["src/", "crate.md", "guide.md"][..]),
    ]);
    let always = [
        ".cargo_vcs_info.json",
        "Cargo.",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "build.rs",
        "CHANGELOG.md",
    ];
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        run(cargo.current_dir(support::root()).arg("package").args(arguments).arg("--allow-dirty"))
    };
    for (package, allowed) in allowed {
        let files = cargo(&["--list", "--offline", "--package", package]);
        let more: Vec<_> = files
            .lines()
            .filter(|file| !always.iter().chain(allowed).any(|start| file.starts_with(start)))
            .collect();
        assert_eq!(more, [""; 0], "{package}");
        assert!(files.contains("LICENSE-MIT") && files.contains("crate.md"), "{files}");
    }
    // A link would lead nowhere: the pages are not in the crates, which have no repository.
    let readme = fs::read_to_string(support::root().join("packaging/crate.md")).unwrap();
    assert!(!readme.contains("]("));
    if support::long() {
        // Not by cargo's own verification: it remembers the library that it once saw in this version.
        let scratch = support::scratch();
        let target = format!("--target-dir={}", scratch.path().display());
        cargo(&[
            "--no-verify",
            "--locked",
            "--quiet",
            &target,
            "-psession-lock",
            "-psession-lock-cli",
        ]);
        let unpacked = |name: &str| {
            let to = scratch.path().join(name);
            unpack(&scratch.path().join(format!("package/{name}-{VERSION}.crate")), &to);
            to
        };
        let (library, program) = (unpacked("session-lock"), unpacked("session-lock-cli"));
        let mut check = Command::new(env!("CARGO"));
        check.args(["check", "--quiet", "--offline", "--config"]).current_dir(program);
        check.arg(format!("patch.crates-io.session-lock.path={library:?}"));
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crates");
        run(check.arg("--target-dir").arg(target));
    }
}
