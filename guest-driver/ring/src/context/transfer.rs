//! Transfers that are through when they return.
//!
//! Owns the cutting of long ones into chunks that are in flight at once, and what to do about a page that is
//! missing. The memory that it is lent is the engine's until the last chunk has ended: where that cannot be
//! waited for, the queue is destroyed first.

use byway_protocols::{Completion, Descriptor, Status};

use super::capability::Capability;
use super::error::{Ended, Error};
use super::region::{OutOfRange, Region, Source};
use super::transport::Transport;
use super::wait::Waiting;
use super::work_queue::WorkQueue;
use crate::message::Received;
use crate::queue::Ticket;
use crate::request::{Address, Pattern, Request, RequestError};
use crate::resume::resume;

/// Most chunks of one transfer that are in flight.
pub const DEPTH_MAX: u32 = 32;

/// Page faults of one chunk in a row after which nothing has moved: then the page does not stay.
const STALLS_MAX: u32 = 64;

/// How a long transfer is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipeline {
    /// Bytes of a chunk; 0 counts as 1.
    pub chunk_bytes: u32,
    /// Chunks in flight, 1 to [`DEPTH_MAX`].
    pub depth: u32,
}

impl Default for Pipeline {
    /// 8 chunks of 256 KiB.
    fn default() -> Self {
        Self {
            chunk_bytes: 256 << 10,
            depth: 8,
        }
    }
}

/// One end of a transfer.
#[derive(Clone, Copy)]
struct End<'m> {
    address: Address,
    /// One's own memory, which can be touched when a page of it is missing.
    own: Option<Region<'m>>,
}

impl<'m> End<'m> {
    fn own(region: Region<'m>) -> Self {
        Self {
            address: region.operand(),
            own: Some(region),
        }
    }

    fn of<T: Transport>(capability: &Capability<T>, offset: u64) -> Self {
        Self {
            address: capability.at(offset),
            own: None,
        }
    }

    /// The address `offset` bytes on. Wraps where [`Request`] then refuses.
    fn plus(&self, offset: u64) -> Address {
        Address {
            addr: self.address.addr.wrapping_add(offset),
            ..self.address
        }
    }

    fn touch(&self, address: u64, write: bool) -> bool {
        self.own.is_some_and(|region| region.touch(address, write))
    }
}

/// What a descriptor may touch of one's own, so that a page can be had.
#[derive(Clone, Copy)]
struct Ends<'m> {
    to: Option<End<'m>>,
    from: Option<End<'m>>,
}

impl Ends<'_> {
    /// Has the page present on which a descriptor stopped, and says what is left to do.
    fn mend(&self, descriptor: &Descriptor, completion: &Completion) -> Option<Descriptor> {
        let address = completion.fault_addr;
        let write = completion.status & Status::WRITE_FAULT != 0;
        let mut completion = *completion;
        // A page that is writable and not written yet - shared since a fork, or the page of zeros that a read
        // brings - is mapped read-only until its owner writes.
        if write && completion.status() == Some(Status::Stage1Permission) {
            completion.status = Status::Stage1NotPresent as u8 | Status::WRITE_FAULT;
        }
        let rest = resume(descriptor, &completion)?;
        let end = if write { self.to } else { self.from };
        // A fault on reading may be on either: a comparison reads both.
        let other = if write { None } else { self.to };
        let touched = end.is_some_and(|end| end.touch(address, write))
            || other.is_some_and(|end| end.touch(address, write));
        touched.then_some(rest)
    }
}

/// A chunk in flight.
#[derive(Clone, Copy)]
struct Flight {
    ticket: Ticket,
    descriptor: Descriptor,
    bytes: u64,
    stalls: u32,
}

/// Chunks in flight, oldest first. Dropped with some left - by an error, or by a panic of whoever is told of
/// the progress - it destroys the queue, because the memory goes back to its owner then.
struct Flights<'q, T: Transport, const WORDS: usize> {
    queue: &'q mut WorkQueue<T, WORDS>,
    ring: [Option<Flight>; DEPTH_MAX as usize],
    first: usize,
    count: usize,
}

impl<T: Transport, const WORDS: usize> Drop for Flights<'_, T, WORDS> {
    fn drop(&mut self) {
        if self.count != 0 {
            self.queue.end();
        }
    }
}

impl<T: Transport, const WORDS: usize> Flights<'_, T, WORDS> {
    /// # Safety
    /// As [`WorkQueue::post`], until `self` is dropped.
    unsafe fn start(
        &mut self,
        descriptor: Descriptor,
        bytes: u64,
        stalls: u32,
    ) -> Result<(), Error<T::Error>> {
        // SAFETY: the caller's promise.
        let ticket = unsafe { self.queue.post(descriptor) }?;
        let at = (self.first + self.count) % self.ring.len();
        self.ring[at] = Some(Flight {
            ticket,
            descriptor,
            bytes,
            stalls,
        });
        self.count += 1;
        Ok(())
    }

    /// Waits for the oldest.
    fn finish(&mut self) -> Result<Option<(Flight, Completion)>, Error<T::Error>> {
        let Some(flight) = self.ring[self.first] else {
            return Ok(None);
        };
        let completion = self.queue.wait(flight.ticket)?;
        self.ring[self.first] = None;
        self.first = (self.first + 1) % self.ring.len();
        self.count -= 1;
        Ok(Some((flight, completion)))
    }
}

impl<T: Transport, const WORDS: usize> WorkQueue<T, WORDS> {
    /// Writes `source` into a capability from `offset` on. Several chunks are in flight at once when it
    /// is long. Missing pages of one's own are had.
    ///
    /// # Errors
    /// See [`Error`]. What has been written until then stays.
    pub fn put<'m>(
        &mut self,
        target: &Capability<T>,
        offset: u64,
        source: impl Into<Source<'m>>,
    ) -> Result<(), Error<T::Error>> {
        self.put_with(target, offset, source, &Pipeline::default(), &mut |_| {})
    }

    /// Reads from a capability from `offset` on, as many bytes as `target` has.
    ///
    /// # Errors
    /// See [`Error`]. What has been read until then stays.
    pub fn get(
        &mut self,
        target: Region<'_>,
        source: &Capability<T>,
        offset: u64,
    ) -> Result<(), Error<T::Error>> {
        self.get_with(target, source, offset, &Pipeline::default(), &mut |_| {})
    }

    /// [`Self::put`], cut as told; `progress` is told the bytes moved so far after each chunk.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_with<'m>(
        &mut self,
        target: &Capability<T>,
        offset: u64,
        source: impl Into<Source<'m>>,
        pipeline: &Pipeline,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error<T::Error>> {
        let source: Source<'m> = source.into();
        let (to, from) = (End::of(target, offset), End::own(source.0));
        self.move_all(to, from, source.0.len() as u64, pipeline, progress)
    }

    /// [`Self::get`], cut as told; `progress` is told the bytes moved so far after each chunk.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_with(
        &mut self,
        target: Region<'_>,
        source: &Capability<T>,
        offset: u64,
        pipeline: &Pipeline,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error<T::Error>> {
        let (to, from) = (End::own(target), End::of(source, offset));
        self.move_all(to, from, target.len() as u64, pipeline, progress)
    }

    /// Copies within one's own memory, as many bytes as both have; the ranges may overlap.
    ///
    /// # Errors
    /// See [`Error`]; `source` and `target` are of different length.
    pub fn copy<'m>(
        &mut self,
        target: Region<'_>,
        source: impl Into<Source<'m>>,
    ) -> Result<(), Error<T::Error>> {
        let source: Source<'m> = source.into();
        self.same_length(target.len(), source.0.len())?;
        let ends = Ends {
            to: Some(End::own(target)),
            from: Some(End::own(source.0)),
        };
        // In one piece: chunks of ranges that overlap would have to be put in order.
        let request = Request::memmove(target.operand(), source.0.operand(), target.len() as u64)?;
        self.carry_out(request.blocking_on_fault()?, ends)?;
        Ok(())
    }

    /// Copies from one capability into another; none of it passes through one's own memory.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn forward(
        &mut self,
        target: (&Capability<T>, u64),
        source: (&Capability<T>, u64),
        bytes: u64,
    ) -> Result<(), Error<T::Error>> {
        let (to, from) = (End::of(target.0, target.1), End::of(source.0, source.1));
        self.move_all(to, from, bytes, &Pipeline::default(), &mut |_| {})
    }

    /// Fills `bytes` bytes of a capability from `offset` on with a pattern.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fill(
        &mut self,
        target: &Capability<T>,
        offset: u64,
        pattern: Pattern,
        bytes: u64,
    ) -> Result<(), Error<T::Error>> {
        let request = Request::fill(target.at(offset), pattern, bytes)?;
        let ends = Ends {
            to: Some(End::of(target, offset)),
            from: None,
        };
        self.carry_out(request.blocking_on_fault()?, ends)?;
        Ok(())
    }

    /// Compares one's own memory with a capability from `offset` on: the offset of the first byte that differs,
    /// if any does.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn compare<'m>(
        &mut self,
        own: impl Into<Source<'m>>,
        other: &Capability<T>,
        offset: u64,
    ) -> Result<Option<u64>, Error<T::Error>> {
        let own: Source<'m> = own.into();
        let ends = Ends {
            to: Some(End::of(other, offset)),
            from: Some(End::own(own.0)),
        };
        let bytes = own.0.len() as u64;
        let request = Request::compare(own.0.operand(), other.at(offset), bytes)?;
        let (completion, before) = self.carry_out(request.blocking_on_fault()?, ends)?;
        let differ = completion.result != 0;
        Ok(differ.then_some(before + u64::from(completion.bytes_completed)))
    }

    /// Sends a message of at most 4096 bytes to a port; waits while that is full.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send<'m>(
        &mut self,
        port: &Capability<T>,
        message: impl Into<Source<'m>>,
    ) -> Result<(), Error<T::Error>> {
        let message: Source<'m> = message.into();
        let bytes = message.0.len() as u64;
        let request = Request::send(port.slot(), message.0.operand(), bytes)?;
        let ends = Ends {
            to: None,
            from: Some(End::own(message.0)),
        };
        self.carry_out(request.blocking_on_fault()?, ends)?;
        Ok(())
    }

    /// Waits for the oldest message of a port.
    ///
    /// # Errors
    /// See [`Error`]; status 51 when the message is longer than `into`.
    pub fn receive(
        &mut self,
        port: &Capability<T>,
        into: Region<'_>,
    ) -> Result<Received, Error<T::Error>> {
        let bytes = into.len() as u64;
        let request = Request::receive(port.slot(), into.operand(), bytes)?;
        let ends = Ends {
            to: Some(End::own(into)),
            from: None,
        };
        let (completion, _) = self.carry_out(request.blocking_on_fault()?, ends)?;
        Received::of(&completion).ok_or(Error::Ended(Ended { completion }))
    }

    /// Waits until everything submitted before has completed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn drain(&mut self) -> Result<(), Error<T::Error>> {
        let ends = Ends {
            to: None,
            from: None,
        };
        self.carry_out(Request::drain(), ends)?;
        Ok(())
    }

    fn same_length(&self, target: usize, source: usize) -> Result<(), OutOfRange> {
        if target == source {
            return Ok(());
        }
        Err(OutOfRange {
            start: 0,
            bytes: source as u64,
            available: target as u64,
        })
    }

    /// What sleepers need.
    fn awaited(&self, request: Request) -> Request {
        match self.waiting() {
            Waiting::Poll => request,
            Waiting::Sleep { .. } => request.interrupting(),
        }
    }

    /// Carries one request out, with the rest of it as often as pages are missing. Returns the last completion,
    /// and the bytes that those before it had done.
    ///
    /// All memory that `request` names is in `ends`, borrowed by the caller, or behind a capability.
    fn carry_out(
        &mut self,
        request: Request,
        ends: Ends<'_>,
    ) -> Result<(Completion, u64), Error<T::Error>> {
        let mut descriptor = Descriptor::from(self.awaited(request));
        let mut before = 0;
        let mut stalls = 0;
        loop {
            // SAFETY: see above; `run` returns when the engine is through with it.
            let completion = unsafe { self.run(descriptor) }?;
            if completion.is_success() {
                return Ok((completion, before));
            }
            let ended = Ended { completion };
            if completion.bytes_completed == 0 {
                stalls += 1;
            } else {
                stalls = 0;
            }
            if stalls > STALLS_MAX {
                return Err(ended.into());
            }
            descriptor = ends.mend(&descriptor, &completion).ok_or(ended)?;
            before += u64::from(completion.bytes_completed);
        }
    }

    /// A copy of any length between ends that do not overlap.
    fn move_all(
        &mut self,
        to: End<'_>,
        from: End<'_>,
        length: u64,
        pipeline: &Pipeline,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error<T::Error>> {
        let chunk = u64::from(pipeline.chunk_bytes.max(1));
        let copy = |at: u64, bytes: u64| -> Result<Request, RequestError> {
            Request::memmove(to.plus(at), from.plus(at), bytes)?.blocking_on_fault()
        };
        let ends = Ends {
            to: Some(to),
            from: Some(from),
        };
        if length <= chunk {
            self.carry_out(copy(0, length)?, ends)?;
            progress(length);
            return Ok(());
        }
        // What wraps is refused before anything moves.
        for end in [to, from] {
            if end.address.addr.checked_add(length - 1).is_none() {
                return Err(RequestError::Wraps(end.address.addr).into());
            }
        }
        let depth = pipeline.depth.clamp(1, DEPTH_MAX) as usize;
        let mut flights = Flights {
            queue: self,
            ring: [None; DEPTH_MAX as usize],
            first: 0,
            count: 0,
        };
        let (mut next, mut done) = (0, 0);
        let mut failure: Option<Error<T::Error>> = None;
        loop {
            while failure.is_none()
                && next < length
                && flights.count < depth
                && flights.queue.room() > 0
            {
                let bytes = chunk.min(length - next);
                let request = flights.queue.awaited(copy(next, bytes)?);
                // SAFETY: the caller lent what the ends name, and `flights` is gone, its chunks
                // with it, before this returns.
                unsafe { flights.start(request.into(), bytes, 0) }?;
                next += bytes;
            }
            flights.queue.flush()?;
            let Some((flight, completion)) = flights.finish()? else {
                return match failure {
                    Some(failure) => Err(failure),
                    None if next == length => Ok(()),
                    // The ring is full of others' descriptors, or dead.
                    None => match flights.queue.is_alive() {
                        true => Err(crate::SubmitError::Full.into()),
                        false => Err(crate::SubmitError::Dead.into()),
                    },
                };
            };
            if completion.is_success() {
                done += flight.bytes;
                progress(done);
                continue;
            }
            let stalls = match completion.bytes_completed {
                0 => flight.stalls + 1,
                _ => 0,
            };
            match ends.mend(&flight.descriptor, &completion) {
                Some(rest) if failure.is_none() && stalls <= STALLS_MAX => {
                    // SAFETY: as above. Nothing older of this transfer is outstanding, so there is
                    // room for it.
                    unsafe { flights.start(rest, flight.bytes, stalls) }?;
                }
                _ => {
                    failure.get_or_insert(Error::Ended(Ended { completion }));
                }
            }
        }
    }
}
