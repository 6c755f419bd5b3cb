//! The C programs in `c-tests/`, each of which is one claim and one test here: built with strict
//! warnings, linked with the shared library, and run; by themselves, under valgrind, and with the
//! sanitizers (which see the C programs and the calls into libc; the library itself is not
//! instrumented).
//!
//! `SESSION_LOCK_LONG=1` repeats everything more often, and runs what takes long.

mod support;

use std::fs;
use std::time::Instant;

use support::bindfs::Bindfs;
use support::c::{self, Program, Report, Tool};

// ----------------------------------------------------------------------------------- the programs

/// A test for each program: its name with underscores.
macro_rules! claims {
    ($($claim:ident)*) => {
        const CLAIMS: &[&str] = &[$(stringify!($claim)),*];
        $(#[test] fn $claim() { holds(stringify!($claim)); })*
    };
}

claims! {
    cancel_fd_ends_the_wait
    cancelled_thread_loses_nothing
    change_of_credentials_ends_no_wait
    child_with_its_parents_descriptors_cannot_touch_the_lock
    closed_descriptor_is_stale
    closed_descriptors_end_a_wait
    dead_holders_label_misleads_nobody
    dead_parents_lock_is_free_while_its_child_lives
    deleted_file_is_stale
    dlclose_leaves_the_library_mapped
    endless_wait_for_ones_own_lock_is_a_deadlock
    every_error_is_the_promised_errno
    every_waiter_gets_its_turn
    exec_inherits_nothing
    forked_child_cannot_touch_the_lock
    grant_at_the_last_moment_is_not_lost
    handle_is_never_used_twice
    header_is_the_contract
    held_lock_is_never_called_free
    helper_thread_runs_no_handler
    holder_info_has_any_size
    host_may_fork_with_a_mutex_it_holds_around_calls
    host_may_fork_with_its_allocator_locked
    hosts_fork_handler_may_call_the_library
    hosts_with_large_thread_storage_can_wait
    idle_wait_costs_nothing
    killed_holders_lock_is_free_once_reaped
    label_of_a_namespaces_first_process_is_its_own
    lease_of_another_process_only_delays
    library_loaded_late_serves_a_fork_handler
    list_visits_every_session
    many_locks_are_released_in_any_order
    many_threads_wait_while_others_fork
    no_descriptor_is_a_standard_one
    path_fits_or_is_left_alone
    races_with_a_grant_settle
    release_by_another_thread
    release_waits_for_no_fork_that_is_held_up
    release_waits_for_no_open_and_no_fork
    signal_at_the_start_ends_the_wait
    signal_handler_ends_the_wait
    signal_handler_restarts_the_endless_wait
    starved_thread_leaves_the_queue_with_its_wait
    thread_with_descriptors_of_its_own_can_wait
    threads_with_small_stacks_can_wait
    timed_out_wait_leaves_the_queue
    token_rises_when_the_clock_is_set_back
    token_rises_with_each_holder
    two_copies_do_not_know_each_others_handles
    two_processes_never_both_hold
    version_is_the_packages
    wait_abandons_what_cannot_be_stopped
    wait_keeps_its_deadline
    wait_leaks_nothing
    wait_needs_no_libgcc
    wait_needs_no_thread
    wait_needs_no_thread_specific_data
    waits_share_all_but_two_descriptors
}

/// Programs that are built in several ways, each of which is run; all others are built in one.
const BUILDS: &[(&str, &[&str])] = &[
    // In KiB: around the size of the stack that the helper thread would have without regard to it.
    (
        "hosts_with_large_thread_storage_can_wait",
        &[
            "-DSTORAGE=32",
            "-DSTORAGE=44",
            "-DSTORAGE=52",
            "-DSTORAGE=56",
            "-DSTORAGE=60",
            "-DSTORAGE=200",
        ],
    ),
    // Linked as well with the static library, whose constructors stand among the program's.
    ("hosts_fork_handler_may_call_the_library", &["", "-l:libsession_lock.a"]),
    ("wait_needs_no_libgcc", &["-static-libgcc -l:libsession_lock.a"]),
];

// -------------------------------------------------------------------------------------- the tools

static PLAIN: Tool = Tool { name: "plain", compile: &[], run: &[], rounds: [100, 10_000] };

static MEMCHECK: Tool = Tool {
    name: "memcheck",
    compile: &[],
    run: &[
        "valgrind",
        "--quiet",
        // Its files for a debugger, in /tmp, would end a forked child that has become another user.
        "--vgdb=no",
        "--leak-check=full",
        // See Report::add_valgrinds_view.
        "--errors-for-leak-kinds=none",
        concat!("--suppressions=", env!("CARGO_MANIFEST_DIR"), "/c-tests/memcheck.supp"),
        "--track-fds=yes",
        "--trace-children=yes",
        "--error-exitcode=9",
        "--log-file=valgrind.%p",
    ],
    rounds: [4, 20],
};

/// Not DRD: it does not know the standard library's locks, which are futexes, and reports everything
/// that they guard.
static HELGRIND: Tool = Tool {
    name: "helgrind",
    compile: &[],
    run: &[
        "valgrind",
        "--tool=helgrind",
        "--quiet",
        "--vgdb=no",
        "--trace-children=yes",
        "--error-exitcode=9",
        "--log-file=valgrind.%p",
        concat!("--suppressions=", env!("CARGO_MANIFEST_DIR"), "/c-tests/helgrind.supp"),
    ],
    rounds: [4, 10],
};

static ADDRESS: Tool = Tool {
    name: "address and undefined behaviour sanitizers",
    compile: &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    run: &[],
    rounds: [10, 500],
};

static THREAD: Tool = Tool {
    name: "thread sanitizer",
    compile: &["-fsanitize=thread", "-include", "tsan.h"],
    run: &[],
    rounds: [10, 500],
};

static TOOLS: [&Tool; 5] = [&PLAIN, &MEMCHECK, &HELGRIND, &ADDRESS, &THREAD];

// --------------------------------------------------------------------------------- the exceptions

#[derive(PartialEq)]
enum When {
    Never,
    /// Not where the program is static.
    Static,
    /// Only in a long run.
    Long,
}

struct Exception {
    when: When,
    /// All of them, if none is named.
    claims: &'static [&'static str],
    tools: &'static [&'static Tool],
    why: &'static str,
}

/// What is not run, or not always. Everything else is run under every tool, always; only by itself where
/// this program was built for another target.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        when: When::Static,
        claims: &[
            "dlclose_leaves_the_library_mapped",
            "grant_at_the_last_moment_is_not_lost",
            "host_may_fork_with_its_allocator_locked",
            "library_loaded_late_serves_a_fork_handler",
            "release_waits_for_no_open_and_no_fork",
            "signal_at_the_start_ends_the_wait",
            "two_copies_do_not_know_each_others_handles",
            "wait_needs_no_libgcc",
            "wait_needs_no_thread",
            "wait_needs_no_thread_specific_data",
        ],
        tools: &TOOLS,
        why: "it needs a dynamic linker: it loads a library, or has a function of libc's in front of libc's own",
    },
    Exception {
        when: When::Never,
        claims: &["idle_wait_costs_nothing", "wait_leaks_nothing"],
        tools: &[&MEMCHECK, &HELGRIND, &ADDRESS, &THREAD],
        why: "it measures the whole process, to which the tool adds its own",
    },
    Exception {
        when: When::Never,
        claims: &["helper_thread_runs_no_handler"],
        tools: &[&MEMCHECK, &HELGRIND],
        why: "valgrind keeps each thread's signal mask itself, and gives the kernel another",
    },
    Exception {
        when: When::Never,
        claims: &["host_may_fork_with_its_allocator_locked"],
        tools: &[&MEMCHECK, &HELGRIND, &ADDRESS, &THREAD],
        why: "it has an allocator of its own, and so has the tool",
    },
    Exception {
        when: When::Never,
        claims: &["wait_needs_no_thread"],
        tools: &[&HELGRIND],
        why: "it takes a thread that cannot be started for an error",
    },
    Exception {
        when: When::Never,
        claims: &["change_of_credentials_ends_no_wait"],
        tools: &[&MEMCHECK, &HELGRIND],
        why: "valgrind runs out of stack when glibc's own signal comes while a call blocks",
    },
    Exception {
        when: When::Never,
        claims: &["child_with_its_parents_descriptors_cannot_touch_the_lock"],
        tools: &[&MEMCHECK, &HELGRIND],
        why: "valgrind ends a program that calls clone(2) itself",
    },
    Exception {
        when: When::Never,
        claims: &["release_waits_for_no_fork_that_is_held_up"],
        tools: &[&HELGRIND, &THREAD],
        why: "the one takes what a full pipe keeps apart for a race, the other locks more around a fork",
    },
    Exception {
        when: When::Never,
        claims: &["thread_with_descriptors_of_its_own_can_wait"],
        tools: &[&THREAD],
        why: "the sanitizer knows one table of descriptors only",
    },
    Exception {
        when: When::Never,
        claims: &["wait_needs_no_thread_specific_data"],
        tools: &[&ADDRESS, &THREAD],
        why: "the sanitizer itself needs the function that fails",
    },
    Exception {
        when: When::Never,
        claims: &["threads_with_small_stacks_can_wait"],
        tools: &[&ADDRESS],
        why: "the sanitizer's own functions need more stack than that",
    },
    Exception {
        when: When::Never,
        claims: &["endless_wait_for_ones_own_lock_is_a_deadlock"],
        tools: &[&THREAD],
        why: "the sanitizer has a thread of its own, which might release the lock",
    },
    Exception {
        when: When::Never,
        claims: &["held_lock_is_never_called_free", "timed_out_wait_leaves_the_queue"],
        tools: &[&MEMCHECK, &HELGRIND, &ADDRESS, &THREAD],
        why: "it is about load, and with the tool it is another load",
    },
    Exception {
        when: When::Never,
        claims: &["wait_needs_no_libgcc"],
        tools: &[&MEMCHECK, &HELGRIND, &ADDRESS, &THREAD],
        why: "the tool brings libgcc_s.so.1, or counts descriptors in its own way",
    },
    Exception {
        when: When::Never,
        claims: &["waits_share_all_but_two_descriptors"],
        tools: &[&MEMCHECK, &HELGRIND, &THREAD],
        why: "a child of many threads takes what they had for lost, or may start none",
    },
    Exception {
        when: When::Never,
        claims: &["signal_handler_restarts_the_endless_wait"],
        tools: &[&THREAD],
        why: "the sanitizer keeps a signal back until the next call that it knows; flock is none",
    },
    Exception {
        when: When::Long,
        claims: &[
            "dead_holders_label_misleads_nobody",
            "every_waiter_gets_its_turn",
            "many_threads_wait_while_others_fork",
            "races_with_a_grant_settle",
        ],
        tools: &[&MEMCHECK],
        why: "it starts many processes, and each is a second of valgrind's",
    },
    Exception {
        when: When::Long,
        claims: &[
            "dead_parents_lock_is_free_while_its_child_lives",
            "deleted_file_is_stale",
            "dlclose_leaves_the_library_mapped",
            "endless_wait_for_ones_own_lock_is_a_deadlock",
            "every_error_is_the_promised_errno",
            "exec_inherits_nothing",
            "handle_is_never_used_twice",
            "header_is_the_contract",
            "host_may_fork_with_a_mutex_it_holds_around_calls",
            "hosts_fork_handler_may_call_the_library",
            "killed_holders_lock_is_free_once_reaped",
            "label_of_a_namespaces_first_process_is_its_own",
            "lease_of_another_process_only_delays",
            "library_loaded_late_serves_a_fork_handler",
            "many_locks_are_released_in_any_order",
            "no_descriptor_is_a_standard_one",
            "path_fits_or_is_left_alone",
            "release_by_another_thread",
            "release_waits_for_no_fork_that_is_held_up",
            "release_waits_for_no_open_and_no_fork",
            "signal_at_the_start_ends_the_wait",
            "signal_handler_restarts_the_endless_wait",
            "starved_thread_leaves_the_queue_with_its_wait",
            "thread_with_descriptors_of_its_own_can_wait",
            "threads_with_small_stacks_can_wait",
            "two_copies_do_not_know_each_others_handles",
            "two_processes_never_both_hold",
            "version_is_the_packages",
            "wait_needs_no_thread_specific_data",
        ],
        tools: &[&MEMCHECK],
        why: "it goes through code that others go through under the same tool",
    },
    Exception {
        when: When::Long,
        claims: &["hosts_with_large_thread_storage_can_wait"],
        tools: &[&MEMCHECK, &ADDRESS, &THREAD],
        why: "it is six programs, and differs from others only in the size of a stack",
    },
    Exception {
        when: When::Long,
        claims: &[],
        tools: &[&ADDRESS, &THREAD],
        why: "the library is not instrumented: they see the programs, and what these call",
    },
    Exception {
        when: When::Long,
        claims: &[],
        tools: &[&HELGRIND],
        why: "memcheck runs the same, and the thread sanitizer looks for the same",
    },
];

fn exception(claim: &str, tool: &Tool) -> Option<&'static str> {
    let applies = |exception: &&Exception| {
        exception.tools.iter().any(|one| one.name == tool.name)
            && (exception.claims.is_empty() || exception.claims.contains(&claim))
            && match exception.when {
                When::Never => true,
                When::Static => cfg!(target_feature = "crt-static"),
                When::Long => !support::long(),
            }
    };
    let exception = || EXCEPTIONS.iter().find(applies).map(|exception| exception.why);
    only_by_itself(tool).or_else(exception)
}

/// Why a tool is not asked here at all.
fn only_by_itself(tool: &Tool) -> Option<&'static str> {
    let foreign = tool.name != PLAIN.name && support::target().is_some();
    foreign.then_some("the programs are for another target")
}

#[test]
fn every_program_is_a_test_and_every_exception_is_one_of_a_program() {
    let files = fs::read_dir(c::sources()).unwrap().map(|entry| entry.unwrap().path());
    let programs = files.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    let mut programs: Vec<String> = programs
        .map(|path| path.file_stem().unwrap().to_str().unwrap().replace('-', "_"))
        .filter(|name| name != DELIBERATE)
        .collect();
    programs.sort();
    assert_eq!(programs, CLAIMS);
    let excepted = EXCEPTIONS.iter().flat_map(|exception| exception.claims);
    for claim in excepted.chain(BUILDS.iter().map(|(claim, _)| claim)) {
        assert!(CLAIMS.contains(claim), "{claim}");
    }
}

// ---------------------------------------------------------------------------------------- running

/// Builds and runs the program with every tool.
fn holds(claim: &str) {
    for flag in BUILDS.iter().find(|(of, _)| *of == claim).map_or(&[""][..], |(_, flags)| flags) {
        let mut built: Option<Program> = None;
        for tool in TOOLS {
            if let Some(why) = exception(claim, tool) {
                eprintln!("not run: {}: {why}", tool.name);
            } else if tool.run.first().is_none_or(|command| support::have(command)) {
                let begin = Instant::now();
                let fits = |program: &Program| program.compiled == tool.compile;
                let program = built.take().filter(fits);
                let program = program.unwrap_or_else(|| build(claim, tool, flag));
                let report = program.run(tool, &[]);
                eprintln!("{} {flag} {:.1} s", tool.name, begin.elapsed().as_secs_f32());
                check(tool, &report);
                built = Some(program);
            }
        }
    }
}

fn build(claim: &str, tool: &Tool, flag: &str) -> Program {
    let flags: Vec<&str> = flag.split_whitespace().collect();
    Program::build(&claim.replace('_', "-"), tool, &flags, c::library())
}

#[track_caller]
fn check(tool: &Tool, report: &Report) {
    match report.code {
        Some(0) => eprint!("{}", report.text),
        Some(77) => support::skip(&report.text),
        _ => panic!("{}:\n{}", tool.name, report.text),
    }
}

// ------------------------------------------------------------------------------ tests of the tests

/// Not a claim: what the tools must find.
const DELIBERATE: &str = "deliberate_error";

/// The tool is really there: it sees an error that is made on purpose.
fn catches(tool: &Tool, errors: &[(&str, &str)]) {
    if let Some(why) = only_by_itself(tool) {
        return eprintln!("not run: {}: {why}", tool.name);
    }
    let program = build(DELIBERATE, tool, "-Wno-error -w");
    for (error, name) in errors {
        let report = program.run(tool, &[error]);
        assert!(report.code != Some(0), "nothing sees this: {error}\n{}", report.text);
        assert!(report.text.contains(name), "something else than {error}:\n{}", report.text);
    }
    let report = program.run(tool, &["none"]);
    assert!(report.code == Some(0), "an error where there is none:\n{}", report.text);
}

#[test]
fn valgrind_sees_errors() {
    if support::have("valgrind") {
        let leaks = [("leak", "definitely lost"), ("descriptor", "s.lock")];
        catches(&MEMCHECK, &[&[("use-after-free", "Invalid read")], &leaks[..]].concat());
        catches(&HELGRIND, &[("race", "Possible data race")]);
    }
}

#[test]
fn the_address_and_undefined_behaviour_sanitizers_see_errors() {
    let memory = [("use-after-free", "heap-use-after-free"), ("leak", "detected memory leaks")];
    catches(&ADDRESS, &[&memory[..], &[("overflow", "signed integer overflow")]].concat());
}

#[test]
fn the_thread_sanitizer_sees_errors() {
    catches(&THREAD, &[("race", "data race")]);
}

/// With the broken protocol in the library's place the founding bug is seen.
#[test]
fn removing_a_dead_holders_file_is_caught() {
    let report = build("dead_holders_label_misleads_nobody", &PLAIN, "-DBROKEN").run(&PLAIN, &[]);
    assert_eq!(report.code, Some(1), "{}", report.text);
    assert!(report.text.contains("atomic_fetch_add(&oracle->inside, 1) == 0"), "{}", report.text);
}

// ------------------------------------------------------------------------ other libraries and files

/// On a filesystem whose blocked `flock` ignores every signal: bindfs with several threads that hands locks
/// on to the filesystem below.
#[test]
fn a_flock_that_cannot_be_interrupted_is_abandoned() {
    if !Bindfs::is_possible() {
        return;
    }
    let (below, at) = (support::scratch(), support::scratch());
    let options = ["--multithreaded", "--enable-lock-forwarding"];
    let fuse = Bindfs::mount(&options, below.path(), at.path());
    let program = build("wait_abandons_what_cannot_be_stopped", &PLAIN, "");
    check(&PLAIN, &program.run_in(&fuse.at, &PLAIN, &["fuse"]));
}

#[test]
fn races_with_a_grant_settle_in_every_build() {
    if !support::long() {
        return;
    }
    let aborting = [("CARGO_PROFILE_DEV_PANIC", "abort"), ("CARGO_PROFILE_RELEASE_PANIC", "abort")];
    let unwinding =
        [("CARGO_PROFILE_DEV_PANIC", "unwind"), ("CARGO_PROFILE_RELEASE_PANIC", "unwind")];
    let no_tables = [&aborting[..], &[("RUSTFLAGS", "-Cforce-unwind-tables=no")]].concat();
    for options in [&[][..], &["--release"]] {
        for variables in [&aborting[..], &unwinding, &no_tables] {
            let library = c::build_library(options, variables);
            let program = Program::build("races-with-a-grant-settle", &PLAIN, &[], &library);
            check(&PLAIN, &program.run(&PLAIN, &[]));
        }
    }
}
