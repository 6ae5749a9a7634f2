//! What the channels beside the gasp told of one death, by the product's own
//! reading of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::model::{NodeName, Timestamp};
use harness::wire::Datagram;
use lastgasp::channels::netconsole::{Addresses, Collector};

use super::ways::Way;
use crate::node;

/// As the record of a death calls it.
pub const NETCONSOLE: &str = "netconsole";

/// Longer after its trigger no death is told in time.
const LATE: Duration = Duration::from_secs(1);

/// Whether a channel told the true reason, and when, in milliseconds after the
/// trigger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// While or right after the machine died.
    Yes(f64),
    /// Later than one waits for.
    Late(f64),
    /// Never.
    No,
}

impl Told {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes(_) => "yes",
            Self::Late(_) => "late",
            Self::No => "no",
        }
    }

    /// When.
    pub fn ms(self) -> Option<f64> {
        match self {
            Self::Yes(ms) | Self::Late(ms) => Some(ms),
            Self::No => None,
        }
    }
}

/// What the datagrams of netconsole told of a death that was triggered then.
pub fn netconsole(way: &Way, trigger: Instant, datagrams: &[Datagram]) -> Told {
    let source = IpAddr::from([10, 0, 2, 15]);
    let addresses = Addresses::new();
    if let Some(node) = NodeName::new(node::NAME) {
        addresses.learn(source, &node, Timestamp(0));
    }
    let mut collector = Collector::new(Arc::new(addresses), Arc::default());
    for datagram in datagrams {
        if datagram.port != node::NETCONSOLE_PORT {
            continue;
        }
        let said = collector.take(&datagram.payload, source, Timestamp(1));
        if said.is_some_and(|said| said.report.code == way.code) {
            let after = datagram.at.saturating_duration_since(trigger);
            let ms = after.as_secs_f64() * 1e3;
            return if after > LATE {
                Told::Late(ms)
            } else {
                Told::Yes(ms)
            };
        }
    }
    Told::No
}
