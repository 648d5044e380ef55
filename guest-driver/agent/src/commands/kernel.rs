//! Commands that the guest kernel carries out for a process.

use super::{Failure, Request, Status, Words, commands, pack};

/// [`Alloc::flags`]: fill with zero. Without it the memory holds what it held before.
pub const ALLOC_ZERO: u64 = 1;
/// [`Alloc::flags`]: leave the pages not present; [`MapPages`] or [`PteSet`] fill them.
pub const ALLOC_EMPTY: u64 = 2;
/// [`Alloc::flags`]: map read-only.
pub const ALLOC_READ_ONLY: u64 = 4;

/// [`MakeLazy::policy`]: no longer lazy; pages that were not given stay not present.
pub const LAZY_OFF: u64 = 0;
/// [`MakeLazy::policy`]: whoever wants a page gets it.
pub const LAZY_MAP: u64 = 1;
/// [`MakeLazy::policy`]: transfers are refused it.
pub const LAZY_REFUSE: u64 = 2;
/// [`MakeLazy::policy`]: transfers are told to come back later.
pub const LAZY_LATER: u64 = 3;
/// [`MakeLazy::policy`]: transfers get no answer.
pub const LAZY_IGNORE: u64 = 4;
/// [`Churn::action`]: each page moves to another frame, contents kept, as compaction or ballooning would move it.
pub const CHURN_MOVE: u64 = 0;
/// [`Churn::action`]: the pages are unmapped and their frames given away.
pub const CHURN_DISCARD: u64 = 1;
/// [`Churn::action`]: what was unmapped gets zeroed frames.
pub const CHURN_FILL: u64 = 2;
/// [`Churn::action`]: the pages become read-only and their contents count as shared, as after a fork.
pub const CHURN_SHARE: u64 = 3;
/// [`Churn::action`]: what was shared is copied to frames of its own, writable again, as copy-on-write does.
pub const CHURN_BREAK_SHARE: u64 = 4;

/// [`Churn::flags`]: use the frames again *before* the engine has acknowledged the invalidation. Wrong on
/// purpose: what is to be found must have been seen.
pub const CHURN_REUSE_TOO_EARLY: u64 = 1;

/// Most frames that are given away at once; with one more the oldest is taken back and checked.
pub const GIVEN_FRAMES: u64 = 256;
/// Most pages that can be [`CHURN_SHARE`]d at once.
pub const SHARED_PAGES: u64 = 64;

commands! {
    /// What the guest kernel does for a process.
    KernelCommands, dispatch_kernel, KERNEL_COMMAND_LIST;

    /// Gives the process fresh memory.
    0x100 alloc: Alloc {
        /// Bytes; rounded up to whole pages.
        bytes,
        /// Bytes of a page: 4096 or 2 MiB. 4096-byte pages are deliberately not physically
        /// contiguous.
        page_size,
        /// [`ALLOC_ZERO`], [`ALLOC_EMPTY`], [`ALLOC_READ_ONLY`].
        flags,
    } => Allocated {
        /// Virtual address, aligned to 2 MiB, followed by an unmapped page.
        va,
        /// Guest-physical address of the first page; 0 with [`ALLOC_EMPTY`].
        gpa,
    }

    /// Takes back what [`Alloc`] gave, whatever its entries say by now.
    0x101 free: Free {
        /// Its virtual address.
        va,
    } => Freed {}

    /// Reads the page-table entries that a walk of an address meets.
    0x102 pte_get: PteGet {
        /// Virtual address.
        va,
    } => PteGot {
        /// Lowest level reached: 1 = PTE, ... The levels below it read as 0.
        lowest,
        /// The PTE.
        level1,
        /// The PDE.
        level2,
        /// The PDPTE.
        level3,
        /// The PML4E.
        level4,
        /// The PML5E; 0 with four levels.
        level5,
        /// Guest-physical address of the entry at level `lowest`.
        entry_gpa,
    }

    /// Overwrites one page-table entry with any value at all. Everything above it must be there.
    /// The process's TLB is flushed; the engine is told nothing.
    0x103 pte_set: PteSet {
        /// Virtual address that selects the entry.
        va,
        /// 1 = PTE to 5 = PML5E.
        level,
        /// New value.
        value,
    } => PteOld {
        /// What was there before.
        value,
    }

    /// Maps pages at an address of [`Alloc`] with [`ALLOC_EMPTY`], creating page tables as needed.
    0x104 map_pages: MapPages {
        /// Virtual address; a multiple of `page_size`.
        va,
        /// Guest-physical address; a multiple of `page_size`.
        gpa,
        /// Bytes; a multiple of `page_size`.
        bytes,
        /// 4096 or 2 MiB.
        page_size,
        /// Low and high bits of the leaf entries (present, writable, user, NX, ...).
        bits,
    } => Mapped {}

    /// Clears leaf entries.
    0x105 unmap_pages: UnmapPages {
        /// Virtual address.
        va,
        /// Bytes.
        bytes,
    } => Unmapped {
        /// Leaf entries cleared.
        entries,
    }

    /// Changes bits of leaf entries that are not 0.
    0x106 protect_pages: ProtectPages {
        /// Virtual address.
        va,
        /// Bytes.
        bytes,
        /// Bits to set.
        set,
        /// Bits to clear.
        clear,
    } => Protected {
        /// Leaf entries changed.
        entries,
    }

    /// Puts the vCPU to sleep in `hlt` until the host raises the wake interrupt
    /// (`wake_irq=` on the command line). Other interrupts are served without waking the process.
    0x107 sleep: Sleep {} => Slept {
        /// Interrupts served meanwhile, the waking one included.
        interrupts,
    }

    /// Touches a device register from the guest kernel: an exit of the MMIO kind, where the VM has
    /// a virtio-mmio device.
    0x108 mmio_on_purpose: MmioOnPurpose {
        /// How many times.
        count,
    } => Touched {}

    /// Makes 4096-byte pages of [`Alloc`] not present until somebody wants them: the process by a
    /// page fault, or a transfer by a page request, which the guest kernel answers as the policy
    /// says. Contents are kept. Requests for pages that are
    /// not lazy are refused, unless [`Churn`] has discarded them.
    0x110 make_lazy: MakeLazy {
        /// Virtual address; a multiple of 4096.
        va,
        /// Bytes; a multiple of 4096.
        bytes,
        /// [`LAZY_MAP`] and the like; replaces that of a range which began at `va`.
        policy,
    } => IsLazy {
        /// Pages that were present before.
        pages,
    }

    /// What the guest kernel did about pages that were wanted, since boot.
    0x111 pager: Pager {} => PagerIs {
        /// Page requests of the engine.
        requests,
        /// Those answered with the page.
        mapped,
        /// Those refused.
        refused,
        /// Those put off.
        postponed,
        /// Those not answered.
        ignored,
        /// Answers that came too late.
        late,
        /// Pages given to the process itself.
        touched,
    }

    /// Powers the machine off by a reset request. There is no answer.
    0x109 power_off: PowerOff {} => PoweredOff {}

    /// Changes the process's page tables under the engine as a busy kernel would, page by page, telling the
    /// engine and waiting for its acknowledgement before any frame is used again. Pages to which the action does
    /// not apply are left alone.
    ///
    /// A frame that is given away becomes the peer process's, mapped at [`Churned::given_va`] and filled with a
    /// canary ([`crate::canary`]) by the kernel; it is checked when it is taken back, and by [`super::Tend`].
    0x120 churn: Churn {
        /// Virtual address in a region of 4096-byte pages.
        va,
        /// Pages.
        pages,
        /// [`CHURN_MOVE`] to [`CHURN_BREAK_SHARE`].
        action,
        /// [`CHURN_REUSE_TOO_EARLY`].
        flags,
    } => Churned {
        /// Pages changed.
        pages,
        /// Frames whose new owner's contents were changed by someone else.
        damaged,
        /// Guest-physical address of the first damaged word; 0 = none.
        damaged_at,
        /// What stands there.
        found,
        /// Frames that the peer process has now, from `given_va` on.
        given,
        /// Where.
        given_va,
        /// How long the guest kernel waited for the engine, in ticks.
        ticks,
    }
}
