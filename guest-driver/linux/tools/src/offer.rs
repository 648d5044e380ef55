//! An offer to a guest that may not be up yet.

use std::time::{Duration, Instant};

use byway_linux::{Name, Reason, Rights, Share};

use crate::exit::Failure;

/// Time between two tries: a guest takes seconds to boot.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Offers memory to a peer. One that is permitted, but has no driver at present that could be told, is waited
/// for until then, or without end; who waits is told so, in the name of `command`.
///
/// # Errors
/// What the kernel refuses else; that nobody came in time.
pub fn when_there(
    command: &str,
    share: &Share,
    (peer, port): (&Name, &Name),
    rights: Rights,
    until: Option<Instant>,
) -> Result<(), Failure> {
    let mut told = false;
    loop {
        match share.offer(peer, port, rights) {
            Err(why) if why.reason() == Some(Reason::NoSuchObject) => {}
            other => return Ok(other?),
        }
        if !told {
            eprintln!("{command}: {peer} is not up; waiting");
            told = true;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Failure::Failed(format!(
                "given up: {peer} did not come up, or its Byway module is not loaded"
            )));
        }
        std::thread::sleep(TRY_EVERY);
    }
}
