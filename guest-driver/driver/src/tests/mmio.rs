//! The MMIO transport over plain memory: which registers are read and written.

use crate::transport::{F_VERSION_1, VirtqueueAddresses};
use crate::{Error, MmioTransport, Transport};
use std::ptr::NonNull;

/// Registers, by number of the u32.
#[repr(C, align(8))]
struct Registers([u32; 66]);

fn device() -> Registers {
    let mut registers = Registers([0; 66]);
    registers.0[0] = 0x7472_6976;
    registers.0[1] = 2;
    registers.0[2] = 41;
    registers
}

fn transport(registers: &mut Registers) -> MmioTransport {
    // SAFETY: 264 bytes of memory that the test reads only through the transport or after it.
    unsafe { MmioTransport::new(NonNull::from(&mut registers.0).cast()) }
}

#[test]
fn only_a_modern_device_is_accepted() {
    let mut registers = device();
    assert_eq!(transport(&mut registers).probe(), Ok(()));
    assert_eq!(transport(&mut registers).device_id(), 41);
    registers.0[2] = 0;
    assert_eq!(transport(&mut registers).probe(), Err(Error::NoDevice));
    registers.0[1] = 1;
    assert_eq!(
        transport(&mut registers).probe(),
        Err(Error::TransportVersion { found: 1 })
    );
    registers.0[0] = 0xffff_ffff;
    let error = Error::NotVirtio { found: 0xffff_ffff };
    assert_eq!(transport(&mut registers).probe(), Err(error));
}

#[test]
fn registers_are_those_of_the_specification() {
    let mut registers = device();
    registers.0[0x34 / 4] = 128;
    registers.0[0x60 / 4] = 0xff;
    registers.0[0x100 / 4] = 0xa;
    registers.0[0x104 / 4] = 0xb;
    let mut transport = transport(&mut registers);
    assert_eq!(transport.queue_size_max(1), 128);
    transport.set_driver_features(F_VERSION_1);
    let addresses = VirtqueueAddresses {
        size: 16,
        descriptors: 0x1_0000_2000,
        driver: 0x3_0000_4000,
        device: 0x5_0000_6000,
    };
    transport.enable_queue(1, &addresses);
    transport.notify(1);
    transport.set_status(0xf);
    assert_eq!(transport.acknowledge_interrupt(), 3);
    assert_eq!(
        (transport.config_u32(0), transport.config_u32(4)),
        (0xa, 0xb)
    );
    // A queue that is ready is in use.
    assert_eq!(transport.queue_size_max(1), 0);

    let at = |offset: usize| registers.0[offset / 4];
    assert_eq!((at(0x20), at(0x24)), (1, 1), "upper features");
    assert_eq!((at(0x30), at(0x38), at(0x44), at(0x50)), (1, 16, 1, 1));
    assert_eq!((at(0x64), at(0x70)), (3, 0xf));
    assert_eq!((at(0x80), at(0x84)), (0x2000, 1));
    assert_eq!((at(0x90), at(0x94)), (0x4000, 3));
    assert_eq!((at(0xa0), at(0xa4)), (0x6000, 5));
}
