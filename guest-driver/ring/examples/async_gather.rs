//! Tasks that each fetch a record of another guest's memory, check it, and count it: with futures
//! and a small executor, against the real engine in this process.
//!
//!     cargo run --release -p byway-ring --features async --example async_gather
//!
//! In a guest the queue comes from its kernel, and everything else is the same.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use byway_ring::asynchronous::Driver;
use byway_ring::{Address, Atomic, Crc32c, Previous, Request, Slot};

mod in_process;
use in_process::{LOCAL, Machine};

type Error = Box<dyn std::error::Error>;
/// What the executor runs.
type Task<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

const RECORDS: u64 = 200;
const RECORD_BYTES: u64 = 4096;

/// A task that is to be polled, once per wake-up.
struct Woken {
    number: usize,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let mut ready = self.ready.lock().expect("nobody panics while it is held");
            ready.push_back(self.number);
        }
    }
}

/// The whole executor: polls what was woken, then gives the driver its turn.
fn run_all(tasks: Vec<Task<'_>>, turn: impl Fn()) -> Result<(), Error> {
    let ready = Arc::new(Mutex::new(VecDeque::new()));
    let mut tasks: Vec<_> = tasks.into_iter().map(Some).collect();
    let woken: Vec<_> = (0..tasks.len())
        .map(|number| {
            Arc::new(Woken {
                number,
                queued: AtomicBool::new(false),
                ready: ready.clone(),
            })
        })
        .collect();
    woken.iter().for_each(|task| task.clone().wake());
    let mut left = tasks.len();
    while left > 0 {
        // As many as there are now: one that is woken meanwhile has to wait for a turn.
        let now = ready.lock().expect("nobody panics while it is held").len();
        for _ in 0..now {
            let next = ready.lock().expect("as above").pop_front();
            let Some(number) = next else { break };
            woken[number].queued.store(false, Ordering::Release);
            let waker = Waker::from(woken[number].clone());
            let Some(task) = tasks[number].as_mut() else {
                continue;
            };
            if let Poll::Ready(ended) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
                ended?;
                tasks[number] = None;
                left -= 1;
            }
        }
        turn();
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let machine = Machine::start()?;
    let slot = Slot::new(machine.slot).ok_or("slots end at 32767")?;
    // Bob's records, and a counter behind them.
    let record = |i: u64| vec![i as u8 ^ 0x5a; RECORD_BYTES as usize];
    for i in 0..RECORDS {
        machine.bob.write(LOCAL + i * RECORD_BYTES, &record(i));
    }
    let counter = Address::capability(slot, RECORDS * RECORD_BYTES);

    let driver = Driver::new(machine.queue()?, || ());
    let fetch = async |i: u64| {
        let local = Address::own(LOCAL + i * RECORD_BYTES);
        let remote = Address::capability(slot, i * RECORD_BYTES);
        // More tasks than the ring has entries: `execute` waits for room.
        let copied = driver
            .execute(Request::copy_crc(local, remote, RECORD_BYTES, 0)?)
            .await?;
        let copied = Crc32c::of(&copied)?;
        let own = driver
            .execute(Request::crc(local, RECORD_BYTES, 0)?)
            .await?;
        if copied != Crc32c::of(&own)? {
            return Err(Error::from(format!("record {i} is damaged")));
        }
        let count = driver
            .execute(Request::atomic(counter, Atomic::FetchAdd(1))?)
            .await?;
        Previous::of(&count)?;
        Ok(())
    };
    let fetch = &fetch;
    let tasks = (0..RECORDS)
        .map(|i| Box::pin(async move { fetch(i).await }) as Task<'_>)
        .collect();
    run_all(tasks, || {
        if driver.turn() == 0 {
            std::thread::yield_now();
        }
    })?;

    for i in 0..RECORDS {
        let found = machine.alice.read(LOCAL + i * RECORD_BYTES, RECORD_BYTES);
        if found != record(i) {
            return Err(format!("record {i} is not the one that was asked for").into());
        }
    }
    let counted = machine.bob.read(LOCAL + RECORDS * RECORD_BYTES, 8);
    if counted != RECORDS.to_le_bytes() {
        return Err(format!("counted {counted:?}; expected {RECORDS}").into());
    }
    println!("{RECORDS} records fetched, checked and counted by as many tasks");
    Ok(())
}
