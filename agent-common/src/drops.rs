//! Packets that the kernel dropped: what is counted of them, and what is told of a few.
//!
//! Counts are the contract. Each packet that a program saw is in exactly one count: that of
//! its [`Key`], or, where there was no room for another key, that of its reason
//! ([`slot`]). Samples are extra, and those that found no room are counted as well.

/// Counts by reason, for what had no room in a key of its own.
pub const SLOTS: u32 = 4096;

/// Reasons of one subsystem that have a slot of their own.
const SLOTS_EACH: u32 = 512;

/// The slot of all reasons that have none of their own.
pub const SLOT_OTHERS: u32 = SLOTS - 1;

/// Counts of what is lacking, by these numbers.
pub mod lack {
    /// Samples that had no room.
    pub const SAMPLES: u32 = 0;
    /// Packets whose kind had no room: the sum over all slots, which are many to read.
    pub const KINDS: u32 = 1;
    /// How many there are.
    pub const ALL: u32 = 2;
}

/// Where the subsystem begins in a reason (`SKB_DROP_REASON_SUBSYS_SHIFT`,
/// include/net/dropreason.h).
pub const SUBSYSTEM_SHIFT: u32 = 16;

/// The slot of a reason. None is left out; those that nobody knows yet share one.
#[inline]
pub const fn slot(reason: u32) -> u32 {
    let subsystem = reason >> SUBSYSTEM_SHIFT;
    let number = reason & ((1 << SUBSYSTEM_SHIFT) - 1);
    if subsystem < SLOTS / SLOTS_EACH && number < SLOTS_EACH {
        subsystem * SLOTS_EACH + number
    } else {
        SLOT_OTHERS
    }
}

/// The reason that a slot is for; `None` for the one that several share.
pub const fn reason(slot: u32) -> Option<u32> {
    if slot < SLOT_OTHERS {
        Some(((slot / SLOTS_EACH) << SUBSYSTEM_SHIFT) | (slot % SLOTS_EACH))
    } else {
        None
    }
}

/// Longest name of a network device, in bytes (`IFNAMSIZ`).
pub const DEVICE_MAX: usize = 16;

/// Bytes of a packet that a sample has, from its network header on: the outer headers of a
/// tunnel, and the inner ones up to their ports.
pub const HEADER_MAX: usize = 128;

/// Functions of the stack that a sample has.
pub const STACK_MAX: usize = 16;

/// A CPU samples each key once in 2^5 jiffies, which is 32 to 320 ms: by jiffies, as
/// reading the clock costs more than counting.
pub const WINDOW_SHIFT: u32 = 5;

/// What packets have in common that are counted together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// Where in the kernel it was dropped, an address.
    pub location: u64,
    /// Why (`enum skb_drop_reason` and those of subsystems); zero where the kernel gives none.
    pub reason: u32,
    /// The network namespace, by its inode; zero: not known.
    pub netns: u32,
    /// Index of the device in its namespace; zero: not known.
    pub device: u32,
    /// Protocol of Ethernet, in the host's byte order.
    pub protocol: u16,
    /// Protocol of IP, if it is IP: that of the socket which was to receive it, else that of
    /// the first header behind the fixed one.
    pub transport: u16,
}

/// What a CPU counted of a key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// The window of the last sample: jiffies, shifted.
    pub window: u64,
}

/// One packet in detail.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What it is counted under.
    pub key: Key,
    /// `bpf_ktime_get_ns()`.
    pub mono_ns: u64,
    /// Bytes, from where the kernel was in it.
    pub len: u32,
    /// How many of them do not lie in its own buffer.
    pub data_len: u32,
    /// `mark`.
    pub mark: u32,
    /// `hash`.
    pub hash: u32,
    /// CPU.
    pub cpu: u32,
    /// `queue_mapping`.
    pub queue: u16,
    /// `vlan_tci`.
    pub vlan: u16,
    /// `gso_size`.
    pub gso_size: u16,
    /// Valid bytes of `header`.
    pub header_len: u16,
    /// Valid entries of `stack`.
    pub stack_len: u32,
    /// The device's name, NUL-padded; empty where it is not known.
    pub device: [u8; DEVICE_MAX],
    /// The packet, from its network header on.
    pub header: [u8; HEADER_MAX],
    /// Addresses, the innermost first.
    pub stack: [u64; STACK_MAX],
}

const _: () = assert!(size_of::<Key>() == 24);
const _: () = assert!(size_of::<Count>() == 16);
const _: () = assert!(size_of::<Sample>() == 336);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_reasons_share_a_slot_but_those_without_one() {
        assert_eq!(slot(0), 0);
        assert_eq!(slot(130), 130);
        assert_eq!(slot(1 << SUBSYSTEM_SHIFT), 512);
        assert_eq!(slot((7 << SUBSYSTEM_SHIFT) + 510), SLOT_OTHERS - 1);
        for unknown in [u32::MAX, 512, 8 << SUBSYSTEM_SHIFT, 0x1_ffff] {
            assert_eq!(slot(unknown), SLOT_OTHERS, "{unknown:#x}");
        }
        let own: alloc::collections::BTreeSet<u32> = (0..8)
            .flat_map(|subsystem| (0..SLOTS_EACH).map(move |n| (subsystem << SUBSYSTEM_SHIFT) | n))
            .map(slot)
            .collect();
        assert_eq!(own.len(), SLOTS as usize);
        for each in 0..SLOT_OTHERS {
            assert_eq!(reason(each).map(slot), Some(each));
        }
        assert_eq!(reason(SLOT_OTHERS), None);
    }

    extern crate alloc;
}
