//! The NVM command set (section 6).

use super::data::{gather, pieces, scatter};
use super::{Controller, NAMESPACE};
use crate::dma::Dma;
use crate::layout::{Command, Status, nvm};
use crate::medium::Medium;

/// Every namespace at once.
const ALL_NAMESPACES: u32 = u32::MAX;
/// Bytes of a range of dataset management.
const RANGE_BYTES: usize = 16;

impl<M: Medium> Controller<M> {
    /// Carries out a command of an I/O queue.
    pub(super) fn io<D: Dma>(&mut self, dma: &D, command: &Command) -> Result<(), Status> {
        if command.fuse() != 0 || command.psdt() == 3 {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let opcode = command.opcode();
        let known = [
            nvm::FLUSH,
            nvm::WRITE,
            nvm::READ,
            nvm::COMPARE,
            nvm::WRITE_ZEROES,
            nvm::DATASET_MANAGEMENT,
        ];
        if !known.contains(&opcode) {
            return Err(Status::INVALID_OPCODE.do_not_retry());
        }
        let namespace = command.namespace();
        let is_all = opcode == nvm::FLUSH && namespace == ALL_NAMESPACES;
        if namespace != NAMESPACE && !is_all {
            return Err(Status::INVALID_NAMESPACE.do_not_retry());
        }
        match opcode {
            nvm::FLUSH => self.medium.flush().map_err(|e| written(&e)),
            nvm::READ => self.read(dma, command),
            nvm::WRITE => self.write(dma, command),
            nvm::COMPARE => self.compare(dma, command),
            nvm::WRITE_ZEROES => self.write_zeroes(command),
            _ => self.dataset_management(dma, command),
        }
    }

    /// First byte and number of bytes of a range of blocks.
    fn range(&self, lba: u64, blocks: u32) -> Result<(u64, u64), Status> {
        let end = lba.checked_add(blocks.into());
        if end.is_none_or(|end| end > self.blocks()) {
            return Err(Status::LBA_OUT_OF_RANGE.do_not_retry());
        }
        let block = u64::from(self.config.block_bytes);
        Ok((lba * block, u64::from(blocks) * block))
    }

    /// The same of a command that moves data.
    fn data_range(&self, command: &Command) -> Result<(u64, u64), Status> {
        let (offset, bytes) = self.range(command.lba(), command.blocks())?;
        if bytes > self.transfer_bytes_max() {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        Ok((offset, bytes))
    }

    fn writable(&self) -> Result<(), Status> {
        if self.medium.is_read_only() {
            return Err(Status::WRITE_PROTECTED.do_not_retry());
        }
        Ok(())
    }

    fn read<D: Dma>(&mut self, dma: &D, command: &Command) -> Result<(), Status> {
        let (offset, bytes) = self.data_range(command)?;
        let pieces = pieces(dma, command, bytes, true, self.config.sgl)?;
        self.buffer.resize(bytes as usize, 0);
        let read = self.medium.read(offset, &mut self.buffer);
        read.map_err(|_| Status::UNRECOVERED_READ)?;
        self.counts.read(bytes);
        scatter(dma, &pieces, &self.buffer)
    }

    fn write<D: Dma>(&mut self, dma: &D, command: &Command) -> Result<(), Status> {
        let (offset, bytes) = self.data_range(command)?;
        self.writable()?;
        let pieces = pieces(dma, command, bytes, false, self.config.sgl)?;
        self.buffer.resize(bytes as usize, 0);
        gather(dma, &pieces, &mut self.buffer)?;
        let done = self.medium.write(offset, &self.buffer);
        done.map_err(|e| written(&e))?;
        self.counts.written(bytes);
        let through = command.dword(12) & nvm::FORCE_UNIT_ACCESS != 0;
        if through || !self.features.write_cache() {
            self.medium.flush().map_err(|e| written(&e))?;
        }
        Ok(())
    }

    fn compare<D: Dma>(&mut self, dma: &D, command: &Command) -> Result<(), Status> {
        let (offset, bytes) = self.data_range(command)?;
        let pieces = pieces(dma, command, bytes, false, self.config.sgl)?;
        let mut theirs = vec![0; bytes as usize];
        gather(dma, &pieces, &mut theirs)?;
        self.buffer.resize(bytes as usize, 0);
        let read = self.medium.read(offset, &mut self.buffer);
        read.map_err(|_| Status::UNRECOVERED_READ)?;
        if theirs == self.buffer {
            Ok(())
        } else {
            Err(Status::COMPARE_FAILURE)
        }
    }

    fn write_zeroes(&mut self, command: &Command) -> Result<(), Status> {
        let (offset, bytes) = self.range(command.lba(), command.blocks())?;
        self.writable()?;
        let deallocate = command.dword(12) >> 25 & 1 != 0;
        let done = self.medium.zero(offset, bytes, deallocate);
        done.map_err(|e| written(&e))
    }

    fn dataset_management<D: Dma>(&mut self, dma: &D, command: &Command) -> Result<(), Status> {
        let count = (command.dword(10) & 0xff) as usize + 1;
        let mut ranges = vec![0; count * RANGE_BYTES];
        let pieces = pieces(dma, command, ranges.len() as u64, false, self.config.sgl)?;
        gather(dma, &pieces, &mut ranges)?;
        if command.dword(11) & nvm::DEALLOCATE == 0 {
            // The others are hints, and taken.
            return Ok(());
        }
        self.writable()?;
        let ranges: Vec<_> = ranges
            .chunks_exact(RANGE_BYTES)
            .map(|range| {
                let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| range[at + i]));
                let blocks = (number(0) >> 32) as u32;
                self.range(number(8), blocks)
            })
            .collect::<Result<_, _>>()?;
        for (offset, bytes) in ranges {
            if bytes != 0 {
                // A hint: what cannot be given back stays as it is.
                let done = self.medium.deallocate(offset, bytes);
                done.map_err(|e| written(&e))?;
            }
        }
        Ok(())
    }
}

/// How a write that failed ended.
fn written(error: &std::io::Error) -> Status {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Status::CAPACITY_EXCEEDED,
        _ => Status::WRITE_FAULT,
    }
}
