//! A real control plane on loopback: etcd, kube-apiserver and, if asked for,
//! kube-controller-manager, in a directory of their own, gone with the value.

mod assets;
mod audit;
mod process;
mod readiness;
mod server;

pub use assets::{Assets, CORE, Program, Unavailable};
pub use audit::AuditEvent;
pub use server::{ControlPlane, Options, User};
