//! Boots real kernels under QEMU, builds and starts a real control plane.

pub mod arch;
pub mod autopsy;
pub mod borrowed;
pub mod busybox;
pub mod cache;
pub mod controlplane;
pub mod disk;
pub mod firmware;
pub mod host;
pub mod initramfs;
pub mod kdump;
pub mod kernels;
pub mod module;
pub mod packages;
pub mod priority;
pub mod progress;
pub mod qmp;
pub mod rsyslog;
pub mod sources;
pub mod tool;
pub mod vm;
pub mod wire;
