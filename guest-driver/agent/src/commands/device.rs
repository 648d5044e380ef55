//! Commands that the guest kernel carries out with drivers of its own for a disk and a network interface: what a
//! guest does without Byway.

use super::{Failure, Request, Status, Words, commands, pack};

/// Bytes of one request to the disk.
pub const DISK_READ_BYTES: u64 = 128 << 10;

commands! {
    /// What the guest kernel does for a process by virtio-blk and virtio-net.
    DeviceCommands, dispatch_device, DEVICE_COMMAND_LIST;

    /// Begins to read from the disk into the process's own pages, as an asynchronous read past the page cache does: in requests
    /// of [`DISK_READ_BYTES`], as many under way as the driver takes. Any command but those of this list, and the next
    /// of this kind, wait until nothing of it is under way.
    0x300 disk_read: DiskRead {
        /// Virtual address; a multiple of 512.
        va,
        /// Bytes; a multiple of 512.
        bytes,
        /// First sector of 512 bytes.
        sector,
    } => DiskReads {}

    /// Waits, asleep in `hlt`, for what [`DiskRead`] began.
    0x301 disk_wait: DiskWait {
        /// Until more bytes than these are there, from the first on, or all.
        above,
    } => DiskHas {
        /// Bytes that are there.
        bytes,
    }

    /// Sends bytes of the process's as the next ones of the stream ([`crate::stream`]): the kernel copies them into frames of its
    /// own. Sleeps in `hlt` where the other end has to take some first.
    0x302 net_send: NetSend {
        /// Virtual address.
        va,
        /// Bytes.
        bytes,
        /// Frames that may be on their way, [`crate::stream::WORD_EVERY`] to [`crate::stream::WINDOW_MAX`]: as many as the wire
        /// has room for.
        window,
    } => NetSent {}

    /// Waits, asleep in `hlt`, until the other end has taken all that was sent.
    0x303 net_drain: NetDrain {} => NetDrained {}

    /// Takes the next bytes of the stream: the kernel copies them out of the frames. Sleeps in `hlt` until all are there.
    0x304 net_receive: NetReceive {
        /// Virtual address.
        va,
        /// Bytes.
        bytes,
    } => NetReceived {}

    /// What the two drivers have done since boot.
    0x305 device_counts: DeviceCounts {} => DeviceCounted {
        /// Requests to the disk.
        reads,
        /// Frames sent, of each kind.
        frames_sent,
        /// Frames received, of each kind.
        frames_received,
        /// Times that the vCPU went to sleep for a device.
        sleeps,
    }
}
