//! The protocol, searched exhaustively by spin: `models/session_lock.pml`, and what is wrong with the
//! protocol that deletes files by dead PIDs: `models/dead_pid_unlink.pml`.
//!
//! Every run prints its bounds and how many states there were (`cargo test --test model --
//! --nocapture`). `SESSION_LOCK_LONG=1` searches within wider bounds.

mod support;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

/// What the search is to look for.
#[derive(Clone, Copy, PartialEq)]
enum Search {
    /// A wrong state, or one in which somebody is stuck.
    Safety,
    /// An execution without end in which somebody is never served.
    Liveness,
    /// As `Safety`, the shortest way to it first.
    Shortest,
}
use Search::{Liveness, Safety, Shortest};

fn tools() -> bool {
    support::have("spin") && support::have("cc")
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    output
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Searches a model in `dir`: what was found, and the number of states.
fn search(
    dir: &Path,
    model: &str,
    switches: &str,
    search: Search,
    checker: &[&str],
) -> (Option<String>, String) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
    let switches = switches.split_whitespace().map(|switch| format!("-D{switch}"));
    run(Command::new("spin").current_dir(dir).args(switches).arg("-a").arg(model));
    let (kind, flags): (&[&str], &[&str]) = match search {
        // There are more processes than the checker has room for by default, with fairness.
        Liveness => (&["-DNFAIR=3"], &["-a", "-f"]),
        Safety => (&["-DSAFETY", "-DNOCLAIM"], &[]),
        Shortest => (&["-DSAFETY", "-DNOCLAIM", "-DNOCOMP", "-DBFS"], &[]),
    };
    let args = ["-w", "-o", "pan", "pan.c"];
    run(Command::new("cc").current_dir(dir).args(args).args(checker).args(kind));
    let mut checker = Command::new(dir.join("pan"));
    let output = text(&run(checker.current_dir(dir).arg("-m1000000").args(flags)));
    // A search that was cut short proves nothing.
    assert!(!output.contains("max search depth too small") && !output.contains("out of memory"));
    let states = output.lines().find(|line| line.contains("states, stored"));
    let states = states.unwrap_or_else(|| panic!("no search:\n{output}"));
    let states = states.split_whitespace().next().unwrap().to_owned();
    let errors = output.lines().find_map(|line| line.split("errors: ").nth(1)).unwrap();
    let found = output.lines().find_map(|line| line.strip_prefix("pan:1: "));
    assert_eq!(errors == "0", found.is_none(), "{output}");
    (found.map(str::to_owned), states)
}

/// For a search that goes through everything, and for one that ends soon: compiling takes longer.
const WHOLE: &[&str] = &["-O1"];
const SOON: &[&str] = &["-O0"];

#[track_caller]
fn holds(switches: &str, kind: Search) {
    let dir = support::scratch();
    // In a long run there would not be enough memory otherwise, and it is slower.
    let collapse: &[&str] = if support::long() { &["-DCOLLAPSE"] } else { &[] };
    let checker = [WHOLE, collapse].concat();
    let (found, states) = search(dir.path(), "session_lock.pml", switches, kind, &checker);
    let kind = if kind == Liveness { "everybody ends" } else { "no wrong state" };
    println!("{switches}: {states} states: {kind}");
    assert_eq!(found, None, "{switches}");
}

#[test]
fn nobody_else_is_there() {
    if tools() {
        holds("PROCS=2 DEATHS=1 FORKS=1 MOVES=0", Safety);
        holds("PROCS=2 DEATHS=1 FORKS=0 MOVES=0", Liveness);
    }
}

#[test]
fn somebody_deletes_and_renames_the_file() {
    if tools() {
        holds("PROCS=2 DEATHS=1 FORKS=0 MOVES=1", Safety);
    }
}

#[test]
fn wider_bounds() {
    if env::var_os("SESSION_LOCK_LONG").is_some() && tools() {
        for switches in LONG {
            holds(switches, Safety);
        }
        holds("PROCS=2 DEATHS=1 FORKS=0 MOVES=1", Liveness);
    }
}

const LONG: [&str; 4] = [
    "PROCS=2 DEATHS=1 FORKS=0 MOVES=2",
    "PROCS=2 DEATHS=1 FORKS=1 MOVES=1",
    "PROCS=3 DEATHS=1 FORKS=0 MOVES=0",
    "PROCS=2 DEATHS=1 FORKS=1 MOVES=0 ROUNDS=2",
];

/// The protocol broken in one step, the bounds, and (part of) the assertion that must find it.
const BROKEN: [(&str, &str, &str); 15] = [
    ("NO_COMPARE", "FORKS=0 DEATHS=0 MOVES=1", "since!=moves"),
    ("COMPARE_BEFORE_LOCK", "FORKS=0 DEATHS=0 MOVES=1", "since!=moves"),
    ("NO_CHECK_AT_RELEASE", "FORKS=0 DEATHS=0 MOVES=1", "is_there=="),
    ("NO_LAST_TRY", "", "(lock_on[inode_of[d]]!=d)"),
    ("TRY_BEFORE_CANCEL", "", "(lock_on[inode_of[d]]!=d)"),
    ("ABANDON_STARVED", "", "(fd[me]==d)"),
    ("LABEL_BEFORE_LOCK", "", "label_in["),
    ("CLEAR_AFTER_UNLOCK", "", "label_in["),
    ("CLOSE_ONLY", "", "(refs[p]==0)"),
    ("CHILD_RELEASES", "DEATHS=0", "label_in["),
    ("NO_FORK_HOOK", "", "excused[d]==0"),
    ("HOOK_MISSES_WAITS", "", "excused[d]==0"),
    ("NO_FORK_LOCK", "", "excused[d]==0"),
    ("QUERY_LOCKS", "", "(asking)"),
    ("RETRY_WITHOUT_OPEN", "FORKS=0 DEATHS=0 MOVES=1", "acceptance cycle"),
];

#[test]
fn what_is_broken_is_found() {
    if !tools() {
        return;
    }
    let is_found = |&(switch, bounds, expected): &(&str, &str, &str)| {
        let dir = support::scratch();
        let kind = if switch == "RETRY_WITHOUT_OPEN" { Liveness } else { Safety };
        let switches = format!("{bounds} {switch}");
        let (found, states) = search(dir.path(), "session_lock.pml", &switches, kind, SOON);
        println!("{switch}: after {states} states: {found:?}");
        assert!(found.is_some_and(|found| found.contains(expected)), "{switch} went unseen");
    };
    thread::scope(|scope| {
        for half in BROKEN.chunks(BROKEN.len().div_ceil(2)) {
            scope.spawn(|| half.iter().for_each(is_found));
        }
    });
}

#[test]
fn who_deletes_files_by_dead_pids_has_two_holders() {
    if !tools() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = support::scratch();
    let model = root.join("models/dead_pid_unlink.pml");
    let (found, _) = search(dir.path(), "dead_pid_unlink.pml", "", Shortest, SOON);
    assert!(found.is_some_and(|found| found.contains("holders==1")));

    // The way there, as the model's own words tell it, stands in the README.
    let trail = dir.path().join("dead_pid_unlink.pml.trail");
    let trail = run(Command::new("spin").arg("-k").arg(trail).arg("-B").arg(model));
    let trail = text(&trail);
    let steps = trail.lines().map(str::trim).filter(|line| line.starts_with("process "));
    let told: String = steps.map(|step| format!("    {step}\n")).collect();
    println!("{told}");
    let readme = fs::read_to_string(root.join("tests/README.md")).unwrap();
    assert!(readme.contains(&told), "tests/README.md tells another way:\n{told}");
}
