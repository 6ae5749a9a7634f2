//! What we say about a death, within the limits of the API server.

use agent_core::engine::{escaped, reason};
use agent_core::model::{Death, Timestamp};

/// Longest condition message that we write, in bytes.
pub(super) const MESSAGE_MAX: usize = 1024;

/// Longest event note, in bytes.
/// Source: kubernetes, `pkg/apis/core/validation/events.go`.
pub(super) const NOTE_MAX: usize = 1024;

/// Longest annotation value that we write, in bytes. The API server's limit is
/// 256 KiB for all annotations of an object together.
pub(super) const ANNOTATION_MAX: usize = 4096;

/// The message of a Node condition about this death. It ends with the death's
/// name: see [`is_about`].
pub(super) fn node_message(death: &Death, what: &str) -> String {
    let tail = tail(death);
    let kernel = death.kernel_release.as_deref().unwrap_or("unknown");
    let said = format!("{what} (kernel {kernel}, proof {:?})", death.proof);
    escaped(&said, MESSAGE_MAX - tail.len()) + &tail
}

/// Whether a Node condition speaks of this death: one death must not clear
/// what a later one of the same node has set.
pub(super) fn is_about(message: &str, death: &Death) -> bool {
    message.ends_with(&tail(death))
}

/// The message of a Node condition that says why the node died.
pub(super) fn why_message(death: &Death) -> String {
    node_message(death, &reason(death))
}

fn tail(death: &Death) -> String {
    format!(" [{}]", death.name)
}

/// The same point in time, as the API's types have it.
pub(super) fn time(at: Timestamp) -> jiff::Timestamp {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use agent_core::model::{BootId, DeathName, DeathState, NodeName, Notice, Opinion, Proof};

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
            notice: Some(Notice::Panic),
            word: None,
            packet: None,
            report: None,
            detected_at: Timestamp(1_700_000_000_000),
            happened_at: Timestamp(1_700_000_000_000),
            evidence: Vec::new(),
            steps: Vec::new(),
            channels: Vec::new(),
            lease: Opinion::Open,
            kernel_release: Some("6.12.0".to_owned()),
        }
    }

    #[test]
    fn a_node_message_is_bounded_and_says_whose_it_is() {
        let death = death();
        let message = node_message(&death, &"x".repeat(5000));
        assert!(message.len() <= MESSAGE_MAX);
        assert!(is_about(&message, &death), "{message}");
        assert!(!is_about("another [w01-00000000]", &death));
        assert_eq!(
            why_message(&death),
            "Kernel panic (kernel 6.12.0, proof P2) [w01-3f3f3f3f]"
        );
    }

    #[test]
    fn a_message_shows_control_characters_and_obeys_none() {
        let mut death = death();
        death.kernel_release = Some("6\u{1b}[31m".to_owned());
        assert!(!why_message(&death).contains('\u{1b}'));
    }
}
