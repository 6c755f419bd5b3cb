//! Many at once.

use std::fs;

use crate::Place;

fn long() -> bool {
    std::env::var_os("SESSION_LOCK_LONG").is_some()
}

#[test]
fn of_many_at_once_exactly_one_runs() {
    let place = Place::new();
    // The one that runs does so until all the others have ended.
    let script = "mkfifo end; i=0; while [ $i -lt 40 ]; do
            { session-lock run -q s -- sh -c 'echo ran; read line <end'; echo $?; } & i=$((i + 1))
        done >codes
        until [ $(grep -c 75 codes) = 39 ]; do sleep 0.01; done
        echo >end; wait; sort codes | uniq -c";
    let counts: Vec<String> = place
        .output(script)
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(counts, ["1 0", "39 75", "1 ran"]);
}

#[test]
fn those_that_wait_run_one_after_the_other() {
    let place = Place::new();
    let count = if long() { 400 } else { 60 };
    fs::write(place.path().join("counter"), "0\n").unwrap();
    // A step that loses increments when two are in it.
    let script = format!(
        "i=0; while [ $i -lt {count} ]; do
            session-lock run -w -q s -- sh -c 'read n <counter; echo $((n + 1)) >counter' || echo failed &
            i=$((i + 1)); done; wait; cat counter"
    );
    assert_eq!(place.output(&script), format!("{count}\n"));
}
