//! [`DeviceCommands`]: what a process has the kernel do with the disk and the network interface.
//!
//! Owns nothing. All of them wait as kernels do: what is there already is taken without an interrupt, and otherwise
//! the vCPU sleeps in `hlt` until the device raises one.

use byway_agent::commands::{
    DeviceCommands, DeviceCounted, DeviceCounts, DiskHas, DiskRead, DiskReads, DiskWait, NetDrain,
    NetDrained, NetReceive, NetReceived, NetSend, NetSent,
};
use byway_agent::stream::{WINDOW_MAX, WORD_EVERY};
use byway_agent::{Failure, Status};

use crate::kernel::link::Link;
use crate::kernel::machine::Machine;

impl Machine {
    /// Returns when the disk writes nowhere any more: before anything changes where the process's pages are. A disk that is
    /// broken may do so for ever, and then nothing may change.
    pub fn finish_reads(&mut self) -> Result<(), Failure> {
        loop {
            let Some(disk) = &mut self.disk else {
                return Ok(());
            };
            disk.forget();
            disk.reap()?;
            if !disk.has_reads() {
                return Ok(());
            }
            self.doze(|_| false);
        }
    }

    /// Lets the disk go on: bytes of the job that are there, and whether that is all.
    fn pump(&mut self) -> Result<(u64, bool), Failure> {
        let missing = Failure::new(Status::DeviceFailed, 0);
        let owner = self.disk.as_ref().and_then(|disk| disk.owner());
        let process = owner.unwrap_or(self.current_process());
        let (disk, _, memory) = self.devices(process);
        disk.ok_or(missing)?.pump(&memory)
    }

    /// Sleeps until an interrupt, unless the disk or, as `link` says of it, the network interface has something to do already.
    fn doze(&mut self, link: impl FnOnce(&mut Link) -> bool) {
        let disk = self.disk.as_mut().is_some_and(|disk| disk.arm());
        let link = self.link.as_mut().is_some_and(link);
        if !disk && !link {
            self.dozes += 1;
            self.sleep_until(|_| true);
        }
    }
}

impl DeviceCommands for Machine {
    fn disk_read(&mut self, request: DiskRead) -> Result<DiskReads, Failure> {
        self.finish_reads()?;
        let process = self.current_process();
        let disk = self.disk.as_mut();
        let disk = disk.ok_or(Failure::new(Status::DeviceFailed, 0))?;
        disk.begin(process, request.va, request.bytes, request.sector)?;
        self.pump()?;
        Ok(DiskReads {})
    }

    fn disk_wait(&mut self, request: DiskWait) -> Result<DiskHas, Failure> {
        loop {
            let (bytes, all) = self.pump()?;
            if bytes > request.above || all {
                return Ok(DiskHas { bytes });
            }
            self.doze(|_| false);
        }
    }

    fn net_send(&mut self, request: NetSend) -> Result<NetSent, Failure> {
        let window = u32::try_from(request.window).ok();
        let window = window.filter(|window| (WORD_EVERY..=WINDOW_MAX).contains(window));
        let window = window.ok_or(Failure::argument(2, request.window))?;
        let process = self.current_process();
        let mut done = 0;
        loop {
            let (disk, link, memory) = self.devices(process);
            let link = link.ok_or(Failure::new(Status::DeviceFailed, 0))?;
            done += link.send(&memory, request.va + done, request.bytes - done, window)?;
            if done == request.bytes {
                return Ok(NetSent {});
            }
            // What is read meanwhile is asked for as soon as there is room.
            if let Some(disk) = disk
                && disk.owner() == Some(process)
            {
                disk.pump(&memory)?;
            }
            self.doze(Link::arm);
        }
    }

    fn net_drain(&mut self, _request: NetDrain) -> Result<NetDrained, Failure> {
        loop {
            let link = self.link.as_mut();
            let link = link.ok_or(Failure::new(Status::DeviceFailed, 0))?;
            if link.is_drained()? {
                return Ok(NetDrained {});
            }
            self.doze(Link::arm);
        }
    }

    fn net_receive(&mut self, request: NetReceive) -> Result<NetReceived, Failure> {
        let process = self.current_process();
        let mut done = 0;
        loop {
            let (_, link, memory) = self.devices(process);
            let link = link.ok_or(Failure::new(Status::DeviceFailed, 0))?;
            done += link.receive(&memory, request.va + done, request.bytes - done)?;
            if done == request.bytes {
                return Ok(NetReceived {});
            }
            self.doze(Link::arm);
        }
    }

    fn device_counts(&mut self, _request: DeviceCounts) -> Result<DeviceCounted, Failure> {
        let (sent, received) = self
            .link
            .as_ref()
            .map_or((0, 0), |link| (link.sent, link.received));
        Ok(DeviceCounted {
            reads: self.disk.as_ref().map_or(0, |disk| disk.reads),
            frames_sent: sent,
            frames_received: received,
            sleeps: self.dozes,
        })
    }
}
