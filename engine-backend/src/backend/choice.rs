//! Which backend the workers of an engine get.

use serde::{Deserialize, Serialize};

use super::dsa::{Candidate, Dsa, Mode, OpenError, QueueInfo, UserQueue, candidates};

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// DSA for the workers for which there is a queue, software for the others.
    #[default]
    Auto,
    /// Software.
    Software,
    /// DSA for every worker, or the engine does not start.
    Dsa,
}

/// Why every worker cannot have a DSA queue.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// There are too few.
    #[error(
        "backend = \"dsa\" for {workers} workers: there are usable work queues for {found} \
         ({why}); see `byway doctor`"
    )]
    TooFew {
        /// Workers.
        workers: usize,
        /// Those that could have one.
        found: usize,
        /// What was wrong with others.
        why: String,
    },
    /// One cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The backends of an engine's workers.
#[derive(Debug)]
pub enum Backends {
    /// Software for all.
    Software,
    /// One each: DSA, or software where `None` was opened.
    Dsa(Vec<Dsa<UserQueue>>, Vec<Option<String>>),
}

impl Backends {
    /// Opens what the choice asks for.
    ///
    /// # Errors
    /// See [`ChoiceError`]; with [`Choice::Dsa`] only.
    pub fn open(choice: Choice, workers: usize) -> Result<Self, ChoiceError> {
        if choice == Choice::Software {
            return Ok(Self::Software);
        }
        let is_must = choice == Choice::Dsa;
        let (queues, unusable) = sort(candidates());
        let assigned = assign(&queues, workers);
        let found = assigned.iter().flatten().count();
        if is_must && found < workers {
            return Err(ChoiceError::TooFew {
                workers,
                found,
                why: unusable,
            });
        }
        let mut backends = Vec::with_capacity(workers);
        let mut names = Vec::with_capacity(workers);
        for queue in assigned {
            let opened = queue.map(|at| UserQueue::open(&queues[at]).map(|q| (q, at)));
            match opened {
                Some(Ok((queue, at))) => {
                    backends.push(Dsa::new(Some(queue)));
                    names.push(Some(queues[at].name.clone()));
                    continue;
                }
                Some(Err(error)) if is_must => return Err(error.into()),
                Some(Err(error)) => {
                    tracing::warn!(%error, "a DSA work queue stays unused");
                }
                None => {}
            }
            backends.push(Dsa::new(None));
            names.push(None);
        }
        Ok(if names.iter().any(Option::is_some) {
            Self::Dsa(backends, names)
        } else {
            Self::Software
        })
    }

    /// What each of `workers` workers got, for reports: a queue's name or `software`.
    #[must_use]
    pub fn names(&self, workers: usize) -> Vec<String> {
        let software = || "software".to_owned();
        match self {
            Self::Software => vec![software(); workers],
            Self::Dsa(_, names) => names
                .iter()
                .map(|name| {
                    name.as_ref()
                        .map_or_else(software, |name| format!("dsa {name}"))
                })
                .collect(),
        }
    }
}

/// The usable queues, and what is said of the others.
fn sort(candidates: Vec<Candidate>) -> (Vec<QueueInfo>, String) {
    let mut usable = Vec::new();
    let mut others = Vec::new();
    for candidate in candidates {
        match candidate.found {
            Ok(info) => usable.push(info),
            Err(why) => others.push(format!("{}: {why}", candidate.name)),
        }
    }
    if others.is_empty() {
        others.push("no others are there".to_owned());
    }
    (usable, others.join("; "))
}

/// Gives each worker a queue: dedicated ones to one worker each, then shared ones in turn.
fn assign(queues: &[QueueInfo], workers: usize) -> Vec<Option<usize>> {
    let of = |mode| (0..queues.len()).filter(move |&at| queues[at].mode == mode);
    let shared: Vec<usize> = of(Mode::Shared).collect();
    of(Mode::Dedicated)
        .chain(shared.into_iter().cycle())
        .map(Some)
        .chain(std::iter::repeat(None))
        .take(workers)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::dsa::{Operations, Unusable};

    fn queue(name: &str, mode: Mode) -> QueueInfo {
        QueueInfo {
            name: name.to_owned(),
            node: "/nowhere/queue".into(),
            mode,
            size: 16,
            transfer_bytes_max: 1 << 21,
            batch_max: 32,
            operations: Operations::default(),
            version: 0x100,
        }
    }

    #[test]
    fn a_dedicated_queue_goes_to_one_worker_and_a_shared_one_to_many() {
        let (a, b) = (queue("a", Mode::Shared), queue("b", Mode::Dedicated));
        assert_eq!(assign(&[], 2), [None, None]);
        assert_eq!(assign(std::slice::from_ref(&b), 2), [Some(0), None]);
        assert_eq!(assign(&[a.clone(), b], 3), [Some(1), Some(0), Some(0)]);
        let c = queue("c", Mode::Shared);
        assert_eq!(assign(&[a, c], 3), [Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn what_is_wrong_with_the_others_is_said() {
        let (usable, why) = sort(vec![
            Candidate {
                name: "wq0.0".into(),
                found: Ok(queue("wq0.0", Mode::Shared)),
            },
            Candidate {
                name: "wq0.1".into(),
                found: Err(Unusable::State("disabled".into())),
            },
        ]);
        assert_eq!(usable.len(), 1);
        assert!(why.contains("wq0.1: it is \"disabled\""), "{why}");
    }

    #[test]
    fn without_a_device_auto_is_software_and_dsa_is_an_error() {
        if candidates().iter().any(|c| c.found.is_ok()) {
            return;
        }
        let auto = Backends::open(Choice::Auto, 2).unwrap();
        assert_eq!(auto.names(2), ["software", "software"]);
        let error = Backends::open(Choice::Dsa, 2).unwrap_err().to_string();
        assert!(error.contains("2 workers"), "{error}");
        assert!(Backends::open(Choice::Software, 1).is_ok());
    }
}
