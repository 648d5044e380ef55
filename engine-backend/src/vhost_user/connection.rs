//! One front end, from its acceptance to its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error};
use vmm_sys_util::eventfd::EventFd;

use super::session::Session;
use super::wait::{is_writable, wait};
use crate::seldom::Seldom;

/// How often the front end's log is brought up to date while it is on.
const LOG_EVERY: Duration = Duration::from_millis(50);

/// What a wait is for, beside the front end itself.
pub(super) enum Other {
    /// The connection is to end.
    Stop,
    /// Another front end knocks.
    Knock,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The front end closed it.
    #[error("the front end has closed the connection")]
    Closed,
    /// The engine or the operator closed it.
    #[error("the engine has closed the connection")]
    Stopped,
    /// The front end broke the protocol, or asked for what cannot be done.
    #[error("{0}")]
    Refused(Error),
    /// The host refused something.
    #[error("the host: {0}")]
    Host(#[from] io::Error),
}

/// A front end's socket and its session.
pub(super) struct Connection {
    socket: UnixStream,
    handler: BackendReqHandler<Mutex<Session>>,
    session: Arc<Mutex<Session>>,
    bells: Vec<EventFd>,
    log_synced: Instant,
}

impl Connection {
    /// A connection on which nothing was said yet.
    pub(super) fn new(socket: UnixStream, session: Session) -> io::Result<Self> {
        let bells = session.bells()?;
        let session = Arc::new(Mutex::new(session));
        let handler = BackendReqHandler::from_stream(socket.try_clone()?, Arc::clone(&session));
        Ok(Self {
            socket,
            handler,
            session,
            bells,
            log_synced: Instant::now(),
        })
    }

    /// Serves the front end until the connection ends. `stop` becomes readable when it is to
    /// end, `knock` when another front end is there, for which `knocked` is called.
    pub(super) fn serve(
        mut self,
        stop: BorrowedFd<'_>,
        knock: BorrowedFd<'_>,
        mut knocked: impl FnMut(),
    ) -> End {
        loop {
            match self.turn(stop, knock) {
                Ok(None) => {}
                Ok(Some(Other::Knock)) => knocked(),
                Ok(Some(Other::Stop)) => return End::Stopped,
                Err(end) => return end,
            }
        }
    }

    fn turn(&mut self, stop: BorrowedFd<'_>, knock: BorrowedFd<'_>) -> Result<Option<Other>, End> {
        const STOP: usize = 0;
        const KNOCK: usize = 1;
        const SOCKET: usize = 2;
        const BELLS: usize = 3;
        let mut fds = vec![stop, knock, self.socket.as_fd()];
        // SAFETY: the bells are open as long as `self` is.
        fds.extend(
            self.bells
                .iter()
                .map(|bell| unsafe { BorrowedFd::borrow_raw(bell.as_raw_fd()) }),
        );
        let logs = lock(&self.session).logs();
        let ready = wait(&fds, logs.then_some(LOG_EVERY))?;
        if ready.has(STOP) {
            return Ok(Some(Other::Stop));
        }
        for ring in 0..self.bells.len() {
            if ready.has(BELLS + ring) {
                self.ring_bell(ring);
            }
        }
        if logs && self.log_synced.elapsed() >= LOG_EVERY {
            lock(&self.session).sync_log().map_err(End::Refused)?;
            self.log_synced = Instant::now();
        }
        if ready.has(SOCKET) {
            self.handle()?;
        }
        Ok(ready.has(KNOCK).then_some(Other::Knock))
    }

    /// Passes an interrupt on. The front end's eventfd is not the engine's: it can be made to
    /// block, by filling it after it was looked at, which is why this is done here and not where
    /// the interrupt comes from.
    fn ring_bell(&self, ring: usize) {
        // It is set, or somebody else would be here.
        let _ = self.bells[ring].read();
        let session = lock(&self.session);
        let Some(call) = session.call(ring) else {
            return;
        };
        // One that is full is readable anyway.
        if is_writable(call) {
            let _ = call.write(1);
        }
    }

    /// Takes one message. A refusal that changed nothing, and that the front end asked to be
    /// told of and was, leaves the connection as it is.
    fn handle(&mut self) -> Result<(), End> {
        let told = is_told(&self.socket) && lock(&self.session).acknowledges();
        match self.handler.handle_request() {
            Ok(()) => Ok(()),
            Err(Error::Disconnected) => Err(End::Closed),
            Err(Error::ReqHandlerError(why)) if told => {
                static TOLD: Seldom = Seldom::new();
                TOLD.tell(|| tracing::warn!("refused, and told so: {why}"));
                Ok(())
            }
            Err(error) => Err(End::Refused(error)),
        }
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    // Only the connection's own thread takes it.
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages that do all of what they ask for or nothing, and whose refusal is a reply.
const WHOLE: [u32; 9] = [
    FrontendReq::SET_VRING_NUM as u32,
    FrontendReq::SET_VRING_ADDR as u32,
    FrontendReq::SET_VRING_BASE as u32,
    FrontendReq::SET_VRING_KICK as u32,
    FrontendReq::SET_VRING_CALL as u32,
    FrontendReq::SET_VRING_ENABLE as u32,
    FrontendReq::SET_CONFIG as u32,
    FrontendReq::ADD_MEM_REG as u32,
    FrontendReq::REM_MEM_REG as u32,
];

/// Whether the front end will know of a refusal of the next message, if that changes nothing. A
/// byte or more of it is there; one that is not there yet in whole is none.
fn is_told(socket: &UnixStream) -> bool {
    const NEED_REPLY: u32 = 8;
    let mut header = [0_u32; 2];
    // SAFETY: the buffer is valid for the length given; the message stays in the socket.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            header.as_mut_ptr().cast(),
            size_of_val(&header),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    let [request, flags] = header;
    usize::try_from(got) == Ok(size_of_val(&header))
        && flags & NEED_REPLY != 0
        && WHOLE.contains(&request)
}
