//! A packet on its way out of the kernel (`struct sk_buff`, include/linux/skbuff.h): whose
//! it was, what it was. User space has found a place for each field, or attached nothing.

use agent_common::drops::{DEVICE_MAX, HEADER_MAX, Key, Sample};
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel,
};

use crate::maps;
use crate::read::number;

/// `ETH_P_IP`, `ETH_P_IPV6` (include/uapi/linux/if_ether.h).
const PROTOCOL_4: u16 = 0x0800;
const PROTOCOL_6: u16 = 0x86dd;

/// Bytes of the fixed header of IPv6.
const HEADER_6: u64 = 40;

/// `AF_INET`, `AF_INET6` (include/linux/socket.h).
const FAMILIES: [u16; 2] = [2, 10];

/// How kernel memory is read.
pub trait Memory {
    /// Whether reading a field of a structure costs less than calling a helper.
    const IS_CHEAP: bool;

    /// What lies at `offset` behind `address`; zero where that is no memory.
    fn number<T: Copy + Default>(address: u64, offset: u64) -> T;

    /// The same of an address, of which zero stays zero.
    #[inline(always)]
    fn pointer(address: u64, offset: u64) -> u64 {
        if address == 0 {
            return 0;
        }
        Self::number(address, offset)
    }

    /// The same of a number that may be unknown.
    #[inline(always)]
    fn known<T: Copy + Default>(address: u64, offset: u64) -> T {
        if address == 0 {
            return T::default();
        }
        Self::number(address, offset)
    }
}

/// By a load: for programs whose arguments the verifier knows the types of. It follows them
/// from structure to structure, and a fault of such a load gives zero. A helper would cost as
/// much as all the rest.
pub struct Typed;

impl Memory for Typed {
    const IS_CHEAP: bool = true;

    #[inline(always)]
    fn number<T: Copy + Default>(address: u64, offset: u64) -> T {
        // SAFETY: the verifier accepts it only if it is a field of that size, of a
        // structure of the kernel's. Volatile keeps it behind what was checked before it.
        unsafe { ((address + offset) as *const T).read_volatile() }
    }
}

/// By the helper that may be given any address.
pub struct Untyped;

impl Memory for Untyped {
    const IS_CHEAP: bool = false;

    #[inline(always)]
    fn number<T: Copy + Default>(address: u64, offset: u64) -> T {
        number(address, offset)
    }
}

/// What the tracepoint says.
#[derive(Clone, Copy)]
pub struct Dropped {
    /// The packet.
    pub packet: u64,
    /// Where it was dropped.
    pub location: u64,
    /// Why; zero if the kernel does not say.
    pub reason: u32,
    /// The socket that was to receive it, or zero.
    pub socket: u64,
}

impl Dropped {
    /// What it is counted under.
    #[inline(always)]
    pub fn key<M: Memory>(&self) -> Key {
        let device = M::pointer(self.packet, maps::skb_device());
        let (index, netns) = self.place::<M>(device);
        let protocol = u16::from_be(M::number(self.packet, maps::skb_protocol()));
        Key {
            location: self.location,
            reason: self.reason,
            netns,
            device: index,
            protocol,
            transport: self.transport::<M>(protocol),
        }
    }

    /// Index of its device, and its network namespace.
    ///
    /// The socket knows best whose it was: on its way up `dev` may be of another
    /// namespace, and in a socket's queue its place is used for something else, which is
    /// no address (`dev_scratch`). Then the index of the device that it came by is left.
    #[inline(always)]
    fn place<M: Memory>(&self, device: u64) -> (u32, u32) {
        let mut netns = 0;
        if self.socket != 0 {
            netns = M::known(
                M::pointer(self.socket, maps::socket_net()),
                maps::net_number(),
            );
        }
        if netns == 0 {
            netns = M::known(M::pointer(device, maps::device_net()), maps::net_number());
        }
        if netns == 0 {
            let socket = M::pointer(self.packet, maps::skb_socket());
            netns = M::known(M::pointer(socket, maps::socket_net()), maps::net_number());
        }
        let mut index = M::known(device, maps::device_index());
        if index == 0 {
            index = M::number(self.packet, maps::skb_arrived_by());
        }
        (index, netns)
    }

    /// Where its network header begins.
    #[inline(always)]
    fn network<M: Memory>(&self) -> u64 {
        let head: u64 = M::number(self.packet, maps::skb_head());
        let at: u16 = M::number(self.packet, maps::skb_network_header());
        head + u64::from(at)
    }

    #[inline(always)]
    fn transport<M: Memory>(&self, protocol: u16) -> u16 {
        let at = match protocol {
            PROTOCOL_4 => 9,
            PROTOCOL_6 => 6,
            _ => return 0,
        };
        if M::IS_CHEAP && self.socket != 0 && maps::socket_protocol() != 0 {
            let family: u16 = M::number(self.socket, maps::socket_family());
            if FAMILIES.contains(&family) {
                return M::number(self.socket, maps::socket_protocol());
            }
        }
        // Data of a packet has no type: a load is not for it. This call is nearly half of
        // what counting costs.
        Untyped::number::<u8>(self.network::<M>(), at).into()
    }

    /// Whether one of its ports is this one.
    #[inline(always)]
    pub fn has_port(&self, key: &Key, port: u16) -> bool {
        // TCP, UDP, DCCP, SCTP, UDP-Lite.
        if !matches!(key.transport, 6 | 17 | 33 | 132 | 136) {
            return false;
        }
        let network = self.network::<Untyped>();
        let behind = if key.protocol == PROTOCOL_6 {
            HEADER_6
        } else {
            u64::from(Untyped::number::<u8>(network, 0) & 0xf) * 4
        };
        let ports: [u16; 2] = Untyped::number(network, behind);
        u16::from_be(ports[0]) == port || u16::from_be(ports[1]) == port
    }

    /// Whether its device has this name, in two halves.
    #[inline(always)]
    pub fn has_device(&self, name: [u64; 2]) -> bool {
        let device = Untyped::pointer(self.packet, maps::skb_device());
        let found: [u64; 2] = Untyped::known(device, maps::device_name());
        found[0] == name[0] && found[1] == name[1]
    }

    /// Writes down all but the key and the stack.
    ///
    /// # Safety
    ///
    /// `into` is memory of a ring buffer.
    #[inline(always)]
    pub unsafe fn describe(&self, into: *mut Sample) {
        let long = |offset: u64| -> u32 {
            if offset == 0 {
                0
            } else {
                Untyped::number(self.packet, offset)
            }
        };
        let short = |offset: u64| -> u16 {
            if offset == 0 {
                0
            } else {
                Untyped::number(self.packet, offset)
            }
        };
        let head: u64 = Untyped::number(self.packet, maps::skb_head());
        let data: u64 = Untyped::number(self.packet, maps::skb_data());
        let tail: u32 = Untyped::number(self.packet, maps::skb_tail());
        let end: u32 = Untyped::number(self.packet, maps::skb_end());
        let network = short(maps::skb_network_header());
        // One that was never set has no header there, but data.
        let (from, at) = if network == 0 || network == u16::MAX {
            (data, data.wrapping_sub(head) as u32)
        } else {
            (head + u64::from(network), network.into())
        };
        let shared = head + u64::from(end);
        let device = Untyped::pointer(self.packet, maps::skb_device());
        let name: [u8; DEVICE_MAX] = Untyped::known(device, maps::device_name());
        // SAFETY: the caller's promise; the helper writes as many bytes as there are, zeros
        // if it fails. What is behind the packet's end, user space leaves out.
        unsafe {
            (*into).mono_ns = bpf_ktime_get_ns();
            (*into).len = long(maps::skb_len());
            (*into).data_len = long(maps::skb_data_len());
            (*into).mark = long(maps::skb_mark());
            (*into).hash = long(maps::skb_hash());
            (*into).cpu = bpf_get_smp_processor_id();
            (*into).queue = short(maps::skb_queue());
            (*into).vlan = short(maps::skb_vlan());
            (*into).gso_size = Untyped::number(shared, maps::shared_size());
            (*into).header_len = tail.saturating_sub(at).min(HEADER_MAX as u32) as u16;
            (*into).device = name;
            let header = (&raw mut (*into).header).cast();
            bpf_probe_read_kernel(header, HEADER_MAX as u32, from as *const _);
        }
    }
}
