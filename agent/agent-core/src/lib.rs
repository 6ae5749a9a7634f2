//! What is known of a node's death and what to do about it.
//!
//! Pure: no I/O, no clock, no tokio, no aya, no kube. Facts and the time come
//! in as values ([`model`]), actions go out as values ([`engine`]). What many deaths have
//! in common is found by [`recurrence`]. [`drops`] is about packets, and knows no death.

#![forbid(unsafe_code)]

pub mod drops;
pub mod engine;
pub mod model;
pub mod recurrence;
