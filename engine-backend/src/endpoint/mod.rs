//! Endpoints: block devices that the engine drives itself (SPEC section 4.33).
//!
//! [`device`] is what a device has to be able to do, [`staging`] the only memory that it
//! can reach, but for what one is trusted with ([`Reach`]); [`file`](mod@file), [`vhost_user_blk`] and [`nvme`] are kinds of it. An [`Attachment`] is a device
//! while it is there, an [`Endpoint`] what capabilities name, and [`Endpoints`] all of them.
//!
//! Nothing here knows guests: what moves between staging and their memory is `ops`' matter.

mod attachment;
mod config;
pub mod device;
pub mod file;
mod in_flight;
mod limits;
pub mod nvme;
mod open_error;
mod peer_memory;
mod reach;
mod registry;
pub mod slot;
pub mod staging;
#[cfg(test)]
mod test_bench;
pub mod vhost_user_blk;
mod watch;

use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
pub(crate) use attachment::CLOSE;
pub use attachment::{Attachment, Counters, Refusal};
pub use config::{EndpointConfig, EndpointError, EndpointKind, is_endpoint_name};
pub use open_error::OpenError;
pub use reach::{Reach, Reached, Reaching};
pub use registry::{ENDPOINTS_MAX, Endpoint, Endpoints, Grant, News};

use device::BlockDevice;
use slot::{SLOT_BYTES, SLOTS_MAX};
use staging::StagingMemory;

/// Opens a device of whatever kind. May wait for it.
fn open(
    config: &EndpointConfig,
    staging: &Arc<StagingMemory>,
) -> Result<Box<dyn BlockDevice>, String> {
    let timeout = Duration::from_millis(config.timeout_ms.into());
    let nvme_options = nvme::Options {
        depth: SLOTS_MAX as u16,
        transfer_bytes_max: SLOT_BYTES,
        timeout,
        read_only: config.read_only,
        ..nvme::Options::default()
    };
    let (path, staging) = (&config.path, Arc::clone(staging));
    let told = |e: OpenError| e.to_string();
    Ok(match config.kind {
        EndpointKind::File => Box::new(file::FileDevice::open(config, &staging)?),
        EndpointKind::VhostUserBlk => {
            let options = vhost_user_blk::Options {
                depth: SLOTS_MAX as u16,
                transfer_bytes_max: SLOT_BYTES,
                timeout,
                read_only: config.read_only,
            };
            Box::new(vhost_user_blk::Disk::open(path, &options, staging).map_err(told)?)
        }
        EndpointKind::Nvme => {
            Box::new(nvme::Disk::open(path, &nvme_options, staging).map_err(told)?)
        }
        EndpointKind::NvmeModel => {
            let model = nvme::Model {
                read_only: config.read_only,
                ..nvme::Model::default()
            };
            let disk = nvme::Disk::open_model(path, &model, &nvme_options, staging);
            Box::new(disk.map_err(told)?)
        }
    })
}
