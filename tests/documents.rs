//! The header is the manual; the page session_lock(3) is made of it, and the other descriptions of
//! what can be returned agree with it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
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
        let name = before.split([' ', '*']).next_back()?;
        // Not a struct with a parenthesis in a comment, nor the type of a pointer.
        (!self.code.contains('{') && !name.is_empty()).then_some(name)
    }

    /// Of a struct or an enum: its members, each with its comment.
    fn members(&self) -> Vec<(String, String)> {
        let (mut members, mut doc) = (Vec::new(), String::new());
        for line in self.code.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("* ") {
                doc.push_str(text);
                doc.push(' ');
            } else if !doc.is_empty() && line != "*/" {
                let name = line.trim_end_matches([',', ';']).split(" = ").next().unwrap();
                let name = name.split(' ').next_back().unwrap().split('[').next().unwrap();
                members.push((name.to_owned(), std::mem::take(&mut doc)));
            }
        }
        members
    }

    /// The declaration without comments.
    fn bare(&self) -> String {
        let lines = self.code.lines().filter(|line| !line.trim_start().starts_with(['/', '*']));
        lines.map(|line| format!("{}\n", line.replacen("  ", "    ", 1))).collect()
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

/// One paragraph, in lines that are not too long for an editor.
fn fill(page: &mut String, text: &str) {
    let mut length = 0;
    for word in text.split_whitespace() {
        // A dot at the beginning of a line would be a request.
        let word = roff(word);
        if length > 0 && length + 1 + word.len() > 76 {
            page.push('\n');
            length = 0;
        } else if length > 0 {
            page.push(' ');
            length += 1;
        }
        page.push_str(&word);
        length += word.len();
    }
    page.push('\n');
}

/// Running text: paragraphs, `- ` lists, and lists of `-ENAME   meaning`.
fn text(page: &mut String, lines: &[&str]) {
    // What has not been written yet, and the column of the entry that it belongs to.
    let mut paragraph = String::new();
    let mut entry = None;
    let flush = |page: &mut String, paragraph: &mut String| {
        if !paragraph.is_empty() {
            fill(page, paragraph);
        }
        paragraph.clear();
    };
    let mut begins = false;
    for line in lines {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        let number = line.split_once("  ").filter(|(name, _)| name.starts_with("-E"));
        let point = line.strip_prefix("- ");
        let continues = number.is_none() && point.is_none() && !line.is_empty();
        let leaves = continues && entry.is_some_and(|column| indent <= column);
        if !continues || leaves {
            flush(page, &mut paragraph);
        }
        if let Some((name, meaning)) = number {
            writeln!(page, ".TP\n.B \\{name}").unwrap();
            paragraph.push_str(meaning);
            entry = Some(indent);
            begins = false;
        } else if let Some(point) = point {
            page.push_str(".IP \\(bu 2\n");
            paragraph.push_str(point);
            entry = Some(indent);
            begins = false;
        } else if line.is_empty() || leaves {
            // The macro waits until there is a paragraph to begin.
            begins = true;
            entry = None;
        }
        if continues {
            if begins {
                page.push_str(".P\n");
                begins = false;
            }
            paragraph.push(' ');
            paragraph.push_str(line);
        }
    }
    flush(page, &mut paragraph);
}

/// An example, or a declaration.
fn code(page: &mut String, code: &str) {
    writeln!(page, ".P\n.in +4n\n.EX").unwrap();
    for line in code.lines() {
        writeln!(page, "{}", roff(line)).unwrap();
    }
    writeln!(page, ".EE\n.in").unwrap();
}

fn function(page: &mut String, name: &str, item: &Item) {
    writeln!(page, ".SS {name}()").unwrap();
    let mut description = item.part("");
    while description.last().is_some_and(|line| line.is_empty()) {
        description.pop();
    }
    text(page, &description);
    let mut parameters: Vec<(&str, String)> = Vec::new();
    for line in item.part("param") {
        let trimmed = line.trim_start();
        match trimmed.split_once(' ').filter(|_| !line.starts_with(' ')) {
            Some((name, text)) => {
                parameters.push((name, text.trim().to_owned()));
            }
            None => {
                if let Some((_, text)) = parameters.last_mut() {
                    write!(text, " {trimmed}").unwrap();
                }
            }
        }
    }
    for (name, text) in parameters {
        writeln!(page, ".TP\n.I {name}").unwrap();
        fill(page, &text);
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
            writeln!(page, ".TP\n.IR {} :", title.replace(' ', "\\ ")).unwrap();
            text(page, &lines.iter().map(|line| line.trim()).collect::<Vec<_>>());
        }
    }
}

/// When the page was last changed in more than words.
const DATE: &str = "2026-11-25";

fn page(header: &str) -> String {
    let items = items(header);
    let functions: Vec<_> = items.iter().filter_map(|i| Some((i.function()?, i))).collect();
    let names: Vec<_> = functions.iter().map(|(name, _)| *name).collect();
    let mut page = String::from(
        "'\\\" t\n\
         .\\\" Generated from include/session_lock.h by `cargo test --test documents`: change it there.\n",
    );
    writeln!(page, ".TH SESSION_LOCK 3 {DATE} \"session\\-lock {}\"", env!("CARGO_PKG_VERSION"))
        .unwrap();
    writeln!(
        page,
        ".SH NAME\n{} \\- named, crash\\-safe locks between processes",
        names.join(",\n")
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
    for (name, item) in &functions {
        function(&mut page, name, item);
    }
    page.push_str(".SS Types\n");
    for item in &items {
        let members = item.members();
        if !members.is_empty() {
            fill(&mut page, &item.part("").join(" "));
            code(&mut page, &item.bare());
            for (name, text) in members {
                writeln!(page, ".TP\n.I {name}").unwrap();
                fill(&mut page, &text);
            }
            page.push_str(".P\n");
        } else if item.code.contains("(*") {
            let code = item.code.split(['*', ')']).nth(1).unwrap();
            writeln!(page, ".I {code}\nis a function.").unwrap();
            fill(&mut page, &item.part("").join(" "));
            let returned = item.part("return").join(" ");
            fill(&mut page, &format!("It returns {}", returned.trim()));
            page.push_str(".P\n");
        }
    }
    page.truncate(page.len() - ".P\n".len());
    page.push_str(
        ".SH RETURN VALUE\nEvery function but\n.BR session_lock_version ()\nreturns 0, or a negative\n\
         error number, and does not set\n.IR errno .\n.SH ERRORS\n\
         The description of each function says when it returns which.\n",
    );
    for (number, by, meaning) in RETURNED {
        let by: Vec<_> = by.iter().map(|name| format!("session_lock_{name}()")).collect();
        let by = if by.is_empty() { "all".to_owned() } else { by.join(", ") };
        writeln!(page, ".TP\n.B \\-{number}").unwrap();
        fill(&mut page, &format!("{meaning} ({by})"));
    }
    page.push_str(
        ".TP\n.I others\nThe error of the system call that failed.\n\
         .SH ENVIRONMENT\n.TP\n.B SESSION_LOCK_DIR\nThe directory of the lock files where\n.I dir\n\
         is NULL: an absolute path.\nRefused (EPERM) in a program with raised privileges.\n\
         .SH FILES\n.TP\n.I /tmp/session\\-lock\\-<effective uid>/<session>.lock\n\
         The lock file: never deleted.\n",
    );
    attributes(&mut page, &functions);
    page.push_str(&read("man/notes.roff"));
    page.push_str(
        ".SH EXAMPLES\nThe program waits for its turn, and says who has kept it waiting.\n",
    );
    code(&mut page, &read("man/example.c"));
    page.push_str(&read("man/compile.roff"));
    page.push_str(
        ".SH SEE ALSO\n.BR session\\-lock (1),\n.BR flock (1),\n.BR flock (2),\n.BR proc_locks (5),\n\
         .BR attributes (7)\n",
    );
    page
}

/// What may be called from where, in the form of attributes(7).
fn attributes(page: &mut String, functions: &[(&str, &Item)]) {
    page.push_str(
        ".SH ATTRIBUTES\nFor an explanation of the terms used in this section, see\n\
         .BR attributes (7).\n.TS\nallbox;\nlb lb lb\nl l l.\n\
         Interface\tThread safety\tAsync\\-signal safety\n",
    );
    for (name, item) in functions {
        let threads = item.part("threads").join(" ");
        assert!(threads.trim().starts_with("From any thread"), "{name}: {threads}");
        let from_handlers = if threads.contains("Not from a signal handler") {
            "AS\\-Unsafe"
        } else {
            assert!(threads.contains("and from a signal handler"), "{name}: {threads}");
            "AS\\-Safe"
        };
        writeln!(page, "{name}()\tMT\\-Safe\t{from_handlers}").unwrap();
    }
    page.push_str(".TE\n");
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
    if !support::have("man") || !support::have("mandoc") {
        return;
    }
    let page = file("man/session_lock.3");
    let mut man = Command::new("man");
    man.args(["--warnings", "--local-file"]).arg(&page);
    let output = man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    for word in
        ["NAME", "-EWOULDBLOCK", "another holder has it", "int session_lock_path(", "SEE ALSO"]
    {
        assert!(text.contains(word), "{word}");
    }
    let lint = Command::new("mandoc").args(["-T", "lint"]).arg(page).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&lint.stdout), "");
}

// ---------------------------------------------------------------------------------- the numbers

/// What is returned by which function: the contract.
const RETURNED: [(&str, &[&str], &str); 14] = [
    ("EWOULDBLOCK", &["acquire"], "Another holder has the lock."),
    ("ETIMEDOUT", &["wait"], "The time ran out."),
    ("ECANCELED", &["wait"], "cancel_fd became readable or was hung up."),
    ("EINTR", &["wait"], "A signal handler ran."),
    ("EDEADLK", &["wait"], "The wait could never end."),
    (
        "EINVAL",
        &["acquire", "wait", "token", "holder", "list", "path"],
        "An argument makes no sense.",
    ),
    (
        "ENAMETOOLONG",
        &["acquire", "wait", "holder", "path"],
        "The name of the lock file would be too long.",
    ),
    ("EBADF", &["check", "release", "token"], "There is no such handle."),
    (
        "EPERM",
        &["acquire", "check", "holder", "list", "path", "release", "token", "wait"],
        "The directory or the file is not safe to trust; or the handle is that of the process that this one \
         was forked from.",
    ),
    ("ELOOP", &["acquire", "wait", "holder"], "The lock file is a symbolic link."),
    (
        "ESTALE",
        &["check", "release", "token"],
        "The path no longer names the file that was locked, or the lock was lost: somebody else may hold it.",
    ),
    ("ENODATA", &["token"], "There is no token."),
    ("ERANGE", &["path"], "The buffer is too small."),
    ("ENOTRECOVERABLE", &[], "Something inside the library failed that should be impossible."),
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
    for (number, functions, _) in RETURNED {
        let by: BTreeSet<_> =
            found.iter().filter(|(_, set)| set.contains(number)).map(|(name, _)| *name).collect();
        assert_eq!(by, functions.iter().copied().collect(), "{number}");
        assert!(header.contains(&format!("-{number}")), "{number}");
    }
    let known: BTreeSet<_> = RETURNED.iter().map(|(number, ..)| (*number).to_owned()).collect();
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
    let expected = RETURNED.iter().map(|(number, ..)| *number).filter(rust).map(str::to_owned);
    assert_eq!(numbers(&documented), expected.collect());
}

/// Rows like ``| `-EWOULDBLOCK` | acquire | ... |``, if the README has any.
#[test]
fn a_table_in_the_readme_says_the_same() {
    for row in read("README.md").lines().filter(|line| line.starts_with("| `-E")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let number = cells[0].trim_matches(['`', '-']);
        let functions = RETURNED.iter().find(|(known, ..)| *known == number);
        let (_, functions, _) = functions.unwrap_or_else(|| panic!("no such number: {row}"));
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
