//! The way to a collector, looked up while the machine is well: route,
//! neighbour, and the device at the bottom of the stack.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::gasp::link::Link;

/// Most devices with hardware that are named.
const DEVICES_MAX: usize = 16;

/// Why there is no way below UDP. UDP may work all the same.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not answer.
    #[error("cannot ask the kernel for the way to {to}")]
    Netlink {
        /// The collector.
        to: IpAddr,
        /// Why not.
        source: Box<rtnetlink::Error>,
    },
    /// No route.
    #[error("there is no route to {0}")]
    NoRoute(IpAddr),
    /// The next hop has not answered yet.
    #[error("the next hop {0} has no known link-layer address yet")]
    NoNeighbour(IpAddr),
    /// Loopback, a tunnel: nothing that Ethernet frames go out of.
    #[error("{0} is no Ethernet device; frames to this collector go by UDP only")]
    NotEthernet(String),
}

/// A way to a collector, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The way below UDP.
    pub link: Link,
    /// The device that the route names, which may be a VLAN, a bridge or a bond
    /// over the one that frames leave by.
    pub device: String,
}

/// Looks up the way to `to`, for a socket bound to `port`.
pub async fn resolve(handle: &Handle, to: SocketAddr, port: u16) -> Result<Uplink, Error> {
    let netlink = |source| Error::Netlink {
        to: to.ip(),
        source: Box::new(source),
    };
    let query = destination(to.ip());
    let route = handle
        .route()
        .get(query)
        .execute()
        .try_next()
        .await
        .map_err(netlink)?;
    let route = Way::read(&route.ok_or(Error::NoRoute(to.ip()))?);
    let (Some(interface), Some(from)) = (route.interface, route.from) else {
        return Err(Error::NoRoute(to.ip()));
    };
    let hop = route.gateway.unwrap_or(to.ip());
    let next_hop_mac = neighbour(handle, interface, hop).await.map_err(netlink)?;
    let next_hop_mac = next_hop_mac.ok_or(Error::NoNeighbour(hop))?;
    let upper = device_name(interface).ok_or(Error::NoRoute(to.ip()))?;
    let (lower, vlan) = bottom(Path::new("/sys/class/net"), &upper);
    let (Some(index), Some(_)) = (read_number(&lower, "ifindex"), read_mac(&lower)) else {
        return Err(Error::NotEthernet(lower));
    };
    // A VLAN or bridge has an address of its own, and that is what the next
    // hop answers to.
    let Some(source_mac) = read_mac(&upper) else {
        return Err(Error::NotEthernet(upper));
    };
    let link = Link {
        interface: index,
        source_mac,
        next_hop_mac,
        vlan,
        from: SocketAddr::new(from, port),
        to,
    };
    Ok(Uplink {
        link,
        device: upper,
    })
}

/// The names of the devices that frames leave by on these ways; where none is known,
/// those that have hardware and are up.
pub fn lowest<'a>(ways: impl IntoIterator<Item = &'a Uplink>) -> Vec<String> {
    let name = |way: &Uplink| device_name(way.link.interface);
    let known: Vec<String> = ways.into_iter().filter_map(name).collect();
    if known.is_empty() {
        return hardware(Path::new("/sys/class/net"));
    }
    known
}

fn hardware(class: &Path) -> Vec<String> {
    let Ok(devices) = fs::read_dir(class) else {
        return Vec::new();
    };
    let is_up = |name: &String| {
        let dir = class.join(name);
        let state = fs::read_to_string(dir.join("operstate")).unwrap_or_default();
        dir.join("device").exists() && state.trim() == "up"
    };
    let names = devices
        .flatten()
        .filter_map(|d| d.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(is_up).take(DEVICES_MAX).collect();
    names.sort();
    names
}

fn destination(to: IpAddr) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new();
    let prefix = if to.is_ipv4() { 32 } else { 128 };
    match builder.destination_prefix(to, prefix) {
        Ok(builder) => builder.build(),
        // Only a prefix that does not fit the family is refused.
        Err(_) => RouteMessage::default(),
    }
}

#[derive(Default)]
struct Way {
    interface: Option<u32>,
    gateway: Option<IpAddr>,
    from: Option<IpAddr>,
}

impl Way {
    fn read(route: &RouteMessage) -> Self {
        let mut way = Self::default();
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => way.interface = Some(*index),
                RouteAttribute::Gateway(address) => way.gateway = ip(address),
                RouteAttribute::PrefSource(address) => way.from = ip(address),
                _ => {}
            }
        }
        way
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

async fn neighbour(
    handle: &Handle,
    interface: u32,
    hop: IpAddr,
) -> Result<Option<[u8; 6]>, rtnetlink::Error> {
    let family = if hop.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let mut entries = handle
        .neighbours()
        .get()
        .set_address_family(family)
        .execute();
    while let Some(entry) = entries.try_next().await? {
        let is_hop = |a: &NeighbourAttribute| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => hop == IpAddr::V4(*v4),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => hop == IpAddr::V6(*v6),
            _ => false,
        };
        if entry.header.ifindex != interface || !entry.attributes.iter().any(is_hop) {
            continue;
        }
        let mac = entry.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok(),
            _ => None,
        });
        return Ok(mac);
    }
    Ok(None)
}

fn device_name(index: u32) -> Option<String> {
    let devices = fs::read_dir("/sys/class/net").ok()?;
    let names = devices
        .flatten()
        .filter_map(|d| d.file_name().into_string().ok());
    names
        .into_iter()
        .find(|name| read_number(name, "ifindex") == Some(index))
}

/// Follows a VLAN, bridge or bond down to the device that frames leave by, and
/// gathers the VLAN tag on the way.
fn bottom(class: &Path, upper: &str) -> (String, Option<u16>) {
    let (mut name, mut vlan) = (upper.to_owned(), None);
    // Stacks are shallow; the bound is against a loop in a damaged tree.
    for _ in 0..8 {
        vlan = vlan.or_else(|| vlan_id(&name));
        let Some(lower) = lower(class, &name) else {
            break;
        };
        name = lower;
    }
    (name, vlan)
}

fn lower(class: &Path, name: &str) -> Option<String> {
    if let Ok(active) = fs::read_to_string(class.join(name).join("bonding/active_slave")) {
        let active = active.trim();
        if !active.is_empty() {
            return Some(active.to_owned());
        }
    }
    let entries = fs::read_dir(class.join(name)).ok()?;
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut below: Vec<String> = names
        .filter_map(|n| n.strip_prefix("lower_").map(str::to_owned))
        .collect();
    below.sort();
    // Under a bridge there are veths beside the uplink; only hardware has a
    // device behind it.
    let hardware = below
        .iter()
        .position(|n| class.join(n).join("device").exists());
    (!below.is_empty()).then(|| below.swap_remove(hardware.unwrap_or(0)))
}

/// The id of a VLAN device, from `/proc/net/vlan/<name>`: `eth0.42  VID: 42 ...`.
fn vlan_id(name: &str) -> Option<u16> {
    let text = fs::read_to_string(Path::new("/proc/net/vlan").join(name)).ok()?;
    let mut words = text
        .split_ascii_whitespace()
        .skip_while(|word| *word != "VID:");
    words.nth(1)?.parse().ok()
}

fn read_number(name: &str, file: &str) -> Option<u32> {
    let path = Path::new("/sys/class/net").join(name).join(file);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_mac(name: &str) -> Option<[u8; 6]> {
    let path = Path::new("/sys/class/net").join(name);
    // ARPHRD_ETHER (include/uapi/linux/if_arp.h); loopback and tunnels differ.
    if read_number(name, "type") != Some(1) {
        return None;
    }
    let text = fs::read_to_string(path.join("address")).ok()?;
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_a_bridge_the_hardware_is_found_not_a_veth() {
        let class = tempfile::tempdir().expect("temporary directory");
        for dir in [
            "br0",
            "br0/lower_eth0",
            "br0/lower_aveth",
            "eth0",
            "eth0/device",
            "aveth",
        ] {
            fs::create_dir_all(class.path().join(dir)).expect("mkdir");
        }
        assert_eq!(bottom(class.path(), "br0"), ("eth0".to_owned(), None));
        assert_eq!(bottom(class.path(), "eth0"), ("eth0".to_owned(), None));
    }

    #[test]
    fn without_a_way_what_has_hardware_and_is_up_is_taken() {
        let class = tempfile::tempdir().expect("temporary directory");
        for (name, is_hardware, state) in [
            ("eth1", true, "up\n"),
            ("eth0", true, "up\n"),
            ("eth2", true, "down\n"),
            ("veth1", false, "up\n"),
        ] {
            let dir = class.path().join(name);
            let made = if is_hardware {
                dir.join("device")
            } else {
                dir.clone()
            };
            fs::create_dir_all(made).expect("mkdir");
            fs::write(dir.join("operstate"), state).expect("write");
        }
        assert_eq!(hardware(class.path()), ["eth0", "eth1"]);
    }

    #[test]
    fn a_bond_sends_by_its_active_slave() {
        let class = tempfile::tempdir().expect("temporary directory");
        for dir in [
            "bond0/bonding",
            "bond0/lower_eth0",
            "bond0/lower_eth1",
            "eth0/device",
            "eth1/device",
        ] {
            fs::create_dir_all(class.path().join(dir)).expect("mkdir");
        }
        fs::write(class.path().join("bond0/bonding/active_slave"), "eth1\n").expect("write");
        assert_eq!(bottom(class.path(), "bond0"), ("eth1".to_owned(), None));
    }
}
