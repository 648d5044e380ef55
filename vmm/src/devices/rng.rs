//! virtio-rng (virtio 1.2, section 5.4): random numbers of the host's kernel, no faster than a rate.
//!
//! The rate keeps one guest from making the host's kernel compute for it without end; what is asked beyond
//! it waits, and nothing is lost.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};

use super::memory::DeviceMemory;
use super::seat::{Again, Confine, OwnThread, Seat, Serve};
use super::served_queue::{Chain, ServedQueue, bytes_of, cut};
use super::settings::RngSettings;
use super::virtio::{DeviceError, QueueSetup, VirtioDevice};

/// Descriptors of the queue.
const QUEUE_SIZE: u16 = 64;
/// Most bytes for one request: a short answer is a good one.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Requests that are answered before others may have the device's lock.
const BURST: u32 = 16;

/// A virtio-rng device.
#[derive(Debug)]
pub struct RngDevice {
    seat: Seat<State>,
    memory: DeviceMemory,
    event_idx: bool,
}

#[derive(Debug)]
struct State {
    queue: Option<ServedQueue>,
    /// A request that waits for its turn.
    waiting: Option<Chain>,
    budget: Budget,
}

impl RngDevice {
    /// A device that gives as `settings` say.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new(memory: DeviceMemory, settings: RngSettings) -> io::Result<Self> {
        Ok(Self {
            seat: Seat::new(State {
                queue: None,
                waiting: None,
                budget: Budget::new(settings.bytes_per_s, Instant::now()),
            })?,
            memory,
            event_idx: false,
        })
    }
}

impl OwnThread for RngDevice {
    fn start_thread(&mut self, name: String, confine: Confine) -> io::Result<()> {
        self.seat.start(name, confine)
    }

    fn set_resting(&self, rests: bool) {
        self.seat.set_resting(rests);
    }

    fn settle(&self) {
        self.seat.with(|_| ());
    }
}

impl VirtioDevice for RngDevice {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn set_features(&mut self, features: u64) -> Result<(), DeviceError> {
        self.event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        Ok(())
    }

    fn queue_count(&self) -> usize {
        1
    }

    fn queue_max_size(&self) -> u16 {
        QUEUE_SIZE
    }

    /// There is none (5.4.4).
    fn read_config(&self, _offset: u32, data: &mut [u8]) {
        data.fill(0);
    }

    fn start_queue(&mut self, _index: usize, queue: QueueSetup) -> Result<(), DeviceError> {
        let queue = ServedQueue::new(queue, &self.memory, self.event_idx)?;
        self.seat.with(|state| state.queue = Some(queue));
        Ok(())
    }

    fn stop_queue(&mut self, _index: usize) -> Result<(), DeviceError> {
        self.seat.with(State::forget);
        Ok(())
    }

    fn reset(&mut self) {
        self.seat.with(State::forget);
        self.event_idx = false;
    }
}

impl State {
    fn forget(&mut self) {
        (self.queue, self.waiting) = (None, None);
    }
}

impl Serve for State {
    fn waits(&self) -> Vec<RawFd> {
        let kick = self.queue.iter().map(|queue| queue.kick().as_raw_fd());
        kick.collect()
    }

    fn serve(&mut self) -> Again {
        let Some(queue) = &mut self.queue else {
            return Again::WhenReady;
        };
        queue.clear_kick();
        for _ in 0..BURST {
            let waited = self.waiting.take();
            let next = waited.or_else(|| queue.pop()).or_else(|| queue.arm_empty());
            let Some(chain) = next else {
                return Again::WhenReady;
            };
            let wanted = bytes_of(chain.writable()).min(ANSWER_BYTES_MAX);
            let now = Instant::now();
            let granted = self.budget.take(wanted, now);
            if granted == 0 && wanted > 0 {
                self.waiting = Some(chain);
                return Again::At(self.budget.next(now));
            }
            let written = fill(&chain, granted);
            queue.complete(&chain, written);
            queue.signal();
        }
        Again::Now
    }
}

/// Writes random bytes to the first of a chain; returns how many.
fn fill(chain: &Chain, bytes: u64) -> u64 {
    let mut random = [0; ANSWER_BYTES_MAX as usize];
    let mut written = 0;
    for part in cut(chain.writable(), 0, bytes) {
        let random = &mut random[..part.len as usize];
        let put = get_random(random).is_ok()
            && chain
                .memory()
                .write_slice(random, GuestAddress(part.addr))
                .is_ok();
        if !put {
            break;
        }
        written += u64::from(part.len);
    }
    written
}

fn get_random(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        // SAFETY: the buffer is live and its length is given.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => done += got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::warn!("the host gives no random numbers: {error}");
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Bytes that may be given now: a bucket that fills at a rate and holds what a second brings, up to an answer's most.
#[derive(Debug)]
struct Budget {
    bytes_per_s: u64,
    most: u64,
    left: u64,
    /// Up to when what has come is counted.
    counted: Instant,
}

impl Budget {
    fn new(bytes_per_s: u64, now: Instant) -> Self {
        let most = bytes_per_s.clamp(1, ANSWER_BYTES_MAX);
        Self {
            bytes_per_s: bytes_per_s.max(1),
            most,
            left: most,
            counted: now,
        }
    }

    /// Takes up to `wanted` bytes.
    fn take(&mut self, wanted: u64, now: Instant) -> u64 {
        let passed_ns = now.saturating_duration_since(self.counted).as_nanos();
        let come = passed_ns.saturating_mul(self.bytes_per_s.into()) / 1_000_000_000;
        if come > 0 {
            // What is left of a byte stays counted as time.
            let counted_ns = come.saturating_mul(1_000_000_000) / u128::from(self.bytes_per_s);
            self.counted += Duration::from_nanos(counted_ns.min(u64::MAX.into()) as u64);
            let come = u64::try_from(come).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(come).min(self.most);
        }
        let granted = wanted.min(self.left);
        self.left -= granted;
        granted
    }

    /// When there will be enough for it to be worth while.
    fn next(&self, now: Instant) -> Instant {
        let enough = self.most.min(self.bytes_per_s.div_ceil(100));
        let ns = u128::from(enough) * 1_000_000_000 / u128::from(self.bytes_per_s);
        now + Duration::from_nanos(ns as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::test_driver::{DATA, Driver, SIZE, hostile, ram};
    use proptest::prelude::*;

    fn device(bytes_per_s: u64) -> (RngDevice, DeviceMemory) {
        let memory = DeviceMemory::new(ram());
        let mut device = RngDevice::new(memory.clone(), RngSettings { bytes_per_s }).unwrap();
        device
            .start_thread("test".to_owned(), Box::new(|| ()))
            .unwrap();
        (device, memory)
    }

    #[test]
    fn numbers_come_and_no_more_than_asked_for() {
        let (mut device, memory) = device(1 << 30);
        let mut driver = Driver::new(&mut device, 0, &memory);
        driver.request(&[], &[(DATA, 40), (DATA + 100, 24)]);
        assert_eq!(driver.used(), (0, 64));
        assert!(driver.interrupted(&device));
        let got = driver.read(DATA, 128);
        assert!(got[..40].iter().any(|byte| *byte != 0));
        assert!(got[40..100].iter().all(|byte| *byte == 0));
        assert!(got[124..].iter().all(|byte| *byte == 0));
        driver.request(&[], &[(DATA, 1 << 16)]);
        assert_eq!(driver.used(), (0, ANSWER_BYTES_MAX as u32));
    }

    #[test]
    fn who_asks_too_much_waits() {
        const RATE: u64 = 100;
        let (mut device, memory) = device(RATE);
        let mut driver = Driver::new(&mut device, 0, &memory);
        let start = Instant::now();
        driver.request(&[], &[(DATA, 1000)]);
        assert_eq!(driver.used(), (0, RATE as u32));
        driver.request(&[], &[(DATA, 1000)]);
        let (_, later) = driver.used();
        // One as soon as there is one, and on a busy host what has come together by the time that the thread has a core.
        let most = start.elapsed().as_millis() as u64 * RATE / 1000 + 1;
        assert!((1..=most).contains(&later.into()), "{later} of {most}");
        // Nothing is written after a stop, though a request waits.
        driver.request(&[], &[(DATA, 1000)]);
        device.stop_queue(0).unwrap();
        let before = driver.read(DATA, 1000);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(driver.read(DATA, 1000), before);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn no_chain_stops_the_device(
            descriptors in hostile(),
            heads in prop::collection::vec(0..SIZE, 1..8),
        ) {
            let (mut device, memory) = device(1 << 30);
            let mut driver = Driver::new(&mut device, 0, &memory);
            driver.describe(&descriptors);
            for head in &heads {
                driver.offer(*head);
            }
            for _ in &heads {
                let (_, written) = driver.used();
                prop_assert!(u64::from(written) <= ANSWER_BYTES_MAX);
            }
        }
    }

    #[test]
    fn no_more_is_given_than_the_rate() {
        for rate in [1, 7, 1000, 1 << 20, 1 << 30] {
            let start = Instant::now();
            let mut budget = Budget::new(rate, start);
            let mut given = 0;
            let mut now = start;
            for step in 0..2000u64 {
                given += budget.take(1 << 20, now);
                now += Duration::from_micros(1 + step % 1500);
            }
            let seconds = (now - start).as_secs_f64();
            let most = rate as f64 * seconds + budget.most as f64;
            assert!(given as f64 <= most, "{given} of {most} at {rate}");
            assert!(budget.next(now) > now);
        }
    }

    #[test]
    fn what_is_left_comes_in_time() {
        let start = Instant::now();
        let mut budget = Budget::new(100, start);
        assert_eq!(budget.take(1000, start), 100);
        assert_eq!(budget.take(1000, start), 0);
        assert_eq!(budget.take(1000, start + Duration::from_millis(505)), 50);
        assert_eq!(budget.take(1000, start + Duration::from_millis(510)), 1);
        assert_eq!(budget.take(1000, start + Duration::from_secs(100)), 100);
    }
}
