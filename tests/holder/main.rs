//! Who holds a lock: the answers in every situation, with real processes, and that asking disturbs
//! nobody.

mod asking;
mod crowd;
mod guardians;
mod mounts;
mod namespaces;
mod player;
mod situations;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn role() {
    support::play(&[
        ("player", player::play),
        ("asker", asking::ask_all_the_time),
        ("churner", asking::churn),
        ("crowd", crowd::wait_in_a_crowd),
        ("napper", crowd::come_and_go),
        ("mounts", mounts::on_a_mount),
        ("orphan-hunter", asking::hunt_orphans),
    ]);
}
