//! What `make install` leaves, and what can be built with it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::installed::{Installed, make_debug, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

const FUNCTIONS: [&str; 9] =
    ["acquire", "check", "holder", "list", "path", "release", "token", "version", "wait"];

/// All files below a directory, relative to it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// What is installed, where the library's directory is `lib`.
fn expected(lib: &str) -> Vec<String> {
    let mut expected: Vec<String> = [
        "bin/session-lock",
        "include/session_lock.h",
        "lib/tmpfiles.d/session-lock.conf",
        "share/bash-completion/completions/session-lock",
        "share/fish/vendor_completions.d/session-lock.fish",
        "share/man/man1/session-lock.1",
        "share/man/man3/session_lock.3",
        "share/zsh/site-functions/_session-lock",
    ]
    .map(str::to_owned)
    .into();
    expected.extend(FUNCTIONS.map(|name| format!("share/man/man3/session_lock_{name}.3")));
    let library =
        ["a", "so", "so.0", &format!("so.{VERSION}")].map(|end| format!("libsession_lock.{end}"));
    let library = library.into_iter().chain(["pkgconfig/session_lock.pc".to_owned()]);
    expected.extend(library.map(|file| format!("{lib}/{file}")));
    expected.sort();
    expected
}

#[test]
fn the_tree_is_complete_and_of_one_version() {
    let Some(installed) = Installed::new(&["readelf"]) else { return };
    assert_eq!(files(&installed.prefix), expected("lib"));
    let lib = installed.prefix.join("lib");
    let link = |name: &str| fs::read_link(lib.join(name)).unwrap();
    assert_eq!(link("libsession_lock.so"), Path::new("libsession_lock.so.0"));
    let library = format!("libsession_lock.so.{VERSION}");
    assert_eq!(link("libsession_lock.so.0"), Path::new(&library));
    let dynamic = run(installed.command("readelf").arg("-d").arg(lib.join(&library)));
    assert!(dynamic.contains("Library soname: [libsession_lock.so.0]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    assert_eq!(installed.flags(&["--modversion"]), [VERSION]);
    let program = run(installed.command("session-lock").arg("--version"));
    assert_eq!(program, format!("session-lock {VERSION}\n"));
}

#[test]
fn the_library_exports_its_functions_and_nothing_else() {
    let Some(installed) = Installed::new(&["nm"]) else { return };
    let library = installed.prefix.join("lib/libsession_lock.so");
    let symbols = run(installed
        .command("nm")
        .args(["-D", "--defined-only", "--format=just-symbols"])
        .arg(library));
    let expected = FUNCTIONS.map(|name| format!("session_lock_{name}"));
    assert_eq!(symbols.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_release_build_is_small() {
    let Some(prefix) = std::env::var_os("SESSION_LOCK_INSTALLED").map(PathBuf::from) else {
        return eprintln!("skipped: only for SESSION_LOCK_INSTALLED");
    };
    let size = fs::metadata(prefix.join("lib/libsession_lock.so")).unwrap().len();
    assert!(size <= 400 * 1024, "{size}");
}

#[test]
fn every_compiler_takes_the_header_and_the_library() {
    let Some(installed) = Installed::new(&[]) else { return };
    let source = support::root().join("tests/installed/program.c");
    for (compiler, options) in [
        ("gcc", &["-std=c11"][..]),
        ("clang", &["-std=c11"]),
        ("g++", &["-std=c++11", "-x", "c++"]),
        ("clang++", &["-std=c++17", "-x", "c++"]),
    ] {
        if !support::have(compiler) {
            continue;
        }
        let program = installed.compile(compiler, &source, options);
        assert_eq!(run(&mut installed.command(&program)), format!("{VERSION}\n"), "{compiler}");
        let needed = run(installed.command("readelf").arg("-d").arg(&program));
        assert!(needed.contains("Shared library: [libsession_lock.so.0]"), "{needed}");
    }
}

#[test]
fn the_example_of_the_manual_page_works() {
    let Some(installed) = Installed::new(&[]) else { return };
    let source = support::root().join("man/example.c");
    let program = installed.compile("gcc", &source, &["-std=c11"]);
    assert_eq!(run(&mut installed.command(&program)), "At most one process is here.\n");
    let mut locked = installed.command("session-lock");
    let output = locked.args(["run", "nightly-build"]).arg(program).output().unwrap();
    // The wait would never end: it is the command of the holder.
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "nightly-build: Resource deadlock avoided\n");
}

#[test]
fn a_static_program_needs_no_library() {
    let Some(installed) = Installed::new(&[]) else { return };
    let source = support::root().join("tests/installed/program.c");
    let flags = installed.flags(&["--static", "--cflags", "--libs"]);
    // All of the program, and this library only.
    let this_only = ["-Wl,-Bstatic", "-lsession_lock", "-Wl,-Bdynamic"].map(str::to_owned);
    let all: Vec<_> = flags.iter().cloned().chain(["-static".to_owned()]).collect();
    let this = flags.iter().flat_map(|flag| match flag.as_str() {
        "-lsession_lock" => this_only.to_vec(),
        _ => vec![flag.clone()],
    });
    for flags in [all, this.collect()] {
        let program = installed.scratch.path().join("static");
        run(installed.command("cc").arg(&source).args(&flags).arg("-o").arg(&program));
        let mut alone = installed.command(&program);
        assert_eq!(run(alone.env_remove("LD_LIBRARY_PATH")), format!("{VERSION}\n"), "{flags:?}");
    }
}

#[test]
fn the_manual_pages_are_found_by_their_names() {
    let Some(installed) = Installed::new(&["man"]) else { return };
    let pages = installed.prefix.join("share/man");
    let man = |name: &str| {
        let mut man = installed.command("man");
        man.args(["--warnings", "-M"]).arg(&pages).arg(name);
        let output = man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(man("session-lock").contains("--timeout"));
    for function in FUNCTIONS {
        assert!(man(&format!("session_lock_{function}")).contains("SESSION_LOCK(3)"), "{function}");
    }
}

/// The completions are where the shells look for them.
#[test]
fn the_shells_find_their_completions() {
    let Some(installed) = Installed::new(&[]) else { return };
    let share = installed.prefix.join("share");
    let shell = |shell: &str, arguments: &[&str], script: &str| {
        let mut command = installed.command(shell);
        let home = installed.scratch.path();
        command.env("HOME", home).env("XDG_CONFIG_HOME", home).env("XDG_DATA_DIRS", &share);
        run(command.args(arguments).args(["-c", script]).current_dir(home))
    };
    let bash_completion = "/usr/share/bash-completion/bash_completion";
    if fs::exists(bash_completion).unwrap() {
        let script = format!(
            ". {bash_completion}; _completion_loader session-lock; complete -p session-lock"
        );
        assert!(shell("bash", &["--norc"], &script).starts_with("complete -F _session_lock "));
    } else {
        support::skip("bash-completion is not installed");
    }
    if support::have("zsh") {
        let script = format!(
            "fpath=({}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -d dump; \
            echo $_comps[session-lock]",
            share.display()
        );
        assert_eq!(shell("zsh", &["-f"], &script), "_session-lock\n");
    }
    if support::have("fish") {
        assert!(shell("fish", &[], "complete -C 'session-lock ru'").starts_with("run\t"));
    }
}

#[test]
fn the_gnu_variables_are_obeyed_and_uninstalling_leaves_nothing() {
    let Some(installed) = Installed::new(&[]) else { return };
    let root = installed.scratch.path().join("root");
    let make = |target| {
        let mut make = make_debug(target, Path::new("/usr"));
        run(make.arg(format!("DESTDIR={}", root.display())).arg("LIBDIR=/usr/lib64"));
    };
    make("install");
    assert_eq!(files(&root.join("usr")), expected("lib64"));
    let pc = fs::read_to_string(root.join("usr/lib64/pkgconfig/session_lock.pc")).unwrap();
    assert!(pc.contains("prefix=/usr\n") && pc.contains("libdir=/usr/lib64\n"), "{pc}");
    make("uninstall");
    assert_eq!(files(&root), [""; 0]);
}

/// What `make install` prints is enough to compile and run a program; afterwards nothing is left, not even a
/// directory.
#[test]
fn in_a_prefix_of_ones_own_two_lines_say_how_to_use_it() {
    let Some(installed) = Installed::new(&[]) else { return };
    let prefix = installed.scratch.path().join("own");
    let told = run(&mut make_debug("install", &prefix));
    let lines: Vec<_> = told.lines().filter(|line| line.contains("export ")).collect();
    let [to_compile, to_run] = lines[..] else { panic!("{told}") };
    let export = |line: &str| line.split("    ").next().unwrap().trim().to_owned();
    let rpath = to_compile.split_whitespace().last().unwrap();
    let source = support::root().join("tests/installed/program.c");
    let script = format!(
        "set -e; {0}
        cc '{2}' $(pkg-config --cflags --libs session_lock) {rpath} -o with; ./with
        cc '{2}' $(pkg-config --cflags --libs session_lock) -o without
        if ./without 2>/dev/null; then exit 1; fi
        {1}; ./without",
        export(to_compile),
        export(to_run),
        source.display()
    );
    let mut sh = Command::new("sh");
    sh.env_remove("LD_LIBRARY_PATH").env_remove("PKG_CONFIG_PATH");
    let told = run(sh.args(["-c", &script]).current_dir(installed.scratch.path()));
    assert_eq!(told, format!("{VERSION}\n{VERSION}\n"));
    run(&mut make_debug("uninstall", &prefix));
    assert_eq!(fs::read_dir(prefix).unwrap().count(), 0);
}

#[test]
fn cmake_finds_it_by_pkg_config() {
    let Some(installed) = Installed::new(&["cmake"]) else { return };
    let project = installed.scratch.path().join("project");
    fs::create_dir(&project).unwrap();
    fs::copy(support::root().join("tests/installed/program.c"), project.join("program.c")).unwrap();
    fs::write(
        project.join("CMakeLists.txt"),
        "cmake_minimum_required(VERSION 3.18)
        project(program C)
        find_package(PkgConfig REQUIRED)
        pkg_check_modules(SESSION_LOCK REQUIRED IMPORTED_TARGET session_lock)
        add_executable(program program.c)
        target_link_libraries(program PkgConfig::SESSION_LOCK)",
    )
    .unwrap();
    run(installed.command("cmake").args(["-S", ".", "-B", "build"]).current_dir(&project));
    run(installed.command("cmake").args(["--build", "build"]).current_dir(&project));
    let program = project.join("build/program");
    // Its path is in the program.
    assert_eq!(
        run(installed.command(program).env_remove("LD_LIBRARY_PATH")),
        format!("{VERSION}\n")
    );
}
