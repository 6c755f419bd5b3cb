//! The man page, made from the definition of the command line.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;

use crate::FAILED;
use crate::cli::Cli;
use crate::show;

pub fn man() -> u8 {
    let mut text = Vec::new();
    match render(&mut text) {
        Ok(()) => show::print(&text, 0),
        Err(error) => {
            show::complain(format_args!("{error}"));
            FAILED
        }
    }
}

/// One page for the program and all its commands.
fn render(text: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let page = Man::new(command.clone())
        .source(concat!("session-lock ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    page.render(text)?;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let mut part = Vec::new();
        let man = Man::new(command.clone());
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        man.render_extra_section(&mut part)?;
        writeln!(text, ".SH {}", command.get_bin_name().unwrap_or_default().to_uppercase())?;
        text.extend(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").bytes());
    }
    recipes(text)
}

/// The shell recipes of `docs/guide.md` as a section: headings, blocks and paragraphs are all there is in
/// them.
fn recipes(text: &mut Vec<u8>) -> io::Result<()> {
    let guide = include_str!("../guide.md").lines();
    let recipes = guide.skip_while(|line| *line != "## Shell recipes").skip(1);
    writeln!(text, ".SH RECIPES")?;
    let mut in_block = false;
    for line in recipes.take_while(|line| !line.starts_with("## ")) {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        if line.starts_with("```") {
            in_block = !in_block;
            writeln!(text, "{}", if in_block { ".PP\n.RS 4\n.nf" } else { ".fi\n.RE" })?;
        } else if in_block {
            // A line that begins with a dot or a quote would be a request.
            writeln!(text, "\\&{escaped}")?;
        } else if let Some(heading) = escaped.strip_prefix("### ") {
            writeln!(text, ".SS {heading}")?;
        } else if line.is_empty() {
            writeln!(text, ".PP")?;
        } else {
            writeln!(text, "{}", escaped.replace('`', ""))?;
        }
    }
    Ok(())
}
