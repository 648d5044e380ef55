//! The `byway` command: parses its arguments, carries one command out, and turns the result
//! into an exit code (see `byway_vmm::exit_status`).

#![deny(clippy::print_stderr)]

mod cli;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use byway_vmm::say::say;
use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let cli = cli::Cli::parse();
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would tell of a standard error that is closed there, by a panic of the thread that logs.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(layer)
        .with(log_filter())
        .init();
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// What is logged, by `BYWAY_LOG`: a level, or `crate::module=level`, with commas between them. Regular expressions, which the
/// library can take too, would be half a MiB of code.
fn log_filter() -> Targets {
    let usual = Targets::new().with_default(LevelFilter::WARN);
    match std::env::var("BYWAY_LOG") {
        Ok(wanted) if !wanted.is_empty() => wanted.parse().unwrap_or_else(|_| {
            say(format_args!(
                "BYWAY_LOG={wanted:?} is not understood and has no effect; expected off, error, warn, info, \
                 debug or trace, or module=level, with commas between them"
            ));
            usual
        }),
        _ => usual,
    }
}
