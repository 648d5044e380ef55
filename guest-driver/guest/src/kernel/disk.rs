//! The disk: virtio-blk by `byway-driver`, and the reads that a process has under way.
//!
//! Owns the device. It writes to the pages of a process as long as a read is under way; [`Disk::has_reads`] says whether
//! that may be.

use core::ptr::NonNull;

use byway_agent::commands::DISK_READ_BYTES;
use byway_agent::layout::Process;
use byway_agent::{Failure, Status};
use byway_driver::virtio::{Block, Buffer, PARTS_MAX, READS_MAX, SECTOR_BYTES};
use byway_driver::{Error, MmioTransport};

use super::boot_info::MmioDevice;
use super::device::FrameHal;
use super::frames::Frames;
use super::space::Reach;
use crate::layout::MMIO_MAP;
use crate::serial::log;

/// What a process reads: pieces of [`DISK_READ_BYTES`], the last one shorter.
#[derive(Debug, Clone, Copy)]
struct Job {
    process: Process,
    va: u64,
    bytes: u64,
    sector: u64,
    /// Pieces that the device was asked for.
    asked: u64,
    /// Pieces that are there, without a gap.
    there: u64,
    /// Those after them that are there, each at its number modulo [`READS_MAX`].
    early: [bool; READS_MAX],
}

impl Job {
    fn pieces(&self) -> u64 {
        self.bytes.div_ceil(DISK_READ_BYTES)
    }
}

/// The disk.
pub struct Disk {
    block: Block<MmioTransport>,
    /// Global system interrupt.
    pub irq: u32,
    job: Option<Job>,
    /// Requests since boot.
    pub reads: u64,
}

/// What the driver says, in the mailbox's terms.
pub fn failure(error: Error) -> Failure {
    log!("byway guest: disk or network: {}", error);
    Failure::new(Status::DeviceFailed, 0)
}

/// The registers of a device of the command line.
///
/// # Safety
/// They are mapped, uncached, for good, and nothing else drives the device.
pub unsafe fn transport(device: &MmioDevice) -> Option<MmioTransport> {
    let base = NonNull::new((MMIO_MAP + device.registers.start) as *mut u8)?;
    // SAFETY: the caller's promise.
    Some(unsafe { MmioTransport::new(base) })
}

impl Disk {
    /// Attaches the first disk among the devices of the command line, of which `byway` is another driver's.
    ///
    /// # Safety
    /// Their registers are mapped, uncached, for good, and only `byway` is driven already.
    pub unsafe fn attach(
        devices: &[MmioDevice],
        byway: Option<u32>,
        frames: &mut Frames,
    ) -> Option<Self> {
        let others = devices.iter().filter(|found| Some(found.irq) != byway);
        for found in others {
            // SAFETY: the caller's promise; one of another kind is left as it is.
            let transport = unsafe { transport(found) }?;
            match Block::attach(transport, &mut FrameHal(frames)) {
                Ok(block) => {
                    return Some(Self {
                        block,
                        irq: found.irq,
                        job: None,
                        reads: 0,
                    });
                }
                Err(Error::DeviceId { .. }) => {}
                Err(error) => _ = failure(error),
            }
        }
        None
    }

    /// Whether the device may write to pages of a process.
    pub fn has_reads(&self) -> bool {
        self.block.under_way() > 0
    }

    /// Begins a job of `process`. None may be under way.
    pub fn begin(
        &mut self,
        process: Process,
        va: u64,
        bytes: u64,
        sector: u64,
    ) -> Result<(), Failure> {
        if !va.is_multiple_of(SECTOR_BYTES) {
            return Err(Failure::argument(0, va));
        }
        let whole = bytes.is_multiple_of(SECTOR_BYTES);
        if !whole || va.checked_add(bytes).is_none() {
            return Err(Failure::argument(1, bytes));
        }
        let end = sector.checked_add(bytes / SECTOR_BYTES);
        if end.is_none_or(|end| end > self.block.sectors()) {
            return Err(Failure::argument(2, sector));
        }
        self.job = Some(Job {
            process,
            va,
            bytes,
            sector,
            asked: 0,
            there: 0,
            early: [false; READS_MAX],
        });
        Ok(())
    }

    /// Forgets the job; what of it is under way stays so.
    pub fn forget(&mut self) {
        self.job = None;
    }

    /// Process of the job, if there is one.
    pub fn owner(&self) -> Option<Process> {
        self.job.map(|job| job.process)
    }

    /// Takes what the device has finished. Without a job only a device that is broken is an error: it may write for ever to where it was asked
    /// to.
    pub fn reap(&mut self) -> Result<(), Failure> {
        while let Some(done) = self.block.finished().map_err(failure)? {
            // A job that was forgotten has nobody to tell.
            let Some(job) = &mut self.job else { continue };
            if !done.is_read {
                log!("byway guest: the disk did not read piece {}", done.token);
                self.job = None;
                return Err(Failure::new(Status::DeviceFailed, done.token));
            }
            job.early[done.token as usize % READS_MAX] = true;
            while core::mem::take(&mut job.early[job.there as usize % READS_MAX]) {
                job.there += 1;
            }
        }
        Ok(())
    }

    /// Takes what the device has finished and asks for more; says how many bytes of the job are there, and whether that is all.
    pub fn pump(&mut self, memory: &Reach<'_>) -> Result<(u64, bool), Failure> {
        self.reap()?;
        let asked = self.ask(memory);
        // Those before one that cannot be have to come to an end, too.
        self.block.notify();
        asked?;
        let job = self.job.ok_or(Failure::argument(0, 0))?;
        let all = job.there == job.pieces();
        Ok(((job.there * DISK_READ_BYTES).min(job.bytes), all))
    }

    /// Asks for as many pieces as may be under way.
    fn ask(&mut self, memory: &Reach<'_>) -> Result<(), Failure> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        while job.asked < job.pieces() && job.asked - job.there < READS_MAX as u64 {
            let offset = job.asked * DISK_READ_BYTES;
            let bytes = (job.bytes - offset).min(DISK_READ_BYTES);
            let mut parts = [Buffer::default(); PARTS_MAX];
            let Some(count) = memory.parts(job.va + offset, bytes, &mut parts) else {
                let at = job.va + offset;
                self.job = None;
                return Err(Failure::argument(0, at));
            };
            let sector = job.sector + offset / SECTOR_BYTES;
            // SAFETY: pages that the process may write; none of them is taken away or given to anyone while
            // `has_reads` holds.
            let taken = unsafe { self.block.read(sector, &parts[..count], job.asked) };
            if !taken.map_err(failure)? {
                break;
            }
            job.asked += 1;
            self.reads += 1;
        }
        Ok(())
    }

    /// Asks for an interrupt when the next read is over; true where one is over already. Without reads under way there is
    /// none to come.
    pub fn arm(&mut self) -> bool {
        self.has_reads() && self.block.arm()
    }
}
