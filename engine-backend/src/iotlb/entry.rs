//! Cached translations and the set-associative arrays that hold them, one array per page
//! size.

use super::Around;
use crate::address_space::Translation;
use crate::stage2::HostAddr;

/// Entries that compete for one index.
const WAYS: usize = 4;

/// Page sizes, smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Size {
    Page4K,
    Page2M,
    Page1G,
}

impl Size {
    pub(super) const fn shift(self) -> u32 {
        12 + 9 * self as u32
    }
    pub(super) const fn bytes(self) -> u64 {
        1 << self.shift()
    }
    /// The largest size that is not above `bytes`.
    pub(super) const fn of(bytes: u64) -> Self {
        if bytes >= Self::Page1G.bytes() {
            Self::Page1G
        } else if bytes >= Self::Page2M.bytes() {
            Self::Page2M
        } else {
            Self::Page4K
        }
    }
}

/// One page's translation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// First address of the page, with [`Entry::VALID`] and [`Entry::WRITABLE`] below.
    tag: u64,
    space: u64,
    version: u64,
    host: u64,
    gpa: u64,
    /// Bits of an address inside the page.
    inside: u64,
    guest_size: Size,
}

impl Entry {
    const VALID: u64 = 1;
    const WRITABLE: u64 = 2;

    pub(super) const EMPTY: Self = Self {
        tag: 0,
        space: 0,
        version: 0,
        host: 0,
        gpa: 0,
        inside: 0xfff,
        guest_size: Size::Page4K,
    };

    /// The entry for a walk's result, under the version read before the walk.
    pub(super) fn new(space: u64, version: u64, addr: u64, walked: &Translation) -> Self {
        let inside = Size::of(walked.page_bytes).bytes() - 1;
        let low = addr & inside;
        let writable = if walked.writable { Self::WRITABLE } else { 0 };
        Self {
            tag: (addr - low) | Self::VALID | writable,
            space,
            version,
            host: walked.host.0 - low,
            gpa: walked.gpa - low,
            inside,
            guest_size: Size::of(walked.guest_page_bytes),
        }
    }

    /// The bits of a tag that are compared, and what they are in the tag of an entry that
    /// allows the access to the page that starts at `page`.
    #[inline(always)]
    fn wanted(page: u64, write: bool) -> (u64, u64) {
        let flags = Self::VALID | if write { Self::WRITABLE } else { 0 };
        (!0xfff | flags, page | flags)
    }

    /// Whether it translates `addr` of this space in this version.
    #[inline(always)]
    pub(super) fn matches(&self, space: u64, version: u64, addr: u64, write: bool) -> bool {
        let (mask, tag) = Self::wanted(addr & !self.inside, write);
        self.tag & mask == tag && self.space == space && self.version == version
    }

    /// Host address of `addr`, which it matches.
    #[inline(always)]
    pub(super) fn host(&self, addr: u64) -> HostAddr {
        HostAddr(self.host + (addr & self.inside))
    }
    /// Guest-physical address of `addr`, which it matches.
    #[inline(always)]
    pub(super) fn gpa(&self, addr: u64) -> u64 {
        self.gpa + (addr & self.inside)
    }
    /// Bytes from `addr`, which it matches, to the end of the page.
    #[inline(always)]
    pub(super) fn bytes_left(&self, addr: u64) -> u64 {
        self.inside + 1 - (addr & self.inside)
    }
    /// All of its page, if it allows the access at all.
    #[inline]
    pub(super) fn around(&self, write: bool) -> Option<Around> {
        let (_, flags) = Self::wanted(0, write);
        let first = self.tag & !self.inside;
        (self.tag & flags == flags).then_some(Around {
            first,
            last: first | self.inside,
            host: HostAddr(self.host),
        })
    }
    pub(super) fn size(&self) -> Size {
        Size::of(self.inside + 1)
    }
    /// Whether it is a part of a larger page of the guest, all of which one invalidation
    /// of any address in it must drop.
    pub(super) fn is_fractured(&self) -> bool {
        self.guest_size > self.size()
    }
    fn is_valid(&self) -> bool {
        self.tag & Self::VALID != 0
    }
    /// Whether the guest's page that it stems from overlaps `first..=last` of the space.
    fn overlaps(&self, space: u64, first: u64, last: u64) -> bool {
        let bytes = self.guest_size.bytes();
        let start = self.tag & !(bytes - 1);
        self.is_valid() && self.space == space && start <= last && start | (bytes - 1) >= first
    }
}

/// Entries that compete for one index, with their tags together on one cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Set {
    tags: [u64; WAYS],
    entries: [Entry; WAYS],
}

impl Set {
    const EMPTY: Self = Self {
        tags: [0; WAYS],
        entries: [Entry::EMPTY; WAYS],
    };

    fn put(&mut self, way: usize, entry: Entry) {
        self.tags[way] = entry.tag;
        self.entries[way] = entry;
    }

    fn drop_range(&mut self, space: u64, first: u64, last: u64) {
        for way in 0..WAYS {
            if self.entries[way].overlaps(space, first, last) {
                self.put(way, Entry::EMPTY);
            }
        }
    }
}

/// The translations of one page size.
#[derive(Debug)]
pub(super) struct Array {
    size: Size,
    sets: Box<[Set]>,
    /// Way that a full set replaces next.
    victim: usize,
    /// Whether anything was put in since the last flush.
    used: bool,
    /// Whether any of that was a part of a larger page of the guest.
    fractured: bool,
}

impl Array {
    /// An empty array of `sets` sets, a power of two.
    pub(super) fn new(size: Size, sets: usize) -> Self {
        debug_assert!(sets.is_power_of_two());
        Self {
            size,
            sets: vec![Set::EMPTY; sets].into_boxed_slice(),
            victim: 0,
            used: false,
            fractured: false,
        }
    }

    /// Index of the set for an address. Spaces are spread, since all processes tend to
    /// use the same addresses.
    #[inline(always)]
    fn index(&self, space: u64, addr: u64) -> usize {
        let page = addr >> self.size.shift();
        let spread = space.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (page ^ spread) as usize & (self.sets.len() - 1)
    }

    /// Finds the translation of `addr`.
    #[inline]
    pub(super) fn find(&self, space: u64, version: u64, addr: u64, write: bool) -> Option<&Entry> {
        if !self.used {
            return None;
        }
        let set = &self.sets[self.index(space, addr)];
        let (mask, wanted) = Entry::wanted(addr & !(self.size.bytes() - 1), write);
        (0..WAYS)
            .filter(|&way| set.tags[way] & mask == wanted)
            .map(|way| &set.entries[way])
            .find(|e| e.space == space && e.version == version)
    }

    /// Puts an entry in: in place of one for the same page, else of an empty one, else of
    /// each way in turn.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.used = true;
        self.fractured |= entry.is_fractured();
        let index = self.index(entry.space, entry.tag);
        let set = &mut self.sets[index];
        let same =
            |e: &Entry| e.is_valid() && e.space == entry.space && (e.tag ^ entry.tag) & !0xfff == 0;
        let way = set
            .entries
            .iter()
            .position(same)
            .or_else(|| set.entries.iter().position(|e| !e.is_valid()))
            .unwrap_or_else(|| {
                self.victim = (self.victim + 1) % WAYS;
                self.victim
            });
        set.put(way, entry);
    }

    /// Drops every entry that stems from a page of the guest that overlaps `first..=last`.
    pub(super) fn drop_range(&mut self, space: u64, first: u64, last: u64) {
        if !self.used {
            return;
        }
        let pages = (last >> self.size.shift()) - (first >> self.size.shift());
        // A fractured page has entries at indices that the range does not name.
        if self.fractured || pages >= self.sets.len() as u64 {
            for set in &mut self.sets {
                set.drop_range(space, first, last);
            }
            return;
        }
        for n in 0..=pages {
            let addr = ((first >> self.size.shift()) + n) << self.size.shift();
            let index = self.index(space, addr);
            self.sets[index].drop_range(space, first, last);
        }
    }

    /// Drops everything.
    pub(super) fn flush(&mut self) {
        if self.used {
            self.sets.fill(Set::EMPTY);
        }
        self.used = false;
        self.fractured = false;
    }
}
