//! The machines that the lab emulates.

use serde::Deserialize;

use crate::tool::{QEMU_AARCH64, QEMU_X86_64, Tool};

/// A machine's processor, by Debian's name for it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64 bit Intel and AMD.
    #[default]
    Amd64,
    /// 64 bit ARM.
    Arm64,
}

impl Arch {
    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The kernel's name, as `uname -m` says it.
    pub fn linux(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    pub(crate) fn qemu(self) -> Tool {
        match self {
            Self::Amd64 => QEMU_X86_64,
            Self::Arm64 => QEMU_AARCH64,
        }
    }

    pub(crate) fn machine(self) -> &'static [&'static str] {
        match self {
            // Without cmpxchg16b: QEMU 7.2 emulates the one that is not locked
            // wrongly, it seems: 6.12 oopsed behind it in its allocator, at boot.
            Self::Amd64 => &["-cpu", "max,cx16=off"],
            Self::Arm64 => &["-machine", "virt,gic-version=3", "-cpu", "neoverse-n1"],
        }
    }

    /// The serial port that is the console.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}
