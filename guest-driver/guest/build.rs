//! Hands the linker what a freestanding image needs, so that a plain `cargo build` makes one
//! from any directory and without `RUSTFLAGS`.
//!
//! The linker script is taken from a copy in `OUT_DIR`: cargo keeps this program's output with
//! the target folder, so a path into the sources would be wrong once the checkout has moved.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let script = Path::new(&env::var("OUT_DIR")?).join("image.ld");
    fs::copy("image.ld", &script)?;
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,noexecstack",
        "-Wl,-z,max-page-size=4096",
        &format!("-T{}", script.display()),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for input in ["image.ld", "src/ring0/boot.s", "src/ring0/traps.s"] {
        println!("cargo:rerun-if-changed={input}");
    }
    Ok(())
}
