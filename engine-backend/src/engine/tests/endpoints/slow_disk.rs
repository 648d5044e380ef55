//! A disk whose answers tests hold back: it keeps what it was asked, and does it when it is let.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::Engine;
use crate::endpoint::device::{BlockDevice, Geometry, Outcome, Refused, Request, Token};
use crate::endpoint::staging::StagingMemory;
use crate::interface::{EndpointConfig, EndpointKind};
use crate::memory::{Lent, LentPart};

/// What a request was.
struct Asked {
    token: Token,
    request: Request,
    /// Where its bytes are; none: in staging.
    parts: Vec<LentPart>,
}

/// What tests and the disk share.
pub(super) struct Script {
    pub(super) disk: Vec<u8>,
    asked: Vec<Asked>,
    /// Nothing is answered.
    pub(super) holds: bool,
    /// Direct requests for this block fail with this errno, with nothing done.
    pub(super) fails_directly: Option<(u64, u16)>,
    /// All requests for this block do, after the bytes before it.
    pub(super) fails: Option<(u64, u16)>,
    /// Direct requests so far, and staged ones that move data.
    pub(super) direct: u64,
    pub(super) staged: u64,
}

/// A disk's handle.
#[derive(Clone)]
pub(super) struct SlowDisk(Arc<Mutex<Script>>);

const BLOCK: u64 = 512;

impl SlowDisk {
    pub(super) fn attach(engine: &Engine, name: &str, timeout_ms: u32, disk: Vec<u8>) -> Self {
        let script = Arc::new(Mutex::new(Script {
            disk,
            asked: Vec::new(),
            holds: false,
            fails_directly: None,
            fails: None,
            direct: 0,
            staged: 0,
        }));
        let this = Self(script);
        this.attach_again(engine, name, timeout_ms);
        this
    }
    pub(super) fn attach_again(&self, engine: &Engine, name: &str, timeout_ms: u32) {
        let config = EndpointConfig {
            name: name.to_owned(),
            kind: EndpointKind::File,
            path: "/nowhere".into(),
            read_only: false,
            timeout_ms,
        };
        let script = Arc::clone(&self.0);
        let blocks = script.lock().unwrap().disk.len() as u64 / BLOCK;
        let endpoints = engine.inner.core.workers().endpoints();
        let open = move |_: &EndpointConfig, staging: &Arc<StagingMemory>| {
            Ok(Box::new(Driver {
                geometry: Geometry {
                    block_bytes: BLOCK as u32,
                    blocks,
                    transfer_bytes_max: 128 << 10,
                    depth: 64,
                    read_only: false,
                    flush: true,
                    discard: false,
                    write_zeroes: false,
                    compare: false,
                },
                script,
                staging: Arc::clone(staging),
                closed: false,
            }) as Box<dyn BlockDevice>)
        };
        endpoints.attach_by(config, open).unwrap();
        engine.inner.control.wake();
    }
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
    /// Answers from now on, or not.
    pub(super) fn hold(&self, holds: bool) {
        self.script().holds = holds;
    }
    pub(super) fn direct(&self) -> u64 {
        self.script().direct
    }
    /// Requests that it has.
    pub(super) fn under_way(&self) -> usize {
        self.script().asked.len()
    }
}

struct Driver {
    geometry: Geometry,
    script: Arc<Mutex<Script>>,
    staging: Arc<StagingMemory>,
    closed: bool,
}

impl Driver {
    fn ask(&mut self, token: Token, request: &Request, parts: &[LentPart]) {
        let mut script = self.script.lock().unwrap();
        let moves = matches!(request, Request::Read { .. } | Request::Write { .. });
        match parts.len() {
            0 => script.staged += u64::from(moves),
            _ => script.direct += 1,
        }
        script.asked.push(Asked {
            token,
            request: *request,
            parts: parts.to_vec(),
        });
    }

    fn carry_out(&self, script: &mut Script, asked: &Asked) -> Outcome {
        let (lba, blocks, at, reads) = match asked.request {
            Request::Read { lba, blocks, at } => (lba, blocks, at, true),
            Request::Write { lba, blocks, at } => (lba, blocks, at, false),
            _ => return Outcome::Done,
        };
        let has = |place: Option<(u64, u16)>| {
            place.filter(|(block, _)| (lba..lba + u64::from(blocks)).contains(block))
        };
        let is_direct = !asked.parts.is_empty();
        if let Some((_, errno)) = has(script.fails_directly).filter(|_| is_direct) {
            return Outcome::Failed {
                device_status: errno,
                bytes_done: 0,
            };
        }
        let failed = has(script.fails);
        let bytes = match failed {
            Some((block, _)) => (block - lba) * BLOCK,
            None => u64::from(blocks) * BLOCK,
        };
        let staged = LentPart {
            host: self.staging.address().expose_provenance() as u64 + u64::from(at.offset),
            gpa: 0,
            bytes: at.length.into(),
        };
        let parts = if is_direct {
            &asked.parts
        } else {
            &vec![staged]
        };
        let mut places = parts.iter().flat_map(|p| p.host..p.host + p.bytes);
        let first = (lba * BLOCK) as usize;
        for byte in &mut script.disk[first..first + bytes as usize] {
            let place = places.next().unwrap() as usize;
            let place = std::ptr::with_exposed_provenance_mut::<u8>(place);
            // SAFETY: staging, or memory that was lent and stays mapped until this request is told of; there are no
            // references to either.
            unsafe {
                match reads {
                    true => place.write_volatile(*byte),
                    false => *byte = place.read_volatile(),
                }
            }
        }
        match failed {
            Some((_, errno)) => Outcome::Failed {
                device_status: errno,
                bytes_done: bytes as u32,
            },
            None => Outcome::Done,
        }
    }
}

impl BlockDevice for Driver {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn submit(&mut self, token: Token, request: &Request) -> Result<(), Refused> {
        self.ask(token, request, &[]);
        Ok(())
    }
    fn reaches_memory(&self) -> bool {
        true
    }
    fn submit_direct(
        &mut self,
        token: Token,
        request: &Request,
        memory: &Lent,
    ) -> Result<(), Refused> {
        self.ask(token, request, memory.parts());
        Ok(())
    }
    fn flush_submissions(&mut self) {}
    fn poll(&mut self, ended: &mut dyn FnMut(Token, Outcome)) {
        let mut script = self.script.lock().unwrap();
        if script.holds {
            return;
        }
        for asked in std::mem::take(&mut script.asked) {
            if self.closed && asked.parts.is_empty() {
                continue;
            }
            let outcome = self.carry_out(&mut script, &asked);
            ended(asked.token, outcome);
        }
    }
    fn system_calls(&self) -> u64 {
        0
    }
    fn gone(&self) -> Option<&str> {
        self.closed.then_some("it was closed")
    }
    fn close(&mut self, patience: Duration) {
        self.closed = true;
        if self.script.lock().unwrap().holds {
            std::thread::sleep(patience);
        }
    }
}
