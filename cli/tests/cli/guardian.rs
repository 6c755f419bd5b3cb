//! The lock lives exactly as long as the command, whatever ends it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Holding, PROGRAM, Place, is_alive, signal, support, until};

/// The guardian of a command that runs: a child of its.
fn guardian_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_guardian = |&child: &u32| {
        fs::read_to_string(format!("/proc/{child}/comm"))
            .is_ok_and(|name| name == "session-lock-g\n")
    };
    children.split_whitespace().map(|child| child.parse().unwrap()).find(is_guardian).unwrap()
}

/// It has closed what it does not need: its last step before it waits.
fn until_at_rest(guardian: u32) {
    let open = || fs::read_dir(format!("/proc/{guardian}/fd")).unwrap().count();
    until("the guardian waits", || open() == 2);
}

#[test]
fn whatever_kills_the_command_frees_the_lock() {
    let place = Place::new();
    let mut slowest = Duration::ZERO;
    for number in 1..=31 {
        let ends = ![
            libc::SIGCHLD,
            libc::SIGCONT,
            libc::SIGSTOP,
            libc::SIGTSTP,
            libc::SIGTTIN,
            libc::SIGTTOU,
            libc::SIGURG,
            libc::SIGWINCH,
        ]
        .contains(&number);
        if !ends {
            continue;
        }
        let mut command = place.command("sh");
        let script = "ulimit -c 0; echo ready; exec session-lock run s -- sleep 600";
        command.args(["-c", script]);
        let mut holding = Holding::start(command);
        holding.hear("ready");
        until("sleep runs", || {
            let name = fs::read_to_string(format!("/proc/{}/comm", holding.pid()));
            name.is_ok_and(|name| name == "sleep\n")
        });
        assert!(!support::is_free(&place.lock_file("s")), "signal {number}");
        signal(holding.pid(), number);
        assert!(!holding.child.wait().unwrap().success());
        let lasted = until("free", || support::is_free(&place.lock_file("s")));
        slowest = slowest.max(lasted);
    }
    println!("free at most {slowest:?} after the end was seen");
}

#[test]
fn without_its_guardian_the_command_runs_on_and_the_lock_is_free() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let guardian = guardian_of(holding.pid());
    signal(guardian, libc::SIGKILL);
    place.until_free("s");
    assert!(is_alive(holding.pid()));
    assert_eq!(holding.finish().code(), Some(7));
}

#[test]
fn a_guardian_that_is_late_is_waited_for() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let guardian = guardian_of(holding.pid());
    signal(guardian, libc::SIGSTOP);
    holding.finish();
    let mut next = place.command(PROGRAM);
    next.args(["run", "s", "--", "echo", "ran"]);
    let next = next.stdout(Stdio::piped()).spawn().unwrap();
    // It has seen that the lock is not free: what it has open is not locked.
    until("the next one waits", || {
        let mut open =
            fs::read_dir(format!("/proc/{}/fd", next.id())).into_iter().flatten().flatten();
        let is_it =
            |entry: fs::DirEntry| fs::read_link(entry.path()).ok() == Some(place.lock_file("s"));
        open.any(is_it)
    });
    signal(guardian, libc::SIGCONT);
    assert_eq!(next.wait_with_output().unwrap().stdout, b"ran\n");
}

/// There it reads another start time of the process than others do, and writes that into the label.
#[test]
fn a_guardian_in_a_time_namespace_holds_the_lock_for_a_living_process() {
    if !support::have("unshare") || !support::is_root() {
        return;
    }
    let mut unshare = Command::new("unshare");
    if !unshare.args(["--time", "true"]).stderr(Stdio::null()).status().unwrap().success() {
        return support::skip("this system has no time namespaces");
    }
    let place = Place::new();
    let mut process = Holding::start(place.command("cat"));
    let pid = process.pid();
    place.output(&format!(
        "unshare --time --boottime 100000 --fork session-lock acquire --for {pid} s"
    ));
    assert_eq!(place.output("session-lock holder s"), format!("{pid}\n"));
    let list = place.output("session-lock list");
    let line: Vec<&str> = list.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(line[..3], ["s", "held", &pid.to_string()], "{list}");
    // At once: it is not waited for, as a guardian is whose process has ended. (That takes a second each time;
    // a busy machine may be slow once.)
    let refused_in = || {
        let start = Instant::now();
        assert_eq!(place.output("session-lock run -q s -- true; echo $?"), "75\n");
        start.elapsed()
    };
    assert!((0..5).any(|_| refused_in() < Duration::from_millis(800)));
    process.kill();
    place.until_free("s");
}

#[test]
fn the_guardian_is_out_of_everybodys_way() {
    let place = Place::new();
    let holding = place.hold(&["s"]);
    let guardian = guardian_of(holding.pid());
    let proc = PathBuf::from(format!("/proc/{guardian}"));
    until_at_rest(guardian);
    // Nothing open but the lock and the descriptor of COMMAND's process.
    let open: Vec<_> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(open.len(), 2, "{open:?}");
    assert!(open.contains(&place.lock_file("s")), "{open:?}");
    assert!(open.contains(&PathBuf::from("anon_inode:[pidfd]")), "{open:?}");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), PathBuf::from("/"));
    // Not in the command's session or group.
    let stat = |pid: u32| -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = text.rsplit_once(") ").unwrap();
        fields.split(' ').skip(2).take(2).map(str::to_owned).collect()
    };
    for (its, of_command) in stat(guardian).iter().zip(stat(holding.pid())) {
        assert_eq!(*its, guardian.to_string());
        assert_ne!(*its, of_command);
    }
    // No signal that is meant for others ends it.
    for number in 1..libc::SIGRTMAX() {
        // glibc keeps the first two of the real-time signals to itself.
        if ![libc::SIGKILL, libc::SIGSTOP, 32, 33].contains(&number) {
            signal(guardian, number);
        }
    }
    // In kB, once it has come to rest: on a loaded machine it may be at its first steps.
    until("the guardian has little memory of its own", || {
        let memory = fs::read_to_string(proc.join("smaps_rollup")).unwrap();
        let own = memory.lines().find(|line| line.starts_with("Private_Dirty")).unwrap();
        own.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() < 800
    });
    assert!(is_alive(guardian) && !support::is_free(&place.lock_file("s")));
    holding.finish();
    until("the guardian has ended", || !is_alive(guardian));
    place.until_free("s");
    assert_eq!(place.holder_in_label("s"), "0");
}

#[test]
fn what_the_command_leaves_running_keeps_the_lock_only_with_inherit() {
    let place = Place::new();
    for (option, expected) in [("", "free"), ("-i", "held")] {
        let script = format!(
            "mkfifo up end
            session-lock run {option} s -- sh -c 'setsid sh -c \"echo >up; read line <end\" & read line <up'
            session-lock run -q s -- echo free || echo held
            echo >end; rm up end"
        );
        assert_eq!(place.output(&script), format!("{expected}\n"), "{option}");
        place.until_free("s");
    }
}

#[test]
fn a_command_that_executes_another_one_keeps_the_lock() {
    let place = Place::new();
    let mut command = place.command(PROGRAM);
    let chain = "exec sh -c 'exec sh -c \"echo last; read line\"'";
    command.args(["run", "s", "--", "sh", "-c", chain]);
    let mut holding = Holding::start(command);
    holding.hear("last");
    assert!(!support::is_free(&place.lock_file("s")));
    let label = fs::read_to_string(place.lock_file("s")).unwrap();
    assert!(label.contains("\nuntil=exit\n"), "{label}");
    let holder = place.output("session-lock holder s");
    assert_eq!(holder, format!("{}\n", holding.pid()));
    holding.finish();
    place.until_free("s");
}

#[test]
fn a_lock_whose_file_is_replaced_is_not_released_by_an_old_guardian() {
    let place = Place::new();
    let old = place.hold(&["s"]);
    fs::rename(place.lock_file("s"), place.path().join("moved")).unwrap();
    let new = place.hold(&["s"]);
    let inode = fs::metadata(place.lock_file("s")).unwrap().ino();
    old.finish();
    until("the old lock is free", || support::is_free(&place.path().join("moved")));
    assert!(!support::is_free(&place.lock_file("s")));
    assert_eq!(place.output("session-lock holder s"), format!("{}\n", new.pid()));
    assert_eq!(fs::metadata(place.lock_file("s")).unwrap().ino(), inode);
    new.finish();
}

#[test]
fn a_command_that_closes_all_descriptors_keeps_the_lock_with_inherit() {
    let place = Place::new();
    let mut command = place.command(PROGRAM);
    let script = "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd>&-\"; done; echo held; read line";
    command.args(["run", "-i", "s", "--", "bash", "-c", script]);
    if !support::have("bash") {
        return;
    }
    let mut holding = Holding::start(command);
    holding.hear("held");
    let open = fs::read_dir(format!("/proc/{}/fd", holding.pid())).unwrap();
    let has_lock =
        |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap() == place.lock_file("s");
    assert!(!open.flatten().any(has_lock), "the command has the descriptor");
    assert!(!support::is_free(&place.lock_file("s")));
    assert_eq!(place.output("session-lock holder s"), format!("{}\n", holding.pid()));
    holding.finish();
    assert_eq!(place.output("session-lock run s -- echo free"), "free\n");
}

#[test]
fn the_guardian_touches_its_file_once_in_twelve_hours() {
    if !support::have("strace") {
        return;
    }
    let place = Place::new();
    // The guardian's first wait ends at once, as if its time had passed. (COMMAND waits for that.)
    let script = "strace -f -o trace -e trace=ppoll,utimensat -e inject=ppoll:retval=0:when=1 \\
        session-lock run s -- sh -c 'until grep -q utimensat trace; do :; done'; cat trace";
    let trace = place.output(script);
    assert!(trace.contains("{tv_sec=43200, tv_nsec=0}"), "{trace}");
    assert!(trace.contains("utimensat(") && trace.contains("[UTIME_NOW, UTIME_NOW]"), "{trace}");
}
