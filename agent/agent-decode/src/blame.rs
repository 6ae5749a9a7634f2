//! Which function is to blame.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::frames::Frame;

/// The names that are skipped, and the beginnings of names.
struct Skips {
    names: HashSet<&'static str>,
    /// By their first two bytes.
    starts: HashMap<[u8; 2], Vec<&'static str>>,
}

static SKIPS: LazyLock<Skips> = LazyLock::new(|| {
    let lines = include_str!("skip.txt").lines();
    let rules = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (starts, names): (Vec<_>, Vec<_>) = rules.partition(|rule| rule.ends_with('*'));
    let mut skips = Skips {
        names: names.into_iter().collect(),
        starts: HashMap::new(),
    };
    for start in starts.iter().map(|rule| rule.trim_end_matches('*')) {
        if let Some(two) = start.as_bytes().first_chunk() {
            skips.starts.entry(*two).or_default().push(start);
        }
    }
    skips
});

/// Whether a function only reports, waits, or does what others told it to.
pub(crate) fn is_skipped(function: &str) -> bool {
    let skips = &*SKIPS;
    let starts = function
        .as_bytes()
        .first_chunk()
        .and_then(|two| skips.starts.get(two));
    skips.names.contains(function)
        || starts.is_some_and(|all| all.iter().any(|start| function.starts_with(start)))
}

/// The first that is to blame: of those that the report names itself, in their order,
/// else of the stack. If nobody is, the first of them all.
pub(crate) fn blamed<'a>(named: &[&'a str], stack: &'a [Frame]) -> Option<&'a str> {
    let sure = || {
        stack
            .iter()
            .filter(|f| f.reliable)
            .map(|f| f.function.as_str())
    };
    let unsure = || stack.iter().map(|f| f.function.as_str());
    let named = || named.iter().copied();
    let is_to_blame = |function: &&str| !is_skipped(function);
    named()
        .find(is_to_blame)
        .or_else(|| sure().find(is_to_blame))
        .or_else(|| unsure().find(is_to_blame))
        .or_else(|| named().next())
        .or_else(|| sure().next())
        .or_else(|| unsure().next())
}

/// The stack of what was interrupted, where a stall was found by an interrupt whose stack is
/// printed above it; else all of it.
pub(crate) fn interrupted(stack: &[Frame]) -> &[Frame] {
    const ENTRIES: [&str; 14] = [
        "apic_timer_interrupt",
        "smp_apic_timer_interrupt",
        "sysvec_apic_timer_interrupt",
        "sysvec_xen_hvm_callback",
        "xen_hvm_callback_vector",
        "xen_do_hypervisor_callback",
        "ret_from_intr",
        "common_interrupt",
        "timer_interrupt",
        "el1_irq",
        "el1h_64_irq",
        "__irq_svc",
        "end_repeat_nmi",
        "nmi",
    ];
    let is_entry = |frame: &Frame| ENTRIES.contains(&frame.function.as_str());
    let entry = stack.iter().position(is_entry);
    let below = entry.map_or(stack, |at| &stack[at + 1..]);
    if below.is_empty() { stack } else { below }
}

/// The functions that tell one crash from another: the first that are to blame, each once.
pub(crate) fn path(stack: &[Frame], most: usize) -> Vec<&str> {
    let mut path: Vec<&str> = Vec::new();
    for frame in stack.iter().filter(|f| f.reliable) {
        let function = frame.function.as_str();
        if path.len() < most && !is_skipped(function) && !path.contains(&function) {
            path.push(function);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_something_of_its_own_is_not_skipped() {
        for name in [
            "skb_segment",
            "tcp_gso_segment",
            "skb_release_data",
            "ext4_writepages",
            "nf_conntrack_in",
            "dev_watchdog",
            "stringify",
        ] {
            assert!(!is_skipped(name), "{name}");
        }
        for name in [
            "memcpy_orig",
            "_raw_spin_lock_irqsave",
            "kfree",
            "panic",
            "string",
        ] {
            assert!(is_skipped(name), "{name}");
        }
    }

    #[test]
    fn each_rule_is_a_name_and_stands_once() {
        let text = include_str!("skip.txt");
        let rules = || {
            text.lines()
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
        };
        let once: HashSet<&str> = rules().collect();
        assert_eq!(once.len(), rules().count());
        for rule in rules() {
            let name = rule.strip_suffix('*').unwrap_or(rule);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(!name.is_empty() && name.chars().all(is_name), "{rule}");
        }
    }
}
