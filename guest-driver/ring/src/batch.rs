//! Batches: a list of descriptors in memory of one's own, and a status for each (SPEC section 4.3).

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::descriptor::BATCH_COUNT_MAX;
use byway_protocols::{Completion, Descriptor, Opcode, Status};

use crate::memory::completion_of;
use crate::request::{Address, Request, RequestError};

/// Why a descriptor is not taken as an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchError {
    /// The list has room for this many elements only; at most 1024 are of use.
    Full(usize),
    /// BATCH, SEND and RECEIVE cannot be elements: an engine would answer status 10.
    NoElement(Opcode),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(room) => write!(f, "the list has {room} elements; submit it, begin another"),
            Self::NoElement(opcode) => write!(
                f,
                "{} as an element; submit it to the queue by itself",
                opcode.name()
            ),
        }
    }
}

impl core::error::Error for BatchError {}

/// Fills a list of descriptors.
///
/// ```
/// use byway_ring::{Address, Batch, BatchEnd, Descriptor, Completion, Request, Slot, Statuses};
///
/// let slot = Slot::new(3).ok_or("slots end at 32767")?;
/// let mut list = [Descriptor::default(); 2];
/// let mut batch = Batch::new(&mut list);
/// batch.push(Request::put(slot, 0, 0x7000_0000, 4096)?)?;
/// batch.push(Request::signal(Address::capability(slot, 4096), 1)?)?;
///
/// let mut completions = [Completion::default(); 2];
/// let statuses = Statuses::over(&mut completions);
/// let request = batch.request(&statuses)?;
/// // Submit `request` and wait; then `BatchEnd::of` its completion, and each element's own:
/// for completion in statuses.iter() {
/// #   let _ = BatchEnd::of(&completion);
///     println!("{:?}", completion.status());
/// }
/// # let _ = request;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Batch<'a> {
    list: &'a mut [Descriptor],
    count: usize,
}

impl<'a> Batch<'a> {
    /// An empty batch in this list.
    #[must_use]
    pub const fn new(list: &'a mut [Descriptor]) -> Self {
        Self { list, count: 0 }
    }

    /// Appends an element; its index.
    ///
    /// # Errors
    /// The list is full, or the operation is none for batches.
    pub fn push(&mut self, element: impl Into<Descriptor>) -> Result<usize, BatchError> {
        let element = element.into();
        if let Some(opcode @ (Opcode::Batch | Opcode::Send | Opcode::Receive)) =
            Opcode::from_code(element.code())
        {
            return Err(BatchError::NoElement(opcode));
        }
        let room = self.list.len().min(BATCH_COUNT_MAX as usize);
        let index = self.count;
        if index >= room {
            return Err(BatchError::Full(room));
        }
        self.list[index] = element;
        self.count += 1;
        Ok(index)
    }

    /// The elements so far.
    #[must_use]
    pub fn elements(&self) -> &[Descriptor] {
        &self.list[..self.count]
    }

    /// The request that runs it, with list and statuses where they lie in this process. Both must
    /// stay until its completion: that of a batch that is dropped before it is completed names
    /// memory that is something else by then.
    ///
    /// # Errors
    /// The batch is empty, or there are fewer statuses than elements.
    pub fn request(&self, statuses: &Statuses<'_>) -> Result<Request, RequestError> {
        if statuses.len() < self.count {
            return Err(RequestError::Count(self.count));
        }
        let list = Address::of(self.list.as_ptr());
        Request::batch(list, statuses.address(), self.count)
    }
}

/// The completions of a batch's elements, written by the engine behind the compiler's back.
#[derive(Debug)]
pub struct Statuses<'a> {
    first: NonNull<Completion>,
    count: usize,
    /// Nobody else reads or writes them through Rust.
    memory: PhantomData<&'a mut [Completion]>,
}

impl<'a> Statuses<'a> {
    /// Over an array that nobody else uses meanwhile; what it holds is lost.
    #[must_use]
    pub fn over(array: &'a mut [Completion]) -> Self {
        array.fill(Completion::default());
        let count = array.len();
        let first: NonNull<Completion> = NonNull::from(array).cast();
        // From here on the engine may write there: its address is made known.
        first.as_ptr().expose_provenance();
        Self {
            first,
            count,
            memory: PhantomData,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where they are.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::of(self.first.as_ptr())
    }

    /// The completion of an element, to be looked at once that of the batch is there. `None`: there
    /// is no such element, or it has none since the batch ended before it.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Completion> {
        if index >= self.count {
            return None;
        }
        // SAFETY: inside the array, which `self` borrows. The engine may write it at any time, so
        // it is read by atomics; a completion's 32 bytes are aligned for these four.
        let words: &[AtomicU64; 4] = unsafe { self.first.add(index).cast().as_ref() };
        let first = words[0].load(Ordering::Acquire);
        let [_, rest @ ..] = words.each_ref().map(|word| word.load(Ordering::Relaxed));
        let completion = completion_of([first, rest[0], rest[1], rest[2]]);
        // No completion has status 0.
        (completion.status != 0).then_some(completion)
    }

    /// The completions of all elements that have one, in order.
    pub fn iter(&self) -> impl Iterator<Item = Completion> {
        (0..self.count).map_while(|index| self.get(index))
    }

    /// The first element that did not succeed, with its completion.
    #[must_use]
    pub fn first_failure(&self) -> Option<(usize, Completion)> {
        let good = [Some(Status::Success), Some(Status::SuccessPredicate)];
        let mut all = self.iter().enumerate();
        all.find(|(_, completion)| !good.contains(&completion.status()))
    }
}
