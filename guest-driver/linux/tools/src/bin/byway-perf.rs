//! `byway-perf`: how fast bytes go from a process in one guest to a process in another, as a program sees it.
//!
//! One side serves a buffer, the other puts into it and gets from it. What is timed is what an application pays:
//! from the submission to the completion that it has seen, with nothing in between but the library.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use byway_guest_tools::emulation;
use byway_guest_tools::exit::{self, Failure};
use byway_guest_tools::offer;
use byway_guest_tools::size;
use byway_linux::{
    Buffer, Capability, Context, Ended, Name, QueueOptions, Request, Rights, State, Wait, Waiting,
    WorkQueue,
};
use byway_protocols::Descriptor;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Entries of the queue, and the deepest pipeline.
const ENTRIES: u32 = 256;
/// Latencies kept of a measurement, the last ones: it may last for long.
const SAMPLES_MAX: usize = 200_000;
/// Descriptors that warm up caches and page tables.
const WARM_UP: usize = 32;
/// Time between two looks of the serving side.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Throughput and latency between two guests
#[derive(Debug, Parser)]
#[command(name = "byway-perf", version, after_help = concat!(
    "Examples:\n",
    "  byway-perf serve bob perf --size 16M   in alice: a buffer for the VM named bob\n",
    "  byway-perf run perf                    in bob: put into it and get from it, every size\n",
    "  byway-perf run perf --json             for programs\n",
    "  byway-perf local                       within one process\n\n",
    "Exit codes: 0 done; 1 failed while running; 2 wrong usage; 3 no Byway device in this guest."
))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Offer a buffer to another VM until it has been used and let go
    Serve {
        /// Name of the peer's domain
        peer: Name,
        /// Name under which the peer finds it
        port: Name,
        /// Bytes of the buffer
        #[arg(long, default_value = "16M", value_parser = size::parse_some)]
        size: u64,
        /// Offer it again whenever it was let go; ends by a signal only
        #[arg(long)]
        forever: bool,
    },
    /// Measure with a buffer that another VM serves
    Run {
        /// The name
        port: Name,
        /// Take it from this domain only
        #[arg(long, value_name = "PEER")]
        from: Option<Name>,
        /// Seconds to wait for it; 0 = for ever
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        timeout: u64,
        #[command(flatten)]
        plan: Plan,
    },
    /// Measure within this process
    Local {
        #[command(flatten)]
        plan: Plan,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    /// From one's own memory into the peer's
    Put,
    /// From the peer's memory into one's own
    Get,
}

#[derive(Debug, Args)]
struct Plan {
    /// Sizes to measure; those above the buffer's are left out
    #[arg(long, value_delimiter = ',', value_parser = size::parse_some,
          default_value = "64,256,1K,4K,16K,64K,256K,1M,4M,16M")]
    sizes: Vec<u64>,
    /// Descriptors in flight; depth 1 is always measured, too
    #[arg(long, default_value_t = 32, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(ENTRIES)))]
    depth: u32,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["put", "get"])]
    operations: Vec<Operation>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// Sleep until the interrupt instead of polling
    #[arg(long)]
    sleep: bool,
    /// Tell the results as JSON
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("expected 0.001 to 3600 seconds, found {text:?}")),
    }
}

/// What was counted while something was measured.
struct Counts {
    /// Descriptors that completed.
    completed: usize,
    /// Doorbells rung.
    kicks: u64,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Row {
    operation: Operation,
    bytes: u64,
    depth: u32,
    descriptors: usize,
    seconds: f64,
    gigabytes_per_second: f64,
    descriptors_per_second: f64,
    /// From submission to the completion seen, of one descriptor among `depth`.
    latency_ns_p50: u64,
    latency_ns_p99: u64,
    latency_ns_max: u64,
    /// Doorbells: each is an exit.
    kicks: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    /// What emulates the CPU: then no figure means anything.
    emulated: Option<&'static str>,
    waiting: &'static str,
    rows: Vec<Row>,
}

/// The value below which so many hundredths of the sorted samples lie.
fn percentile(sorted: &[u64], hundredths: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * hundredths / 100).copied().unwrap_or(0)
}

struct Bench<'b> {
    queue: WorkQueue,
    peer: &'b Capability,
    own: Buffer,
    plan: &'b Plan,
}

impl Bench<'_> {
    fn descriptor(&self, operation: Operation, bytes: u64) -> Result<Descriptor, Failure> {
        let own = self.own.region().address();
        let slot = self.peer.slot();
        let request = match operation {
            Operation::Put => Request::put(slot, 0, own, bytes),
            Operation::Get => Request::get(own, slot, 0, bytes),
        };
        let request = request.and_then(Request::blocking_on_fault);
        let request = request.map_err(|why| Failure::while_("building a request", why))?;
        Ok(if self.plan.sleep {
            request.interrupting().into()
        } else {
            request.into()
        })
    }

    /// Keeps `depth` descriptors in flight until time is over or there were `most`; latencies in nanoseconds.
    fn keep_busy(
        &mut self,
        descriptor: Descriptor,
        depth: u32,
        most: usize,
        samples: &mut Vec<u64>,
    ) -> Result<Counts, Failure> {
        samples.clear();
        let limit = Duration::from_secs_f64(self.plan.seconds);
        let mut in_flight = std::collections::VecDeque::with_capacity(depth as usize);
        let (mut submitted, mut completed, mut kicks) = (0_usize, 0, 0);
        let start = Instant::now();
        loop {
            let over = submitted >= most || start.elapsed() >= limit && submitted != 0;
            let mut posted = false;
            while !over && submitted < most && in_flight.len() < depth as usize {
                let began = Instant::now();
                // SAFETY: it names `own` and the peer's capability. The buffer lives as long as the queue, and
                // nothing refers to what is in it.
                let ticket = unsafe { self.queue.post(descriptor) }
                    .map_err(|why| Failure::while_("submitting", why))?;
                in_flight.push_back((ticket, began));
                submitted += 1;
                posted = true;
            }
            if posted {
                kicks += u64::from(self.queue.flush()?);
            }
            let Some((ticket, began)) = in_flight.pop_front() else {
                return Ok(Counts { completed, kicks });
            };
            let completion = self.queue.wait(ticket)?;
            let latency = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            match samples.get_mut(completed % SAMPLES_MAX) {
                Some(oldest) => *oldest = latency,
                None => samples.push(latency),
            }
            completed += 1;
            if !completion.is_success() {
                return Err(Failure::while_("a transfer", Ended { completion }));
            }
        }
    }

    fn measure(
        &mut self,
        operation: Operation,
        bytes: u64,
        depth: u32,
        samples: &mut Vec<u64>,
    ) -> Result<Row, Failure> {
        let descriptor = self.descriptor(operation, bytes)?;
        self.keep_busy(descriptor, depth, WARM_UP, samples)?;
        let start = Instant::now();
        let counts = self.keep_busy(descriptor, depth, usize::MAX, samples)?;
        let seconds = start.elapsed().as_secs_f64();
        let descriptors = counts.completed;
        samples.sort_unstable();
        Ok(Row {
            operation,
            bytes,
            depth,
            descriptors,
            seconds,
            gigabytes_per_second: bytes as f64 * descriptors as f64 / seconds / 1e9,
            descriptors_per_second: descriptors as f64 / seconds,
            latency_ns_p50: percentile(samples, 50),
            latency_ns_p99: percentile(samples, 99),
            latency_ns_max: samples.last().copied().unwrap_or(0),
            kicks: counts.kicks,
        })
    }
}

fn show(rows: &[Row]) {
    println!(
        "{:>4} {:>8} {:>5} {:>9} {:>9} {:>11} {:>11} {:>11} {:>11} {:>6}",
        "", "bytes", "depth", "count", "GB/s", "per second", "p50 ns", "p99 ns", "max ns", "kicks"
    );
    for row in rows {
        println!(
            "{:>4} {:>8} {:>5} {:>9} {:>9.3} {:>11.0} {:>11} {:>11} {:>11} {:>6}",
            match row.operation {
                Operation::Put => "put",
                Operation::Get => "get",
            },
            size::show(row.bytes),
            row.depth,
            row.descriptors,
            row.gigabytes_per_second,
            row.descriptors_per_second,
            row.latency_ns_p50,
            row.latency_ns_p99,
            row.latency_ns_max,
            row.kicks
        );
    }
}

fn bench(context: &Context, peer: &Capability, plan: &Plan) -> Result<(), Failure> {
    let mut sizes = plan.sizes.clone();
    sizes.retain(|bytes| *bytes <= peer.length());
    let Some(largest) = sizes.iter().max() else {
        return Err(Failure::Usage(format!(
            "no size is within the buffer's {} bytes",
            peer.length()
        )));
    };
    let own = Buffer::large(usize::try_from(*largest).unwrap_or(usize::MAX))?;
    // So that no page of one's own is missing while time is taken.
    own.region().fill(0x5a);
    let mut queue: WorkQueue = context.queue(&QueueOptions {
        entries: ENTRIES,
        no_park: false,
    })?;
    queue.set_waiting(if plan.sleep {
        Waiting::Sleep { polls: 0 }
    } else {
        Waiting::Poll
    });
    let mut bench = Bench {
        queue,
        peer,
        own,
        plan,
    };
    let mut depths = vec![1, plan.depth];
    depths.dedup();
    let mut samples = Vec::with_capacity(SAMPLES_MAX);
    let mut rows = Vec::new();
    for operation in &plan.operations {
        for bytes in &sizes {
            for depth in &depths {
                rows.push(bench.measure(*operation, *bytes, *depth, &mut samples)?);
            }
        }
    }
    let emulated = emulation::emulator();
    if plan.json {
        let report = Report {
            emulated,
            waiting: if plan.sleep { "sleep" } else { "poll" },
            rows,
        };
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|why| Failure::while_("JSON", why))?);
    } else {
        show(&rows);
    }
    if let Some(emulator) = emulated {
        eprintln!(
            "byway-perf: this CPU is emulated by {emulator}: the figures show that it works, and nothing else"
        );
    }
    Ok(())
}

/// Offers a buffer, and waits until somebody has used it and let go.
fn serve(context: &Context, peer: &Name, port: &Name, bytes: u64) -> Result<(), Failure> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let buffer = Buffer::large(bytes)?;
    buffer.region().fill(0xa5);
    let rights = Rights::READ | Rights::WRITE | Rights::GRANT;
    let share = context.share(buffer, 0..bytes, rights)?;
    let rights = Rights::READ | Rights::WRITE;
    offer::when_there("byway-perf", &share, (peer, port), rights, None)?;
    eprintln!("byway-perf: {bytes} bytes for {peer} under {port}");
    loop {
        std::thread::sleep(LOOK_EVERY);
        let info = share.query()?;
        if info.state != State::Live {
            return Err(Failure::Failed(format!(
                "the capability ended: {:?}",
                info.state
            )));
        }
        let used = info.bytes_read + info.bytes_written;
        if used != 0 && info.descendants == 0 {
            eprintln!(
                "byway-perf: {} bytes read, {} written",
                info.bytes_read, info.bytes_written
            );
            return match share.take_back() {
                Ok(_) => Ok(()),
                Err(still) => Err(still.error.into()),
            };
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let context = exit::context()?;
    match &cli.command {
        Command::Serve {
            peer,
            port,
            size,
            forever,
        } => loop {
            serve(&context, peer, port, *size)?;
            if !forever {
                return Ok(());
            }
        },
        Command::Run {
            port,
            from,
            timeout,
            plan,
        } => {
            let listener = context.listen(port, from.as_ref())?;
            let wait = match timeout {
                0 => Wait::Forever,
                seconds => Wait::For(Duration::from_secs(*seconds)),
            };
            match listener.accept(wait)? {
                Some(accepted) => bench(&context, &accepted.capability, plan),
                None => Err(Failure::Failed(format!(
                    "nothing was offered under {port} within {timeout} s"
                ))),
            }
        }
        Command::Local { plan } => {
            let bytes = usize::try_from(plan.sizes.iter().copied().max().unwrap_or(1));
            let bytes = bytes.unwrap_or(usize::MAX);
            let buffer = Buffer::large(bytes)?;
            buffer.region().fill(0xa5);
            let share = context.share(buffer, 0..bytes, Rights::READ | Rights::WRITE)?;
            bench(&context, &share, plan)
        }
    }
}

fn main() -> ExitCode {
    exit::end("byway-perf", run(&Cli::parse()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for line in [
            "byway-perf serve bob perf --size 16M",
            "byway-perf run perf --operations get --sizes 64,1M --depth 8 --json",
            "byway-perf local --seconds 0.1 --sleep",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "byway-perf run perf --depth 0",
            "byway-perf local --seconds 0",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<u64> = (1..=101).collect();
        assert_eq!(percentile(&samples, 50), 51);
        assert_eq!(percentile(&samples, 99), 100);
        assert_eq!(percentile(&samples, 100), 101);
        assert_eq!(percentile(&[], 50), 0);
    }
}
