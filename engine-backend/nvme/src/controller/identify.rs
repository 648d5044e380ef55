//! What IDENTIFY returns (section 5.15).

use super::{Controller, EVENT_REQUESTS_MAX, NAMESPACE};
use crate::layout::Status;
use crate::layout::identify::{self, controller as c, namespace as n};
use crate::layout::registers::VS_1_4;
use crate::medium::Medium;

/// Text, padded with spaces.
fn text(into: &mut [u8], text: &str) {
    into.fill(b' ');
    for (to, from) in into.iter_mut().zip(text.bytes()) {
        *to = if from.is_ascii_graphic() { from } else { b' ' };
    }
}

impl<M: Medium> Controller<M> {
    /// The data structure that a command selects.
    pub(super) fn identify(&self, select: u8, namespace: u32) -> Result<Vec<u8>, Status> {
        let is_ours = namespace == NAMESPACE;
        match select {
            identify::CNS_CONTROLLER => Ok(self.identify_controller()),
            // A namespace that is not active reads as zeros; one that cannot be is refused.
            identify::CNS_NAMESPACE if is_ours => Ok(self.identify_namespace()),
            identify::CNS_ACTIVE if namespace < u32::MAX - 1 => {
                let mut list = vec![0; identify::BYTES];
                if namespace < NAMESPACE {
                    list[..4].copy_from_slice(&NAMESPACE.to_le_bytes());
                }
                Ok(list)
            }
            identify::CNS_DESCRIPTORS if is_ours => Ok(self.identify_descriptors()),
            identify::CNS_NAMESPACE | identify::CNS_ACTIVE | identify::CNS_DESCRIPTORS => {
                Err(Status::INVALID_NAMESPACE.do_not_retry())
            }
            _ => Err(Status::INVALID_FIELD.do_not_retry()),
        }
    }

    fn identify_controller(&self) -> Vec<u8> {
        let mut data = vec![0; identify::BYTES];
        text(&mut data[c::SERIAL], &self.config.serial);
        text(&mut data[c::MODEL], "Byway NVMe model");
        text(&mut data[c::FIRMWARE], env!("CARGO_PKG_VERSION"));
        data[c::MDTS] = self.config.transfer_pages_log2;
        data[c::VERSION..c::VERSION + 4].copy_from_slice(&VS_1_4.to_le_bytes());
        data[c::KIND] = 1;
        if self.config.shadow_doorbells {
            let bit = c::OACS_DOORBELL_BUFFER.to_le_bytes();
            data[c::OACS..c::OACS + 2].copy_from_slice(&bit);
        }
        // Aborts, requests for events: less one each.
        data[c::AERL - 1] = 3;
        data[c::AERL] = EVENT_REQUESTS_MAX as u8 - 1;
        // Firmware: one slot, read-only.
        data[260] = 0b11;
        data[c::SQES] = 0x66;
        data[c::CQES] = 0x44;
        data[c::NAMESPACES..c::NAMESPACES + 4].copy_from_slice(&NAMESPACE.to_le_bytes());
        let optional = c::ONCS_COMPARE | c::ONCS_DATASET_MANAGEMENT | c::ONCS_WRITE_ZEROES;
        data[c::ONCS..c::ONCS + 2].copy_from_slice(&optional.to_le_bytes());
        // A cache, and flushes of all namespaces.
        data[c::VWC] = 0b111;
        if self.config.sgl {
            // Any alignment; bit buckets.
            let sgls = 1_u32 | 1 << 16;
            data[c::SGLS..c::SGLS + 4].copy_from_slice(&sgls.to_le_bytes());
        }
        let name = format!("nqn.2014-08.org.nvmexpress:byway:{}", self.config.serial);
        let name = &name.as_bytes()[..name.len().min(223)];
        data[c::SUBSYSTEM_NAME][..name.len()].copy_from_slice(name);
        data
    }

    fn identify_namespace(&self) -> Vec<u8> {
        let mut data = vec![0; identify::BYTES];
        let blocks = self.blocks().to_le_bytes();
        for at in [n::SIZE, n::CAPACITY, n::USE] {
            data[at..at + 8].copy_from_slice(&blocks);
        }
        data[n::DEALLOCATED] = 0b1001;
        data[n::ATTRIBUTES] = u8::from(self.medium.is_read_only());
        data[n::FORMAT + 2] = self.config.block_bytes.trailing_zeros() as u8;
        data
    }

    fn identify_descriptors(&self) -> Vec<u8> {
        let mut data = vec![0; identify::BYTES];
        // A UUID (type 3) made of the serial number, marked as one that means nothing else.
        (data[0], data[1]) = (3, 16);
        text(&mut data[4..20], &self.config.serial);
        data[10] = 0x80 | data[10] & 0xf;
        data[12] = 0x80 | data[12] & 0x3f;
        data
    }
}
