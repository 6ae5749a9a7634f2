//! The one writer to the API server. Nothing else in the program changes a
//! cluster, and nothing here decides: it carries out, once, what the engine
//! decided. Every call may be repeated; a repetition writes nothing.

mod ahead;
mod client;
mod crd;
mod error;
mod events;
mod leases;
mod mitigation;
mod names;
mod node;
mod nodes;
mod owners;
mod patch;
mod pods;
mod record;
mod text;
mod writer;

pub use client::Settings;
pub use crd::{
    ChannelAccount, Condition, NodeDeath, NodeDeathSpec, NodeDeathStatus, PodCounts, ProofStep,
    Said, crd_yaml,
};
pub use error::Error;
pub use mitigation::Standing;
pub use names::{
    ANNOTATION_DEATH, ANNOTATION_REASON_CODE, CONDITION_MITIGATION, CONDITION_OOPS,
    CONDITION_PANIC, FIELD_MANAGER, POD_CONDITION, PREFIX, TAINT,
};
pub use nodes::{Gone, Told};
pub use pods::{Ineligible, Owner, PodOutcome, PodResult, PodTally};
pub use writer::Writer;
