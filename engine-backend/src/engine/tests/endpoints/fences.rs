//! What waits for descriptors that are at devices, and what passes them.

use super::peer_world::{DISK, Peers, blk};
use super::*;
use crate::testing::Mischief;

/// Where alice has what is copied, and the copies: one that may pass, one that has to wait.
const FROM: u64 = 4 << 20;
const PASSES: u64 = 5 << 20;
const WAITS: u64 = 6 << 20;
/// Long enough for a worker to have done it by mistake.
const MISTAKE: std::time::Duration = std::time::Duration::from_millis(50);

#[test]
fn a_fence_waits_for_what_is_at_a_device_and_others_pass() {
    // The short way and the usual one.
    for size in [64, 64 << 10] {
        let mut world = Peers::new(&blk(Mischief::Silent, 0, DISK));
        let slot = world.slots[1];
        world.alice.fill(FROM, size, 7);
        for place in [PASSES, WAITS] {
            world.alice.fill(place, size, 0);
        }
        let copied = world.alice.read(FROM, size);
        let to = |place| copy((0, BUFFER + FROM), (0, BUFFER + place), size);
        let mut fenced = to(WAITS);
        fenced.flags_opcode |= Flags::FENCE.0;
        world.ask_read(slot, 0, 4096);
        world.alice.submit(&to(PASSES));
        world.alice.submit(&fenced);
        until("what passes", || world.alice.read(PASSES, size) == copied);
        std::thread::sleep(MISTAKE);
        assert!(
            world.alice.read(WAITS, size).iter().all(|&byte| byte == 0),
            "a fence of {size} bytes did not wait"
        );
        // The device goes with the request in its hands.
        let name = "peer".to_owned();
        world.engine.act(Action::DetachEndpoint { name }).unwrap();
        let ends: Vec<_> = (0..3).map(|_| world.alice.queue.wait().status()).collect();
        let success = Some(Status::Success);
        assert_ne!(ends[0], success);
        assert_eq!(ends[1..], [success, success]);
        assert!(world.alice.read(WAITS, size) == copied);
    }
}
