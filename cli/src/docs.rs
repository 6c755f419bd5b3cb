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
    Ok(())
}
