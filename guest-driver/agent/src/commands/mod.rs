//! Every command that a guest process understands, once: its number, its arguments, its results
//! and what it means.
//!
//! To add one, add an entry here and a method to the implementation of
//! [`ProcessCommands`], [`KernelCommands`], [`EngineCommands`] or [`DeviceCommands`] in the guest; the compiler
//! asks for the second after the first. Arguments and results are words of 64 bits, eight
//! at most, carried in the order of the fields.
//!
//! [`ProcessCommands`] run in the addressed process, in ring 3, without an exit unless they say
//! otherwise. [`KernelCommands`] and [`EngineCommands`] are carried out for that process by the
//! guest kernel: they cost a trap, and the latter reach the engine over the control virtqueue.

mod device;
mod engine;
mod kernel;
mod process;

pub use device::*;
pub use engine::*;
pub use kernel::*;
pub use process::*;

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
    /// The engine refused a control message. Details: code of its `ControlStatus`.
    Refused = 5,
    /// What was waited for did not come.
    TimedOut = 6,
    /// There is no Byway device, or it cannot be relied on; the serial console says why.
    NoDevice = 7,
    /// A work queue takes no descriptor: it is dead. Details: its number.
    QueueDead = 8,
    /// The disk or the network interface is not there, failed, or lost something; the serial console says what.
    DeviceFailed = 9,
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
            8 => Some(Self::QueueDead),
            9 => Some(Self::DeviceFailed),
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
            Status::NoDevice => write!(f, "no Byway device that works; see the serial console"),
            Status::QueueDead => write!(f, "work queue {a} is dead"),
            Status::DeviceFailed => {
                write!(
                    f,
                    "its disk or network interface failed; see the serial console"
                )
            }
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

/// Defines requests with their replies, the trait of whoever carries them out, and the way from a
/// number to its method.
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

// The four modules find the macro by this path.
use commands;

/// First number of [`KernelCommands`]; [`ProcessCommands`] stay below.
pub const KERNEL_COMMANDS: u32 = 0x100;
/// First number of [`EngineCommands`].
pub const ENGINE_COMMANDS: u32 = 0x200;
/// First number of [`DeviceCommands`].
pub const DEVICE_COMMANDS: u32 = 0x300;

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
            assert!((KERNEL_COMMANDS..ENGINE_COMMANDS).contains(code), "{name}");
            assert!(seen.insert(*code), "{name}");
        }
        for (code, name) in ENGINE_COMMAND_LIST {
            assert!((ENGINE_COMMANDS..DEVICE_COMMANDS).contains(code), "{name}");
            assert!(seen.insert(*code), "{name}");
        }
        for (code, name) in DEVICE_COMMAND_LIST {
            assert!(*code >= DEVICE_COMMANDS, "{name}");
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
        assert_eq!(Status::from_raw(10), None);
    }
}
