//! What must not stand in a guest's kernel log.

/// Words by which the kernel says that something is wrong with it.
const ALARMS: [&str; 21] = [
    "WARNING:",
    "BUG:",
    "kernel BUG",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "Call Trace",
    "INFO: task",
    "stall",
    "lockup",
    "scheduling while atomic",
    "sleeping function called",
    "UBSAN",
    "KASAN",
    "list_add corruption",
    "list_del corruption",
    "refcount_t",
    "Bad page",
    "Bad rss-counter",
    "double fault",
    "Modules linked in",
];

/// A command that fails, and prints the lines in question, when the guest's own log has an alarm.
#[must_use]
pub fn log_check() -> String {
    let words = ALARMS.join("\\|");
    let harmless = HARMLESS.map(|(words, _)| words).join("\\|");
    format!("! dmesg | grep '{words}' | grep -v '{harmless}'")
}

/// Lines that have an alarm in them and are no fault of Byway's: (words, why).
const HARMLESS: [(&str, &str); 2] = [
    (
        "rcu_cpu_stall_timeout",
        "the kernel's command line, which is logged",
    ),
    (
        "admin-guide/hw-vuln",
        "what the emulated processor is open to",
    ),
];

/// The lines of a console or of `dmesg` that a test must not end with.
#[must_use]
pub fn alarms(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)))
        .filter(|line| !HARMLESS.iter().any(|(words, _)| line.contains(words)))
        .collect()
}

/// Bits of `/proc/sys/kernel/tainted` that every guest has: a module from outside the tree (12),
/// without a signature (13).
const EXPECTED_TAINT: u64 = 1 << 12 | 1 << 13;

/// The bits of a kernel's taint that say that something went wrong: a warning, an oops, a bad page,
/// a lockup.
#[must_use]
pub fn wrong_taint(taint: u64) -> u64 {
    taint & !EXPECTED_TAINT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_found_among_ordinary_lines() {
        let log = "[    0.0] Linux version 6.1\n\
                   [    0.1] Command line: rcupdate.rcu_cpu_stall_timeout=60\n\
                   [    3.0] WARNING: CPU: 0 PID: 1 at mm/mmu_notifier.c:1\n\
                   [    9.0] INFO: task sh:12 blocked for more than 20 seconds.\n\
                   [    9.1] byway: ready\n";
        let found = alarms(log);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("mmu_notifier"));
    }

    #[test]
    fn only_an_unsigned_foreign_module_is_expected() {
        assert_eq!(wrong_taint(12288), 0);
        assert_eq!(wrong_taint(12288 | 512), 512);
    }
}
