//! Every command that a guest process understands, once: its number, its arguments, its results
//! and what it means.
//!
//! To add one, add an entry here and a method to the implementation of
//! [`ProcessCommands`] or [`KernelCommands`] in the guest; the compiler
//! asks for the second after the first. Arguments and results are words of 64 bits, eight
//! at most, carried in the order of the fields.
//!
//! [`ProcessCommands`] run in the addressed process, in ring 3, without an exit
//! unless they say otherwise. [`KernelCommands`] are carried out for that process by the guest
//! kernel: they cost a trap.

/// Arguments or results of one command.
pub type Words = [u64; 8];

/// How a command ended: `ReplyBlock::status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done; the results are the reply's fields.
    Ok = 0,
    /// The process took an exception while it carried out the command. Details: vector,
    /// error code, faulting address, instruction pointer. The process has been restarted.
    Fault = 1,
    /// No such command in this guest.
    Unknown = 2,
    /// An argument is out of its range. Details: index of the argument, its value.
    BadArgument = 3,
    /// Out of memory, page tables, or table entries. Details: bytes or entries asked for.
    NoMemory = 4,
    /// The engine refused. Details: its status code.
    Refused = 5,
    /// What was waited for did not come.
    TimedOut = 6,
    /// There is no Byway device, or it stopped answering. Details: a number that says where.
    NoDevice = 7,
}

impl Status {
    /// The status that `value` stands for.
    #[must_use]
    pub const fn from_raw(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Ok),
            1 => Some(Self::Fault),
            2 => Some(Self::Unknown),
            3 => Some(Self::BadArgument),
            4 => Some(Self::NoMemory),
            5 => Some(Self::Refused),
            6 => Some(Self::TimedOut),
            7 => Some(Self::NoDevice),
            _ => None,
        }
    }
}

/// A command that did not end in [`Status::Ok`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure; never [`Status::Ok`].
    pub status: Status,
    /// See [`Status`].
    pub details: [u64; 4],
}

impl Failure {
    /// A failure with one detail.
    #[must_use]
    pub const fn new(status: Status, detail: u64) -> Self {
        Self {
            status,
            details: [detail, 0, 0, 0],
        }
    }

    /// [`Status::BadArgument`] for argument number `index` (from 0) that was `value`.
    #[must_use]
    pub const fn argument(index: u64, value: u64) -> Self {
        Self {
            status: Status::BadArgument,
            details: [index, value, 0, 0],
        }
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d] = self.details;
        match self.status {
            Status::Ok => write!(f, "a failure that says it is none"),
            Status::Fault => write!(
                f,
                "the guest process took exception {a} (error code {b:#x}, address {c:#x}, at {d:#x})"
            ),
            Status::Unknown => write!(f, "the guest does not know this command"),
            Status::BadArgument => write!(f, "argument {a} is out of range: {b:#x}"),
            Status::NoMemory => write!(f, "the guest has not enough left for {a:#x}"),
            Status::Refused => write!(f, "the engine refused with status {a:#04x}"),
            Status::TimedOut => write!(f, "nothing came in the time given"),
            Status::NoDevice => write!(f, "no answer from the Byway device ({a})"),
        }
    }
}

impl core::error::Error for Failure {}

/// A command with its arguments.
pub trait Request: Copy {
    /// Number of the command.
    const OPCODE: u32;
    /// Its name in messages.
    const NAME: &'static str;
    /// What it answers.
    type Reply: Copy + core::fmt::Debug;
    /// The arguments as words.
    fn encode(self) -> Words;
    /// The arguments from words.
    fn decode(words: Words) -> Self;
    /// The results as words.
    fn encode_reply(reply: Self::Reply) -> Words;
    /// The results from words.
    fn decode_reply(words: Words) -> Self::Reply;
}

macro_rules! commands {
    ($(#[$trait_doc:meta])* $handler:ident, $dispatch:ident, $list:ident; $(
        $(#[$doc:meta])*
        $code:literal $method:ident: $request:ident {
            $($(#[$arg_doc:meta])* $arg:ident),* $(,)?
        } => $reply:ident {
            $($(#[$result_doc:meta])* $result:ident),* $(,)?
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub struct $request { $($(#[$arg_doc])* pub $arg: u64,)* }

            #[doc = concat!("What [`", stringify!($request), "`] answers.")]
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub struct $reply { $($(#[$result_doc])* pub $result: u64,)* }

            impl Request for $request {
                const OPCODE: u32 = $code;
                const NAME: &'static str = stringify!($request);
                type Reply = $reply;

                fn encode(self) -> Words {
                    let words: &[u64] = &[$(self.$arg),*];
                    pack(words)
                }

                fn decode(words: Words) -> Self {
                    let [$($arg,)* ..] = words;
                    Self { $($arg),* }
                }

                fn encode_reply(reply: $reply) -> Words {
                    let $reply { $($result),* } = reply;
                    let words: &[u64] = &[$($result),*];
                    pack(words)
                }

                fn decode_reply(words: Words) -> $reply {
                    let [$($result,)* ..] = words;
                    $reply { $($result),* }
                }
            }
        )*

        $(#[$trait_doc])*
        pub trait $handler {
            $(
                #[doc = concat!("Carries out [`", stringify!($request), "`].")]
                ///
                /// # Errors
                /// As the command's own description and [`Status`] say.
                fn $method(&mut self, request: $request) -> Result<$reply, Failure>;
            )*
        }

        #[doc = concat!("Hands command `opcode` to the method of [`", stringify!($handler), "`] for it.")]
        ///
        /// # Errors
        /// What the method says, or [`Status::Unknown`].
        pub fn $dispatch<H: $handler>(handler: &mut H, opcode: u32, words: Words) -> Result<Words, Failure> {
            match opcode {
                $($code => handler.$method($request::decode(words)).map($request::encode_reply),)*
                _ => Err(Failure::new(Status::Unknown, opcode as u64)),
            }
        }

        #[doc = concat!("Number and name of every command of [`", stringify!($handler), "`].")]
        pub const $list: &[(u32, &str)] = &[$(($code, stringify!($request))),*];
    };
}

/// At most eight words, which the patterns in `decode` check at compile time.
fn pack(words: &[u64]) -> Words {
    let mut packed = [0; 8];
    for (slot, word) in packed.iter_mut().zip(words) {
        *slot = *word;
    }
    packed
}

/// First number of [`KernelCommands`]; [`ProcessCommands`] stay below.
pub const KERNEL_COMMANDS: u32 = 0x100;

/// [`Access::kind`]: load.
pub const ACCESS_READ: u64 = 0;
/// [`Access::kind`]: store of `value`.
pub const ACCESS_WRITE: u64 = 1;
/// [`Access::kind`]: locked exchange with `value`.
pub const ACCESS_EXCHANGE: u64 = 2;

/// [`Alloc::flags`]: fill with zero. Without it the memory holds what it held before.
pub const ALLOC_ZERO: u64 = 1;
/// [`Alloc::flags`]: leave the pages not present; [`MapPages`] or [`PteSet`] fill them.
pub const ALLOC_EMPTY: u64 = 2;
/// [`Alloc::flags`]: map read-only.
pub const ALLOC_READ_ONLY: u64 = 4;

/// [`Compare::mismatch`] when there is none.
pub const NO_MISMATCH: u64 = u64::MAX;

commands! {
    /// What an unprivileged process does itself, in ring 3.
    ProcessCommands, dispatch_process, PROCESS_COMMAND_LIST;

    /// Answers at once.
    0x01 ping: Ping {
        /// Any number; comes back.
        token,
    } => Pong {
        /// The number that was sent.
        token,
        /// Time-stamp counter of the guest, in ticks.
        tsc,
    }

    /// Fills memory with the pattern of a seed ([`crate::pattern`]).
    0x02 fill_pattern: FillPattern {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Seed.
        seed,
    } => Filled {}

    /// Computes the checksum ([`crate::checksum`]) of memory.
    0x03 checksum: Checksum {
        /// Virtual address.
        va,
        /// Bytes.
        len,
    } => Summed {
        /// The checksum.
        checksum,
    }

    /// Compares memory with the pattern of a seed.
    0x04 compare_pattern: ComparePattern {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Seed.
        seed,
    } => Compare {
        /// Offset of the first byte that differs, or [`NO_MISMATCH`].
        mismatch,
    }

    /// Copies memory into the bulk area, with plain loads: a missing page is a [`Status::Fault`].
    0x05 read: Read {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Where in the bulk area, in bytes from its beginning.
        bulk,
    } => ReadDone {}

    /// Copies from the bulk area into memory, with plain stores.
    0x06 write: Write {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Where in the bulk area, in bytes from its beginning.
        bulk,
    } => WriteDone {}

    /// Makes one ring-3 access with one instruction and says what the CPU made of it.
    0x07 access: Access {
        /// Virtual address; need not be canonical or aligned.
        va,
        /// [`ACCESS_READ`], [`ACCESS_WRITE`] or [`ACCESS_EXCHANGE`].
        kind,
        /// Bytes: 1, 2, 4 or 8.
        width,
        /// What to write.
        value,
    } => Accessed {
        /// 1 when the instruction took an exception, else 0.
        faulted,
        /// What was read; 0 for a write or a fault.
        value,
        /// Exception vector, when faulted.
        vector,
        /// Error code, when faulted.
        error,
        /// Faulting address (CR2), when the vector is 14.
        cr2,
    }

    /// Bounces a cache line with a thread of the host, which must be answering
    /// ([`crate::host::HostChannel::answer_pings`]).
    0x08 ping_pong: PingPong {
        /// Round trips, at least 1.
        iterations,
    } => PingPongDone {
        /// Time of all of them, in ticks of the time-stamp counter.
        ticks,
        /// Round trips made; fewer when stopped.
        iterations,
    }

    /// Spins without touching memory that anyone else writes: what a measurement's exits are
    /// compared with.
    0x09 spin: Spin {
        /// How long, in ticks of the time-stamp counter.
        ticks,
    } => Spun {
        /// How long it was.
        ticks,
    }

    /// Leaves the VM on purpose, by a write to I/O port 0x80, so that whoever counts exits
    /// can be seen to count.
    0x0a exit_on_purpose: ExitOnPurpose {
        /// How many times.
        count,
    } => Exited {}
}

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

    /// Powers the machine off by a reset request. There is no answer.
    0x109 power_off: PowerOff {} => PoweredOff {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_are_unique_and_in_their_range() {
        let mut seen = HashSet::new();
        for (code, name) in PROCESS_COMMAND_LIST {
            assert!(*code < KERNEL_COMMANDS, "{name}");
            assert!(seen.insert(*code), "{name}");
        }
        for (code, name) in KERNEL_COMMAND_LIST {
            assert!(*code >= KERNEL_COMMANDS, "{name}");
            assert!(seen.insert(*code), "{name}");
        }
    }

    #[test]
    fn words_survive_the_way_there_and_back() {
        let request = Access {
            va: 1,
            kind: 2,
            width: 3,
            value: 4,
        };
        assert_eq!(request.encode(), [1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(Access::decode(request.encode()), request);
        let reply = Accessed {
            faulted: 1,
            value: 2,
            vector: 3,
            error: 4,
            cr2: 5,
        };
        assert_eq!(Access::decode_reply(Access::encode_reply(reply)), reply);
        assert_eq!(Sleep {}.encode(), [0; 8]);
    }

    #[test]
    fn statuses_decode_to_themselves() {
        for value in 0..16 {
            if let Some(status) = Status::from_raw(value) {
                assert_eq!(status as u32, value);
            }
        }
        assert_eq!(Status::from_raw(8), None);
    }
}
