//! What we say, made safe to show: bounded, and free of control characters.

use std::fmt::Write as _;

use agent_core::model::{Death, Notice, ReasonCode};

/// Longest condition message, in bytes.
pub(super) const MESSAGE_MAX: usize = 1024;

/// Longest event note, in bytes.
/// Source: kubernetes, `pkg/apis/core/validation/events.go`.
pub(super) const NOTE_MAX: usize = 1024;

/// Longest annotation value that we write, in bytes. The API server's limit is
/// 256 KiB for all annotations of an object together.
pub(super) const ANNOTATION_MAX: usize = 4096;

/// `text` with control characters and direction marks escaped, cut to `max`
/// bytes; a cut is shown by `...`.
pub(super) fn clean(text: &str, max: usize) -> String {
    const CUT: &str = "...";
    let mut out = String::with_capacity(text.len().min(max));
    let mut fits = 0;
    for c in text.chars() {
        if c.is_control() || is_direction_mark(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
        if out.len() > max {
            out.truncate(fits);
            out.push_str(CUT);
            return out;
        }
        if out.len() + CUT.len() <= max {
            fits = out.len();
        }
    }
    out
}

/// Characters that make a terminal show text in another order than it has.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The machine's word for why, as far as it is known.
pub(super) fn reason(death: &Death) -> ReasonCode {
    match (&death.report, death.notice) {
        (Some(report), _) => report.code,
        (None, Notice::Oops) => ReasonCode::Oops,
        (None, Notice::Panic) => ReasonCode::KernelPanic,
        (None, Notice::Restart | Notice::EmergencyRestart) => ReasonCode::Restart,
        (None, Notice::Halt) => ReasonCode::Halt,
        (None, Notice::PowerOff) => ReasonCode::PowerOff,
        (None, Notice::Kexec) => ReasonCode::Kexec,
    }
}

/// One line for people: what happened to the node.
pub(super) fn summary(death: &Death, max: usize) -> String {
    let said = match (&death.report, death.notice) {
        (Some(report), _) if !report.title.is_empty() => report.title.as_str(),
        (Some(report), _) if !report.line.is_empty() => report.line.as_str(),
        (_, Notice::Oops) => "the kernel had an oops",
        (_, Notice::Panic) => "the kernel panicked",
        (_, Notice::Restart) => "the kernel restarted unannounced",
        (_, Notice::EmergencyRestart) => "the kernel restarted at once, stopping nothing",
        (_, Notice::Halt) => "the kernel halted",
        (_, Notice::PowerOff) => "the machine powered off",
        (_, Notice::Kexec) => "another kernel took over by kexec",
    };
    clean(said, max)
}

/// The message of a Node condition about this death. It ends with the death's
/// name: see [`is_about`].
pub(super) fn node_message(death: &Death, what: &str) -> String {
    let tail = tail(death);
    let kernel = death.kernel_release.as_deref().unwrap_or("unknown");
    let said = format!("{what} (kernel {kernel}, proof {:?})", death.proof);
    clean(&said, MESSAGE_MAX - tail.len()) + &tail
}

/// Whether a Node condition speaks of this death: one death must not clear
/// what a later one of the same node has set.
pub(super) fn is_about(message: &str, death: &Death) -> bool {
    message.ends_with(&tail(death))
}

fn tail(death: &Death) -> String {
    format!(" [{}]", death.name)
}

/// `at` as Kubernetes writes a time with microseconds.
pub(super) fn time(at: agent_core::model::Timestamp) -> jiff::Timestamp {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use agent_core::model::{BootId, DeathName, DeathState, NodeName, Proof, Timestamp};
    use proptest::prelude::*;

    /// A panic of node `w01`.
    pub(in crate::k8s) fn death() -> Death {
        let node = NodeName::new("w01").expect("a DNS name");
        let boot = BootId([0x3f; 16]);
        Death {
            name: DeathName::of(&node, boot),
            node,
            node_uid: None,
            boot,
            state: DeathState::Dead,
            proof: Proof::P2,
            notice: Notice::Panic,
            report: None,
            detected_at: Timestamp(1_700_000_000_000),
            happened_at: Timestamp(1_700_000_000_000),
            evidence: Vec::new(),
            kernel_release: Some("6.12.0".to_owned()),
        }
    }

    #[test]
    fn a_node_message_is_bounded_and_says_whose_it_is() {
        let death = death();
        let message = node_message(&death, &"x".repeat(5000));
        assert!(message.len() <= MESSAGE_MAX);
        assert!(is_about(&message, &death), "{message}");
        assert!(message.ends_with("... [w01-3f3f3f3f]"), "{message}");
        assert!(!is_about("another [w01-00000000]", &death));
        assert_eq!(
            node_message(&death, "the kernel panicked"),
            "the kernel panicked (kernel 6.12.0, proof P2) [w01-3f3f3f3f]"
        );
    }

    #[test]
    fn control_characters_and_direction_marks_are_shown_not_obeyed() {
        assert_eq!(clean("a\u{1b}[31mb\nc", 100), "a\\u{1b}[31mb\\u{a}c");
        assert_eq!(clean("\u{202e}evil", 100), "\\u{202e}evil");
        assert_eq!(clean("plain text", 100), "plain text");
    }

    #[test]
    fn a_cut_is_shown_and_never_splits_an_escape() {
        assert_eq!(clean("abcdefgh", 8), "abcdefgh");
        assert_eq!(clean("abcdefghi", 8), "abcde...");
        assert_eq!(clean("abcd\u{1b}", 8), "abcd...");
    }

    proptest! {
        #[test]
        fn clean_text_is_bounded_and_printable(text in any::<String>(), max in 3usize..200) {
            let out = clean(&text, max);
            prop_assert!(out.len() <= max);
            prop_assert!(!out.chars().any(char::is_control));
        }
    }
}
