//! Serves an image as an NVMe controller at a Unix socket, one driver at a time, until it is
//! interrupted: `serve SOCKET IMAGE [BLOCK_BYTES]`. The engine attaches to it as an endpoint of
//! kind `nvme`.

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::net::UnixListener;
use std::sync::atomic::AtomicBool;

use byway_nvme::attach::serve;
use byway_nvme::controller::{Config, Controller};
use byway_nvme::medium::Image;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (socket, image, block_bytes) = match args.as_slice() {
        [socket, image] => (socket, image, 512),
        [socket, image, block_bytes] => (socket, image, block_bytes.parse()?),
        _ => return Err("usage: serve SOCKET IMAGE [BLOCK_BYTES]".into()),
    };
    if ![512, 4096].contains(&block_bytes) {
        return Err(format!("blocks of {block_bytes} bytes: expected 512 or 4096").into());
    }
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    let config = Config {
        block_bytes,
        ..Config::default()
    };
    let mut controller = Controller::new(config, Image::new(file, false)?);
    let listener = UnixListener::bind(socket)?;
    println!("serving {image} at {socket}");
    let never = AtomicBool::new(false);
    for driver in listener.incoming() {
        match serve(&driver?, &mut controller, &never) {
            Ok(()) => println!("a driver has left"),
            Err(error) => eprintln!("a driver broke off: {error}"),
        }
    }
    Ok(())
}
