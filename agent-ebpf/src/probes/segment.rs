//! A packet is about to be taken apart (`skb_segment`, net/core/skbuff.c): would the
//! kernel stop at it? Then that is told, and waited for, before it does.

#[cfg(feature = "basic")]
#[path = "segment/basic.rs"]
mod walk;
#[cfg(not(feature = "basic"))]
#[path = "segment/looped.rs"]
mod walk;

use agent_common::{
    hold,
    segment::{List, Plan, SAMPLE_EVERY, Segments, check},
};
use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};

use crate::{
    emit,
    hold::until_acked,
    kernel::packet::{self, Skb},
    maps::SEGMENTS,
};

/// `struct sk_buff *skb_segment(struct sk_buff *head_skb, netdev_features_t features)`
///
/// `caller` as in [`kernel::stack::write`](crate::kernel::stack::write).
#[inline(always)]
fn skb_segment<C: EbpfContext>(context: &C, address: u64, features: u64, caller: u64) {
    let Some(seen) = of_this_cpu() else {
        return;
    };
    // SAFETY: a map value of this CPU. An interrupt in between costs one count.
    let count = unsafe { (*seen).packets };
    // SAFETY: as above.
    unsafe { (*seen).packets = count + 1 };
    if count & (SAMPLE_EVERY - 1) == 0 {
        // SAFETY: as above.
        unsafe { (&raw mut (*seen).started_ns).write_volatile(bpf_ktime_get_ns()) };
    }
    let packet = Skb::at(address);
    let is_bad = is_bad(packet, features, seen);
    // Read once more, or the compiler would make two programs of one, for samples and all
    // others.
    // SAFETY: as above.
    unsafe {
        let count = (&raw const (*seen).packets).read_volatile();
        if count & (SAMPLE_EVERY - 1) == 1 {
            let started = (&raw const (*seen).started_ns).read_volatile();
            (*seen).sampled += 1;
            (*seen).sampled_ns += bpf_ktime_get_ns().wrapping_sub(started);
        }
    }
    if is_bad {
        foresee(context, packet, features, caller, seen);
        // SAFETY: as above.
        unsafe { (&raw mut (*seen).busy).write_volatile(0) };
    }
}

/// What this CPU has seen.
#[inline(always)]
fn of_this_cpu() -> Option<*mut Segments> {
    // SAFETY: a helper without arguments.
    SEGMENTS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Whether the kernel would stop at a packet; then `seen` says where, and is busy until
/// that is told.
#[inline(always)]
fn is_bad(packet: Skb, features: u64, seen: *mut Segments) -> bool {
    // Mostly there is no list, and then nothing is to be checked.
    if packet.list() == 0 {
        return false;
    }
    // SAFETY: a map value of this CPU; an interrupt leaves it as it was.
    unsafe {
        if (&raw const (*seen).busy).read_volatile() != 0 {
            (*seen).unjudged += 1;
            return false;
        }
        (&raw mut (*seen).busy).write_volatile(1);
    }
    judge(packet, features, seen);
    // SAFETY: as above.
    unsafe {
        if (&raw const (*seen).found).read_volatile() != u32::from(check::NONE) {
            (*seen).foreseen += 1;
            return true;
        }
        (&raw mut (*seen).busy).write_volatile(0);
    }
    false
}

/// Tells of it, and waits until that is out.
#[inline(always)]
fn foresee<C: EbpfContext>(
    context: &C,
    packet: Skb,
    features: u64,
    caller: u64,
    seen: *const Segments,
) {
    let told = emit::foresee(|into| {
        // SAFETY: `into` is in a map value, and `seen` is one.
        unsafe {
            (*into).check = (&raw const (*seen).found).read_volatile() as u8;
            (*into).element = (&raw const (*seen).element).read_volatile();
            (*into).elements = (&raw const (*seen).elements).read_volatile();
            packet.describe(context, features, caller, into);
        }
    });
    if told {
        until_acked(hold::PREDICTION);
    }
}

/// Leaves in `seen` where the kernel would stop. What one step hands to the next lies in
/// the map, of whose content the verifier knows nothing: it goes on from each step once,
/// and not once for each of the ways through the one before.
#[inline(always)]
fn judge(packet: Skb, features: u64, seen: *mut Segments) {
    // SAFETY: a map value of this CPU.
    unsafe {
        (&raw mut (*seen).found).write_volatile(check::NONE.into());
        (&raw mut (*seen).list).write_volatile(List::default());
        (&raw mut (*seen).elements).write_volatile(0);
        (&raw mut (*seen).at).write_volatile(packet.list());
        walk::measure_all(seen);
        if (&raw const (*seen).at).read_volatile() != 0 {
            (*seen).unjudged += 1;
            return;
        }
        (*seen).judged += 1;
        let list = (&raw const (*seen).list).read_volatile();
        let Some(plan) = Plan::of(&packet.head(features), &list) else {
            return;
        };
        (&raw mut (*seen).plan).write_volatile(plan);
        (&raw mut (*seen).element).write_volatile(0);
        (&raw mut (*seen).at).write_volatile(packet.list());
        walk::look_at_all(seen);
    }
}

/// Adds the element that is next to what is known of the list; whether it was behind the
/// last one.
///
/// # Safety
///
/// `seen` is a map value.
#[inline(always)]
unsafe fn measure(seen: *mut Segments) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let at = (&raw const (*seen).at).read_volatile();
        if at == 0 {
            return true;
        }
        let element = packet::element(at);
        let list = (&raw const (*seen).list).read_volatile();
        let elements = (&raw const (*seen).elements).read_volatile();
        let list = if elements == 0 {
            List::begun(element)
        } else {
            list.with(element)
        };
        (&raw mut (*seen).list).write_volatile(list);
        (&raw mut (*seen).elements).write_volatile(elements + 1);
        (&raw mut (*seen).at).write_volatile(packet::next(at));
    }
    false
}

/// Looks whether the kernel would stop at the element that is next; whether there is
/// none to look at any more.
///
/// # Safety
///
/// As [`measure`].
#[inline(always)]
unsafe fn look(seen: *mut Segments) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let at = (&raw const (*seen).at).read_volatile();
        if at == 0 {
            return true;
        }
        let mut plan = (&raw const (*seen).plan).read_volatile();
        let found = plan.next(packet::element(at));
        (&raw mut (*seen).plan).write_volatile(plan);
        if found != check::NONE {
            (&raw mut (*seen).found).write_volatile(found.into());
            return true;
        }
        let element = (&raw const (*seen).element).read_volatile();
        (&raw mut (*seen).element).write_volatile(element + 1);
        (&raw mut (*seen).at).write_volatile(packet::next(at));
    }
    false
}

#[fentry]
pub fn fe_skb_segment(context: FEntryContext) -> i32 {
    let packet = context.arg::<*const u8>(0) as u64;
    skb_segment(&context, packet, context.arg(1), 0);
    0
}

#[kprobe]
pub fn kp_skb_segment(context: ProbeContext) -> u32 {
    let argument = |n| context.arg::<u64>(n).unwrap_or(0);
    skb_segment(&context, argument(0), argument(1), caller(&context));
    0
}

/// Whoever called the function at whose first instruction a kprobe is: not on the stack yet,
/// where its first entry is that instruction, but in x30 (AAPCS64, 6.1.1).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn caller(context: &ProbeContext) -> u64 {
    // SAFETY: the context of a kprobe is `struct user_pt_regs`, which begins with x0 to x30.
    unsafe { context.regs.cast::<u64>().add(30).read() }
}

/// On x86 the stack has it.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn caller(_context: &ProbeContext) -> u64 {
    0
}
