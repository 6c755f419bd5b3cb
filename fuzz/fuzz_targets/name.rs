//! A directory of lock files may hold files of any name.
//!
//! `cargo fuzz run -s none name -- -max_total_time=60 -max_len=260` (no nightly compiler needed)

#![no_main]

libfuzzer_sys::fuzz_target!(|name: &[u8]| session_lock::fuzzing::name(name));
