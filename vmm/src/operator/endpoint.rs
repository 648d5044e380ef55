//! `byway endpoint`: block devices that an engine drives, and who may use them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use byway_engine::daemon::ANSWER_MAX;
use byway_engine::interface::{Action, EndpointConfig, EndpointGrant, EndpointInfo, EndpointKind};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::ask::{Common, done, done_within, endpoints, show};
use super::tables;
use crate::config::{ByteSize, Name};
use crate::exit_status::Failure;

/// How often a device may take its time before it is open: to be connected to, to say what it is, and to start.
const TALKS: u32 = 3;

/// Arguments of `byway endpoint`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "An endpoint is a block device under a name by which guests ask for it. Nobody may use it by default.\n\nExamples:\n  byway endpoint attach disk --kind file --path disk.img\n  byway endpoint grant disk alice --read --write --bytes 64M\n  byway endpoint list\n  byway endpoint list --api /run/byway-vms.sock --json | jq '.endpoints[] | {name, attached}'\n  byway endpoint ungrant disk alice\n  byway endpoint detach disk"
)]
pub struct EndpointArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// List endpoints, whether their devices are there, who may use them, and what was done
    #[command(
        after_help = "Users are shown with their rights (r: read, w: write, t: trusted) and their part of the device.\n\nExamples:\n  byway endpoint list\n  byway endpoint list --json | jq '.endpoints[] | select(.attached | not) | {name, reason}'"
    )]
    List,
    /// Open a block device under a name, or one that is gone again
    Attach(Attach),
    /// Take a device away; what guests were given of it waits for it to come back
    #[command(after_help = "Example:\n  byway endpoint detach disk")]
    Detach {
        /// The endpoint
        name: Name,
    },
    /// Let a domain use bytes of an endpoint, in place of what it was let use before
    Grant(Grant),
    /// Take that back, and revoke all that came of it
    #[command(after_help = "Example:\n  byway endpoint ungrant disk alice")]
    Ungrant {
        /// The endpoint
        endpoint: Name,
        /// The domain
        domain: Name,
    },
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A device that is gone comes back by the same name with the same options: `byway endpoint list --json` tells them.\n\nExamples:\n  byway endpoint attach disk --kind file --path /dev/vg/disk --read-only\n  byway endpoint attach far --kind vhost-user-blk --path /run/far.sock --timeout-ms 5000"
)]
struct Attach {
    /// What guests ask for it by
    name: Name,
    /// What carries it: file (or block device), vhost-user-blk or nvme (a socket), nvme-model (a file)
    #[arg(long)]
    kind: EndpointKind,
    /// The file, device or socket; the engine opens it, with its own rights
    #[arg(long)]
    path: PathBuf,
    /// Nobody may write to it
    #[arg(long)]
    read_only: bool,
    /// A request that takes longer: the device is gone. In milliseconds, 10 to 600000
    #[arg(long, value_name = "N", default_value_t = EndpointConfig::TIMEOUT_MS_DEFAULT, value_parser = timeout_ms)]
    timeout_ms: u32,
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  byway endpoint grant disk alice --read\n  byway endpoint grant disk bob --read --write --first 64M --bytes 1G"
)]
struct Grant {
    /// The endpoint
    endpoint: Name,
    /// The domain
    domain: Name,
    /// First byte, a multiple of the endpoint's blocks (K, M, G)
    #[arg(long, value_name = "SIZE", default_value_t)]
    first: ByteSize,
    /// How many, a multiple of the blocks too (K, M, G); all behind the first without
    #[arg(long, value_name = "SIZE")]
    bytes: Option<ByteSize>,
    /// Permit reading
    #[arg(long)]
    read: bool,
    /// Permit writing
    #[arg(long)]
    write: bool,
    /// Let the device reach what the domain's kernel has pinned, without a copy. Revocations wait for the device then:
    /// it needs --timeout-ms 10000 at most
    #[arg(long)]
    trusted: bool,
}

/// What `byway endpoint list` tells.
#[derive(Serialize)]
struct Listing {
    endpoints: Vec<EndpointInfo>,
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Host`] when no engine answers, [`Failure::Usage`] when there is no such endpoint or domain, or the device or the
/// grant cannot be, else [`Failure::Failed`].
pub fn endpoint(args: &EndpointArgs) -> Result<(), Failure> {
    let common = &args.common;
    match &args.verb {
        Verb::List => {
            let listing = Listing {
                endpoints: endpoints(common)?,
            };
            let table = tables::endpoint_list(&listing.endpoints);
            show(common, &listing, &table)
        }
        Verb::Attach(attach) => done_within(common, &attach.action()?, attach.limit()),
        Verb::Detach { name } => {
            let name = name.0.clone();
            done(common, &Action::DetachEndpoint { name })
        }
        Verb::Grant(grant) => done(common, &grant.action()?),
        Verb::Ungrant { endpoint, domain } => {
            let (endpoint, domain) = (endpoint.0.clone(), domain.0.clone());
            done(common, &Action::UngrantEndpoint { endpoint, domain })
        }
    }
}

impl Attach {
    fn action(&self) -> Result<Action, Failure> {
        Ok(Action::AttachEndpoint(EndpointConfig {
            name: self.name.0.clone(),
            kind: self.kind,
            path: absolute(&self.path)?,
            read_only: self.read_only,
            timeout_ms: self.timeout_ms,
        }))
    }

    /// How long the engine may take, which waits for the device.
    fn limit(&self) -> Duration {
        ANSWER_MAX + TALKS * Duration::from_millis(self.timeout_ms.into())
    }
}

/// What the user sees as a relative path is relative to the user's folder, not to the engine's.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("--path {path:?} is no path: {error}")))
}

impl Grant {
    fn action(&self) -> Result<Action, Failure> {
        if !self.read && !self.write && !self.trusted {
            return Err(Failure::usage(
                "the grant would permit nothing: add --read, --write or --trusted, or use `byway endpoint ungrant`",
            ));
        }
        Ok(Action::GrantEndpoint(EndpointGrant {
            endpoint: self.endpoint.0.clone(),
            domain: self.domain.0.clone(),
            first: self.first.0,
            bytes: self.bytes.map_or(0, |size| size.0),
            read: self.read,
            write: self.write,
            trusted: self.trusted,
        }))
    }
}

fn timeout_ms(text: &str) -> Result<u32, String> {
    let range = EndpointConfig::TIMEOUT_MS;
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("use {} to {} milliseconds", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: EndpointArgs,
    }

    fn verb(arguments: &str) -> Verb {
        let all = "byway ".to_owned() + arguments;
        Line::try_parse_from(all.split(' ')).unwrap().args.verb
    }

    #[test]
    fn a_device_that_may_take_long_is_waited_for_longer() {
        for (timeout, least) in [("10", 30_000), ("30000", 120_000), ("600000", 1_800_000)] {
            let line = format!("attach a --kind file --path a --timeout-ms {timeout}");
            let Verb::Attach(attach) = verb(&line) else {
                panic!("{line}");
            };
            assert!(attach.limit() >= Duration::from_millis(least), "{timeout}");
        }
    }

    #[test]
    fn options_become_what_a_file_would_say() {
        for (line, json) in [
            (
                "attach disk --kind vhost-user-blk --path /d --read-only",
                r#"{"action":"attach-endpoint","name":"disk","kind":"vhost-user-blk","path":"/d","read_only":true}"#,
            ),
            (
                "grant disk alice --write --trusted --first 4K --bytes 1M",
                r#"{"action":"grant-endpoint","endpoint":"disk","domain":"alice","first":4096,"bytes":1048576,"write":true,"trusted":true}"#,
            ),
            (
                "grant disk alice --read",
                r#"{"action":"grant-endpoint","endpoint":"disk","domain":"alice","read":true}"#,
            ),
        ] {
            let action = match verb(line) {
                Verb::Attach(attach) => attach.action(),
                Verb::Grant(grant) => grant.action(),
                other => panic!("{other:?}"),
            };
            assert_eq!(
                action.unwrap(),
                serde_json::from_str(json).unwrap(),
                "{line}"
            );
        }
    }
}
