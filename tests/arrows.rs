//! The modules of the library use only those below them: the map in `src/lib.rs` is true, and there is
//! no circle.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name)
}

/// The modules of the map, the topmost first.
fn map() -> Vec<String> {
    let text = fs::read_to_string(source("lib.rs")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("//   "));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The files of a module: `name.rs`, or all in `name/`.
fn files(module: &str) -> Vec<PathBuf> {
    let file = source(&format!("{module}.rs"));
    if file.is_file() {
        return vec![file];
    }
    let entries = fs::read_dir(source(module)).unwrap_or_else(|_| panic!("no module {module}"));
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The modules that a text names as `crate::module`, in whatever way; those in `#[cfg(test)]` do not
/// count.
fn used(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.flat_map(|line| [line, " "]).collect();
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        for name in group.unwrap_or(rest).split(',') {
            let name = name.trim().split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
            used.insert(name.unwrap().to_owned());
            if group.is_none() {
                break;
            }
        }
    }
    used
}

/// What is wrong with the modules' texts, given from the topmost to the lowest.
fn faults(modules: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (place, (module, text)) in modules.iter().enumerate() {
        for other in used(text) {
            match modules.iter().position(|(name, _)| *name == other) {
                Some(below) if below > place => {}
                Some(same) if same == place => {}
                Some(_) => faults.push(format!("{module} uses {other}, which is above it")),
                None => faults.push(format!("{module} uses {other}, which is not in the map")),
            }
        }
    }
    faults
}

fn modules() -> Vec<(String, String)> {
    let text = |module: &String| {
        files(module).iter().map(|file| fs::read_to_string(file).unwrap()).collect::<String>()
    };
    map().into_iter().map(|module| (module.clone(), text(&module))).collect()
}

#[test]
fn every_module_uses_only_those_below_it() {
    let modules = modules();
    assert!(modules.len() > 10, "the map of src/lib.rs is not found");
    assert_eq!(faults(&modules), [""; 0]);
}

#[test]
fn an_arrow_that_is_turned_around_is_found() {
    let mut modules = modules();
    let (lowest, text) = modules.last_mut().unwrap();
    assert_eq!(lowest, "sys");
    text.insert_str(0, "use crate::{error::Error, lock::{SessionLock}};\n");
    assert_eq!(faults(&modules).len(), 2);
}

#[test]
fn every_module_is_in_the_map() {
    let text = fs::read_to_string(source("lib.rs"))
        .unwrap()
        .replace("mod testing;", "")
        .replace("pub mod fuzzing;", "");
    let module = |line: &str| line.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned);
    let declared = text.lines().filter_map(|line| module(line.trim_start_matches("pub ")));
    let declared: BTreeSet<String> = declared.collect();
    assert_eq!(declared, map().into_iter().collect());
}
