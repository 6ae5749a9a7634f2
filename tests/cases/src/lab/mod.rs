//! Deaths by the thousand: kernels, ways to die, and what of each got out.

pub mod bless;
pub mod channels;
pub mod coverage;
pub mod deaths;
pub mod drops;
pub mod kept;
pub mod next_boot;
pub mod plan;
pub mod record;
pub mod report;
pub mod run;
pub mod scenes;
pub mod stories;
pub mod traffic;
pub mod verdict;
pub use ::ways;
