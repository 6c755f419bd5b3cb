//! The C programs in `c-tests/`, each of which is one claim: built with strict warnings, linked with the
//! shared library by its soname, and run; by themselves, under valgrind, and with the sanitizers (which
//! see the C programs and the calls into libc; the library itself is not instrumented).
//!
//! `SESSION_LOCK_LONG=1` repeats everything more often.

mod support;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// Not a claim: what the tools must find, see [`Tool::check_that_it_catches`].
const DELIBERATE: &str = "deliberate-error";
const FOUNDING_BUG: &str = "dead-holders-label-misleads-nobody";

/// What the programs are built with and run under.
struct Tool {
    compile: &'static [&'static str],
    run: &'static [&'static str],
    /// How often a program repeats itself, as a percentage, usually and in a long run.
    rounds: [u32; 2],
    /// Programs that it cannot run, and why.
    except: &'static [(&'static str, &'static str)],
}

const PLAIN: Tool = Tool { compile: &["-O1"], run: &[], rounds: [100, 10_000], except: &[] };

const VALGRIND: Tool = Tool {
    compile: &["-O1"],
    run: &[
        "valgrind",
        "--quiet",
        "--leak-check=full",
        "--track-fds=yes",
        "--trace-children=yes",
        "--error-exitcode=9",
        "--log-file=valgrind.%p",
    ],
    rounds: [4, 100],
    except: &[],
};

const ADDRESS: Tool = Tool {
    compile: &["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    run: &[],
    rounds: [10, 500],
    except: &[],
};

const THREAD: Tool = Tool {
    compile: &["-O1", "-fsanitize=thread", "-include", "tsan.h"],
    run: &[],
    rounds: [10, 500],
    except: &[(
        "signal-handler-ends-the-wait",
        "ThreadSanitizer keeps a signal back until the next call that it knows; flock is none",
    )],
};

/// A directory with the library as it is installed, and what was built against it.
struct Workshop {
    dir: tempfile::TempDir,
    tool: &'static Tool,
}

/// How a program ended, and what it said.
struct Report {
    code: Option<i32>,
    text: String,
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("c-tests")
}

fn claims() -> Vec<String> {
    let files = fs::read_dir(sources()).unwrap().map(|entry| entry.unwrap().path());
    let programs = files.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    let mut claims: Vec<_> =
        programs.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    claims.retain(|claim| claim != DELIBERATE);
    claims.sort();
    claims
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

impl Workshop {
    fn new(tool: &'static Tool) -> Workshop {
        let dir = support::scratch();
        // The linker is given one name, the loader finds only the other.
        for (place, name) in [("link", "libsession_lock.so"), ("load", "libsession_lock.so.0")] {
            fs::create_dir(dir.path().join(place)).unwrap();
            symlink(support::shared_library(), dir.path().join(place).join(name)).unwrap();
        }
        Workshop { dir, tool }
    }

    fn build(&self, claim: &str, extra: &[&str]) -> PathBuf {
        let program = self.dir.path().join(claim);
        let output = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-std=c11", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"])
            .args(self.tool.compile)
            .args(extra)
            .arg(format!("-DPACKAGE_VERSION=\"{}\"", env!("CARGO_PKG_VERSION")))
            .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/include"), "-I"])
            .args([&sources(), &sources().join(format!("{claim}.c"))])
            .arg("-o")
            .arg(&program)
            .arg("-L")
            .arg(self.dir.path().join("link"))
            .args(["-Wl,--as-needed", "-lsession_lock", "-pthread"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{claim} does not compile:\n{}", text(&output));
        program
    }

    /// Runs a program in a directory of its own.
    fn run(&self, program: &Path, args: &[&str]) -> Report {
        let dir = support::scratch();
        let line: Vec<_> = self.tool.run.iter().map(|word| word.as_ref()).collect();
        let line = [&line[..], &[program.as_os_str()]].concat();
        let long = usize::from(env::var_os("SESSION_LOCK_LONG").is_some());
        let child = Command::new(line[0])
            .args(&line[1..])
            .args(args)
            .current_dir(dir.path())
            .env("LD_LIBRARY_PATH", self.dir.path().join("load"))
            .env("ROUNDS_PERCENT", self.tool.rounds[long].to_string())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let mut report = Report { code: output.status.code(), text: text(&output) };
        if let Some(signal) = output.status.signal() {
            writeln!(report.text, "ended by signal {signal}").unwrap();
        }
        if !self.tool.run.is_empty() {
            self.add_valgrinds_view(&mut report, dir.path(), pid);
        }
        report
    }

    /// valgrind writes one file for each process; a descriptor that is left open it lists, but does
    /// not count as an error. Children may end with whatever they have open, the program must not.
    fn add_valgrinds_view(&self, report: &mut Report, dir: &Path, pid: u32) {
        let log = fs::read_to_string(dir.join(format!("valgrind.{pid}"))).unwrap();
        let left = log
            .lines()
            .any(|line| line.contains("Open file descriptor") && line.ends_with(".lock"));
        if left && report.code == Some(0) {
            report.code = Some(9);
        }
        if report.code != Some(0) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some() && path.file_stem().unwrap() == "valgrind" {
                    report.text += &fs::read_to_string(path).unwrap();
                }
            }
        }
    }
}

impl Tool {
    /// Runs every claim, two at a time, and says what became of each.
    fn run_all(&'static self) {
        let workshop = Workshop::new(self);
        let waiting = Mutex::new(claims());
        let done = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let Some(claim) = waiting.lock().unwrap().pop() else { break };
                        let begin = Instant::now();
                        let report = match self.except.iter().find(|(except, _)| *except == claim) {
                            Some((_, why)) => Report { code: None, text: format!("{why}\n") },
                            None => workshop.run(&workshop.build(&claim, &[]), &[]),
                        };
                        done.lock().unwrap().push((claim, report, begin.elapsed()));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap();
        done.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut failed = Vec::new();
        for (claim, report, took) in &done {
            let excepted = self.except.iter().any(|(except, _)| except == claim);
            let outcome = match report.code {
                Some(0) => "ok",
                Some(77) => "skipped",
                _ if excepted => "not run",
                _ => {
                    failed.push(claim);
                    "FAILED"
                }
            };
            eprintln!("{outcome:8} {claim} ({:.1} s)", took.as_secs_f32());
            for line in report.text.lines() {
                eprintln!("         {line}");
            }
            if outcome == "skipped" {
                support::skip(claim);
            }
        }
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), done.len());
    }

    /// It is really there: it sees an error that is made on purpose.
    fn check_that_it_catches(&'static self, errors: &[(&str, &str)]) {
        let workshop = Workshop::new(self);
        let program = workshop.build(DELIBERATE, &["-Wno-error", "-w"]);
        for (error, name) in errors {
            let report = workshop.run(&program, &[error]);
            assert!(report.code != Some(0), "nothing sees this: {error}\n{}", report.text);
            assert!(report.text.contains(name), "something else than {error}:\n{}", report.text);
        }
        let report = workshop.run(&program, &["none"]);
        assert!(report.code == Some(0), "an error where there is none:\n{}", report.text);
    }
}

#[test]
fn every_claim_holds() {
    PLAIN.run_all();
}

/// The test of the test: with the broken protocol in the library's place the founding bug is seen.
#[test]
fn removing_a_dead_holders_file_is_caught() {
    let workshop = Workshop::new(&PLAIN);
    let program = workshop.build(FOUNDING_BUG, &["-DBROKEN"]);
    let report = workshop.run(&program, &[]);
    assert_eq!(report.code, Some(1), "{}", report.text);
    assert!(report.text.contains("atomic_fetch_add(&oracle->inside, 1) == 0"), "{}", report.text);
}

#[test]
fn valgrind_finds_nothing() {
    if !support::have("valgrind") {
        return;
    }
    VALGRIND.check_that_it_catches(&[
        ("use-after-free", "Invalid read"),
        ("leak", "definitely lost"),
        ("descriptor", "s.lock"),
    ]);
    VALGRIND.run_all();
}

#[test]
fn the_address_and_undefined_behaviour_sanitizers_find_nothing() {
    ADDRESS.check_that_it_catches(&[
        ("use-after-free", "heap-use-after-free"),
        ("leak", "detected memory leaks"),
        ("overflow", "signed integer overflow"),
    ]);
    ADDRESS.run_all();
}

#[test]
fn the_thread_sanitizer_finds_nothing() {
    THREAD.check_that_it_catches(&[("race", "data race")]);
    THREAD.run_all();
}
