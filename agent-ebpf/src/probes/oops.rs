//! An oops begins: `oops_enter` (kernel/panic.c), which every architecture
//! calls for an oops and a `BUG()`.

use agent_common::notice;

use crate::emit;

super::entries! {
    fe_oops_enter, kp_oops_enter => emit::mark(notice::OOPS);
}
