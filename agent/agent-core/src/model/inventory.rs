//! What a boot is made of.

use serde::{Deserialize, Serialize};

use super::{BootId, Mitigation, PodRef};

/// How the status of a probe begins that is not attached ([`Inventory::probes`]).
pub const NOT_ATTACHED: &str = "not attached";

/// The boot's inventory, sent with the agent's hello as JSON.
///
/// Every field is optional on the wire: an older agent sends fewer, a newer
/// one more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The agent's version.
    pub agent: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -v`.
    pub kernel_version: String,
    /// `uname -m`.
    pub machine: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// System vendor and product, from DMI.
    pub hardware: String,
    /// Firmware vendor, version and date, from DMI.
    pub firmware: String,
    /// Microcode revision of CPU 0.
    pub microcode: String,
    /// CPUs online.
    pub cpus: u32,
    /// `kernel.panic_on_oops`.
    pub panic_on_oops: Option<bool>,
    /// Drivers of the network devices that have hardware, sorted by name.
    pub network_drivers: Vec<String>,
    /// Loaded modules, sorted by name.
    pub modules: Vec<String>,
    /// Pods on the node, as far as the agent can see them without an API
    /// server.
    pub pods: Vec<PodRef>,
    /// Per probe role: how it is attached, or why not.
    pub probes: Vec<(String, String)>,
    /// Milliseconds since boot when the agent was ready.
    pub uptime_ms: u64,
    /// The boot before this one, if its agent left a mark on the disk.
    pub previous: Option<PreviousBoot>,
    /// What the agent does against bugs of this kernel, or would; none where it was not
    /// told to look.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mitigations: Vec<Mitigation>,
}

/// What an agent leaves on the disk for the boot that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousBoot {
    /// The boot it ran in.
    pub boot: BootId,
    /// Whether it was told to stop, and did, before the boot ended.
    pub stopped: bool,
}
