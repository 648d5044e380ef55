//! [`UseLibrary`]: a process as an application is written: by the library alone, with objects that give back what
//! they hold. The same calls are made by programs in Linux guests.
//!
//! Owns nothing that outlives the command.

use core::ptr::NonNull;
use core::time::Duration;

use byway_agent::commands::{
    CloseContext, LIBRARY_GIVE, LIBRARY_LOCAL, LIBRARY_TAKE, LibraryUsed, OpenContext, PASID_OWN,
    UseLibrary,
};
use byway_agent::{Failure, pattern};
use byway_ring::context::{
    Error, Name, Pipeline, Port, QueueOptions, Region, State, Terms, Wait, Waiting,
};
use byway_ring::{Capability, Context, Rights, Status, WorkQueue};

use super::call::kernel;
use super::gate::{Gate, GateError};

/// Slots of the context.
const SLOTS: u64 = 16;
/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Looks at a word that the other side is to write.
const LOOKS: u64 = 1 << 34;

type Outcome<T> = Result<T, Stop>;

/// Where it went wrong: the number of the step, and a status or reason.
struct Stop {
    step: u64,
    detail: u64,
}

fn stop<T>(step: u64, detail: u64) -> Outcome<T> {
    Err(Stop { step, detail })
}

/// A step that has to succeed.
fn step<T>(number: u64, outcome: Result<T, Error<GateError>>) -> Outcome<T> {
    outcome.map_err(|error| Stop {
        step: number,
        detail: match (error.status(), error) {
            (Some(status), _) => status as u64,
            (None, Error::Kernel(GateError(failure))) => 0x100 | failure.status as u64,
            (None, _) => 0x200,
        },
    })
}

/// A step that has to end in this status.
fn refused<T>(number: u64, outcome: Result<T, Error<GateError>>, status: Status) -> Outcome<()> {
    match outcome {
        Err(error) if error.status() == Some(status) => Ok(()),
        Err(error) => step(number, Err(error)),
        Ok(_) => stop(number, 0),
    }
}

fn holds(number: u64, condition: bool) -> Outcome<()> {
    if condition { Ok(()) } else { stop(number, 0) }
}

/// Runs the command.
pub fn run(request: &UseLibrary) -> Result<LibraryUsed, Failure> {
    let half = request.bytes / 2;
    let start = NonNull::new(core::ptr::with_exposed_provenance_mut(request.va as usize));
    let start = start.ok_or(Failure::argument(0, request.va))?;
    // SAFETY: the host program allocated it for this command, and memory of this process stays mapped for ever.
    let memory: Region<'static> = unsafe { Region::from_raw(start, request.bytes as usize) };
    let halves = memory.slice(0..half as usize).and_then(|first| {
        let second = memory.slice(half as usize..2 * half as usize)?;
        Ok((first, second))
    });
    let (own, shared) = halves.map_err(|_| Failure::argument(1, request.bytes))?;
    let mut text = [0; 32];
    let words = [request.peer0, request.peer1, request.peer2, request.peer3];
    for (to, word) in text.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let length = text.iter().position(|byte| *byte == 0).unwrap_or(32);
    let peer = core::str::from_utf8(&text[..length]).ok();
    let peer = peer.and_then(|peer| Name::new(peer).ok());

    let role = match (request.role, peer) {
        (LIBRARY_LOCAL, _) => Role::Local,
        (LIBRARY_GIVE, Some(peer)) => Role::Give(peer),
        (LIBRARY_TAKE, Some(peer)) => Role::Take(peer),
        (other, _) => return Err(Failure::argument(2, other)),
    };
    let opened = kernel(OpenContext {
        pasid: PASID_OWN,
        slots: SLOTS,
        maxphyaddr: 0,
        flags: 0,
    })?;
    // SAFETY: all that is made by way of it is gone when it is closed, below.
    let context = Context::new(unsafe { Gate::adopt(opened.context) });
    let outcome = match role {
        Role::Local => local(&context, own, shared),
        Role::Give(peer) => give(&context, &peer, shared),
        Role::Take(peer) => take(&context, &peer, own),
    };
    kernel(CloseContext {
        context: opened.context,
    })?;
    let Stop { step, detail } = outcome.err().unwrap_or(Stop { step: 0, detail: 0 });
    Ok(LibraryUsed { step, detail })
}

enum Role {
    Local,
    Give(Name),
    Take(Name),
}

fn queue(context: &Context<Gate>) -> Outcome<WorkQueue<Gate, 1>> {
    let mut queue = step(1, context.queue(&QueueOptions::default()))?;
    queue.set_waiting(Waiting::Poll);
    Ok(queue)
}

/// Fills a region with the pattern of `seed`.
fn fill(region: Region<'_>, seed: u64) {
    let mut block = [0; 4096];
    for offset in (0..region.len()).step_by(block.len()) {
        let part = block.len().min(region.len() - offset);
        pattern::fill(&mut block, seed ^ offset as u64);
        // Within, by the bounds of the loop.
        let _ = region.write(offset, &block[..part]);
    }
}

/// Whether it holds the pattern of `seed`.
fn is_filled(region: Region<'_>, seed: u64) -> bool {
    let (mut expected, mut found) = ([0; 4096], [0; 4096]);
    (0..region.len()).step_by(4096).all(|offset| {
        let part = found.len().min(region.len() - offset);
        pattern::fill(&mut expected, seed ^ offset as u64);
        region.read(offset, &mut found[..part]).is_ok() && found[..part] == expected[..part]
    })
}

/// All within one process.
fn local(context: &Context<Gate>, own: Region<'static>, memory: Region<'static>) -> Outcome<()> {
    let mut queue = queue(context)?;
    let whole = 0..memory.len();
    let bytes = memory.len() as u64;
    let share = step(2, context.share(memory, whole, Rights::ALL))?;
    fill(share.region(), 1);
    step(3, queue.get(own, &share, 0))?;
    holds(4, is_filled(own, 1))?;
    fill(own, 2);
    let pipeline = Pipeline {
        chunk_bytes: 8192,
        depth: 7,
    };
    let mut told = 0;
    let put = queue.put_with(&share, 0, own, &pipeline, &mut |done| told = done);
    step(5, put)?;
    holds(6, told == bytes && is_filled(share.region(), 2))?;
    let read_only = step(7, share.derive(&Terms::new(64, 128, Rights::READ)))?;
    refused(8, queue.put(&read_only, 0, &[0; 8]), Status::MissingRight)?;
    let small = own.slice(0..8).map_err(|_| Stop { step: 9, detail: 0 })?;
    refused(10, queue.get(small, &read_only, 121), Status::Bounds)?;
    let attached = step(11, context.attach(&share.handle().name(), &Terms::WHOLE))?;
    holds(
        12,
        attached.length() == bytes && attached.rights() == Rights::ALL,
    )?;
    step(13, queue.get(small, &attached, 0))?;
    let info = step(14, share.query())?;
    holds(15, info.state == State::Live && info.descendants == 2)?;
    step(16, share.revoke_descendants())?;
    for ended in [&read_only, &attached] {
        refused(17, queue.get(small, ended, 0), Status::Revoked)?;
    }
    drop((read_only, attached));
    // Their slots are empty, not revoked.
    let port = step(
        18,
        context.port(&Port {
            depth: 2,
            bytes: 64,
            badge: 5,
        }),
    )?;
    step(19, queue.send(&port, b"a message"))?;
    let received = step(20, queue.receive(&port, own))?;
    holds(21, (received.bytes, received.badge) == (9, 5))?;
    queue.set_waiting(Waiting::Sleep { polls: 0 });
    step(22, queue.get(own, &share, 0))?;
    holds(23, is_filled(own, 2))?;
    match share.take_back() {
        Ok(memory) => holds(24, is_filled(memory, 2))?,
        Err(still) => step(24, Err(still.error))?,
    }
    step(25, port.close())?;
    step(26, queue.close())
}

fn port_name() -> Outcome<Name> {
    Name::new("library").map_err(|_| Stop {
        step: 30,
        detail: 0,
    })
}

/// Gives memory to the peer, until that has answered in its last word.
fn give(context: &Context<Gate>, peer: &Name, memory: Region<'static>) -> Outcome<()> {
    let port = port_name()?;
    fill(memory, 3);
    let answer = memory.len() - 8;
    memory.store(answer, 0).map_err(|_| Stop {
        step: 31,
        detail: 0,
    })?;
    let rights = Rights::READ | Rights::WRITE;
    let share = step(32, context.share(memory, 0..memory.len(), Rights::ALL))?;
    step(33, share.offer(peer, &port, rights))?;
    let answered = (0..LOOKS).any(|_| {
        core::hint::spin_loop();
        matches!(share.region().load(answer), Ok(word) if word != 0)
    });
    holds(34, answered)?;
    match share.take_back() {
        Ok(_) => Ok(()),
        Err(still) => step(35, Err(still.error)),
    }
}

/// Takes what the peer gives, answers, and sees it go.
fn take(context: &Context<Gate>, peer: &Name, own: Region<'static>) -> Outcome<()> {
    let mut queue = queue(context)?;
    let listener = step(40, context.listen(&port_name()?, Some(peer)))?;
    let accepted = step(41, listener.accept(Wait::For(PATIENCE)))?;
    let Some(accepted) = accepted else {
        return stop(42, 0);
    };
    let given: Capability<Gate> = accepted.capability;
    holds(43, given.length() == own.len() as u64)?;
    let most = own.len() - 8;
    let target = own.slice(0..most).map_err(|_| Stop {
        step: 44,
        detail: 0,
    })?;
    step(45, queue.get(target, &given, 0))?;
    holds(46, is_filled(target, 3))?;
    step(47, queue.put(&given, most as u64, &7_u64.to_le_bytes()))?;
    for _ in 0..LOOKS {
        match queue.get(target, &given, 0) {
            Ok(()) => {}
            ended => return refused(48, ended, Status::Revoked),
        }
    }
    stop(49, 0)
}
