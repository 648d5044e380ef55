//! The suite `linux-qemu`: see tests/linux/README.md.

mod boot;
