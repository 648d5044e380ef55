//! Configuration files: any text is either refused, with a place in it, or a
//! configuration within all limits.

use std::collections::HashSet;
use std::path::Path;

use byway_vmm::config::{ConfigError, RunConfig, SPIN_US_MAX, VMS_MAX, WORKERS_MAX};

/// Where the text is said to come from; nothing is there.
const PATH: &str = "/nowhere/vms.toml";

/// Checks one file.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match RunConfig::parse(Path::new(PATH), &text) {
        Ok(config) => within_limits(&config),
        Err(error) => names_its_place(&text, &error),
    }
}

fn within_limits(config: &RunConfig) {
    assert!((1..=VMS_MAX).contains(&config.vms.len()));
    let names: HashSet<&str> = config.vms.iter().map(|e| e.vm.name.as_str()).collect();
    assert_eq!(names.len(), config.vms.len(), "a name is used twice");
    for entry in &config.vms {
        assert!(entry.vm.cpus >= 1);
        assert!(entry.vm.pin.len() <= usize::from(entry.vm.cpus));
        assert!(entry.vm.ram.size > 0 && entry.vm.ram.size.is_multiple_of(4096));
        assert!((1..=0xffff).contains(&entry.vm.device_id));
    }
    let mut pairs = HashSet::new();
    for link in &config.links {
        assert!(link.read || link.write, "a link that permits nothing");
        assert_ne!(link.from, link.to);
        for end in [&link.from, &link.to] {
            assert!(names.contains(end.as_str()), "a link to nobody");
        }
        assert!(
            pairs.insert((&link.from, &link.to)),
            "two links of one pair"
        );
    }
    let engine = &config.engine;
    assert!(
        engine
            .workers
            .is_none_or(|w| (1..=WORKERS_MAX).contains(&w.into()))
    );
    assert!(engine.spin_us.is_none_or(|us| u64::from(us) <= SPIN_US_MAX));
    assert!(engine.pin.len() <= engine.workers.unwrap_or(1) as usize);
}

fn names_its_place(text: &str, error: &ConfigError) {
    assert!(error.to_string().starts_with(PATH));
    assert!(!error.what.is_empty());
    if let Some((line, column)) = error.place {
        let lines = text.matches('\n').count() + 1;
        assert!((1..=lines).contains(&line), "line {line} of {lines}");
        let width = text
            .split('\n')
            .nth(line - 1)
            .map_or(0, |l| l.chars().count());
        assert!(
            (1..=width + 1).contains(&column),
            "column {column} of {width} in line {line}"
        );
    }
}
