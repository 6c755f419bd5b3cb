//! session-lock, measured side by side with the bare system calls and with what one would take
//! instead. `benches/README.md` says how to read it.

mod actor;
mod figure;
mod locks;
mod measure;
mod report;

use std::cell::RefCell;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use locks::{Library, Lock, Ours, Plain, SESSION, Same};
use report::Report;

/// What is measured with, and where.
pub struct Bench {
    /// Our shared library, built as it is installed, and the program.
    pub library_file: PathBuf,
    pub program: PathBuf,
    pub library: Library,
    /// For other files. This and what else is made is removed at the end.
    pub scratch: PathBuf,
    dirs: RefCell<Vec<PathBuf>>,
    /// Python's ways that are installed.
    pub python: Vec<String>,
    /// The Go program, if it could be built.
    pub gofrs: Option<PathBuf>,
    /// The same with our Go package.
    pub go: Option<PathBuf>,
    /// Everything a tenth as often: to see that it works.
    pub quick: bool,
    /// From here on everything is done as seldom as can be.
    hurry: Instant,
}

impl Bench {
    fn new(quick: bool) -> Bench {
        let scratch = env::temp_dir().join(format!("session-lock-benches-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        let (library_file, built) = build();
        // As it is installed: where a file was written in one go its pages are mapped faster than where
        // a linker wrote it piece by piece.
        let program = scratch.join("session-lock");
        fs::copy(built, &program).unwrap();
        let library = Library::load(&library_file);
        build_static(&scratch.join("static"));
        let guardian = Command::new("cc")
            .args(["-O2", "-o"])
            .arg(scratch.join("guardian"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guardian.c"))
            .status();
        assert!(guardian.is_ok_and(|status| status.success()));
        let python =
            peers().arg("-B").arg(peer("peers.py")).output().map_or(Vec::new(), |output| {
                String::from_utf8_lossy(&output.stdout)
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect()
            });
        let gofrs = build_gofrs(&scratch);
        let go = build_go(&scratch, &library_file);
        let dirs = RefCell::new(vec![scratch.clone()]);
        // After what has to be built.
        let hurry = Instant::now() + Duration::from_secs(210);
        Bench { library_file, program, library, scratch, dirs, python, gofrs, go, quick, hurry }
    }

    pub fn count(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(10) } else { count }
    }

    /// So many rounds, and on a slow machine as many as there is time for, but two.
    pub fn rounds(&self, count: usize) -> impl Iterator<Item = usize> {
        const LONGEST: Duration = Duration::from_secs(40);
        let end = self.hurry.min(Instant::now() + LONGEST);
        (0..self.count(count).max(2)).take_while(move |&at| at < 2 || Instant::now() < end)
    }

    /// An empty directory for locks, in no deeper a place than the default one.
    pub fn dir(&self, name: &str) -> PathBuf {
        let mut dir = self.scratch.clone().into_os_string();
        dir.push(format!("-{name}"));
        self.make(dir.into())
    }

    /// The same in memory: to create ten thousand files takes a busy disk minutes.
    pub fn dir_in_memory(&self, name: &str) -> PathBuf {
        let name = format!("session-lock-benches-{}-{name}", std::process::id());
        self.make(Path::new("/dev/shm").join(name))
    }

    fn make(&self, dir: PathBuf) -> PathBuf {
        fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        self.dirs.borrow_mut().push(dir.clone());
        dir
    }

    /// A process that locks in one of the ways, in the directory.
    pub fn actor(&self, way: &str, dir: &Path) -> actor::Actor {
        let file = dir.join(format!("{SESSION}.lock"));
        let mut command = if let Some(name) = way.strip_prefix("python:") {
            let mut command = peers();
            command.arg("-B").arg(peer("peers.py")).arg(name).arg(file);
            command.env("SESSION_LOCK_LIBRARY", &self.library_file);
            command
        } else if let Some(mode) = way.strip_prefix("gofrs:") {
            let mut command = Command::new(self.gofrs.as_ref().expect("not asked for without"));
            command.arg(mode).arg(file);
            command
        } else if way == "go" {
            let mut command = Command::new(self.go.as_ref().expect("not asked for without"));
            command.arg(file);
            command
        } else {
            let mut command = Command::new("/proc/self/exe");
            command.args(["actor", way]).arg(dir).arg(&self.library_file);
            command
        };
        actor::Actor::start(&mut command)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for dir in self.dirs.take() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn peers() -> Command {
    Command::new("python3")
}

fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// Builds the program, and then the shared library alone: only so it gets link-time optimisation.
/// Both in a directory of their own, where no other build puts another library of the same name.
fn build() -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = root.join("target/benches");
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args).args(["--release", "--quiet", "--target-dir"]).arg(&target);
        assert!(command.current_dir(root).status().unwrap().success());
    };
    cargo(&["build", "--package", "session-lock-cli"]);
    cargo(&["rustc", "--lib", "--crate-type", "cdylib"]);
    (target.join("release/libsession_lock.so"), target.join("release/session-lock"))
}

/// The program as one static file, where Rust's musl is installed.
fn build_static(to: &Path) {
    const TARGET: &str = "x86_64-unknown-linux-musl";
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = root.join("target/benches");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--package", "session-lock-cli", "--target", TARGET]);
    command.args(["--release", "--quiet", "--target-dir"]).arg(&target);
    let built = command.current_dir(root).stderr(Stdio::null()).status();
    if built.is_ok_and(|status| status.success()) {
        fs::copy(target.join(TARGET).join("release/session-lock"), to).unwrap();
    }
}

/// gofrs/flock as Debian packages it (golang-github-gofrs-flock-dev): no download.
fn build_gofrs(scratch: &Path) -> Option<PathBuf> {
    let program = scratch.join("gofrs");
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program).arg(peer("gofrs.go")).stderr(Stdio::null());
    command.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    command.status().is_ok_and(|status| status.success()).then_some(program)
}

/// Ours through the Go package, which finds the library by pkg-config, as if it were installed.
fn build_go(scratch: &Path, library: &Path) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for name in ["libsession_lock.so", "libsession_lock.so.0"] {
        symlink(library, scratch.join(name)).unwrap();
    }
    let (lib, include) = (scratch.display(), root.join("include"));
    let include = include.display();
    let pc = format!(
        "Name: session_lock\nDescription: -\nVersion: 0\n\
         Libs: -L{lib} -lsession_lock\nCflags: -I{include}\n"
    );
    fs::write(scratch.join("session_lock.pc"), pc).unwrap();
    let program = scratch.join("go");
    let mut command = Command::new("go");
    command.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(peer("session_lock.go"));
    command.current_dir(root.join("bindings/go")).stderr(Stdio::null());
    command.env("PKG_CONFIG_PATH", scratch).env("CGO_LDFLAGS", format!("-Wl,-rpath,{lib}"));
    command.status().is_ok_and(|status| status.success()).then_some(program)
}

/// This program as another process.
fn play(args: &[OsString]) {
    let [way, dir, library] = args else { panic!("actor WAY DIR LIBRARY") };
    let dir = Path::new(dir);
    let library = || Library::load(Path::new(library));
    match way.to_str().unwrap() {
        "flock" => actor::play(Plain::new(dir, SESSION)),
        "same" => actor::play(Same::new(dir, true)),
        "ours" => actor::play(Ours::new(library(), dir, SESSION, Some(-1))),
        "ours:deadline" => actor::play(Ours::new(library(), dir, SESSION, Some(600_000))),
        "hoard" => measure::hoard(library(), dir),
        "footprint" => measure::footprint(library, dir),
        "trace:ours" => trace(Ours::new(library(), dir, SESSION, None)),
        "trace:same" => trace(Same::new(dir, false)),
        way => panic!("no such way to lock: {way}"),
    }
}

/// The second of two locks between two calls that strace can tell: the first one looks things up
/// that the process then knows.
fn trace(mut lock: impl Lock) {
    for _ in 0..2 {
        // SAFETY: cannot fail, and no memory is involved.
        unsafe { libc::getppid() };
        lock.acquire();
        lock.release();
    }
    // SAFETY: as above.
    unsafe { libc::getppid() };
}

/// Puts a table between the two marks in a page.
fn update(page: &str, table: &str) {
    const MARK: &str = "<!-- bench -->\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&file).unwrap();
    let parts: Vec<_> = text.split(MARK).collect();
    let [before, _, after] = parts[..] else { panic!("{page} has not two lines {MARK}") };
    fs::write(file, format!("{before}{MARK}\n{table}\n{MARK}{after}")).unwrap();
}

fn main() {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "actor") {
        return play(&args[1..]);
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let only: Vec<&str> =
        args.iter().filter_map(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-')).collect();
    let limit = libc::rlimit { rlim_cur: 65536, rlim_max: 65536 };
    // SAFETY: the struct lives through the call. Where the limit cannot be raised, opening says so.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };

    let begin = Instant::now();
    let bench = Bench::new(quick);
    let mut report = Report::new(&bench);
    type Measure = fn(&Bench, &mut Report);
    let measures: [(&str, Measure); 9] = [
        ("calls", measure::same_calls),
        ("cycle", measure::cycle),
        ("handover", measure::hand_over),
        ("waiters", measure::waiters),
        ("deadline", measure::deadline),
        ("idle", measure::idle),
        ("query", measure::query),
        ("run", measure::run),
        ("memory", measure::memory),
    ];
    for (name, measure) in measures {
        if only.is_empty() || only.contains(&name) {
            eprintln!("{name} ({:.0} s)", begin.elapsed().as_secs_f64());
            measure(&bench, &mut report);
        }
    }
    let text = report.text();
    print!("{text}");
    println!("\n{}", report.choices());
    if args.iter().any(|arg| arg == "--update-readme") {
        update("README.md", &text);
        update("../README.md", &report.choices());
    }
    let whole = only.is_empty() && !quick;
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = package.join(if whole { "figure.svg" } else { "../target/figure.svg" });
    fs::write(&file, figure::draw(&report)).unwrap();
    eprintln!("wrote {} after {:.0} s", file.display(), begin.elapsed().as_secs_f64());
}
