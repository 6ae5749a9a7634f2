//! `panic()` begins (kernel/panic.c). `panic` is variadic, so it takes a kprobe
//! only; from 6.18 on it is a wrapper of `vpanic`. `nmi_panic` comes before it
//! where an NMI may have silenced kprobes.

use agent_common::notice;

use crate::emit;

super::entries! {
    fe_vpanic, kp_panic => emit::mark(notice::PANIC);
    fe_nmi_panic, kp_nmi_panic => emit::mark(notice::PANIC);
}
