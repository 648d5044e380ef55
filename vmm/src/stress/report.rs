//! What `byway stress` found, for programs and for people.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::signals::Interrupted;

/// The whole run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StressReport {
    /// What all choices followed from.
    pub seed: u64,
    /// Seconds that it took, booting included.
    pub seconds: f64,
    /// Whether it was ended early, by Ctrl-C for one.
    pub interrupted: bool,
    /// A row each, in the order in which they ran.
    pub cases: Vec<CaseRow>,
}

/// One case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CaseRow {
    /// Its name.
    pub name: String,
    /// Seconds under stress, booting not included.
    pub seconds: f64,
    /// Transfers that completed with success.
    pub transfers: u64,
    /// What must not happen and did.
    pub violations: u64,
    /// The first few of them, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
    /// Transfers that ended in a fault or a refusal, as some should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// Changes made meanwhile: pages, regions, requests, revocations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<u64>,
    /// The victim's 99th percentile beside the flood, over its share: twice what it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim_p99_ratio: Option<f64>,
    /// Jain's index of the bytes that equal domains were served: 1 is fair, 1/n is one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jain: Option<f64>,
    /// The slowest revocation, from request to acknowledgement in the engine, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_us_max: Option<f64>,
    /// Most descriptors that waited for a page at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_max: Option<u64>,
    /// VMs, and VMMs as processes, that ended in the middle of their transfers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed: Option<u64>,
}

/// Most violations that are told in words.
const FOUND_MAX: usize = 8;

impl CaseRow {
    /// Nothing found yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Counts something that must not happen.
    pub fn violation(&mut self, what: impl Into<String>) {
        self.violations += 1;
        if self.found.len() < FOUND_MAX {
            self.found.push(what.into());
        }
    }

    /// Counts what kept the case from going on; to be told to stop is none of it.
    pub fn error(&mut self, error: &anyhow::Error) {
        if !error.is::<Interrupted>() {
            self.violation(format!("{error:#}"));
        }
    }

    /// Adds what another thread found in the same case.
    pub fn absorb(&mut self, other: Self) {
        let sum = |a: Option<u64>, b: Option<u64>| a.or(b).map(|_| a.unwrap_or(0) + b.unwrap_or(0));
        self.transfers += other.transfers;
        self.violations += other.violations;
        self.refused = sum(self.refused, other.refused);
        self.changes = sum(self.changes, other.changes);
        self.killed = sum(self.killed, other.killed);
        let room = FOUND_MAX.saturating_sub(self.found.len());
        self.found.extend(other.found.into_iter().take(room));
    }
}

impl StressReport {
    /// Everything that must not happen and did.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.cases.iter().map(|case| case.violations).sum()
    }
}

impl fmt::Display for StressReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "case",
            "seconds",
            "transfers",
            "refused",
            "changes",
            "violations",
            "",
        ]);
        for case in &self.cases {
            let count = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
            table.add_row([
                case.name.clone(),
                format!("{:.1}", case.seconds),
                case.transfers.to_string(),
                count(case.refused),
                count(case.changes),
                case.violations.to_string(),
                figures(case),
            ]);
        }
        for index in 1..6 {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{table}")?;
        for case in &self.cases {
            for found in &case.found {
                writeln!(f, "{}: {found}", case.name)?;
            }
        }
        let early = if self.interrupted {
            ", ended early"
        } else {
            ""
        };
        write!(
            f,
            "{} violations in {:.1} s{early}; again with --seed {}",
            self.violations(),
            self.seconds,
            self.seed
        )
    }
}

/// What is said of some cases only.
fn figures(case: &CaseRow) -> String {
    [
        case.victim_p99_ratio
            .map(|ratio| format!("victim p99 {ratio:.2} of its share")),
        case.jain.map(|jain| format!("Jain {jain:.3}")),
        case.revoke_us_max
            .map(|us| format!("slowest revocation {us:.1} us")),
        case.parked_max.map(|parked| format!("{parked} parked")),
        case.killed.map(|killed| format!("{killed} killed")),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_counted_beyond_those_told() {
        let mut row = CaseRow::new("storm");
        for number in 0..20 {
            row.violation(format!("number {number}"));
        }
        assert_eq!(row.violations, 20);
        assert_eq!(row.found.len(), FOUND_MAX);
        let mut all = CaseRow::new("storm");
        all.violation("mine");
        all.killed = Some(1);
        all.absorb(row);
        assert_eq!((all.violations, all.killed), (21, Some(1)));
        assert_eq!(all.found.len(), FOUND_MAX);
        assert_eq!(all.found[0], "mine");
    }

    #[test]
    fn absent_figures_stay_out_of_the_json() {
        let row = CaseRow::new("kill");
        let text = serde_json::to_string(&row).unwrap();
        assert!(!text.contains("jain"), "{text}");
        assert_eq!(serde_json::from_str::<CaseRow>(&text).unwrap(), row);
    }
}
