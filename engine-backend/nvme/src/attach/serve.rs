//! The controller's side of an attachment.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{Answer, Hello, REGISTER_BYTES, Region, WAKE_WANTED};
use crate::controller::{Controller, IO_QUEUES_MAX};
use crate::dma::{BusError, Dma};
use crate::layout::registers::{ACQ, AQA, ASQ, CAP, CC, CSTS, DOORBELLS, VS};
use crate::medium::Medium;

/// How long a controller looks for more before it sleeps, where nobody says otherwise.
const SPIN: Duration = Duration::from_micros(50);
/// How often one that sleeps looks whether it is to end.
const LOOK_MS: i32 = 50;
/// 32-bit doorbells, of all queues.
const DOORBELL_COUNT: u64 = 2 * (IO_QUEUES_MAX as u64 + 1);

/// Serves one connection until it ends or `stop` is set.
///
/// # Errors
/// When the other side does not keep to the binding, or the host refuses something.
pub fn serve<M: Medium>(
    socket: &UnixStream,
    controller: &mut Controller<M>,
    stop: &AtomicBool,
) -> io::Result<()> {
    serve_with(socket, controller, stop, SPIN, |memory| memory)
}

/// The same, with `spin` as the time for which it looks for more before it sleeps, and with what
/// is done to DMA memory seen by another first: for tests that need a controller which does not
/// do what it should.
///
/// # Errors
/// As for [`serve`].
pub fn serve_with<M: Medium, D: Dma>(
    socket: &UnixStream,
    controller: &mut Controller<M>,
    stop: &AtomicBool,
    spin: Duration,
    wrap: impl FnOnce(GuestMemoryMmap<()>) -> D,
) -> io::Result<()> {
    let hello = Hello::receive(socket)?;
    let link = match Link::new(hello) {
        Ok(link) => link,
        Err(error) => {
            Answer::Refused.send(socket)?;
            return Err(error);
        }
    };
    let (mut link, memory) = link;
    let memory = wrap(memory);
    // Whoever was attached before left it as it was.
    controller.mmio_write(CC, 0, 4);
    let told = link.tell(controller);
    told.map_err(io::Error::other)?;
    Answer::Welcome.send(socket)?;
    let served = link.run(socket, controller, &memory, (stop, spin));
    controller.mmio_write(CC, 0, 4);
    served
}

/// What was handed over.
struct Link {
    registers: GuestMemoryMmap<()>,
    kick: EventFd,
    call: EventFd,
    /// Register values as they were last taken over: AQA, ASQ, ACQ, CC, doorbells.
    seen: [u64; 4],
    doorbells: [u32; DOORBELL_COUNT as usize],
}

impl Link {
    fn new(hello: Hello<File>) -> io::Result<(Self, GuestMemoryMmap<()>)> {
        let all = Region {
            address: 0,
            bytes: REGISTER_BYTES,
        };
        let registers = map(vec![(all, hello.registers)])?;
        let memory = map(hello.regions)?;
        let [kick, call] = [hello.kick, hello.call].map(|file| {
            // SAFETY: the descriptor is the file's, which gives it up; if it is no eventfd,
            // reading and writing fail.
            unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
        });
        let link = Self {
            registers,
            kick,
            call,
            seen: [0; 4],
            doorbells: [0; DOORBELL_COUNT as usize],
        };
        Ok((link, memory))
    }

    /// Says what the driver reads.
    fn tell<M: Medium>(&self, controller: &Controller<M>) -> Result<(), BusError> {
        for offset in [CAP, CAP + 4, VS, CSTS] {
            let value = controller.mmio_read(offset, 4) as u32;
            self.registers.store(offset, value)?;
        }
        Ok(())
    }

    /// Takes over what the driver wrote. Each value is read once.
    fn listen<M: Medium>(&mut self, controller: &mut Controller<M>) -> Result<(), BusError> {
        let load = |offset| self.registers.load(offset).map(u64::from);
        // CC last: the others count when it says so.
        let cc = load(CC)?;
        let wide = |offset| Ok::<_, BusError>(load(offset)? | load(offset + 4)? << 32);
        let now = [load(AQA)?, wide(ASQ)?, wide(ACQ)?, cc];
        for (i, (offset, bytes)) in [(AQA, 4), (ASQ, 8), (ACQ, 8), (CC, 4)]
            .into_iter()
            .enumerate()
        {
            if now[i] != self.seen[i] {
                controller.mmio_write(offset, now[i], bytes);
            }
        }
        let is_new = cc != self.seen[3];
        self.seen = now;
        if is_new {
            // A reset starts doorbells anew, whatever they said before.
            self.doorbells = [0; DOORBELL_COUNT as usize];
        }
        for i in 0..DOORBELL_COUNT {
            let offset = DOORBELLS + 4 * i;
            let value = self.registers.load(offset)?;
            if value != self.doorbells[i as usize] {
                self.doorbells[i as usize] = value;
                controller.mmio_write(offset, value.into(), 4);
            }
        }
        self.tell(controller)
    }

    fn run<M: Medium, D: Dma>(
        &mut self,
        socket: &UnixStream,
        controller: &mut Controller<M>,
        memory: &D,
        (stop, spin): (&AtomicBool, Duration),
    ) -> io::Result<()> {
        let mut busy = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let mut is_called = false;
            let fetched = controller.process(memory, &mut |_| is_called = true);
            if is_called {
                self.wake().map_err(io::Error::other)?;
            }
            if fetched != 0 {
                busy = Instant::now();
                continue;
            }
            let idle = busy.elapsed();
            if idle < SPIN {
                std::hint::spin_loop();
                continue;
            }
            let sleeps = idle >= spin;
            if sleeps && controller.arm(memory) {
                busy = Instant::now();
                continue;
            }
            let limit_ms = if sleeps { LOOK_MS } else { 0 };
            let (kicked, ended) = wait(self.kick.as_raw_fd(), socket.as_raw_fd(), limit_ms);
            if kicked {
                let _ = self.kick.read();
                self.listen(controller).map_err(io::Error::other)?;
                busy = Instant::now();
            }
            if ended {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Calls the driver if it wants to be.
    fn wake(&self) -> Result<(), BusError> {
        // The driver says so and looks at its queue; here the other way round.
        fence(Ordering::SeqCst);
        if self.registers.load(WAKE_WANTED)? == 1 {
            self.registers.store(WAKE_WANTED, 0)?;
            // An eventfd that is full is readable anyway.
            let _ = self.call.write(1);
        }
        Ok(())
    }
}

/// Maps memory that the other side cannot take away.
fn map(regions: Vec<(Region, File)>) -> io::Result<GuestMemoryMmap<()>> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let mut ranges = Vec::new();
    for (region, file) in regions {
        // SAFETY: asks for the seals of an open file.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(invalid("memory that is not sealed with F_SEAL_SHRINK"));
        }
        let is_there = region.bytes != 0 && region.bytes <= file.metadata()?.len();
        let size = usize::try_from(region.bytes).ok().filter(|_| is_there);
        let size = size.ok_or_else(|| invalid("memory that is larger than its file, or empty"))?;
        let file = FileOffset::new(file, 0);
        ranges.push((GuestAddress(region.address), size, Some(file)));
    }
    GuestMemoryMmap::from_ranges_with_files(ranges).map_err(io::Error::other)
}

/// Sleeps until there is a kick or the other side hangs up, for `limit_ms` at most: which of them
/// there is.
fn wait(kick: i32, socket: i32, limit_ms: i32) -> (bool, bool) {
    let mut fds =
        [(kick, libc::POLLIN), (socket, libc::POLLRDHUP)].map(|(fd, events)| libc::pollfd {
            fd,
            events,
            revents: 0,
        });
    // SAFETY: the array is valid for its length.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit_ms) };
    (fds[0].revents != 0, fds[1].revents != 0)
}

/// A controller that listens at a path, on a thread, until dropped. One driver at a time.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`, and serves whoever attaches by `session`, which is [`serve`] or like
    /// it.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(
        path: &Path,
        mut session: impl FnMut(&UnixStream, &AtomicBool) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("byway-nvme".to_owned())
            .spawn(move || {
                while !stops.load(Ordering::Acquire) {
                    match listener.accept() {
                        Ok((socket, _)) => {
                            if let Err(error) = session(&socket, &stops) {
                                tracing::warn!("a driver broke off: {error}");
                            }
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(2)),
                    }
                }
            })?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}
