//! What is done against a bug, in words, and which deaths are a reason for it.

use super::Engine;
use super::text::escaped;
use crate::model::{
    BootId, Death, DeathState, Mitigation, MitigationCause, MitigationState, NodeName, Proof,
};

/// Longest line on a mitigation, in bytes.
const TEXT_MAX: usize = 900;

impl Engine {
    /// How earlier boots of this node died on this kernel, the newest first. Only what is
    /// proven counts: features of a device are not switched because of what anybody may
    /// have said.
    pub fn died_on(&self, node: &NodeName, boot: BootId, release: &str) -> Vec<&Death> {
        let all = (node.clone(), BootId([0; 16]))..=(node.clone(), BootId([255; 16]));
        let deaths = self.cases.range(all).map(|(_, case)| &case.death);
        let mut deaths: Vec<&Death> = deaths
            .filter(|death| {
                let died = matches!(death.state, DeathState::Dead | DeathState::Returned);
                let same = death.kernel_release.as_deref() == Some(release);
                died && same && death.proof >= Proof::P2 && death.boot != boot
            })
            .collect();
        deaths.sort_by_key(|death| std::cmp::Reverse(death.detected_at));
        deaths
    }
}

/// How a mitigation stands, for people; `None` where there is no reason for one.
pub fn mitigation_text(mitigation: &Mitigation) -> Option<String> {
    let why = mitigation.cause.as_ref().map(why).unwrap_or_default();
    let text = match mitigation.state {
        MitigationState::Ready | MitigationState::Unknown => return None,
        MitigationState::Observed => format!("GRO and GSO would be switched off, as {why}"),
        MitigationState::Suggested => {
            let commands = mitigation.commands();
            let how = if commands.is_empty() {
                "no device has them on".to_owned()
            } else {
                commands.join("; ")
            };
            format!("switch GRO and GSO off until the kernel is updated: {how} ({why})")
        }
        MitigationState::Pending => {
            format!("GRO and GSO: it is not known yet of which devices ({why})")
        }
        MitigationState::Applied => format!("switched off: {}, as {why}", off(mitigation)),
        MitigationState::Undone => {
            format!("GRO and GSO are as they were: undone by hand, until the next boot ({why})")
        }
        MitigationState::Failed => {
            let problem = mitigation.problem.as_deref().unwrap_or("no reason given");
            format!("GRO and GSO cannot be switched off: {problem} ({why})")
        }
    };
    Some(escaped(&text, TEXT_MAX))
}

/// `GRO, GSO on eth0; GRO on eth1`.
fn off(mitigation: &Mitigation) -> String {
    let devices = mitigation.devices.iter().filter(|d| !d.features.is_empty());
    let parts: Vec<String> = devices
        .map(|device| format!("{} on {}", device.names().to_uppercase(), device.device))
        .collect();
    if parts.is_empty() {
        return "nothing, all of it was off".to_owned();
    }
    parts.join("; ")
}

fn why(cause: &MitigationCause) -> String {
    match (&cause.death, &cause.bug, &cause.packet) {
        (Some(death), Some(bug), _) => format!("death {death} on this kernel looks like {bug}"),
        (Some(death), None, _) => format!("of death {death} on this kernel"),
        (None, _, Some(packet)) => {
            format!("a packet was seen that this kernel may stop at: {packet}")
        }
        (None, Some(bug), None) => format!("this kernel has {bug}"),
        (None, None, None) => "for a reason that is not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Switched;

    fn mitigation(state: MitigationState) -> Mitigation {
        Mitigation {
            state,
            devices: vec![Switched {
                device: "eth0".into(),
                features: vec!["rx-gro".into(), "tx-generic-segmentation".into()],
            }],
            cause: Some(MitigationCause {
                death: Some("w01-00000001".into()),
                bug: Some("cve-2024-42281".into()),
                ..MitigationCause::default()
            }),
            problem: Some("no\u{1b}[2J right".into()),
            ..Mitigation::default()
        }
    }

    #[test]
    fn each_state_is_told_with_its_reason_and_what_to_type() {
        const WHY: &str = "death w01-00000001 on this kernel looks like cve-2024-42281";
        for (state, expected) in [
            (MitigationState::Ready, None),
            (MitigationState::Unknown, None),
            (
                MitigationState::Suggested,
                Some("until the kernel is updated: ethtool -K eth0 gro off gso off ("),
            ),
            (
                MitigationState::Applied,
                Some("switched off: GRO, GSO on eth0, as "),
            ),
            (MitigationState::Undone, Some("undone by hand")),
            (
                MitigationState::Failed,
                Some("cannot be switched off: no\\u{1b}[2J right"),
            ),
            (MitigationState::Observed, Some("would be switched off")),
        ] {
            let text = mitigation_text(&mitigation(state));
            assert_eq!(text.is_some(), expected.is_some(), "{text:?}");
            let (Some(text), Some(expected)) = (text, expected) else {
                continue;
            };
            assert!(text.contains(expected) && text.contains(WHY), "{text}");
        }
        let mut long = mitigation(MitigationState::Failed);
        long.problem = Some("x".repeat(5_000));
        assert!(mitigation_text(&long).is_some_and(|text| text.len() <= TEXT_MAX));
    }
}
