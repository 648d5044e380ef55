//! `byway-cat`: a file or a stream from one process to another, in the same guest or in another, by the engine.
//!
//! The giver holds the bytes in memory and gives a capability to read them. It knows that they were fetched by
//! asking the engine how many bytes went through the capability, and whether anybody still holds one; so
//! the taker needs no right to write.

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use byway_guest_tools::blocks;
use byway_guest_tools::exit::{self, Failure};
use byway_guest_tools::offer;
use byway_guest_tools::progress::Progress;
use byway_guest_tools::size;
use byway_linux::{
    Buffer, Capability, Context, Name, Pipeline, QueueOptions, Rights, Share, State, Terms, Wait,
    WorkQueue, pass,
};
use byway_ring::context::DEPTH_MAX;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Bytes that a taker holds at a time.
const WINDOW: usize = 16 << 20;
/// Time between two looks of a giver.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a giver writes along with a capability over a socket.
const NOTE: &[u8] = b"byway-cat 1\n";

/// Bytes from process to process by Byway's engine
#[derive(Debug, Parser)]
#[command(name = "byway-cat", version, after_help = concat!(
    "Examples:\n",
    "  byway-cat offer bob photos album.tar      in alice: offer a file to the VM named bob\n",
    "  byway-cat fetch photos -o album.tar       in bob: fetch it\n",
    "  tar c . | byway-cat offer bob tree        from a pipe\n",
    "  byway-cat fetch tree | tar x              into a pipe\n",
    "  byway-cat pass /run/cat.sock FILE         to a process of the same guest\n",
    "  byway-cat take /run/cat.sock -o FILE      which takes it\n",
    "  byway-cat local FILE -o COPY --checksum   within one process\n",
    "  byway-cat blocks disk --bytes 1M          the first MiB of a block device that the operator granted\n\n",
    "Exit codes: 0 done; 1 failed while running; 2 wrong usage; 3 no Byway device in this guest."
))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Offer bytes to another VM under a port name, wait until they were fetched, revoke
    Offer {
        /// Name of the peer's domain
        peer: Name,
        /// Name under which the peer fetches them
        port: Name,
        #[command(flatten)]
        give: GiveArgs,
    },
    /// Fetch what another VM offers under a port name
    Fetch {
        /// The name
        port: Name,
        /// Take it from this domain only
        #[arg(long, value_name = "PEER")]
        from: Option<Name>,
        #[command(flatten)]
        take: TakeArgs,
    },
    /// Pass bytes to a process of this guest over a Unix socket
    Pass {
        /// Where to listen for the process that takes them; made, and removed afterwards
        socket: PathBuf,
        #[command(flatten)]
        give: GiveArgs,
    },
    /// Take what a process of this guest passes
    Take {
        /// Where it listens
        socket: PathBuf,
        #[command(flatten)]
        take: TakeArgs,
    },
    /// Read blocks of a device that the engine drives and the operator granted
    Blocks {
        /// Name of the endpoint
        endpoint: Name,
        /// First byte, a multiple of the device's blocks
        #[arg(long, default_value = "0", value_parser = size::parse, value_name = "BYTES")]
        offset: u64,
        /// How many, of whole blocks; all that follow when left out
        #[arg(long, value_parser = size::parse_some, value_name = "BYTES")]
        bytes: Option<u64>,
        /// Where to write; standard output when left out
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Copy bytes by the engine within this process
    Local {
        /// What to read; standard input when left out
        file: Option<PathBuf>,
        #[command(flatten)]
        take: TakeArgs,
    },
}

#[derive(Debug, Args)]
struct GiveArgs {
    /// What to give; standard input when left out
    file: Option<PathBuf>,
    /// Seconds after which it is given up; 0 = never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, Args)]
struct TakeArgs {
    /// Where to write; standard output when left out
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seconds to wait for it; 0 = for ever
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    timeout: u64,
    /// Bytes of one descriptor
    #[arg(long, default_value = "256K", value_parser = size::parse_some, value_name = "BYTES")]
    chunk: u64,
    /// Descriptors in flight
    #[arg(long, default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    depth: u32,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Tell the SHA-256 of the bytes
    #[arg(long)]
    checksum: bool,
    /// Tell what was done as one line of JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    action: &'static str,
    bytes: u64,
    /// Of the transfers alone, as the taker sees them; of the giver from the offer to the end.
    seconds: f64,
    /// Number of the domain that owns the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Report {
    /// To standard output, or to standard error where that carries the bytes.
    fn tell(&self, args: &ReportArgs, data_on_stdout: bool) -> Result<(), Failure> {
        let text = if args.json {
            serde_json::to_string(self).map_err(|why| Failure::while_("JSON", why))?
        } else {
            let rate = self.bytes as f64 / self.seconds.max(1e-9) / 1e6;
            let mut text = format!(
                "{} {} bytes in {:.3} s ({rate:.1} MB/s)",
                self.action, self.bytes, self.seconds
            );
            if let Some(domain) = self.domain {
                text += &format!(", memory of domain {domain}");
            }
            if let Some(sum) = &self.sha256 {
                text += &format!("\nsha256 {sum}");
            }
            text
        };
        if data_on_stdout {
            eprintln!("{text}");
        } else {
            writeln!(stdout(), "{text}")?;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All that a file or standard input has, in memory that can be shared.
fn load(file: Option<&PathBuf>) -> Result<Buffer, Failure> {
    let named = file.map_or("standard input".to_owned(), |path| {
        path.display().to_string()
    });
    let why = |error: std::io::Error| Failure::while_(&named, error);
    let mut bytes = Vec::new();
    match file {
        Some(path) => File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
        None => stdin().lock().read_to_end(&mut bytes),
    }
    .map_err(why)?;
    if bytes.is_empty() {
        return Err(Failure::Usage(format!(
            "{named} is empty; a capability spans 1 byte at least"
        )));
    }
    let buffer = Buffer::large(bytes.len())?;
    // Within, since the buffer has this length.
    buffer
        .region()
        .write(0, &bytes)
        .map_err(|why| Failure::while_(&named, why))?;
    Ok(buffer)
}

fn checksum_of(buffer: &Buffer, wanted: bool) -> Result<Option<String>, Failure> {
    if !wanted {
        return Ok(None);
    }
    let mut sum = Sha256::new();
    let mut part = vec![0; 64 << 10];
    for offset in (0..buffer.len()).step_by(part.len()) {
        let bytes = part.len().min(buffer.len() - offset);
        let read = buffer.region().read(offset, &mut part[..bytes]);
        read.map_err(|why| Failure::while_("checksum", why))?;
        sum.update(&part[..bytes]);
    }
    Ok(Some(hex(&sum.finalize())))
}

fn limit(seconds: u64) -> Option<Instant> {
    (seconds != 0).then(|| Instant::now() + Duration::from_secs(seconds))
}

/// Waits until everything went through the capability and nobody holds one below it any more.
fn until_fetched(share: &Share, until: Option<Instant>) -> Result<(), Failure> {
    let total = share.length();
    let mut progress = Progress::new(total);
    let mut was_held = false;
    loop {
        let info = share.query()?;
        if info.state != State::Live {
            return Err(Failure::Failed(format!(
                "the capability ended ({:?}) after {} of {total} bytes",
                info.state, info.bytes_read
            )));
        }
        progress.at(info.bytes_read);
        was_held |= info.bytes_read != 0;
        if was_held && info.descendants == 0 {
            if info.bytes_read >= total {
                return Ok(());
            }
            return Err(Failure::Failed(format!(
                "the taker let go after {} of {total} bytes",
                info.bytes_read
            )));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Failure::Failed(format!(
                "given up after {} of {total} bytes; it was {}",
                info.bytes_read,
                if was_held {
                    "being fetched"
                } else {
                    "not fetched"
                }
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Gives a file by `how`, and waits until it was fetched.
fn give(
    give: &GiveArgs,
    how: impl FnOnce(&Share, Option<Instant>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let context = exit::context()?;
    let buffer = load(give.file.as_ref())?;
    let sha256 = checksum_of(&buffer, give.report.checksum)?;
    let bytes = buffer.len();
    let start = Instant::now();
    let rights = Rights::READ | Rights::GRANT;
    let share = context.share(buffer, 0..bytes, rights)?;
    let until = limit(give.timeout);
    how(&share, until)?;
    until_fetched(&share, until)?;
    if let Err(still) = share.take_back() {
        return Err(still.error.into());
    }
    let report = Report {
        action: "gave",
        bytes: bytes as u64,
        seconds: start.elapsed().as_secs_f64(),
        domain: None,
        sha256,
    };
    report.tell(&give.report, false)
}

/// The file, or standard output.
fn create(path: Option<&PathBuf>) -> Result<Box<dyn Write>, Failure> {
    let Some(path) = path else {
        return Ok(Box::new(stdout().lock()));
    };
    let file = File::create(path).map_err(|why| Failure::while_(&path.display().to_string(), why));
    Ok(Box::new(file?))
}

/// Reads all of a capability, a window at a time.
fn fetch(
    context: &Context,
    capability: &Capability,
    domain: Option<u32>,
    take: &TakeArgs,
) -> Result<(), Failure> {
    let mut queue: WorkQueue = context.queue(&QueueOptions::default())?;
    let total = capability.length();
    let window = Buffer::large(usize::try_from(total).unwrap_or(WINDOW).clamp(1, WINDOW))?;
    window.populate();
    let mut output = create(take.output.as_ref())?;
    let pipeline = Pipeline {
        chunk_bytes: u32::try_from(take.chunk).unwrap_or(u32::MAX),
        depth: take.depth,
    };
    let mut progress = Progress::new(total);
    let mut sum = take.report.checksum.then(Sha256::new);
    let mut part = vec![0; 64 << 10];
    let (mut done, mut time) = (0, Duration::ZERO);
    while done < total {
        let bytes = window
            .len()
            .min(usize::try_from(total - done).unwrap_or(WINDOW));
        let target = window.region().slice(0..bytes);
        let target = target.map_err(|why| Failure::while_("fetching", why))?;
        let start = Instant::now();
        queue
            .get_with(target, capability, done, &pipeline, &mut |moved| {
                progress.at(done + moved);
            })
            .map_err(|why| Failure::while_(&format!("fetching at byte {done}"), why))?;
        time += start.elapsed();
        for offset in (0..bytes).step_by(part.len()) {
            let piece = part.len().min(bytes - offset);
            let piece = &mut part[..piece];
            let read = target.read(offset, piece);
            read.map_err(|why| Failure::while_("fetching", why))?;
            if let Some(sum) = &mut sum {
                sum.update(&*piece);
            }
            output.write_all(piece)?;
        }
        done += bytes as u64;
    }
    output.flush()?;
    drop(progress);
    let report = Report {
        action: "fetched",
        bytes: total,
        seconds: time.as_secs_f64(),
        domain,
        sha256: sum.map(|sum| hex(&sum.finalize())),
    };
    report.tell(&take.report, take.output.is_none())
}

fn wait(seconds: u64) -> Wait {
    match seconds {
        0 => Wait::Forever,
        seconds => Wait::For(Duration::from_secs(seconds)),
    }
}

/// The capability that a process of this guest passes.
fn taken(context: &Context, socket: &PathBuf, timeout: u64) -> Result<Capability, Failure> {
    let named = socket.display().to_string();
    let stream = UnixStream::connect(socket).map_err(|why| Failure::while_(&named, why))?;
    if timeout != 0 {
        stream.set_read_timeout(Some(Duration::from_secs(timeout)))?;
    }
    let mut note = [0; 64];
    let received = pass::receive(&stream, &mut note);
    let (file, bytes) = received.map_err(|why| Failure::while_(&named, why))?;
    if note.get(..bytes) != Some(NOTE) {
        return Err(Failure::while_(&named, "that is no `byway-cat pass`"));
    }
    Ok(context.attach(&file, &Terms::WHOLE)?)
}

/// Passes a capability to the first process that connects.
fn passed(socket: &PathBuf, share: &Share) -> Result<(), Failure> {
    let named = socket.display().to_string();
    let listener = UnixListener::bind(socket).map_err(|why| Failure::while_(&named, why))?;
    let accepted = listener.accept();
    // It was made by `bind`; that somebody has removed it already is no failure.
    let _ = std::fs::remove_file(socket);
    let (stream, _) = accepted.map_err(|why| Failure::while_(&named, why))?;
    pass::send(&stream, share, NOTE).map_err(|why| Failure::while_(&named, why))
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Offer {
            peer,
            port,
            give: args,
        } => give(args, |share, until| {
            offer::when_there("byway-cat", share, (peer, port), Rights::READ, until)
        }),
        Command::Pass { socket, give: args } => give(args, |share, _| passed(socket, share)),
        Command::Fetch { port, from, take } => {
            let context = exit::context()?;
            let listener = context.listen(port, from.as_ref())?;
            let accepted = listener.accept(wait(take.timeout))?.ok_or_else(|| {
                Failure::Failed(format!(
                    "nothing was offered under {port:?} within {} s",
                    take.timeout
                ))
            })?;
            fetch(&context, &accepted.capability, Some(accepted.domain), take)
        }
        Command::Take { socket, take } => {
            let context = exit::context()?;
            let capability = taken(&context, socket, take.timeout)?;
            fetch(&context, &capability, None, take)
        }
        Command::Blocks {
            endpoint,
            offset,
            bytes,
            output,
        } => {
            let context = exit::context()?;
            let mut output = create(output.as_ref())?;
            blocks::read(&context, endpoint, *offset, *bytes, &mut output)?;
            Ok(output.flush()?)
        }
        Command::Local { file, take } => {
            let context = exit::context()?;
            let buffer = load(file.as_ref())?;
            let bytes = buffer.len();
            let share = context.share(buffer, 0..bytes, Rights::READ)?;
            fetch(&context, &share, None, take)
        }
    }
}

fn main() -> ExitCode {
    exit::end("byway-cat", run(&Cli::parse()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_of_the_help_are_understood() {
        for line in [
            "byway-cat offer bob photos album.tar",
            "byway-cat fetch photos -o album.tar",
            "byway-cat fetch tree --from alice --checksum --json",
            "byway-cat pass /run/cat.sock FILE",
            "byway-cat take /run/cat.sock -o FILE",
            "byway-cat local FILE -o COPY --checksum",
            "byway-cat blocks disk --offset 64K --bytes 1M -o FILE",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "byway-cat offer bob",
            "byway-cat fetch tree --depth 0",
            "byway-cat fetch tree --chunk 0",
            "byway-cat offer bob a-name-that-is-longer-than-thirty-two-bytes",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
