//! A VM that is described on the command line, checked as one of a file is. Mistakes point into the options as they
//! could have been typed.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::check::{self, Place};
use super::devices::{Claims, check_devices};
use super::file::{QuotaTable, VmTable};
use super::{ConfigError, EngineSettings, RunConfig};
use crate::devices::settings::{DeviceSettings, RngSettings};
use crate::memory::HugePages;
use crate::run::VmOptions;

/// What stands in a mistake's place for the name of a file.
pub const COMMAND_LINE_PATH: &str = "command line";

/// The options, as text to point into.
#[derive(Debug, Default)]
struct Line(String);

impl Line {
    /// Adds an option; the value's place is in it.
    fn option<T>(&mut self, name: &str, text: &str, value: T) -> Spanned<T> {
        let space = if self.0.is_empty() { "" } else { " " };
        self.0.push_str(&format!("{space}--{name} "));
        Spanned::new(self.add(text), value)
    }

    fn add(&mut self, text: &str) -> Range<usize> {
        let start = self.0.len();
        self.0.push_str(text);
        start..self.0.len()
    }
}

pub(super) fn check(options: &VmOptions) -> Result<RunConfig, ConfigError> {
    let mut line = Line::default();
    let mut file = |name: &str, path: &Option<String>| {
        path.as_ref()
            .map(|path| line.option(name, path, path.clone()))
    };
    let (kernel, initrd) = (
        file("kernel", &options.kernel),
        file("initrd", &options.initrd),
    );
    let table = VmTable {
        name: line.option("name", &options.name, options.name.clone()),
        kernel,
        image: None,
        initrd,
        cmdline: options.cmdline.clone(),
        memory: line.option("memory", &options.memory.to_string(), options.memory),
        cpus: Some(line.option("cpus", &options.cpus.to_string(), options.cpus.into())),
        cpu_template: options.cpu_template,
        pin: None,
        hugepages: HugePages::default(),
        populate: false,
        serial: Some(line.option("serial", &options.serial, options.serial.clone())),
        device_id: None,
        // These come as they are, below.
        disks: Vec::new(),
        spare_disks: None,
        nets: Vec::new(),
        rng: false,
        rng_bytes_per_s: None,
        nvmes: Vec::new(),
        quotas: QuotaTable::default(),
    };
    let path = Path::new(COMMAND_LINE_PATH);
    let place = Place::new(path, &line.0);
    let whole = Spanned::new(0..line.0.len(), table);
    let mut entry = check::vm(&place, whole, &mut Claims::default())?;
    entry.vm.devices = devices(options);
    check_devices([(options.name.as_str(), &entry.vm.devices)])
        .map_err(|wrong| ConfigError::whole(path, wrong, ""))?;
    Ok(RunConfig {
        engine: EngineSettings::default(),
        vms: vec![entry],
        links: Vec::new(),
        endpoints: Vec::new(),
    })
}

fn devices(options: &VmOptions) -> DeviceSettings {
    DeviceSettings {
        disks: options.disks.clone(),
        nets: options.nets.clone(),
        rng: options.rng.then(RngSettings::default),
        nvmes: options.nvmes.clone(),
        ..DeviceSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::serial::SerialSink;
    use crate::vcpu::Template;
    use clap::Parser;

    fn options(arguments: &[&str]) -> VmOptions {
        let all = ["run", "--kernel", "/proc/self/exe"].iter();
        let args = crate::run::Args::try_parse_from(all.chain(arguments));
        args.unwrap().vm
    }

    #[test]
    fn options_become_a_vm() {
        let config = check(&options(&[
            "--memory",
            "1G",
            "--cpus",
            "2",
            "--cpu-template",
            "pvm",
            "--rng",
            "--name",
            "debian",
        ]))
        .unwrap();
        let vm = &config.vms[0].vm;
        assert_eq!((vm.ram.size, vm.cpus, vm.cpu), (1 << 30, 2, Template::Pvm));
        assert_eq!(vm.serial, SerialSink::Terminal);
        assert_eq!((&vm.name[..], &vm.cmdline[..]), ("debian", "console=ttyS0"));
        assert!(vm.devices.rng.is_some() && vm.initrd.is_none());
    }

    #[test]
    fn mistakes_point_into_the_options() {
        for (arguments, column, what) in [
            (
                &["--kernel", "/no/vmlinuz"][..],
                10,
                "there is no file /no/vmlinuz",
            ),
            (&["--initrd", "/proc"], 34, "not a regular file"),
            (&["--name", "A"], 32, "is not a name"),
            (&["--memory", "1M"], 44, "1M of memory"),
            (&["--cpus", "0"], 56, "0 vCPUs"),
            (&["--serial", "modem"], 67, "not a place for the console"),
        ] {
            let mut options = options(&[]);
            match arguments {
                ["--kernel", path] => options.kernel = Some((*path).to_owned()),
                _ => options = self::options(arguments),
            }
            let error = check(&options).unwrap_err();
            assert_eq!(error.place, Some((1, column)), "{error}");
            assert!(error.what.contains(what), "{error}");
        }
        let error = check(&options(&["--disk", "/no/disk"])).unwrap_err();
        assert!(
            error.to_string().contains("there is no file /no/disk"),
            "{error}"
        );
        let error = check(&options(&["--nvme", "/no/nvme,readonly"])).unwrap_err();
        assert!(
            error.to_string().contains("there is no file /no/nvme"),
            "{error}"
        );
    }
}
