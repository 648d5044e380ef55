//! Controller registers (section 3.1).

/// Controller capabilities, 64 bits.
pub const CAP: u64 = 0x00;
/// Version.
pub const VS: u64 = 0x08;
/// Interrupt mask set.
pub const INTMS: u64 = 0x0c;
/// Interrupt mask clear.
pub const INTMC: u64 = 0x10;
/// Controller configuration.
pub const CC: u64 = 0x14;
/// Controller status.
pub const CSTS: u64 = 0x1c;
/// Subsystem reset.
pub const NSSR: u64 = 0x20;
/// Admin queue attributes: entries less one, submission in bits 11:0, completion in 27:16.
pub const AQA: u64 = 0x24;
/// Admin submission queue's address, 64 bits.
pub const ASQ: u64 = 0x28;
/// Admin completion queue's address, 64 bits.
pub const ACQ: u64 = 0x30;
/// Where doorbells begin.
pub const DOORBELLS: u64 = 0x1000;

/// Version 1.4.0.
pub const VS_1_4: u32 = 0x0001_0400;

/// `CC.EN`.
pub const CC_ENABLE: u32 = 1;
/// `CC.SHN`: a normal shutdown is asked for.
pub const CC_SHUTDOWN: u32 = 1 << 14;
/// `CC.IOSQES` 64 bytes and `CC.IOCQES` 16 bytes.
pub const CC_ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
/// `CSTS.RDY`.
pub const CSTS_READY: u32 = 1;
/// `CSTS.CFS`.
pub const CSTS_FATAL: u32 = 1 << 1;
/// `CSTS.SHST`: shutdown is complete.
pub const CSTS_SHUT_DOWN: u32 = 2 << 2;

/// The fields of CAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Entries that a queue may have: 2 to 65536.
    pub entries_max: u32,
    /// Queues have to be physically contiguous.
    pub contiguous: bool,
    /// Longest time until ready, in units of 500 ms.
    pub timeout: u8,
    /// Doorbells are `4 << stride` bytes apart.
    pub stride: u8,
    /// The NVM command set can be chosen.
    pub nvm: bool,
    /// Smallest page: `4096 << page_min` bytes.
    pub page_min: u8,
    /// Largest page: `4096 << page_max` bytes.
    pub page_max: u8,
}

impl Capabilities {
    /// As the register has them.
    #[must_use]
    pub fn pack(&self) -> u64 {
        u64::from(self.entries_max.saturating_sub(1) as u16)
            | u64::from(self.contiguous) << 16
            | u64::from(self.timeout) << 24
            | u64::from(self.stride & 0xf) << 32
            | u64::from(self.nvm) << 37
            | u64::from(self.page_min & 0xf) << 48
            | u64::from(self.page_max & 0xf) << 52
    }

    /// What the register says.
    #[must_use]
    pub fn unpack(cap: u64) -> Self {
        Self {
            entries_max: u32::from(cap as u16) + 1,
            contiguous: cap >> 16 & 1 != 0,
            timeout: (cap >> 24) as u8,
            stride: (cap >> 32 & 0xf) as u8,
            nvm: cap >> 37 & 1 != 0,
            page_min: (cap >> 48 & 0xf) as u8,
            page_max: (cap >> 52 & 0xf) as u8,
        }
    }
}

/// Where the doorbell for a submission queue's tail is, from [`DOORBELLS`] on or in a shadow
/// doorbell buffer (sections 3.1.24 and 5.7).
#[must_use]
pub fn tail_doorbell(queue: u16, stride: u8) -> u64 {
    u64::from(queue) * 2 * (4 << stride)
}

/// The same for a completion queue's head.
#[must_use]
pub fn head_doorbell(queue: u16, stride: u8) -> u64 {
    (u64::from(queue) * 2 + 1) * (4 << stride)
}

/// Whether a shadow doorbell that went from `before` to `now` passes the event index, so that
/// the doorbell itself has to be written (section 7.13: as in virtio).
#[must_use]
pub fn passes(event: u32, now: u32, before: u32) -> bool {
    let (event, now, before) = (event as u16, now as u16, before as u16);
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_where_the_specification_has_them() {
        // MQES 1023, CQR, TO 15 (7.5 s), DSTRD 2, CSS NVM, MPSMIN 0, MPSMAX 4.
        let cap = 0x0040_0022_0f01_03ff;
        let fields = Capabilities {
            entries_max: 1024,
            contiguous: true,
            timeout: 15,
            stride: 2,
            nvm: true,
            page_min: 0,
            page_max: 4,
        };
        assert_eq!(Capabilities::unpack(cap), fields);
        assert_eq!(fields.pack(), cap);
    }

    #[test]
    fn doorbells_are_where_the_specification_has_them() {
        assert_eq!([tail_doorbell(0, 0), head_doorbell(0, 0)], [0, 4]);
        assert_eq!([tail_doorbell(3, 0), head_doorbell(3, 0)], [24, 28]);
        assert_eq!([tail_doorbell(1, 2), head_doorbell(1, 2)], [32, 48]);
    }

    #[test]
    fn one_behind_the_tail_silences_every_step() {
        let size = 16;
        for before in 0..size {
            let event = (before + size - 1) % size;
            for step in 1..size {
                let now = (before + step) % size;
                assert!(!passes(event, now, before), "{before} to {now}");
                assert!(passes(before, now, before), "{before} to {now}, armed");
            }
        }
    }
}
