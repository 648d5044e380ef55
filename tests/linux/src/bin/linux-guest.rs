//! Boots a Linux guest by hand: `tests/lib/linux-guest --help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use byway_linux_tests::guest::{Config, Guest};
use byway_linux_tests::images::{Images, Kernel};
use byway_linux_tests::initramfs::{self, Module};
use byway_linux_tests::qemu::{FOUR_LEVELS, Machine};

/// Boots a Linux guest under QEMU's emulation, runs commands in it, and shows its console.
///
/// Exit status: that of the first command that fails, else 0; 125 when the guest cannot be used.
#[derive(Debug, Parser)]
#[command(
    name = "linux-guest",
    after_help = "Examples:\n  tests/lib/linux-guest --kernel 6.12 'uname -a'\n  \
tests/lib/linux-guest --module my.ko --share /tmp/files 'ls /share; dmesg | tail'\n  \
byway engine --socket /tmp/e --config engine.toml &\n  \
tests/lib/linux-guest --engine /tmp/e --name alice 'byway-selftest'"
)]
struct Args {
    /// Kernel series: 6.1 or 6.12
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// Its name, and its socket's at the engine
    #[arg(long, default_value = "guest")]
    name: String,
    /// Byway module to load [default: target/linux-guest/KERNEL/byway.ko, if it is there]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Do not load the Byway module; it lies in /modules
    #[arg(long)]
    no_load: bool,
    /// Folder of a running `byway engine`; without it the guest has no Byway device
    #[arg(long, value_name = "DIR")]
    engine: Option<PathBuf>,
    /// Put the files of this folder into the guest's /share
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Virtual CPUs
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// RAM in MiB; above 2048 it is two regions
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// QEMU's CPU model; "max,cx16=off" has five levels of page tables
    #[arg(long, default_value = FOUR_LEVELS)]
    cpu: String,
    /// Added to the kernel's command line, for example pti=on
    #[arg(long, default_value = "")]
    cmdline: String,
    /// Seconds that a command may take
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Boot nothing: write the guest's file system, as an initramfs, to this file
    #[arg(long, value_name = "FILE")]
    write_initramfs: Option<PathBuf>,
    /// Show the console as well, at the end
    #[arg(long, short)]
    console: bool,
    /// Commands, each run by the guest's shell; standard input is read for them when there are none
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &Args) -> Result<u8> {
    let scratch = tempfile::Builder::new().prefix("byway-").tempdir()?;
    let mut files = Vec::new();
    if let Some(folder) = &args.share {
        for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                files.push((format!("/share/{name}"), path.clone()));
            }
        }
    }
    let load = if args.no_load { " guest.load=0" } else { "" };
    let config = Config {
        name: args.name.clone(),
        kernel: args.kernel,
        module: args.module.clone().map_or(Module::Built, Module::File),
        machine: Machine {
            cpus: args.cpus,
            memory_mib: args.memory,
            cpu: args.cpu.clone(),
            cmdline: format!("{}{load}", args.cmdline),
            ..Machine::default()
        },
        files,
        device: args
            .engine
            .as_ref()
            .map(|folder| folder.join(format!("{}.sock", args.name))),
    };
    let images = Images::find()?;
    if let Some(path) = &args.write_initramfs {
        // Whoever boots it elsewhere chooses its devices.
        let mut files = initramfs::device_modules(&images, config.kernel)?;
        files.extend(config.files);
        let archive = initramfs::build(&images, config.kernel, &config.module, &files)?;
        std::fs::write(path, archive)
            .with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(0);
    }
    if let Some(socket) = config.device.as_ref().filter(|socket| !socket.exists()) {
        eprintln!(
            "note: no engine has made {} yet; QEMU waits for it",
            socket.display()
        );
    }
    let mut guest = Guest::start(&images, &config, scratch.path(), scratch.path())?;
    let status = guest.up().and_then(|()| commands(&mut guest, args));
    if args.console || status.is_err() {
        eprint!("{}", guest.console());
    }
    let status = status?;
    if let Err(error) = guest.check() {
        eprintln!("error: {error:#}");
        return Ok(125);
    }
    Ok(status)
}

/// Runs the commands; the status of the first one that failed.
fn commands(guest: &mut Guest, args: &Args) -> Result<u8> {
    let mut status = 0;
    let mut execute = |command: &str| -> Result<()> {
        let output = guest.run_within(command, Duration::from_secs(args.limit))?;
        print!("{}", output.text);
        if output.status != 0 {
            eprintln!("exit status {}: {command}", output.status);
            if status == 0 {
                status = u8::try_from(output.status).unwrap_or(124);
            }
        }
        Ok(())
    };
    for command in &args.command {
        execute(command)?;
    }
    if args.command.is_empty() {
        eprintln!("up; each line is a command, the end of input ends the guest");
        for line in std::io::stdin().lines() {
            execute(&line?)?;
        }
    }
    Ok(status)
}
