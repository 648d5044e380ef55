//! [`NvmePeer`]: an NVMe controller in shared memory, on a thread, which keeps the rules or
//! breaks one.
//!
//! The controller is the model; what it breaks is broken on its way into memory, so that the
//! model itself stays sound.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use byway_nvme::attach::{Server, serve_with};
use byway_nvme::controller::{Config, Controller};
use byway_nvme::dma::{BusError, Dma};
use byway_nvme::layout::{Completion, Status, identify};
use byway_nvme::medium::{Medium, Memory};

/// What a controller does that it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NvmeMischief {
    /// Nothing: it keeps the rules.
    None,
    /// It fails commands, with this status.
    Fails(u16),
    /// It completes a command that there is not.
    UnknownId,
    /// It completes each command again in place of the next.
    Twice,
    /// It says that the command was of another queue.
    OtherQueue,
    /// It says that it is beyond the end of the submission queue.
    RunsAway,
    /// Its completions have the wrong phase, and are never seen.
    WrongPhase,
    /// It never completes a command.
    Silent,
    /// It hangs up with commands in its hands, and keeps the memory.
    HangsUp,
    /// It writes all over staging, then does what it was asked.
    WritesBeyond,
    /// It says that it has no blocks, or blocks of no size.
    LiesAboutSize,
    /// It writes noise into the completion queue, drawn from this.
    Noise(u64),
}

/// What a controller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmePlan {
    /// Bytes of the disk.
    pub bytes: usize,
    /// How it is configured.
    pub config: Config,
    /// What it breaks.
    pub mischief: NvmeMischief,
    /// After how many completions of I/O commands.
    pub after: u64,
    /// How long it looks for more before it sleeps.
    pub spin: Duration,
}

impl Default for NvmePlan {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            config: Config::default(),
            mischief: NvmeMischief::None,
            after: 0,
            spin: Duration::from_micros(50),
        }
    }
}

/// A controller that listens at a path until dropped.
#[derive(Debug)]
pub struct NvmePeer {
    _server: Server,
    disk: Arc<Mutex<Vec<u8>>>,
}

impl NvmePeer {
    /// Starts a controller that listens at `path`.
    ///
    /// # Panics
    /// When it cannot listen there.
    #[must_use]
    pub fn start(path: &Path, plan: NvmePlan) -> Self {
        let _ = std::fs::remove_file(path);
        let disk = Arc::new(Mutex::new(vec![0; plan.bytes]));
        let theirs = Arc::clone(&disk);
        let server = Server::start(path, move |socket, stop| {
            let mut controller = Controller::new(plan.config.clone(), Shared(Arc::clone(&theirs)));
            let hang_up = socket.try_clone()?;
            serve_with(socket, &mut controller, stop, plan.spin, |memory| Wicked {
                memory,
                plan: plan.clone(),
                completions: AtomicU64::new(0),
                former: Mutex::new(None),
                hang_up,
            })
        });
        Self {
            _server: server.expect("a socket to listen at"),
            disk,
        }
    }

    /// What is on the disk.
    pub fn disk(&self) -> MutexGuard<'_, Vec<u8>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that others look at.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn with<R>(&self, act: impl FnOnce(&mut Memory) -> R) -> R {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = Memory(std::mem::take(&mut *bytes));
        let done = act(&mut memory);
        *bytes = memory.0;
        done
    }
}

impl Medium for Shared {
    fn bytes(&self) -> u64 {
        self.with(|memory| memory.bytes())
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.with(|memory| memory.read(offset, into))
    }
    fn write(&mut self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        self.with(|memory| memory.write(offset, from))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> std::io::Result<()> {
        self.with(|memory| memory.zero(offset, length, deallocate))
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> std::io::Result<()> {
        self.with(|memory| memory.deallocate(offset, length))
    }
}

/// Memory in which things do not arrive as they were written.
struct Wicked<D> {
    memory: D,
    plan: NvmePlan,
    /// Of I/O commands.
    completions: AtomicU64,
    /// The completion before.
    former: Mutex<Option<Completion>>,
    hang_up: std::os::unix::net::UnixStream,
}

/// Where the engine has its staging; it is told so, too.
const STAGING: u64 = 1 << 32;

impl<D: Dma> Dma for Wicked<D> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BusError> {
        self.memory.read(address, into)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), BusError> {
        let lies = self.plan.mischief == NvmeMischief::LiesAboutSize;
        if lies && from.len() == identify::BYTES {
            return self.memory.write(address, &[0; identify::BYTES]);
        }
        self.memory.write(address, from)
    }

    fn load(&self, address: u64) -> Result<u32, BusError> {
        self.memory.load(address)
    }

    fn store(&self, address: u64, value: u32) -> Result<(), BusError> {
        self.memory.store(address, value)
    }

    fn publish(&self, address: u64, words: [u64; 2]) -> Result<(), BusError> {
        let sound = Completion::unpack(words);
        let is_io = sound.sq_id != 0;
        let number = if is_io {
            self.completions.fetch_add(1, Ordering::AcqRel)
        } else {
            0
        };
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_io || number < self.plan.after {
            *former = Some(sound);
            return self.memory.publish(address, words);
        }
        let mut told = sound;
        match self.plan.mischief {
            NvmeMischief::None | NvmeMischief::LiesAboutSize => {}
            NvmeMischief::Fails(status) => told.status = Status(status),
            NvmeMischief::UnknownId => told.id ^= 0x7f,
            NvmeMischief::Twice => told.id = former.map_or(0x7fff, |former| former.id),
            NvmeMischief::OtherQueue => told.sq_id = 2,
            NvmeMischief::RunsAway => told.sq_head = 9999,
            NvmeMischief::WrongPhase => told.phase = !told.phase,
            NvmeMischief::Silent => return Ok(()),
            NvmeMischief::HangsUp => {
                let _ = self.hang_up.shutdown(std::net::Shutdown::Both);
                return Ok(());
            }
            NvmeMischief::WritesBeyond => {
                // As much as there is, which the error at its end tells.
                let mut at = STAGING;
                while self.memory.write(at, &[0x5a; 4096]).is_ok() {
                    at += 4096;
                }
            }
            NvmeMischief::Noise(seed) => {
                let mut state = (seed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut draw = |below: u32| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 16) as u32 % below
                };
                for i in 0..4 {
                    // Often nearly right.
                    let id = [
                        u32::from(sound.id),
                        u32::from(sound.id) ^ draw(512),
                        draw(1 << 16),
                    ];
                    let noise = Completion {
                        result: draw(u32::MAX),
                        sq_head: draw(256) as u16,
                        sq_id: 1 + draw(8) as u16 / 7,
                        id: id[draw(3) as usize] as u16,
                        status: Status([0, 0, draw(1 << 15) as u16][draw(3) as usize]),
                        phase: draw(4) != 0,
                    };
                    // Beyond the queue there is other memory of the engine's, which it may
                    // write as well.
                    let _ = self.memory.publish(address + 16 * i, noise.pack());
                }
                return Ok(());
            }
        }
        *former = Some(sound);
        self.memory.publish(address, told.pack())
    }
}
