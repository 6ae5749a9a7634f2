//! Which line of a dying kernel says why. On the dying path: looks at bytes,
//! nothing else. The full reading of a log is `agent-decode`'s.

/// Lines that name the cause.
const NAMES: &[&[u8]] = &[
    b"BUG: ",
    b"kernel BUG at ",
    b"Kernel BUG at ",
    b"Unable to handle kernel ",
    b"general protection fault",
    b"Oops: general protection fault",
    b"divide error",
    b"Oops: divide error",
    b"invalid opcode",
    b"stack segment",
    b"watchdog: BUG: ",
    b"watchdog: Watchdog detected hard LOCKUP",
    b"watchdog: CPU",
    b"NMI watchdog: Watchdog detected hard LOCKUP",
    b"Internal error: ",
    b"Insufficient stack space to handle exception",
    b"traps: PANIC: ",
    b"PANIC: double fault",
    b"INFO: task ",
    b"Out of memory: ",
    b"rcu: INFO: ",
    b"INFO: rcu",
];

/// Names nothing, but that something happened.
const VAGUE: &[&[u8]] = &[b"Oops: ", b"Kernel panic - not syncing: Fatal exception"];

const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The most that a line can say: what the cause is.
const NAMING: u8 = 3;

/// How much a line says of the cause: 0 nothing, more is better.
pub(super) fn weight(line: &[u8]) -> u8 {
    let starts = |with: &&[u8]| line.starts_with(with);
    if NAMES.iter().any(starts) {
        NAMING
    } else if VAGUE.iter().any(starts) {
        1
    } else if line.starts_with(PANIC) {
        2
    } else {
        0
    }
}

/// Where the memory report of the OOM killer begins, behind the task's name.
const OOM: &[u8] = b" invoked oom-killer: ";

/// Longest `comm`, in bytes, without its terminating zero.
const COMM: usize = 15;

/// Begin a report of what may be the cause, or not.
const BEGINNINGS: &[&[u8]] = &[b"------------[ cut here ]", b"WARNING: "];

/// Whether a line is the first of a report.
pub(super) fn begins_report(line: &[u8]) -> bool {
    let starts = |with: &&[u8]| line.starts_with(with);
    let head = &line[..line.len().min(COMM + OOM.len())];
    weight(line) == NAMING
        || BEGINNINGS.iter().any(starts)
        || head.windows(OOM.len()).any(|part| part == OOM)
}

#[cfg(test)]
mod tests {
    use super::{begins_report, weight};

    #[test]
    fn the_cause_outweighs_the_panic_that_follows_it() {
        let lines: [(&str, u8); 10] = [
            (
                "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
                3,
            ),
            ("Internal error: Oops - BUG: 00000000f2000800 [#1] SMP", 3),
            ("Insufficient stack space to handle exception!", 3),
            (
                "BUG: kernel NULL pointer dereference, address: 0000000000000000",
                3,
            ),
            ("kernel BUG at net/core/skbuff.c:4230!", 3),
            ("Kernel panic - not syncing: sysrq triggered crash", 2),
            (
                "Kernel panic - not syncing: Fatal exception in interrupt",
                1,
            ),
            ("Oops: 0002 [#1] PREEMPT SMP NOPTI", 1),
            ("#PF: supervisor write access in kernel mode", 0),
            ("", 0),
        ];
        for (line, expected) in lines {
            assert_eq!(weight(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_report_begins_where_the_kernel_begins_it() {
        let lines: [(&str, bool); 8] = [
            ("------------[ cut here ]------------", true),
            (
                "WARNING: CPU: 0 PID: 90 at boom.c:66 boom_warn+0x11/0x20 [boom]",
                true,
            ),
            (
                "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [insmod:71]",
                true,
            ),
            (
                "guest invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0",
                true,
            ),
            ("a-name-of-fiftn invoked oom-killer: gfp_mask=0xcc0", true),
            ("Mem-Info:", false),
            ("someone said that guest invoked oom-killer: no", false),
            ("", false),
        ];
        for (line, expected) in lines {
            assert_eq!(begins_report(line.as_bytes()), expected, "{line}");
        }
    }
}
