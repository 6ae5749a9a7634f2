//! `struct sk_buff` (include/linux/skbuff.h): how the data of a packet lies, and whose
//! it is. What user space could not find a place for is not attached, or stays unknown.

use agent_common::segment::{Element, Head, NAME_MAX, Packet, TOLD_MAX};
use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str},
};

use super::read::number;
use super::{cgroup, field, pointer, stack};
use crate::maps;

/// A packet of the kernel's.
#[derive(Clone, Copy)]
pub struct Skb {
    address: u64,
    /// Its `struct skb_shared_info`.
    shared: u64,
}

impl Skb {
    #[inline(always)]
    pub fn at(address: u64) -> Self {
        let end: u32 = number(address, maps::skb_end());
        let head: u64 = number(address, maps::skb_head());
        Self {
            address,
            shared: head + u64::from(end),
        }
    }

    /// Address of the first element of its list, or zero.
    #[inline(always)]
    pub fn list(self) -> u64 {
        number(self.shared, maps::shared_list())
    }

    /// What decides how it is taken apart.
    #[inline(always)]
    pub fn head(self, features: u64) -> Head {
        let len: u32 = number(self.address, maps::skb_len());
        let protocol: u16 = number(self.address, maps::skb_protocol());
        Head {
            features,
            kind: number(self.shared, maps::shared_kind()),
            size: number::<u16>(self.shared, maps::shared_size()).into(),
            len,
            linear: linear(self.address, len),
            protocol: u16::from_be(protocol),
        }
    }

    /// Its own pages.
    #[inline(always)]
    fn frags(self) -> u8 {
        number(self.shared, maps::shared_frags())
    }

    /// Writes down what it is, and who is at it: `caller` as in [`stack::write`].
    ///
    /// # Safety
    ///
    /// `into` is in a map value.
    #[inline(always)]
    pub unsafe fn describe<C: EbpfContext>(
        self,
        context: &C,
        features: u64,
        caller: u64,
        into: *mut Packet,
    ) {
        // Read once more, rather than known since: see `probes::segment::judge`.
        let head = self.head(features);
        let device = pointer(self.address, maps::skb_device());
        let driver = pointer(
            pointer(device, maps::device_parent()),
            maps::device_driver(),
        );
        let socket = pointer(self.address, maps::skb_socket());
        // SAFETY: the caller's promise; the helpers write at most as many bytes as they
        // are told, and fail, rather than fault, on a bad address.
        unsafe {
            (*into).features = head.features;
            (*into).kind = head.kind;
            (*into).size = head.size;
            (*into).len = head.len;
            (*into).linear = head.linear;
            (*into).frags = self.frags().into();
            (*into).netns =
                field(pointer(device, maps::device_net()), maps::net_number()).unwrap_or(0);
            (*into).device_index = field(device, maps::device_index()).unwrap_or(0);
            (*into).device[0] = 0;
            if device != 0 {
                // In a field of its own; its place may be the first one, zero.
                let from = device + maps::device_name();
                let name = (&raw mut (*into).device).cast();
                bpf_probe_read_kernel(name, NAME_MAX as u32, from as *const _);
            }
            (*into).driver[0] = 0;
            // The name is the first member of `struct device_driver`.
            let from = if driver == 0 {
                let link = pointer(device, maps::device_link());
                pointer(link, maps::link_kind())
            } else {
                first(driver)
            };
            if from != 0 {
                let name = (&raw mut (*into).driver).cast();
                bpf_probe_read_kernel_str(name, NAME_MAX as u32, from as *const _);
            }
            cgroup::names(
                pointer(socket, maps::socket_cgroup()),
                &raw mut (*into).cgroups,
            );
            (*into).told_len = tell(self.list(), &raw mut (*into).told);
            stack::write(context, caller, &raw mut (*into).stack);
        }
    }
}

/// An element of a list.
#[inline(always)]
pub fn element(address: u64) -> Element {
    let len: u32 = number(address, maps::skb_len());
    let linear = linear(address, len);
    // Only where there is nothing else it matters whether there are any.
    let frags = if linear == 0 {
        Skb::at(address).frags()
    } else {
        0
    };
    let bit = maps::skb_head_frag();
    let bits: u8 = number(address, bit / 8);
    Element {
        len,
        linear,
        frags: frags.into(),
        in_a_page: u16::from(bits >> (bit % 8) & 1),
    }
}

/// The one behind an element, or zero: `next` is the first member.
#[inline(always)]
pub fn next(address: u64) -> u64 {
    first(address)
}

/// How many bytes lie in a packet's own buffer (`skb_headlen`).
#[inline(always)]
fn linear(address: u64, len: u32) -> u32 {
    let in_pages: u32 = number(address, maps::skb_data_len());
    len.wrapping_sub(in_pages)
}

/// The first member of a structure, an address.
#[inline(always)]
fn first(address: u64) -> u64 {
    number(address, 0)
}

/// Writes down the first elements of a list; how many.
///
/// # Safety
///
/// `into` is in a map value.
#[inline(always)]
unsafe fn tell(list: u64, into: *mut [Element; TOLD_MAX]) -> u8 {
    let into = into.cast::<Element>();
    let (mut at, mut told) = (list, 0);
    while told < TOLD_MAX {
        if at == 0 {
            break;
        }
        // SAFETY: the caller's promise; the index is below the array's length.
        unsafe { into.add(told).write(element(at)) };
        at = next(at);
        told += 1;
    }
    told as u8
}
