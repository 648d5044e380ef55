//! The network interface: virtio-net by `byway-driver`, and the stream over it ([`byway_agent::stream`]).
//!
//! Owns the device and its buffers. What a process sends is copied into frames, and what it receives out of them, by this kernel, as
//! kernels do.

use byway_agent::stream::{
    Broken, Flow, HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, WINDOW_MAX,
};
use byway_agent::{Failure, Status};
use byway_driver::virtio::{FRAME_BYTES_MAX, Frame, Net, RECEIVE_BUFFERS};
use byway_driver::{Error, MmioTransport};

use super::boot_info::MmioDevice;
use super::device::FrameHal;
use super::disk::{failure, transport};
use super::frames::Frames;
use super::space::Reach;
use crate::serial::log;

const _: () = assert!(HEADER_BYTES + PAYLOAD_BYTES_MAX <= FRAME_BYTES_MAX);
// The other end's frames, and its words about this end's.
const _: () = assert!(2 * WINDOW_MAX as usize <= RECEIVE_BUFFERS);

/// A frame with payload that has come.
#[derive(Debug)]
struct Waiting {
    frame: Frame,
    /// Bytes of payload.
    bytes: usize,
    /// Those of them that were taken.
    taken: usize,
}

/// The network interface.
pub struct Link {
    net: Net<MmioTransport>,
    /// Global system interrupt.
    pub irq: u32,
    flow: Flow,
    /// Frames with payload, oldest first from `first` on, in a ring.
    waiting: [Option<Waiting>; RECEIVE_BUFFERS],
    first: usize,
    count: usize,
    /// The last frame that was to be sent found no buffer.
    lacks_room: bool,
    /// The stream cannot go on.
    broken: Option<Failure>,
    /// Frames sent since boot.
    pub sent: u64,
    /// Frames received since boot.
    pub received: u64,
}

fn lost(why: Broken) -> Failure {
    log!("byway guest: the stream broke: {:?}", why);
    Failure::new(Status::DeviceFailed, 1)
}

impl Link {
    /// Attaches the first network interface among the devices of the command line, of which `byway` is another driver's.
    ///
    /// # Safety
    /// As for [`super::disk::Disk::attach`], whose device is left alone.
    pub unsafe fn attach(
        devices: &[MmioDevice],
        byway: Option<u32>,
        frames: &mut Frames,
    ) -> Option<Self> {
        let others = devices.iter().filter(|found| Some(found.irq) != byway);
        for found in others {
            // SAFETY: the caller's promise; one of another kind is only asked what it is.
            let transport = unsafe { transport(found) }?;
            match Net::attach(transport, &mut FrameHal(frames)) {
                Ok(net) => {
                    return Some(Self {
                        net,
                        irq: found.irq,
                        flow: Flow::default(),
                        waiting: [const { None }; RECEIVE_BUFFERS],
                        first: 0,
                        count: 0,
                        lacks_room: false,
                        broken: None,
                        sent: 0,
                        received: 0,
                    });
                }
                Err(Error::DeviceId { .. }) => {}
                Err(error) => _ = failure(error),
            }
        }
        None
    }

    /// Takes every frame that has come.
    fn hear(&mut self) -> Result<(), Failure> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let heard = self.hear_all();
        self.broken = heard.err();
        heard
    }

    fn hear_all(&mut self) -> Result<(), Failure> {
        while let Some(frame) = self.net.take_frame().map_err(failure)? {
            self.received += 1;
            let mut bytes = [0; HEADER_BYTES];
            let whole = self.net.read(&frame, 0, &mut bytes);
            // What others say on this wire is not for us.
            let Some(header) = Header::from_bytes(&bytes).filter(|_| whole) else {
                self.net.give_back(frame);
                continue;
            };
            let has = frame.bytes() - HEADER_BYTES;
            let heard = self.flow.hear(&header, has);
            if header.kind == Kind::Data && heard.is_ok() && self.count < RECEIVE_BUFFERS {
                let place = (self.first + self.count) % RECEIVE_BUFFERS;
                self.waiting[place] = Some(Waiting {
                    frame,
                    bytes: header.bytes as usize,
                    taken: 0,
                });
                self.count += 1;
            } else {
                self.net.give_back(frame);
            }
            heard.map_err(lost)?;
        }
        Ok(())
    }

    /// Sends as much of `bytes` bytes at `va` as may be sent now; says how much that was.
    pub fn send(
        &mut self,
        memory: &Reach<'_>,
        va: u64,
        bytes: u64,
        window: u32,
    ) -> Result<u64, Failure> {
        self.hear()?;
        self.lacks_room = false;
        let mut done = 0;
        while done < bytes && self.flow.may_send(window) {
            let Some(buffer) = self.net.buffer().map_err(failure)? else {
                self.lacks_room = true;
                break;
            };
            let payload = (bytes - done).min(PAYLOAD_BYTES_MAX as u64);
            let header = self.flow.send(Kind::Data, payload as u32);
            self.net.write(&buffer, 0, &header.to_bytes(self.net.mac()));
            let mut at = HEADER_BYTES;
            memory.each(va + done, payload, false, |from, bytes| {
                // SAFETY: memory of the process's, which all of it is mapped for the kernel.
                unsafe { self.net.copy_in(&buffer, at, from, bytes) };
                at += bytes;
            })?;
            self.net.send(buffer, at);
            self.sent += 1;
            done += payload;
            // Each at once, for the other side to begin with: while it is at work it does not want to be told.
            self.net.notify();
        }
        Ok(done)
    }

    /// Whether all that was sent was taken.
    pub fn is_drained(&mut self) -> Result<bool, Failure> {
        self.hear()?;
        Ok(self.flow.is_drained())
    }

    /// Copies as much of `bytes` bytes to `va` as has come; says how much that was.
    pub fn receive(&mut self, memory: &Reach<'_>, va: u64, bytes: u64) -> Result<u64, Failure> {
        let mut done = 0;
        loop {
            self.hear()?;
            let Some(waiting) = &mut self.waiting[self.first] else {
                break;
            };
            let piece = (bytes - done).min((waiting.bytes - waiting.taken) as u64);
            if piece > 0 {
                let mut at = HEADER_BYTES + waiting.taken;
                memory.each(va + done, piece, true, |into, bytes| {
                    // SAFETY: memory that the process may write, all of it mapped for the kernel.
                    unsafe { self.net.copy_out(&waiting.frame, at, into, bytes) };
                    at += bytes;
                })?;
                waiting.taken += piece as usize;
                done += piece;
            }
            if waiting.taken < waiting.bytes {
                break;
            }
            if let Some(over) = self.waiting[self.first].take() {
                self.net.give_back(over.frame);
            }
            self.first = (self.first + 1) % RECEIVE_BUFFERS;
            self.count -= 1;
            self.flow.take();
            if self.flow.owes_word(false) {
                self.say_taken()?;
            }
        }
        // Whoever asks for no more may not come back soon.
        if done == bytes && self.flow.owes_word(true) {
            self.say_taken()?;
        }
        self.net.notify();
        Ok(done)
    }

    /// Tells the other end what was taken.
    fn say_taken(&mut self) -> Result<(), Failure> {
        // There are more buffers than frames that may be under way.
        if let Some(buffer) = self.net.buffer().map_err(failure)? {
            let header = self.flow.send(Kind::Taken, 0).to_bytes(self.net.mac());
            self.net.write(&buffer, 0, &header);
            self.net.send(buffer, HEADER_BYTES);
            self.sent += 1;
            self.net.notify();
        }
        Ok(())
    }

    /// Asks for an interrupt with the next frame, and with the next buffer that is free where that is what lacks; true where there is
    /// one already.
    pub fn arm(&mut self) -> bool {
        self.net.arm(self.lacks_room)
    }
}
