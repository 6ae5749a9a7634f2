//! A packet that the kernel is about to stop at.

use serde::{Deserialize, Serialize};

use super::asked;

/// All that was seen of it, before `skb_segment` (net/core/skbuff.c) took it apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// What the kernel would stop at.
    pub check: Check,
    /// At which element of its list, from 0.
    pub element: u32,
    /// How many of those there are.
    pub elements: u32,
    /// `gso_size`, in bytes.
    pub gso_size: u32,
    /// `gso_type`, bits of `SKB_GSO_*` (include/linux/skbuff.h).
    pub gso_type: u32,
    /// Bytes of payload, with those of the list.
    pub len: u32,
    /// How many of them lie in its own buffer.
    pub linear: u32,
    /// Its own pages.
    pub frags: u32,
    /// What the device can do, bits of `NETIF_F_*` (include/linux/netdev_features.h).
    pub features: u64,
    /// The device that it leaves by; empty where not known.
    pub device: String,
    /// Index of that device.
    pub device_index: u32,
    /// Its driver; without hardware, its kind, such as `veth`. Empty where not known.
    pub driver: String,
    /// Its network namespace, as `/proc/PID/ns/net` has it; zero where not known.
    pub netns: u32,
    /// The cgroup of the socket that it comes from, then those around it. Empty where it
    /// was forwarded, or not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
    /// The first elements. Bounded.
    pub list: Vec<Element>,
    /// Functions that led there, innermost first, as the kernel names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
}

/// One packet of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// Bytes.
    pub len: u32,
    /// How many of them lie in its own buffer.
    pub linear: u32,
    /// Whether that buffer is a page (`head_frag`).
    pub in_a_page: bool,
}

/// A `BUG_ON` of `skb_segment`. The number is the wire's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Check {
    /// An element has more in one piece than a segment holds.
    HeadTooLong = 1,
    /// An element has less than a segment.
    TooShort = 2,
    /// An element has nothing.
    Empty = 3,
    /// A piece that is to be shared lies in no page.
    NotInAPage = 4,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::HeadTooLong,
        Self::TooShort,
        Self::Empty,
        Self::NotInAPage,
    ];

    /// The one with this number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|check| *check as u8 == number)
    }

    /// The kernel's own words for it.
    pub fn condition(self) -> &'static str {
        match self {
            Self::HeadTooLong => "BUG_ON(skb_headlen(list_skb) > len)",
            Self::TooShort => "BUG_ON(i >= nfrags)",
            Self::Empty => "BUG_ON(!nfrags)",
            Self::NotInAPage => "BUG_ON(!list_skb->head_frag)",
        }
    }
}

impl Packet {
    /// The uid of the pod whose socket it comes from, by the cgroups' names.
    pub fn pod_uid(&self) -> Option<String> {
        asked::pod_uid_of(&self.cgroups)
    }

    /// Where it leaves: `eth0 (virtio_net)`; empty where not known.
    pub fn way_out(&self) -> String {
        match (self.device.as_str(), self.driver.as_str()) {
            (device, "") => device.to_owned(),
            (device, driver) => format!("{device} ({driver})"),
        }
    }
}
