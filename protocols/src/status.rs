//! Statuses: [`Status`] ends a descriptor (SPEC section 6), [`ControlStatus`] a
//! control request (SPEC section 8).

macro_rules! statuses {
    (
        $(#[$meta:meta])* $type:ident: $repr:ty;
        $( $(#[$doc:meta])* $name:ident = $code:literal, $text:literal; )*
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $type { $( $(#[$doc])* $name = $code, )* }

        impl $type {
            /// Every code of this ABI, in ascending order.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The status with this code, or `None` when the ABI has none such.
            #[must_use]
            pub const fn from_code(code: $repr) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )* _ => None }
            }

            /// One line for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// Name as the specification spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )* }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#04x} {} ({})", *self as $repr, self.name(), self.text())
            }
        }
    };
}

statuses! {
    /// How a descriptor ended. Bit 7 of the status byte is not part of the code: it
    /// says that the faulting access was a write ([`Status::WRITE_FAULT`]).
    Status: u8;
    /// Done.
    Success = 0x01, "done";
    /// Done; the result differs from the expected one.
    SuccessPredicate = 0x02, "done, result differs from the expected one";
    /// Page fault, block-on-fault not asked.
    PageFault = 0x03, "page fault; touch the page and resubmit the rest";
    /// Page refused by the guest kernel.
    PageRefused = 0x04, "the guest kernel refused the page";
    /// An element of the batch failed.
    BatchFailed = 0x05, "an element of the batch failed; see the per-element statuses";
    /// Page fault on the descriptor list of a batch.
    BatchListFault = 0x06, "page fault on the batch's descriptor list";
    /// A delta record's offset is out of order.
    DeltaOrder = 0x07, "delta record out of order";
    /// A delta record's offset is out of range.
    DeltaRange = 0x08, "delta record out of range";
    /// Protection information does not match.
    DifMismatch = 0x09, "protection information does not match";
    /// Unknown or unsupported operation.
    BadOpcode = 0x10, "unknown or unsupported opcode, or a batch within a batch";
    /// A flag that the operation does not take.
    BadFlags = 0x11, "a flag that the operation does not take";
    /// A reserved field is not 0.
    ReservedNotZero = 0x12, "a reserved field or a field unused by the operation is not 0";
    /// Transfer size out of range.
    BadSize = 0x13, "transfer size is 0 or above the limit";
    /// Descriptor count out of range.
    BadCount = 0x14, "descriptor count is 0 or above the limit";
    /// Delta record size out of range.
    BadDeltaSize = 0x15, "delta record size";
    /// Operands overlap.
    Overlap = 0x16, "operands overlap";
    /// Dualcast destinations differ in bits 11:0.
    BadDualcast = 0x17, "dualcast destinations differ in bits 11:0";
    /// Descriptor list misaligned.
    ListAlignment = 0x18, "descriptor list is not aligned to 64 bytes";
    /// Interrupt handle out of range.
    BadInterruptHandle = 0x19, "interrupt handle is not 0";
    /// Address misaligned.
    AddressAlignment = 0x1c, "address alignment, or an address that must not be 0";
    /// Not authorised.
    NotAuthorised = 0x1d, "not authorised";
    /// Page fault on the per-element statuses of a batch.
    StatusArrayFault = 0x1f, "page fault on the batch's status array";
    /// Engine busy beyond its limits.
    EngineBusy = 0x20, "engine busy; back off";
    /// Engine stopped.
    EngineStopped = 0x21, "engine stopped";
    /// Hardware error reported by a backend.
    HardwareError = 0x22, "hardware error";
    /// The page response did not come in time.
    PageResponseTimeout = 0x23, "the guest kernel did not answer a page request in time";
    /// The watchdog ended the operation.
    Watchdog = 0x24, "ended by the watchdog";
    /// Stage-1 entry not present.
    Stage1NotPresent = 0x40, "stage-1 entry not present; touch the page and resubmit the rest";
    /// Stage-1 permission.
    Stage1Permission = 0x41, "stage-1 permission (user, write)";
    /// Stage-2 translation pending.
    Stage2Pending = 0x42, "guest-physical address not backed at present";
    /// Address not canonical.
    NonCanonical = 0x43, "address is not canonical";
    /// Reserved bit set in a page-table entry.
    ReservedBit = 0x44, "reserved bit set in a page-table entry";
    /// Fault in another domain's memory.
    RemoteFault = 0x45, "fault in the peer's memory";
    /// No capability in the slot.
    NoCapability = 0x48, "no capability in that slot, or slot out of range";
    /// Range outside the capability.
    Bounds = 0x49, "range outside the capability";
    /// Right missing.
    MissingRight = 0x4a, "the capability lacks the right";
    /// Capability revoked or stale.
    Revoked = 0x4b, "capability revoked, expired or stale";
    /// AEAD tag does not verify.
    TagMismatch = 0x50, "authentication tag does not verify";
    /// Output does not fit.
    Overflow = 0x51, "output does not fit";
    /// Compressed data is not valid.
    BadData = 0x52, "compressed data is not valid";
    /// Number of a sealed message below the lowest that is accepted.
    Replayed = 0x53, "number of a sealed message below the lowest that is accepted";
    /// The device reported an error.
    DeviceError = 0x54, "the device reported an error";
    /// The device is gone.
    DeviceGone = 0x55, "the device is gone";
    /// The device does not do this.
    DeviceUnsupported = 0x56, "the device does not do this";
    /// A checksum of what was read is another one than expected.
    ChecksumMismatch = 0x57, "what was read has another checksum than expected";
    /// Stage-2 table misconfigured.
    Stage2Misconfigured = 0x58, "stage-2 table misconfigured";
    /// Stage-2 permission.
    Stage2Permission = 0x59, "stage-2 permission";
    /// Memory region gone.
    RegionGone = 0x5a, "memory region gone";
    /// Quota used up.
    Quota = 0x60, "quota used up; back off";
    /// Not attempted after an earlier failure.
    NotAttempted = 0x61, "not attempted: an earlier element failed";
    /// Aborted by reset, detach or engine restart.
    Aborted = 0x62, "aborted by reset, destroy or detach";
    /// User program trapped.
    ProgramTrap = 0x63, "user program trapped";
    /// The port has no room, or no message.
    NotReady = 0x64, "the port has no room for a message, or no message";
}

impl Status {
    /// Bit of the status byte: the faulting access was a write.
    pub const WRITE_FAULT: u8 = 0x80;

    /// Whether the rest may be resubmitted once the cause is mended (SPEC section 6).
    #[must_use]
    pub const fn is_resumable(self) -> bool {
        matches!(
            self,
            Self::PageFault
                | Self::BatchListFault
                | Self::StatusArrayFault
                | Self::Stage1NotPresent
                | Self::Stage2Pending
        )
    }

    /// Whether the operation was carried out to its end.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success | Self::SuccessPredicate)
    }
}

statuses! {
    /// How a control request ended.
    ControlStatus: u32;
    /// Done.
    Ok = 0, "done";
    /// No such request in this version.
    UnknownRequest = 1, "unknown request";
    /// The message is not as long as the request needs, or the reply buffer is too short.
    BadLength = 2, "message length";
    /// A reserved field is not 0.
    ReservedNotZero = 3, "a reserved field is not 0";
    /// An argument is out of range.
    BadArgument = 4, "argument out of range";
    /// The object named is not there.
    NoSuchObject = 5, "no such object";
    /// The number or slot is in use.
    InUse = 6, "number or slot in use";
    /// The domain's quota is used up.
    Quota = 7, "quota used up";
    /// No link permits this, or the peer does not exist.
    NoLink = 8, "no link to that domain";
    /// The capability or link lacks the right.
    MissingRight = 9, "right missing";
    /// The range is outside the capability.
    Bounds = 10, "range outside the capability";
    /// The capability was revoked.
    Revoked = 11, "capability revoked";
    /// Derivation deeper than the limit.
    Depth = 12, "derivation too deep";
    /// The page-table root is outside the domain's RAM.
    RootOutsideRam = 13, "page-table root outside RAM";
    /// The ring is outside the domain's RAM or crosses a region.
    RingOutsideRam = 14, "ring outside RAM";
    /// Known but not offered by this engine.
    Unsupported = 15, "not offered by this engine";
    /// The object is still used by another.
    Busy = 16, "object in use by another";
    /// No common ABI version.
    Version = 17, "no common version";
    /// The host lacks a resource.
    HostFailure = 18, "host failure";
    /// Done, but a device that has not answered in its time may still reach memory that it was given.
    DeviceHolds = 19, "done, but a device may still reach the pinned memory; ask again";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_leave_bit_7_free_and_are_found_again() {
        for &s in Status::ALL {
            assert_eq!(s as u8 & Status::WRITE_FAULT, 0);
            assert_eq!(Status::from_code(s as u8), Some(s));
        }
        for &s in ControlStatus::ALL {
            assert_eq!(ControlStatus::from_code(s as u32), Some(s));
        }
    }

    #[test]
    fn final_faults_are_not_resumable() {
        for s in [
            Status::PageRefused,
            Status::Stage1Permission,
            Status::BadDeltaSize,
            Status::ListAlignment,
            Status::BadInterruptHandle,
            Status::AddressAlignment,
            Status::RemoteFault,
        ] {
            assert!(!s.is_resumable(), "{s}");
        }
    }
}
