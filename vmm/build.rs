//! Builds the bare-metal guest image, so that one `cargo build` makes everything.
//!
//! The image links its own way and stands outside the workspace, so it gets a cargo of
//! its own, with a target folder below `OUT_DIR` and without whatever flags and compiler
//! wrappers the outer build runs under: they are meant for host programs. Its ELF
//! becomes `byway_vmm::guest_image()`. An image that was built elsewhere is taken instead
//! when `BYWAY_GUEST_ELF` names it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the outer cargo was told about compiling for the host.
const NOT_FOR_THE_GUEST: [&str; 8] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// Names an image that was built elsewhere.
const PREBUILT: &str = "BYWAY_GUEST_ELF";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    let image = match env::var_os(PREBUILT) {
        Some(path) => PathBuf::from(path),
        None => build_image()?,
    };
    if !image.is_file() {
        return Err(format!("there is no guest image {}", image.display()).into());
    }
    println!("cargo::rustc-env=BYWAY_GUEST_IMAGE={}", image.display());
    Ok(())
}

/// Builds the image and says where it is.
fn build_image() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    let root = manifest
        .parent()
        .ok_or("the VMM's crate has no parent folder")?;
    let guest = root.join("guest-driver/guest");
    watch(root, &guest)?;

    let target = PathBuf::from(required("OUT_DIR")?).join("guest");
    let mut cargo = Command::new(required("CARGO")?);
    cargo
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(guest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // Configuration files are looked up from here, not from wherever cargo was called.
        .current_dir(&guest);
    for name in NOT_FOR_THE_GUEST {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!(
            "building the guest image failed ({status}); see above, or run: cargo build --release --manifest-path {}",
            guest.join("Cargo.toml").display()
        )
        .into());
    }
    Ok(target.join("release/byway-guest"))
}

/// Tells cargo what the image is made of. The guest's own target folder is left out, or
/// every manual build there would look like a change.
fn watch(root: &Path, guest: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    for entry in fs::read_dir(guest)? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name != "target") {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    for folder in [
        "guest-driver/driver",
        "guest-driver/ring",
        "guest-driver/agent",
        "protocols",
    ] {
        for part in ["Cargo.toml", "src"] {
            println!(
                "cargo::rerun-if-changed={}",
                root.join(folder).join(part).display()
            );
        }
    }
    Ok(())
}

fn required(name: &str) -> Result<std::ffi::OsString, Box<dyn Error>> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}").into())
}
