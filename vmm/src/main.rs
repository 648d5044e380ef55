//! The `byway` command: parses its arguments, carries one command out, and turns the result
//! into an exit code (see `byway_vmm::exit_status`).

mod cli;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let cli = cli::Cli::parse();
    let filter = EnvFilter::try_from_env("BYWAY_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would tell of a standard error that is closed there, by a panic of the thread that logs.
        .log_internal_errors(false)
        .init();
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("byway: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
