//! Two VMs share a buffer, process to process: `share give bob` in alice, `share use` in bob.
//!
//! Alice gives bob 1 MiB to read and write, waits until he has answered, and takes it back. From the moment
//! when `take_back` returns, nothing of bob's can reach the buffer any more, whatever he does.

use byway_linux::{Buffer, Device, Name, QueueOptions, Rights, Wait, WorkQueue};

const BYTES: usize = 1 << 20;
/// Where the answer is: a word of its own, read by alice while bob may write it.
const ANSWER: usize = BYTES - 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = Name::new("share-example")?;
    let context = Device::open()?.context(16)?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["give", peer] => {
            let buffer = Buffer::new(BYTES)?;
            buffer.region().write(0, b"hello from alice")?;
            let rights = Rights::READ | Rights::WRITE | Rights::GRANT;
            let share = context.share(buffer, 0..BYTES, rights)?;
            share.offer(&Name::new(peer)?, &port, Rights::READ | Rights::WRITE)?;
            while share.region().load(ANSWER)? == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let buffer = share.take_back().map_err(|still| still.error)?;
            println!("the answer is {}", buffer.region().load(ANSWER)?);
        }
        ["use"] => {
            let offer = context.listen(&port, None)?.accept(Wait::Forever)?;
            let peers = offer.ok_or("nobody offers")?.capability;
            let mut queue: WorkQueue = context.queue(&QueueOptions::default())?;
            let own = Buffer::new(16)?;
            queue.get(own.region(), &peers, 0)?;
            let mut text = [0; 16];
            own.region().read(0, &mut text)?;
            println!("{}", String::from_utf8_lossy(&text));
            queue.put(&peers, ANSWER as u64, &42u64.to_le_bytes())?;
        }
        _ => return Err("usage: share give PEER | share use".into()),
    }
    Ok(())
}
