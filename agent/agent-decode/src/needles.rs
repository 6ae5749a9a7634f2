//! Where in a log something may begin: most of it is read by nothing but this search.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::wording;

/// What every line that begins something has in it.
fn needles() -> impl Iterator<Item = &'static str> {
    let longer = |a: &'static str, b: &'static str| if a.len() >= b.len() { a } else { b };
    let wordings = wording::WORDINGS
        .iter()
        .map(move |w| longer(w.start, w.needs));
    let anywhere = wording::ANYWHERE.iter().map(|(text, _)| *text);
    let others = [
        "[ cut here ]",
        "Linux version ",
        "DMI: ",
        ",ncfrag=",
        // As numbers it has no word in it.
        "\"MESSAGE\":[",
        "\"MESSAGE\" : [",
    ];
    let panics = wording::PANICS.iter().copied();
    wordings.chain(anywhere).chain(others).chain(panics)
}

/// Of each needle some bytes that few lines of a machine that is well have. There are three
/// times as many needles, too many for a search in many bytes at once (Teddy, in
/// `aho_corasick`), which takes a seventh of the instructions.
const HINTS: &[&str] = &[
    "BUG:",
    "BUG ",
    "WARNING:",
    "INFO:",
    "Oops",
    "Kernel panic",
    "Internal error",
    "nable to ",
    "NX-protected",
    "list_add",
    "list_del",
    "refcount_t",
    "usercopy",
    "detected",
    "overflow",
    "general protection",
    "control protection",
    "divide error",
    "Division by zero",
    "invalid opcode",
    "invalid TSS",
    "double fault",
    "segment",
    "int3",
    "alignment check",
    "xception",
    "bounds",
    "CFI failure",
    "ENDBR",
    "guard page",
    "Unhandled fault",
    "unresponsive",
    "ut of memory",
    "gfp_mask=",
    "Hardware Error",
    "SError",
    "Memory failure",
    "Uncorrect",
    ": 1 UE",
    "Uhhuh",
    "NMI: ",
    "Trigger a crash",
    "SAN: ",
    "unreferenced",
    "-safe ->",
    "locks held",
    "suspicious",
    "preemptible",
    "ainted",
    "NETDEV WATCHDOG",
    "unregister_netdevice",
    "table full",
    "softdog",
    "pretimeout",
    "Loading of ",
    " symbol ",
    "version magic",
    "BPF program",
    "cut here",
    "Linux version",
    "DMI: ",
    "ncfrag=",
    "\"MESSAGE\":[",
    "\"MESSAGE\" : [",
];

// With none of the words, which are constants, nothing would ever be found.
static IN_NEEDLES: LazyLock<AhoCorasick> =
    LazyLock::new(|| AhoCorasick::new(needles()).expect("a few constant words"));

static IN_HINTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        // Teddy finds no other kind.
        .match_kind(MatchKind::LeftmostFirst)
        .build(HINTS)
        .expect("a few constant words")
});

/// Where the first hint begins: no line before its line begins anything.
pub(crate) fn hint(bytes: &[u8]) -> Option<usize> {
    Some(IN_HINTS.find(bytes)?.start())
}

/// Whether this line may begin something.
pub(crate) fn is_in(line: &[u8]) -> bool {
    hint(line).is_some() && IN_NEEDLES.is_match(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_needle_has_a_hint() {
        for needle in needles() {
            assert!(
                hint(needle.as_bytes()).is_some(),
                "add a hint of {needle:?}"
            );
        }
    }

    #[test]
    fn there_are_few_and_short_hints() {
        // As many as Teddy takes, and the bytes of each that it looks at.
        assert!(HINTS.len() <= 64);
        assert!(HINTS.iter().all(|hint| hint.len() >= 4));
    }
}
