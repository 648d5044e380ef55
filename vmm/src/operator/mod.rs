//! `byway ps`, `link`, `unlink`, `quota`, `audit`, `endpoint`, `domain`: what the operator asks of a running engine.
//!
//! Each is one [`Action`] sent to the admin socket, or to that of a `byway run --api`, and its answer shown, as a table for
//! people or as JSON for programs. Nothing is kept here.

mod ask;
mod domain;
mod endpoint;
mod share;
mod tables;
mod watch;

pub use ask::Common;
pub(crate) use ask::print;
pub use domain::{DomainArgs, domain};
pub use endpoint::{EndpointArgs, endpoint};
pub(crate) use tables::table;

use std::time::Duration;

use byway_engine::interface::{Action, AuditBooks, DomainInfo, EndpointInfo, LinkPolicy, Reply};
use clap::Args;
use serde::Serialize;

use crate::config::ByteSize;
use crate::exit_status::Failure;
use ask::{ask, domains, done, endpoints, show, unexpected};
use share::ShareOptions;

/// Arguments of `byway ps`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  byway ps --engine /run/byway\n  byway ps --engine /run/byway --json | jq '.domains[] | {name, bytes, walks_2m}'\n  byway ps --watch                     every second, until Ctrl-C\n  byway ps --watch=10 --json >>use.jsonl"
)]
pub struct PsArgs {
    /// Show it again every so many seconds (1), with what was done a second in between. With --json, a line each time
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", value_parser = watch::seconds)]
    watch: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `byway link`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A link has one direction: FROM may offer capabilities over its memory to TO. A link that is there is replaced; what it no longer permits is revoked.\n\nExamples:\n  byway link --engine /run/byway alice bob --read\n  byway link --engine /run/byway alice bob --read --write --max-bytes 64M"
)]
pub struct LinkArgs {
    /// Domain that owns the memory
    from: String,
    /// Domain that may be given access
    to: String,
    /// Permit reading
    #[arg(long)]
    read: bool,
    /// Permit writing
    #[arg(long)]
    write: bool,
    /// Permit passing on
    #[arg(long)]
    grant: bool,
    /// Permit keys to be given along it
    #[arg(long)]
    keys: bool,
    /// Most bytes of one capability (K, M, G); no limit without
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<ByteSize>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `byway unlink`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Everything that was given along the link is revoked before the command returns.\n\nExample:\n  byway unlink --engine /run/byway alice bob"
)]
pub struct UnlinkArgs {
    /// Domain that owns the memory
    from: String,
    /// Domain that was given access
    to: String,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `byway quota`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without an option the share is shown; with some, the others stay as they are.\n\nExamples:\n  byway quota --engine /run/byway alice\n  byway quota --engine /run/byway alice --weight 64 --bytes-per-s 1000000000"
)]
pub struct QuotaArgs {
    /// The domain
    name: String,
    #[command(flatten)]
    share: ShareOptions,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `byway audit`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  byway audit --engine /run/byway alice\n  byway audit --engine /run/byway alice --json --limit 65536"
)]
pub struct AuditArgs {
    /// Domain that owns the memory
    name: String,
    /// Most records of each kind, living and past
    #[arg(long, default_value_t = 1000)]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

/// What `byway ps` tells.
#[derive(Debug, Serialize)]
struct Use {
    domains: Vec<DomainInfo>,
    endpoints: Vec<EndpointInfo>,
}

/// Lists domains and endpoints and their use, once or until somebody ends it.
///
/// # Errors
/// See `ask`.
pub fn ps(args: &PsArgs) -> Result<(), Failure> {
    if let Some(every) = args.watch {
        return watch::watch(&args.common, every);
    }
    let used = look(&args.common)?;
    show(&args.common, &used, &tables::used(&used, None))
}

fn look(common: &Common) -> Result<Use, Failure> {
    Ok(Use {
        domains: domains(common)?,
        endpoints: endpoints(common)?,
    })
}

/// Permits capabilities along a link.
///
/// # Errors
/// See `ask`; a link that permits nothing is a usage error.
pub fn link(args: &LinkArgs) -> Result<(), Failure> {
    if !args.read && !args.write && !args.keys {
        return Err(Failure::usage(
            "the link would permit nothing: add --read, --write or --keys, or use `byway unlink`",
        ));
    }
    let policy = LinkPolicy {
        from: args.from.clone(),
        to: args.to.clone(),
        read: args.read,
        write: args.write,
        grant: args.grant,
        keys: args.keys,
        max_bytes: args.max_bytes.map_or(0, |size| size.0),
    };
    done(&args.common, &Action::Link(policy))
}

/// Forbids them again, and revokes.
///
/// # Errors
/// See `ask`.
pub fn unlink(args: &UnlinkArgs) -> Result<(), Failure> {
    let action = Action::Unlink {
        from: args.from.clone(),
        to: args.to.clone(),
    };
    done(&args.common, &action)
}

/// Shows or changes a domain's share of the workers.
///
/// # Errors
/// See `ask`.
pub fn quota(args: &QuotaArgs) -> Result<(), Failure> {
    let domains = domains(&args.common)?;
    let domain = domains.iter().find(|domain| domain.name == args.name);
    let now = domain
        .ok_or_else(|| {
            Failure::usage(format!(
                "no domain named {:?}; `byway ps` lists them",
                args.name
            ))
        })?
        .share;
    let share = args.share.instead_of(now);
    if share != now {
        let action = Action::Quota {
            name: args.name.clone(),
            share,
        };
        ask(&args.common, &action)?;
    }
    show(&args.common, &share, &tables::share(&args.name, &share))
}

/// Tells who was given what over a domain's memory.
///
/// # Errors
/// See `ask`.
pub fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let action = Action::Audit {
        name: args.name.clone(),
        limit: args.limit,
    };
    let books: AuditBooks = match ask(&args.common, &action)? {
        Reply::Audit(books) => books,
        _ => return Err(unexpected()),
    };
    show(&args.common, &books, &tables::books(&books))
}
