//! Writes the seeds of all targets below a folder: `seeds FOLDER`, a folder per target.

use std::path::PathBuf;
use std::{env, fs, io};

use byway_fuzz::{TARGETS, seeds};

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: seeds FOLDER"));
    };
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds::of(target.name) {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
