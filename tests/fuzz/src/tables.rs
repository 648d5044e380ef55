//! Page tables: any entries, walked by the cache, by the walker without one, and by a slow
//! reading of the manual that shares no code with either.
//!
//! All three must agree on the outcome of every access, and the guest's tables must
//! afterwards hold exactly the accessed and dirty bits that the manual asks for: an access
//! that the cache answers has set them before.

mod manual;

use std::cell::OnceCell;
use std::sync::Arc;

use byway_engine::address_space::walk::translate;
use byway_engine::address_space::{AddressSpace, Tables};
use byway_engine::iotlb::Iotlb;
use byway_engine::stage2::{Access, Perms};
use byway_engine::testing::Guest;

use crate::input::Input;
use manual::{Cpu, Found, by_the_manual};

/// Frames of RAM that can be page tables; the root is the first.
pub(crate) const TABLES: u64 = 8;
/// Bytes of RAM.
const RAM_BYTES: u64 = 2 << 20;
/// Bytes of a frame.
const FRAME: u64 = 4096;
/// Steps of one input at most.
const STEPS_MAX: u32 = 256;
/// Places in a table that entries are put to and addresses lead through.
pub(crate) const INDICES: [u64; 8] = [0, 1, 2, 255, 256, 257, 510, 511];

/// What an input does in one step.
pub(crate) mod step {
    /// Writes an entry: table, index, low bits (u16), frame, high bits (u16).
    pub(crate) const ENTRY: u8 = 0;
    /// Writes an entry: table, index, all of it (u64).
    pub(crate) const RAW_ENTRY: u8 = 1;
    /// Accesses by five indices, an offset (u16) and a flag byte: 1 writes, 2 is not
    /// canonical.
    pub(crate) const ACCESS: u8 = 2;
    /// Accesses any address (u64), and a flag byte.
    pub(crate) const RAW_ACCESS: u8 = 3;
    /// Changes what stage 2 permits: frame, 1 for writing as well.
    pub(crate) const PROTECT: u8 = 4;
    /// How many there are.
    pub(crate) const KINDS: usize = 5;
}

thread_local! {
    static GUEST: OnceCell<Arc<Guest>> = const { OnceCell::new() };
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let guest = GUEST.with(|cell| cell.get_or_init(|| Guest::new(1, RAM_BYTES)).clone());
    let mut input = Input::new(data);
    let mut world = World::new(guest, &mut input);
    for _ in 0..STEPS_MAX {
        if !input.has_more() {
            break;
        }
        world.step(&mut input);
    }
    world.end();
}

struct World {
    guest: Arc<Guest>,
    ram: u64,
    cpu: Cpu,
    space: AddressSpace,
    iotlb: Iotlb,
    /// Frames that stage 2 lets nobody write.
    read_only: Vec<u64>,
}

impl World {
    fn new(guest: Arc<Guest>, input: &mut Input<'_>) -> Self {
        let (ram, _) = guest.ram();
        for at in (ram..ram + TABLES * FRAME).step_by(8) {
            guest.write_u64(at, 0);
        }
        let flags = input.u8();
        let cpu = Cpu {
            levels: if flags & 1 == 0 { 4 } else { 5 },
            maxphyaddr: [46, 52, 36, 32][usize::from(flags >> 1 & 3)],
            nxe: flags & 8 == 0,
            pages_1g: flags & 16 == 0,
            no_ad: flags & 32 != 0,
        };
        let tables = Tables {
            gpa: ram,
            levels: cpu.levels,
            maxphyaddr: cpu.maxphyaddr,
            nxe: cpu.nxe,
            pages_1g: cpu.pages_1g,
            no_ad: cpu.no_ad,
        };
        let space = AddressSpace::tables(guest.memory().clone(), tables);
        Self {
            space: space.expect("a root in RAM and a CPU that exists"),
            iotlb: Iotlb::new(),
            guest,
            ram,
            cpu,
            read_only: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(step::KINDS) as u8 {
            step::ENTRY => {
                let at = self.place(input);
                let low = u64::from(input.u16()) & 0xfff;
                let frame = self.ram + u64::from(input.u8()) * 2 % (RAM_BYTES / FRAME) * FRAME;
                let high = u64::from(input.u16()) << 48;
                self.set(at, low | frame | high);
            }
            step::RAW_ENTRY => {
                let at = self.place(input);
                self.set(at, input.u64());
            }
            step::ACCESS => {
                let indices: [u8; 5] = input.array();
                let mut va = u64::from(input.u16()) & 0xfff;
                for (i, index) in indices.into_iter().enumerate() {
                    va |= INDICES[usize::from(index) % INDICES.len()] << (48 - 9 * i);
                }
                let flags = input.u8();
                if flags & 2 == 0 {
                    let unused = 64 - self.cpu.address_bits();
                    va = ((va << unused) as i64 >> unused) as u64;
                }
                self.access(va, flags & 1 != 0);
            }
            step::RAW_ACCESS => {
                let va = input.u64();
                self.access(va, input.u8() & 1 != 0);
            }
            _ => {
                let frame = self.ram + u64::from(input.u8()) * 2 % (RAM_BYTES / FRAME) * FRAME;
                let writable = input.u8() & 1 != 0;
                self.protect(frame, writable);
            }
        }
    }

    fn place(&self, input: &mut Input<'_>) -> u64 {
        let table = self.ram + input.below(TABLES as usize) as u64 * FRAME;
        table + 8 * INDICES[input.below(INDICES.len())]
    }
    /// Changes an entry as a kernel does: write, then invalidate.
    fn set(&self, at: u64, entry: u64) {
        self.guest.write_u64(at, entry);
        self.space.invalidate_all();
    }
    fn protect(&mut self, frame: u64, writable: bool) {
        self.read_only.retain(|f| *f != frame);
        let perms = if writable { Perms::ALL } else { Perms::READ };
        if !writable {
            self.read_only.push(frame);
        }
        let stage2 = self.guest.memory().stage2();
        stage2.protect(frame, FRAME, perms).expect("a frame of RAM");
    }
    /// Whether stage 2 has a byte, and lets it be written.
    fn writable(&self, gpa: u64) -> Option<bool> {
        let in_ram = (self.ram..self.ram + RAM_BYTES).contains(&gpa);
        in_ram.then(|| !self.read_only.contains(&(gpa & !(FRAME - 1))))
    }
    fn tables(&self) -> Vec<u64> {
        let cells = (self.ram..self.ram + TABLES * FRAME).step_by(8);
        cells.map(|at| self.guest.read_u64(at)).collect()
    }

    fn access(&mut self, va: u64, write: bool) {
        let mut expected_tables = self.tables();
        let read = |at| self.guest.read_u64(at);
        let permits = |gpa| self.writable(gpa);
        let expected = by_the_manual(&read, &permits, self.cpu, self.ram, va, write);
        if let Ok(Found { path, .. }) = &expected {
            for (step, at) in path.iter().enumerate() {
                let dirty = write && step + 1 == path.len();
                if let Some(entry) = expected_tables.get_mut((at - self.ram) as usize / 8) {
                    *entry |= 1 << 5 | u64::from(dirty) << 6;
                }
            }
        }

        let access = if write { Access::Write } else { Access::Read };
        let cached = self.iotlb.translate(&self.space, va, access);
        assert_eq!(self.tables(), expected_tables, "tables after {va:#x}");
        let walked = translate(&self.space, va, access);
        assert_eq!(self.tables(), expected_tables, "tables walked for {va:#x}");
        match (expected, cached, walked) {
            (Err(status), Err(cached), Err(walked)) => {
                assert_eq!((cached.status, walked.status), (status, status), "{va:#x}");
                assert_eq!((cached.addr, cached.write), (va, write));
            }
            (Ok(found), Ok(cached), Ok(walked)) => {
                assert_eq!((cached.gpa, walked.gpa), (found.gpa, found.gpa), "{va:#x}");
                assert_eq!(cached.host, walked.host, "{va:#x}");
                assert_eq!(walked.guest_page_bytes, found.page_bytes, "{va:#x}");
                let left = walked.page_bytes - va % walked.page_bytes;
                assert_eq!(cached.bytes, left, "{va:#x}");
                let byte = self.guest.memory().contiguous(found.gpa & !7, 8);
                if let Some(span) = byte {
                    assert_eq!(span.host().0 + found.gpa % 8, cached.host.0, "{va:#x}");
                }
            }
            (expected, cached, walked) => panic!(
                "{va:#x}: expected {:?}, cached {cached:?}, walked {walked:?}",
                expected.err()
            ),
        }
    }

    fn end(mut self) {
        for frame in std::mem::take(&mut self.read_only) {
            self.protect(frame, true);
        }
    }
}
