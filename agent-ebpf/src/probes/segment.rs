//! A packet is about to be taken apart (`skb_segment`, net/core/skbuff.c): would the
//! kernel stop at it? Then that is told, and waited for, before it does.

use agent_common::{
    hold,
    segment::{ELEMENTS_MAX, List, Plan, Segments, check},
};
use aya_ebpf::{
    EbpfContext,
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
#[inline(always)]
fn skb_segment<C: EbpfContext>(context: &C, address: u64, features: u64) {
    let Some(seen) = SEGMENTS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a map value of this CPU. An interrupt in between costs one count.
    unsafe { (*seen).packets += 1 };
    let packet = Skb::at(address);
    // Mostly none, and then nothing is to be checked.
    let list = packet.list();
    if list == 0 {
        return;
    }
    let head = packet.head(features);
    let Some(whole) = whole(list, seen) else {
        // SAFETY: as above.
        unsafe { (*seen).unjudged += 1 };
        return;
    };
    let Some(mut plan) = Plan::of(&head, &whole) else {
        return;
    };
    if !find(list, &mut plan, seen) {
        return;
    }
    // SAFETY: as above. Read from the map, so that the verifier goes on here once, and
    // not once for each element.
    let (element, found) = unsafe {
        (*seen).foreseen += 1;
        (
            (&raw const (*seen).element).read_volatile(),
            (&raw const (*seen).found).read_volatile(),
        )
    };
    if emit::foresee(|into| {
        // SAFETY: `into` is in a map value.
        unsafe {
            (*into).check = found;
            (*into).element = element;
            (*into).elements = (&raw const (*seen).elements).read_volatile();
            packet.describe(context, &head, into);
        }
    }) {
        until_acked(hold::PREDICTION);
    }
}

/// All of a list, in short; `None` if it is too long to be looked at.
#[inline(always)]
fn whole(first: u64, seen: *mut Segments) -> Option<List> {
    let mut list = List::begun(packet::element(first));
    let mut at = packet::next(first);
    let mut element = 1;
    while element < ELEMENTS_MAX {
        if at == 0 {
            break;
        }
        list = list.with(packet::element(at));
        at = packet::next(at);
        element += 1;
    }
    // SAFETY: a map value of this CPU.
    unsafe { (*seen).elements = element };
    (at == 0).then_some(list)
}

/// Looks for the first element that the kernel would stop at, and leaves it in `seen`.
#[inline(always)]
fn find(first: u64, plan: &mut Plan, seen: *mut Segments) -> bool {
    let mut at = first;
    let mut element = 0;
    let mut result = check::NONE;
    while element < ELEMENTS_MAX {
        if at == 0 {
            break;
        }
        let found = plan.next(packet::element(at));
        if found != check::NONE {
            result = found;
            break;
        }
        at = packet::next(at);
        element += 1;
    }
    // SAFETY: a map value of this CPU.
    unsafe {
        (&raw mut (*seen).element).write_volatile(element);
        (&raw mut (*seen).found).write_volatile(result);
    }
    result != check::NONE
}

#[fentry]
pub fn fe_skb_segment(context: FEntryContext) -> i32 {
    let packet = context.arg::<*const u8>(0) as u64;
    skb_segment(&context, packet, context.arg(1));
    0
}

#[kprobe]
pub fn kp_skb_segment(context: ProbeContext) -> u32 {
    let argument = |n| context.arg::<u64>(n).unwrap_or(0);
    skb_segment(&context, argument(0), argument(1));
    0
}
