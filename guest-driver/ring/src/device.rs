//! Requests that move blocks of an endpoint (SPEC section 4.33).

use byway_protocols::codec::CodecWord;
use byway_protocols::operands::{DeviceFields, device_flags, device_operation};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status};

use crate::request::{Address, Request, RequestError, Slot, apart, placed};

/// What a device has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFailure {
    /// In its own terms: an errno, a virtio status, an NVMe status field; 0 when it is gone.
    pub device_status: u16,
    /// First block that was not done, counted from the start of the capability.
    pub block: u64,
    /// Bytes done before that.
    pub bytes_done: u32,
}

impl DeviceFailure {
    /// Of a completion with status 54 or 55; `None` after any other.
    #[must_use]
    pub fn of(completion: &Completion) -> Option<Self> {
        let status = completion.status()?;
        matches!(status, Status::DeviceError | Status::DeviceGone).then_some(Self {
            device_status: completion.op0 as u16,
            block: completion.op1,
            bytes_done: completion.bytes_completed,
        })
    }
}

/// What was stored by a write that makes something, or tells a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Bytes stored; behind them are zeros up to the end of their block.
    pub bytes: u32,
    /// Their CRC-32C, if it was asked for; else 0.
    pub crc: u32,
}

impl Stored {
    /// Of a completion with success of a [`Request::write_chained`] or one
    /// [`Request::giving_crc`]; `None` after any other status.
    #[must_use]
    pub fn of(completion: &Completion) -> Option<Self> {
        let succeeded = completion.is_success();
        succeeded.then_some(Self {
            bytes: completion.op0 as u32,
            crc: (completion.op0 >> 32) as u32,
        })
    }
}

fn transfer(
    operation: u8,
    src: Option<Address>,
    dst: Option<Address>,
    size: u64,
) -> Result<Request, RequestError> {
    let fields = DeviceFields {
        operation,
        ..DeviceFields::default()
    };
    let descriptor = placed(Opcode::DeviceTransfer, src, dst, size)?;
    Ok(Request(descriptor.with_operands(fields.to_bytes())))
}

impl Request {
    /// DEVICE_TRANSFER, reading: `size` bytes of blocks, which begin `blocks.addr` bytes into
    /// the capability in its slot, to memory. Both are multiples of the endpoint's blocks, which
    /// only the engine knows here.
    ///
    /// # Errors
    /// The size is out of range, or an operand wraps.
    pub fn read_blocks(dst: Address, blocks: Address, size: u64) -> Result<Self, RequestError> {
        transfer(device_operation::READ, Some(blocks), Some(dst), size)
    }

    /// The same, ending in status 57 unless the CRC-32C of the bytes is this one.
    ///
    /// # Errors
    /// The request is another than [`Request::read_blocks`] or [`Request::read_chained`] made.
    pub fn checking_crc(self, crc: u32) -> Result<Self, RequestError> {
        self.with_device_flag(device_operation::READ, device_flags::CHECK_CRC, crc)
    }

    /// DEVICE_TRANSFER, writing.
    ///
    /// # Errors
    /// As [`Request::read_blocks`].
    pub fn write_blocks(blocks: Address, src: Address, size: u64) -> Result<Self, RequestError> {
        transfer(device_operation::WRITE, Some(src), Some(blocks), size)
    }

    /// The same, telling the CRC-32C of what is stored: see [`Stored`].
    ///
    /// # Errors
    /// The request is another than [`Request::write_blocks`] or [`Request::write_chained`] made.
    pub fn giving_crc(self) -> Result<Self, RequestError> {
        self.with_device_flag(device_operation::WRITE, device_flags::GIVE_CRC, 0)
    }

    /// A transfer of this kind with the one flag that it may have, and the checksum that goes with that.
    fn with_device_flag(self, operation: u8, flags: u8, crc: u32) -> Result<Self, RequestError> {
        let fields = DeviceFields::from_bytes(&self.0.operands());
        if self.0.code() != Opcode::DeviceTransfer as u8 || fields.operation != operation {
            return Err(RequestError::Flag(Opcode::DeviceTransfer));
        }
        let fields = DeviceFields {
            flags,
            crc,
            ..fields
        };
        Ok(Self(self.0.with_operands(fields.to_bytes())))
    }

    /// DEVICE_TRANSFER from blocks to blocks, of the same endpoint or of another.
    ///
    /// # Errors
    /// As [`Request::read_blocks`], or blocks of one slot overlap.
    pub fn copy_blocks(dst: Address, src: Address, size: u64) -> Result<Self, RequestError> {
        let request = transfer(device_operation::COPY, Some(src), Some(dst), size)?;
        apart((src, size), (dst, size))?;
        Ok(request)
    }

    /// DEVICE_TRANSFER, comparing blocks with memory: see [`Compared`](crate::Compared).
    ///
    /// # Errors
    /// As [`Request::read_blocks`].
    pub fn compare_blocks(blocks: Address, with: Address, size: u64) -> Result<Self, RequestError> {
        transfer(device_operation::COMPARE, Some(blocks), Some(with), size)
    }

    /// DEVICE_TRANSFER: zeros to blocks.
    ///
    /// # Errors
    /// As [`Request::read_blocks`].
    pub fn zero_blocks(blocks: Address, size: u64) -> Result<Self, RequestError> {
        transfer(device_operation::WRITE_ZEROES, None, Some(blocks), size)
    }

    /// DEVICE_TRANSFER: blocks that nobody needs any more.
    ///
    /// # Errors
    /// As [`Request::read_blocks`].
    pub fn discard_blocks(blocks: Address, size: u64) -> Result<Self, RequestError> {
        transfer(device_operation::DISCARD, None, Some(blocks), size)
    }

    /// DEVICE_TRANSFER: what was written to the endpoint and has completed, to where it outlasts
    /// a loss of power.
    pub fn flush_blocks(slot: Slot) -> Self {
        let fields = DeviceFields {
            operation: device_operation::FLUSH,
            ..DeviceFields::default()
        };
        let mut descriptor = Descriptor::new(Opcode::DeviceTransfer, Flags::NONE);
        descriptor.word0 = byway_protocols::Word0::new(0, slot.number(), false).0;
        Self(descriptor.with_operands(fields.to_bytes()))
    }

    /// DEVICE_TRANSFER, reading what another request says becomes of the bytes: DECRYPT, DECOMPRESS or
    /// OPEN_COPY, built with [`Address::own(0)`](Address::own) as its source, and stored at `chain` in one's own
    /// memory until this one has begun. `block_bytes` are those of the endpoint.
    ///
    /// # Errors
    /// The operation cannot be chained, it has a source, `chain` is not aligned to 64 bytes, or as
    /// [`Request::read_blocks`].
    pub fn read_chained(
        blocks: Address,
        block_bytes: u32,
        chained: &Self,
        chain: u64,
    ) -> Result<Self, RequestError> {
        let inner = &chained.0;
        let may_be = [Opcode::Decrypt, Opcode::Decompress, Opcode::OpenCopy];
        check_chained(inner, may_be, (inner.src, inner.slots().src_slot()), chain)?;
        let size = u64::from(inner.size).next_multiple_of(block_bytes.max(1).into());
        let request = transfer(device_operation::READ, Some(blocks), None, size)?;
        Ok(with_chain(request, device_operation::READ, chain))
    }

    /// DEVICE_TRANSFER, writing what another request makes of memory: ENCRYPT, COMPRESS or
    /// SEAL_COPY, built with [`Address::own(0)`](Address::own) as its destination, and stored at
    /// `chain` in one's own memory until this one has begun. As many blocks as its capacity needs
    /// must belong to the capability; [`Stored`] tells how many bytes came out.
    ///
    /// # Errors
    /// The operation cannot be chained, it has a destination, `chain` is not aligned to 64 bytes,
    /// or as [`Request::read_blocks`].
    pub fn write_chained(
        blocks: Address,
        block_bytes: u32,
        chained: &Self,
        chain: u64,
    ) -> Result<Self, RequestError> {
        let inner = &chained.0;
        let may_be = [Opcode::Encrypt, Opcode::Compress, Opcode::SealCopy];
        check_chained(inner, may_be, (inner.dst, inner.slots().dst_slot()), chain)?;
        let room = CodecWord(inner.op0).capacity();
        let size = u64::from(room).next_multiple_of(block_bytes.max(1).into());
        let request = transfer(device_operation::WRITE, None, Some(blocks), size)?;
        Ok(with_chain(request, device_operation::WRITE, chain))
    }
}

/// Whether a descriptor can be chained, of which this operand is the blocks'.
fn check_chained(
    inner: &Descriptor,
    may_be: [Opcode; 3],
    operand: (u64, u16),
    chain: u64,
) -> Result<(), RequestError> {
    let opcode = Opcode::from_code(inner.code()).unwrap_or(Opcode::Nop);
    if !may_be.contains(&opcode) || operand != (0, 0) {
        return Err(RequestError::Flag(opcode));
    }
    if chain == 0 || !chain.is_multiple_of(Descriptor::SIZE as u64) {
        return Err(RequestError::ListAlignment(chain));
    }
    Ok(())
}

fn with_chain(request: Request, operation: u8, chain: u64) -> Request {
    let fields = DeviceFields {
        operation,
        chain,
        ..DeviceFields::default()
    };
    Request(request.0.with_operands(fields.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(request: Request) -> (Descriptor, DeviceFields) {
        let d = Descriptor::from(request);
        (d, DeviceFields::from_bytes(&d.operands()))
    }

    #[test]
    fn each_names_its_blocks_and_its_memory() {
        let (slot, own) = (Slot::new(5).unwrap(), Address::own(0x1000));
        let blocks = Address::capability(slot, 4096);
        let (d, f) = fields(Request::read_blocks(own, blocks, 8192).unwrap());
        assert_eq!((d.slots().src_slot(), d.slots().dst_slot()), (5, 0));
        assert_eq!((d.src, d.dst, d.size, f.operation), (4096, 0x1000, 8192, 1));
        let (d, f) = fields(Request::write_blocks(blocks, own, 8192).unwrap());
        assert_eq!((d.slots().src_slot(), d.slots().dst_slot()), (0, 5));
        assert_eq!((d.src, d.dst, f.operation), (0x1000, 4096, 2));
        let (d, f) = fields(Request::flush_blocks(slot));
        assert_eq!(
            (d.slots().dst_slot(), d.dst, d.size, f.operation),
            (5, 0, 0, 5)
        );
        let (d, f) = fields(Request::zero_blocks(blocks, 512).unwrap());
        assert_eq!(
            (d.slots().src_slot(), d.src, d.dst, f.operation),
            (0, 0, 4096, 7)
        );
        let near = Address::capability(slot, 4096 + 8191);
        let copy = |src, size| Request::copy_blocks(blocks, src, size);
        assert_eq!(copy(near, 8192), Err(RequestError::Overlap));
        let (d, f) = fields(copy(near, 8191).unwrap());
        assert_eq!((d.src, d.dst, f.operation), (4096 + 8191, 4096, 3));
    }

    #[test]
    fn only_reads_are_checked_and_only_some_operations_chained() {
        let (slot, own) = (Slot::new(5).unwrap(), Address::own(0x1000));
        let blocks = Address::capability(slot, 0);
        let read = Request::read_blocks(own, blocks, 512).unwrap();
        let (_, f) = fields(read.checking_crc(7).unwrap());
        assert_eq!((f.flags, f.crc), (1, 7));
        let write = Request::write_blocks(blocks, own, 512).unwrap();
        assert!(write.checking_crc(7).is_err());
        let copy = Request::memmove(own, Address::own(0), 100).unwrap();
        assert!(Request::read_chained(blocks, 512, &copy, 0x40).is_err());
        assert!(Request::write_chained(blocks, 512, &copy, 0x40).is_err());
    }

    #[test]
    fn what_is_stored_takes_the_blocks_of_its_capacity_and_tells_its_sum() {
        let slot = Slot::new(5).unwrap();
        let blocks = Address::capability(slot, 1024);
        let inner = Descriptor {
            src: 0x1000,
            size: 10_000,
            op0: CodecWord::key(3, 10_016).0,
            ..Descriptor::new(Opcode::Encrypt, Flags::NONE)
        };
        let write = Request::write_chained(blocks, 512, &Request(inner), 0x40).unwrap();
        let (d, f) = fields(write.giving_crc().unwrap());
        assert_eq!((d.slots().src_slot(), d.slots().dst_slot()), (0, 5));
        assert_eq!((d.src, d.dst, d.size), (0, 1024, 10_240));
        assert_eq!((f.operation, f.flags, f.chain), (2, 2, 0x40));
        for inner in [
            Descriptor { dst: 64, ..inner },
            Descriptor::new(Opcode::Decrypt, Flags::NONE),
        ] {
            assert!(Request::write_chained(blocks, 512, &Request(inner), 0x40).is_err());
        }
        assert!(Request::write_chained(blocks, 512, &Request(inner), 0x41).is_err());
        let read = Request::read_blocks(Address::own(0x1000), blocks, 512).unwrap();
        assert!(read.giving_crc().is_err());
        let done = Completion {
            status: Status::Success as u8,
            op0: 0xabcd_0000_1234,
            ..Completion::default()
        };
        let expected = Stored {
            bytes: 0x1234,
            crc: 0xabcd,
        };
        assert_eq!(Stored::of(&done), Some(expected));
        assert_eq!(
            Stored::of(&Completion {
                status: 0x54,
                ..done
            }),
            None
        );
    }

    #[test]
    fn a_read_goes_on_with_the_blocks_in_which_it_stopped() {
        let (slot, own) = (Slot::new(5).unwrap(), Address::own(0x1001));
        let read = Request::read_blocks(own, Address::capability(slot, 8192), 65536).unwrap();
        let ended = Completion {
            status: Status::Stage1NotPresent as u8 | Status::WRITE_FAULT,
            bytes_completed: 4096 + 100,
            ..Completion::default()
        };
        let rest = crate::resume(&read.into(), &ended).unwrap();
        assert_eq!((rest.src, rest.dst, rest.size), (12288, 0x2001, 61440));
        let checked = read.checking_crc(1).unwrap();
        assert_eq!(crate::resume(&checked.into(), &ended), Some(checked.into()));
    }

    #[test]
    fn a_device_s_word_is_told() {
        let told = Completion {
            status: Status::DeviceError as u8 | Status::WRITE_FAULT,
            bytes_completed: 512,
            op0: 28,
            op1: 9,
            ..Completion::default()
        };
        let expected = DeviceFailure {
            device_status: 28,
            block: 9,
            bytes_done: 512,
        };
        assert_eq!(DeviceFailure::of(&told), Some(expected));
        let status = Status::Success as u8;
        assert_eq!(DeviceFailure::of(&Completion { status, ..told }), None);
    }
}
