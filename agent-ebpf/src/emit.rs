//! The only code that writes to the ring.

use core::arch::asm;

use agent_common::{
    COMM_MAX, Control, DETAIL_PACKET, KIND_LINE, KIND_MARK, LEVEL_UNKNOWN, RING_SLOTS, Slot,
    TEXT_MAX, notice, segment::Packet,
};
use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_get_current_comm, bpf_probe_read_kernel},
    },
    maps::RingBuf,
};

use crate::{
    atomic,
    kernel::preempt,
    maps::{BELL_A, BELL_B, CONTROL, FORESEEN, RING},
    told,
};

/// Longer than what was only foretold may be taken for a death: the agent's
/// `--survived-ms` is a minute at most.
const FORESEE_EVERY_NS: u64 = 61_000_000_000;

/// One text to keep: where it lies in the kernel, and what is known of it.
pub struct Text {
    /// Kernel address.
    pub address: *const u8,
    /// Length in bytes; what is beyond [`TEXT_MAX`] is cut.
    pub len: u32,
    /// Log level or [`LEVEL_UNKNOWN`].
    pub level: u8,
    /// `FLAG_*`.
    pub flags: u8,
}

/// Takes the next slot and makes it invalid until [`publish`].
#[inline(always)]
fn take(control: *mut Control, kind: u16) -> Option<(*mut Slot, u64)> {
    // SAFETY: `control` points at a map value, which lives as long as the
    // program; the field is only ever accessed atomically by the kernel side.
    let seq = unsafe { atomic::increment(&raw mut (*control).head) };
    let slot = RING.get_ptr_mut(seq as u32 & (RING_SLOTS - 1))?;
    // SAFETY: `slot` points at a map value of this type. Another writer gets
    // the same slot only after a whole turn of the ring; the reader then sees
    // that `published` is not what it looked for.
    unsafe {
        atomic::publish(&raw mut (*slot).published, 0);
        (*slot).mono_ns = bpf_ktime_get_ns();
        (*slot).kind = kind;
        (*slot).cpu = bpf_get_smp_processor_id() as u16;
        (*slot).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*slot).len = 0;
        (*slot).notice = 0;
        (*slot).level = LEVEL_UNKNOWN;
        (*slot).flags = 0;
        (*slot).context = 0;
        (*slot).detail = 0;
    }
    Some((slot, seq))
}

/// Lets the reader see the slot.
#[inline(always)]
fn publish(slot: *mut Slot, seq: u64) {
    // SAFETY: as in `take`; the exchange is a full barrier, so that the text
    // is visible before the number.
    unsafe {
        atomic::publish(&raw mut (*slot).published, seq + 1);
    }
}

/// No more than [`TEXT_MAX`]. In assembly, because the compiler may compare a register and
/// use a copy in memory, of which verifiers before 6.8 then know nothing.
#[inline(always)]
fn at_most_a_text(len: u32) -> u32 {
    let mut len = u64::from(len);
    // SAFETY: a comparison, and a jump over the instruction behind it.
    unsafe {
        asm!(
            "if {len} <= {max} goto +1",
            "{len} = {max}",
            len = inout(reg) len,
            max = const TEXT_MAX,
            options(pure, nomem, nostack)
        );
    }
    len as u32
}

/// Keeps one line of the kernel log.
#[inline(always)]
pub fn line(text: &Text) {
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    let Some((slot, seq)) = take(control, KIND_LINE) else {
        return;
    };
    let len = at_most_a_text(text.len);
    // SAFETY: `slot` is a map value; the helper writes at most `TEXT_MAX` bytes
    // into its text and fails, rather than faults, on a bad address.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut (*slot).text).cast(), len, text.address.cast()) != 0
    };
    if failed {
        count_unreadable(control);
    } else {
        // SAFETY: as above.
        unsafe {
            (*slot).len = len as u16;
            (*slot).level = text.level;
            (*slot).flags = text.flags;
        }
    }
    publish(slot, seq);
}

/// Notes that a hook of the crash path fired, declares the death, and wakes the
/// drain threads where that is possible.
#[inline(always)]
pub fn mark(what: u16) {
    // SAFETY: what it is called with is a map value.
    mark_with(what, |slot| unsafe { told::explain(slot, what) });
}

/// Notes that the kernel is about to stop at a packet, which `describe` writes down.
/// False: it was noted so short a time ago that it is only counted. Were each packet
/// noted, a flood of them would keep a death open that never comes.
#[inline(always)]
pub fn foresee(describe: impl FnOnce(*mut Packet)) -> bool {
    let Some(last) = FORESEEN.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a helper without arguments, and a map value: two CPUs at once are both noted.
    let is_early = unsafe {
        let now = bpf_ktime_get_ns();
        let since = last.read_volatile();
        if since == 0 || now.wrapping_sub(since) > FORESEE_EVERY_NS {
            last.write_volatile(now);
            false
        } else {
            true
        }
    };
    if is_early {
        return false;
    }
    mark_with(notice::PREDICTION, |slot| {
        // SAFETY: a map value; there is room, aligned (`agent_common::segment`).
        unsafe {
            (*slot).detail = DETAIL_PACKET;
            describe((&raw mut (*slot).text).cast());
        }
    });
    true
}

#[inline(always)]
fn mark_with(what: u16, explain: impl FnOnce(*mut Slot)) {
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    let Some((slot, seq)) = take(control, KIND_MARK) else {
        return;
    };
    // SAFETY: `slot` is a map value; the helper writes `COMM_MAX` bytes.
    unsafe {
        (*slot).notice = what;
        (*slot).context = preempt::context((*slot).cpu.into());
        if bpf_get_current_comm((&raw mut (*slot).comm).cast(), COMM_MAX as u32) != 0 {
            (*slot).comm = [0; COMM_MAX];
        }
    }
    explain(slot);
    publish(slot, seq);
    declare(control, slot, seq, what);
    // Where interrupts are off these ring only when it is too late; the
    // threads poll as well.
    ring(&BELL_A);
    ring(&BELL_B);
}

/// Wakes the thread that waits for this bell.
#[inline(always)]
fn ring(bell: &RingBuf) {
    // A full bell means that it rings already.
    let _ = bell.output(&0u64, u64::from(BPF_RB_FORCE_WAKEUP));
}

/// Whether an end is declared from which there is no way back.
#[inline(always)]
pub fn is_final() -> bool {
    let Some(control) = CONTROL.get_ptr(0) else {
        return false;
    };
    // SAFETY: a map value; user space writes `cleared` at any time, hence volatile.
    unsafe { (*control).fatal > (&raw const (*control).cleared).read_volatile() }
}

#[inline(always)]
fn declare(control: *mut Control, slot: *mut Slot, seq: u64, what: u16) {
    // SAFETY: map values; two CPUs that declare at once both write a true
    // number, and either will do.
    unsafe {
        (*control).dying_cpu = (*slot).cpu.into();
        let cleared = (*control).cleared;
        if (*control).declared <= cleared {
            (*control).closed = 0;
            (*control).declared = seq + 1;
        }
        if notice::is_final(what) && (*control).fatal <= cleared {
            (*control).fatal = seq + 1;
        }
    }
}

#[inline(always)]
fn count_unreadable(control: *mut Control) {
    // SAFETY: a map value; the field is only accessed atomically here.
    unsafe { atomic::increment(&raw mut (*control).unreadable) };
}
