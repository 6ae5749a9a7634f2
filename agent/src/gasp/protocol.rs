//! Gasp protocol, version 1: one datagram, one frame.
//!
//! The layout is the table in `ARCHITECTURE.md`. A sender prepares a
//! [`Sealer`] while the machine is well and fills frames on the dying path
//! without allocation; a receiver reads them with [`Frame::parse`], proves
//! them with [`Frame::verify`] and only then turns them into the model.

mod asked;
mod frame;
mod key;
mod packet;
mod part;
mod seal;

pub use frame::{BodyError, Frame, ParseError, VerifyError, hello, record};
pub use key::{Key, KeyError, KeyRing};
pub use seal::{Draft, Sealer, Stamp, WordParts};

use agent_core::model::{BootId, NodeName};

/// Longest frame, in bytes: fits an Ethernet MTU of 1500 with room for tunnels.
pub const MAX_FRAME: usize = 1400;

/// Longest hello or record in all its fragments, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Most fragments a message may have: [`MAX_MESSAGE`] in the smallest payload
/// that a frame with the longest node name leaves, and a reserve.
pub const MAX_FRAGMENTS: u16 = 128;

/// Where the kind of a frame is, in bytes from its start.
pub const KIND_AT: u32 = at::KIND as u32;

const MAGIC: [u8; 4] = *b"LGSP";
const VERSION: u8 = 1;
/// Bytes before the node name.
const HEADER: usize = 88;
/// Bytes of the HMAC at the end.
const MAC: usize = 32;
/// Longest node name, in bytes ([`NodeName`]).
const NAME_MAX: usize = 253;

/// Offsets of the header's fields.
mod at {
    pub(super) const VERSION: usize = 4;
    pub(super) const KIND: usize = 5;
    pub(super) const FLAGS: usize = 6;
    pub(super) const NAME_LEN: usize = 7;
    pub(super) const KEY_ID: usize = 8;
    pub(super) const FRAGMENT: usize = 12;
    pub(super) const FRAGMENTS: usize = 14;
    pub(super) const SESSION: usize = 16;
    pub(super) const SEQ: usize = 24;
    pub(super) const MONO: usize = 32;
    pub(super) const WALL: usize = 40;
    pub(super) const BOOT: usize = 48;
    pub(super) const UID: usize = 64;
    pub(super) const PAYLOAD_LEN: usize = 80;
}

/// Bits of the header's flags.
mod flag {
    pub(super) const UID: u8 = 1;
    pub(super) const BELOW_UDP: u8 = 2;
}

/// Bytes of a word before its comm.
const WORD: usize = 32;
/// Bytes of a line before its text.
const LINE: usize = 22;
/// A line's level where the call site gave none.
const NO_LEVEL: u8 = 255;
/// Line flag: it continues the one before from the same CPU.
pub const LINE_CONTINUES: u8 = 1;
/// Line flag: its end was cut off.
pub const LINE_CUT: u8 = 2;

/// What a frame says. The number is the wire's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// The agent is up; the payload is the boot's inventory as JSON.
    Hello = 1,
    /// The node lives.
    Heartbeat = 2,
    /// The agent stops in an orderly way.
    Goodbye = 3,
    /// Something is dying: the first words.
    Word = 4,
    /// Kernel log lines.
    Lines = 5,
    /// An announced death did not happen.
    Survived = 6,
    /// What an earlier boot left of its end, as JSON.
    Record = 7,
    /// From a collector to an agent: it has this record on its disk.
    Receipt = 8,
    /// From a collector to an agent: how an earlier boot on its kernel died, and what may
    /// be done against it, as JSON.
    Advice = 9,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Hello,
        Self::Heartbeat,
        Self::Goodbye,
        Self::Word,
        Self::Lines,
        Self::Survived,
        Self::Record,
        Self::Receipt,
        Self::Advice,
    ];

    /// The kind with this number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether its messages may take several frames.
    pub fn has_fragments(self) -> bool {
        matches!(self, Self::Hello | Self::Record)
    }
}

/// Who speaks: what is the same in every frame of one agent process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeName,
    /// The Node object's uid, if known.
    pub node_uid: Option<[u8; 16]>,
    /// The boot.
    pub boot: BootId,
    /// Random number of the sending process.
    pub session: u64,
    /// Which key the frames are sealed with.
    pub key_id: u32,
}

#[cfg(test)]
mod tests;
