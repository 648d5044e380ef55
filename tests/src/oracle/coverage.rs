//! Counts what the cases reached, so that a generator that has gone dull fails instead of passing.

use std::collections::BTreeMap;

use super::case::{Kind, Step};
use super::trace::{End, Paging, Trace};

/// The counts.
#[derive(Debug)]
pub struct Coverage {
    paging: Paging,
    upper_half: bool,
    counts: BTreeMap<String, u64>,
}

impl Coverage {
    /// Of nothing yet. `upper_half`: whether addresses there are tried.
    #[must_use]
    pub const fn new(paging: Paging, upper_half: bool) -> Self {
        Self {
            paging,
            upper_half,
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Counts an access on which both agreed. `traces` are the walks of its pages as they were before.
    pub fn note(&mut self, step: &Step, traces: &[Trace], succeeded: bool) {
        let crossing = if traces.len() > 1 {
            "across pages, "
        } else {
            ""
        };
        if succeeded {
            self.count(format!("{crossing}{}", kind(step)));
            for trace in traces {
                if let End::Page { level, .. } = trace.end {
                    self.count(format!("page of level {level}"));
                }
                if trace.has_loop() {
                    self.count("tables that meet themselves");
                }
            }
            if step.va >> 63 != 0 {
                self.count("upper half");
            }
            return;
        }
        if let [trace] = traces {
            let cause = self.cause(trace);
            self.count(cause);
        } else {
            self.count("across pages, fault");
        }
    }

    /// What should have been reached and was not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let paging = &self.paging;
        let mut wanted: Vec<String> = [
            "read",
            "write",
            "exchange",
            "across pages, read",
            "across pages, write",
            "across pages, fault",
            "tables that meet themselves",
            "not canonical",
            "U/S = 0, not present below",
            "U/S = 0, reserved bit below",
            "page of level 1",
            "page of level 2",
        ]
        .map(String::from)
        .into();
        if self.upper_half {
            wanted.push("upper half".into());
        }
        if paging.pages_1g {
            wanted.push("page of level 3".into());
        }
        for level in 1..=paging.levels {
            wanted.push(format!("not present at level {level}"));
            wanted.push(format!("U/S = 0 at level {level}"));
            wanted.push(format!("R/W = 0 at level {level}"));
            if level > 1 {
                wanted.push(format!("reserved bit for its place at level {level}"));
            }
            if paging.maxphyaddr < 52 {
                wanted.push(format!("reserved address bit at level {level}"));
            }
        }
        wanted.retain(|what| !self.counts.contains_key(what));
        wanted
    }

    /// Why a walk ends in a fault.
    fn cause(&self, trace: &Trace) -> String {
        let Some(last) = trace.cells.last() else {
            return "not canonical".into();
        };
        let level = last.level;
        let beyond = last.value & self.paging.reserved(1, true) != 0;
        match (trace.end, trace.first_supervisor()) {
            (End::NotPresent, None) => format!("not present at level {level}"),
            (End::NotPresent, Some(_)) => "U/S = 0, not present below".into(),
            (End::Reserved, Some(at)) if at.level != level => "U/S = 0, reserved bit below".into(),
            (End::Reserved, _) if beyond => format!("reserved address bit at level {level}"),
            (End::Reserved, _) => format!("reserved bit for its place at level {level}"),
            (_, Some(at)) => format!("U/S = 0 at level {}", at.level),
            (_, None) => match trace.first_read_only() {
                Some(at) => format!("R/W = 0 at level {}", at.level),
                None => "no cause to be seen".into(),
            },
        }
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{count:6}  {what}")?;
        }
        Ok(())
    }
}

fn kind(step: &Step) -> &'static str {
    match step.kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Exchange => "exchange",
    }
}
