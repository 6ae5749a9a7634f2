//! The dmesg that a crash kernel saved. Pure.

use agent_core::model::{Channel, RecordKind, Timestamp};

use super::Found;

/// Whether a file of this name, in a directory of its own, is such a dmesg:
/// `dmesg.202611210731` of kdump-tools (Debian, Ubuntu), `vmcore-dmesg.txt` of
/// kdump-utils (Fedora, RHEL), `dmesg.txt` of kdump (SUSE).
/// One that is not whole yet has another name.
pub(super) fn is_dmesg(name: &str) -> bool {
    let stamp = name.strip_prefix("dmesg.");
    matches!(name, "vmcore-dmesg.txt" | "dmesg.txt")
        || stamp.is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
}

/// The record of such a file, modified at `at`: a crash kernel saves at once.
pub(super) fn found(path: String, at: Option<Timestamp>, text: String, cut: bool) -> Found {
    Found {
        channel: Channel::Vmcore,
        source: path,
        kind: RecordKind::Panic,
        at,
        missing: 0,
        cut,
        text,
        files: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_all_packages_are_known() {
        for name in ["dmesg.202611210731", "vmcore-dmesg.txt", "dmesg.txt"] {
            assert!(is_dmesg(name), "{name}");
        }
        for name in [
            "dump.202611210731",
            "dmesg.",
            "dmesg.x",
            "vmcore-dmesg-incomplete.txt",
            "vmcore",
            "linux-image-6.1.0-dbg-202611210731.crash",
        ] {
            assert!(!is_dmesg(name), "{name}");
        }
    }
}
