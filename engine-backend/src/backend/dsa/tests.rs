//! The same descriptors on both backends, and a device that misbehaves.
//!
//! A pair of worlds - two guests with a process each - is set up alike, one served with
//! [`Software`], one with [`Dsa`] on the model of a device. Whatever the descriptors are,
//! bytes, completions and the page tables' A and D bits must be the same in both.

mod differential;
mod failures;
mod world;

use super::model::{Model, Plan, features};
use super::{Dsa, Entry, Features, Operations, Patience, Tuning, model};

/// Everything above the short way goes to the device, so that it is met often.
const EAGER: Tuning = Tuning {
    total_min: 4097,
    piece_min: 1,
    answer_min: 1,
    patience: Patience {
        tries_max: 4,
        looks_max: 10_000,
    },
};

const ENTRIES: [Entry; 4] = [
    Entry::Enqcmd,
    Entry::Movdir64b { credits: 1 },
    Entry::Movdir64b { credits: 5 },
    Entry::Write,
];

fn dsa(features: Features, plan: Plan) -> Dsa<Model> {
    Dsa::with_tuning(Some((Model::new(features, plan), features)), EAGER)
}

fn calm(entry: Entry) -> Dsa<Model> {
    dsa(features(entry), Plan::CALM)
}
