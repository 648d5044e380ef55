//! [`Link`]: the attachment to a controller, and its registers.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use byway_nvme::attach::{Answer, Hello, REGISTER_BYTES, Region, WAKE_WANTED};
use byway_nvme::layout::registers::{CC, CSTS, CSTS_FATAL, DOORBELLS};
use vmm_sys_util::eventfd::EventFd;

use super::{QUEUE_IOVA, STAGING_IOVA};
use crate::endpoint::OpenError;
use crate::endpoint::peer_memory::PeerMemory;
use crate::endpoint::staging::StagingMemory;
use crate::endpoint::watch::Watch;

/// Between two looks at a controller that is being brought up.
const NAP: Duration = Duration::from_micros(200);

/// A controller's registers and who watches it. Dropping it hangs up.
#[derive(Debug)]
pub(super) struct Link {
    registers: PeerMemory,
    watch: Watch,
    name: String,
    /// How long an answer may take.
    pub(super) limit: Duration,
}

impl Link {
    /// Says hello over a connection on which nothing was said.
    pub(super) fn new(
        socket: &UnixStream,
        watch: Watch,
        name: String,
        limit: Duration,
        staging: &StagingMemory,
        queues: &PeerMemory,
    ) -> Result<Self, OpenError> {
        let registers = PeerMemory::new(c"byway-nvme-registers", REGISTER_BYTES)?;
        let region = |address, bytes| Region { address, bytes };
        let hello = Hello {
            registers: registers.fd(),
            kick: borrow(watch.kick_fd()),
            call: borrow(watch.call_fd()),
            regions: vec![
                (region(STAGING_IOVA, staging.bytes().into()), staging.fd()),
                (region(QUEUE_IOVA, queues.bytes()), queues.fd()),
            ],
        };
        let said = watch.within(limit, || {
            hello.send(socket)?;
            Answer::receive(socket)
        });
        match said {
            Ok(Answer::Welcome) => {}
            Ok(Answer::Refused) => {
                return Err(OpenError::NotUsable {
                    path: name,
                    what: "it refuses the memory that it was given; its own log may say why"
                        .to_owned(),
                });
            }
            Err(error) => {
                return Err(OpenError::NoAnswer {
                    path: name,
                    what: error.to_string(),
                });
            }
        }
        Ok(Self {
            registers,
            watch,
            name,
            limit,
        })
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Who it is, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Reads a register as the controller wrote it.
    pub(super) fn read(&self, offset: u64) -> u32 {
        let value = self.registers.span().load_u32(offset as usize);
        fence(Ordering::Acquire);
        u32::from_le(value)
    }

    /// Writes a register, which the controller sees once it is kicked.
    pub(super) fn write(&self, offset: u64, value: u32) {
        fence(Ordering::Release);
        let span = self.registers.span();
        span.store_u32(offset as usize, value.to_le());
    }

    /// The same, both halves of a wide one.
    pub(super) fn write_wide(&self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }

    /// Rings a doorbell, at its offset among doorbells.
    pub(super) fn ring(&self, doorbell: u64, value: u32) {
        self.write(DOORBELLS + doorbell, value);
        self.watch.kick();
    }

    /// Whether the controller says that it cannot go on.
    pub(super) fn is_fatal(&self) -> bool {
        self.read(CSTS) & CSTS_FATAL != 0
    }

    /// Asks to be called, or not to be.
    pub(super) fn want_wake(&self, wanted: bool) {
        self.write(WAKE_WANTED, wanted.into());
        // The controller stores a completion and looks here; here the other way round.
        fence(Ordering::SeqCst);
    }

    /// Enables the controller or resets it, and waits for it to say so.
    pub(super) fn configure(&self, cc: u32, expected: u32) -> Result<(), OpenError> {
        self.write(CC, cc);
        self.watch.kick();
        self.wait("its status", |link| {
            if link.is_fatal() && expected != 0 {
                let what = "it reports a fatal status when it is enabled".to_owned();
                return Err(link.not_usable(what));
            }
            Ok((link.read(CSTS) & 1 == expected).then_some(()))
        })
    }

    /// Looks for something until it is there or the controller took too long.
    pub(super) fn wait<R>(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<Option<R>, OpenError>,
    ) -> Result<R, OpenError> {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            let is_lost = self.watch.is_lost();
            if is_lost || start.elapsed() > self.limit {
                let why = if is_lost {
                    "it hung up"
                } else {
                    "no answer in time"
                };
                return Err(OpenError::NoAnswer {
                    path: self.name.clone(),
                    what: format!("{what}: {why}"),
                });
            }
            std::thread::sleep(NAP);
        }
    }

    pub(super) fn not_usable(&self, what: String) -> OpenError {
        OpenError::NotUsable {
            path: self.name.clone(),
            what,
        }
    }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd is open as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
