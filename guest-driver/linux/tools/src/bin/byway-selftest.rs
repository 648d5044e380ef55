//! `byway-selftest`: what one guest can find out about engine, module and library by itself, check by check.

use std::process::ExitCode;

use byway_guest_tools::exit::{self, Failure};
use byway_guest_tools::selftest::{self, Check, Lab, PROBE, Problem, probe};
use byway_linux::{Device, DeviceInfo};
use clap::Parser;
use serde::Serialize;

/// Check engine, kernel module and library from within one guest
#[derive(Debug, Parser)]
#[command(name = "byway-selftest", version, after_help = concat!(
    "Prints TAP (version 13), one line for each check.\n\n",
    "Examples:\n",
    "  byway-selftest                      every check\n",
    "  byway-selftest revoked batch        those with one of these words in their names\n",
    "  byway-selftest --json > checks.json for programs\n\n",
    "Exit codes: 0 all passed or skipped; 1 a check failed; 2 wrong usage; 3 no Byway device in this guest."
))]
struct Cli {
    /// Words of which a check's name has to contain one; none = all checks
    words: Vec<String>,
    /// Names the checks and makes none
    #[arg(long)]
    list: bool,
    /// Tells the results as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    /// "passed", "failed" or "skipped".
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    domain: String,
    instance: u32,
    one_cpu: bool,
    passed: usize,
    failed: usize,
    skipped: usize,
    checks: Vec<Line>,
}

fn make(check: &Check) -> Line {
    let outcome = Lab::new()
        .map_err(Problem::from)
        .and_then(|mut lab| (check.run)(&mut lab));
    let (outcome, detail) = match outcome {
        Ok(()) => ("passed", None),
        Err(Problem::Failed(text)) => ("failed", Some(text)),
        Err(Problem::Skipped(text)) => ("skipped", Some(text)),
    };
    Line {
        name: check.name,
        outcome,
        detail,
    }
}

/// The line of one check in TAP.
fn tap(number: usize, line: &Line) -> String {
    let verdict = match line.outcome {
        "failed" => "not ok",
        _ => "ok",
    };
    let start = format!("{verdict} {number} - {}", line.name);
    match (&line.detail, line.outcome) {
        (Some(why), "skipped") => format!("{start} # SKIP {why}"),
        (Some(why), _) => format!("{start}\n# {why}"),
        (None, _) => start,
    }
}

fn check_all(cli: &Cli, info: &DeviceInfo, checks: &[Check]) -> Report {
    if !cli.json {
        println!("TAP version 13\n1..{}", checks.len());
    }
    let mut lines = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        let line = make(check);
        if !cli.json {
            println!("{}", tap(index + 1, &line));
        }
        lines.push(line);
    }
    let count = |outcome| lines.iter().filter(|line| line.outcome == outcome).count();
    Report {
        domain: info.name(),
        instance: info.raw().instance,
        one_cpu: info.no_ad(),
        passed: count("passed"),
        failed: count("failed"),
        skipped: count("skipped"),
        checks: lines,
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let mut checks = selftest::all();
    if !cli.words.is_empty() {
        checks.retain(|check| {
            cli.words
                .iter()
                .any(|word| check.name.contains(word.as_str()))
        });
        if checks.is_empty() {
            return Err(Failure::Usage(
                "no check has such a word in its name; --list names them".to_owned(),
            ));
        }
    }
    if cli.list {
        for check in checks {
            println!("{}", check.name);
        }
        return Ok(());
    }
    let info = Device::open()?.info()?;
    let report = check_all(cli, &info, &checks);
    let Report {
        passed,
        failed,
        skipped,
        ..
    } = report;
    if cli.json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|why| Failure::while_("JSON", why))?);
    } else {
        println!("# {passed} passed, {failed} failed, {skipped} skipped");
    }
    if failed != 0 {
        return Err(Failure::Failed(format!("{failed} checks failed")));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some((first, numbers)) = arguments.split_first()
        && first == PROBE
    {
        return ExitCode::from(u8::from(!probe(numbers)));
    }
    exit::end("byway-selftest", run(&Cli::parse()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn outcomes_are_told_apart_in_tap() {
        let line = |outcome, detail: Option<&str>| Line {
            name: "x",
            outcome,
            detail: detail.map(str::to_owned),
        };
        assert_eq!(tap(1, &line("passed", None)), "ok 1 - x");
        assert_eq!(tap(2, &line("skipped", Some("no"))), "ok 2 - x # SKIP no");
        assert_eq!(tap(3, &line("failed", Some("no"))), "not ok 3 - x\n# no");
    }
}
