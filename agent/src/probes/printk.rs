//! Every line of the kernel log.

use crate::kernel::role::{Candidate, How, Role, Thing};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "log lines",
        without: "a death has no words: only its kind, CPU and task are sent",
        candidates: &[
            Candidate::new("fx_printk_sprint", How::Fexit(6), "printk_sprint"),
            Candidate::new(
                "kr_printk_sprint",
                How::Kretprobe {
                    entry: "kp_printk_sprint",
                    parameters: 6,
                },
                "printk_sprint",
            ),
            Candidate {
                meant_for: Some(Thing::PrintkText),
                ..Candidate::new("fx_vprintk_store", How::Fexit(5), "vprintk_store")
            },
            Candidate {
                // Before consoles could be written to from any context, the first line
                // printed in an NMI with this tracepoint enabled raised a WARN of its
                // own, which panic_on_warn makes fatal. That rework brought this
                // structure.
                only_with: Some((
                    Thing::Struct("nbcon_state"),
                    "printk:console warns in NMIs on this kernel, so it is left alone",
                )),
                ..Candidate::new("tp_console", How::TpBtf, "console")
            },
        ],
    },
    Role {
        name: "log lines in an NMI",
        without: "what is printed in an NMI is seen when it is printed again, after it",
        candidates: &[Candidate {
            meant_for: Some(Thing::Struct("printk_safe_seq_buf")),
            ..Candidate::new(
                "fx_printk_safe_log_store",
                How::Fexit(3),
                "printk_safe_log_store",
            )
        }],
    },
];
