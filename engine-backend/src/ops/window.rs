//! Windows: what one descriptor found out about its operands, kept for those that follow it
//! in the same chunk.
//!
//! In a burst of small transfers, descriptor after descriptor names the same capability and
//! the same pages. A capability that was valid and a page that was translated in a chunk stay
//! usable to its end: whoever revokes or invalidates waits for that, as for a long copy. So a
//! [`Window`] is a range of an operand's own addresses and where it lies on the host, and the
//! next operand needs a comparison of its slot and its range, nothing else.
//!
//! A window must never outlive its chunk, of which it is a part, and there is none where each use counts by itself:
//! through a capability with limits, or into memory whose writes are logged.

use super::chunk::Operand;
use crate::capability::Capability;
use crate::context::Target;
use crate::iotlb::Iotlb;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// One operand's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Slot of the operands that it is for.
    slot: u16,
    /// Bytes; 0 when there is no window.
    bytes: u64,
    /// The first byte, in the operands' own terms.
    first: u64,
    /// Host address of the first byte.
    host: u64,
    /// Bits that a distance from the first byte can have.
    inside: u64,
    /// What is added to an operand's own address in its address space.
    base: u64,
}

impl Window {
    const NONE: Self = Self {
        slot: 0,
        bytes: 0,
        first: 0,
        host: 0,
        inside: 0,
        base: 0,
    };

    /// Host address of `size` bytes of an operand, if they lie in the window.
    #[inline(always)]
    pub(super) fn find(&self, operand: Operand, size: u64) -> Option<HostAddr> {
        let at = operand.addr.wrapping_sub(self.first);
        let is_inside = size <= self.bytes && at <= self.bytes - size && operand.slot == self.slot;
        // The comparison may be mispredicted; the mask is arithmetic and keeps even a
        // speculative load near the page (Spectre variant 1). It changes nothing that passed.
        is_inside.then(|| HostAddr(self.host.wrapping_add(at & self.inside)))
    }

    /// Address of an operand in its address space.
    #[inline(always)]
    pub(super) fn address(&self, operand: Operand) -> u64 {
        self.base.wrapping_add(operand.addr)
    }

    /// For operands of its slot and of `size` bytes, as one was that was found in it.
    #[inline(always)]
    pub(super) fn of_size(&self, size: u64) -> Nearby {
        Nearby {
            first: self.first,
            most: self.bytes - size,
            inside: self.inside,
            host: self.host,
        }
    }

    /// Whether it has an address of the address space that another one has.
    #[inline]
    fn meets(&self, other: &Self) -> bool {
        let [own, others] = [self, other].map(|window| window.base.wrapping_add(window.first));
        meet((own, self.bytes), (others, other.bytes))
    }

    /// The window around an operand that was just translated for `access`.
    #[inline]
    fn around(iotlb: &Iotlb, operand: Operand, target: &Target<'_>, access: Access) -> Self {
        let Some(page) = iotlb.around(access) else {
            return Self::NONE;
        };
        let (mut first, mut last) = (page.first, page.last);
        if let Some(capability) = target.capability() {
            if capability.is_limited() {
                return Self::NONE;
            }
            // Not empty: the operand was found inside, and it is inside the page.
            first = first.max(target.base);
            last = last.min(target.base + (capability.length() - 1));
        }
        Self {
            slot: operand.slot,
            // No page is as large as the address space.
            bytes: last - first + 1,
            first: first - target.base,
            host: page.host.0 + (first - page.first),
            inside: page.last - page.first,
            base: target.base,
        }
    }
}

/// Whether two ranges of one address space, each an address and a length, share an address. Neither wraps, so the distance from the
/// start of one to the start of the other tells.
#[inline]
pub(super) fn meet(a: (u64, u64), b: (u64, u64)) -> bool {
    b.0.wrapping_sub(a.0) < a.1 || a.0.wrapping_sub(b.0) < b.1
}

/// A window for operands of one slot and size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearby {
    first: u64,
    /// Largest distance from there at which one may begin.
    most: u64,
    inside: u64,
    host: u64,
}

impl Nearby {
    /// Host address of an operand with this address, if it lies in the window.
    #[inline(always)]
    pub(super) fn find(&self, addr: u64) -> Option<HostAddr> {
        let at = addr.wrapping_sub(self.first);
        (at <= self.most).then(|| self.place(addr))
    }

    /// The same of one that is known to lie there.
    #[inline(always)]
    pub(super) fn place(&self, addr: u64) -> HostAddr {
        let at = addr.wrapping_sub(self.first);
        // The mask as in `Window::find`.
        HostAddr(self.host.wrapping_add(at & self.inside))
    }

    /// Address of an operand that was found there at `host`.
    #[inline(always)]
    pub(super) fn address(&self, host: HostAddr) -> u64 {
        host.0.wrapping_sub(self.host).wrapping_add(self.first)
    }
}

/// Bytes that went through a capability and are not counted yet.
#[derive(Debug, Clone, Copy)]
struct Tally<'a> {
    capability: Option<&'a Capability>,
    bytes: u64,
}

impl<'a> Tally<'a> {
    const EMPTY: Self = Self {
        capability: None,
        bytes: 0,
    };

    #[inline]
    fn count_up(&mut self, access: Access) {
        if let Some(capability) = self.capability.take() {
            match access {
                Access::Read => capability.account(self.bytes, 0),
                Access::Write => capability.account(0, self.bytes),
            }
        }
        self.bytes = 0;
    }

    /// Counts for another capability from now on.
    #[inline]
    fn turn_to(&mut self, target: &Target<'a>, access: Access) {
        let capability = target.capability();
        if self.capability.map(std::ptr::from_ref) != capability.map(std::ptr::from_ref) {
            self.count_up(access);
            self.capability = capability;
        }
    }

    /// Its limits are for the next operation to see.
    #[inline]
    fn count_if_limited(&mut self, access: Access) {
        if self.capability.is_some_and(Capability::is_limited) {
            self.count_up(access);
        }
    }

    #[inline]
    fn add(&mut self, target: &Target<'a>, access: Access, bytes: u64) {
        self.turn_to(target, access);
        self.bytes += bytes;
        self.count_if_limited(access);
    }
}

/// Where the windows are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) src: Window,
    pub(super) dst: Window,
    /// No byte of one is a byte of the other, as far as one can see: they are in two address spaces, or are two ranges of one that
    /// share no address.
    pub(super) are_apart: bool,
}

/// Where two operands are that lie in windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Both {
    pub(super) src: HostAddr,
    pub(super) dst: HostAddr,
    /// How far they are apart, where they may share a byte.
    pub(super) distance: Option<u64>,
}

impl Places {
    /// Whether there are any.
    #[inline(always)]
    pub(super) fn are_open(&self) -> bool {
        self.src.bytes != 0 && self.dst.bytes != 0
    }

    /// Whether so many bytes of both operands, not necessarily as many of each, lie in the windows; and then whether they may share one.
    #[inline(always)]
    pub(super) fn may_overlap(&self, src: (Operand, u64), dst: (Operand, u64)) -> Option<bool> {
        self.src.find(src.0, src.1)?;
        self.dst.find(dst.0, dst.1)?;
        let [from, to] = [self.src.address(src.0), self.dst.address(dst.0)];
        Some(!self.are_apart && meet((from, src.1), (to, dst.1)))
    }

    /// Where `size` bytes of both operands are, if they lie in the windows.
    #[inline(always)]
    pub(super) fn both(&self, src: Operand, dst: Operand, size: u64) -> Option<Both> {
        let found = Both {
            src: self.src.find(src, size)?,
            dst: self.dst.find(dst, size)?,
            distance: (!self.are_apart)
                .then(|| self.src.address(src).abs_diff(self.dst.address(dst))),
        };
        Some(found)
    }
}

/// The window of operands that are read and not copied, or written from no other operand, and what went through it.
#[derive(Debug)]
pub(super) struct Lone<'a> {
    window: Window,
    tally: Tally<'a>,
    access: Access,
}

impl<'a> Lone<'a> {
    #[inline(always)]
    const fn of(access: Access) -> Self {
        Self {
            window: Window::NONE,
            tally: Tally::EMPTY,
            access,
        }
    }

    /// Host address of `size` bytes of an operand, if they lie in the window.
    #[inline(always)]
    pub(super) fn find(&self, operand: Operand, size: u64) -> Option<HostAddr> {
        self.window.find(operand, size)
    }

    /// Counts `bytes` bytes that were found there, or lie where it was opened for.
    #[inline(always)]
    pub(super) fn passed(&mut self, bytes: u64) {
        self.tally.bytes += bytes;
    }

    /// Has another window from now on. What passes next is counted for what was found.
    #[inline]
    pub(super) fn open(&mut self, found: &Found<'a>) {
        self.tally.turn_to(&found.target, self.access);
        if let Some(window) = found.window {
            self.window = window;
        }
    }

    /// The same for `bytes` bytes that are known to pass.
    #[inline]
    pub(super) fn open_for(&mut self, found: &Found<'a>, bytes: u64) {
        self.open(found);
        self.passed(bytes);
        self.opened();
    }

    /// What passed behind [`Self::open`] is to be seen by the next operation, if it has limits.
    #[inline]
    pub(super) fn opened(&mut self) {
        self.tally.count_if_limited(self.access);
    }

    #[inline(always)]
    fn count_up(&mut self) {
        self.tally.count_up(self.access);
    }
}

/// An operand inside a page that was just translated.
#[derive(Debug)]
pub(super) struct Found<'a> {
    target: Target<'a>,
    /// The window around it, if more such operands follow.
    window: Option<Window>,
    /// Its first byte.
    pub(super) host: HostAddr,
}

/// The windows of one chunk, and what went through them.
#[derive(Debug)]
pub struct Windows<'a> {
    places: Places,
    /// A single descriptor has no use for windows.
    is_burst: bool,
    read: Tally<'a>,
    written: Tally<'a>,
    /// Of what is read and not copied: what is summed up, lists, and the first of two ranges that are compared.
    pub(super) reads: Lone<'a>,
    /// Of the second one.
    pub(super) others: Lone<'a>,
    /// Of what is filled.
    pub(super) fills: Lone<'a>,
}

impl Drop for Windows<'_> {
    /// They end with their chunk: what went through capabilities is counted now. Once for
    /// all, since each count is an atomic operation that other workers may make, too.
    #[inline(always)]
    fn drop(&mut self) {
        self.read.count_up(Access::Read);
        self.written.count_up(Access::Write);
        self.reads.count_up();
        self.others.count_up();
        self.fills.count_up();
    }
}

impl Default for Windows<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Windows<'a> {
    /// None yet, at the beginning of a chunk.
    #[inline(always)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            places: Places {
                src: Window::NONE,
                dst: Window::NONE,
                are_apart: false,
            },
            is_burst: false,
            read: Tally::EMPTY,
            written: Tally::EMPTY,
            reads: Lone::of(Access::Read),
            others: Lone::of(Access::Read),
            fills: Lone::of(Access::Write),
        }
    }

    /// More such operands follow.
    #[inline(always)]
    pub(super) fn are_for_many(&mut self) {
        self.is_burst = true;
    }

    /// Where they are, for as long as none is opened.
    #[inline(always)]
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Counts `bytes` bytes that went through both windows.
    #[inline(always)]
    pub(super) fn moved(&mut self, bytes: u64) {
        self.read.bytes += bytes;
        self.written.bytes += bytes;
    }

    /// Counts `bytes` bytes that were moved between two operands, each inside a page that was
    /// just translated, and makes windows around them.
    #[inline]
    pub(super) fn open(
        &mut self,
        iotlb: &Iotlb,
        src: (Operand, &Target<'a>),
        dst: (Operand, &Target<'a>),
        bytes: u64,
    ) {
        self.read.add(src.1, Access::Read, bytes);
        self.written.add(dst.1, Access::Write, bytes);
        if self.is_burst {
            let are_in_one = src.1.space.id() == dst.1.space.id();
            let src = Window::around(iotlb, src.0, src.1, Access::Read);
            let dst = Window::around(iotlb, dst.0, dst.1, Access::Write);
            self.places = Places {
                src,
                dst,
                are_apart: !(are_in_one && src.meets(&dst)),
            };
        }
        self.is_burst = true;
    }

    /// An operand of which the page was just translated for `access`, its first byte at `host`: for a [`Lone`] window.
    #[inline]
    pub(super) fn found(
        &mut self,
        iotlb: &Iotlb,
        operand: Operand,
        target: Target<'a>,
        access: Access,
        host: HostAddr,
    ) -> Found<'a> {
        let window = (self.is_burst).then(|| Window::around(iotlb, operand, &target, access));
        self.is_burst = true;
        Found {
            target,
            window,
            host,
        }
    }
}
