//! What a kernel left of its death where that outlives the boot.

use serde::{Deserialize, Serialize};

use super::{BootId, Channel, Timestamp};

/// The log of a dying kernel, found by a later boot: a record of pstore, or the
/// dmesg that a crash kernel saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// By which way it outlived the boot.
    pub channel: Channel,
    /// What kept it, for people: `ramoops`, or the file's path.
    pub source: String,
    /// The boot whose end it tells; absent if that is not known.
    #[serde(default)]
    pub boot: Option<BootId>,
    /// Why the kernel wrote it.
    pub kind: RecordKind,
    /// When it was written, by that boot's wall clock, if it says so.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// Parts of it that are lost.
    #[serde(default)]
    pub missing: u32,
    /// Whether its beginning was cut off to fit a message.
    #[serde(default)]
    pub cut: bool,
    /// The log, oldest line first.
    pub text: String,
}

impl Record {
    /// All of a log, of a boot and a time that are not known.
    pub fn new(channel: Channel, source: String, kind: RecordKind, text: String) -> Self {
        Self {
            channel,
            source,
            boot: None,
            kind,
            at: None,
            missing: 0,
            cut: false,
            text,
        }
    }
}

/// Why a kernel writes a record (`enum kmsg_dump_reason`,
/// include/linux/kmsg_dump.h).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum RecordKind {
    /// It panicked, or its crash kernel took over: that boot is over.
    Panic,
    /// An oops, which it may have survived.
    Oops,
}
