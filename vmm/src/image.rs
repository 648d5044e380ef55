//! `byway image`: a small Linux guest, from Debian's packages and this checkout: a kernel, and an initramfs with busybox, the
//! Byway module and the guest tools.
//!
//! The steps themselves are the scripts that the tests of Linux guests use (`tests/lib`), so that there is one way in which a guest is made;
//! this is their front: it finds the checkout, shows how far they are, and puts what they make into one folder with a `guest.toml` that
//! runs it. Packages are unpacked under `tests/.cache`, never installed, and downloaded once.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::exit_status::Failure;

/// Where in a checkout the steps are.
const SCRIPTS: &str = "tests/lib";
/// Exit status of a script that lacks something of the host.
const LACKS: i32 = 3;
/// Last lines of a step that are shown when it fails.
const TOLD_LINES: usize = 20;

/// A kernel series of Debian's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Series {
    /// That of Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// That of Debian 13, and of Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// Arguments of `byway image`.
#[derive(Debug, Clone, Parser)]
#[command(
    after_help = "Examples:\n  byway image guest           kernel, initramfs and guest.toml in the folder guest\n  byway run guest/guest.toml  its shell on this terminal\n  byway image guest --kernel 6.12"
)]
pub struct Args {
    /// Folder to put the guest into; made if it is not there
    pub folder: PathBuf,
    /// Kernel series
    #[arg(long, default_value = "6.1")]
    pub kernel: Series,
    /// Checkout of Byway [default: the one that the current folder is in]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Usage`] outside a checkout, [`Failure::Host`] when packages or tools cannot be had, [`Failure::Failed`] when a
/// step fails.
pub fn run(args: &Args) -> Result<(), Failure> {
    let source = checkout(args.source.as_deref())?;
    let series = args.kernel.name();
    fs::create_dir_all(&args.folder).map_err(|error| cannot("make", &args.folder, &error))?;
    let folder =
        fs::canonicalize(&args.folder).map_err(|error| cannot("find", &args.folder, &error))?;
    let initramfs = folder.join("initramfs.img");
    let images = source.join(SCRIPTS).join("linux-images");
    let guest = source.join(SCRIPTS).join("linux-guest");

    let steps = [
        step("packages", &images).args(["fetch", series]),
        step("module", &images).args(["module", series]),
        step("tools", &images).args(["programs"]),
        step("initramfs", &guest)
            .args(["--kernel", series, "--write-initramfs"])
            .arg(&initramfs),
    ];
    let bar = ProgressBar::new(steps.len() as u64).with_style(
        ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let done = steps.into_iter().try_for_each(|step| {
        let done = step.carry_out(&source, &bar);
        bar.inc(1);
        done
    });
    bar.finish_and_clear();
    done?;
    let kernel = copy_kernel(&source, series, &folder)?;
    let toml = folder.join("guest.toml");
    fs::write(&toml, describe(kernel)).map_err(|error| cannot("write", &toml, &error))?;
    println!("byway run {}", toml.display());
    Ok(())
}

/// The checkout: the folder that is named, or the nearest one around the current folder.
fn checkout(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(Failure::failed)?;
    let mut around = named.unwrap_or(&here).ancestors();
    let found = around.find(|folder| folder.join(SCRIPTS).join("linux-images").is_file());
    let found = found.and_then(|folder| fs::canonicalize(folder).ok());
    found.ok_or_else(|| {
        Failure::usage(
            "a guest is made from a checkout of Byway: run this inside one, or name it with --source",
        )
    })
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {verb} {}: {error}", path.display()))
}

/// A step of the way.
struct Step {
    what: &'static str,
    command: Command,
}

fn step(what: &'static str, program: &Path) -> Step {
    Step {
        what,
        command: Command::new(program),
    }
}

impl Step {
    fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    fn arg(mut self, arg: &Path) -> Self {
        self.command.arg(arg);
        self
    }

    /// Runs it; the bar shows its last line.
    fn carry_out(mut self, source: &Path, bar: &ProgressBar) -> Result<(), Failure> {
        let what = self.what;
        bar.set_message(what);
        let failed = |why: String| Failure::failed(format!("{what}: {why}"));
        let (reader, writer) = std::io::pipe().map_err(Failure::failed)?;
        let errors = writer.try_clone().map_err(Failure::failed)?;
        let spawned = self
            .command
            .current_dir(source)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors)
            .spawn();
        let mut child = spawned.map_err(|error| {
            let program = self.command.get_program().display().to_string();
            Failure::host(format!("{what}: {program} cannot be run: {error}"))
        })?;
        // Its ends of the pipe, without which reading would never end.
        drop(self.command);
        let mut lines = Vec::new();
        // Bounded, whatever a step has to say.
        for line in BufReader::new(reader.take(16 << 20)).lines() {
            let Ok(line) = line else { break };
            bar.set_message(format!("{what}: {line}"));
            if lines.len() == TOLD_LINES {
                lines.remove(0);
            }
            lines.push(line);
        }
        let status = child.wait().map_err(Failure::failed)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(LACKS) => Err(Failure::host(format!("{what}: {}", lines.join("\n")))),
            _ => Err(failed(format!("{status}\n{}", lines.join("\n")))),
        }
    }
}

/// Copies the kernel, unpacked if that could be done; returns its name.
fn copy_kernel(source: &Path, series: &str, folder: &Path) -> Result<&'static str, Failure> {
    let cache = source.join("tests/.cache/linux").join(series);
    let names = ["vmlinux", "vmlinuz"];
    let name = names.into_iter().find(|name| cache.join(name).exists());
    let name = name.ok_or_else(|| Failure::failed(format!("no kernel in {}", cache.display())))?;
    let to = folder.join(name);
    fs::copy(cache.join(name), &to).map_err(|error| cannot("write", &to, &error))?;
    Ok(name)
}

/// A file that runs it.
fn describe(kernel: &str) -> String {
    format!(
        "# Made by `byway image`; the keys are in vmm/README.md.\n\
         [[vm]]\nname = \"guest\"\nkernel = \"{kernel}\"\ninitrd = \"initramfs.img\"\n\
         cmdline = \"console=ttyS0 guest.shell=1\"\nmemory = \"512M\"\ncpus = 2\nserial = \"terminal\"\nrng = true\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    #[test]
    fn the_file_that_is_written_has_no_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vmlinux", "initramfs.img"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let text = describe("vmlinux");
        let config = RunConfig::parse(&folder.path().join("guest.toml"), &text).unwrap();
        assert_eq!(config.vms[0].vm.cpus, 2);
    }

    #[test]
    fn steps_say_what_went_wrong() {
        let here = tempfile::tempdir().unwrap();
        let bar = ProgressBar::hidden();
        let run = |script: &str| {
            let step = step("work", Path::new("sh")).args(["-c", script]);
            step.carry_out(here.path(), &bar)
        };
        run("echo fine; true").unwrap();
        let error = run("echo first; echo last >&2; exit 1").unwrap_err();
        assert!(matches!(error, Failure::Failed(_)));
        let text = error.to_string();
        assert!(
            text.starts_with("work: ") && text.contains("last"),
            "{text}"
        );
        let lacks = run("echo no apt; exit 3").unwrap_err();
        assert_eq!(
            (lacks.code(), lacks.to_string()),
            (3, "work: no apt".to_owned())
        );
        let absent = step("work", Path::new("/no/program")).carry_out(here.path(), &bar);
        assert_eq!(absent.unwrap_err().code(), 3);
    }

    #[test]
    fn outside_a_checkout_it_is_said_what_is_missing() {
        let here = tempfile::tempdir().unwrap();
        let error = checkout(Some(here.path())).unwrap_err();
        assert_eq!(error.code(), 2);
        fs::create_dir_all(here.path().join("tests/lib")).unwrap();
        fs::write(here.path().join("tests/lib/linux-images"), "").unwrap();
        let inside = here.path().join("tests");
        let found = checkout(Some(&inside)).unwrap();
        assert_eq!(found, fs::canonicalize(here.path()).unwrap());
    }
}
