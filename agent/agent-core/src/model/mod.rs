//! The words of the product: who died, how we know, what was said.
//!
//! Every channel turns its bytes into these types, every exporter reads them.

mod asked;
mod death;
mod gasp;
mod identity;
mod inventory;
mod mitigation;
mod packet;
mod platform;
mod record;
mod removal;
mod report;
mod silence;
mod time;

pub use asked::{Asked, Asker, Means, Process, Stop, Told};
pub(crate) use asked::{container_of, pod_uid_of};
pub use death::{Account, Channel, Death, DeathState, Evidence, Proof, RetryAdvice, Step};
pub use gasp::{Body, Context, Gasp, HoldPoint, Line, LogLine, Notice, Word};
pub use identity::{BootId, DeathName, NodeName, PodRef};
pub use inventory::{Inventory, NOT_ATTACHED, PreviousBoot};
pub use mitigation::{
    GSO_OFF, Mitigation, MitigationCause, MitigationMode, MitigationState, RECEIVE, SEND, Switched,
    is_device,
};
pub use packet::{Check, Element, Packet};
pub use platform::Platform;
pub use record::{Record, RecordKind};
pub use removal::{
    Deleted, Machine, Manager, NodeEvent, NodeObject, OwnedPod, Removal, SeenObject, Taint,
};
pub use report::{KnownBug, ReasonCode, Report};
pub use silence::{Lease, Opinion, Silence};
pub use time::Timestamp;
