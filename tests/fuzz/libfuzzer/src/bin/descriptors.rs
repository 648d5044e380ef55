//! `byway_fuzz::descriptors` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| byway_fuzz::descriptors::run(data));
