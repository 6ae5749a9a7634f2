//! Packets that the kernel is about to take apart, and whether it would stop at them.
//!
//! `skb_segment` (net/core/skbuff.c) cuts a packet into segments of one size. Its data
//! lies in the packet's own buffer, in pages (*frags*), and in a list of further packets
//! (*elements*, `frag_list`). What the kernel takes for granted about the list it checks
//! with `BUG_ON`: a packet that is otherwise ends the machine. Here the same is checked
//! before. The conditions have been the same from 5.10 to 7.3.

#![expect(
    clippy::inline_always,
    reason = "in an eBPF program, what is not inlined is a call with limits of its own"
)]

use crate::COMM_MAX;
use crate::asked::{CGROUP_MAX, CGROUPS_MAX};

/// Most elements that are looked at; what has more is not judged. GRO merges 64 KiB.
pub const ELEMENTS_MAX: u32 = 64;

/// Elements that are told of.
pub const TOLD_MAX: usize = 8;

/// Bytes of the stack that are told of: a dozen functions.
pub const STACK_MAX: usize = 400;

/// Longest name of a network device or a driver, in bytes (`IFNAMSIZ`).
pub const NAME_MAX: usize = COMM_MAX;

/// `NETIF_F_SG` (include/linux/netdev_features.h): the device takes data in pages.
const FEATURE_PAGES: u64 = 1 << 0;
/// `NETIF_F_IP_CSUM`: it computes the checksums of TCP and UDP over IPv4.
const FEATURE_CHECKSUM_4: u64 = 1 << 1;
/// `NETIF_F_HW_CSUM`: it computes any.
const FEATURE_CHECKSUM: u64 = 1 << 3;
/// `NETIF_F_IPV6_CSUM`: those over IPv6.
const FEATURE_CHECKSUM_6: u64 = 1 << 4;
/// `NETIF_F_GSO_SHIFT`: above it a bit for each kind of packet that it takes apart.
const FEATURE_KINDS_SHIFT: u32 = 16;
/// `NETIF_F_GSO_PARTIAL`: it does if the outer headers are right already.
const FEATURE_PARTIAL: u64 = 1 << 28;

/// `SKB_GSO_DODGY` (include/linux/skbuff.h): from an untrusted source.
const KIND_DODGY: u32 = 1 << 1;

/// `GSO_BY_FRAGS`: as the data lies, not by size.
const SIZE_BY_FRAGS: u32 = 0xffff;

/// `ETH_P_IP`, `ETH_P_IPV6` (include/uapi/linux/if_ether.h).
const PROTOCOL_4: u16 = 0x0800;
const PROTOCOL_6: u16 = 0x86dd;

/// What the kernel would stop at. The numbers are also those of the gasp protocol.
pub mod check {
    /// Nothing.
    pub const NONE: u8 = 0;
    /// `BUG_ON(skb_headlen(list_skb) > len)`: more in one piece than a segment holds.
    pub const HEAD_TOO_LONG: u8 = 1;
    /// `BUG_ON(i >= nfrags)`: less than a segment.
    pub const TOO_SHORT: u8 = 2;
    /// `BUG_ON(!nfrags)`: nothing at all.
    pub const EMPTY: u8 = 3;
    /// `BUG_ON(!list_skb->head_frag)`: a piece that lies in no page.
    pub const NOT_IN_A_PAGE: u8 = 4;
}

/// A packet with a list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// What the device can do (`netdev_features_t`).
    pub features: u64,
    /// `gso_type`.
    pub kind: u32,
    /// `gso_size`.
    pub size: u32,
    /// Bytes of payload, with those of the list.
    pub len: u32,
    /// How many of them lie in its own buffer.
    pub linear: u32,
    /// Its protocol, of Ethernet, in the host's byte order.
    pub protocol: u16,
}

/// One packet of a list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Element {
    /// Bytes.
    pub len: u32,
    /// How many of them lie in its own buffer.
    pub linear: u32,
    /// Its pages.
    pub frags: u16,
    /// One if its own buffer is a page (`head_frag`).
    pub in_a_page: u16,
}

/// A whole list, in short.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct List {
    /// Bytes.
    pub bytes: u32,
    /// Length of the first element.
    first: u32,
    /// Length of the last one so far.
    last: u32,
    /// Bits of a difference between the first and any other but the last.
    uneven: u32,
    /// Not zero if some element has a buffer with data that is no page.
    copied: u32,
}

impl List {
    /// The list with one element.
    #[inline(always)]
    pub fn begun(first: Element) -> Self {
        Self {
            bytes: first.len,
            first: first.len,
            last: first.len,
            uneven: 0,
            copied: is_copied(first),
        }
    }

    /// The list with one element more. Without a branch, for the verifier.
    #[inline(always)]
    #[must_use]
    pub fn with(self, next: Element) -> Self {
        Self {
            bytes: self.bytes.wrapping_add(next.len),
            first: self.first,
            last: next.len,
            uneven: self.uneven | (self.last ^ self.first),
            copied: self.copied | is_copied(next),
        }
    }
}

/// Not zero if it has a buffer with data that is no page. Without a branch as well.
#[inline(always)]
fn is_copied(element: Element) -> u32 {
    element.linear * u32::from(element.in_a_page ^ 1)
}

/// How a packet is taken apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Bytes of a segment.
    size: u32,
    /// Bytes of the packet.
    len: u32,
    /// Where in it the next element begins.
    at: u32,
}

impl Plan {
    /// `None`: all of it is copied, and nothing is taken for granted.
    #[inline(always)]
    pub fn of(head: &Head, list: &List) -> Option<Self> {
        let mut size = head.size;
        if size == 0 || size == SIZE_BY_FRAGS || head.features & FEATURE_PAGES == 0 {
            return None;
        }
        let dodgy = head.kind & KIND_DODGY != 0;
        if dodgy && list.copied != 0 && size != head.linear {
            return None;
        }
        // What the device takes apart by itself leaves here in fewer, larger pieces.
        if let Some(len) = undivided(head, list) {
            let len = if len < SIZE_BY_FRAGS {
                len
            } else {
                SIZE_BY_FRAGS - 1
            };
            if len / size > 1 {
                size *= len / size;
            }
        }
        Some(Self {
            size,
            len: head.len,
            at: head.len.wrapping_sub(list.bytes),
        })
    }

    /// The kernel comes to the next element: what it would stop at ([`check`]).
    #[inline(always)]
    pub fn next(&mut self, element: Element) -> u8 {
        let Self { size, len, at } = *self;
        self.at = at.wrapping_add(element.len);
        if at >= len {
            return check::NONE;
        }
        let left = len - at;
        let segment = if left < size { left } else { size };
        // Never zero; said so that the compiler has no panic to call.
        let begins_segment = at.checked_rem(size) == Some(0);
        if begins_segment && element.linear != 0 {
            // The element becomes the segment.
            if element.linear > segment {
                check::HEAD_TOO_LONG
            } else if element.len < segment {
                check::TOO_SHORT
            } else {
                check::NONE
            }
        } else if element.linear == 0 && element.frags == 0 {
            // Its pieces are added to the segment.
            check::EMPTY
        } else if element.linear != 0 && element.in_a_page == 0 {
            check::NOT_IN_A_PAGE
        } else {
            check::NONE
        }
    }
}

/// The length of what could be left to the device in one piece.
#[inline(always)]
fn undivided(head: &Head, list: &List) -> Option<u32> {
    let by_protocol = match head.protocol {
        PROTOCOL_4 => FEATURE_CHECKSUM_4,
        PROTOCOL_6 => FEATURE_CHECKSUM_6,
        _ => 0,
    };
    if head.features & (FEATURE_CHECKSUM | by_protocol) == 0 {
        return None;
    }
    if head.features & FEATURE_PARTIAL != 0 {
        return Some(head.len);
    }
    let kinds = u64::from(head.kind) << FEATURE_KINDS_SHIFT;
    let rest = head.len.wrapping_sub(list.bytes);
    let is_even = list.uneven == 0 && list.copied == 0 && rest == list.first;
    (head.features & kinds == kinds && is_even).then_some(rest)
}

/// The text of a mark with [`crate::DETAIL_PACKET`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// What the device can do.
    pub features: u64,
    /// One of [`check`].
    pub check: u8,
    /// Elements in `told`.
    pub told_len: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Which element it is, from 0.
    pub element: u32,
    /// How many there are.
    pub elements: u32,
    /// `gso_type`.
    pub kind: u32,
    /// `gso_size`.
    pub size: u32,
    /// Bytes of payload, with those of the list.
    pub len: u32,
    /// How many of them lie in its own buffer.
    pub linear: u32,
    /// Its own pages.
    pub frags: u32,
    /// The network namespace of its device (`/proc/PID/ns/net`), or zero.
    pub netns: u32,
    /// Index of the device, or zero.
    pub device_index: u32,
    /// Name of the device.
    pub device: [u8; NAME_MAX],
    /// Name of the device's driver; without hardware, its kind (`rtnl_link_ops`). Empty where
    /// not known.
    pub driver: [u8; NAME_MAX],
    /// Names of the cgroups of the socket that it comes from, its own first.
    pub cgroups: [[u8; CGROUP_MAX]; CGROUPS_MAX],
    /// The first elements of the list.
    pub told: [Element; TOLD_MAX],
    /// The functions that led here, innermost first, each behind a newline, up to a zero
    /// byte; empty where the kernel cannot write them down.
    pub stack: [u8; STACK_MAX],
}

/// Of so many packets the time is taken for one; a power of two.
pub const SAMPLE_EVERY: u64 = 256;

/// What one CPU has seen of packets that are taken apart.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Segments {
    /// All of them.
    pub packets: u64,
    /// Those of which the time was taken.
    pub sampled: u64,
    /// And how much that was, in nanoseconds.
    pub sampled_ns: u64,
    /// Not judged: with a list too long to be looked at, or in an interrupt while another
    /// one was.
    pub unjudged: u64,
    /// That had a list, and were judged by it.
    pub judged: u64,
    /// That the kernel would stop at.
    pub foreseen: u64,
    /// When the last sample began.
    pub started_ns: u64,
    /// The element that is next, or zero. This and what is below is of the packet that is
    /// looked at.
    pub at: u64,
    /// Its list, as far as it was gone through.
    pub list: List,
    /// How it is taken apart.
    pub plan: Plan,
    /// How many elements it has.
    pub elements: u32,
    /// At which the kernel would stop.
    pub element: u32,
    /// And why ([`check`]).
    pub found: u32,
    /// One while a packet is looked at.
    pub busy: u32,
}

const _: () = assert!(size_of::<Segments>() == 128);
const _: () = assert!(SAMPLE_EVERY.is_power_of_two());
const _: () = assert!(size_of::<Packet>() <= crate::TEXT_MAX);
const _: () = assert!(core::mem::offset_of!(crate::Slot, text) % align_of::<Packet>() == 0);

#[cfg(test)]
mod tests;
