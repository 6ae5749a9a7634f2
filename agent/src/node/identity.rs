//! Who this node is and which boot this is.

use std::io::Read;
use std::path::Path;

use agent_core::model::{BootId, NodeName, Timestamp};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Why the node cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that every Linux has cannot be read.
    #[error("cannot read {path}; is /proc mounted?")]
    Read {
        /// The file.
        path: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The boot id is not one.
    #[error("{BOOT_ID} holds no boot id")]
    BootId,
    /// The name is not one.
    #[error(
        "{0:?} is no node name (lower-case letters, digits, '-' and '.'); set --node-name or NODE_NAME"
    )]
    NodeName(String),
}

/// This boot's id.
pub fn boot_id() -> Result<BootId, Error> {
    BootId::parse(&read(BOOT_ID)?).ok_or(Error::BootId)
}

/// When this boot began, by the wall clock as it is set now.
pub fn began() -> Result<Timestamp, Error> {
    let uptime = super::inventory::uptime_ms(&read("/proc/uptime")?);
    Ok(Timestamp(now().0.saturating_sub(uptime)))
}

/// The wall clock.
pub fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(now.map_or(0, |since| since.as_millis() as u64))
}

/// What the kernel says of itself in `/proc/sys/kernel/<name>`; empty if it does not.
pub fn kernel(name: &str) -> String {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
    text.unwrap_or_default().trim().to_owned()
}

/// The name given, or the host's in lower case.
pub fn node_name(given: Option<&str>) -> Result<NodeName, Error> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => read(HOSTNAME)?.trim().to_ascii_lowercase(),
    };
    NodeName::new(&name).ok_or(Error::NodeName(name))
}

/// A random number for this process.
pub fn session() -> Result<u64, Error> {
    let path = "/dev/urandom";
    let mut bytes = [0; 8];
    std::fs::File::open(Path::new(path))
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| Error::Read { path, source })?;
    Ok(u64::from_le_bytes(bytes))
}

fn read(path: &'static str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path, source })
}
