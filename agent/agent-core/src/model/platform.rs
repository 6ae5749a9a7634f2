//! What a boot ran on.

use serde::{Deserialize, Serialize};

use super::Inventory;

/// What many boots have in common, and deaths may follow from. An empty field is not
/// known, or there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
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
    /// Drivers of the network devices that have hardware, sorted by name.
    pub network_drivers: Vec<String>,
    /// Loaded modules, sorted by name.
    pub modules: Vec<String>,
}

impl From<&Inventory> for Platform {
    fn from(inventory: &Inventory) -> Self {
        Self {
            kernel_release: inventory.kernel_release.clone(),
            kernel_version: inventory.kernel_version.clone(),
            machine: inventory.machine.clone(),
            os: inventory.os.clone(),
            hardware: inventory.hardware.clone(),
            firmware: inventory.firmware.clone(),
            microcode: inventory.microcode.clone(),
            network_drivers: inventory.network_drivers.clone(),
            modules: inventory.modules.clone(),
        }
    }
}
