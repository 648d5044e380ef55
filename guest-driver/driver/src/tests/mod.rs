//! The driver against a fake transport with a fake device behind it.

mod attach;
mod calls;
mod endpoints;
mod events;
mod fake;
mod hostile;
mod invalidation;
mod keys;
mod mmio;
mod ports;
mod queues;
mod virtio;
mod virtqueue;
