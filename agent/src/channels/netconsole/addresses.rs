//! Whose address it is. Datagrams of netconsole carry no proof of who sent
//! them; the address is all there is, and a name in userdata only chooses
//! among the nodes that share one.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_core::model::{NodeName, Timestamp};

use crate::gasp::bounded::Bounded;

/// Addresses that are remembered.
const ADDRESSES: usize = 65_536;
/// Nodes behind one address, as a NodePort or a NAT puts them.
const NODES: usize = 256;
/// How much longer ago than the newest a node was heard at an address that is
/// another's by now, in milliseconds.
const MOVED_MS: u64 = 600_000;
/// How old a sighting may get before it is renewed, in milliseconds.
const RENEW_MS: u64 = 60_000;

/// The addresses of nodes, shared between who learns them and who asks.
#[derive(Debug)]
pub struct Addresses(Mutex<Bounded<IpAddr, Vec<Sighting>>>);

#[derive(Debug)]
struct Sighting {
    node: NodeName,
    at: Timestamp,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This node.
    Node(NodeName),
    /// Nobody that is known.
    Unknown,
    /// Several nodes, and no name says which.
    Ambiguous,
    /// Not the node that was named.
    Another,
}

impl Addresses {
    /// None yet.
    pub fn new() -> Self {
        Self(Mutex::new(Bounded::new(ADDRESSES)))
    }

    /// The node has this address: it has proven so, or the API server says it.
    pub fn learn(&self, address: IpAddr, node: &NodeName, now: Timestamp) {
        let mut table = self.table();
        // Most addresses are of one node.
        let (nodes, _) = table.get_or_insert(&address.to_canonical(), || Vec::with_capacity(1));
        if let Some(known) = nodes.iter_mut().find(|s| s.node == *node) {
            if now.since(known.at) >= RENEW_MS {
                known.at = now;
            }
            return;
        }
        nodes.retain(|s| now.since(s.at) < MOVED_MS + RENEW_MS);
        if nodes.len() == NODES {
            nodes.remove(0);
        }
        nodes.push(Sighting {
            node: node.clone(),
            at: now,
        });
    }

    /// Who has this address; `named` is what the text says of itself.
    pub fn owner(&self, address: IpAddr, named: Option<&str>) -> Owner {
        let mut table = self.table();
        let Some(nodes) = table.get_mut(&address.to_canonical()) else {
            return Owner::Unknown;
        };
        let newest = nodes.iter().map(|s| s.at).max().unwrap_or_default();
        let mut there = nodes
            .iter()
            .filter(|s| newest.since(s.at) < MOVED_MS + RENEW_MS)
            .map(|s| &s.node);
        if let Some(named) = named {
            let found = there.find(|node| node.as_str() == named);
            return found.cloned().map_or(Owner::Another, Owner::Node);
        }
        match (there.next(), there.next()) {
            (Some(node), None) => Owner::Node(node.clone()),
            (Some(_), Some(_)) => Owner::Ambiguous,
            (None, _) => Owner::Unknown,
        }
    }

    fn table(&self) -> MutexGuard<'_, Bounded<IpAddr, Vec<Sighting>>> {
        // What is in it stays good whatever a holder did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a DNS label")
    }

    #[test]
    fn a_name_chooses_among_those_who_share_an_address_and_nobody_else() {
        let addresses = Addresses::new();
        let ip = IpAddr::from([10, 0, 0, 1]);
        let now = Timestamp(1_000_000);
        assert_eq!(addresses.owner(ip, None), Owner::Unknown);
        addresses.learn(
            "::ffff:10.0.0.1".parse().expect("an address"),
            &node("a"),
            now,
        );
        assert_eq!(addresses.owner(ip, None), Owner::Node(node("a")));
        assert_eq!(addresses.owner(ip, Some("a")), Owner::Node(node("a")));
        assert_eq!(addresses.owner(ip, Some("b")), Owner::Another);
        addresses.learn(ip, &node("b"), now);
        assert_eq!(addresses.owner(ip, None), Owner::Ambiguous);
        assert_eq!(addresses.owner(ip, Some("b")), Owner::Node(node("b")));
        assert_eq!(
            addresses.owner([10, 0, 0, 2].into(), Some("b")),
            Owner::Unknown
        );
    }

    #[test]
    fn an_address_goes_over_to_who_has_it_now() {
        let addresses = Addresses::new();
        let ip = IpAddr::from([10, 0, 0, 1]);
        addresses.learn(ip, &node("a"), Timestamp(0));
        addresses.learn(ip, &node("b"), Timestamp(1_000));
        for minute in 1..=12 {
            addresses.learn(ip, &node("b"), Timestamp(minute * RENEW_MS + 1_000));
        }
        assert_eq!(addresses.owner(ip, None), Owner::Node(node("b")));
        assert_eq!(addresses.owner(ip, Some("a")), Owner::Another);
    }
}
