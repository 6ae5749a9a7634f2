//! A packet is dropped (tracepoint `skb:kfree_skb`, include/trace/events/skb.h). It is
//! counted, always; of each kind one is looked at closely now and then.

use agent_common::drops::{Count, Key, STACK_MAX, Sample, WINDOW_SHIFT, lack, slot};
use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_stack, bpf_jiffies64},
    macros::{btf_tracepoint, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};

use crate::{
    count::one_more,
    dropped::{Dropped, Memory, Typed, Untyped},
    maps::{self, COUNTS, LACKING, NO_ROOM, SAMPLES},
};

#[inline(always)]
fn dropped<M: Memory, C: EbpfContext>(context: &C, dropped: &Dropped) {
    // The cheapest first: with a filter most packets end here.
    if maps::by_reason() != 0 && !maps::wants_slot(slot(dropped.reason)) {
        return;
    }
    let key = dropped.key::<M>();
    if !is_wanted(dropped, &key) {
        return;
    }
    let Some(count) = room(&key) else {
        add(NO_ROOM.get_ptr_mut(slot(key.reason)));
        add(LACKING.get_ptr_mut(lack::KINDS));
        return;
    };
    // SAFETY: a map value.
    unsafe { one_more(&raw mut (*count).packets) };
    // SAFETY: a helper without arguments.
    let window = unsafe { bpf_jiffies64() } >> WINDOW_SHIFT;
    // SAFETY: a map value of this CPU. An interrupt in between costs, or makes, a sample.
    if unsafe { (*count).window } != window {
        // SAFETY: as above.
        unsafe { (*count).window = window };
        sample(context, dropped, &key);
    }
}

/// Adds one to an entry of an array.
#[inline(always)]
fn add(entry: Option<*mut u64>) {
    if let Some(entry) = entry {
        // SAFETY: a map value.
        unsafe { one_more(entry) };
    }
}

#[inline(always)]
fn is_wanted(dropped: &Dropped, key: &Key) -> bool {
    let (netns, protocol, transport) = (maps::netns(), maps::protocol(), maps::transport());
    if netns != 0 && u64::from(key.netns) != netns {
        return false;
    }
    if protocol != 0 && u64::from(key.protocol) != protocol {
        return false;
    }
    let has = u64::from(key.transport);
    if transport != 0 && has != transport && has != maps::transport_too() {
        return false;
    }
    if maps::port() != 0 && !dropped.has_port(key, maps::port() as u16) {
        return false;
    }
    if maps::device() != 0 && !dropped.has_device([maps::device(), maps::device_rest()]) {
        return false;
    }
    true
}

/// Where this CPU counts the key; `None` if there is no room for another one.
#[inline(always)]
fn room(key: &Key) -> Option<*mut Count> {
    if let Some(count) = COUNTS.get_ptr_mut(key) {
        return Some(count);
    }
    // If another CPU was quicker this fails, and changes nothing.
    let _ = COUNTS.insert(key, &Count::default(), BPF_NOEXIST.into());
    COUNTS.get_ptr_mut(key)
}

#[inline(always)]
fn sample<C: EbpfContext>(context: &C, dropped: &Dropped, key: &Key) {
    let Some(mut entry) = SAMPLES.reserve::<Sample>(0) else {
        add(LACKING.get_ptr_mut(lack::SAMPLES));
        return;
    };
    let into = entry.as_mut_ptr();
    // SAFETY: memory of the ring buffer, of this size; the helper writes at most as many
    // bytes as it is told.
    unsafe {
        (*into).key = *key;
        dropped.describe(into);
        (*into).stack_len = 0;
        if maps::stacks() != 0 {
            let stack = (&raw mut (*into).stack).cast();
            let bytes = bpf_get_stack(context.as_ptr(), stack, (STACK_MAX * 8) as u32, 0);
            (*into).stack_len = (bytes.max(0) / 8) as u32;
        }
    }
    // User space looks by the clock; a call for each would cost more than all else.
    entry.submit(BPF_RB_NO_WAKEUP.into());
}

/// The arguments, as a raw tracepoint has them, typed or not.
#[inline(always)]
fn of_arguments<C: EbpfContext>(context: &C) -> Dropped {
    let arguments = context.as_ptr().cast::<u64>();
    // SAFETY: the context is an array of the arguments, of which there are as many as the
    // kernel's own type information told user space.
    let argument = |n: usize| unsafe { arguments.add(n).read_volatile() };
    let known = maps::arguments();
    Dropped {
        packet: argument(0),
        location: argument(1),
        reason: if known > 2 { argument(2) as u32 } else { 0 },
        socket: if known > 3 { argument(3) } else { 0 },
    }
}

/// `kfree_skb(skb, location, reason, rx_sk)`: the reason from 5.17, the socket from 6.11 on,
/// but for what distributions took over.
#[btf_tracepoint]
pub fn tp_kfree_skb(context: BtfTracePointContext) -> i32 {
    dropped::<Typed, _>(&context, &of_arguments(&context));
    0
}

#[raw_tracepoint]
pub fn raw_kfree_skb(context: RawTracePointContext) -> i32 {
    dropped::<Untyped, _>(&context, &of_arguments(&context));
    0
}

/// `struct trace_event_raw_kfree_skb`
#[tracepoint]
pub fn classic_kfree_skb(context: TracePointContext) -> u32 {
    let record = context.as_ptr() as u64;
    let (reason, socket) = (maps::record_reason(), maps::record_socket());
    let record = Dropped {
        packet: Untyped::number(record, maps::record_packet()),
        location: Untyped::number(record, maps::record_location()),
        reason: if reason == 0 {
            0
        } else {
            Untyped::number(record, reason)
        },
        socket: if socket == 0 {
            0
        } else {
            Untyped::number(record, socket)
        },
    };
    dropped::<Untyped, _>(&context, &record);
    0
}
