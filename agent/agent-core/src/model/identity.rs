//! Who: nodes, boots, pods, deaths.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A node's name as Kubernetes knows it (a DNS subdomain, at most 253 bytes),
/// or the machine's host name where there is no cluster. One name is kept once,
/// however often it is cloned.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(Arc<str>);

/// Longest node name, in bytes (RFC 1123 DNS subdomain, as Kubernetes has it).
pub(super) const NODE_NAME_MAX: usize = 253;

impl NodeName {
    /// Takes a name that is a DNS subdomain; `None` for any other text, so
    /// that nothing hostile reaches a URL, a patch or a terminal.
    pub fn new(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() <= NODE_NAME_MAX;
        let label = |l: &str| {
            !l.is_empty()
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        (fits && name.split('.').all(label)).then(|| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One boot of one machine: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Reads the 36-character form that the kernel prints.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() != 36 {
            return None;
        }
        let mut bytes = [0u8; 16];
        let mut hex = text.bytes().filter(|b| *b != b'-');
        for byte in &mut bytes {
            let high = char::from(hex.next()?).to_digit(16)?;
            let low = char::from(hex.next()?).to_digit(16)?;
            *byte = (high * 16 + low) as u8;
        }
        hex.next().is_none().then_some(Self(bytes))
    }

    /// The first eight hex digits: enough to tell boots of one node apart.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each message of a node names two of these: not by the formatter, digit by digit.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (i, byte) in self.0.iter().enumerate() {
            at += usize::from(matches!(i, 4 | 6 | 8 | 10));
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BootId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a boot id"))
    }
}

/// The name of a `NodeDeath`: `<node>-<first 8 digits of the boot id>`.
/// One boot dies once, so this is also the key that makes every action
/// idempotent.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeathName(String);

impl DeathName {
    /// The name for this boot of this node.
    pub fn of(node: &NodeName, boot: BootId) -> Self {
        let short = boot.short();
        // A node name may fill the whole 253 bytes; the suffix must still fit.
        let keep = NODE_NAME_MAX - short.len() - 1;
        let node = &node.as_str()[..node.as_str().len().min(keep)];
        Self(format!("{}-{short}", node.trim_end_matches(['-', '.'])))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod that ran on a node, by what outlives its object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`; empty where the source does not know it.
    #[serde(default)]
    pub uid: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_reads_what_the_kernel_prints_and_nothing_else() {
        let text = "3f2b8c9e-0d1a-4b6f-9c3d-5e7a1b2c4d6f";
        assert_eq!(
            BootId::parse(text).map(|b| b.to_string()).as_deref(),
            Some(text)
        );
        assert_eq!(
            BootId::parse(&format!("{text}\n"))
                .map(|b| b.short())
                .as_deref(),
            Some("3f2b8c9e")
        );
        for bad in [
            "",
            "3f2b8c9e",
            "zf2b8c9e-0d1a-4b6f-9c3d-5e7a1b2c4d6f",
            "3f2b8c9e-0d1a-4b6f-9c3d-5e7a1b2c4d6-",
        ] {
            assert_eq!(BootId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_node_name_is_a_dns_subdomain() {
        for good in ["w01", "ip-10-0-0-1.eu-west-1.compute.internal", "a"] {
            assert!(NodeName::new(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "W01",
            "a..b",
            "-a",
            "a-",
            "a/b",
            "a b",
            "\u{1b}[31m",
            &"a".repeat(254),
        ] {
            assert!(NodeName::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_death_name_fits_an_object_name_however_long_the_node_name() {
        let node = NodeName::new(&format!("{}.b", "a".repeat(251))).expect("253 bytes");
        let name = DeathName::of(&node, BootId([7; 16]));
        assert!(name.as_str().len() <= NODE_NAME_MAX);
        assert!(name.as_str().ends_with("-07070707"));
        assert!(NodeName::new(name.as_str()).is_some(), "{name}");
    }
}
