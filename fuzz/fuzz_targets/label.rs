//! A lock file may hold any bytes: another user may have written it.
//!
//! `cargo fuzz run -s none label -- -max_total_time=150 -max_len=600` (no nightly compiler needed)

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| session_lock::fuzzing::label(text));
