//! `byway doctor`: what this host offers, and what to do about each lack.
//!
//! Only looks, never changes anything. Each check is a function that gives rows; a
//! check that cannot look says so instead of guessing.

mod cpu;
mod kvm;
mod system;
mod witness;

use std::fmt;
use std::io::{self, Write};

use clap::Parser;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::exit_status::Failure;

/// Width of the table where there is no terminal to ask.
const PIPE_WIDTH: u16 = 120;

/// Arguments of `byway doctor`.
#[derive(Debug, Clone, Parser)]
#[command(
    after_help = "Examples:\n  byway doctor         what this host offers and lacks\n  byway doctor --json  the same for programs"
)]
pub struct Args {
    /// Write JSON to standard output instead of a table
    #[arg(long)]
    pub json: bool,
}

/// How a row came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There, or good enough.
    Ok,
    /// Not there; Byway works without, slower or with less.
    Lacking,
    /// Not there, and VMs cannot run without.
    Missing,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Lacking => "lacking",
            Self::Missing => "MISSING",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What: a stable key such as `kvm.device`.
    pub item: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about a lack; empty when there is nothing to do.
    pub advice: String,
}

impl Row {
    fn ok(item: &'static str, found: impl Into<String>) -> Self {
        Self {
            item,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn lacking(item: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            item,
            verdict: Verdict::Lacking,
            found: found.into(),
            advice: advice.into(),
        }
    }

    fn missing(item: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Missing,
            ..Self::lacking(item, found, advice)
        }
    }

    /// [`Self::ok`] or [`Self::lacking`].
    fn either(
        item: &'static str,
        good: bool,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        if good {
            Self::ok(item, found)
        } else {
            Self::lacking(item, found, advice)
        }
    }
}

/// Looks at everything.
pub fn examine() -> Vec<Row> {
    let mut rows = kvm::rows();
    rows.extend(cpu::rows());
    rows.extend(system::rows());
    rows
}

/// Whether VMs can run here.
pub fn can_run_vms(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.verdict != Verdict::Missing)
}

/// Carries the command out. The report goes to standard output in any case.
///
/// # Errors
/// [`Failure::Host`] when VMs cannot run here, after the report.
pub fn run(args: &Args) -> Result<(), Failure> {
    let rows = examine();
    let usable = can_run_vms(&rows);
    let report = if args.json {
        json(&rows)?
    } else {
        table(&rows).to_string()
    };
    writeln!(io::stdout(), "{report}").map_err(Failure::failed)?;
    if usable {
        Ok(())
    } else {
        Err(Failure::host(
            "VMs cannot run on this host; the rows marked MISSING say why",
        ))
    }
}

#[derive(Serialize)]
struct Report<'a> {
    can_run_vms: bool,
    checks: &'a [Row],
}

fn json(rows: &[Row]) -> Result<String, Failure> {
    serde_json::to_string_pretty(&Report {
        can_run_vms: can_run_vms(rows),
        checks: rows,
    })
    .map_err(Failure::failed)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["item", "", "found", "what to do"]);
    if !table.is_tty() {
        table.set_width(PIPE_WIDTH);
    }
    for row in rows {
        table.add_row([
            row.item.to_owned(),
            row.verdict.to_string(),
            row.found.clone(),
            row.advice.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_comes_with_advice_and_no_row_twice() {
        let rows = examine();
        assert!(rows.len() > 15, "{rows:#?}");
        let mut items: Vec<_> = rows.iter().map(|row| row.item).collect();
        items.sort_unstable();
        items.dedup();
        assert_eq!(items.len(), rows.len());
        for row in &rows {
            assert!(!row.found.is_empty(), "{row:?}");
            assert_eq!(row.advice.is_empty(), row.verdict == Verdict::Ok, "{row:?}");
        }
    }

    #[test]
    fn json_carries_every_row() {
        let rows = [
            Row::ok("a.b", "fine"),
            Row::missing("c.d", "gone", "get it"),
        ];
        let value: serde_json::Value = serde_json::from_str(&json(&rows).unwrap()).unwrap();
        assert_eq!(value["can_run_vms"], false);
        assert_eq!(value["checks"][1]["verdict"], "missing");
        assert_eq!(value["checks"][0]["item"], "a.b");
    }

    #[test]
    fn the_table_shows_item_and_advice() {
        let text = table(&[Row::lacking("x.y", "none", "add one")]).to_string();
        assert!(text.contains("x.y") && text.contains("add one"));
    }
}
