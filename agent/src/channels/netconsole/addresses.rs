//! Whose address it is. Datagrams of netconsole carry no proof of who sent
//! them; the address is all there is, and a name in userdata only chooses
//! among the nodes that share one.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_core::model::{NodeName, Timestamp};

use crate::gasp::bounded::Bounded;

/// Addresses that are remembered.
const ADDRESSES: usize = 65_536;
/// How much longer ago than the newest a node was heard at an address that is
/// another's by now, in milliseconds.
const MOVED_MS: u64 = 600_000;

/// The addresses of nodes, shared between who learns them and who asks.
#[derive(Debug)]
pub struct Addresses {
    table: Mutex<Bounded<IpAddr, Sightings>>,
    /// Most nodes behind one address: a NodePort or a NAT may put all there.
    nodes: usize,
}

/// The nodes that were heard at one address.
#[derive(Debug, Default)]
struct Sightings {
    newest: Timestamp,
    /// By name. Nearly always it is one, of ten thousand addresses.
    nodes: Vec<(NodeName, Timestamp)>,
}

impl Sightings {
    fn is_current(&self, at: Timestamp) -> bool {
        self.newest.since(at) < MOVED_MS
    }

    /// Where a node is, or would be.
    fn find(&self, node: &str) -> Result<usize, usize> {
        self.nodes
            .binary_search_by(|(name, _)| name.as_str().cmp(node))
    }
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
    /// None yet, of so many nodes at most.
    pub fn new(nodes: usize) -> Self {
        Self {
            table: Mutex::new(Bounded::new(ADDRESSES)),
            nodes,
        }
    }

    /// The node has this address: it has proven so, or the API server says it.
    pub fn learn(&self, address: IpAddr, node: &NodeName, now: Timestamp) {
        let mut table = self.table();
        let (here, _) = table.get_or_insert(&address.to_canonical(), Sightings::default);
        here.newest = here.newest.max(now);
        if let Ok(at) = here.find(node.as_str()) {
            let (_, heard) = &mut here.nodes[at];
            *heard = (*heard).max(now);
            return;
        }
        if here.nodes.len() >= self.nodes {
            let newest = here.newest;
            here.nodes.retain(|(_, at)| newest.since(*at) < MOVED_MS);
        }
        if here.nodes.len() < self.nodes
            && let Err(at) = here.find(node.as_str())
        {
            if here.nodes.is_empty() {
                here.nodes.reserve_exact(1);
            }
            here.nodes.insert(at, (node.clone(), now));
        }
    }

    /// Who has this address; `named` is what the text says of itself.
    pub fn owner(&self, address: IpAddr, named: Option<&str>) -> Owner {
        let mut table = self.table();
        let Some(here) = table.get_mut(&address.to_canonical()) else {
            return Owner::Unknown;
        };
        if let Some(named) = named {
            let found = here.find(named).ok().map(|at| &here.nodes[at]);
            return match found.filter(|(_, at)| here.is_current(*at)) {
                Some((node, _)) => Owner::Node(node.clone()),
                None => Owner::Another,
            };
        }
        let mut there = here.nodes.iter().filter(|(_, at)| here.is_current(*at));
        match (there.next(), there.next()) {
            (Some((node, _)), None) => Owner::Node(node.clone()),
            (Some(_), Some(_)) => Owner::Ambiguous,
            (None, _) => Owner::Unknown,
        }
    }

    fn table(&self) -> MutexGuard<'_, Bounded<IpAddr, Sightings>> {
        // What is in it stays good whatever a holder did.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        let addresses = Addresses::new(3);
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
    fn as_many_nodes_as_there_may_be_share_an_address_and_old_ones_make_room() {
        let addresses = Addresses::new(3);
        let ip = IpAddr::from([10, 0, 0, 1]);
        for name in ["a", "b", "c", "d"] {
            addresses.learn(ip, &node(name), Timestamp(0));
        }
        assert_eq!(addresses.owner(ip, Some("c")), Owner::Node(node("c")));
        assert_eq!(addresses.owner(ip, Some("d")), Owner::Another, "too many");
        addresses.learn(ip, &node("d"), Timestamp(MOVED_MS));
        assert_eq!(addresses.owner(ip, None), Owner::Node(node("d")));
    }

    #[test]
    fn an_address_goes_over_to_who_has_it_now() {
        let addresses = Addresses::new(3);
        let ip = IpAddr::from([10, 0, 0, 1]);
        addresses.learn(ip, &node("a"), Timestamp(0));
        addresses.learn(ip, &node("b"), Timestamp(1_000));
        for minute in 1..=10 {
            addresses.learn(ip, &node("b"), Timestamp(minute * 60_000 + 1_000));
        }
        assert_eq!(addresses.owner(ip, None), Owner::Node(node("b")));
        assert_eq!(addresses.owner(ip, Some("a")), Owner::Another);
    }
}
