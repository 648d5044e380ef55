//! The split virtqueue alone, with a device's hand in its used ring.

use super::fake::{FakeHal, Shared, world};
use crate::dma::Dma;
use crate::error::Broken;
use crate::hal::Hal;
use crate::virtqueue::{Buffer, Used, Virtqueue};
use std::sync::atomic::Ordering;
use std::vec::Vec;

type Small = Virtqueue<4>;
/// Offset of the used ring behind 4 descriptors and the available ring.
const USED: usize = 64 + 16;
const PART: Buffer = Buffer {
    gpa: 0x1234,
    bytes: 100,
};

/// A page, and the world that it is of.
fn page() -> (Shared, Dma) {
    let world = world();
    let dma = Dma::new(FakeHal(world.clone()).allocate(1).unwrap());
    (world, dma)
}

/// The device returns a chain as its `number`th.
fn give(dma: &Dma, number: u16, head: u32, written: u32) {
    let element = USED + 4 + 8 * usize::from(number % 4);
    dma.store_u32(element, head, Ordering::Relaxed);
    dma.store_u32(element + 4, written, Ordering::Relaxed);
    dma.store_u16(USED + 2, number + 1, Ordering::Release);
}

#[test]
fn entries_are_lent_until_their_chain_is_back() {
    let (_world, dma) = page();
    let mut queue = Small::new();
    let heads: Vec<u16> = (0..2)
        .map(|_| queue.push(&dma, &[PART], &[PART]).unwrap())
        .collect();
    assert_ne!(heads[0], heads[1]);
    assert_eq!(
        queue.push(&dma, &[], &[PART]),
        None,
        "two chains of two parts are all"
    );
    assert_eq!(queue.pop(&dma), Ok(None));

    // In the other order.
    give(&dma, 0, u32::from(heads[1]), 100);
    assert_eq!(
        queue.pop(&dma),
        Ok(Some(Used {
            head: heads[1],
            written: 100
        }))
    );
    assert!(queue.push(&dma, &[], &[PART]).is_some());
    assert!(queue.push(&dma, &[], &[PART]).is_some());
    assert_eq!(queue.push(&dma, &[], &[PART]), None);
}

#[test]
fn a_chain_comes_back_once() {
    let (_world, dma) = page();
    let mut queue = Small::new();
    let head = queue.push(&dma, &[], &[PART]).unwrap();
    queue.push(&dma, &[], &[PART]).unwrap();
    give(&dma, 0, u32::from(head), 0);
    assert!(queue.pop(&dma).unwrap().is_some());
    give(&dma, 1, u32::from(head), 0);
    assert_eq!(queue.pop(&dma), Err(Broken::UsedElement));
}

#[test]
fn the_second_part_of_a_chain_is_no_chain() {
    let (_world, dma) = page();
    let mut queue = Small::new();
    let head = queue.push(&dma, &[PART], &[PART]).unwrap();
    let other = (0..4).find(|entry| *entry != head).unwrap();
    give(&dma, 0, u32::from(other), 0);
    assert_eq!(queue.pop(&dma), Err(Broken::UsedElement));
}

#[test]
fn indices_wrap() {
    let (_world, dma) = page();
    let mut queue = Small::new();
    for number in 0..=u16::MAX {
        let head = queue.push(&dma, &[], &[PART]).unwrap();
        let element = USED + 4 + 8 * usize::from(number % 4);
        dma.store_u32(element, u32::from(head), Ordering::Relaxed);
        dma.store_u16(USED + 2, number.wrapping_add(1), Ordering::Release);
        assert_eq!(queue.pop(&dma), Ok(Some(Used { head, written: 0 })));
    }
    assert_eq!(queue.pop(&dma), Ok(None));
}
