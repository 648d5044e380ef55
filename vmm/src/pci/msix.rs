//! [`Msix`]: the interrupts of a function (section 6.8.2): a table that the guest fills in, bits for what is pending, and
//! the messages that come of it.
//!
//! An entry is the guest's data. What makes a message an interrupt is its address; to any other, a real device would write
//! to memory, and this one does nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;

/// Id of the capability.
pub const CAPABILITY: u8 = 0x11;
/// Bits of message control that a guest may write, in its second byte.
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
/// Bytes of an entry: address, data, vector control.
const ENTRY_BYTES: usize = 16;
/// Bits of an entry that can be written: addresses are aligned, and of vector control only the mask is there.
const ENTRY_WRITABLE: [u8; ENTRY_BYTES] = [
    0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0,
];
const VECTOR_CONTROL: usize = 12;
/// Most vectors: as many as one word of pending bits has.
const VECTORS_MAX: usize = 64;
/// What the local APICs take for an interrupt, without its lower 20 bits.
const INTERRUPTS: u64 = 0xfee;

/// Where messages go to.
pub trait Messages: Send + Sync + fmt::Debug {
    /// Sends one.
    fn send(&self, address: u64, data: u32);
}

/// The local APICs of a VM.
///
/// By ioctl, which keeps no table of routes in KVM that a guest's would have to be kept equal to.
pub struct KvmMessages(Arc<VmFd>);

impl KvmMessages {
    /// Those of `vm`. Whoever holds this keeps it open.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self(vm)
    }
}

impl fmt::Debug for KvmMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KvmMessages")
    }
}

impl Messages for KvmMessages {
    fn send(&self, address: u64, data: u32) {
        if address >> 20 != INTERRUPTS {
            tracing::debug!("no interrupt: a message to {address:#x}");
            return;
        }
        let message = kvm_msi {
            address_lo: address as u32,
            data,
            ..kvm_msi::default()
        };
        // 0: nobody took it, as the guest wants it.
        if let Err(error) = self.0.signal_msi(message) {
            tracing::debug!("KVM refuses a message to {address:#x}: {error}");
        }
    }
}

/// The interrupts of a function. Shared by the vCPUs, which set them up, and the device's thread, which raises them.
#[derive(Debug)]
pub struct Msix {
    vectors: usize,
    state: Mutex<State>,
    messages: Box<dyn Messages>,
}

#[derive(Debug)]
struct State {
    table: Vec<[u8; ENTRY_BYTES]>,
    pending: u64,
    is_enabled: bool,
    /// By the function's mask, or since it may not write at all.
    is_masked: bool,
}

impl State {
    fn new(vectors: usize) -> Self {
        let mut entry = [0; ENTRY_BYTES];
        entry[VECTOR_CONTROL] = 1;
        Self {
            table: vec![entry; vectors],
            pending: 0,
            is_enabled: false,
            is_masked: false,
        }
    }

    fn holds_back(&self, vector: usize) -> bool {
        self.is_masked || self.table[vector][VECTOR_CONTROL] & 1 != 0
    }
}

impl Msix {
    /// So many interrupts, 1 to 64, all masked and none enabled.
    #[must_use]
    pub fn new(vectors: u16, messages: Box<dyn Messages>) -> Self {
        let vectors = usize::from(vectors).clamp(1, VECTORS_MAX);
        Self {
            vectors,
            state: Mutex::new(State::new(vectors)),
            messages,
        }
    }

    /// The capability behind its head, with table and pending bits at these offsets of BAR 0; and what of it can be written.
    #[must_use]
    pub fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.vectors as u16 - 1).to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        (body, (CONTROL_ENABLE | CONTROL_MASK_ALL).to_le_bytes())
    }

    /// Takes over message control, and whether the function may write to memory at all. What was held back is sent if
    /// nothing holds it back any more.
    pub fn configure(&self, control: u16, is_bus_master: bool) {
        let mut state = self.lock();
        state.is_enabled = control & CONTROL_ENABLE != 0;
        state.is_masked = control & CONTROL_MASK_ALL != 0 || !is_bus_master;
        if !state.is_enabled {
            state.pending = 0;
        }
        self.send_pending(&mut state);
    }

    /// Raises an interrupt, now or when nothing holds it back any more. One that is not enabled is none.
    pub fn raise(&self, vector: u16) {
        let vector = usize::from(vector);
        let mut state = self.lock();
        if vector >= self.vectors || !state.is_enabled {
            return;
        }
        state.pending |= 1 << vector;
        self.send_pending(&mut state);
    }

    /// Reads the table; behind its end there are zeros.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in (offset as usize..).zip(data) {
            let entry = state.table.get(at / ENTRY_BYTES);
            *byte = entry.map_or(0, |entry| entry[at % ENTRY_BYTES]);
        }
    }

    /// Writes the table. An interrupt that this lets through is sent.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        for (at, byte) in (offset as usize..).zip(data) {
            if let Some(entry) = state.table.get_mut(at / ENTRY_BYTES) {
                let (old, mask) = (
                    &mut entry[at % ENTRY_BYTES],
                    ENTRY_WRITABLE[at % ENTRY_BYTES],
                );
                *old = *old & !mask | byte & mask;
            }
        }
        self.send_pending(&mut state);
    }

    /// Reads the pending bits. They cannot be written.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let bits = self.lock().pending.to_le_bytes();
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = bits.get(at).copied().unwrap_or(0);
        }
    }

    /// Back to what it was at first.
    pub fn reset(&self) {
        *self.lock() = State::new(self.vectors);
    }

    /// Under the lock: once a mask is written nothing is sent past it.
    fn send_pending(&self, state: &mut State) {
        if !state.is_enabled {
            return;
        }
        for vector in 0..self.vectors {
            if state.pending >> vector & 1 == 0 || state.holds_back(vector) {
                continue;
            }
            state.pending &= !(1 << vector);
            let entry = &state.table[vector];
            let word = |at: usize| {
                u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
            };
            let address = u64::from(word(0)) | u64::from(word(4)) << 32;
            self.messages.send(address, word(8));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever is in it is a table.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For tests: messages that are kept.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<(u64, u32)>>>);

#[cfg(test)]
impl Kept {
    /// What has come since the last call.
    pub fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[cfg(test)]
impl Messages for Kept {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENABLED: u16 = CONTROL_ENABLE;

    fn msix(vectors: u16) -> (Msix, Kept) {
        let kept = Kept::default();
        (Msix::new(vectors, Box::new(kept.clone())), kept)
    }

    fn entry(address: u64, data: u32, mask: u32) -> Vec<u8> {
        let words = [address.to_le_bytes().to_vec(), data.to_le_bytes().to_vec()];
        [words.concat(), mask.to_le_bytes().to_vec()].concat()
    }

    fn pending(msix: &Msix) -> u64 {
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits);
        u64::from_le_bytes(bits)
    }

    #[test]
    fn the_capability_tells_table_and_pending_bits() {
        let (body, writable) = msix(17).0.capability(0x2000, 0x3000);
        assert_eq!(body, [16, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        assert_eq!(writable, [0, 0xc0]);
    }

    #[test]
    fn a_message_is_what_the_table_says() {
        let (msix, kept) = msix(3);
        msix.write_table(16, &entry(0xfee0_1000, 0x4031, 0));
        msix.raise(1);
        assert!(kept.take().is_empty(), "it is not enabled");
        msix.configure(ENABLED, true);
        assert!(kept.take().is_empty(), "what was not enabled was none");
        msix.raise(1);
        assert_eq!(kept.take(), [(0xfee0_1000, 0x4031)]);
        assert_eq!(pending(&msix), 0);
        for beyond in [3, 63, 64, u16::MAX] {
            msix.raise(beyond);
        }
        assert!(kept.take().is_empty());
    }

    #[test]
    fn what_is_held_back_is_pending_and_sent_once() {
        let (msix, kept) = msix(3);
        msix.write_table(32, &entry(0xfee0_0000, 7, 1));
        msix.configure(ENABLED, true);
        msix.raise(2);
        msix.raise(2);
        assert_eq!((kept.take(), pending(&msix)), (vec![], 4));
        msix.write_table(32 + 12, &[0; 4]);
        assert_eq!((kept.take(), pending(&msix)), (vec![(0xfee0_0000, 7)], 0));
        for (control, is_master) in [(ENABLED | CONTROL_MASK_ALL, true), (ENABLED, false)] {
            msix.configure(control, is_master);
            msix.raise(2);
            assert_eq!((kept.take(), pending(&msix)), (vec![], 4));
            msix.configure(ENABLED, true);
            assert_eq!(kept.take().len(), 1);
        }
        msix.configure(ENABLED | CONTROL_MASK_ALL, true);
        msix.raise(2);
        msix.configure(0, true);
        msix.configure(ENABLED, true);
        assert!(
            kept.take().is_empty(),
            "what is disabled has nothing pending"
        );
    }

    #[test]
    fn only_what_is_an_interrupts_address_is_one() {
        let vm = kvm_ioctls::Kvm::new()
            .ok()
            .and_then(|kvm| kvm.create_vm().ok());
        let Some(vm) = vm else {
            println!("SKIPPED: this host has no /dev/kvm");
            return;
        };
        let messages = KvmMessages::new(Arc::new(vm));
        // Without interrupt controllers KVM refuses them all; nothing comes of that.
        for address in [0, 0xfee0_0000, 0xfee0_0000 | 1 << 32, u64::MAX] {
            messages.send(address, u32::MAX);
        }
    }

    proptest! {
        #[test]
        fn any_access_is_bounded(
            acts in prop::collection::vec(
                (0_u8..5, 0_u64..0x2000, prop::collection::vec(any::<u8>(), 0..9), any::<u16>()), 0..100),
        ) {
            let (msix, kept) = msix(17);
            for (act, offset, data, number) in acts {
                let mut room = data.clone();
                match act {
                    0 => msix.write_table(offset % 0x200, &data),
                    1 => msix.read_table(offset, &mut room),
                    2 => msix.read_pending(offset, &mut room),
                    3 => msix.configure(number, number & 1 != 0),
                    _ => msix.raise(number % 20),
                }
                prop_assert_eq!(pending(&msix) >> 17, 0);
                let mut table = [0; 17 * 16 + 16];
                msix.read_table(0, &mut table);
                prop_assert_eq!(&table[17 * 16..], &[0; 16]);
                for entry in table.chunks(16) {
                    prop_assert_eq!((entry[0] & 3, entry[12] & 0xfe, &entry[13..]), (0, 0, &[0; 3][..]));
                }
            }
            for (address, _) in kept.take() {
                prop_assert_eq!(address & 3, 0);
            }
        }
    }
}
