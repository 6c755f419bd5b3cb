//! Many processes at the same lock, in all languages and with other tools: never two at once.

mod support;

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::installed::{Ensure, Installed, LANGUAGES, run};

/// Makes the command that runs what follows it under the lock.
type Start<'a> = Box<dyn Fn() -> Command + Sync + 'a>;

/// Whether `python3 -c 'import MODULE'` works.
fn have_module(installed: &Installed, module: &str) -> bool {
    let mut python = installed.command("python3");
    let found = python.args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    let found = found.unwrap().success();
    if !found {
        support::skip(&format!("Python's {module} is not installed"));
    }
    found
}

#[test]
fn all_languages_and_other_tools_at_one_lock() {
    let Some(installed) = Installed::new(&["flock", "python3"]) else { return };
    let seconds = if support::long() { 60.0 } else { 1.0 };
    let here = support::root().join("tests/company");
    let books = installed.scratch.path().join("books");
    fs::create_dir(&books).unwrap();
    fs::write(books.join("count"), "0\n").unwrap();
    let lock = session_lock::path(Some(&installed.locks()), "s").unwrap();
    let section = |command: &mut Command, name: &str| {
        command.arg("sh").arg(here.join("section.sh")).arg(&books).arg(name);
    };

    let ensures: Vec<_> = LANGUAGES
        .iter()
        .filter_map(|language| Some((*language, Ensure::new(&installed, language)?)))
        .collect();
    // Each starts a new process for each round, as scripts do.
    let mut programs: Vec<(&str, Start)> = Vec::new();
    for (language, ensure) in &ensures {
        programs.push((
            language,
            Box::new(|| {
                let mut command = ensure.command(&installed);
                command.args(["s", "--wait-lock", "600", "--"]);
                command
            }),
        ));
    }
    programs.push((
        "flock",
        Box::new(|| {
            let mut command = installed.command("flock");
            command.arg(&lock);
            command
        }),
    ));
    let mut kinds = vec!["fcntl"];
    if have_module(&installed, "filelock") {
        kinds.push("filelock");
    }

    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let rounds = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (name, program) in &programs {
            let (rounds, section) = (&rounds, &section);
            scope.spawn(move || {
                let mut own = 0;
                while own == 0 || Instant::now() < end {
                    let mut command = program();
                    section(&mut command, name);
                    run(&mut command);
                    own += 1;
                }
                eprintln!("{name}: {own} rounds");
                rounds.fetch_add(own, Ordering::Relaxed);
            });
        }
        for kind in kinds {
            let (rounds, section) = (&rounds, &section);
            let mut command = installed.command("python3");
            command.arg(here.join("others.py")).arg(kind).arg(&lock).arg(seconds.to_string());
            scope.spawn(move || {
                section(&mut command, kind);
                let own: usize = run(&mut command).trim().parse().unwrap();
                eprintln!("{kind}: {own} rounds");
                rounds.fetch_add(own, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(fs::read_to_string(books.join("company")).unwrap_or_default(), "");
    let count: usize = fs::read_to_string(books.join("count")).unwrap().trim().parse().unwrap();
    assert_eq!(count, rounds.into_inner(), "a round was lost");
}

/// A number below `n`.
fn random(n: usize) -> usize {
    usize::try_from(RandomState::new().hash_one(0) % n as u64).unwrap()
}

#[test]
fn killed_python_runs_leave_the_others_their_turn() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    let runs = if support::long() { 100 } else { 16 };
    let directory = installed.scratch.path();
    fs::write(directory.join("count"), "0").unwrap();
    let start = || -> Child {
        let mut command = installed.command("python3");
        command.arg(support::root().join("tests/company/job.py")).arg(directory);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };

    // A run that is killed is started again, until each of them is done.
    let mut running: Vec<Child> = (0..runs).map(|_| start()).collect();
    let mut kills = 0;
    let limit = Instant::now() + Duration::from_secs(240);
    while !running.is_empty() {
        assert!(Instant::now() < limit, "{} runs are stuck", running.len());
        let mut left = Vec::new();
        for mut child in running {
            match child.try_wait().unwrap() {
                None => left.push(child),
                Some(status) if status.code().is_none() => left.push(start()),
                Some(status) => {
                    let output = child.wait_with_output().unwrap();
                    let stderr = String::from_utf8_lossy(&output.stderr);
                    assert!(status.success(), "{stderr}");
                }
            }
        }
        running = left;
        if kills < runs && !running.is_empty() {
            // Any of them, or, every other time, the one that holds the lock.
            let holder = session_lock::holder(Some(&installed.locks()), "job").unwrap().pid;
            let victim = match running.iter().position(|child| Some(child.id()) == holder) {
                Some(holder) if kills % 2 == 0 => holder,
                _ => random(running.len()),
            };
            running[victim].kill().unwrap();
            kills += 1;
        }
        thread::sleep(Duration::from_millis(10));
    }
    // One that was killed may have counted, and counts again when it is started again.
    let count: usize = fs::read_to_string(directory.join("count")).unwrap().parse().unwrap();
    assert!((runs..=runs + kills).contains(&count), "{runs} runs, {kills} killed, {count} counted");
}
