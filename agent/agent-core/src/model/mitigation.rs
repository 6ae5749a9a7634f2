//! What an agent does against a bug that its kernel has.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The one thing that can be done so far ([`Mitigation::action`]): GRO and GSO are
/// switched off, so that the kernel puts no packets together and takes none apart.
pub const GSO_OFF: &str = "gso-off";

/// Packets are put together when they come.
pub const RECEIVE: [&str; 2] = ["rx-gro", "rx-gro-hw"];

/// Packets are made long, and taken apart when they leave.
pub const SEND: [&str; 5] = [
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];

/// Most mitigations, devices of one, and bytes of a text, that are taken in.
const MITIGATIONS_MAX: usize = 4;
const DEVICES_MAX: usize = 16;
const TEXT_MAX: usize = 256;
/// Longest name of a device (`IFNAMSIZ`, with its zero byte).
const NAME_MAX: usize = 15;

/// One mitigation of one boot, as its agent says in the hello.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mitigation {
    /// What is done: [`GSO_OFF`].
    pub action: String,
    /// How far the agent may go.
    pub mode: MitigationMode,
    /// How far it is.
    pub state: MitigationState,
    /// What is switched off, or would be.
    pub devices: Vec<Switched>,
    /// Why.
    pub cause: Option<MitigationCause>,
    /// Since when it is so, by the node's clock.
    pub since: Timestamp,
    /// Why it is not as it should be.
    pub problem: Option<String>,
}

/// Features of one device, by their names in ethtool's netlink interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switched {
    /// The device.
    pub device: String,
    /// Its features.
    pub features: Vec<String>,
}

/// What speaks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MitigationCause {
    /// The death of an earlier boot on this kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub death: Option<String>,
    /// The known bug that it looks like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bug: Option<String>,
    /// The packet that was foreseen to stop this kernel, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
    /// The device that it left by, if the node itself has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// How far an agent may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MitigationMode {
    /// Only look whether there is a reason.
    Observe,
    /// Say what to do.
    Suggest,
    /// Do it.
    Apply,
    /// One that a newer agent knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MitigationState {
    /// There is no reason to do anything.
    Ready,
    /// There is one, and nothing else follows.
    Observed,
    /// There is one, and what to do was said.
    Suggested,
    /// There is a reason, and no device is known yet.
    Pending,
    /// It is done.
    Applied,
    /// It was undone by hand, and stays so in this boot.
    Undone,
    /// It could not be done.
    Failed,
    /// One that a newer agent knows.
    #[default]
    #[serde(other)]
    Unknown,
}

impl MitigationMode {
    /// The word for it, as it is set and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Suggest => "suggest",
            Self::Apply => "apply",
            Self::Unknown => "unknown",
        }
    }
}

impl MitigationState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ready,
        Self::Observed,
        Self::Suggested,
        Self::Pending,
        Self::Applied,
        Self::Undone,
        Self::Failed,
        Self::Unknown,
    ];

    /// The word for it, as it is shown and counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Observed => "observed",
            Self::Suggested => "suggested",
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Undone => "undone",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl Mitigation {
    /// As much of what a node says as is taken in: names that a kernel gives, features
    /// that we know, texts of some length.
    #[must_use]
    pub fn bounded(mut all: Vec<Self>) -> Vec<Self> {
        all.truncate(MITIGATIONS_MAX);
        for one in &mut all {
            cut(&mut one.action);
            one.devices.retain(|device| is_device(&device.device));
            one.devices.truncate(DEVICES_MAX);
            for device in &mut one.devices {
                device.features.retain(|name| is_feature(name));
                device.features.sort();
                device.features.dedup();
            }
            one.problem.iter_mut().for_each(cut);
            if let Some(cause) = &mut one.cause {
                let texts = [&mut cause.death, &mut cause.bug, &mut cause.packet];
                texts.into_iter().flatten().for_each(cut);
                cause.device.take_if(|name| !is_device(name));
            }
        }
        all
    }

    /// What a person types to do it, a command a device.
    pub fn commands(&self) -> Vec<String> {
        self.typed("off")
    }

    /// And to undo it.
    pub fn undo_commands(&self) -> Vec<String> {
        self.typed("on")
    }

    fn typed(&self, to: &str) -> Vec<String> {
        let plain = self.devices.iter().filter(|d| is_device(&d.device));
        plain.filter_map(|device| device.typed(to)).collect()
    }
}

impl Switched {
    fn typed(&self, to: &str) -> Option<String> {
        let mut words: Vec<&str> = Vec::new();
        for feature in &self.features {
            let word = short(feature);
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.sort_unstable();
        let switches: Vec<String> = words.iter().map(|word| format!("{word} {to}")).collect();
        (!switches.is_empty()).then(|| format!("ethtool -K {} {}", self.device, switches.join(" ")))
    }

    /// What they are called by people: `GRO, GSO, TSO`.
    pub fn names(&self) -> String {
        let mut names: Vec<String> = self.features.iter().map(|f| short(f).to_owned()).collect();
        names.sort();
        names.dedup();
        names.join(", ")
    }
}

/// What `ethtool -K` calls a feature.
fn short(feature: &str) -> &str {
    match feature {
        "rx-gro" => "gro",
        "tx-generic-segmentation" => "gso",
        // Each of them has a name of its own, and this one for all.
        name if SEND.contains(&name) => "tso",
        name => name,
    }
}

fn is_feature(name: &str) -> bool {
    RECEIVE.contains(&name) || SEND.contains(&name)
}

/// Whether this names a device and nothing else: people paste it into a shell.
pub fn is_device(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_.@-".contains(&c);
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(plain)
}

fn cut(text: &mut String) {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switched(device: &str, features: &[&str]) -> Switched {
        Switched {
            device: device.to_owned(),
            features: features.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    #[test]
    fn commands_are_those_that_people_type() {
        let all: Vec<&str> = RECEIVE.iter().chain(&SEND).copied().collect();
        let mitigation = Mitigation {
            devices: vec![
                switched(
                    "eth0",
                    &["rx-gro", "tx-generic-segmentation", SEND[1], SEND[4]],
                ),
                switched("eth1", &all),
                switched("eth2", &[]),
                switched("x;reboot", &all),
            ],
            ..Mitigation::default()
        };
        assert_eq!(
            mitigation.commands(),
            [
                "ethtool -K eth0 gro off gso off tso off",
                "ethtool -K eth1 gro off gso off rx-gro-hw off tso off"
            ]
        );
        assert_eq!(
            mitigation.undo_commands()[0],
            "ethtool -K eth0 gro on gso on tso on"
        );
    }

    #[test]
    fn of_what_a_node_says_only_so_much_is_taken_in() {
        let many = vec![
            Mitigation {
                action: "é".repeat(1_000),
                devices: vec![
                    switched("$(reboot)", &["rx-gro"]),
                    switched("-K", &["rx-gro"]),
                    switched("eth0", &["rx-gro", "rx-gro", "\u{1b}[2J"]),
                ],
                cause: Some(MitigationCause {
                    death: Some("x".repeat(10_000)),
                    device: Some("a b".into()),
                    ..MitigationCause::default()
                }),
                ..Mitigation::default()
            };
            9
        ];
        let bounded = Mitigation::bounded(many);
        assert_eq!(bounded.len(), MITIGATIONS_MAX);
        let one = &bounded[0];
        assert_eq!(one.devices, [switched("eth0", &["rx-gro"])]);
        assert!(one.action.len() <= TEXT_MAX);
        let cause = one.cause.as_ref().expect("a cause");
        assert_eq!(cause.device, None);
        assert!(cause.death.as_ref().is_some_and(|d| d.len() <= TEXT_MAX));
    }

    #[test]
    fn words_of_a_newer_agent_are_no_error() {
        let json = r#"{"action":"x","mode":"dream","state":"dreamt","more":1}"#;
        let read: Mitigation = serde_json::from_str(json).expect("readable");
        assert_eq!(read.mode, MitigationMode::Unknown);
        assert_eq!(read.state, MitigationState::Unknown);
        for state in MitigationState::ALL {
            let word = serde_json::to_string(&state).expect("a word");
            assert_eq!(word, format!("\"{}\"", state.as_str()));
        }
    }
}
