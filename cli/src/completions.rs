//! Completions for bash, zsh and fish.
//!
//! The scripts of the shells are small: at each Tab they ask `session-lock complete`, which knows the
//! options from their definition, and the sessions. COMMAND and its arguments they leave to the shell's own
//! completions.
//!
//! The answer's first line says what the word can be, and the next ones are the candidates, if any: `VALUE`,
//! or `VALUE<Tab>DESCRIPTION`.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::cli::{Cli, CompleteArgs, CompletionsArgs, Shell};
use crate::show;

pub fn script(args: &CompletionsArgs) -> u8 {
    let script = match args.shell {
        Shell::Bash => include_str!("completions/session-lock.bash"),
        Shell::Fish => include_str!("completions/session-lock.fish"),
        Shell::Zsh => include_str!("completions/session-lock.zsh"),
    };
    show::print(script.as_bytes(), 0)
}

pub fn complete(args: &CompleteArgs) -> u8 {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    show::print(answer(&cli, &args.words).text().as_bytes(), 0)
}

/// What the word under the cursor can be.
enum Answer {
    Words(Vec<(String, String)>),
    Directory,
    /// A word of a command that begins with the word of this number; the program's name is number 0.
    Command(usize),
}

impl Answer {
    fn text(self) -> String {
        match self {
            Answer::Directory => "directories\n".to_owned(),
            Answer::Command(at) => format!("command {at}\n"),
            Answer::Words(words) => {
                let mut text = "words\n".to_owned();
                for (word, description) in words {
                    let tab = if description.is_empty() { "" } else { "\t" };
                    let _ = writeln!(text, "{word}{tab}{description}");
                }
                text
            }
        }
    }
}

fn answer(cli: &Command, words: &[OsString]) -> Answer {
    let Some((last, before)) = words.split_last() else { return Answer::Words(Vec::new()) };
    let last = last.to_string_lossy();
    let Some((name, before)) = before.split_first() else {
        let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
        let commands = commands.map(|command| (command.get_name().to_owned(), about(command)));
        let words = if last.starts_with('-') { options(cli) } else { commands.collect() };
        return Answer::Words(starting_with(&last, words));
    };
    let Some(command) = name.to_str().and_then(|name| cli.find_subcommand(name)) else {
        return Answer::Words(Vec::new());
    };
    let mut positionals = command.get_positionals();
    let mut positional = positionals.next();
    let (mut option, mut only_positionals, mut dir) = (None::<&Arg>, false, None::<&OsStr>);
    // The program's name and the subcommand's come before.
    for (at, word) in (2..).zip(before) {
        let text = word.to_string_lossy();
        if let Some(arg) = option.take() {
            if arg.get_id() == "dir" {
                dir = Some(word);
            }
        } else if only_positionals || !text.starts_with('-') || text == "-" {
            if positional.is_some_and(|arg| arg.get_id() == "command") {
                return Answer::Command(at);
            }
            positional = positionals.next();
        } else if text == "--" {
            only_positionals = true;
        } else {
            option = option_that_waits(command, &text);
        }
    }
    if let Some(arg) = option {
        let is_dir = arg.get_id() == "dir";
        return if is_dir { Answer::Directory } else { Answer::Words(Vec::new()) };
    }
    if last.starts_with('-') && !only_positionals {
        return Answer::Words(starting_with(&last, options(command)));
    }
    let words = match positional {
        Some(arg) if arg.get_id() == "command" => return Answer::Command(words.len()),
        Some(arg) if arg.get_id() == "session" => sessions(dir.map(Path::new)),
        Some(arg) => arg
            .get_possible_values()
            .iter()
            .map(|value| (value.get_name().to_owned(), String::new()))
            .collect(),
        None => Vec::new(),
    };
    Answer::Words(starting_with(&last, words))
}

/// The option whose value is the next word: `--dir`, `-t`, `-qt`.
fn option_that_waits<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let takes_value = |arg: &&Arg| arg.get_action().takes_values();
    if let Some(long) = word.strip_prefix("--") {
        return command
            .get_arguments()
            .filter(takes_value)
            .find(|arg| arg.get_long() == Some(long));
    }
    let of_letter = |letter| command.get_arguments().find(|arg| arg.get_short() == Some(letter));
    let mut letters = word.chars().skip(1);
    let arg = letters.by_ref().filter_map(of_letter).find(takes_value)?;
    // What follows in the same word would be the value.
    if letters.next().is_none() { Some(arg) } else { None }
}

fn options(command: &Command) -> Vec<(String, String)> {
    let mut options = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let help = arg.get_help().map(|help| first_sentence(&help.to_string())).unwrap_or_default();
        if let Some(long) = arg.get_long() {
            options.push((format!("--{long}"), help.clone()));
        }
        if let Some(short) = arg.get_short() {
            options.push((format!("-{short}"), help));
        }
    }
    options
}

fn about(command: &Command) -> String {
    command.get_about().map(|about| first_sentence(&about.to_string())).unwrap_or_default()
}

fn first_sentence(text: &str) -> String {
    text.split([';', '[', '\n']).next().unwrap_or_default().trim_end().to_owned()
}

/// A name that is not text, or that a terminal cannot show, is not offered.
fn sessions(dir: Option<&Path>) -> Vec<(String, String)> {
    let sessions = session_lock::list(dir).unwrap_or_default();
    let names = sessions.into_iter().filter_map(|session| {
        let name = session.name.into_string().ok()?;
        (show::escaped(OsStr::new(&name)) == name)
            .then(|| (name, show::state(&session.holder).to_owned()))
    });
    names.collect()
}

fn starting_with(start: &str, mut words: Vec<(String, String)>) -> Vec<(String, String)> {
    words.retain(|(word, _)| word.starts_with(start));
    words
}
