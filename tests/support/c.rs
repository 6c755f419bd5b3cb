//! C programs (`c-tests/`) that are linked against the library, and the tools that they are run under.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use super::root;

/// What a program is built with and run under.
pub struct Tool {
    pub name: &'static str,
    pub compile: &'static [&'static str],
    pub run: &'static [&'static str],
    /// How often a program repeats itself, as a percentage, usually and in a long run.
    pub rounds: [u32; 2],
}

/// One of the programs, built.
pub struct Program {
    dir: tempfile::TempDir,
    name: String,
    /// For which tools: those that want the same.
    pub compiled: &'static [&'static str],
}

/// How a program ended, and what it said.
pub struct Report {
    pub code: Option<i32>,
    pub text: String,
}

/// The directory where the library is: the shared one, under the name that programs record, too; where
/// this program is static, the static one.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if cfg!(target_feature = "crt-static") {
            super::build_library("libsession_lock.a").parent().unwrap().to_owned()
        } else {
            recorded(super::shared_library().parent().unwrap().to_owned())
        }
    })
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
    cargo.current_dir(root()).envs(variables.iter().copied());
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

/// Where the programs are.
pub fn sources() -> PathBuf {
    root().join("c-tests")
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

impl Program {
    /// Builds `c-tests/<name>.c` as `tool` wants it, with these flags after all others, against the
    /// library in a directory.
    #[track_caller]
    pub fn build(name: &str, tool: &Tool, flags: &[&str], library: &Path) -> Program {
        let compiled = tool.compile;
        let program = Program { dir: super::scratch(), name: name.to_owned(), compiled };
        let output = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args([
                "-std=c11",
                "-O1",
                "-g",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Wshadow",
                "-Werror",
            ])
            .args(tool.compile)
            .arg(format!("-DPACKAGE_VERSION=\"{}\"", env!("CARGO_PKG_VERSION")))
            .arg("-I")
            .arg(root().join("include"))
            .arg("-I")
            .args([&sources(), &sources().join(format!("{name}.c"))])
            .args(flags)
            .arg("-o")
            .arg(program.path())
            .arg("-L")
            .arg(library)
            .args(["-Wl,--as-needed", "-lsession_lock", "-pthread"])
            .arg(format!("-Wl,-rpath,{}", library.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{name} does not compile:\n{}", text(&output));
        program
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Runs it in a directory of its own.
    pub fn run(&self, tool: &Tool, args: &[&str]) -> Report {
        self.run_in(super::scratch().path(), tool, args)
    }

    pub fn run_in(&self, dir: &Path, tool: &Tool, args: &[&str]) -> Report {
        let path = self.path();
        let mut words = tool.run.iter().map(|word| word.as_ref()).chain([path.as_os_str()]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .args(args)
            .current_dir(dir)
            .env("ROUNDS_PERCENT", tool.rounds[usize::from(super::long())].to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let mut report = Report { code: output.status.code(), text: text(&output) };
        if let Some(signal) = output.status.signal() {
            writeln!(report.text, "ended by signal {signal}").unwrap();
        }
        report.add_valgrinds_view(dir, pid);
        report
    }
}

impl Report {
    /// valgrind writes one file for each process, and is told to count no leak as an error, as it
    /// never does a descriptor that is left open: children may end with whatever they have (what
    /// belonged to their parent's other threads is lost in them), the program must not.
    fn add_valgrinds_view(&mut self, dir: &Path, pid: u32) {
        let Ok(log) = fs::read_to_string(dir.join(format!("valgrind.{pid}"))) else { return };
        let left = log.lines().any(|line| {
            line.contains("Open file descriptor") && line.ends_with(".lock")
                || line.contains("definitely lost in loss record")
        });
        if left && self.code == Some(0) {
            self.code = Some(9);
        }
        if self.code != Some(0) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some() && path.file_stem().unwrap() == "valgrind" {
                    self.text += &fs::read_to_string(path).unwrap();
                }
            }
        }
    }
}
