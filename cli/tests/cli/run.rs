//! `run`, seen from the command that it runs and from the shell around.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::{PROGRAM, Place, support};

#[test]
fn the_exit_status_is_the_commands_own() {
    let place = Place::new();
    let status = |command: &str| {
        place.output(&format!("session-lock run s -- {command} 2>/dev/null; echo $?"))
    };
    assert_eq!(status("true"), "0\n");
    assert_eq!(status("sh -c 'exit 7'"), "7\n");
    assert_eq!(status("sh -c 'exit 75'"), "75\n");
    assert_eq!(status("sh -c 'kill -TERM $$'"), "143\n");
    assert_eq!(status("sh -c 'kill -KILL $$'"), "137\n");
}

#[test]
fn a_command_that_cannot_be_executed_is_126_or_127() {
    let place = Place::new();
    fs::write(place.path().join("file"), "no program").unwrap();
    for inherit in ["", "-i"] {
        let run = |command: &str| {
            let script = format!("session-lock run {inherit} s -- {command}; echo $?");
            let output = place.run(&script);
            place.until_free("s");
            (output.stdout, String::from_utf8(output.stderr).unwrap())
        };
        let (code, message) = run("./file");
        assert_eq!(code, b"126\n");
        assert!(message.starts_with("session-lock: ./file: "), "{message}");
        let (code, message) = run("no-such-command");
        assert_eq!(code, b"127\n");
        assert_eq!(message, "session-lock: no-such-command: command not found\n");
    }
}

#[test]
fn a_held_lock_is_75_or_the_code_that_was_asked_for() {
    let place = Place::new();
    let holder = place.hold(&["s"]);
    for (options, expected) in
        [("", 75), ("-E 9", 9), ("-E 0", 0), ("-E 255", 255), ("-t 0", 75), ("-t 0.01 -E 3", 3)]
    {
        let output = place.run(&format!("session-lock run {options} s -- touch ran"));
        assert_eq!(output.status.code(), Some(expected), "{options}");
        let message = String::from_utf8(output.stderr).unwrap();
        let named = format!("'s' is held by {} (sh -c echo held; read line; exit 7)", holder.pid());
        assert!(message.contains(&named), "{message}");
        let output = place.run(&format!("session-lock run -q {options} s -- touch ran"));
        assert_eq!(output.status.code(), Some(expected), "-q {options}");
        assert_eq!(output.stderr, b"", "-q {options}");
    }
    assert!(!place.path().join("ran").exists());
    assert_eq!(holder.finish().code(), Some(7));
}

#[test]
fn wrong_usage_is_2_and_runs_nothing() {
    let place = Place::new();
    for arguments in [
        "",
        "run",
        "run s",
        "run -t -1 s touch ran",
        "run -t nan s touch ran",
        "run -t inf s touch ran",
        "run -t 1e400 s touch ran",
        "run -t '' s touch ran",
        "run -t 1s s touch ran",
        "run -w -t 1 s touch ran",
        "run -E 256 s touch ran",
        "run -E -1 s touch ran",
        "run --no-such-option s touch ran",
        "holder",
        "list s",
        "no-such-command",
    ] {
        let output = place.run(&format!("session-lock {arguments}"));
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert_eq!(output.stdout, b"", "{arguments}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"), "{arguments}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn its_own_failure_is_125_and_nothing_is_run() {
    let place = Place::new();
    let run = |script: &str| {
        let output = place.run(script);
        assert_eq!(output.status.code(), Some(125), "{script}");
        assert!(!place.path().join("ran").exists());
        String::from_utf8(output.stderr).unwrap()
    };
    // An empty name, and one that is too long for a file.
    run("session-lock run '' -- touch ran");
    run("session-lock run $(printf %0300d 1) -- touch ran");
    // A directory that everybody can write.
    let open = place.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(run("session-lock run --dir open s -- touch ran").contains("not safe to use"));
    // No descriptor left for the guardian.
    let message = run("ulimit -n 4; session-lock run s -- touch ran");
    assert!(message.contains("guardian"), "{message}");
    place.until_free("s");
    run("session-lock holder --dir /dev/null/x s");
    run("session-lock list --dir /dev/null");
}

#[test]
fn the_commands_own_options_are_left_alone() {
    let place = Place::new();
    for (arguments, expected) in [
        ("run s echo -w", "-w\n"),
        ("run s -- echo -t 5", "-t 5\n"),
        ("run s echo -- -w", "-- -w\n"),
        ("run -w s echo x", "x\n"),
        ("run s -w echo x", "x\n"),
        ("run -- -s echo x", "x\n"),
    ] {
        assert_eq!(place.output(&format!("session-lock {arguments}")), expected, "{arguments}");
    }
    assert!(place.path().join("-s.lock").exists());
}

#[test]
fn the_command_finds_session_and_path_in_its_environment() {
    let place = Place::new();
    let script = "export OTHER=1 SESSION_LOCK_SESSION=old; env | grep -v '^_=' | sort >before
        session-lock run a/b -- env | grep -v '^_=' | sort >after; diff before after";
    let token = |label: &str| {
        let token = label.lines().find_map(|line| line.strip_prefix("token=")).unwrap();
        token.parse::<u64>().unwrap()
    };
    let output = place.run(script);
    let added: Vec<_> = str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("> "))
        .collect();
    let token = token(&fs::read_to_string(place.lock_file("a%2Fb")).unwrap());
    let expected = format!(
        "SESSION_LOCK_PATH={}/a%2Fb.lock SESSION_LOCK_SESSION=a/b SESSION_LOCK_TOKEN={token}",
        place.path().display()
    );
    assert_eq!(added.join(" "), expected);
}

/// What a process can see of how it was started.
const LOOK: &str = "grep -E '^Sig[IC]' /proc/self/status; pwd; umask; ulimit -a
    for fd in 0 1 2 3 4 5 6 7 8 9; do readlink /proc/$$/fd/$fd || echo $fd closed; done";

#[test]
fn the_command_starts_as_if_it_had_been_started_directly() {
    let place = Place::new();
    fs::write(place.path().join("look"), LOOK).unwrap();
    let look = |prefix: &str| {
        let script = format!("trap '' PIPE HUP; exec 3</dev/null 7>file; {prefix} sh ./look | cat");
        let text = place.output(&script);
        // Another one each time.
        text.lines().filter(|line| !line.starts_with("pipe:")).map(str::to_owned).collect()
    };
    let (direct, locked): (Vec<_>, Vec<_>) = (look(""), look("session-lock run s --"));
    let ignored = direct[0].strip_prefix("SigIgn:\t").unwrap();
    let expected = (1 << (libc::SIGPIPE - 1)) | (1 << (libc::SIGHUP - 1));
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & expected, expected);
    assert_eq!(locked, direct);
}

#[test]
fn the_command_gets_the_signal_mask_and_no_pending_signal() {
    let place = Place::new();
    let mut command = place.command(PROGRAM);
    command.args(["run", "s", "--", "grep", "-E", "^(SigBlk|ShdPnd|SigPnd)", "/proc/self/status"]);
    block_some_signals(&mut command);
    let output = command.output().unwrap();
    let expected =
        "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000010200\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

/// SIGUSR1 and SIGCHLD, as some careless parents do.
fn block_some_signals(command: &mut Command) {
    let block = || {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: the call fills the set that it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in [libc::SIGUSR1, libc::SIGCHLD] {
            // SAFETY: the set was filled above.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
        }
        // SAFETY: the set was filled above; a null pointer is allowed.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: what runs between fork and exec calls only async-signal-safe functions.
    unsafe { command.pre_exec(block) };
}

#[test]
fn the_command_has_the_same_pid_parent_group_and_session() {
    let place = Place::new();
    let script = "session-lock run s -- cat /proc/self/stat & wait $!; \
        echo $! $$ $(cut -d' ' -f5,6 /proc/$$/stat)";
    let output = place.output(script);
    let lines: Vec<Vec<&str>> =
        output.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    let [command, shell] = lines.as_slice() else { panic!("{output}") };
    assert_eq!([command[0], command[3], command[4], command[5]], shell[..]);
}

/// Starts a child, lets it end, and waits for all there are.
const REAP: &str = "import os, signal
signal.alarm(30)
os.system('true')
try: print('an unknown child:', os.wait())
except ChildProcessError: print('no children')
";

#[test]
fn the_command_finds_no_child_that_it_did_not_start() {
    if !support::have("python3") {
        return;
    }
    let place = Place::new();
    fs::write(place.path().join("reap.py"), REAP).unwrap();
    let subreaper = "import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
";
    fs::write(place.path().join("subreaper.py"), subreaper).unwrap();
    for option in ["", "-i"] {
        let run = format!("session-lock run {option} s -- python3 reap.py");
        assert_eq!(place.output(&run), "no children\n", "{option}");
        let run = format!("python3 subreaper.py {run}");
        assert_eq!(place.output(&run), "no children\n", "as a child subreaper, {option}");
        place.until_free("s");
        if support::is_root() && support::have("unshare") {
            let run = format!(
                "unshare --kill-child --pid --fork --mount-proc session-lock run {option} s -- python3 reap.py"
            );
            assert_eq!(place.output(&run), "no children\n", "as PID 1, {option}");
        }
    }
}

#[test]
fn closed_standard_descriptors_stay_closed_and_are_not_the_lock() {
    let place = Place::new();
    for (closed, expected) in [
        ("<&-", "closed open open"),
        (">&-", "open closed open"),
        ("2>&-", "open open closed"),
        ("<&- >&- 2>&-", "closed closed closed"),
    ] {
        let script = format!(
            "exec 9>seen {closed}
            session-lock run s -- sh -c 'for fd in 0 1 2; do
                if [ -e /proc/$$/fd/$fd ]; then seen=$seen\\ open; else seen=$seen\\ closed; fi; done
                echo $seen >&9; echo text; echo text >&2'"
        );
        place.run(&script);
        assert_eq!(fs::read_to_string(place.path().join("seen")).unwrap().trim_end(), expected);
        place.until_free("s");
        assert_eq!(place.holder_in_label("s"), "0", "{closed}");
    }
    // Its own messages do not go into the lock file, either.
    place.run("exec 2>&-; session-lock run s -- no-such-command");
    place.until_free("s");
    assert_eq!(place.holder_in_label("s"), "0");
}

#[test]
fn a_pipe_ends_the_command_as_it_would_without() {
    let place = Place::new();
    let script = "{ session-lock run s -- yes; echo $? >status; } | head -n 1; cat status";
    assert_eq!(place.output(script), "y\n141\n");
}

#[test]
fn neither_a_substitution_nor_a_pipe_waits_for_the_guardian() {
    let place = Place::new();
    let script = "mkfifo end other
        out=$(session-lock run s -- sh -c 'echo out; exec >&- 2>&-; read line <end' &)
        echo $out; session-lock holder s >/dev/null; echo $?
        { session-lock run p -- sh -c 'echo piped; exec >&- 2>&-; read line <other' & } | cat
        session-lock holder p >/dev/null; echo $?
        echo >end; echo >other";
    assert_eq!(place.output(script), "out\n0\npiped\n0\n");
}

#[test]
fn it_goes_with_the_other_prefixes() {
    let place = Place::new();
    let nohup = "nohup session-lock run s -- sh -c 'kill -HUP $$; echo alive' 2>/dev/null | cat";
    assert_eq!(place.output(nohup), "alive\n");
    assert_eq!(place.output("timeout 0.1 session-lock run s -- sleep 600; echo $?"), "124\n");
    place.until_free("s");
    assert_eq!(place.output("session-lock run s -- timeout 0.1 sleep 600; echo $?"), "124\n");
    assert_eq!(place.output("setsid -w session-lock run s -- sh -c 'exit 7'; echo $?"), "7\n");
    assert_eq!(place.output("session-lock run s -- setsid -w sh -c 'exit 7'; echo $?"), "7\n");
    assert_eq!(place.output("session-lock run s -- nice env A=1 sh -c 'echo $A'"), "1\n");
    let bare = format!("env -i {PROGRAM} run --dir . s -- /usr/bin/env");
    let expected = format!(
        "SESSION_LOCK_SESSION=s\nSESSION_LOCK_PATH={}/s.lock\nSESSION_LOCK_TOKEN=",
        place.path().display()
    );
    let output = place.output(&bare);
    assert!(output.starts_with(&expected), "{output}");
}

#[test]
fn a_script_finds_its_own_lock_free_again_in_the_next_line() {
    let place = Place::new();
    let times = if std::env::var_os("SESSION_LOCK_LONG").is_some() { 2000 } else { 150 };
    let script = format!(
        "i=0; while [ $i -lt {times} ]; do session-lock run s -- sh -c 'kill -9 $$'
        [ $? = 137 ] || echo busy; i=$((i + 1)); done"
    );
    assert_eq!(place.output(&format!("{{ {script}; }} 2>/dev/null")), "");
}

#[test]
fn help_version_completions_and_man_page_are_there() {
    let place = Place::new();
    let version = concat!("session-lock ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(place.output("session-lock --version"), version);
    let help = place.output("session-lock run --help");
    for code in ["75", "125", "126", "127", "Examples:"] {
        assert!(help.contains(code), "{code}");
    }
    assert!(place.output("session-lock --help").contains("session-lock list"));
    if support::have("bash") {
        assert_eq!(place.output("session-lock completions bash | bash -n && echo good"), "good\n");
    }
    if support::have("man") && support::have("mandoc") {
        let page = place.output("session-lock man >page; man --warnings -l page | col -b");
        for part in [
            "session-lock run [-w] [-t SECONDS] ",
            "SESSION [--] COMMAND [ARG]...",
            "\n   acquire\n",
            "-t, --timeout SECONDS",
            "--json",
            "\nEXIT STATUS\n   run\n",
            "127    COMMAND was not found",
            "flock \"$(session-lock path build)\" make",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(place.output("mandoc -T lint page"), "");
    }
}
