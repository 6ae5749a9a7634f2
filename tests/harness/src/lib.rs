//! What the cases stand on: a real control plane.

pub mod controlplane;
