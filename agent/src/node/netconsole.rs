//! The kernel's own way to send its log, set up beside ours: one dynamic target
//! a collector, through configfs (Documentation/networking/netconsole.rst).
//!
//! It needs no capability: configfs belongs to root, and that the agent stays.
//! Targets of others are not touched. Whatever a kernel does not have, a file
//! or all of it, is a status with a reason.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::uplink::Uplink;

/// What our targets are called, before their number.
const NAME: &str = "lastgasp-";
/// More of them than any agent ever made.
const NAMES: usize = 8;

/// Why there is no netconsole to be set up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No module.
    #[error("the module is not loaded: `modprobe netconsole`")]
    NotLoaded,
    /// No configfs.
    #[error("configfs is not at {0}: mount it there, or name its place by --configfs")]
    NoConfigfs(PathBuf),
    /// Targets only on the kernel's command line.
    #[error(
        "this kernel's netconsole takes no targets while it runs (CONFIG_NETCONSOLE_DYNAMIC is off)"
    )]
    NotDynamic,
}

/// Why a target is not set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}; the kernel's log says why")]
struct Refused {
    path: PathBuf,
    source: io::Error,
}

/// Everything that the kernel is told of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    device: String,
    from: IpAddr,
    to: SocketAddr,
    next_hop: String,
}

/// The targets of this agent.
#[derive(Debug)]
pub struct Netconsole {
    configfs: PathBuf,
    port: u16,
    /// Items of userdata: the node, and its boot.
    says: [(&'static str, String); 2],
    targets: Vec<Option<Target>>,
    status: String,
}

/// Where targets are made.
pub fn find(configfs: &Path) -> Result<PathBuf, Missing> {
    let dir = configfs.join("netconsole");
    if dir.is_dir() {
        return Ok(dir);
    }
    if !Path::new("/sys/module/netconsole").exists() {
        return Err(Missing::NotLoaded);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let is_it = |line: &str| {
        let mut words = line.split(' ').skip(1);
        words.next().map(Path::new) == Some(configfs) && words.next() == Some("configfs")
    };
    if mounts.lines().any(is_it) {
        return Err(Missing::NotDynamic);
    }
    Err(Missing::NoConfigfs(configfs.to_owned()))
}

/// What keeps a netconsole that is set up from saying how a kernel dies; `None`
/// where nothing does.
///
/// As an "nbcon" console (fs/proc/consoles.c shows it by `N`) it has no way to
/// send that is safe in a panic. The kernel tries it all the same as its very
/// last act, which it only comes to if it is not to reboot.
pub fn muted() -> Option<&'static str> {
    let consoles = fs::read_to_string("/proc/consoles").unwrap_or_default();
    let is_nbcon = |line: &str| {
        let flags = line.split_once('(').and_then(|(_, f)| f.split_once(')'));
        line.starts_with("netcon") && flags.is_some_and(|(flags, _)| flags.contains('N'))
    };
    let reboots = fs::read_to_string("/proc/sys/kernel/panic").is_ok_and(|t| t.trim() != "0");
    (reboots && consoles.lines().any(is_nbcon))
        .then_some("in a panic this kernel sends by netconsole only while kernel.panic is 0")
}

impl Netconsole {
    /// Nothing is set up yet. `port` is the collectors'; `node` and `boot` are
    /// what the text says of itself, where the kernel can.
    pub fn new(configfs: &Path, port: u16, node: &str, boot: &str) -> Self {
        Self {
            configfs: configfs.to_owned(),
            port,
            says: [("node", node.to_owned()), ("boot", boot.to_owned())],
            targets: Vec::new(),
            status: "no way to a collector is known yet".to_owned(),
        }
    }

    /// How it stands, in one line.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Has one target for each way that is known, as it is now. True if that
    /// changed how it stands.
    pub fn refresh(&mut self, ways: &[Option<Uplink>]) -> bool {
        let status = match find(&self.configfs) {
            Ok(dir) => self.set_all(&dir, ways),
            Err(missing) => {
                // What was set up went with it.
                self.targets.clear();
                format!("off: {missing}")
            }
        };
        let changed = status != self.status;
        self.status = status;
        changed
    }

    fn set_all(&mut self, dir: &Path, ways: &[Option<Uplink>]) -> String {
        // Of an agent before this one, which had more collectors.
        for extra in ways.len()..NAMES {
            remove(&place(dir, extra), &self.says);
        }
        self.targets.resize(ways.len(), None);
        let mut stand = Vec::new();
        for (index, way) in ways.iter().enumerate() {
            let Some(way) = way else { continue };
            let target = Target::new(way, self.port);
            let place = place(dir, index);
            let is_on = fs::read_to_string(place.join("enabled")).is_ok_and(|t| t.trim() == "1");
            // The kernel switches a target off by itself when its device goes.
            if !is_on || self.targets[index].as_ref() != Some(&target) {
                self.targets[index] = None;
                if let Err(error) = target.set(&place, &self.says) {
                    stand.push(format!("off: {error}: {}", error.source));
                    continue;
                }
            }
            stand.push(format!("{} by {}", target.to, target.device));
            self.targets[index] = Some(target);
        }
        if stand.is_empty() {
            return "no way to a collector is known yet".to_owned();
        }
        stand.extend(muted().map(str::to_owned));
        stand.join("; ")
    }

    /// Takes the targets away.
    pub fn stop(self) {
        if let Ok(dir) = find(&self.configfs) {
            for index in 0..NAMES {
                remove(&place(&dir, index), &self.says);
            }
        }
    }
}

impl Target {
    fn new(way: &Uplink, port: u16) -> Self {
        let next_hop = way.link.next_hop_mac.map(|byte| format!("{byte:02x}"));
        Self {
            device: way.device.clone(),
            from: way.link.from.ip(),
            to: SocketAddr::new(way.link.to.ip(), port),
            next_hop: next_hop.join(":"),
        }
    }

    /// Makes it, or makes it anew: a target takes changes only while it is off.
    fn set(&self, place: &Path, says: &[(&str, String)]) -> Result<(), Refused> {
        make(place)?;
        if fs::read_to_string(place.join("enabled")).is_ok_and(|t| t.trim() == "1") {
            write(place, "enabled", "0")?;
        }
        write(place, "dev_name", &self.device)?;
        write(place, "local_ip", &self.from.to_string())?;
        write(place, "remote_ip", &self.to.ip().to_string())?;
        write(place, "remote_port", &self.to.port().to_string())?;
        write(place, "remote_mac", &self.next_hop)?;
        // Numbers of records, and the kernel's release: not every kernel has them.
        for file in ["extended", "release"] {
            if place.join(file).exists() {
                write(place, file, "1")?;
            }
        }
        let userdata = place.join("userdata");
        if userdata.is_dir() {
            for (key, value) in says {
                // A name that is too long for it is left out: the address says
                // who it is.
                let item = userdata.join(key);
                let _ = make(&item).and_then(|()| write(&item, "value", value));
            }
        }
        write(place, "enabled", "1")
    }
}

fn place(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("{NAME}{index}"))
}

fn make(path: &Path) -> Result<(), Refused> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Refused {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn write(place: &Path, file: &str, value: &str) -> Result<(), Refused> {
    let path = place.join(file);
    fs::write(&path, value).map_err(|source| Refused { path, source })
}

/// Takes a target away, if it is there. What cannot be taken away stays, and
/// sends to a collector that drops it.
fn remove(place: &Path, says: &[(&str, String)]) {
    if !place.is_dir() {
        return;
    }
    let _ = write(place, "enabled", "0");
    for (key, _) in says {
        let _ = fs::remove_dir(place.join("userdata").join(key));
    }
    let _ = fs::remove_dir(place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gasp::link::Link;

    #[test]
    fn a_target_is_what_the_way_is() {
        let link = Link {
            interface: 2,
            source_mac: [2; 6],
            next_hop_mac: [0x52, 0x55, 10, 0, 2, 2],
            vlan: Some(7),
            from: "10.0.2.15:4000".parse().expect("an address"),
            to: "10.9.0.5:30618".parse().expect("an address"),
        };
        let way = Uplink {
            link,
            device: "eth0.7".to_owned(),
        };
        let target = Target::new(&way, 30_666);
        assert_eq!(target.device, "eth0.7");
        assert_eq!(target.from.to_string(), "10.0.2.15");
        assert_eq!(target.to.to_string(), "10.9.0.5:30666");
        assert_eq!(target.next_hop, "52:55:0a:00:02:02");
    }

    #[test]
    fn what_is_missing_is_said_with_the_way_out() {
        let nowhere = Path::new("/nonexistent");
        let mut netconsole = Netconsole::new(nowhere, 6666, "w01", "b");
        assert!(netconsole.refresh(&[]));
        assert!(netconsole.status().starts_with("off: "), "{netconsole:?}");
        assert!(!netconsole.refresh(&[]), "nothing changed");
        netconsole.stop();
    }
}
