//! What the loader says: memory and command line, by the PVH boot protocol.
//!
//! Owns nothing: copies what is needed before the memory it lies in can be given out. The loader is
//! trusted; what it says is checked only as far as a mistake would be hard to find.

use byway_agent::layout::{MAILBOX_ALIGN, MAILBOX_BYTES};

use crate::layout::DIRECT_MAP;

/// First word of hvm_start_info.
const START_MAGIC: u32 = 0x336e_c578;
/// Type of usable RAM in the memory map.
const RAM: u32 = 1;

/// Most RAM ranges that are used.
pub const MAX_RANGES: usize = 8;
/// Most virtio-mmio devices that are looked at.
pub const MAX_DEVICES: usize = 8;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// A range of guest-physical memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// A virtio-mmio device of the command line.
#[derive(Debug, Clone, Copy, Default)]
pub struct MmioDevice {
    /// Its registers.
    pub registers: Range,
    /// Its global system interrupt.
    pub irq: u32,
}

/// What the loader said.
#[derive(Debug, Default)]
pub struct BootInfo {
    ram: [Range; MAX_RANGES],
    ram_count: usize,
    devices: [MmioDevice; MAX_DEVICES],
    device_count: usize,
    /// `mailbox=<address>,<bytes>`.
    pub mailbox: Option<Range>,
    /// `wake_irq=<number>`: the interrupt that ends a sleep.
    pub wake_irq: Option<u32>,
    /// `cpus=<number>`: CPUs to use, 1 or 2; 1 where it says nothing.
    pub cpus: u32,
}

impl BootInfo {
    /// Reads hvm_start_info at guest-physical `address`, below 1 GiB as all that it points to.
    ///
    /// # Safety
    /// The address is the one that the boot protocol passed, and the first GiB is mapped at
    /// [`DIRECT_MAP`].
    pub unsafe fn read(address: u64) -> Result<Self, &'static str> {
        // SAFETY: the caller's promise.
        let start = unsafe { &*((DIRECT_MAP + address) as *const StartInfo) };
        if start.magic != START_MAGIC {
            return Err("the loader passed no hvm_start_info; boot this image by its PVH note");
        }
        if start.version < 1 {
            return Err("hvm_start_info has version 0, without a memory map");
        }
        let mut info = Self {
            cpus: 1,
            ..Self::default()
        };
        for index in 0..u64::from(start.memory_map_entries) {
            let entry = DIRECT_MAP + start.memory_map + index * size_of::<MemoryMapEntry>() as u64;
            // SAFETY: the loader's memory map has that many entries.
            let entry = unsafe { &*(entry as *const MemoryMapEntry) };
            if entry.kind == RAM && info.ram_count < MAX_RANGES {
                info.ram[info.ram_count] = Range {
                    start: entry.address,
                    len: entry.size,
                };
                info.ram_count += 1;
            }
        }
        if start.command_line != 0 {
            let line = (DIRECT_MAP + start.command_line) as *const i8;
            // SAFETY: the loader ends the command line with a zero byte.
            let line = unsafe { core::ffi::CStr::from_ptr(line) };
            info.parse(line.to_bytes())?;
        }
        Ok(info)
    }

    fn parse(&mut self, line: &[u8]) -> Result<(), &'static str> {
        for word in line.split(|byte| byte.is_ascii_whitespace()) {
            if let Some(value) = word.strip_prefix(b"mailbox=") {
                let (start, len) = split(value, b',').ok_or("mailbox= wants <address>,<bytes>")?;
                let range = Range {
                    start: number(start).ok_or("mailbox=: the address is no number")?,
                    len: number(len).ok_or("mailbox=: the size is no number")?,
                };
                if !range.start.is_multiple_of(MAILBOX_ALIGN) || range.len < MAILBOX_BYTES as u64 {
                    return Err("mailbox=: want 2 MiB alignment and at least 16 MiB");
                }
                self.mailbox = Some(range);
            } else if let Some(value) = word.strip_prefix(b"wake_irq=") {
                let irq = number(value)
                    .filter(|irq| *irq < 24)
                    .ok_or("wake_irq= wants 0 to 23")?;
                self.wake_irq = Some(irq as u32);
            } else if let Some(value) = word.strip_prefix(b"cpus=") {
                let cpus = number(value).filter(|cpus| (1..=2).contains(cpus));
                self.cpus = cpus.ok_or("cpus= wants 1 or 2")? as u32;
            } else if let Some(value) = word.strip_prefix(b"virtio_mmio.device=") {
                let device = mmio_device(value)
                    .ok_or("virtio_mmio.device= wants <size>@<address>:<interrupt>")?;
                if self.device_count < MAX_DEVICES {
                    self.devices[self.device_count] = device;
                    self.device_count += 1;
                }
            }
        }
        Ok(())
    }

    /// Usable RAM.
    pub fn ram(&self) -> &[Range] {
        &self.ram[..self.ram_count]
    }

    /// Devices, in the order of the command line.
    pub fn devices(&self) -> &[MmioDevice] {
        &self.devices[..self.device_count]
    }
}

fn mmio_device(value: &[u8]) -> Option<MmioDevice> {
    let (len, rest) = split(value, b'@')?;
    let (start, irq) = split(rest, b':')?;
    let registers = Range {
        start: number(start)?,
        len: number(len)?,
    };
    let irq = number(irq).filter(|irq| *irq < 24)? as u32;
    Some(MmioDevice { registers, irq })
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..index], &bytes[index + 1..]))
}

/// A decimal or 0x number, with an optional suffix K, M or G.
fn number(bytes: &[u8]) -> Option<u64> {
    let (digits, shift) = match bytes.split_last()? {
        (b'K' | b'k', rest) => (rest, 10),
        (b'M' | b'm', rest) => (rest, 20),
        (b'G' | b'g', rest) => (rest, 30),
        _ => (bytes, 0),
    };
    let (digits, base) = digits
        .strip_prefix(b"0x")
        .map_or((digits, 10), |rest| (rest, 16));
    let value = u64::from_str_radix(core::str::from_utf8(digits).ok()?, base).ok()?;
    value.checked_mul(1 << shift)
}
