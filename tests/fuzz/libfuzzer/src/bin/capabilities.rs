//! `byway_fuzz::capabilities` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| byway_fuzz::capabilities::run(data));
