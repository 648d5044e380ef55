//! The register state machine, driven as a guest would, in front of a device that
//! records what it is asked.

use super::*;
use crate::devices::virtio::DeviceError;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

const RAM: usize = 1 << 20;
const FEATURE: u64 = 1 << 3;
const QUEUES: usize = 2;
const QUEUE_MAX: u16 = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Features(u64),
    Start(usize, u16, u64, u64, u64),
    Stop(usize),
    Reset,
}

#[derive(Default, Clone)]
struct Fake {
    calls: Arc<Mutex<Vec<Call>>>,
    refuse_features: bool,
    refuse_start: bool,
}

impl Fake {
    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

fn refusal() -> DeviceError {
    DeviceError {
        what: "no".to_owned(),
        source: None,
    }
}

impl VirtioDevice for Fake {
    fn device_id(&self) -> u32 {
        41
    }
    fn features(&self) -> u64 {
        FEATURE
    }
    fn set_features(&mut self, features: u64) -> Result<(), DeviceError> {
        self.note(Call::Features(features));
        if self.refuse_features {
            return Err(refusal());
        }
        Ok(())
    }
    fn queue_count(&self) -> usize {
        QUEUES
    }
    fn queue_max_size(&self) -> u16 {
        QUEUE_MAX
    }
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        for (index, byte) in (offset as usize..).zip(data) {
            *byte = b"BYWAYCFG".get(index).copied().unwrap_or(0);
        }
    }
    fn start_queue(&mut self, index: usize, queue: QueueSetup) -> Result<(), DeviceError> {
        self.note(Call::Start(
            index,
            queue.size,
            queue.desc_table,
            queue.avail_ring,
            queue.used_ring,
        ));
        if self.refuse_start {
            return Err(refusal());
        }
        Ok(())
    }
    fn stop_queue(&mut self, index: usize) -> Result<(), DeviceError> {
        self.note(Call::Stop(index));
        Ok(())
    }
    fn reset(&mut self) {
        self.note(Call::Reset);
    }
}

struct Guest {
    transport: VirtioMmio<Fake>,
    fake: Fake,
    call: EventFd,
    memory: DeviceMemory,
}

impl Guest {
    fn new(fake: Fake) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let memory = DeviceMemory::new(memory);
        let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Self {
            transport: VirtioMmio::new(fake.clone(), memory.clone(), call.try_clone().unwrap())
                .unwrap(),
            fake,
            call,
            memory,
        }
    }

    fn read(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    fn negotiate(&mut self, features: u64) -> u32 {
        let mut status = 0;
        for bit in [ACKNOWLEDGE, DRIVER] {
            status |= bit;
            self.write(VIRTIO_MMIO_STATUS, status);
        }
        for selector in [0, 1] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, selector);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, half(features, selector));
        }
        self.write(VIRTIO_MMIO_STATUS, status | FEATURES_OK);
        self.read(VIRTIO_MMIO_STATUS)
    }

    fn set_queue(&mut self, index: u32, size: u32, base: u64) -> bool {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index);
        self.write(VIRTIO_MMIO_QUEUE_NUM, size);
        for (low, high, address) in [
            (
                VIRTIO_MMIO_QUEUE_DESC_LOW,
                VIRTIO_MMIO_QUEUE_DESC_HIGH,
                base,
            ),
            (
                VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
                base.wrapping_add(0x1000),
            ),
            (
                VIRTIO_MMIO_QUEUE_USED_LOW,
                VIRTIO_MMIO_QUEUE_USED_HIGH,
                base.wrapping_add(0x2000),
            ),
        ] {
            self.write(low, half(address, 0));
            self.write(high, half(address, 1));
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        self.read(VIRTIO_MMIO_QUEUE_READY) == 1
    }

    fn driver_ok(&mut self) -> u32 {
        let status = self.read(VIRTIO_MMIO_STATUS);
        self.write(VIRTIO_MMIO_STATUS, status | DRIVER_OK);
        self.read(VIRTIO_MMIO_STATUS)
    }

    /// A device that runs with both queues.
    fn running() -> Self {
        let mut guest = Self::new(Fake::default());
        guest.negotiate(FEATURE | 1 << VIRTIO_F_VERSION_1);
        assert!(guest.set_queue(0, 32, 0x1_0000));
        assert!(guest.set_queue(1, 16, 0x2_0000));
        guest.driver_ok();
        guest
    }
}

const RUNNING: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

#[test]
fn a_driver_finds_the_device_and_its_configuration() {
    let mut guest = Guest::new(Fake::default());
    assert_eq!(guest.read(VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
    assert_eq!(guest.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(guest.read(VIRTIO_MMIO_DEVICE_ID), 41);
    let mut config = [0xff; 12];
    guest.transport.read(0x100, &mut config);
    assert_eq!(&config, b"BYWAYCFG\0\0\0\0");
    let mut byte = [0];
    guest.transport.read(0x107, &mut byte);
    assert_eq!(&byte, b"G");
}

#[test]
fn version_1_is_offered_beside_the_devices_own_features() {
    let mut guest = Guest::new(Fake::default());
    let mut offered = 0;
    for selector in [0, 1] {
        guest.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, selector);
        offered |= u64::from(guest.read(VIRTIO_MMIO_DEVICE_FEATURES)) << (32 * selector);
    }
    assert_eq!(offered, FEATURE | 1 << VIRTIO_F_VERSION_1);
    guest.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(guest.read(VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

#[test]
fn a_whole_start_reaches_the_device() {
    let mut guest = Guest::running();
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), RUNNING);
    assert_eq!(
        guest.fake.calls(),
        [
            Call::Features(FEATURE),
            Call::Start(0, 32, 0x1_0000, 0x1_1000, 0x1_2000),
            Call::Start(1, 16, 0x2_0000, 0x2_1000, 0x2_2000),
        ]
    );
    assert_eq!(
        guest.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING
    );
    assert_eq!(guest.transport.kicks().len(), QUEUES);
}

#[test]
fn features_are_checked() {
    let version_1 = 1 << VIRTIO_F_VERSION_1;
    for (features, good) in [
        (version_1, true),
        (version_1 | FEATURE, true),
        (FEATURE, false),
        (0, false),
        (version_1 | 1 << 60, false),
        (version_1 | 1, false),
    ] {
        let mut guest = Guest::new(Fake::default());
        let status = guest.negotiate(features);
        assert_eq!(status & FEATURES_OK != 0, good, "{features:#x}");
        assert!(!guest.set_queue(0, 16, 0x1_0000) || good);
    }
    let mut guest = Guest::new(Fake {
        refuse_features: true,
        ..Fake::default()
    });
    assert_eq!(guest.negotiate(version_1) & FEATURES_OK, 0);
}

#[test]
fn queues_outside_ram_do_not_become_ready() {
    let mut guest = Guest::new(Fake::default());
    guest.negotiate(1 << VIRTIO_F_VERSION_1);
    let ram = RAM as u64;
    for base in [ram, ram - 16, ram - 0x1000, ram - 0x2000, 1 << 40, !0xfff] {
        assert!(!guest.set_queue(0, 32, base), "{base:#x}");
    }
    assert!(!guest.set_queue(QUEUES as u32, 16, 0x1_0000));
    assert!(!guest.set_queue(u32::MAX, 16, 0x1_0000));
    assert!(guest.set_queue(0, 32, 0x1_0000));
    // RAM that was added is RAM.
    assert!(!guest.set_queue(1, 32, 1 << 40));
    let more = GuestRegionMmap::from_range(GuestAddress(1 << 40), RAM, None).unwrap();
    guest.memory.add(Arc::new(more)).unwrap();
    assert!(guest.set_queue(1, 32, 1 << 40));
}

#[test]
fn odd_sizes_and_addresses_are_dropped() {
    let mut guest = Guest::new(Fake::default());
    guest.negotiate(1 << VIRTIO_F_VERSION_1);
    for size in [0, 3, 128, 0x1_0010, u32::MAX] {
        guest.write(VIRTIO_MMIO_QUEUE_SEL, 0);
        guest.write(VIRTIO_MMIO_QUEUE_NUM, 8);
        guest.write(VIRTIO_MMIO_QUEUE_NUM, size);
        assert_eq!(guest.transport.queues[0].config.size(), 8, "{size}");
    }
    guest.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x8000);
    guest.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x9008);
    assert_eq!(guest.transport.queues[0].config.desc_table(), 0x8000);
}

#[test]
fn a_ready_queue_cannot_be_changed() {
    let mut guest = Guest::running();
    guest.fake.calls();
    assert!(guest.set_queue(0, 8, 0x8_0000), "still ready");
    assert_eq!(guest.transport.queues[0].config.size(), 32);
    assert_eq!(guest.transport.queues[0].config.desc_table(), 0x1_0000);
    assert_eq!(guest.fake.calls(), []);
}

#[test]
fn status_only_grows_in_order() {
    let mut guest = Guest::new(Fake::default());
    guest.write(VIRTIO_MMIO_STATUS, DRIVER_OK);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 0, "no step may be left out");
    guest.write(VIRTIO_MMIO_STATUS, DRIVER);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 0);
    guest.negotiate(1 << VIRTIO_F_VERSION_1);
    guest.driver_ok();
    guest.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), RUNNING, "bits stay set");
    guest.write(VIRTIO_MMIO_STATUS, RUNNING | FAILED);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), RUNNING | FAILED);
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn reset_stops_what_runs_and_all_starts_again() {
    let mut guest = Guest::running();
    guest.fake.calls();
    guest.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(
        guest.fake.calls(),
        [Call::Stop(0), Call::Stop(1), Call::Reset]
    );
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);

    guest.negotiate(1 << VIRTIO_F_VERSION_1);
    assert!(guest.set_queue(0, 64, 0x4_0000));
    guest.driver_ok();
    assert_eq!(
        guest.fake.calls(),
        [
            Call::Features(0),
            Call::Start(0, 64, 0x4_0000, 0x4_1000, 0x4_2000)
        ]
    );
}

#[test]
fn a_single_queue_can_be_stopped() {
    let mut guest = Guest::running();
    guest.fake.calls();
    guest.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    guest.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0);
    guest.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(guest.fake.calls(), [Call::Stop(1)]);
    guest.write(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(
        guest.read(VIRTIO_MMIO_QUEUE_READY),
        0,
        "too late to come back"
    );
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let mut guest = Guest::new(Fake {
        refuse_start: true,
        ..Fake::default()
    });
    guest.negotiate(1 << VIRTIO_F_VERSION_1);
    assert!(guest.set_queue(0, 16, 0x1_0000));
    assert_eq!(guest.driver_ok(), RUNNING | NEEDS_RESET);
    assert_eq!(guest.call.read().unwrap(), 1, "the driver is told");
    assert_eq!(
        guest.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_CONFIG
    );
    guest.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(guest.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    guest.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn accesses_of_other_widths_have_no_effect() {
    let mut guest = Guest::new(Fake::default());
    guest
        .transport
        .write(VIRTIO_MMIO_STATUS.into(), &[ACKNOWLEDGE as u8]);
    guest
        .transport
        .write(u64::from(VIRTIO_MMIO_STATUS) + 2, &[1, 0, 0, 0]);
    guest.transport.write(VIRTIO_MMIO_STATUS.into(), &[1; 8]);
    assert_eq!(guest.read(VIRTIO_MMIO_STATUS), 0);
    let mut wide = [0xff; 8];
    guest.transport.read(0, &mut wide);
    assert_eq!(wide, [0; 8]);
}

proptest! {
    /// Whatever a guest writes, the device is only ever given queues inside RAM, never twice
    /// without a stop, and never before the features were agreed on.
    #[test]
    fn the_device_is_never_given_nonsense(
        writes in prop::collection::vec(
            (
                prop_oneof![
                    Just(VIRTIO_MMIO_STATUS), Just(VIRTIO_MMIO_QUEUE_READY),
                    Just(VIRTIO_MMIO_QUEUE_SEL), Just(VIRTIO_MMIO_QUEUE_NUM),
                    Just(VIRTIO_MMIO_DRIVER_FEATURES), Just(VIRTIO_MMIO_DRIVER_FEATURES_SEL),
                    Just(VIRTIO_MMIO_QUEUE_DESC_LOW), Just(VIRTIO_MMIO_QUEUE_USED_HIGH),
                    (0u32..0x140).prop_map(|offset| offset & !3),
                ],
                prop_oneof![
                    Just(0u32), Just(1), Just(3), Just(11), Just(15), Just(16),
                    Just(RAM as u32 - 16), any::<u32>(),
                ],
            ),
            0..200,
        )
    ) {
        let mut guest = Guest::new(Fake::default());
        let mut running = [false; QUEUES];
        let mut agreed = false;
        for (register, value) in writes {
            guest.write(register, value);
            for call in guest.fake.calls() {
                match call {
                    Call::Features(features) => {
                        prop_assert_eq!(features & !FEATURE, 0);
                        agreed = true;
                    }
                    Call::Start(index, size, desc, avail, used) => {
                        prop_assert!(agreed && !std::mem::replace(&mut running[index], true));
                        prop_assert!(size.is_power_of_two() && size <= QUEUE_MAX);
                        let size = u64::from(size);
                        for end in [desc + 16 * size, avail + 6 + 2 * size, used + 6 + 8 * size] {
                            prop_assert!(end <= RAM as u64);
                        }
                    }
                    Call::Stop(index) => {
                        prop_assert!(std::mem::replace(&mut running[index], false));
                    }
                    Call::Reset => {
                        prop_assert_eq!(running, [false; QUEUES]);
                        agreed = false;
                    }
                }
            }
        }
    }
}
