//! A clock tick on the CPU of each drain thread: it looks whether a death was
//! declared, and only then wakes the thread.
//!
//! The hooks of a dying CPU cannot wake another one (a wake-up is an interrupt
//! to oneself, and interrupts are off there), so somebody has to look. A timer
//! that looks from the kernel costs a tenth of a thread that wakes to look.
//!
//! `PERF_COUNT_SW_CPU_CLOCK` (kernel/events/core.c, `perf_swevent_hrtimer`) runs
//! in a hard interrupt, whatever the CPU does with its interrupts on.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};

use crate::emit;
use crate::maps::{TICK_A, TICK_B};

#[perf_event]
pub fn pe_tick_a(_context: PerfEventContext) -> i32 {
    if emit::is_dying() {
        emit::ring(&TICK_A);
    }
    0
}

#[perf_event]
pub fn pe_tick_b(_context: PerfEventContext) -> i32 {
    if emit::is_dying() {
        emit::ring(&TICK_B);
    }
    0
}
