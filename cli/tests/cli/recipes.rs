//! The recipes of `docs/recipes.md`, as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::{Place, support};

const RECIPES: &str = include_str!("../../recipes.md");

/// The blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    RECIPES.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// What a script prints, and its exit code, while the session is free and while it is held.
fn outcomes(place: &Place, script: &str, session: &str) -> [(String, i32); 2] {
    let path = place.path().join("script");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // Those that would wait for ever do not.
    let run = || {
        let output = place.run("exec timeout 2 ./script 2>/dev/null");
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    let free = run();
    let holding = place.hold(&[session]);
    let held = run();
    holding.finish();
    place.until_free(session);
    [free, held]
}

#[test]
fn each_script_does_what_it_says() {
    let timed_out = 124;
    let expected: [(&str, &str, i32, &str, i32); 9] = [
        (
            "deploy",
            "before: others may be here, too\ninside: nobody else is\nafter\n",
            0,
            "before: others may be here, too\n",
            timed_out,
        ),
        ("nightly", "the only one\n", 0, "", 75),
        ("nightly", "the only one\n", 0, "", 75),
        ("sync", "syncing\n", 0, "somebody else is syncing\n", 0),
        ("sync", "syncing\ndone\n", 0, "somebody else is syncing\n", 0),
        ("report", "reporting\n", 0, "", 75),
        ("publish", "preparing\npublishing\n", 0, "", timed_out),
        ("disk-red", "", 0, "", timed_out),
        ("feed", "still held\n", 0, "", 1),
    ];
    let scripts = blocks("sh");
    assert_eq!(scripts.len(), expected.len());
    let scripts: Vec<_> = scripts.into_iter().zip(expected).collect();
    crate::at_once(&scripts, |(script, (session, free, code, held, code_held))| {
        let place = Place::new();
        // Nobody waits half a minute for a test.
        let script = script.replace("-t 30", "-t 0.3");
        let [outcome, outcome_held] = outcomes(&place, &script, session);
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
    let [line] = blocks("crontab")[..] else { panic!("one line") };
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
    let makefiles = blocks("make");
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
    for script in blocks("sh").into_iter().chain(blocks("crontab")).chain(blocks("make")) {
        let first = script.lines().find(|line| line.contains("session-lock")).unwrap().trim();
        let first = first.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        assert!(page.contains(&first), "{first}");
    }
}
