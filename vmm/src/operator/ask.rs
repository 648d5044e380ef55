//! One action, asked of an engine wherever its operator's socket is, and its answer shown.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use byway_engine::daemon::{
    ANSWER_BYTES_MAX, ANSWER_MAX, Answer, ClientError, Refusal, RemoteEngine,
};
use byway_engine::interface::{Action, DomainInfo, EndpointInfo, Reply};
use clap::Args;
use serde::Serialize;

use crate::api::client::ask_at;
use crate::exit_status::Failure;

/// Which engine, and for whom the answer is.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Folder with the engine's sockets, as given to `byway engine --socket` [default: /run/byway]
    #[arg(long, value_name = "DIR", global = true, display_order = LAST)]
    engine: Option<PathBuf>,
    /// Ask the engine of a `byway run` instead, by the socket that was given to `byway run --api`
    #[arg(long, value_name = "PATH", global = true, display_order = LAST + 1)]
    api: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true, display_order = LAST + 2)]
    pub(super) json: bool,
}

/// Behind the options that a command has for itself.
const LAST: usize = 100;
/// The folder where none is given.
const FOLDER: &str = "/run/byway";

/// Asks the engine.
///
/// # Errors
/// [`Failure::Host`] when none is there, [`Failure::Usage`] when it knows nothing by that name or a
/// value is out of range, [`Failure::Failed`] for anything else.
pub(super) fn ask(common: &Common, action: &Action) -> Result<Reply, Failure> {
    ask_within(common, action, ANSWER_MAX)
}

/// The same, for what may take the engine longer than most.
pub(super) fn ask_within(
    common: &Common,
    action: &Action,
    limit: Duration,
) -> Result<Reply, Failure> {
    let folder = match (&common.engine, &common.api) {
        (Some(_), Some(_)) => {
            // Not by a rule of the parser's, which looks on one side of a subcommand at a time.
            return Err(Failure::usage(
                "--engine and --api name two engines: keep one of them",
            ));
        }
        (None, Some(path)) => {
            return match ask_at(path, action, limit, ANSWER_BYTES_MAX)? {
                Answer::Reply(reply) => Ok(reply),
                Answer::Error(refusal) => Err(refused(refusal)),
            };
        }
        (Some(folder), None) => folder,
        (None, None) => Path::new(FOLDER),
    };
    RemoteEngine::new(folder)
        .ask_within(action, limit)
        .map_err(|error| match error {
            ClientError::Absent { .. } | ClientError::Gone { .. } => Failure::host(error),
            ClientError::Refused(refusal) => refused(refusal),
            ClientError::Answer { .. } => Failure::failed(error),
        })
}

fn refused(refusal: Refusal) -> Failure {
    match refusal.error.as_str() {
        "bad-name" | "bad-quota" | "bad-request" | "endpoint" | "exists" | "unknown" => {
            Failure::usage(refusal.message)
        }
        _ => Failure::failed(refusal.message),
    }
}

/// Has something done, of which there is nothing to say.
///
/// # Errors
/// See [`ask`].
pub(super) fn done(common: &Common, action: &Action) -> Result<(), Failure> {
    done_within(common, action, ANSWER_MAX)
}

/// The same, for what may take the engine longer than most.
pub(super) fn done_within(
    common: &Common,
    action: &Action,
    limit: Duration,
) -> Result<(), Failure> {
    let reply = ask_within(common, action, limit)?;
    if common.json {
        return print(&serde_json::to_string(&reply).map_err(Failure::failed)?);
    }
    Ok(())
}

pub(super) fn domains(common: &Common) -> Result<Vec<DomainInfo>, Failure> {
    match ask(common, &Action::List)? {
        Reply::Domains { domains } => Ok(domains),
        _ => Err(unexpected()),
    }
}

pub(super) fn endpoints(common: &Common) -> Result<Vec<EndpointInfo>, Failure> {
    match ask(common, &Action::Endpoints)? {
        Reply::Endpoints { endpoints } => Ok(endpoints),
        _ => Err(unexpected()),
    }
}

pub(super) fn unexpected() -> Failure {
    Failure::failed("the engine answers something else than it was asked; is it of this version?")
}

pub(super) fn show(common: &Common, value: &impl Serialize, table: &str) -> Result<(), Failure> {
    if common.json {
        return print(&serde_json::to_string_pretty(value).map_err(Failure::failed)?);
    }
    print(table)
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::failed),
    }
}
