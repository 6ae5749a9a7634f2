//! Packets that this machine's own kernel drops, in network namespaces of the test's own.

mod net;
mod packet;
mod trace;

pub use net::{Net, Side};
pub use packet::Packet;
pub use trace::{Counted, Trace, with_tracefs};
