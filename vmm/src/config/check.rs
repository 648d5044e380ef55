//! Checks a file's values and turns them into what the rest of the program uses.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use byway_engine::EngineConfig;
use byway_engine::interface::{Action, EndpointConfig, EndpointGrant, LinkPolicy, Quotas};
use toml::Spanned;

use super::devices::{Claims, devices};
use super::file::{EndpointTable, EngineTable, FileConfig, LinkTable, QuotaTable, VmTable};
use super::{
    ByteSize, ConfigError, DaemonConfig, DomainEntry, EngineSettings, Name, RunConfig, SPIN_US_MAX,
    VMS_MAX, VmEntry, WORKERS_MAX,
};
use crate::devices::block::DiskStore;
use crate::devices::byway::DEFAULT_DEVICE_ID;
use crate::devices::serial::SerialSink;
use crate::guest::{GUEST_MAILBOX_BYTES, guest_image};
use crate::layout::{COMMAND_LINE_MAX, LARGE_PAGE_SIZE, PAGE_SIZE};
use crate::loader::KernelSource;
use crate::memory::{HugePages, RAM_MAX, RAM_MIN, RamConfig};
use crate::vm::{CPUS_MAX, VmConfig};

/// No domain of a daemon can have this name.
const OPERATOR: &str = "admin";
/// Name of the built-in image in `image = "..."`.
const BUILT_IN: &str = "byway-guest";
/// Least RAM for the built-in image: its own, the mailbox and something to work with.
const BUILT_IN_RAM_MIN: u64 = 64 << 20;
/// Highest virtio device id.
const DEVICE_ID_MAX: u64 = 0xffff;

/// Where a mistake would be reported.
pub(super) struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text }
    }

    pub(super) fn wrong(
        &self,
        span: Range<usize>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> ConfigError {
        ConfigError::at(self.path, self.text, span, what, help)
    }

    /// A path in the file, which is relative to the file.
    pub(super) fn relative(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// A path in the file. It must be that of a file.
    fn file(&self, value: &Spanned<String>) -> Result<PathBuf, ConfigError> {
        let path = self.relative(value.get_ref());
        let wrong = match path.metadata() {
            Ok(found) if found.is_file() => return Ok(path),
            Ok(_) => format!("{} is not a regular file", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                format!("there is no file {}", path.display())
            }
            Err(error) => format!("cannot look at {}: {error}", path.display()),
        };
        Err(self.wrong(
            value.span(),
            wrong,
            "give the path of a file that exists; paths in a file are relative to it",
        ))
    }

    pub(super) fn number(
        &self,
        value: &Spanned<u64>,
        range: RangeInclusive<u64>,
        what: &str,
    ) -> Result<u64, ConfigError> {
        let number = *value.get_ref();
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.wrong(
            value.span(),
            format!("{number} {what}"),
            format!("use {} to {}", range.start(), range.end()),
        ))
    }

    /// Host CPUs to run threads on: none, or one for each of `threads`; each there.
    fn pins(
        &self,
        value: Option<Spanned<Vec<usize>>>,
        threads: usize,
    ) -> Result<Vec<usize>, ConfigError> {
        let Some(value) = value else {
            return Ok(Vec::new());
        };
        let span = value.span();
        let pins = value.into_inner();
        if !pins.is_empty() && pins.len() != threads {
            return Err(self.wrong(
                span,
                format!("{} host CPUs for {threads} threads", pins.len()),
                format!("list {threads}, one for each; the same may serve several"),
            ));
        }
        let cpus = host_cpus();
        if let Some(cpu) = pins.iter().find(|cpu| **cpu >= cpus) {
            return Err(self.wrong(
                span,
                format!("this host has no CPU {cpu}"),
                format!("use 0 to {}", cpus - 1),
            ));
        }
        Ok(pins)
    }
}

pub(super) fn check(path: &Path, text: &str, file: FileConfig) -> Result<RunConfig, ConfigError> {
    let place = Place { path, text };
    if let Some(domain) = file.domain.first() {
        return Err(place.wrong(
            domain.span(),
            "[[domain]] is for `byway engine`",
            "VMs are [[vm]] tables; each has its domain and [vm.quotas]",
        ));
    }
    if file.vm.is_empty() {
        return Err(ConfigError::whole(
            path,
            "there is no VM in it",
            "add a [[vm]] table with name, memory and kernel or image",
        ));
    }
    if let Some(one_more) = file.vm.get(VMS_MAX) {
        return Err(place.wrong(
            one_more.span(),
            format!("more than {VMS_MAX} VMs"),
            "split the file",
        ));
    }
    let engine = engine(&place, file.engine)?;
    let mut vms: Vec<VmEntry> = Vec::with_capacity(file.vm.len());
    let mut names = Names::new("VM");
    let mut claims = Claims::default();
    let mut terminal: Option<String> = None;
    for table in file.vm {
        let name = table.get_ref().name.clone();
        let serial = table.get_ref().serial.as_ref().map(Spanned::span);
        let entry = vm(&place, table, &mut claims)?;
        names.add(&place, &name)?;
        if entry.vm.serial == SerialSink::Terminal
            && let Some(other) = terminal.replace(entry.vm.name.clone())
        {
            return Err(place.wrong(
                serial.unwrap_or(name.span()),
                format!("{other:?} has the terminal already"),
                "use \"stdout\", which puts the VM's name before each line, or \"file:PATH\"",
            ));
        }
        vms.push(entry);
    }
    let links = links(&place, file.link, &names)?;
    let endpoints = endpoints(&place, file.endpoint, &names)?;
    Ok(RunConfig {
        engine,
        vms,
        links,
        endpoints,
    })
}

pub(super) fn check_daemon(
    path: &Path,
    text: &str,
    file: FileConfig,
) -> Result<DaemonConfig, ConfigError> {
    let place = Place { path, text };
    if let Some(vm) = file.vm.first() {
        return Err(place.wrong(
            vm.span(),
            "[[vm]] is for `byway run`, which attaches to this engine with --engine",
            "name the VMs' domains here, in [[domain]] tables with name and quotas",
        ));
    }
    if let Some(one_more) = file.domain.get(VMS_MAX) {
        return Err(place.wrong(
            one_more.span(),
            format!("more than {VMS_MAX} domains"),
            "start another engine for the others",
        ));
    }
    let engine = engine(&place, file.engine)?;
    let mut domains = Vec::with_capacity(file.domain.len());
    let mut names = Names::new("domain");
    for table in file.domain {
        let table = table.into_inner();
        let span = table.name.span();
        if table.name.get_ref() == OPERATOR {
            return Err(place.wrong(
                span,
                format!("{OPERATOR:?} is the name of the operator's socket"),
                "choose another name",
            ));
        }
        domains.push(DomainEntry {
            name: name(&place, &table.name)?,
            uid: table.uid,
            quotas: quotas(&place, &table.quotas, span)?,
        });
        names.add(&place, &table.name)?;
    }
    let links = links(&place, file.link, &names)?;
    let endpoints = endpoints(&place, file.endpoint, &names)?;
    Ok(DaemonConfig {
        engine,
        domains,
        links,
        endpoints,
    })
}

/// Names of what a file declares, each once.
struct Names {
    /// What they are names of.
    what: &'static str,
    list: Vec<String>,
    lines: HashMap<String, usize>,
}

impl Names {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            list: Vec::new(),
            lines: HashMap::new(),
        }
    }

    fn add(&mut self, place: &Place<'_>, name: &Spanned<String>) -> Result<(), ConfigError> {
        let what = self.what;
        let line = place.text[..name.span().start].matches('\n').count() + 1;
        let name_of = name.get_ref().clone();
        if let Some(first) = self.lines.insert(name_of.clone(), line) {
            return Err(place.wrong(
                name.span(),
                format!("{name_of:?} is the name of another {what}, in line {first}"),
                format!("give each {what} a name of its own"),
            ));
        }
        self.list.push(name_of);
        Ok(())
    }
}

fn engine(place: &Place<'_>, table: EngineTable) -> Result<EngineSettings, ConfigError> {
    let workers = table
        .workers
        .map(|value| place.number(&value, 1..=WORKERS_MAX, "workers"))
        .transpose()?
        .map(|workers| workers as u32);
    let spin_us = table
        .spin_us
        .map(|value| place.number(&value, 0..=SPIN_US_MAX, "microseconds of spinning"))
        .transpose()?
        .map(|spin| spin as u32);
    let answer = 1..=EngineConfig::PAGE_RESPONSE_MS_MAX.into();
    let page_response_ms = table
        .page_response_ms
        .map(|value| place.number(&value, answer, "milliseconds to answer a page request"))
        .transpose()?
        .map(|response| response as u32);
    Ok(EngineSettings {
        workers,
        pin: place.pins(table.pin, workers.unwrap_or(1) as usize)?,
        spin_us,
        page_response_ms,
        backend: table.backend,
    })
}

pub(super) fn vm(
    place: &Place<'_>,
    table: Spanned<VmTable>,
    claims: &mut Claims,
) -> Result<VmEntry, ConfigError> {
    let span = table.span();
    let table = table.into_inner();
    let name = name(place, &table.name)?;
    let cpus = match &table.cpus {
        Some(value) => place.number(value, 1..=CPUS_MAX.into(), "vCPUs")? as u8,
        None => 1,
    };
    let (kernel, built_in) = kernel(place, span, &table)?;
    let ram = memory(place, &table, built_in)?;
    if table.cmdline.len() >= COMMAND_LINE_MAX {
        return Err(place.wrong(
            table.name.span(),
            format!(
                "the command line of {name:?} has {} bytes",
                table.cmdline.len()
            ),
            format!("use at most {}", COMMAND_LINE_MAX - 1),
        ));
    }
    let serial = serial(place, table.serial.as_ref(), &name)?;
    let device_id = match &table.device_id {
        Some(value) => place.number(value, 1..=DEVICE_ID_MAX, "as a virtio device id")? as u32,
        None => DEFAULT_DEVICE_ID,
    };
    let devices = devices(place, &table, claims)?;
    let quotas = quotas(place, &table.quotas, table.name.span())?;
    let initrd = table
        .initrd
        .as_ref()
        .map(|path| place.file(path))
        .transpose()?;
    Ok(VmEntry {
        vm: VmConfig {
            name,
            kernel,
            initrd,
            cmdline: table.cmdline,
            ram,
            cpus,
            cpu: table.cpu_template,
            pin: place.pins(table.pin, cpus.into())?,
            serial,
            device_id,
            devices,
            disks: DiskStore::default(),
            mailbox_bytes: if built_in { GUEST_MAILBOX_BYTES } else { 0 },
        },
        quotas,
    })
}

/// The quotas, within the engine's bounds. `vm` is where to point without a better place.
fn quotas(place: &Place<'_>, table: &QuotaTable, vm: Range<usize>) -> Result<Quotas, ConfigError> {
    let quotas = table.quotas();
    quotas.check().map_err(|wrong| {
        place.wrong(
            table.place(wrong.name).unwrap_or(vm),
            format!("{} as quota {}", wrong.value, wrong.name),
            format!("use {}", wrong.expected),
        )
    })?;
    Ok(quotas)
}

fn name(place: &Place<'_>, value: &Spanned<String>) -> Result<String, ConfigError> {
    let name = value.get_ref();
    name.parse()
        .map(|Name(name)| name)
        .map_err(|help: String| place.wrong(value.span(), format!("{name:?} is not a name"), help))
}

/// The kernel, and whether it is the built-in image.
fn kernel(
    place: &Place<'_>,
    span: Range<usize>,
    table: &VmTable,
) -> Result<(KernelSource, bool), ConfigError> {
    match (&table.kernel, &table.image) {
        (Some(path), None) => Ok((KernelSource::File(place.file(path)?), false)),
        (None, Some(image)) if image.get_ref() == BUILT_IN => {
            Ok((KernelSource::Image(guest_image()), true))
        }
        (None, Some(image)) => Err(place.wrong(
            image.span(),
            format!("there is no built-in image {:?}", image.get_ref()),
            format!("use image = {BUILT_IN:?}, or kernel = \"path\" for a file"),
        )),
        (Some(_), Some(image)) => Err(place.wrong(
            image.span(),
            "both kernel and image are given",
            "keep one of them",
        )),
        (None, None) => Err(place.wrong(
            span,
            format!("VM {:?} has no kernel", table.name.get_ref()),
            format!("add kernel = \"path\" or image = {BUILT_IN:?}"),
        )),
    }
}

fn memory(place: &Place<'_>, table: &VmTable, built_in: bool) -> Result<RamConfig, ConfigError> {
    let size = table.memory.get_ref().0;
    let multiple = if table.hugepages == HugePages::Hugetlb || built_in {
        LARGE_PAGE_SIZE
    } else {
        PAGE_SIZE
    };
    let least = if built_in { BUILT_IN_RAM_MIN } else { RAM_MIN };
    if !(least..=RAM_MAX).contains(&size) || !size.is_multiple_of(multiple) {
        return Err(place.wrong(
            table.memory.span(),
            format!("{} of memory", table.memory.get_ref()),
            format!(
                "use a multiple of {} from {} to {}",
                ByteSize(multiple),
                ByteSize(least),
                ByteSize(RAM_MAX)
            ),
        ));
    }
    Ok(RamConfig {
        size,
        huge_pages: table.hugepages,
        populate: table.populate,
    })
}

fn serial(
    place: &Place<'_>,
    value: Option<&Spanned<String>>,
    name: &str,
) -> Result<SerialSink, ConfigError> {
    let stdout = SerialSink::Stdout {
        prefix: name.to_owned(),
    };
    let Some(value) = value else {
        return Ok(stdout);
    };
    match value.get_ref().as_str() {
        "stdout" => Ok(stdout),
        "terminal" => Ok(SerialSink::Terminal),
        "off" => Ok(SerialSink::Discard),
        other => match other.strip_prefix("file:").filter(|path| !path.is_empty()) {
            Some(path) => {
                let path = place.relative(path);
                if let Some(reason) = cannot_be_a_file(&path) {
                    return Err(place.wrong(
                        value.span(),
                        format!(
                            "the console cannot be written to {}: {reason}",
                            path.display()
                        ),
                        "give the path of a file in a folder that exists, relative to this one",
                    ));
                }
                Ok(SerialSink::File(path))
            }
            None => Err(place.wrong(
                value.span(),
                format!("{other:?} is not a place for the console"),
                "use \"stdout\", \"terminal\", \"off\" or \"file:PATH\"",
            )),
        },
    }
}

/// Why no file can be made at `path`, as far as looking tells.
fn cannot_be_a_file(path: &Path) -> Option<&'static str> {
    // A lone name lies in the current folder, whose path is then empty.
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    if path.is_dir() {
        Some("it is a folder")
    } else if !folder.is_none_or(Path::is_dir) {
        Some("its folder does not exist")
    } else {
        None
    }
}

fn links(
    place: &Place<'_>,
    tables: Vec<Spanned<LinkTable>>,
    names: &Names,
) -> Result<Vec<LinkPolicy>, ConfigError> {
    let mut seen = HashSet::new();
    let mut links = Vec::with_capacity(tables.len());
    for table in tables {
        let span = table.span();
        let table = table.into_inner();
        for end in [&table.from, &table.to] {
            if !names.list.contains(end.get_ref()) {
                return Err(place.wrong(
                    end.span(),
                    format!("there is no {} {:?}", names.what, end.get_ref()),
                    format!("use one of {}", names.list.join(", ")),
                ));
            }
        }
        let (from, to) = (table.from.into_inner(), table.to.into_inner());
        if from == to {
            return Err(place.wrong(
                span,
                format!("a link from {from:?} to itself"),
                "a domain reaches its own memory without a link; remove it",
            ));
        }
        if !table.read && !table.write && !table.keys {
            return Err(place.wrong(
                span,
                format!("the link from {from:?} to {to:?} permits nothing"),
                "add read, write or keys = true, or remove it",
            ));
        }
        if !seen.insert((from.clone(), to.clone())) {
            return Err(place.wrong(
                span,
                format!("a second link from {from:?} to {to:?}"),
                "merge it with the first; the other direction is a link of its own",
            ));
        }
        links.push(LinkPolicy {
            from,
            to,
            read: table.read,
            write: table.write,
            grant: table.grant,
            keys: table.keys,
            max_bytes: table.max_bytes.0,
        });
    }
    Ok(links)
}

/// As `byway endpoint attach` would say it, so that either can attach again what the other has.
fn whole(path: PathBuf) -> PathBuf {
    // None for an empty path, which nothing can be at either.
    std::path::absolute(&path).unwrap_or(path)
}

/// Endpoints, each followed by what is granted of it.
fn endpoints(
    place: &Place<'_>,
    tables: Vec<Spanned<EndpointTable>>,
    names: &Names,
) -> Result<Vec<Action>, ConfigError> {
    let mut actions = Vec::new();
    let mut known = Names::new("endpoint");
    for table in tables {
        let table = table.into_inner();
        let endpoint = name(place, &table.name)?;
        known.add(place, &table.name)?;
        let (least, most) = EndpointConfig::TIMEOUT_MS.into_inner();
        let timeouts = least.into()..=most.into();
        let timeout_ms = table
            .timeout_ms
            .map(|value| place.number(&value, timeouts, "milliseconds for a device"))
            .transpose()?
            .map_or(EndpointConfig::TIMEOUT_MS_DEFAULT, |value| value as u32);
        actions.push(Action::AttachEndpoint(EndpointConfig {
            name: endpoint.clone(),
            kind: table.kind,
            path: whole(place.relative(table.path.get_ref())),
            read_only: table.read_only,
            timeout_ms,
        }));
        for grant in table.grant {
            let span = grant.span();
            let grant = grant.into_inner();
            if !names.list.contains(grant.domain.get_ref()) {
                return Err(place.wrong(
                    grant.domain.span(),
                    format!("there is no {} {:?}", names.what, grant.domain.get_ref()),
                    format!("use one of {}", names.list.join(", ")),
                ));
            }
            let trusted = grant.trusted.filter(|trusted| *trusted.get_ref());
            if let Some(trusted) = &trusted
                && timeout_ms > TRUSTED_TIMEOUT_MS_MAX
            {
                return Err(place.wrong(
                    trusted.span(),
                    format!("trusted = true, but timeout_ms of {endpoint:?} is {timeout_ms}"),
                    format!(
                        "set it to {TRUSTED_TIMEOUT_MS_MAX} at most: revocations and resets wait \
                         as long for a device that does not answer"
                    ),
                ));
            }
            if !grant.read && !grant.write && trusted.is_none() {
                return Err(place.wrong(
                    span,
                    format!("the grant of {endpoint:?} permits nothing"),
                    "add read, write or trusted = true, or remove it",
                ));
            }
            actions.push(Action::GrantEndpoint(EndpointGrant {
                endpoint: endpoint.clone(),
                domain: grant.domain.into_inner(),
                first: grant.first.0,
                bytes: grant.bytes.0,
                read: grant.read,
                write: grant.write,
                trusted: trusted.is_some(),
            }));
        }
    }
    Ok(actions)
}

/// Most that a device may take for a request that is trusted with memory; the engine refuses more.
const TRUSTED_TIMEOUT_MS_MAX: u32 = 10_000;

/// CPUs of this host, by the kernel's count of those it could have.
fn host_cpus() -> usize {
    // SAFETY: takes a constant and touches no memory of ours.
    let configured = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    usize::try_from(configured)
        .ok()
        .filter(|cpus| *cpus > 0)
        .or_else(|| available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}
