//! Seeds: for each target some inputs that do what real users do, so that a fuzzer begins
//! behind the first checks. The same bytes each time.

mod capabilities;
mod config;
mod control;
mod descriptors;
mod tables;

/// Names and bytes of a target's seeds; none for a target that does not exist.
#[must_use]
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds = match target {
        "descriptors" => descriptors::seeds(),
        "control" => control::seeds(),
        "tables" => tables::seeds(),
        "capabilities" => capabilities::seeds(),
        "config" => config::seeds(),
        _ => Vec::new(),
    };
    let named = |(name, bytes): (&str, Vec<u8>)| (format!("seed-{name}"), bytes);
    seeds.into_iter().map(named).collect()
}

/// What a target's module returns.
type Seeds = Vec<(&'static str, Vec<u8>)>;
