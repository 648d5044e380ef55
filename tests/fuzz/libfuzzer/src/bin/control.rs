//! `byway_fuzz::control` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| byway_fuzz::control::run(data));
