//! What the engine's mechanisms cost on this machine, as one JSON object on the standard
//! output: translation, invalidation, revocation, idle queues, fairness.
//!
//!     cargo run --release -p byway-engine --features testing --example figures [SECTION]
//!
//! With SECTION only that one: `translation`, `invalidation`, `revocation`, `queues`,
//! `fairness`. Not a test: figures of a busy machine mean little, and ratios of two of
//! them are to be looked at before the figures themselves.

mod bench;
mod fairness;
mod queues;
mod revocation;
mod translation;

use serde_json::{Map, Value};

/// Takes its figures.
type Section = fn() -> Value;

fn main() {
    let wanted = std::env::args().nth(1);
    let sections: [(&str, Section); 5] = [
        ("translation", translation::figures),
        ("invalidation", revocation::invalidation),
        ("revocation", revocation::figures),
        ("queues", queues::figures),
        ("fairness", fairness::figures),
    ];
    let report: Map<String, Value> = sections
        .into_iter()
        .filter(|(name, _)| wanted.as_ref().is_none_or(|w| w == name))
        .map(|(name, section)| (name.to_owned(), section()))
        .collect();
    println!("{:#}", Value::Object(report));
}
