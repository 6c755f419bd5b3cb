//! In a real terminal, with job control.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{PROGRAM, Place, is_waited_for, support, until};

/// A terminal of 80 columns with a shell in it.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// `None` where there is no tmux.
    fn open(place: &Place) -> Option<Terminal> {
        Terminal::open_with(place, "bash", "env PS1='> ' bash --norc --noprofile")
    }

    /// `command` starts the shell, whose prompt must be `> `.
    pub fn open_with(place: &Place, shell: &str, command: &str) -> Option<Terminal> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !support::have("tmux") || !support::have(shell) {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = format!("session-lock-test-{}-{number}", std::process::id());
        let terminal = Terminal { socket };
        let mut tmux = place.command("tmux");
        tmux.env_remove("TMUX").args(["-L", &terminal.socket]);
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"]);
        tmux.arg(format!("exec {command}"));
        assert!(tmux.status().unwrap().success());
        terminal.until(">");
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let output = command.args(["-L", &self.socket]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Leaves nothing but a prompt, behind which the shell reads. What is typed before the shell is
    /// back is echoed by the terminal, in front of the prompt.
    pub fn clear(&self) {
        self.text("clear");
        self.until("> clear");
        self.key("Enter");
        self.until_screen("a prompt alone", |screen| screen.trim_end() == ">");
    }

    pub fn line(&self, line: &str) {
        self.text(line);
        self.key("Enter");
    }

    pub fn text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
    }

    pub fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    #[track_caller]
    pub fn until(&self, text: &str) {
        self.until_screen(&format!("{text:?}"), |screen| screen.contains(text));
    }

    #[track_caller]
    fn until_screen(&self, what: &str, test: impl Fn(&str) -> bool) {
        let began = std::time::Instant::now();
        while !test(&self.screen()) {
            assert!(began.elapsed() < crate::LIMIT, "no {what} in:\n{}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn control_c_ends_the_command() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    terminal.line("session-lock run s -- sh -c 'echo up; exec sleep 600'");
    terminal.until("\nup");
    terminal.key("C-c");
    // What is typed before the shell is back would stand in the line that is to be erased.
    terminal.until(">");
    terminal.line("echo status=$?");
    terminal.until("status=130");
    place.until_free("s");
}

#[test]
fn control_z_stops_the_command_and_fg_goes_on() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    terminal.line("session-lock run s -- sh -c 'echo up; read line; echo got $line; exit 7'");
    terminal.until("\nup");
    terminal.key("C-z");
    terminal.until("Stopped");
    assert!(!support::is_free(&place.lock_file("s")));
    terminal.line("fg; echo status=$?");
    // Until the shell has left its own mode of the terminal, Enter is no end of a line.
    terminal.until("\nsession-lock run s");
    terminal.line("text");
    terminal.until("got text");
    terminal.until("status=7");
    place.until_free("s");
}

#[test]
fn a_wait_is_one_line_that_is_current_and_then_gone() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    let holding = place.hold(&["s"]);
    terminal.line("clear; session-lock run -w s -- echo ran");
    let waited = || {
        let screen = terminal.screen();
        let (_, line) = screen.split_once("session-lock: waiting ")?;
        let held = format!(" for 's', held by {} (sh -c echo", holding.pid());
        Some(line.split_once(&held)?.0.to_owned())
    };
    until("it says that it waits", || waited().is_some());
    let before = waited();
    until("it says that it goes on", || waited().is_some_and(|now| Some(now) != before));
    let screen = terminal.screen();
    assert_eq!(screen.matches("waiting").count(), 1, "{screen}");
    // It does not wrap.
    let line = screen.lines().find(|line| line.contains("waiting")).unwrap();
    assert!(line.chars().count() <= 77 && line.ends_with('…'), "{line}");
    holding.finish();
    terminal.until("ran");
    let screen = terminal.screen();
    assert!(!screen.contains("waiting"), "{screen}");
}

#[test]
fn control_c_ends_the_wait_and_leaves_nothing() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    let holding = place.hold(&["s"]);
    terminal.line("clear; session-lock run -w s -- echo ran");
    terminal.until("session-lock: waiting");
    terminal.key("C-c");
    // What is typed before the shell is back would stand in the line that is to be erased.
    terminal.until(">");
    terminal.line("echo status=$?");
    terminal.until("status=130");
    let screen = terminal.screen();
    assert!(!screen.contains("waiting") && !screen.contains("ran"), "{screen}");
    assert!(!is_waited_for(&place.lock_file("s")));
    holding.finish();
}

#[test]
fn control_z_stops_the_wait_and_fg_goes_on() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    let holding = place.hold(&["s"]);
    terminal.line("clear; session-lock run -w s -- echo ran");
    terminal.until("session-lock: waiting");
    terminal.key("C-z");
    terminal.until("Stopped");
    terminal.clear();
    terminal.line("fg");
    terminal.until("session-lock: waiting");
    holding.finish();
    terminal.until("\nran");
    assert!(!terminal.screen().contains("waiting"));
}

#[test]
fn in_the_background_a_wait_does_not_write_over_the_terminal() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    let holding = place.hold(&["s"]);
    terminal.line("clear; session-lock run -w s -- echo ran & sleep 1.5; echo done");
    terminal.until("\ndone\n>");
    until("it waits", || is_waited_for(&place.lock_file("s")));
    assert!(!terminal.screen().contains("waiting"));
    holding.finish();
    terminal.until("> ran");
}

#[test]
fn a_list_is_cut_to_the_width_of_the_terminal() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    let holding = place.hold(&[&"long-name-".repeat(12)]);
    terminal.line("clear; session-lock list; echo done");
    terminal.until("\ndone");
    let screen = terminal.screen();
    let lines: Vec<&str> = screen.lines().collect();
    assert!(lines[0].starts_with("SESSION"), "{screen}");
    let row = lines[1];
    assert!(row.starts_with("long-name-long") && row.contains("…  held"), "{screen}");
    assert!(row.chars().count() <= 80 && lines[2] == "done", "{screen}");
    holding.finish();
}

#[test]
fn a_terminal_and_cron_exclude_each_other() {
    let place = Place::new();
    let Some(terminal) = Terminal::open(&place) else { return };
    // In the default directory, which must not depend on what the two have not in common.
    let session = format!("session-lock-test-{}", std::process::id());
    let cron = |arguments: &str| {
        let mut command = Command::new("env");
        command.args(["-i", "PATH=/usr/bin:/bin", "setsid", "-w", "sh", "-c"]);
        command.arg(format!("exec {PROGRAM} {arguments}")).current_dir("/");
        command.stdin(std::process::Stdio::null()).output().unwrap()
    };
    let path = String::from_utf8(cron(&format!("path {session}")).stdout).unwrap();
    terminal.line("unset SESSION_LOCK_DIR; export HOME=$PWD XDG_RUNTIME_DIR=$PWD TMPDIR=$PWD");
    terminal.line(&format!("session-lock run {session} -- sh -c 'echo up; read line'; clear"));
    terminal.until("\nup");
    assert_eq!(cron(&format!("run {session} -- true")).status.code(), Some(75));
    terminal.key("Enter");
    until("free", || cron(&format!("run {session} -- true")).status.success());
    // Nobody else knows this session.
    fs::remove_file(path.trim_end()).unwrap();
}
