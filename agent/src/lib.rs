//! lastgasp: makes a dying kernel say why, and writes it on its pods.
//!
//! The rooms and who may import whom are in `ARCHITECTURE.md`; `cargo xtask
//! lint` holds the code to it.

#![deny(unsafe_code)]

pub mod annotate;
pub mod channels;
pub mod cli;
pub mod config;
pub mod gasp;
pub mod k8s;
pub mod kernel;
pub mod node;
pub mod probes;
pub mod store;
pub mod telemetry;
pub mod web;
