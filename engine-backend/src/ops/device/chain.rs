//! What becomes of the bytes read when a descriptor says so: DECRYPT, DECOMPRESS or OPEN_COPY,
//! piece by piece as they come, their source being a [`View`]. How what makes bytes to be written
//! begins, too; it goes on in `pack`.

use std::sync::Arc;

use byway_protocols::codec::XTS_UNIT_LOG2_MAX;
use byway_protocols::{Completion, Descriptor, Rights, Status};
use crossbeam_queue::ArrayQueue;

use super::view::View;
use super::{Device, Kind, Stop, WINDOW};
use crate::backend::{Backend, load_line};
use crate::context::BlockUse;
use crate::ops::Step;
use crate::ops::chunk::{Chunk, Operand};
use crate::ops::transform::Transform;
use crate::ops::validate;
use crate::stage2::Access;

/// Transfers of a worker that are chained at a time.
const CHAINS: usize = 16;

/// What has to be there at once for each of these operations to get on.
const SPAN_BYTES: u32 = 128 << 10;

/// Room that each operation that makes something needs at once: the largest unit of XTS, of
/// which all others are parts.
const MADE_BYTES: u32 = 1 << XTS_UNIT_LOG2_MAX;

/// Room for what chained transfers keep, allocated when the worker starts.
#[derive(Debug)]
pub struct Chains(Arc<ArrayQueue<Place>>);

/// Room for one.
type Place = Box<Option<Chained>>;

/// What is kept of one.
#[derive(Debug)]
struct Chained {
    transform: Transform,
    /// How it has ended, if what it made is on its way yet.
    ended: Option<Completion>,
}

impl Chains {
    /// Allocates all of it.
    #[must_use]
    pub fn new() -> Self {
        let free = ArrayQueue::new(CHAINS);
        for _ in 0..CHAINS {
            // There is room for all.
            let _ = free.push(Box::new(None));
        }
        Self(Arc::new(free))
    }

    fn link(&self, transform: Transform) -> Option<Link> {
        let mut place = self.0.pop()?;
        *place = Some(Chained {
            transform,
            ended: None,
        });
        Some(Link {
            place: Some(place),
            home: Arc::clone(&self.0),
        })
    }
}

impl Default for Chains {
    fn default() -> Self {
        Self::new()
    }
}

/// A chained operation under way.
#[derive(Debug)]
pub struct Link {
    /// `Some` until it is dropped.
    place: Option<Place>,
    home: Arc<ArrayQueue<Place>>,
}

impl Link {
    fn chained(&self) -> Option<&Chained> {
        self.place.as_ref()?.as_ref().as_ref()
    }
    fn chained_mut(&mut self) -> Option<&mut Chained> {
        self.place.as_mut()?.as_mut().as_mut()
    }
    pub(super) fn transform(&mut self) -> Option<&mut Transform> {
        Some(&mut self.chained_mut()?.transform)
    }
    /// Bytes of its source.
    pub(super) fn size(&self) -> u32 {
        self.chained().map_or(0, |chained| chained.transform.size())
    }
    /// How it has ended, if it has and what it made is on its way yet.
    pub(super) fn ended(&self) -> Option<Completion> {
        self.chained()?.ended
    }
    pub(super) fn set_ended(&mut self, completion: Completion) {
        if let Some(chained) = self.chained_mut() {
            chained.ended = Some(completion);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(mut place) = self.place.take() {
            *place = None;
            // Its place is empty while it is away.
            let _ = self.home.push(place);
        }
    }
}

impl Device {
    /// Reads the chained descriptor, once. Bytes of a piece, which has at most `piece`.
    pub(super) fn begin_chain<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        block: u32,
        piece: u32,
    ) -> Result<u32, Stop> {
        let at = Operand {
            slot: 0,
            addr: self.wanted.chain,
        };
        let target = chunk.resolve(at, Descriptor::SIZE as u64, Rights::READ)?;
        let line = chunk.page(&target, 0, Access::Read)?;
        // SAFETY: translated in this chunk for reading; a multiple of 64, which was checked
        // with the descriptor, since slot 0 has its addresses as they are.
        let descriptor = Descriptor::from_words(unsafe { load_line(line.host) });
        chunk.settle(&[(&target, Access::Read, Descriptor::SIZE as u64)])?;
        let is_write = self.wanted.kind == Kind::Write;
        let (transform, stored) = if is_write {
            let transform = validate::chained_before(&descriptor, View::operand(0))?;
            let capacity = transform.capacity();
            (transform, capacity)
        } else {
            let transform = validate::chained(&descriptor, View::operand(0))?;
            let size = transform.size();
            (transform, size)
        };
        let rounded = stored.div_ceil(block).checked_mul(block);
        if rounded != Some(self.wanted.size) {
            return Err(Status::BadSize.into());
        }
        let is_enough = if is_write {
            piece >= MADE_BYTES
        } else {
            piece * (WINDOW as u32) >= SPAN_BYTES + piece
        };
        if !is_enough {
            return Err(Status::DeviceUnsupported.into());
        }
        let link = chunk.codecs.chains.link(transform);
        self.chain = Some(link.ok_or(Status::EngineBusy)?);
        // So that no unit lies in two pieces.
        Ok(if is_write { 1 << piece.ilog2() } else { piece })
    }

    /// Goes on with the chained operation. `Some` is its end.
    pub(super) fn hand_on_chained<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: &BlockUse<'_>,
    ) -> Result<Option<Completion>, Stop> {
        let Some(transform) = self.chain.as_mut().and_then(Link::transform) else {
            return Err(Status::HardwareError.into());
        };
        chunk.staging.view.was_short = false;
        let step = transform.step(chunk);
        let consumed = transform.consumed();
        let was_short = std::mem::take(&mut chunk.staging.view.was_short);
        let new = consumed.saturating_sub(self.done);
        self.count(from, new);
        match step {
            Step::Done(outcome) if !was_short => {
                let completion = outcome.completion;
                if completion.is_success() {
                    Ok(Some(completion))
                } else {
                    Err(Stop::Ended(completion))
                }
            }
            _ => Ok(None),
        }
    }
}
