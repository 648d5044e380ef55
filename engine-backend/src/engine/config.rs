//! [`EngineConfig`]: what the operator sets once, and the bounds of quotas.

use byway_protocols::Word0;
use byway_protocols::ring::{ENTRIES_MAX, ENTRIES_MIN};
use serde::{Deserialize, Serialize};

use crate::backend::Choice;
use crate::epoch::WORKERS_MAX;
use crate::interface::{Quotas, Share};
use crate::worker::WorkerConfig;

/// Settings of an engine. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Threads that poll work queues, 1 to 64.
    pub workers: u32,
    /// Processors that worker 0, 1, … are pinned to; those without one float.
    pub worker_cpus: Vec<usize>,
    /// Processor that the control thread is pinned to; it floats without one.
    pub control_cpu: Option<usize>,
    /// How long a queue is polled without finding work before it is parked, in
    /// microseconds, up to 1 second.
    pub park_us: u32,
    /// Most slots of a context, slot 0 included; 1 to 32768.
    pub slots_max: u32,
    /// How long a guest kernel has to answer a page request, in milliseconds; 1 to 60000.
    pub page_response_ms: u32,
    /// Who moves the bytes: `auto`, `software` or `dsa`.
    pub backend: Choice,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let workers = WorkerConfig::default();
        Self {
            workers: 1,
            worker_cpus: workers.cpus,
            control_cpu: None,
            park_us: workers.park_us,
            slots_max: 4096,
            page_response_ms: 1000,
            backend: Choice::Auto,
        }
    }
}

/// A setting is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("engine setting {name} = {value}: expected {expected}")]
pub struct ConfigError {
    /// Its name.
    pub name: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it can be set to.
    pub expected: String,
}

/// Slots that a descriptor can name.
const SLOTS_MAX: u32 = Word0::SLOT_MAX as u32 + 1;
const PARK_US_MAX: u32 = 1_000_000;

impl EngineConfig {
    /// Longest time to answer a page request, in milliseconds.
    pub const PAGE_RESPONSE_MS_MAX: u32 = 60_000;

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let range = |name, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(ConfigError {
                name,
                value: value.to_string(),
                expected: format!("{min} to {max}"),
            })
        };
        range("workers", self.workers, 1, WORKERS_MAX as u32)?;
        range("park_us", self.park_us, 0, PARK_US_MAX)?;
        range("slots_max", self.slots_max, 1, SLOTS_MAX)?;
        let response_ms = self.page_response_ms;
        range(
            "page_response_ms",
            response_ms,
            1,
            Self::PAGE_RESPONSE_MS_MAX,
        )?;
        let cpus = self.worker_cpus.iter().chain(&self.control_cpu);
        for &cpu in cpus {
            if cpu >= libc::CPU_SETSIZE as usize {
                return Err(ConfigError {
                    name: "worker_cpus, control_cpu",
                    value: cpu.to_string(),
                    expected: format!("processors below {}", libc::CPU_SETSIZE),
                });
            }
        }
        Ok(())
    }

    pub(super) fn worker_config(&self) -> WorkerConfig {
        WorkerConfig {
            count: self.workers as usize,
            cpus: self.worker_cpus.clone(),
            park_us: self.park_us,
        }
    }
}

/// Largest value of a quota that counts objects.
const OBJECTS_MAX: u32 = 1 << 20;
/// Largest quota of descriptors that wait: room for all is set aside.
const PARKED_MAX: u32 = 1 << 16;

/// Longest burst: a second's worth.
const BURST_US_MAX: u32 = 1_000_000;

/// A quota is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value}: expected {expected}")]
pub struct QuotaError {
    /// Its name; those of a share begin with `share.`.
    pub name: &'static str,
    /// What it was set to.
    pub value: u32,
    /// What it can be set to.
    pub expected: String,
}

fn check_ranges(ranges: &[(&'static str, u32, u32, u32)]) -> Result<(), QuotaError> {
    for &(name, value, min, max) in ranges {
        if !(min..=max).contains(&value) {
            return Err(QuotaError {
                name,
                value,
                expected: format!("{min} to {max}"),
            });
        }
    }
    Ok(())
}

impl Share {
    /// Whether the scheduler could keep it.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn check(&self) -> Result<(), QuotaError> {
        check_ranges(&[
            ("share.weight", self.weight, 1, Self::WEIGHT_MAX),
            ("share.burst_us", self.burst_us, 0, BURST_US_MAX),
        ])
    }
}

impl Quotas {
    /// Whether the engine's tables could keep them.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn check(&self) -> Result<(), QuotaError> {
        self.share.check()?;
        check_ranges(&[
            ("address_spaces", self.address_spaces, 0, OBJECTS_MAX),
            ("contexts", self.contexts, 0, OBJECTS_MAX),
            ("queues", self.queues, 0, OBJECTS_MAX),
            ("capabilities", self.capabilities, 0, OBJECTS_MAX),
            ("offers", self.offers, 0, OBJECTS_MAX),
            ("no_park_queues", self.no_park_queues, 0, OBJECTS_MAX),
            ("parked", self.parked, 0, PARKED_MAX),
        ])?;
        let entries = self.queue_entries;
        if !entries.is_power_of_two() || !(ENTRIES_MIN..=ENTRIES_MAX).contains(&entries) {
            return Err(QuotaError {
                name: "queue_entries",
                value: entries,
                expected: format!("a power of two from {ENTRIES_MIN} to {ENTRIES_MAX}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_range() {
        assert_eq!(EngineConfig::default().check(), Ok(()));
        assert_eq!(Quotas::default().check(), Ok(()));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = |config: EngineConfig| config.check().unwrap_err().to_string();
        let base = EngineConfig::default();
        let e = bad(EngineConfig {
            workers: 0,
            ..base.clone()
        });
        assert_eq!(e, "engine setting workers = 0: expected 1 to 64");
        let e = bad(EngineConfig {
            workers: 65,
            ..base.clone()
        });
        assert!(e.contains("workers = 65"), "{e}");
        let e = bad(EngineConfig {
            slots_max: 32769,
            ..base.clone()
        });
        assert!(e.contains("slots_max"), "{e}");
        let e = bad(EngineConfig {
            control_cpu: Some(1 << 20),
            ..base
        });
        assert!(e.contains("control_cpu"), "{e}");
    }

    #[test]
    fn quotas_out_of_range_are_named() {
        let bad = |quotas: Quotas| quotas.check().unwrap_err().to_string();
        let e = bad(Quotas {
            offers: u32::MAX,
            ..Quotas::default()
        });
        assert!(e.contains("offers = 4294967295"), "{e}");
        for weight in [0, Share::WEIGHT_MAX + 1] {
            let share = Share {
                weight,
                ..Share::default()
            };
            let e = bad(Quotas {
                share,
                ..Quotas::default()
            });
            assert!(e.contains("share.weight"), "{e}");
        }
        for entries in [0, 1, 3, 65536] {
            let e = bad(Quotas {
                queue_entries: entries,
                ..Quotas::default()
            });
            assert!(e.contains("queue_entries"), "{e}");
        }
    }
}
