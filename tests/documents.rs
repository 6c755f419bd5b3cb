//! The header is the manual; the page session_lock(3) is made of it, and the other descriptions of
//! what can be returned agree with it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_default()
}

// ---------------------------------------------------------------------------------- the header

/// A declaration of the header and the comment in front of it.
struct Item {
    doc: Vec<String>,
    code: String,
}

impl Item {
    /// Of a function: `session_lock_acquire`.
    fn function(&self) -> Option<&str> {
        let (before, _) = self.code.split_once('(')?;
        before.split([' ', '*']).next_back()
    }

    /// The part of the comment that `@tag` begins, or the one before all tags.
    fn part(&self, tag: &str) -> Vec<&str> {
        let mut current = "";
        let mut lines = Vec::new();
        for line in &self.doc {
            let mut rest = line.as_str();
            if let Some(tagged) = line.strip_prefix('@') {
                (current, rest) = tagged.split_once(' ').unwrap();
            }
            if current == tag {
                lines.push(rest);
            }
        }
        lines
    }
}

fn items(header: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut lines = header.lines();
    while let Some(line) = lines.next() {
        if line != "/**" {
            continue;
        }
        let doc = lines.by_ref().take_while(|line| *line != " */");
        let doc = doc.map(|line| line[2..].strip_prefix(' ').unwrap_or("").to_owned()).collect();
        let mut code = String::new();
        for line in lines.by_ref() {
            code.push_str(line);
            code.push('\n');
            let ends = line.ends_with(';') && !code.contains('{') || line == "};";
            if ends {
                break;
            }
        }
        items.push(Item { doc, code });
    }
    items
}

/// The text of the comment that the header begins with, from one line to another.
fn introduction(header: &str) -> Vec<&str> {
    let lines = header.lines().skip_while(|line| !line.starts_with(" * How it works"));
    let lines = lines.take_while(|line| *line != " */");
    lines.map(|line| line[2..].strip_prefix(' ').unwrap_or("")).collect()
}

// ------------------------------------------------------------------------------------- the page

/// Escapes what roff would take for its own.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// Running text: paragraphs, `- ` lists, and lists of `-ENAME   meaning`.
fn text(page: &mut String, lines: &[&str]) {
    // The column of the entry that the line belongs to.
    let mut entry = None;
    for line in lines {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        let number = line.split_once("  ").filter(|(name, _)| name.starts_with("-E"));
        if let Some((name, meaning)) = number {
            writeln!(page, ".TP\n.B \\{name}\n{}", roff(meaning.trim())).unwrap();
            entry = Some(indent);
        } else if let Some(point) = line.strip_prefix("- ") {
            writeln!(page, ".IP \\(bu 2\n{}", roff(point)).unwrap();
            entry = Some(indent);
        } else if line.is_empty() {
            page.push_str(".P\n");
            entry = None;
        } else {
            if entry.is_some_and(|column| indent <= column) {
                page.push_str(".P\n");
                entry = None;
            }
            writeln!(page, "{}", roff(line)).unwrap();
        }
    }
}

fn code(page: &mut String, code: &str) {
    writeln!(page, ".EX").unwrap();
    for line in code.lines() {
        writeln!(page, "{}", roff(line)).unwrap();
    }
    writeln!(page, ".EE").unwrap();
}

fn function(page: &mut String, name: &str, item: &Item) {
    writeln!(page, ".SS {name}()").unwrap();
    let mut description = item.part("");
    while description.last().is_some_and(|line| line.is_empty()) {
        description.pop();
    }
    text(page, &description);
    let mut parameter = false;
    for line in item.part("param") {
        let trimmed = line.trim_start();
        match trimmed.split_once(' ').filter(|_| !line.starts_with(' ')) {
            Some((name, text)) => {
                writeln!(page, ".TP\n.I {name}\n{}", roff(text.trim())).unwrap();
                parameter = true;
            }
            None if parameter && !trimmed.is_empty() => {
                writeln!(page, "{}", roff(trimmed)).unwrap();
            }
            None => {}
        }
    }
    let returned = item.part("return");
    if !returned.is_empty() {
        page.push_str(".P\nReturns\n");
        let end = returned.iter().rposition(|line| !line.is_empty()).unwrap();
        text(page, &returned[..=end]);
    }
    for (tag, title) in
        [("threads", "Threads"), ("blocking", "Blocking"), ("fork/exec", "Fork and exec")]
    {
        let lines = item.part(tag);
        if !lines.is_empty() {
            writeln!(page, ".P\n.IR {} :", title.replace(' ', "\\ ")).unwrap();
            text(page, &lines.iter().map(|line| line.trim()).collect::<Vec<_>>());
        }
    }
}

fn page(header: &str) -> String {
    let items = items(header);
    let functions: Vec<_> = items.iter().filter_map(|i| Some((i.function()?, i))).collect();
    let names: Vec<_> = functions.iter().map(|(name, _)| *name).collect();
    let mut page = String::from(
        ".\\\" Generated from include/session_lock.h by `cargo test --test documents`: change it there.\n",
    );
    writeln!(page, ".TH SESSION_LOCK 3 \"\" \"session\\-lock {}\"", env!("CARGO_PKG_VERSION"))
        .unwrap();
    writeln!(
        page,
        ".SH NAME\n{} \\- at most one process at a time works on a session",
        names.join(", ")
    )
    .unwrap();
    page.push_str(
        ".SH LIBRARY\nSession lock\n.RI ( libsession_lock ,\\~ \\-lsession_lock )\n\
         .SH SYNOPSIS\n.nf\n.B #include <session_lock.h>\n.P\n",
    );
    for item in &items {
        if item.code.starts_with("typedef") || item.function().is_some() {
            for line in item.code.lines() {
                writeln!(page, ".BI \"{}\"", roff(line)).unwrap();
            }
        }
    }
    page.push_str(".fi\n.SH DESCRIPTION\n");
    page.push_str(
        "A session\\(aqs lock is an exclusive\n.BR flock (2)\non one small file,\n\
         .IR <dir>/<session>.lock ,\nand nothing else.\n.P\n",
    );
    text(&mut page, &introduction(header));
    page.push_str(".SH FUNCTIONS\n");
    for (name, item) in &functions {
        function(&mut page, name, item);
    }
    page.push_str(".SH TYPES\n");
    for item in &items {
        if item.code.contains('{') {
            code(&mut page, &item.code);
        }
    }
    page.push_str(
        ".SH ENVIRONMENT\n.TP\n.B SESSION_LOCK_DIR\nThe directory of the lock files where\n.I dir\n\
         is NULL: an absolute path. Refused (EPERM) in a program with raised privileges.\n\
         .SH FILES\n.TP\n.I /tmp/session\\-lock\\-<effective uid>/<session>.lock\n\
         The lock file: never deleted.\n\
         .SH SEE ALSO\n.BR session\\-lock (1),\n.BR flock (1),\n.BR flock (2),\n.BR proc_locks (5)\n",
    );
    page
}

#[test]
fn the_manual_page_is_what_the_header_says() {
    let page = page(&read("include/session_lock.h"));
    if std::env::var_os("UPDATE_MAN").is_some() {
        fs::write(file("man/session_lock.3"), &page).unwrap();
    }
    assert!(
        read("man/session_lock.3") == page,
        "man/session_lock.3 is not what include/session_lock.h gives; to bring it up to date:\n\n    \
         UPDATE_MAN=1 cargo test --test documents\n"
    );
}

#[test]
fn the_manual_page_is_good_roff() {
    if !support::have("man") {
        return;
    }
    let mut man = Command::new("man");
    man.args(["--warnings", "--local-file"]).arg(file("man/session_lock.3"));
    let output = man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    for word in
        ["NAME", "-EWOULDBLOCK", "another holder has it", "int session_lock_path(", "SEE ALSO"]
    {
        assert!(text.contains(word), "{word}");
    }
}

// ---------------------------------------------------------------------------------- the numbers

/// What is returned by which function: the contract.
const RETURNED: [(&str, &[&str]); 14] = [
    ("EWOULDBLOCK", &["acquire"]),
    ("ETIMEDOUT", &["wait"]),
    ("ECANCELED", &["wait"]),
    ("EINTR", &["wait"]),
    ("EDEADLK", &["wait"]),
    ("EINVAL", &["acquire", "wait", "token", "holder", "list", "path"]),
    ("ENAMETOOLONG", &["acquire", "wait", "holder", "path"]),
    ("EBADF", &["check", "release", "token"]),
    ("EPERM", &["acquire", "check", "holder", "list", "path", "release", "token", "wait"]),
    ("ELOOP", &["acquire", "wait", "holder"]),
    ("ESTALE", &["check", "release", "token"]),
    ("ENODATA", &["token"]),
    ("ERANGE", &["path"]),
    ("ENOTRECOVERABLE", &[]),
];

/// The names of error numbers in a text.
fn numbers(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_number = |word: &&str| {
        word.len() > 3 && word.starts_with('E') && word.chars().all(|c| c.is_ascii_uppercase())
    };
    words.filter(is_number).map(str::to_owned).collect()
}

#[test]
fn the_header_returns_what_the_contract_says() {
    let header = read("include/session_lock.h");
    let items = items(&header);
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for item in &items {
        let Some(name) = item.function().and_then(|name| name.strip_prefix("session_lock_")) else {
            continue;
        };
        let text = item.part("return").join(" ");
        // Examples of what a system call may say, and what is left out of another function's list.
        let own = text.split("or the errno of").next().unwrap();
        let (own, reference) = own.split_once("or as session_lock_").unwrap_or((own, ""));
        found.insert(name, numbers(own));
        if !reference.is_empty() {
            let (other, except) = reference.split_once("()").unwrap();
            let except = numbers(except.split(';').next().unwrap().split('.').next().unwrap());
            let inherited: Vec<_> = found[other].difference(&except).cloned().collect();
            found.get_mut(name).unwrap().extend(inherited);
        }
    }
    for (number, functions) in RETURNED {
        let by: BTreeSet<_> =
            found.iter().filter(|(_, set)| set.contains(number)).map(|(name, _)| *name).collect();
        assert_eq!(by, functions.iter().copied().collect(), "{number}");
        assert!(header.contains(&format!("-{number}")), "{number}");
    }
    let known: BTreeSet<_> = RETURNED.iter().map(|(number, _)| (*number).to_owned()).collect();
    for (function, numbers) in found {
        assert!(numbers.is_subset(&known), "{function}: {numbers:?}");
    }
}

#[test]
fn the_rust_error_names_the_same_numbers() {
    let source = read("src/error.rs");
    let documented: String = source.lines().filter(|line| line.contains("///")).collect();
    // Only the C functions have a buffer that can be too small, or a panic to hide.
    let rust = |number: &&str| !["ERANGE", "ENOTRECOVERABLE"].contains(number);
    let expected = RETURNED.iter().map(|(number, _)| *number).filter(rust).map(str::to_owned);
    assert_eq!(numbers(&documented), expected.collect());
}

/// Rows like ``| `-EWOULDBLOCK` | acquire | ... |``, if the README has any.
#[test]
fn a_table_in_the_readme_says_the_same() {
    for row in read("README.md").lines().filter(|line| line.starts_with("| `-E")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let number = cells[0].trim_matches(['`', '-']);
        let functions = RETURNED.iter().find(|(known, _)| *known == number);
        let (_, functions) = functions.unwrap_or_else(|| panic!("no such number: {row}"));
        let by: Vec<_> = cells[1].split(", ").collect();
        let all = by.iter().any(|by| by.starts_with("all"));
        assert!(all || by.iter().all(|by| functions.contains(by)), "{row}");
    }
}

// ------------------------------------------------------------------------------------- the links

/// What the pages on GitHub and elsewhere make of a heading: `## May I?` is `#may-i`.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The lines of a page that are not in a block of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    page.lines().filter(move |line| {
        in_block ^= line.starts_with("```");
        !in_block
    })
}

fn anchors(page: &str) -> BTreeSet<String> {
    prose(page)
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// The targets of the links of a page: `[text](target)`.
fn links(page: &str) -> Vec<&str> {
    prose(page)
        .flat_map(|line| line.split("](").skip(1))
        .map(|rest| rest.split(')').next().unwrap())
        .collect()
}

/// A page that is still to be written.
const TO_COME: &str = "docs/more-than-one-machine.md";

/// Every page is reached from the README, and no link leads nowhere.
#[test]
fn every_link_leads_somewhere_and_every_page_is_linked() {
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from("README.md")];
    while let Some(page) = next.pop() {
        if !reached.insert(page.clone()) {
            continue;
        }
        let text = read(page.to_str().unwrap());
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            // As the file system has it: `docs/../benches` is `benches`.
            let mut target = page.parent().unwrap().to_path_buf();
            for part in path.split('/') {
                if part == ".." {
                    target.pop();
                } else {
                    target.push(part);
                }
            }
            let target = if path.is_empty() { page.clone() } else { target };
            if target == Path::new(TO_COME) {
                continue;
            }
            assert!(file(target.to_str().unwrap()).exists(), "{}: {link}", page.display());
            if target.extension().is_some_and(|extension| extension == "md") {
                let headings = anchors(&read(target.to_str().unwrap()));
                assert!(
                    fragment.is_empty() || headings.contains(fragment),
                    "{}: {link}",
                    page.display()
                );
                next.push(target);
            }
        }
    }
    for page in fs::read_dir(file("docs")).unwrap() {
        let page = PathBuf::from("docs").join(page.unwrap().file_name());
        assert!(reached.contains(&page), "no link to {}", page.display());
    }
}

// ------------------------------------------------------------------------------------ the spelling

/// In every text of the project, comments, messages and help included: `.codespellrc` says what is left out.
#[test]
fn nothing_is_misspelt() {
    if !support::have("codespell") {
        return;
    }
    let output = Command::new("codespell").current_dir(file("")).output().unwrap();
    assert!(output.status.success(), "\n{}", String::from_utf8_lossy(&output.stdout));
}
