//! The examples are the same small tool in each language, and behave the same.

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use session_lock::SessionLock;
use support::installed::{Ensure, Installed, run};
use support::{Actor, Stage, root};

#[test]
fn role() {
    support::play(&[("holder", hold)]);
}

/// Holds the session `s` in the directory `args[0]` until told to let go.
fn hold(stage: &mut Stage) {
    let lock = SessionLock::acquire(Some(Path::new(&stage.args[0])), "s").unwrap();
    stage.say("held");
    stage.hear("release");
    lock.release().unwrap();
    while stage.next().is_some() {}
}

/// What somebody else does with the session.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    Nothing,
    /// Holds the lock all the time.
    Holds,
    /// Holds it, and releases it when `ensure` waits.
    LetsGo,
    /// Holds it, and is killed when `ensure` waits.
    Dies,
}
use Other::{Dies, Holds, LetsGo, Nothing};

struct Scenario {
    name: &'static str,
    other: Other,
    /// The arguments; `$LOCK` is the path of the lock file.
    args: &'static [&'static [u8]],
    status: i32,
    stdout: &'static str,
    /// What standard error must say; `PID` stands for the holder's. Nothing: it must be empty.
    stderr: &'static [&'static str],
}

macro_rules! args {
    ($($word:literal)*) => { &[$($word.as_bytes()),*] };
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "free",
        other: Nothing,
        args: args!["s" "--" "echo" "done"],
        status: 0,
        stdout: "done\n",
        stderr: &[],
    },
    Scenario {
        name: "free, and it would wait",
        other: Nothing,
        args: args!["s" "--wait-lock" "60" "--" "echo" "done"],
        status: 0,
        stdout: "done\n",
        stderr: &[],
    },
    Scenario {
        name: "held",
        other: Holds,
        args: args!["s" "--" "echo" "done"],
        status: 75,
        stdout: "",
        stderr: &["PID"],
    },
    Scenario {
        name: "still held when the time runs out",
        other: Holds,
        args: args!["s" "--wait-lock" "0.15" "--" "echo" "done"],
        status: 75,
        stdout: "",
        stderr: &["wait", "PID"],
    },
    Scenario {
        name: "released while it waits",
        other: LetsGo,
        args: args!["s" "--wait-lock" "60" "--" "echo" "done"],
        status: 0,
        stdout: "done\n",
        stderr: &["wait", "PID"],
    },
    Scenario {
        name: "the holder dies while it waits",
        other: Dies,
        args: args!["s" "--wait-lock" "60" "--" "echo" "done"],
        status: 0,
        stdout: "done\n",
        stderr: &["wait", "PID"],
    },
    Scenario {
        name: "the lock is held while the command runs",
        other: Nothing,
        args: args!["s" "--" "sh" "-c" "flock --nonblock \"$LOCK\" true; echo $?"],
        status: 0,
        stdout: "1\n",
        stderr: &[],
    },
    Scenario {
        name: "the command fails",
        other: Nothing,
        args: args!["s" "--" "sh" "-c" "echo half; exit 3"],
        status: 3,
        stdout: "",
        stderr: &[],
    },
    Scenario {
        name: "the command is killed",
        other: Nothing,
        args: args!["s" "--" "sh" "-c" "kill -KILL $$"],
        status: 137,
        stdout: "",
        stderr: &[""],
    },
    Scenario {
        name: "there is no such command",
        other: Nothing,
        args: args!["s" "--" "no-such-command-anywhere"],
        status: 127,
        stdout: "",
        stderr: &["no-such-command-anywhere"],
    },
    Scenario {
        name: "the lock file is deleted meanwhile",
        other: Nothing,
        args: args!["s" "--" "sh" "-c" "rm \"$LOCK\"; echo done"],
        status: 125,
        stdout: "",
        stderr: &["not published"],
    },
    Scenario {
        name: "the lock file is replaced meanwhile",
        other: Nothing,
        args: args!["s" "--" "sh" "-c" "mv \"$LOCK\" \"$LOCK.old\"; cp \"$LOCK.old\" \"$LOCK\"; echo done"],
        status: 125,
        stdout: "",
        stderr: &["not published"],
    },
    Scenario {
        name: "a name that is no file name",
        other: Nothing,
        args: args!["../a b/%\n*" "--" "sh" "-c" "test -s \"$LOCK\" && echo done"],
        status: 0,
        stdout: "done\n",
        stderr: &[],
    },
    Scenario {
        name: "a name like an option",
        other: Nothing,
        args: args!["--wait-lock" "--" "sh" "-c" "test -s \"$LOCK\" && echo done"],
        status: 0,
        stdout: "done\n",
        stderr: &[],
    },
    Scenario {
        name: "a name that is no text",
        other: Nothing,
        args: &[b"\xff\xfe", b"--", b"sh", b"-c", b"test -s \"$LOCK\" && echo done"],
        status: 0,
        stdout: "done\n",
        stderr: &[],
    },
    Scenario {
        name: "no command",
        other: Nothing,
        args: args!["s" "--"],
        status: 2,
        stdout: "",
        stderr: &["sage"],
    },
    Scenario {
        name: "a time that is none",
        other: Nothing,
        args: args!["s" "--wait-lock" "soon" "--" "true"],
        status: 2,
        stdout: "",
        stderr: &[""],
    },
];

fn play(installed: &Installed, ensure: &Ensure, scenario: &Scenario) {
    let locks = installed.locks();
    let lock = session_lock::path(Some(&locks), OsStr::from_bytes(scenario.args[0])).unwrap();
    let mut actor = (scenario.other != Nothing).then(|| {
        let mut actor = Actor::start("holder", &[locks.to_str().unwrap()]);
        actor.hear("held");
        actor
    });
    let mut command = ensure.command(installed);
    command.env("LOCK", &lock).args(scenario.args.iter().map(|arg| OsStr::from_bytes(arg)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = actor.as_ref().map_or(String::new(), |actor| actor.pid().to_string());
    let mut first = String::new();
    if let (Some(actor), LetsGo | Dies) = (&mut actor, scenario.other) {
        // It says so, and does so.
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut first).unwrap();
        support::until_blocked(child.id(), support::inode(&lock));
        if scenario.other == Dies {
            actor.kill();
        } else {
            actor.say("release");
        }
    }
    let output = child.wait_with_output().unwrap();
    let stderr = first + &String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let name = scenario.name;
    assert_eq!(output.status.code(), Some(scenario.status), "{name}: {stderr}");
    assert_eq!(stdout, scenario.stdout, "{name}: {stderr}");
    assert!(!scenario.stderr.is_empty() || stderr.is_empty(), "{name}: {stderr}");
    for words in scenario.stderr {
        let words = words.replace("PID", &pid);
        assert!(stderr.contains(&words), "{name}: no {words:?} in {stderr:?}");
    }
    // The helper's guardian takes a moment to see that the command has ended.
    drop(actor);
    support::until("free afterwards", || support::is_free(&lock));
}

fn play_all(language: &str) {
    let Some(installed) = Installed::new(&["flock"]) else { return };
    let Some(ensure) = Ensure::new(&installed, language) else { return };
    for scenario in SCENARIOS {
        play(&installed, &ensure, scenario);
    }
}

#[test]
fn c() {
    play_all("c");
}

#[test]
fn go() {
    play_all("go");
}

#[test]
fn python() {
    play_all("python");
}

#[test]
fn shell() {
    play_all("shell");
}

#[test]
fn rust() {
    play_all("rust");
}

/// A holder that has lost its lock publishes after a later one: the database refuses it, by its token. (Here the
/// lock is lost because the file is deleted; on several hosts, because a host was cut off.)
#[test]
fn a_late_holder_is_refused_by_the_database() {
    let Some(installed) = Installed::new(&["python3"]) else { return };
    let program = root().join("examples/fence.py");
    let lock = session_lock::path(Some(&installed.locks()), "s").unwrap();
    let database = installed.scratch.path().join("database");
    let fence = |text: &str, command: &[&OsStr]| {
        let mut fence = installed.command("python3");
        fence.arg(&program).args([database.as_os_str(), "s".as_ref(), text.as_ref()]);
        let output = fence.args(command).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(fence("first", &[]), (Some(0), String::new()));

    let later = r#"rm "$1" && python3 "$2" "$3" s later"#;
    let words: [&OsStr; 7] = [
        "sh".as_ref(),
        "-c".as_ref(),
        later.as_ref(),
        "sh".as_ref(),
        lock.as_os_str(),
        program.as_os_str(),
        database.as_os_str(),
    ];
    let (status, stderr) = fence("late", &words);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("refused"), "{stderr}");
    let read = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT text FROM page'))";
    let page = run(installed.command("python3").args(["-c", read]).arg(&database));
    assert_eq!(page, "('later',)\n");
    assert_eq!(fence("last", &[]), (Some(0), String::new()));
}
