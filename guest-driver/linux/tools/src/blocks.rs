//! Blocks of an endpoint into a stream: opened by this process, read by the engine into memory of its own.

use std::io::Write;

use byway_linux::{Buffer, Context, Ended, Name, QueueOptions, Request, WorkQueue};

use crate::exit::Failure;
use crate::progress::Progress;

/// Bytes that are read at a time: a multiple of every device's blocks.
const WINDOW: u64 = 4 << 20;

/// Writes `bytes` bytes of the endpoint's blocks from `offset` on, or all that follow, to `output`.
///
/// # Errors
/// No such endpoint, or nothing of it granted; a range that is not of whole blocks, or not within them; a device
/// that fails; an output that takes no more.
pub fn read(
    context: &Context,
    endpoint: &Name,
    offset: u64,
    bytes: Option<u64>,
    output: &mut dyn Write,
) -> Result<u64, Failure> {
    let blocks = context
        .endpoint(endpoint)
        .map_err(|why| Failure::while_(&format!("opening the endpoint {endpoint:?}"), why))?;
    let total = bytes.unwrap_or_else(|| blocks.capability.length().saturating_sub(offset));
    // Before the queue, which ends first.
    let window = Buffer::new(usize::try_from(total.clamp(1, WINDOW)).unwrap_or(1))?;
    window.populate();
    let mut queue: WorkQueue = context.queue(&QueueOptions::default())?;
    let mut progress = Progress::new(total);
    let mut part = vec![0; 64 << 10];
    let mut done = 0;
    while done < total {
        let size = WINDOW.min(total - done);
        let at = offset.saturating_add(done);
        let failed = |why: &dyn std::fmt::Display| {
            Failure::while_(&format!("reading {endpoint:?} at byte {at}"), why)
        };
        let request =
            Request::read_blocks(window.region().operand(), blocks.capability.at(at), size);
        let request = request.map_err(|why| failed(&why))?;
        // SAFETY: the window lives until the completion has come or the queue has ended, and is accessed by
        // its region alone.
        let completion = unsafe { queue.run(request) }.map_err(|why| failed(&why))?;
        if !completion.is_success() {
            return Err(failed(&Ended { completion }));
        }
        let size = usize::try_from(size).unwrap_or(0);
        for from in (0..size).step_by(part.len()) {
            let length = part.len().min(size - from);
            let piece = &mut part[..length];
            let read = window.region().read(from, piece);
            read.map_err(|why| failed(&why))?;
            output
                .write_all(piece)
                .map_err(|why| Failure::while_("writing", why))?;
        }
        done += size as u64;
        progress.at(done);
    }
    Ok(done)
}
