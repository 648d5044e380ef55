//! `byway domain`: domains that come and go while an engine runs, and who may attach to them.

use byway_engine::interface::{Action, Quotas};
use clap::{Args, Subcommand};

use super::ask::{Common, done};
use super::share::ShareOptions;
use crate::config::Name;
use crate::exit_status::Failure;

/// Arguments of `byway domain`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A domain is what one VMM attaches to, by the socket NAME.sock in the engine's folder. `byway ps` lists them.\n\nExamples:\n  byway domain create carol --queues 64 --weight 32\n  byway domain admit carol --uid 1002\n  byway domain remove carol"
)]
pub struct DomainArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Announce a domain, which a VMM may attach to from then on
    Create(Box<Create>),
    /// Forget a domain: its VMM is detached first, and all that was given over its memory revoked
    #[command(after_help = "Example:\n  byway domain remove carol")]
    Remove {
        /// The domain
        name: Name,
    },
    /// Say whose processes may attach to a domain, from the next one on
    #[command(
        after_help = "Whoever is attached stays. The engine of a `byway run --api` has no sockets and refuses.\n\nExamples:\n  byway domain admit carol --uid 1002\n  byway domain admit carol               the engine's own user only"
    )]
    Admit {
        /// The domain
        name: Name,
        /// The user, by number; without, the engine's own only
        #[arg(long)]
        uid: Option<u32>,
    },
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "What is not said is as in a file ([domain.quotas]). The engine's own user alone may attach at first: see `byway domain admit`.\n\nExamples:\n  byway domain create carol\n  byway domain create carol --queues 64 --queue-entries 1024 --bytes-per-s 1000000000"
)]
struct Create {
    /// Its name, and its socket's; "admin" is taken
    name: Name,
    #[command(flatten)]
    quotas: QuotaOptions,
    #[command(flatten)]
    share: ShareOptions,
}

/// Named as the keys of `[domain.quotas]`.
#[derive(Debug, Clone, Args)]
struct QuotaOptions {
    /// Address spaces bound at once; this and the counts below: up to 1048576
    #[arg(long, value_name = "N")]
    address_spaces: Option<u32>,
    /// Contexts open at once
    #[arg(long, value_name = "N")]
    contexts: Option<u32>,
    /// Work queues at once
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// Entries of one queue's ring at most: a power of two
    #[arg(long, value_name = "N")]
    queue_entries: Option<u32>,
    /// Capabilities derived at once, those given away included
    #[arg(long, value_name = "N")]
    capabilities: Option<u32>,
    /// Offers waiting to be accepted at once
    #[arg(long, value_name = "N")]
    offers: Option<u32>,
    /// Queues that are polled without end
    #[arg(long, value_name = "N")]
    no_park_queues: Option<u32>,
    /// Descriptors that wait for a page at once, up to 65536
    #[arg(long, value_name = "N")]
    parked: Option<u32>,
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Host`] when no engine answers, [`Failure::Usage`] when there is no such domain, or one already, or a quota is out
/// of range, else [`Failure::Failed`].
pub fn domain(args: &DomainArgs) -> Result<(), Failure> {
    let action = match &args.verb {
        Verb::Create(create) => create.action()?,
        Verb::Remove { name } => Action::RemoveDomain {
            name: name.0.clone(),
        },
        Verb::Admit { name, uid } => Action::Admit {
            name: name.0.clone(),
            uid: *uid,
        },
    };
    done(&args.common, &action)
}

impl Create {
    fn action(&self) -> Result<Action, Failure> {
        let (options, default) = (&self.quotas, Quotas::default());
        let quotas = Quotas {
            address_spaces: options.address_spaces.unwrap_or(default.address_spaces),
            contexts: options.contexts.unwrap_or(default.contexts),
            queues: options.queues.unwrap_or(default.queues),
            queue_entries: options.queue_entries.unwrap_or(default.queue_entries),
            capabilities: options.capabilities.unwrap_or(default.capabilities),
            offers: options.offers.unwrap_or(default.offers),
            no_park_queues: options.no_park_queues.unwrap_or(default.no_park_queues),
            parked: options.parked.unwrap_or(default.parked),
            share: self.share.instead_of(default.share),
        };
        quotas
            .check()
            .map_err(|error| Failure::usage(format!("quota {error}")))?;
        Ok(Action::CreateDomain {
            name: self.name.0.clone(),
            quotas,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    /// Each option is a key, and each key an option.
    #[test]
    fn options_become_the_quotas_that_a_file_would_have() {
        let mut quotas = serde_json::to_value(Quotas::default()).unwrap();
        let share = quotas.as_object_mut().unwrap().remove("share").unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let (own, shared) = (keys(&quotas), keys(&share));
        for key in own.iter().chain(&shared) {
            let option = format!("--{}", key.replace('_', "-"));
            let line = Line::try_parse_from(["create", "carol", &option, "64"]).unwrap();
            let mut expected = (quotas.clone(), share.clone());
            let part = if own.contains(key) {
                &mut expected.0
            } else {
                &mut expected.1
            };
            part[key] = 64.into();
            let mut all = expected.0;
            all["share"] = expected.1;
            let action =
                serde_json::json!({"action": "create-domain", "name": "carol", "quotas": all});
            let said = line.create.action().unwrap();
            assert_eq!(said, serde_json::from_value(action).unwrap(), "{option}");
        }
    }
}
