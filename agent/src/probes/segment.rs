//! A packet that the kernel would stop at.

use crate::kernel::role::{Candidate, How, Role, Thing};

const ONLY_WITH: (Thing, &str) = (
    Thing::Members(&[
        ("sk_buff", "len"),
        ("sk_buff", "data_len"),
        ("sk_buff", "head_frag"),
        ("sk_buff", "protocol"),
        ("sk_buff", "head"),
        ("sk_buff", "end"),
        ("sk_buff", "dev"),
        ("sk_buff", "sk"),
        ("skb_shared_info", "nr_frags"),
        ("skb_shared_info", "gso_size"),
        ("skb_shared_info", "gso_type"),
        ("skb_shared_info", "frag_list"),
        ("net_device", "name"),
        ("net_device", "ifindex"),
        ("net_device", "nd_net"),
        ("net", "ns"),
    ]),
    "this kernel does not tell where a packet's fields lie",
);

/// The role's name.
pub const NAME: &str = "packets of death";

pub(super) const ROLES: &[Role] = &[Role {
    name: NAME,
    without: "a packet that the kernel is about to stop at (BUG in skb_segment) is not told beforehand",
    candidates: &[
        Candidate {
            only_with: Some(ONLY_WITH),
            ..Candidate::new("fe_skb_segment", How::Fentry, "skb_segment")
        },
        Candidate {
            only_with: Some(ONLY_WITH),
            ..Candidate::new("kp_skb_segment", How::Kprobe, "skb_segment")
        },
    ],
}];
