//! Completions, in real shells in a real terminal.

use std::fs;

use crate::terminal::Terminal;
use crate::{Place, support};

/// Shells that have read their completions, by name.
fn shells(place: &Place) -> Vec<(&'static str, Terminal)> {
    let bash_completion = "/usr/share/bash-completion/bash_completion";
    fs::write(
        place.path().join("bashrc"),
        format!("PS1='> '; . {bash_completion}; . <(session-lock completions bash)\n"),
    )
    .unwrap();
    fs::write(place.path().join("bare.bashrc"), "PS1='> '; . <(session-lock completions bash)\n")
        .unwrap();
    fs::write(
        place.path().join(".zshrc"),
        "PS1='> '; autoload -Uz compinit; compinit -u -d ./dump; . <(session-lock completions zsh)\n",
    )
    .unwrap();
    fs::write(
        place.path().join("config.fish"),
        "function fish_prompt; echo -n '> '; end; function fish_greeting; end; session-lock completions fish | source\n",
    )
    .unwrap();
    let mut shells = Vec::new();
    let mut add = |shell: &'static str, command: &str| {
        shells.extend(Terminal::open_with(place, shell, command).map(|terminal| (shell, terminal)));
    };
    add("bash", "bash --noprofile --rcfile bare.bashrc");
    if fs::exists(bash_completion).unwrap() {
        add("bash", "bash --noprofile --rcfile bashrc");
    } else {
        support::skip("bash-completion is not installed");
    }
    add("zsh", "env ZDOTDIR=. zsh");
    add("fish", "env HOME=. XDG_CONFIG_HOME=. fish --no-config -C 'source config.fish'");
    shells
}

/// Types with a Tab at each `^`, waits for what the line must be then, and runs it.
#[track_caller]
fn type_line(terminal: &Terminal, parts: &[(&str, &str)]) {
    for (text, line) in parts {
        terminal.text(text);
        terminal.key("Tab");
        terminal.until(line);
    }
    terminal.key("Enter");
}

#[test]
fn a_tab_completes_subcommands_options_sessions_and_the_command() {
    let place = Place::new();
    place.output("session-lock run gruen true; session-lock run 'two words' true; session-lock run deploy:prod true");
    fs::write(place.path().join("long-file-name"), "contents of the file\n").unwrap();
    fs::create_dir_all(place.path().join("elsewhere")).unwrap();
    place.output("session-lock run --dir elsewhere hidden-there true");
    crate::at_once(&shells(&place), |(shell, terminal)| {
        println!("{shell}");
        terminal.clear();
        type_line(
            terminal,
            &[
                ("session-lock ru", "> session-lock run"),
                ("--qui", "> session-lock run --quiet"),
                // The other shells run the same line.
                ("-w gru", "> session-lock run --quiet -w gruen"),
                ("timeou", "> session-lock run --quiet -w gruen timeout"),
                (
                    "10 cat long-fi",
                    "> session-lock run --quiet -w gruen timeout 10 cat long-file-name",
                ),
            ],
        );
        terminal.until("\ncontents of the file\n");
        terminal.clear();
        type_line(
            terminal,
            &[("session-lock path --dir elsew", "elsewhere/"), (" hid", "hidden-there")],
        );
        terminal.until("\nelsewhere/hidden-there.lock\n");
        terminal.clear();
        type_line(terminal, &[("session-lock path tw", "words")]);
        terminal.until("/two%20words.lock\n");
        terminal.clear();
        type_line(terminal, &[("session-lock path deploy:p", "deploy:prod")]);
        terminal.until("/deploy%3Aprod.lock\n");
        terminal.clear();
        type_line(terminal, &[("session-lock completions fi", "completions fish")]);
        terminal.until("function __session_lock_complete");
    });
}
