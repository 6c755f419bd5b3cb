//! The Python package: its own tests, what pip makes of it, and its users under load.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::installed::{Installed, run};

fn package() -> PathBuf {
    support::root().join("bindings/python")
}

/// Python in the package's directory, with the installed library. Warnings are errors.
fn python(installed: &Installed, program: impl AsRef<OsStr>) -> Command {
    let mut command = installed.command(program);
    command
        .current_dir(package())
        .env("SESSION_LOCK_LIBRARY", installed.prefix.join("lib/libsession_lock.so.0"))
        .env_remove("SESSION_LOCK_DIR")
        .args(["-W", "error"]);
    command
}

#[test]
fn the_module_passes_its_tests() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    run(python(&installed, "python3").args(["-m", "unittest", "-q"]));
}

/// Those that pyenv has installed, and PyPy.
#[test]
fn the_module_passes_its_tests_with_every_python_here() {
    if !support::long() {
        return;
    }
    let Some(installed) = Installed::new(&["python3"]) else { return };
    let home = std::env::var_os("HOME").unwrap_or_default();
    let versions = fs::read_dir(Path::new(&home).join(".pyenv/versions"));
    let mut programs: Vec<_> = versions
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin/python3"))
        .collect();
    programs.push("/usr/bin/pypy3".into());
    programs.retain(|program| {
        let script = "import sys; sys.exit(sys.version_info < (3, 8))";
        let status = Command::new(program).args(["-c", script]).status();
        status.is_ok_and(|status| status.success())
    });
    for program in programs {
        run(python(&installed, program).args(["-m", "unittest", "-q"]));
    }
}

#[test]
fn its_types_are_complete() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    if !has("mypy") {
        return;
    }
    let mut mypy = installed.command("python3");
    mypy.current_dir(package()).args(["-m", "mypy", "--strict", "--cache-dir"]);
    // It stays: without, mypy reads all of Python's own modules again.
    mypy.arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("mypy"));
    run(mypy.args(["session_lock", "test_session_lock.py", "stress.py"]));
}

/// A fresh virtual environment in the scratch directory, with `package` and nothing else. Returns its
/// Python, which sees no variable of ours.
fn environment(installed: &Installed, package: &Path) -> Command {
    let environment = installed.scratch.path().join("environment");
    // To install pip itself would take longer than all the rest.
    let mut venv = Command::new("python3");
    run(venv.args(["-m", "venv", "--clear", "--without-pip"]).arg(&environment));
    let python = environment.join("bin/python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--python"]).arg(&python).args(["install", "--quiet", "--no-index"]);
    run(pip.arg(package));
    let mut command = Command::new(python);
    command.current_dir("/").env_clear().arg("-I");
    command
}

const USE: &str = r#"
import os, sys, session_lock
with session_lock.SessionLock("s", directory=sys.argv[1]) as lock:
    assert session_lock.holder("s", directory=sys.argv[1]).pid == os.getpid()
beside = os.path.dirname(session_lock.__file__)
assert beside.startswith(sys.prefix), beside
assert beside in open("/proc/self/maps").read()
assert os.path.exists(os.path.join(beside, "py.typed"))
"#;

/// The only file in the directory that has the suffix.
fn only(directory: &Path, suffix: &str) -> PathBuf {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// Whether Python can import these; a word about it where it cannot.
fn has(modules: &str) -> bool {
    let found = Command::new("python3").args(["-c", &format!("import {modules}")]).output();
    let found = found.unwrap().status.success();
    if !found {
        support::skip(&format!("not all of these Python modules are installed: {modules}"));
    }
    found
}

/// For a wheel: a setuptools of 70.1 or later.
const BUILD: &str = "setuptools.command.bdist_wheel, venv, pip";

/// The wheel of a source tree, built without a network. With `library`, that is taken as it is: to
/// build one takes a while.
fn wheel(installed: &Installed, source: &Path, library: Option<PathBuf>) -> PathBuf {
    let to = installed.scratch.path().join("wheel");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]);
    pip.arg("--wheel-dir").arg(&to).arg(source).env("CARGO_NET_OFFLINE", "true");
    if let Some(library) = library {
        pip.env("SESSION_LOCK_LIBRARY", library);
    }
    run(&mut pip);
    only(&to, ".whl")
}

#[test]
fn pip_makes_a_package_that_needs_nothing_else() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    if !has(BUILD) {
        return;
    }
    let library = installed.prefix.join("lib/libsession_lock.so.0");
    let library = if support::long() { None } else { Some(library) };
    let wheel = wheel(&installed, &package(), library);
    let name = wheel.file_name().unwrap().to_str().unwrap();
    assert!(name.contains("-py3-none-linux_"), "{name}");
    run(environment(&installed, &wheel).args(["-c", USE]).arg(installed.locks()));
}

#[test]
fn pip_builds_a_source_distribution_from_its_own_contents() {
    if !support::long() {
        return;
    }
    let Some(installed) = Installed::new(&["python3", "tar"]) else { return };
    if !has(BUILD) {
        return;
    }
    let scratch = installed.scratch.path();
    let mut setup = Command::new("python3");
    setup.args(["setup.py", "--quiet", "sdist", "--dist-dir"]).arg(scratch);
    run(setup.current_dir(package()));
    let archive = only(scratch, ".tar.gz");
    run(Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(scratch));
    let mut sources = fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path());
    let source = sources.find(|path| path.join("setup.py").exists()).unwrap();
    let wheel = wheel(&installed, &source, None);
    run(environment(&installed, &wheel).args(["-c", USE]).arg(installed.locks()));
}

/// Four processes, each with eight threads and an event loop with eight tasks: waits are cancelled and
/// run out of time, holders are killed. One at a time; afterwards nobody is stuck, and the lock is free.
#[test]
fn threads_and_tasks_of_processes_that_are_killed_take_turns() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    let seconds = if support::long() { "600" } else { "2" };
    let told = run(python(&installed, "python3").args(["stress.py", seconds]));
    assert!(told.contains("the lock is free"), "{told}");
}
