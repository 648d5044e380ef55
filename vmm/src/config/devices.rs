//! Disks, NVMe controllers, network interfaces and the source of random numbers: as tables of `vms.toml` and as the
//! comma lists of the command line, with the same checks.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;

use super::ConfigError;
use super::check::Place;
use super::file::{DiskTable, NetTable, VmTable};
use crate::devices::nvme::NVMES_MAX;
use crate::devices::settings::{
    DEVICES_MAX, DeviceSettings, DiskSettings, DiskWrites, Mac, NetSettings, NvmeSettings,
    RNG_BYTES_PER_S, RngSettings, TapSource,
};

/// Bytes of a sector, the unit of a disk's size.
const SECTOR: u64 = 512;
/// Most bytes of an interface's name (the host kernel's IFNAMSIZ, without its NUL).
const TAP_NAME_MAX: usize = 15;
/// Most empty disks to put disks into.
const SPARE_DISKS_MAX: u64 = 8;

/// What is wrong with a value, and what to do about it; where it is, the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    what: String,
    help: String,
}

impl Mistake {
    fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: help.into(),
        }
    }

    fn at(self, place: &Place<'_>, span: Range<usize>) -> ConfigError {
        place.wrong(span, self.what, self.help)
    }
}

impl From<Mistake> for String {
    fn from(Mistake { what, help }: Mistake) -> Self {
        format!("{what}; {help}")
    }
}

/// What more than one VM, or more than one device, would want for itself.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Files that are written, with who writes them.
    written: HashMap<PathBuf, String>,
    /// Files that are read only, likewise.
    read: HashMap<PathBuf, String>,
    taps: HashMap<TapSource, String>,
    macs: HashMap<Mac, String>,
}

impl Claims {
    fn file(&mut self, path: &Path, writes: bool, owner: &str) -> Result<(), Mistake> {
        // Two names of one file are the same file.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let other = self.written.get(&path);
        let other = other.or_else(|| self.read.get(&path).filter(|_| writes));
        if let Some(other) = other {
            return Err(Mistake::new(
                format!("{} is in use already, by {other}", path.display()),
                "give each its own file, or all of them overlay or readonly",
            ));
        }
        let claims = if writes {
            &mut self.written
        } else {
            &mut self.read
        };
        claims.insert(path, owner.to_owned());
        Ok(())
    }

    fn disk(&mut self, disk: &DiskSettings, owner: &str) -> Result<(), Mistake> {
        check_disk(disk)?;
        self.file(&disk.path, disk.writes == DiskWrites::Through, owner)?;
        if let DiskWrites::KeptOverlay(path) = &disk.writes {
            self.file(path, true, owner)?;
        }
        Ok(())
    }

    fn net(&mut self, net: &NetSettings, owner: &str) -> Result<(), Mistake> {
        check_tap(&net.tap)?;
        if let Some(other) = self.taps.insert(net.tap.clone(), owner.to_owned()) {
            return Err(Mistake::new(
                format!("TAP interface {} is in use already, by {other}", net.tap),
                "give each network interface a TAP interface of its own, and bridge them on the host",
            ));
        }
        if let Some(mac) = net.mac
            && let Some(other) = self.macs.insert(mac, owner.to_owned())
        {
            return Err(Mistake::new(
                format!("{mac} is the address of another interface, of {other}"),
                "choose another address, or leave mac out",
            ));
        }
        Ok(())
    }
}

/// Checks the devices of VMs that were described on the command line.
///
/// # Errors
/// What is wrong with the first that cannot be, and what to do about it.
pub fn check_devices<'a>(
    vms: impl IntoIterator<Item = (&'a str, &'a DeviceSettings)>,
) -> Result<(), String> {
    let mut claims = Claims::default();
    for (name, devices) in vms {
        let owner = format!("VM {name:?}");
        for disk in &devices.disks {
            claims.disk(disk, &owner)?;
        }
        for net in &devices.nets {
            claims.net(net, &owner)?;
        }
        for nvme in &devices.nvmes {
            claims.disk(&nvme.disk(), &owner)?;
        }
        check_counts(devices)?;
    }
    Ok(())
}

fn check_counts(devices: &DeviceSettings) -> Result<(), Mistake> {
    let count = devices.count();
    if count > DEVICES_MAX {
        return Err(Mistake::new(
            format!("{count} devices"),
            format!("use at most {DEVICES_MAX} disks, spare disks, nets and rng together"),
        ));
    }
    let nvmes = devices.nvmes.len();
    if nvmes > NVMES_MAX {
        return Err(Mistake::new(
            format!("{nvmes} NVMe controllers"),
            format!("use at most {NVMES_MAX}"),
        ));
    }
    Ok(())
}

/// The devices of a `[[vm]]` table.
pub(super) fn devices(
    place: &Place<'_>,
    table: &VmTable,
    claims: &mut Claims,
) -> Result<DeviceSettings, ConfigError> {
    let owner = format!("VM {:?}", table.name.get_ref());
    let mut devices = DeviceSettings::default();
    for table in &table.disks {
        let disk = disk(place, table.get_ref())?;
        let claimed = claims.disk(&disk, &owner);
        claimed.map_err(|mistake| mistake.at(place, table.get_ref().path.span()))?;
        devices.disks.push(disk);
    }
    for table in &table.nets {
        let net = net(place, table)?;
        let claimed = claims.net(&net, &owner);
        claimed.map_err(|mistake| mistake.at(place, table.span()))?;
        devices.nets.push(net);
    }
    if let Some(spare) = &table.spare_disks {
        let spare = place.number(spare, 0..=SPARE_DISKS_MAX, "spare disks")?;
        devices.spare_disks = spare as u8;
    }
    let rate = table.rng_bytes_per_s.as_ref();
    let bytes_per_s = rate
        .map(|rate| place.number(rate, 1..=1 << 30, "random bytes a second"))
        .transpose()?;
    if table.rng {
        let bytes_per_s = bytes_per_s.unwrap_or(RNG_BYTES_PER_S);
        devices.rng = Some(RngSettings { bytes_per_s });
    } else if let Some(rate) = rate {
        return Err(place.wrong(
            rate.span(),
            "rng_bytes_per_s without rng = true",
            "add rng = true to this VM, or remove the rate",
        ));
    }
    for table in &table.nvmes {
        let span = table.get_ref().path.span();
        let nvme = NvmeSettings {
            path: place.relative(table.get_ref().path.get_ref()),
            readonly: table.get_ref().readonly,
        };
        let claimed = claims.disk(&nvme.disk(), &owner);
        claimed.map_err(|mistake| mistake.at(place, span))?;
        devices.nvmes.push(nvme);
    }
    check_counts(&devices).map_err(|mistake| mistake.at(place, table.name.span()))?;
    Ok(devices)
}

fn disk(place: &Place<'_>, table: &DiskTable) -> Result<DiskSettings, ConfigError> {
    let overlay_file = table.overlay_file.as_ref();
    let kept = overlay_file.map(|path| place.relative(path.get_ref()));
    let overlay = table.overlay || kept.is_some();
    let writes = disk_writes(table.readonly, overlay, kept);
    Ok(DiskSettings {
        path: place.relative(table.path.get_ref()),
        writes: writes.map_err(|mistake| mistake.at(place, table.path.span()))?,
    })
}

fn disk_writes(
    readonly: bool,
    overlay: bool,
    kept: Option<PathBuf>,
) -> Result<DiskWrites, Mistake> {
    match (readonly, overlay, kept) {
        (true, true, _) => Err(Mistake::new(
            "a disk with readonly and an overlay",
            "keep readonly for a disk that refuses writes, or the overlay for one that keeps them apart",
        )),
        (true, false, _) => Ok(DiskWrites::Refused),
        (false, _, Some(path)) => Ok(DiskWrites::KeptOverlay(path)),
        (false, true, None) => Ok(DiskWrites::Overlay),
        (false, false, None) => Ok(DiskWrites::Through),
    }
}

/// Whether the file could be a disk, as far as can be told without keeping it open.
fn check_disk(disk: &DiskSettings) -> Result<(), Mistake> {
    let path = &disk.path;
    let writes = disk.writes == DiskWrites::Through;
    let unusable = |error: &io::Error| match error.kind() {
        ErrorKind::NotFound => Mistake::new(
            format!("there is no file {}", path.display()),
            "give the path of a raw disk image or block device that exists",
        ),
        ErrorKind::PermissionDenied if writes => Mistake::new(
            format!("{} cannot be opened for writing: {error}", path.display()),
            "use readonly or overlay, or change who may write it",
        ),
        _ => Mistake::new(
            format!("cannot look at {}: {error}", path.display()),
            "give the path of a raw disk image or block device that can be read",
        ),
    };
    let kind = fs::metadata(path).map_err(|error| unusable(&error))?;
    if !kind.is_file() && !kind.file_type().is_block_device() {
        return Err(Mistake::new(
            format!("{} is neither a file nor a block device", path.display()),
            "give the path of a raw disk image or block device",
        ));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(writes)
        .open(path)
        .map_err(|error| unusable(&error))?;
    let bytes = file
        .seek(SeekFrom::End(0))
        .map_err(|error| unusable(&error))?;
    if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
        return Err(Mistake::new(
            format!("{} has {bytes} bytes", path.display()),
            format!(
                "a disk has a multiple of {SECTOR} bytes, not 0: `truncate -s 1G {}` makes one",
                path.display()
            ),
        ));
    }
    if let DiskWrites::KeptOverlay(overlay) = &disk.writes {
        check_overlay_place(overlay)?;
    }
    Ok(())
}

fn check_overlay_place(path: &Path) -> Result<(), Mistake> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let problem = if path.is_dir() {
        "it is a folder"
    } else if !folder.is_none_or(Path::is_dir) {
        "its folder does not exist"
    } else {
        return Ok(());
    };
    Err(Mistake::new(
        format!("the overlay cannot be {}: {problem}", path.display()),
        "give the path of a file in a folder that exists",
    ))
}

fn net(place: &Place<'_>, table: &Spanned<NetTable>) -> Result<NetSettings, ConfigError> {
    let NetTable { tap, fd, mac } = table.get_ref();
    let tap = match (tap, fd) {
        (Some(tap), None) => TapSource::Name(tap.get_ref().clone()),
        (None, Some(fd)) => TapSource::Fd(*fd.get_ref()),
        (None, None) => {
            return Err(place.wrong(
                table.span(),
                "a network interface without tap or fd",
                "add tap = \"NAME\", the name of a TAP interface of the host",
            ));
        }
        (Some(_), Some(fd)) => {
            return Err(place.wrong(fd.span(), "both tap and fd are given", "keep one of them"));
        }
    };
    let mac = mac
        .as_ref()
        .map(|mac| {
            let parsed = parse_mac(mac.get_ref());
            parsed.map_err(|mistake| mistake.at(place, mac.span()))
        })
        .transpose()?;
    Ok(NetSettings { tap, mac })
}

fn parse_mac(text: &str) -> Result<Mac, Mistake> {
    text.parse().map_err(|what: String| {
        Mistake::new(
            what,
            "use a unicast address such as \"02:00:00:00:00:01\", or leave mac out",
        )
    })
}

fn check_tap(tap: &TapSource) -> Result<(), Mistake> {
    match tap {
        TapSource::Name(name) => {
            let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b'%';
            let usable = !name.is_empty() && name.len() <= TAP_NAME_MAX && name.bytes().all(good);
            if usable && name != "." && name != ".." {
                return Ok(());
            }
            Err(Mistake::new(
                format!("{name:?} is not the name of an interface"),
                format!(
                    "use 1 to {TAP_NAME_MAX} letters, digits and the like; `ip tuntap` lists those there are"
                ),
            ))
        }
        TapSource::Fd(fd) if *fd > 2 => Ok(()),
        TapSource::Fd(fd) => Err(Mistake::new(
            format!("descriptor {fd} cannot be a TAP interface or a socket"),
            "use a descriptor above 2 that is open when byway starts",
        )),
    }
}

/// `PATH[,readonly][,overlay[=FILE]]`. A path with a comma in it goes into a file.
impl FromStr for DiskSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err("a disk without a path; use PATH[,readonly][,overlay[=FILE]]".to_owned());
        }
        let (mut readonly, mut overlay, mut kept) = (false, false, None);
        for part in parts {
            match part.split_once('=') {
                None if part == "readonly" && !readonly => readonly = true,
                None if part == "overlay" && !overlay => overlay = true,
                Some(("overlay", file)) if !overlay && !file.is_empty() => {
                    overlay = true;
                    kept = Some(file.into());
                }
                _ => {
                    return Err(format!(
                        "{part:?} is not an option of a disk, or is given twice; use \
                         PATH[,readonly][,overlay[=FILE]], and vms.toml for a path with a comma"
                    ));
                }
            }
        }
        Ok(Self {
            path: path.into(),
            writes: disk_writes(readonly, overlay, kept)?,
        })
    }
}

/// `PATH[,readonly]`. A path with a comma in it goes into a file.
impl FromStr for NvmeSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "use PATH[,readonly]";
        let mut parts = text.split(',');
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err(format!("an NVMe controller without a path; {FORM}"));
        }
        let mut readonly = false;
        for part in parts {
            if part != "readonly" || readonly {
                return Err(format!(
                    "{part:?} is not an option of an NVMe controller, or is given twice; {FORM}, --disk for an \
                     overlay, and vms.toml for a path with a comma"
                ));
            }
            readonly = true;
        }
        Ok(Self {
            path: path.into(),
            readonly,
        })
    }
}

/// `tap=NAME[,mac=ADDRESS]` or `fd=N[,mac=ADDRESS]`.
impl FromStr for NetSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "use tap=NAME[,mac=ADDRESS] or fd=N[,mac=ADDRESS]";
        let (mut tap, mut mac) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("tap", name)) if tap.is_none() => {
                    tap = Some(TapSource::Name(name.to_owned()));
                }
                Some(("fd", fd)) if tap.is_none() => {
                    let fd = fd.parse();
                    tap = Some(TapSource::Fd(fd.map_err(|_| {
                        format!("{part:?} does not name a descriptor; {FORM}")
                    })?));
                }
                Some(("mac", text)) if mac.is_none() => mac = Some(parse_mac(text)?),
                _ => {
                    return Err(format!(
                        "{part:?} is not an option of a network interface, or is one too many; {FORM}"
                    ));
                }
            }
        }
        let tap = tap.ok_or_else(|| format!("a network interface without tap or fd; {FORM}"))?;
        check_tap(&tap)?;
        Ok(Self { tap, mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_the_command_line_are_read() {
        for (text, writes) in [
            ("a.img", DiskWrites::Through),
            ("a.img,readonly", DiskWrites::Refused),
            ("a.img,overlay", DiskWrites::Overlay),
            ("a.img,overlay=b", DiskWrites::KeptOverlay("b".into())),
        ] {
            let disk: DiskSettings = text.parse().unwrap();
            assert_eq!((disk.path, disk.writes), ("a.img".into(), writes), "{text}");
        }
        for (text, what) in [
            ("", "without a path"),
            (",readonly", "without a path"),
            ("a,ro", "\"ro\" is not an option"),
            ("a,readonly,readonly", "twice"),
            ("a,overlay,overlay=b", "twice"),
            ("a,overlay=", "not an option"),
            ("a,readonly,overlay", "keep readonly"),
            ("a,readonly=yes", "not an option"),
        ] {
            let error = text.parse::<DiskSettings>().unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn nvmes_of_the_command_line_are_read() {
        for (text, readonly) in [("a.img", false), ("a.img,readonly", true)] {
            let nvme: NvmeSettings = text.parse().unwrap();
            assert_eq!((nvme.path, nvme.readonly), ("a.img".into(), readonly));
        }
        for (text, what) in [
            ("", "without a path"),
            (",readonly", "without a path"),
            ("a,ro", "\"ro\" is not an option"),
            ("a,readonly,readonly", "twice"),
            ("a,overlay", "--disk for an overlay"),
        ] {
            let error = text.parse::<NvmeSettings>().unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn interfaces_of_the_command_line_are_read() {
        let net: NetSettings = "tap=tap0,mac=02:00:00:00:00:07".parse().unwrap();
        assert_eq!(net.tap, TapSource::Name("tap0".to_owned()));
        assert_eq!(net.mac.unwrap().bytes()[5], 7);
        let net: NetSettings = "fd=7".parse().unwrap();
        assert_eq!((net.tap, net.mac), (TapSource::Fd(7), None));
        for (text, what) in [
            ("", "not an option"),
            ("tap0", "not an option"),
            ("mac=02:00:00:00:00:07", "without tap or fd"),
            ("tap=a,fd=5", "one too many"),
            ("tap=", "not the name of an interface"),
            ("tap=a/b", "not the name of an interface"),
            ("tap=a%d", "not the name of an interface"),
            ("tap=abcdefghijklmnop", "1 to 15"),
            ("fd=x", "does not name a descriptor"),
            ("fd=2", "above 2"),
            ("tap=a,mac=03:00:00:00:00:07", "multicast"),
            ("tap=a,mac=02:00", "six pairs"),
        ] {
            let error = text.parse::<NetSettings>().unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn what_two_would_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        fs::write(&path, [0; 1024]).unwrap();
        // The same file by another name.
        let same = folder.path().join(".").join("a.img");
        let with = |path: &Path, writes| DeviceSettings {
            disks: vec![DiskSettings {
                path: path.to_owned(),
                writes,
            }],
            ..DeviceSettings::default()
        };
        let pair = |one, other| {
            let (one, other) = (with(&path, one), with(&same, other));
            check_devices([("one", &one), ("other", &other)])
        };
        for safe in [DiskWrites::Refused, DiskWrites::Overlay] {
            pair(safe.clone(), DiskWrites::Overlay).unwrap();
            for (one, other) in [
                (safe.clone(), DiskWrites::Through),
                (DiskWrites::Through, safe.clone()),
            ] {
                let error = pair(one, other).unwrap_err();
                assert!(error.contains("in use already, by VM \"one\""), "{error}");
            }
        }
        let kept = DiskWrites::KeptOverlay(folder.path().join("o"));
        let error = pair(kept.clone(), kept).unwrap_err();
        assert!(error.contains("in use already"), "{error}");
    }

    /// A folder with a disk, and a file with two VMs: lines 1 to 5, and from 6 on.
    fn parse(alice: &str, bob: &str) -> Result<crate::config::RunConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.img"), [0; 4096]).unwrap();
        fs::write(folder.path().join("odd.img"), [0; 513]).unwrap();
        fs::write(folder.path().join("empty.img"), []).unwrap();
        let vm = |name: &str, keys: &str| {
            format!("[[vm]]\nname = {name:?}\nimage = \"byway-guest\"\nmemory = \"64M\"\n{keys}\n")
        };
        let text = vm("alice", alice) + &vm("bob", bob);
        crate::config::RunConfig::parse(&folder.path().join("vms.toml"), &text)
    }

    #[test]
    fn devices_of_a_file_are_read() {
        let config = parse(
            r#"disks = [{ path = "a.img", overlay = true }, { path = "a.img", readonly = true }]"#,
            "spare_disks = 2\nrng = true\nrng_bytes_per_s = 9\nnets = [{ tap = \"tap0\" }, { fd = 9, mac = \"02:00:00:00:00:07\" }]",
        )
        .unwrap();
        let [alice, bob] = &config.vms[..] else {
            panic!("{config:?}");
        };
        let disks = &alice.vm.devices.disks;
        assert!(disks[0].path.is_absolute() && disks[0].path.ends_with("a.img"));
        assert_eq!(disks[0].writes, DiskWrites::Overlay);
        assert_eq!(disks[1].writes, DiskWrites::Refused);
        let devices = &bob.vm.devices;
        assert_eq!((devices.count(), devices.spare_disks), (5, 2));
        assert_eq!(devices.rng, Some(RngSettings { bytes_per_s: 9 }));
        assert_eq!(devices.nets[1].tap, TapSource::Fd(9));
        let nvmes =
            r#"nvmes = [{ path = "a.img", readonly = true }, { path = "a.img", readonly = true }]"#;
        let config = parse(nvmes, "").unwrap();
        let nvmes = &config.vms[0].vm.devices.nvmes;
        assert!(nvmes.len() == 2 && nvmes[1].readonly && nvmes[1].path.ends_with("a.img"));
        assert!(nvmes[1].path.is_absolute());
        let kept = parse(r#"disks = [{ path = "a.img", overlay_file = "o" }]"#, "").unwrap();
        let writes = &kept.vms[0].vm.devices.disks[0].writes;
        assert!(matches!(writes, DiskWrites::KeptOverlay(path) if path.ends_with("o")));
    }

    #[test]
    fn mistakes_name_key_line_and_what_to_do() {
        let disk = |keys: &str| format!("disks = [{{ {keys} }}]");
        let nvme = |keys: &str| format!("nvmes = [{{ {keys} }}]");
        let net = |keys: &str| format!("nets = [{{ {keys} }}]");
        for (alice, bob, line, what) in [
            (disk("path = \"no.img\""), "", 5, "there is no file"),
            (disk("path = \".\""), "", 5, "neither a file nor a block device"),
            (disk("path = \"/dev/null\""), "", 5, "neither a file nor a block device"),
            (disk("path = \"odd.img\""), "", 5, "has 513 bytes"),
            (disk("path = \"empty.img\""), "", 5, "has 0 bytes"),
            (disk("readonly = true"), "", 5, "missing field `path`"),
            (disk("path = \"a.img\", ro = true"), "", 5, "unknown field `ro`"),
            (disk("path = \"a.img\", readonly = 1"), "", 5, "invalid type"),
            (disk("path = \"a.img\", readonly = true, overlay = true"), "", 5, "readonly and an overlay"),
            (disk("path = \"a.img\", overlay_file = \"no/o\""), "", 5, "its folder does not exist"),
            (disk("path = \"a.img\", overlay_file = \".\""), "", 5, "it is a folder"),
            (disk("path = \"a.img\""), "disks = [{ path = \"a.img\" }]", 10, "in use already, by VM \"alice\""),
            ("spare_disks = 9".to_owned(), "", 5, "9 spare disks"),
            ("spare_disks = -1".to_owned(), "", 5, "-1"),
            ("spare_disks = 8\nnets = [{ tap = \"a\" }, { tap = \"b\" }, { tap = \"c\" }, { tap = \"d\" }, { tap = \"e\" }, { tap = \"f\" }, { tap = \"g\" }]".to_owned(), "", 2, "15 devices"),
            (nvme("path = \"no.img\""), "", 5, "there is no file"),
            (nvme("path = \".\""), "", 5, "neither a file nor a block device"),
            (nvme("path = \"odd.img\""), "", 5, "has 513 bytes"),
            (nvme("readonly = true"), "", 5, "missing field `path`"),
            (nvme("path = \"a.img\", overlay = true"), "", 5, "unknown field `overlay`"),
            (nvme("path = \"a.img\", readonly = 1"), "", 5, "invalid type"),
            (nvme("path = \"a.img\""), "disks = [{ path = \"a.img\", readonly = true }]", 10, "in use already, by VM \"alice\""),
            (format!("nvmes = [{}]", ["{ path = \"a.img\", readonly = true }"; 9].join(", ")), "", 2, "9 NVMe controllers"),
            (net(""), "", 5, "without tap or fd"),
            (net("tap = \"x\", fd = 5"), "", 5, "both tap and fd"),
            (net("tap = \"sixteen-letters-\""), "", 5, "is not the name of an interface"),
            (net("fd = 1"), "", 5, "descriptor 1"),
            (net("tap = \"x\", mac = \"1\""), "", 5, "six pairs"),
            (net("tap = \"x\", mac = \"01:00:00:00:00:00\""), "", 5, "multicast"),
            (net("tap = \"x\""), "nets = [{ tap = \"x\" }]", 10, "in use already, by VM \"alice\""),
            (net("tap = \"x\", mac = \"02:00:00:00:00:01\""), "nets = [{ tap = \"y\", mac = \"02:00:00:00:00:01\" }]", 10, "address of another interface"),
            ("rng = 1".to_owned(), "", 5, "invalid type"),
            ("rng = true\nrng_bytes_per_s = 0".to_owned(), "", 6, "0 random bytes"),
            ("rng_bytes_per_s = 5".to_owned(), "", 5, "without rng = true"),
        ] {
            let error = parse(&alice, bob).unwrap_err();
            assert_eq!(error.place.map(|place| place.0), Some(line), "{error}");
            assert!(error.what.contains(what), "{error}");
            assert!(!error.help.is_empty(), "{error}");
        }
    }
}
