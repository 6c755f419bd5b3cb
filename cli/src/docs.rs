//! The man page, made from the definition of the command line, its help texts and the recipes.

#![forbid(unsafe_code)]

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;
use crate::show;

/// When the page was last changed in more than words.
const DATE: &str = "2026-11-25";

const DESCRIPTION: &str = "\
A session is any name you choose. At most one process at a time holds its lock, which is an exclusive flock(2) on \
one small file, and nothing else. When the holder dies, however it dies, the lock is free: there are never stale \
locks to clean up, and the lock file, which stays, means nothing while it is not locked.

Every command has `--help`. The program itself takes `--help` and `--version`.";

const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "SESSION_LOCK_DIR",
        "The directory of the lock files, an absolute path, where `--dir` names none.",
    ),
    ("SESSION_LOCK_SESSION", "For the command of `run`: the session's name."),
    ("SESSION_LOCK_PATH", "For the command of `run`: the path of the lock file."),
    (
        "SESSION_LOCK_TOKEN",
        "For the command of `run`: a number larger than that of every earlier holder of the session. Whatever the lock \
         protects can refuse a smaller one than it has seen.",
    ),
];

const FILES: [(&str, &str); 1] = [(
    "/tmp/session-lock-UID/SESSION.lock",
    "The lock file, where no other directory is named. Bytes of the name other than letters, digits, underscore, hyphen \
     and dot, and a dot at its beginning, are written as %XX. It is never deleted.",
)];

const SEE_ALSO: &str = ".BR flock (1),\n.BR flock (2),\n.BR session_lock (3),\n.BR tmpfiles.d (5)";

pub fn man() -> u8 {
    show::print(page().as_bytes(), 0)
}

/// One page for the program and all its commands.
fn page() -> String {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let commands: Vec<&Command> =
        cli.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let helps: Vec<Help> = commands.iter().map(|command| Help::of(command)).collect();

    let mut page = Page(String::new());
    let version = env!("CARGO_PKG_VERSION");
    page.line(&format!(".TH SESSION\\-LOCK 1 {DATE} \"session\\-lock {version}\""));
    page.line(".SH NAME");
    page.line("session\\-lock \\- named, crash\\-safe locks between processes");
    page.line(".SH SYNOPSIS");
    for command in &commands {
        page.synopsis(command);
    }
    page.line(".SH DESCRIPTION");
    page.text(DESCRIPTION);
    page.line(".SH COMMANDS");
    for (command, help) in commands.iter().zip(&helps) {
        page.line(&format!(".SS {}", command.get_name()));
        page.text(&format!("{}.\n\n{}", about(command), help.text));
        page.options(command);
    }
    page.line(".SH EXIT STATUS");
    for (command, help) in commands.iter().zip(&helps).filter(|(_, help)| !help.codes.is_empty()) {
        page.line(&format!(".SS {}", command.get_name()));
        for (code, meaning) in &help.codes {
            if code.is_empty() {
                page.text(&format!("{meaning}:"));
            } else {
                page.entry(code, meaning);
            }
        }
    }
    page.line(".SS The other commands");
    for (code, meaning) in
        [("0", "done"), ("2", "wrong usage"), ("125", "session-lock itself failed")]
    {
        page.entry(code, meaning);
    }
    page.line(".SH ENVIRONMENT");
    for (name, meaning) in ENVIRONMENT {
        page.entry(name, meaning);
    }
    page.line(".SH FILES");
    for (name, meaning) in FILES {
        page.entry(name, meaning);
    }
    page.line(".SH EXAMPLES");
    for line in &Help::of(&cli).examples {
        // The command, and what it does.
        let (command, meaning) = line.split_once("  ").unwrap_or((line, ""));
        page.entry(command, meaning.trim());
    }
    for (command, help) in commands.iter().zip(&helps).filter(|(_, help)| !help.examples.is_empty())
    {
        page.text(&format!("With `{}`:", command.get_name()));
        page.code(&help.examples);
    }
    page.recipes(include_str!("../guide.md"));
    page.line(".SH SEE ALSO");
    page.line(SEE_ALSO);
    page.0
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// What is said behind the options of a command: paragraphs, then "Exit codes:", then "Examples:".
#[derive(Default)]
struct Help {
    text: String,
    codes: Vec<(String, String)>,
    examples: Vec<String>,
}

impl Help {
    fn of(command: &Command) -> Help {
        let mut help = Help::default();
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let mut part = "";
        for line in text.lines() {
            let trimmed = line.trim();
            match (line, part) {
                ("Exit codes:" | "Examples:", _) => part = line,
                ("", "Exit codes:" | "Examples:") => {}
                (_, "Exit codes:") => match (trimmed.split_once("  "), help.codes.last_mut()) {
                    (Some((code, meaning)), _) => {
                        help.codes.push((code.to_owned(), meaning.to_owned()));
                    }
                    // It goes on.
                    (None, Some((_, meaning))) => meaning.extend([" ", trimmed]),
                    (None, None) => help.codes.push((String::new(), trimmed.to_owned())),
                },
                (_, "Examples:") => help.examples.push(trimmed.to_owned()),
                _ => help.text.extend([line, "\n"]),
            }
        }
        help
    }
}

/// The page so far.
struct Page(String);

/// What roff would take for its own.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('"', "\\(dq")
}

/// Words in backquotes are bold.
fn inline(text: &str) -> String {
    let mut parts = text.split('`');
    let mut line = escaped(parts.next().unwrap_or_default());
    while let (Some(bold), plain) = (parts.next(), parts.next()) {
        line.push_str(&format!("\\fB{}\\fP{}", escaped(bold), escaped(plain.unwrap_or_default())));
    }
    line
}

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// One paragraph, in lines that are not too long for an editor.
    fn fill(&mut self, text: &str) {
        let mut length = 0;
        for word in inline(text).split_whitespace() {
            if length > 0 && length + 1 + word.len() > 70 {
                self.0.push('\n');
                length = 0;
            } else if length > 0 {
                self.0.push(' ');
                length += 1;
            }
            if length == 0 && word.starts_with('.') {
                // It would be a request.
                self.0.push_str("\\&");
            }
            self.0.push_str(word);
            length += word.len();
        }
        self.0.push('\n');
    }

    /// Paragraphs.
    fn text(&mut self, text: &str) {
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            if !self.has_just_begun() {
                self.line(".P");
            }
            self.fill(paragraph);
        }
    }

    /// A section, where a paragraph begins by itself.
    fn has_just_begun(&self) -> bool {
        let last = self.0.trim_end().lines().next_back().unwrap_or_default();
        last.starts_with(".SH") || last.starts_with(".SS")
    }

    fn code<T: AsRef<str>>(&mut self, lines: &[T]) {
        if !self.has_just_begun() {
            self.line(".P");
        }
        self.line(".in +4n\n.EX");
        for line in lines {
            // A line that begins with a dot or a quote would be a request.
            self.line(&format!("\\&{}", escaped(line.as_ref())));
        }
        self.line(".EE\n.in");
    }

    /// An entry of a list.
    fn entry(&mut self, name: &str, meaning: &str) {
        self.line(&format!(".TP\n.B {}", escaped(name)));
        self.fill(meaning);
    }

    fn synopsis(&mut self, command: &Command) {
        self.line(&format!(".SY \"session\\-lock {}\"", command.get_name()));
        for arg in options(command) {
            let name = match (arg.get_short(), arg.get_long()) {
                (Some(short), _) => format!("\\-{short}"),
                (None, long) => format!("\\-\\-{}", escaped(long.unwrap_or_default())),
            };
            self.line(format!(".OP {name} {}", value(arg)).trim_end());
        }
        for arg in command.get_positionals() {
            let name = value_name(arg);
            if arg.is_trailing_var_arg_set() {
                self.line(&format!(".RB [ \\-\\- ]\n.I {name}\n.RI [ ARG ]\\.\\.\\."));
            } else {
                self.line(&format!(".I {name}"));
            }
        }
        self.line(".YS");
    }

    fn options(&mut self, command: &Command) {
        for arg in options(command) {
            let short = arg.get_short().map(|short| format!("\\fB\\-{short}\\fP"));
            let long = arg.get_long().map(|long| format!("\\fB\\-\\-{}\\fP", escaped(long)));
            let names: Vec<String> = short.into_iter().chain(long).collect();
            let value = value(arg);
            let value = if value.is_empty() { value } else { format!(" \\fI{value}\\fP") };
            self.line(&format!(".TP\n{}{value}", names.join(", ")));
            self.fill(&format!("{}.", arg.get_help().map(ToString::to_string).unwrap_or_default()));
        }
        for arg in command.get_positionals() {
            let values = arg.get_possible_values();
            let values: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
            let values =
                if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            self.line(&format!(".TP\n.I {}", value_name(arg)));
            self.fill(&format!("{help}{values}."));
        }
    }

    /// The shell recipes of `docs/guide.md`: headings, and below them blocks and paragraphs are all there
    /// is in them.
    fn recipes(&mut self, guide: &str) {
        let recipes = guide.lines().skip_while(|line| *line != "## Shell recipes").skip(1);
        let mut lines = recipes.take_while(|line| !line.starts_with("## "));
        let mut paragraph = String::new();
        while let Some(line) = lines.next() {
            if !(line.starts_with("```") || line.starts_with("### ")) {
                paragraph.extend([line, "\n"]);
                continue;
            }
            self.text(&paragraph);
            paragraph.clear();
            match line.strip_prefix("### ") {
                Some(heading) => self.line(&format!(".SS {}", escaped(heading))),
                None => {
                    let block = lines.by_ref().take_while(|line| !line.starts_with("```"));
                    self.code(&block.collect::<Vec<_>>());
                }
            }
        }
        self.text(&paragraph);
    }
}

fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let options = command.get_arguments().filter(|arg| !arg.is_positional());
    options.filter(|arg| !arg.is_hide_set() && arg.get_id() != "help")
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string)
}

/// The name of an option's value, if it has one.
fn value(arg: &Arg) -> String {
    if arg.get_action().takes_values() { value_name(arg) } else { String::new() }
}
