//! `session-lock`: the lock for shell users.

#![forbid(unsafe_code)]

fn main() {
    println!("session-lock {}", env!("CARGO_PKG_VERSION"));
}
