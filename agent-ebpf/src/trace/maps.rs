//! Every map and every global of the object, declared once.

use agent_common::drops::{Count, Key, SLOTS, lack};
use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, PerCpuHashMap, RingBuf},
};

/// `BPF_F_NO_PREALLOC` is not set: a program never waits for memory. User space sets how many.
#[map]
pub static COUNTS: PerCpuHashMap<Key, Count> = PerCpuHashMap::with_max_entries(8192, 0);

/// What had no room there, by [`slot`](agent_common::drops::slot) of its reason.
#[map]
pub static NO_ROOM: PerCpuArray<u64> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Samples.
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// What is lacking, by [`lack`].
#[map]
pub static LACKING: PerCpuArray<u64> = PerCpuArray::with_max_entries(lack::ALL, 0);

/// The reasons that are wanted, a bit for the slot of each, if [`by_reason`].
#[unsafe(no_mangle)]
static REASONS: [u64; SLOTS as usize / 64] = [0; SLOTS as usize / 64];

/// Whether the reasons in a slot are wanted.
#[inline(always)]
pub fn wants_slot(slot: u32) -> bool {
    // The compiler knows that this is in range, and would not say so to the verifier.
    let word = (core::hint::black_box(slot) / 64) as usize & (REASONS.len() - 1);
    // SAFETY: within the array, whose length is a power of two; volatile because its
    // content is put there after compilation.
    let word = unsafe { (&raw const REASONS).cast::<u64>().add(word).read_volatile() };
    word >> (slot & 63) & 1 != 0
}

/// Globals that user space sets before it loads the object, and what reads them. The
/// verifier knows their values, and leaves out what they rule out.
macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident, $static:ident;)*) => {$(
        #[unsafe(no_mangle)]
        static $static: u64 = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u64 {
            // SAFETY: a static of this object; volatile because its value is
            // put there after compilation.
            unsafe { core::ptr::read_volatile(&raw const $static) }
        }
    )*};
}

globals! {
    /// Arguments of the tracepoint: 2, with the reason 3, with the receiving socket 4.
    arguments, ARGUMENTS;
    /// Offset of the packet in the record of the classic tracepoint.
    record_packet, RECORD_PACKET;
    /// Offset of the place in the kernel there.
    record_location, RECORD_LOCATION;
    /// Offset of the reason there, or zero if there is none.
    record_reason, RECORD_REASON;
    /// Offset of the receiving socket there, or zero if there is none.
    record_socket, RECORD_SOCKET;
    /// Offset of `len` in `struct sk_buff`. All that is not said to be unknown sometimes is
    /// known.
    skb_len, SKB_LEN;
    /// Offset of `data_len` in `struct sk_buff`.
    skb_data_len, SKB_DATA_LEN;
    /// Offset of `protocol` in `struct sk_buff`.
    skb_protocol, SKB_PROTOCOL;
    /// Offset of `head` in `struct sk_buff`.
    skb_head, SKB_HEAD;
    /// Offset of `data` in `struct sk_buff`.
    skb_data, SKB_DATA;
    /// Offset of `tail` in `struct sk_buff`.
    skb_tail, SKB_TAIL;
    /// Offset of `end` in `struct sk_buff`.
    skb_end, SKB_END;
    /// Offset of `network_header` in `struct sk_buff`.
    skb_network_header, SKB_NETWORK_HEADER;
    /// Offset of `dev` in `struct sk_buff`.
    skb_device, SKB_DEVICE;
    /// Offset of `sk` in `struct sk_buff`.
    skb_socket, SKB_SOCKET;
    /// Offset of `skb_iif` in `struct sk_buff`.
    skb_arrived_by, SKB_ARRIVED_BY;
    /// Offset of `mark` in `struct sk_buff`, or zero if it has none.
    skb_mark, SKB_MARK;
    /// Offset of `hash` in `struct sk_buff`, or zero if not known.
    skb_hash, SKB_HASH;
    /// Offset of `queue_mapping` in `struct sk_buff`, or zero if not known.
    skb_queue, SKB_QUEUE;
    /// Offset of `vlan_tci` in `struct sk_buff`, or zero if not known.
    skb_vlan, SKB_VLAN;
    /// Offset of `gso_size` in `struct skb_shared_info`.
    shared_size, SHARED_SIZE;
    /// Offset of `name` in `struct net_device`; may be zero.
    device_name, DEVICE_NAME;
    /// Offset of `ifindex` in `struct net_device`.
    device_index, DEVICE_INDEX;
    /// Offset of `nd_net` in `struct net_device`.
    device_net, DEVICE_NET;
    /// Offset of `__sk_common.skc_net` in `struct sock`.
    socket_net, SOCKET_NET;
    /// Offset of `__sk_common.skc_family` in `struct sock`.
    socket_family, SOCKET_FAMILY;
    /// Offset of `sk_protocol` in `struct sock`, or zero if not known.
    socket_protocol, SOCKET_PROTOCOL;
    /// Offset of `ns.inum` in `struct net`.
    net_number, NET_NUMBER;
    /// One to take the stack with each sample.
    stacks, STACKS;
    /// One to count only packets whose reason is in [`wants_slot`].
    by_reason, BY_REASON;
    /// The network namespace whose packets are counted; zero: all.
    netns, NETNS;
    /// The protocol of Ethernet that is counted; zero: all.
    protocol, PROTOCOL;
    /// The protocol of IP that is counted; zero: all.
    transport, TRANSPORT;
    /// Another one, or the same.
    transport_too, TRANSPORT_TOO;
    /// The port, of either end, that is counted; zero: all.
    port, PORT;
    /// The first half of the name of the device that is counted; zero: all.
    device, DEVICE;
    /// The second half.
    device_rest, DEVICE_REST;
}
