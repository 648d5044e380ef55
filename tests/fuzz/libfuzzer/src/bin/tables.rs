//! `byway_fuzz::tables` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| byway_fuzz::tables::run(data));
