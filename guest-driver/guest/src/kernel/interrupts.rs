//! Interrupt controllers: the local APIC, and the I/O APIC that routes device interrupts to it.
//!
//! Owns both controllers' registers. Interrupts are edge-triggered. Ring 0 ends them where the
//! local APIC is driven by MSRs; where it is a page of registers, [`Interrupts::end`] does.

use crate::layout::MMIO_MAP;
use crate::ring0::BootFacts;

/// First vector of device interrupts; the vector of interrupt `n` is this plus `n`.
pub const FIRST_VECTOR: u64 = 0x20;
/// Vector of spurious interrupts.
const SPURIOUS: u32 = 0x3f;
/// Guest-physical address of the local APIC.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Guest-physical address of the I/O APIC.
pub const IO_APIC: u64 = 0xfec0_0000;

const APIC_ID: u64 = 0x20;
const APIC_EOI: u64 = 0xb0;
const APIC_SPURIOUS: u64 = 0xf0;
const APIC_ENABLED: u32 = 1 << 8;

/// The interrupt controllers.
pub struct Interrupts {
    apic_id: u32,
    x2apic: bool,
    /// Interrupts taken since boot.
    pub taken: u64,
}

/// Writes a device register.
fn write_register(address: u64, value: u32) {
    // SAFETY: called with addresses of the two controllers only; both are mapped at MMIO_MAP.
    unsafe { ((MMIO_MAP + address) as *mut u32).write_volatile(value) };
}

impl Interrupts {
    /// Sets the local APIC up, as far as the boot code has not.
    ///
    /// # Safety
    /// Called once; both controllers are mapped, uncached, at [`MMIO_MAP`], and the interrupt table
    /// is filled.
    pub unsafe fn new(facts: BootFacts) -> Self {
        let apic_id = facts.x2apic.unwrap_or_else(|| {
            write_register(LOCAL_APIC + APIC_SPURIOUS, APIC_ENABLED | SPURIOUS);
            // SAFETY: the caller's promise.
            unsafe { ((MMIO_MAP + LOCAL_APIC + APIC_ID) as *const u32).read_volatile() >> 24 }
        });
        Self {
            apic_id,
            x2apic: facts.x2apic.is_some(),
            taken: 0,
        }
    }

    /// Lets global system interrupt `irq`, 0 to 23, through to this CPU.
    pub fn enable(&self, irq: u32) {
        let register = 0x10 + irq * 2;
        let route = [
            (register + 1, self.apic_id << 24),
            (register, FIRST_VECTOR as u32 + irq),
        ];
        for (register, value) in route {
            write_register(IO_APIC, register);
            write_register(IO_APIC + 0x10, value);
        }
    }

    /// Counts an interrupt and ends it; says which global system interrupt it was.
    pub fn end(&mut self, vector: u64) -> Option<u32> {
        self.taken += 1;
        if vector == u64::from(SPURIOUS) {
            return None;
        }
        if !self.x2apic {
            write_register(LOCAL_APIC + APIC_EOI, 0);
        }
        u32::try_from(vector - FIRST_VECTOR).ok()
    }
}
