//! C programs (`c-tests/`) that are linked against the shared library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The directory where the shared library is, under the name that programs record, too.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| recorded(super::shared_library().parent().unwrap().to_owned()))
}

/// Builds it in another way than this test program was built: with `options` for cargo and
/// `variables` of its environment.
pub fn build_library(options: &[&str], variables: &[(&str, &str)]) -> PathBuf {
    // Not over the one that other tests use.
    let name: Vec<_> = variables.iter().map(|(_, value)| *value).collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("variant-{}", name.concat()));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--lib", "--offline"]).args(options);
    cargo.arg("--target-dir").arg(&target);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).envs(variables.iter().copied());
    assert!(cargo.status().unwrap().success(), "the library cannot be built");
    recorded(target.join(if options.contains(&"--release") { "release" } else { "debug" }))
}

/// Gives the library in a directory the name that programs record, too.
fn recorded(directory: PathBuf) -> PathBuf {
    match std::os::unix::fs::symlink("libsession_lock.so", directory.join("libsession_lock.so.0")) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{error}"),
        _ => directory,
    }
}

/// One of the programs, to be compiled and run.
pub struct Program {
    name: &'static str,
    flags: Vec<String>,
    args: Vec<String>,
    under: Vec<String>,
    library: PathBuf,
}

impl Program {
    pub fn new(name: &'static str) -> Program {
        let library = library().to_owned();
        Program { name, flags: vec![], args: vec![], under: vec![], library }
    }

    pub fn flag(mut self, flag: &str) -> Program {
        self.flags.push(flag.to_owned());
        self
    }

    pub fn arg(mut self, arg: &str) -> Program {
        self.args.push(arg.to_owned());
        self
    }

    /// Runs it under another program, such as valgrind.
    pub fn under(mut self, command: &[&str]) -> Program {
        self.under = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn with_library(mut self, library: &Path) -> Program {
        self.library = library.to_owned();
        self
    }

    /// With a lock directory of its own.
    #[track_caller]
    pub fn run(self) {
        self.run_in(super::scratch().path());
    }

    #[track_caller]
    pub fn run_in(self, dir: &Path) {
        if !super::have("cc") {
            return;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = super::scratch();
        let program = place.path().join(self.name.replace('/', "-"));
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", "-pthread"]);
        cc.args(&self.flags).arg("-I").arg(root.join("include")).arg("-o").arg(&program);
        cc.arg(root.join("c-tests").join(self.name).with_extension("c"));
        cc.arg("-L").arg(&self.library).arg("-lsession_lock");
        cc.arg(format!("-Wl,-rpath,{}", self.library.display()));
        assert!(cc.status().unwrap().success(), "{} cannot be compiled", self.name);

        let mut words = self.under.iter().map(String::as_str).chain(program.to_str());
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(&self.args).env("SESSION_LOCK_DIR", dir);
        let Output { status, stdout, stderr } = command.output().unwrap();
        print!("{}", String::from_utf8_lossy(&stdout));
        let errors = String::from_utf8_lossy(&stderr);
        match status.code() {
            Some(0) => {}
            Some(77) => super::skip(&errors),
            _ => panic!("{} failed: {status}\n{errors}", self.name),
        }
    }
}
