//! The scripts in `docs/guide.md`, as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::{Place, support, until};

const GUIDE: &str = include_str!("../../guide.md");

/// The blocks of a language in one section, in order.
fn blocks(section: &str, language: &str) -> Vec<&'static str> {
    let (_, text) = GUIDE.split_once(&format!("\n## {section}\n")).expect(section);
    let text = text.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// A block that is the only one.
fn block(section: &str, language: &str) -> &'static str {
    let [block] = blocks(section, language)[..] else { panic!("one block in {section}") };
    block
}

/// The exit code of a command that timeout(1) has ended.
const TIMED_OUT: i32 = 124;

/// How long a command may take: one that would wait for ever is ended soon, any other one has time.
fn limit(code: i32) -> u32 {
    if code == TIMED_OUT { 2 } else { 50 }
}

/// What a script prints, and its exit code, while the session is free and while it is held, when the code
/// is expected to be `code`.
fn outcomes(place: &Place, script: &str, session: &str, code: i32) -> [(String, i32); 2] {
    let path = place.path().join("script");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |limit: u32| {
        let output = place.run(&format!("exec timeout {limit} ./script 2>/dev/null"));
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    let free = run(limit(0));
    let holding = place.hold(&[session]);
    let (told, code) = run(limit(code));
    let held = (told.replace(&holding.pid().to_string(), "PID"), code);
    holding.finish();
    place.until_free(session);
    [free, held]
}

#[test]
fn each_script_does_what_it_says() {
    let expected: [(&str, &str, i32, &str, i32); 11] = [
        (
            "deploy",
            "before: others may be here, too\ninside: nobody else is\nafter\n",
            0,
            "before: others may be here, too\n",
            TIMED_OUT,
        ),
        ("nightly", "the only one\n", 0, "", 75),
        ("nightly", "the only one\n", 0, "", 75),
        ("sync", "syncing\n", 0, "somebody else is syncing\n", 0),
        ("sync", "syncing\ndone\n", 0, "somebody else is syncing\n", 0),
        ("daemon", "running\n", 0, "already running, as process PID\n", 0),
        ("report", "reporting\n", 0, "", 75),
        ("publish", "preparing\npublishing\n", 0, "", TIMED_OUT),
        ("disk-red", "", 0, "", TIMED_OUT),
        ("feed", "still held\n", 0, "", 1),
        ("deploy-staging", "building\nswitching over\n", 0, "", 75),
    ];
    let mut scripts = blocks("Shell recipes", "sh");
    scripts.extend(blocks("A deploy script", "sh"));
    assert_eq!(scripts.len(), expected.len());
    let scripts: Vec<_> = scripts.into_iter().zip(expected).collect();
    crate::at_once(&scripts, |(script, (session, free, code, held, code_held))| {
        let place = Place::new();
        // Nobody waits half a minute for a test.
        let script = script.replace("-t 30", "-t 0.3").replace("-t 600", "-t 0.6");
        let [outcome, outcome_held] = outcomes(&place, &script, session, *code_held);
        if *session == "disk-red" {
            let mut lines: Vec<_> = outcome.0.lines().collect();
            lines.sort_unstable();
            let (blue, red) = ("copying to blue", "copying to red");
            assert_eq!(lines, [blue, blue, red, red]);
            assert_eq!(outcome_held, (format!("{blue}\n{blue}\n"), *code_held));
            return;
        }
        assert_eq!(outcome, ((*free).to_owned(), *code), "{script}");
        assert_eq!(outcome_held, ((*held).to_owned(), *code_held), "{script}");
    });
}

#[test]
fn each_makefile_and_crontab_does_what_it_says() {
    let place = Place::new();
    let line = block("Shell recipes", "crontab");
    let command = line.trim().splitn(6, char::is_whitespace).last().unwrap().trim();
    fs::write(place.path().join("fetch.sh"), "#!/bin/sh\necho fetched\n").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.path().join("fetch.sh"), mode).unwrap();
    assert_eq!(place.output(&format!("{command}; echo $?")), "fetched\n0\n");
    let holding = place.hold(&["fetch"]);
    assert_eq!(place.output(&format!("{command}; echo $?")), "0\n");
    holding.finish();
    if !support::have("make") {
        return;
    }
    let makefiles = blocks("Shell recipes", "make");
    for (text, expected) in
        makefiles.iter().zip(["migrating one\nmigrating two\n", "dump\nrestore\n"])
    {
        fs::write(place.path().join("Makefile"), text).unwrap();
        assert_eq!(place.output("make -s -j4 | sort"), expected, "{text}");
    }
    assert_eq!(makefiles.len(), 2);
}

#[test]
fn the_man_page_has_them() {
    let place = Place::new();
    let page = place.output("session-lock man");
    let scripts = ["sh", "crontab", "make"].map(|language| blocks("Shell recipes", language));
    for script in scripts.concat() {
        let first = script.lines().find(|line| line.contains("session-lock")).unwrap().trim();
        let first = first
            .replace('\\', "\\e")
            .replace('-', "\\-")
            .replace('\'', "\\(aq")
            .replace('"', "\\(dq");
        assert!(page.contains(&first), "{first}");
    }
}

/// What systemd and a CI run: the command behind the key, with a COMMAND of our own.
#[test]
fn each_service_and_job_does_what_it_says() {
    let place = Place::new();
    let services = blocks("systemd services", "ini").concat();
    let commands = services.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    let mut commands: Vec<_> = commands
        .map(|line| {
            let (ours, command) = line.split_once(" -- /usr/local/bin/").unwrap();
            format!("{} -- echo {command}", ours.strip_prefix("/usr/local/bin/").unwrap())
        })
        .collect();
    let job = block("CI", "yaml").lines().find_map(|line| line.trim().strip_prefix("- run: "));
    commands.push(job.unwrap().replace("./deploy.sh", "echo deploy").replace("-t 600", "-t 0.6"));
    let expected = [
        ("index", "index-server\n", TIMED_OUT),
        ("backup", "backup\n", 0),
        ("staging", "deploy\n", 75),
    ];
    assert_eq!(commands.len(), expected.len());
    for (command, (session, printed, code)) in commands.iter().zip(expected) {
        assert_eq!(place.output(command), printed);
        let holding = place.hold(&[session]);
        let output = place.run(&format!("timeout {} {command}", limit(code)));
        assert_eq!(output.stdout, b"", "{command}");
        assert_eq!(output.status.code(), Some(code), "{command}");
        holding.finish();
        place.until_free(session);
    }
}

/// The lock in the terminal, and the terminal in the lock.
#[test]
fn tmux_does_what_the_guide_says() {
    if !support::have("tmux") {
        return;
    }
    let place = Place::new();
    let tmux = |line: &str| {
        let script = line.replace("tmux ", "tmux -f /dev/null ");
        place.output(&format!("unset TMUX; export TMUX_TMPDIR=$PWD\n{script}"))
    };
    fs::write(place.path().join("train.sh"), "#!/bin/sh\necho $$ >pid\nread line\n").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.path().join("train.sh"), mode).unwrap();
    tmux(block("tmux and screen", "sh"));
    let pid = || fs::read_to_string(place.path().join("pid")).unwrap_or_default();
    until("the script runs", || pid().ends_with('\n'));
    assert_eq!(place.output("session-lock holder train"), pid());
    tmux("tmux kill-server");
    place.until_free("train");

    // `new-session -d` ends as a client does that is detached.
    tmux("session-lock run train -- tmux new-session -d 'read line'");
    place.until_free("train");
    tmux("tmux kill-server");
    tmux("session-lock run -i train -- tmux new-session -d 'read line'");
    assert_eq!(place.run("session-lock run train -- true").status.code(), Some(75));
    tmux("tmux kill-server");
    place.until_free("train");
}
