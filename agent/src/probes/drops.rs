//! Packets that the kernel drops, for `lastgasp trace`: not one of the agent's probes.

use crate::kernel::role::{Candidate, How, Role};

/// The tracepoint, in the cheapest form that the kernel takes: with types the program reads
/// by loads, without them by calls.
pub const ROLE: Role = Role {
    name: "dropped packets",
    without: "no drop is seen",
    candidates: &[
        Candidate::new("tp_kfree_skb", How::TpBtf, "kfree_skb"),
        Candidate::new("raw_kfree_skb", How::RawTp, "kfree_skb"),
        Candidate::new("classic_kfree_skb", How::Tracepoint("skb"), "kfree_skb"),
    ],
};
