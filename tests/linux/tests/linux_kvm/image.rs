//! `byway image` as a program: what it makes, how it tells how far it is, and that what is there is not fetched again. That a kernel boots
//! with it is what the VMs of this suite show, whose initramfs is made by it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use byway_linux_tests::images::{Kernel, repository};
use byway_linux_tests::lab;

/// What packages are had by.
const DOWNLOADERS: [&str; 2] = ["apt-get", "apt-cache"];

#[test]
fn a_guest_image_is_made_from_the_cache_with_progress_on_a_terminal_alone() {
    lab::test("kvm-image", |lab| {
        let folder = lab.scratch().join("guest");
        let source = repository();
        let arguments = [
            "image".as_ref(),
            folder.as_os_str(),
            "--kernel".as_ref(),
            Kernel::V6_12.series().as_ref(),
            "--source".as_ref(),
            source.as_os_str(),
        ];
        // The first one may have something to build.
        let output = Command::new(lab::byway()?).args(arguments).output()?;
        is_quiet(&output, &folder)?;
        for name in ["vmlinux", "initramfs.img", "guest.toml"] {
            ensure!(folder.join(name).exists(), "no {name} was made");
        }

        // The next one downloads nothing, as whoever tries leaves a trace.
        let decoys = lab.scratch().join("decoys");
        let trace = lab.scratch().join("trace");
        decoy(&decoys, &trace)?;
        let path = std::env::var("PATH").context("no PATH")?;
        let path = format!("{}:{path}", decoys.display());
        let output = Command::new(lab::byway()?)
            .args(arguments)
            .env("PATH", &path)
            .output()?;
        is_quiet(&output, &folder)?;
        ensure!(
            !trace.exists(),
            "packages were asked for again: {}",
            fs::read_to_string(&trace)?
        );

        let command = format!(
            "{} image {} --kernel {} --source {}",
            lab::byway()?.display(),
            folder.display(),
            Kernel::V6_12.series(),
            source.display()
        );
        let shown = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env("PATH", &path)
            .stdin(std::process::Stdio::null())
            .output()
            .context("cannot run script (package bsdutils)")?;
        let text = String::from_utf8_lossy(&shown.stdout);
        ensure!(shown.status.success(), "{text}");
        for expected in ["0/4 packages", "1/4 module", "2/4 tools", "3/4 initramfs"] {
            ensure!(text.contains(expected), "no {expected:?} in {text:?}");
        }
        ensure!(!trace.exists(), "packages were asked for on a terminal");
        Ok(())
    });
}

/// One line for whoever reads a pipe, and nothing else.
fn is_quiet(output: &Output, folder: &Path) -> Result<()> {
    let told = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{told:?}");
    let line = format!("byway run {}\n", folder.join("guest.toml").display());
    ensure!(told == (line.into(), "".into()), "{told:?}");
    Ok(())
}

/// Programs that only tell that they were run.
fn decoy(folder: &Path, trace: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in DOWNLOADERS {
        let path = folder.join(name);
        fs::write(
            &path,
            format!(
                "#!/bin/sh\necho {name} \"$@\" >>{}\nexit 1\n",
                trace.display()
            ),
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
