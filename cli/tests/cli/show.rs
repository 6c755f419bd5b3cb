//! `holder`, `list` and `path`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::{Place, support};

#[test]
fn holder_says_who_and_its_exit_code_whether() {
    let place = Place::new();
    let holder = |args: &str| {
        let output = place.run(&format!("session-lock holder {args} s"));
        assert_eq!(output.stderr, b"");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(holder(""), (1, String::new()));
    assert!(!place.lock_file("s").exists(), "asking has created the file");
    let holding = place.hold(&["s"]);
    assert_eq!(holder(""), (0, format!("{}\n", holding.pid())));
    let (code, json) = holder("--json");
    assert_eq!(code, 0);
    for field in [
        r#""session": "s""#.to_owned(),
        r#""state": "held""#.to_owned(),
        format!(r#""pid": {}"#, holding.pid()),
        r#""orphaned": false"#.to_owned(),
        r#""command": "sh -c echo held; read line; exit 7""#.to_owned(),
        r#""acquired_at_ms": 1"#.to_owned(),
        r#""host": ""#.to_owned(),
    ] {
        assert!(json.contains(&field), "{field} in {json}");
    }
    holding.finish();
    place.until_free("s");
    let (code, json) = holder("--json");
    assert_eq!(code, 1);
    assert!(json.contains(r#""state": "free""#) && json.contains(r#""pid": null"#), "{json}");
}

#[test]
fn holder_says_unknown_where_it_cannot_know() {
    if !support::is_root() || !support::have("unshare") {
        return;
    }
    let place = Place::new();
    let holding = place.hold(&["s"]);
    // In there, the table does not show holders outside, and the label's PID means nothing.
    let output = place.run("unshare --pid --fork --mount-proc session-lock holder s; echo $?");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "unknown\n3\n");
    let json =
        place.output("unshare --pid --fork --mount-proc session-lock holder --json s || true");
    assert!(json.contains(r#""state": "unknown""#), "{json}");
    holding.finish();
}

/// Runs a script as the first process of a PID namespace.
fn in_pid_namespace(place: &Place, script: &str) -> (String, String) {
    let mut command = place.command("timeout");
    command.args(["60", "unshare", "--kill-child", "--pid", "--fork", "--mount-proc", "sh", "-c"]);
    let output = command.arg(script).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_holder_that_cannot_be_seen_is_named_as_the_label_names_it() {
    if !support::is_root() || !support::have("unshare") || !support::have("flock") {
        return;
    }
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let host = place.output("uname -n");
    let last = format!(
        "held by a process that cannot be seen from here; the last one known is {} (sh -c echo held; read line; exit 7) on {}",
        holding.pid(),
        host.trim_end()
    );
    let script = "session-lock run s -- true; echo $?; session-lock run -t 2.3 s -- true; echo $?
        session-lock list | tail -n 1 | tr -s ' '";
    let (out, err) = in_pid_namespace(&place, script);
    let expected = [
        format!("session-lock: 's' is {last}; use -w to wait"),
        // In three looks, once.
        format!("session-lock: waiting for 's', {last}"),
        format!("session-lock: 's' is {last}; gave up after 2.3s"),
    ];
    assert_eq!(err.lines().collect::<Vec<_>>(), expected);
    let (_, who) = last.split_once("known is ").unwrap();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..2], ["75", "75"], "{out}");
    assert!(lines[2].starts_with("s unknown - ") && lines[2].ends_with(who), "{out}");
    holding.finish();
    place.until_free("s");
    // One without a label, which nothing in there shows: "free" is the answer, and the lock is not to be had.
    let mut flock = place.command("flock");
    let mut holding = {
        flock.args(["s.lock", "sh", "-c", "echo held; read line"]);
        crate::Holding::start(flock)
    };
    holding.hear("held");
    let (out, err) =
        in_pid_namespace(&place, "session-lock holder s; session-lock run s -- true; echo $?");
    assert_eq!(out, "75\n");
    let unseen = "held by a process that cannot be seen from here";
    assert_eq!(err, format!("session-lock: 's' is {unseen}; use -w to wait\n"));
    holding.finish();
}

#[test]
fn a_label_whose_number_has_come_again_is_no_ancestor() {
    if !support::is_root() || !support::have("unshare") || !support::have("flock") {
        return;
    }
    let place = Place::new();
    // The label stays behind when its guardian is killed. Then somebody outside has the lock, and another
    // process in there has the number.
    let script = "echo 100 >/proc/sys/kernel/ns_last_pid
        sh -c 'session-lock acquire s; kill -9 $(sed -n /^guardian/s/.*=//p s.lock)'
        head -n 1 s.lock; echo left; read line <go
        echo 100 >/proc/sys/kernel/ns_last_pid
        sh -c 'echo $$; session-lock run s -- true; echo $?'";
    place.output("mkfifo go; session-lock run s -- true");
    let mut command = place.command("timeout");
    command.args(["60", "unshare", "--kill-child", "--pid", "--fork", "--mount-proc", "sh", "-c"]);
    command.arg(format!("exec 2>&1; {script}"));
    let mut inside = crate::Holding::start(command);
    inside.hear("101");
    inside.hear("left");
    let mut flock = place.command("flock");
    flock.args(["s.lock", "sh", "-c", "echo held; read line"]);
    let mut outside = crate::Holding::start(flock);
    outside.hear("held");
    place.output("echo >go");
    inside.hear("101");
    let message = inside.next();
    let named = "the last one known is 101 (sh -c session-lock acquire s; kill";
    assert!(message.contains(named) && !message.contains("deadlock"), "{message}");
    inside.hear("75");
    outside.finish();
}

#[test]
fn list_shows_held_sessions_first_in_columns() {
    let place = Place::new();
    assert_eq!(place.output("session-lock list").lines().count(), 1);
    place.output("session-lock run a-free-one true; session-lock run 'grüße' true");
    let long = "x".repeat(200);
    let holding = place.hold(&[&long]);
    place.until_free("a-free-one");
    place.until_free("gr%C3%BC%C3%9Fe");
    let table = place.output("session-lock list");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("SESSION ") && lines[0].ends_with("  COMMAND"));
    // In a pipe nothing is cut.
    assert!(lines[1].starts_with(&format!("{long}  held ")), "{table}");
    assert!(lines[1].ends_with("  sh -c echo held; read line; exit 7"), "{table}");
    assert!(lines[2].starts_with("a-free-one ") && lines[3].starts_with("grüße "), "{table}");
    let column = |line: &str, word: &str| line.split(word).next().unwrap().chars().count();
    assert_eq!(column(lines[2], "free  "), column(lines[0], "STATE"), "{table}");
    assert_eq!(column(lines[3], "free  "), column(lines[0], "STATE"), "{table}");
    let json = place.output("session-lock list --json");
    assert!(json.starts_with('[') && json.contains(r#""session": "grüße""#), "{json}");
    holding.finish();
    assert_eq!(place.output("session-lock list --json --dir none"), "[]\n");
}

#[test]
fn nothing_that_is_printed_can_move_the_cursor() {
    let place = Place::new();
    let hostile = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{9b}31m\u{202e}";
    let mut command = place.command(crate::PROGRAM);
    let script = "echo held; read line";
    command.args(["run", hostile, "--", "sh", "-c", script, hostile]);
    let mut holding = crate::Holding::start(command);
    holding.hear("held");
    let mut seen = Vec::new();
    for arguments in [&["list"][..], &["run", hostile, "true"], &["holder", hostile]] {
        let output = place.command(crate::PROGRAM).args(arguments).output().unwrap();
        seen.extend(output.stdout);
        seen.extend(output.stderr);
    }
    let mut waiting = place.command(crate::PROGRAM);
    let output = waiting.args(["run", "-t", "0.5", hostile, "true"]).output().unwrap();
    seen.extend(output.stderr);
    let seen = String::from_utf8(seen).unwrap();
    let moves = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!seen.contains(moves), "{seen:?}");
    assert!(seen.contains(r"\u{1b}[2J"), "{seen}");
    assert!(seen.contains("waiting for"), "{seen}");
    holding.finish();
}

#[test]
fn an_orphaned_lock_names_both_processes() {
    let place = Place::new();
    let script = "mkfifo up end
        session-lock run -i s -- sh -c 'sh -c \"echo \\$\\$ >up; read line <end\" & read pid <up; echo $pid'
        session-lock list; session-lock run s true; session-lock holder --json s; echo >end";
    let output = place.run(script);
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let process = out.lines().next().unwrap();
    let expected =
        format!("{process} (sh -c echo $$ >up; read line <end), which inherited it from ");
    assert!(out.contains(&expected), "{out}");
    assert!(err.contains(&format!("'s' is held by {expected}")), "{err}");
    assert!(err.contains(" (gone); use -w to wait\n"), "{err}");
    assert!(out.contains(r#""orphaned": true"#), "{out}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let place = Place::new();
    place.output("session-lock run s true");
    let script = "trap '' PIPE; mkfifo p; exec 4<>p 5>p 4<&-
        session-lock list >&5; echo $?; session-lock path s >&5; echo $?
        session-lock --help >&5; echo $?";
    assert_eq!(place.output(script), "0\n0\n0\n");
    let output = place.run("session-lock list >/dev/full; echo $?");
    assert_eq!(output.stdout, b"125\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn path_is_for_other_tools() {
    let place = Place::new();
    let expected = format!("{}/a%2Fb.lock\n", place.path().display());
    assert_eq!(place.output("session-lock path a/b"), expected);
    assert_eq!(place.output("session-lock path --dir rel/er s"), "rel/er/s.lock\n");
    // The directory, as acquiring would make it, and nothing in it.
    assert_eq!(fs::read_dir(place.path().join("rel/er")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    for made in ["rel", "rel/er"] {
        let mode = fs::metadata(place.path().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{made}");
    }
    if support::have("flock") {
        let script =
            "session-lock run s -- sh -c 'flock -n \"$(session-lock path s)\" true'; echo $?
            flock \"$(session-lock path s)\" session-lock run -q s true; echo $?";
        assert_eq!(place.output(script), "1\n75\n");
    }
}

#[test]
fn list_counts_those_that_wait() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    place.output("session-lock run t -- true");
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let mut command = place.command(crate::PROGRAM);
            command.args(["run", "-q", "-w", "s", "--", "sh", "-c", "echo held; read line"]);
            crate::Holding::start(command)
        })
        .collect();
    let ino = support::inode(&place.lock_file("s"));
    let waiting =
        || support::flocks().iter().filter(|lock| lock.ino == ino && lock.blocked).count();
    crate::until("all wait", || waiting() == 3);
    let list = place.output("session-lock list");
    let words =
        |line: usize| -> Vec<&str> { list.lines().nth(line).unwrap().split_whitespace().collect() };
    assert_eq!(words(0), ["SESSION", "STATE", "PID", "AGE", "WAITERS", "COMMAND"]);
    let pid = holding.pid().to_string();
    assert_eq!((words(1)[..3].to_vec(), words(1)[4]), (vec!["s", "held", &pid], "3"), "{list}");
    assert_eq!(words(2), ["t", "free", "-", "-", "-", "-"], "{list}");
    assert!(place.output("session-lock holder --json s").contains(r#""waiters": 3"#));
    assert!(place.output("session-lock list --json").contains(r#""waiters": 3"#));
    drop(waiters);
    holding.finish();
}

#[test]
fn nothing_in_json_can_move_a_cursor() {
    if !support::have("python3") {
        return;
    }
    let place = Place::new();
    // ESC, C1 (one of them is a CSI to some terminals), DEL, bidirectional overrides, tags.
    let session = "a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{e0041}z";
    let mut command = place.command(crate::PROGRAM);
    let held = ["-c", "echo held; read line", session];
    command.args(["run", session, "--", "sh"]).args(held);
    let mut holding = crate::Holding::start(command);
    holding.hear("held");
    let mut list = place.command(crate::PROGRAM);
    let output = list.args(["list", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let moves = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{e0041}".contains(c));
    assert!(!text.contains(moves), "{text:?}");
    // And it is JSON, with the same text.
    fs::write(place.path().join("list.json"), &text).unwrap();
    let script =
        "python3 -c 'import json; print(ascii(json.load(open(\"list.json\"))[0][\"session\"]))'";
    let expected = r"'a\x1b[2J\x9b2J\x7f\u202e\U000e0041z'";
    assert_eq!(place.output(script).trim_end(), expected);
    holding.finish();
}
