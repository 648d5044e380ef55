//! The steps of a device's initialisation that are the same for every virtio device (virtio 3.1.1).

use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::transport::{F_VERSION_1, Transport, status};

/// Status bits of a driver that is negotiating.
const NEGOTIATED: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;

/// Resets the device and waits until it says that it is (virtio 2.4.2), at most `timeout_ns` nanoseconds.
pub(crate) fn reset(
    transport: &mut impl Transport,
    hal: &mut impl Hal,
    timeout_ns: u64,
) -> Result<(), Error> {
    transport.set_status(0);
    let start = hal.now_ns();
    loop {
        // The clock before the look: whoever was kept off the CPU for long looks once more.
        let late = hal.now_ns().saturating_sub(start) > timeout_ns;
        if transport.status() == 0 {
            return Ok(());
        }
        if late {
            return Err(Broken::ResetIgnored.into());
        }
        hal.idle();
    }
}

/// Accepts VIRTIO_F_VERSION_1, which has to be offered, and of `wanted` what is (virtio 2.2); says what of it was.
pub(crate) fn negotiate(transport: &mut impl Transport, wanted: u64) -> Result<u64, Error> {
    transport.set_status(status::ACKNOWLEDGE);
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER);
    let offered = transport.device_features();
    if offered & F_VERSION_1 == 0 {
        return Err(Error::LegacyDevice);
    }
    let taken = offered & wanted;
    transport.set_driver_features(F_VERSION_1 | taken);
    transport.set_status(NEGOTIATED);
    if transport.status() & status::FEATURES_OK == 0 {
        return Err(Error::FeaturesRefused);
    }
    Ok(taken)
}

/// Checks that the device allows virtqueue `queue` to have `entries`.
pub(crate) fn check_queue(
    transport: &mut impl Transport,
    queue: u16,
    entries: usize,
) -> Result<(), Error> {
    let size_max = transport.queue_size_max(queue);
    if usize::from(size_max) < entries {
        return Err(Error::Virtqueue { queue, size_max });
    }
    Ok(())
}

/// Says that the driver is ready: queues are set up before, notified after.
pub(crate) fn go(transport: &mut impl Transport) {
    transport.set_status(NEGOTIATED | status::DRIVER_OK);
}
