//! The library and the program as a user has them: installed below a prefix.
//!
//! With `SESSION_LOCK_INSTALLED=<prefix>` that tree is used (`make install PREFIX=<prefix>` made it);
//! otherwise the debug build is installed into a scratch directory by the same Makefile.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::SystemTime;

use session_lock::SessionLock;
use tempfile::TempDir;

use super::root;

pub struct Installed {
    pub prefix: PathBuf,
    /// For what the tests build, and for the lock files.
    pub scratch: TempDir,
}

/// Runs the command, which must succeed; its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{stderr}");
    String::from_utf8(stdout).unwrap()
}

impl Installed {
    /// `None`, and a word about it, where a tool is missing, or this program was built for another target.
    pub fn new(tools: &[&str]) -> Option<Installed> {
        if let Some(target) = super::target() {
            eprintln!("not run: what is installed is not built for {target}");
            return None;
        }
        if !["make", "cc", "pkg-config"].iter().chain(tools).all(|tool| super::have(tool)) {
            return None;
        }
        let scratch = super::scratch();
        fs::create_dir(scratch.path().join("locks")).unwrap();
        let prefix = env::var_os("SESSION_LOCK_INSTALLED").map_or_else(debug_tree, PathBuf::from);
        Some(Installed { prefix, scratch })
    }

    pub fn locks(&self) -> PathBuf {
        self.scratch.path().join("locks")
    }

    /// The command, in a world where the tree is installed.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let lib = self.prefix.join("lib");
        let mut path = vec![self.prefix.join("bin")];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let path = env::join_paths(path).unwrap();
        let mut command = Command::new(program);
        command
            .env("PATH", path)
            .env("PKG_CONFIG_PATH", lib.join("pkgconfig"))
            // Go's build cache believes that pkg-config never changes its mind.
            .env("CGO_LDFLAGS", format!("-L{}", lib.display()))
            .env("LD_LIBRARY_PATH", lib)
            .env("SESSION_LOCK_DIR", self.locks())
            .env("PYTHONPATH", root().join("bindings/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// What pkg-config says.
    pub fn flags(&self, arguments: &[&str]) -> Vec<String> {
        let flags = run(self.command("pkg-config").args(arguments).arg("session_lock"));
        flags.split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles a C program as a user would; the program.
    pub fn compile(&self, compiler: &str, source: &Path, options: &[&str]) -> PathBuf {
        let program =
            self.scratch.path().join(source.file_stem().unwrap()).with_extension(compiler);
        let mut command = self.command(compiler);
        command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]).args(options).arg(source);
        run(command.args(self.flags(&["--cflags", "--libs"])).arg("-o").arg(&program));
        program
    }
}

/// The debug build, installed. In one place for all tests: it is installed only when it has changed.
fn debug_tree() -> PathBuf {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (tree, stamp) = (temporary.join("prefix"), temporary.join("prefix.stamp"));
        // Other test programs may be running, and using it.
        let lock = SessionLock::wait(Some(temporary), "prefix", None, None).unwrap();
        build_debug();
        let installed = modified(&stamp);
        let newer = |file: &PathBuf| modified(file) > installed;
        let mut sources = vec![root().join("Makefile")];
        sources.extend(
            ["session_lock.pc.in", "man/session_lock.3", "packaging/tmpfiles.d/session-lock.conf"]
                .map(|file| root().join(file)),
        );
        let completions = fs::read_dir(root().join("cli/src/completions")).unwrap();
        sources.extend(completions.map(|entry| entry.unwrap().path()));
        sources.extend(BUILT.map(|file| debug().join(file)));
        if sources.iter().any(newer) {
            run(&mut make_debug("install", &tree));
            fs::write(stamp, "").unwrap();
        }
        lock.release().unwrap();
        tree
    };
    TREE.get_or_init(install).clone()
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

const BUILT: [&str; 3] = ["session-lock", "libsession_lock.so", "libsession_lock.a"];

/// Cargo puts these where a user finds them only when it is asked for them.
fn build_debug() {
    let mut cargo = Command::new(env!("CARGO"));
    run(cargo.args(["build", "--quiet", "--lib", "--bins", "--examples"]).current_dir(root()));
}

/// Makes the target with the debug build, below `prefix`.
pub fn make_debug(target: &str, prefix: &Path) -> Command {
    let mut make = Command::new("make");
    make.current_dir(root()).args(["--silent", target, "LDCONFIG=true"]);
    make.arg(format!("PREFIX={}", prefix.display())).arg(format!("BUILD={}", debug().display()));
    // These are up to date, whatever make thinks.
    for built in BUILT {
        make.arg("-o").arg(debug().join(built));
    }
    make
}

/// Where the debug build is.
pub fn debug() -> PathBuf {
    let program = env::current_exe().unwrap();
    program.ancestors().nth(2).unwrap().to_owned()
}

// ---------------------------------------------------------------------------------- the examples

/// The languages in which there is an `ensure`.
pub const LANGUAGES: [&str; 5] = ["c", "go", "python", "shell", "rust"];

/// How to start the `ensure` of one language: the program, built if need be, and its first argument.
pub struct Ensure(Vec<PathBuf>);

impl Ensure {
    /// `None`, and a word about it, where the language is missing.
    pub fn new(installed: &Installed, language: &str) -> Option<Ensure> {
        let examples = root().join("examples");
        let words = match language {
            "c" => vec![installed.compile("cc", &examples.join("ensure.c"), &["-std=c11"])],
            "go" => {
                if !super::have("go") {
                    return None;
                }
                let program = installed.scratch.path().join("ensure.go");
                let mut go = installed.command("go");
                go.current_dir(examples).args(["build", "-buildvcs=false", "-o"]);
                run(go.arg(&program).arg("ensure.go"));
                vec![program]
            }
            "python" => {
                if !super::have("python3") {
                    return None;
                }
                vec!["python3".into(), examples.join("ensure.py")]
            }
            "shell" => vec!["sh".into(), examples.join("ensure.sh")],
            "rust" => vec![debug().join("examples/ensure")],
            _ => panic!("{language}?"),
        };
        Some(Ensure(words))
    }

    pub fn command(&self, installed: &Installed) -> Command {
        let mut command = installed.command(&self.0[0]);
        command.args(&self.0[1..]);
        command
    }
}
