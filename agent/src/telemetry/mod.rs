//! What the program says of itself: logs and metrics.

pub mod log;
mod metrics;

pub use metrics::*;
