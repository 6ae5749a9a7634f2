//! Every line of the kernel log.

use crate::kernel::attach::{Candidate, How, Role};

pub(super) const ROLES: &[Role] = &[Role {
    name: "log lines",
    without: "a death has no words: only its kind, CPU and task are sent",
    candidates: &[
        Candidate::new("fx_printk_sprint", How::Fexit(6), "printk_sprint"),
        Candidate {
            program: "tp_console",
            how: How::TpBtf,
            target: "console",
            // Before consoles could be written to from any context, the first line printed in
            // an NMI with this tracepoint enabled raised a WARN of its own, which
            // panic_on_warn makes fatal. That rework brought this structure.
            only_with: Some((
                "nbcon_state",
                "printk:console warns in NMIs on this kernel, so it is left alone",
            )),
        },
    ],
}];
