//! Memory devices (`PNP0C80`) for memory that comes while the VM runs: a fixed number of places, each empty until the
//! VMM says where its memory is.
//!
//! It says so in a page of reserved guest RAM that the devices' methods read, so there is no device
//! to emulate and no exit. A guest that writes there lies to itself alone: what is behind an address, KVM and
//! the engine know from the VMM.

use acpi_tables::aml::{
    Add, AddressSpace, AddressSpaceCacheable, CreateQWordField, Device, EISAName, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, Method, Multiply, Name, ONE,
    OpRegion, OpRegionSpace, Path, ResourceTemplate, Return, Store, Subtract, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;

/// How many times memory can be added to a VM.
pub const SLOTS: usize = 8;
/// Bytes of a place: first address, length, whether there is memory, nothing; 64 bits each.
const SLOT_BYTES: u64 = 32;
const _: () = assert!(SLOTS as u64 * SLOT_BYTES <= layout::PAGE_SIZE);

/// `_STA` of a device that is there: present, enabled, shown, working.
const STATUS_THERE: u8 = 0xf;
/// Offsets in a QWord address space descriptor (ACPI 6.5, 6.4.3.5.1).
const MINIMUM: u8 = 14;
const MAXIMUM: u8 = 22;
const LENGTH: u8 = 38;

/// Which places are taken, and the page that tells the guest.
#[derive(Debug, Default)]
pub struct MemorySlots {
    /// First address of the memory in each.
    taken: [Option<u64>; SLOTS],
}

impl MemorySlots {
    /// Whether there is a place left.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.taken.contains(&None)
    }

    /// Enters memory into the first free place; returns whether there was one.
    ///
    /// # Errors
    /// When RAM has no such page.
    pub fn enter(
        &mut self,
        memory: &GuestMemoryMmap,
        guest_addr: u64,
        size: u64,
    ) -> Result<bool, GuestMemoryError> {
        let Some(index) = self.taken.iter().position(Option::is_none) else {
            return Ok(false);
        };
        write(memory, index, [guest_addr, size, 1])?;
        self.taken[index] = Some(guest_addr);
        Ok(true)
    }

    /// Takes memory out of its place, if it has one.
    ///
    /// # Errors
    /// When RAM has no such page.
    pub fn remove(
        &mut self,
        memory: &GuestMemoryMmap,
        guest_addr: u64,
    ) -> Result<(), GuestMemoryError> {
        if let Some(index) = self.taken.iter().position(|at| *at == Some(guest_addr)) {
            write(memory, index, [0; 3])?;
            self.taken[index] = None;
        }
        Ok(())
    }
}

fn write(memory: &GuestMemoryMmap, index: usize, words: [u64; 3]) -> Result<(), GuestMemoryError> {
    let at = layout::MEMORY_SLOTS + index as u64 * SLOT_BYTES;
    // What says that there is memory comes last.
    for (word, value) in words.into_iter().enumerate() {
        memory.write_obj(value, GuestAddress(at + 8 * word as u64))?;
    }
    Ok(())
}

/// Names of the devices.
pub(super) fn names() -> impl Iterator<Item = String> {
    (0..SLOTS).map(|index| format!("MEM{index}"))
}

/// The devices and the region that they read.
pub(super) fn devices(sink: &mut dyn AmlSink) {
    let region = Path::new("MSLT");
    OpRegion::new(
        Path::new("MSLT"),
        OpRegionSpace::SystemMemory,
        &layout::MEMORY_SLOTS,
        &(SLOTS as u64 * SLOT_BYTES),
    )
    .to_aml_bytes(sink);
    let mut fields = Vec::new();
    for index in 0..SLOTS {
        for field in ["BAS", "LEN", "ENA"] {
            fields.push(FieldEntry::Named(field_name(field, index), 64));
        }
        fields.push(FieldEntry::Reserved(64));
    }
    Field::new(
        region,
        FieldAccessType::QWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        fields,
    )
    .to_aml_bytes(sink);
    for (uid, name) in (0u8..).zip(names()) {
        device(sink, &name, uid);
    }
}

fn field_name(field: &str, index: usize) -> [u8; 4] {
    let mut name = [b'0' + index as u8; 4];
    name[..3].copy_from_slice(field.as_bytes());
    name
}

fn device(sink: &mut dyn AmlSink, name: &str, uid: u8) {
    let field = |field: &str| Path::new(&format!("{field}{uid}"));
    let (base, length, enabled) = (field("BAS"), field("LEN"), field("ENA"));
    let template = Path::new("MRES");
    let (minimum, maximum, size) = (Path::new("MMIN"), Path::new("MMAX"), Path::new("MLEN"));
    Device::new(
        Path::new(name),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C80")),
            &Name::new(Path::new("_UID"), &uid),
            &Method::new(
                Path::new("_STA"),
                0,
                false,
                vec![&Return::new(&Multiply::new(&ZERO, &enabled, &STATUS_THERE))],
            ),
            &Method::new(
                Path::new("_CRS"),
                0,
                true,
                vec![
                    &Name::new(
                        Path::new("MRES"),
                        &ResourceTemplate::new(vec![&AddressSpace::<u64>::new_memory(
                            AddressSpaceCacheable::Cacheable,
                            true,
                            0,
                            u64::MAX - 1,
                            None,
                        )]),
                    ),
                    &CreateQWordField::new(&minimum, &template, &MINIMUM),
                    &CreateQWordField::new(&maximum, &template, &MAXIMUM),
                    &CreateQWordField::new(&size, &template, &LENGTH),
                    &Store::new(&minimum, &base),
                    &Store::new(&size, &length),
                    &Add::new(&maximum, &minimum, &size),
                    &Subtract::new(&maximum, &maximum, &ONE),
                    &Return::new(&template),
                ],
            ),
        ],
    )
    .to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(memory: &GuestMemoryMmap, index: u64) -> [u64; 3] {
        [0, 8, 16].map(|offset| {
            let at = layout::MEMORY_SLOTS + index * SLOT_BYTES + offset;
            memory.read_obj(GuestAddress(at)).unwrap()
        })
    }

    #[test]
    fn the_guest_reads_where_added_memory_is() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut slots = MemorySlots::default();
        for index in 0..SLOTS as u64 {
            assert!(slots.has_room());
            assert!(slots.enter(&memory, (4 + index) << 30, 1 << 28).unwrap());
        }
        assert!(!slots.has_room() && !slots.enter(&memory, 1 << 40, 4096).unwrap());
        assert_eq!(words(&memory, 7), [11 << 30, 1 << 28, 1]);
        slots.remove(&memory, 5 << 30).unwrap();
        assert_eq!(words(&memory, 1), [0; 3]);
        assert!(slots.enter(&memory, 1 << 40, 4096).unwrap());
        assert_eq!(words(&memory, 1), [1 << 40, 4096, 1]);
    }
}
