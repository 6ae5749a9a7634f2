//! Who told a service manager, or the kernel by sysrq, to stop the machine: the
//! newest few, kept until the order comes.

use agent_common::{
    CONTEXT_PROCESS, CONTEXT_UNKNOWN, DETAIL_ASKED, Slot,
    asked::{Asked, PATIENCE_NS, TOLD_SLOTS, Told, means},
    notice,
};
use aya_ebpf::helpers::{
    bpf_ktime_get_ns,
    generated::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
};

use crate::{
    atomic, emit,
    kernel::task,
    maps::{TOLD, TOLD_NEXT},
};

const _: () = assert!(TOLD_SLOTS == 4, "see `newest`");

/// From sysrq to what it does.
const AT_ONCE_NS: u64 = 1_000_000_000;

/// PID 1: service managers, and what becomes of them at the very end.
const INIT: u32 = 1;

/// Keeps that somebody told; `by_process`: the one that runs now, else nobody.
#[inline(always)]
pub fn keep(how: u8, number: u8, by_process: bool, command: Option<&task::CommandLine>) {
    let Some(next) = TOLD_NEXT.get_ptr_mut(u32::from(how)) else {
        return;
    };
    // SAFETY: a map value that is only ever accessed so.
    let ticket = unsafe { atomic::increment(next) };
    let index = u32::from(how) * TOLD_SLOTS + (ticket as u32 & (TOLD_SLOTS - 1));
    let Some(told) = TOLD.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: a map value. Who reads it meanwhile sees that it has no time yet.
    unsafe {
        atomic::publish(&raw mut (*told).at_ns, 0);
        (*told).means = how;
        (*told).number = number;
        (*told).command_len = 0;
        if let Some(line) = command {
            (*told).command_len = line.copy(&raw mut (*told).command) as u16;
        }
        if by_process {
            task::describe(&raw mut (*told).by);
        } else {
            task::nobody(&raw mut (*told).by);
        }
        atomic::publish(&raw mut (*told).at_ns, bpf_ktime_get_ns());
    }
}

/// Forgets who told by these means: it was called off.
#[inline(always)]
pub fn forget(how: u8) {
    for place in 0..TOLD_SLOTS {
        if let Some(told) = TOLD.get_ptr_mut(u32::from(how) * TOLD_SLOTS + place) {
            // SAFETY: a map value.
            unsafe { atomic::publish(&raw mut (*told).at_ns, 0) };
        }
    }
}

/// The newest that was told by these means since a time, or null.
#[inline(always)]
fn newest(how: u8, since_ns: u64) -> *const Told {
    let first = u32::from(how) * TOLD_SLOTS;
    // Not in a loop, for the reason in `task::describe`.
    let found = newer((core::ptr::null(), since_ns), first);
    let found = newer(found, first + 1);
    let found = newer(found, first + 2);
    newer(found, first + 3).0
}

/// What was found, and when it was told, or what this place has if that is newer.
#[inline(always)]
fn newer(found: (*const Told, u64), place: u32) -> (*const Told, u64) {
    let Some(told) = TOLD.get_ptr(place) else {
        return found;
    };
    // SAFETY: a map value; others write it at any time, hence volatile.
    let at_ns = unsafe { (&raw const (*told).at_ns).read_volatile() };
    if at_ns > found.1 {
        (told, at_ns)
    } else {
        found
    }
}

/// Writes into a mark who asked for what it announces, if anybody did.
///
/// # Safety
///
/// `slot` is a map value, and its context is known by now.
#[inline(never)]
pub unsafe fn explain(slot: *mut Slot, what: u16) {
    // SAFETY: the caller's promise; there is room, aligned (`agent_common::asked`).
    unsafe {
        // Only this one can come out of an interrupt (sysrq on a console); where that
        // is not known, whoever was interrupted is not to be blamed.
        let unknown = (*slot).context == CONTEXT_UNKNOWN && what != notice::EMERGENCY_RESTART;
        let by_process = (*slot).context == CONTEXT_PROCESS || unknown;
        // What follows a panic, or another order, nobody asked for.
        let order = notice::is_order(what) && by_process && !emit::is_final();
        let crash = what == notice::PANIC && is_crash_by_sysrq((*slot).mono_ns);
        if !order && !crash {
            return;
        }
        let asked = (&raw mut (*slot).text).cast::<Asked>();
        (*asked).told.at_ns = 0;
        let by = &raw mut (*asked).by;
        task::describe(by);
        (*slot).detail = DETAIL_ASKED;
        if !order {
            return;
        }
        let now = (*slot).mono_ns;
        let since = now.saturating_sub(PATIENCE_NS);
        let told = if (*by).process.pid == INIT {
            let signal = newest(means::SIGNAL, since);
            if signal.is_null() {
                newest(means::COMMAND, since)
            } else {
                signal
            }
        } else if (*by).parents[0].pid == task::KTHREADD {
            newest(means::SYSRQ, now.saturating_sub(AT_ONCE_NS))
        } else {
            return;
        };
        if !told.is_null() {
            let into = &raw mut (*asked).told;
            if bpf_probe_read_kernel(into.cast(), size_of::<Told>() as u32, told.cast()) != 0 {
                (*asked).told.at_ns = 0;
            }
        }
    }
}

/// Whether the process that runs now has just written a `c` to sysrq.
#[inline(always)]
fn is_crash_by_sysrq(now: u64) -> bool {
    let told = newest(means::SYSRQ, now.saturating_sub(AT_ONCE_NS));
    if told.is_null() {
        return false;
    }
    // SAFETY: a map value; a helper without arguments.
    unsafe {
        let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*told).number == b'c' && (*told).by.process.pid == pid
    }
}
