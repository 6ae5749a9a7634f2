//! What the channels beside the gasp told of one death, by the product's own
//! reading of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::model::{Line, NodeName, Timestamp};
use harness::vm::ConsoleLine;
use harness::wire::Datagram;
use lastgasp::channels::netconsole::{Addresses, Collector};

use super::verdict;
use super::ways::Way;
use crate::node;

/// As the record of a death calls it.
pub const NETCONSOLE: &str = "netconsole";

/// Longer after the line that says why it is not told in time.
const SLOW: Duration = Duration::from_secs(1);

/// Whether a channel told the true reason, and when, in milliseconds after the
/// console had the line that says why, or after the trigger where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Overheard {
    /// While or right after the machine died.
    Yes(f64),
    /// Later than one waits for.
    Slow(f64),
    /// Never.
    No,
}

impl Overheard {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes(_) => "yes",
            Self::Slow(_) => "slow",
            Self::No => "no",
        }
    }

    /// When.
    pub fn ms(self) -> Option<f64> {
        match self {
            Self::Yes(ms) | Self::Slow(ms) => Some(ms),
            Self::No => None,
        }
    }
}

/// What the datagrams of netconsole told of a death that was triggered then.
pub fn netconsole(
    way: &Way,
    trigger: Instant,
    console: &[ConsoleLine],
    datagrams: &[Datagram],
) -> Overheard {
    // A stall is found long after its trigger.
    let said = console
        .iter()
        .filter(|(at, _)| *at >= trigger && !way.line.is_empty())
        .find(|(_, line)| verdict::text(line).is_some_and(|text| way.is_why(text)));
    let since = said.map_or(trigger, |(at, _)| *at);
    let mut collector = collector();
    for datagram in sent(datagrams) {
        let said = collector.take(&datagram.payload, SOURCE, Timestamp(1));
        if said.is_some_and(|said| said.report.code == way.code) {
            let after = datagram.at.saturating_duration_since(since);
            let ms = after.as_secs_f64() * 1e3;
            return if after > SLOW {
                Overheard::Slow(ms)
            } else {
                Overheard::Yes(ms)
            };
        }
    }
    Overheard::No
}

/// The lines around it that an annotator keeps.
pub fn kept_lines(datagrams: &[Datagram]) -> Vec<Line> {
    let mut collector = collector();
    let mut lines = Vec::new();
    for datagram in sent(datagrams) {
        collector.take(&datagram.payload, SOURCE, Timestamp(1));
        let heard = collector.lines(Timestamp(1));
        lines.extend(heard.into_iter().flat_map(|heard| heard.lines));
    }
    // As the store gives them.
    lines.sort_by_key(|line| (line.mono_ns, line.seq));
    lines
}

/// Where the machine's datagrams come from.
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15));

fn collector() -> Collector {
    let addresses = Addresses::new(1);
    if let Some(node) = NodeName::new(node::NAME) {
        addresses.learn(SOURCE, &node, Timestamp(0));
    }
    Collector::new(Arc::new(addresses), Arc::default())
}

fn sent(datagrams: &[Datagram]) -> impl Iterator<Item = &Datagram> {
    let is_its = |datagram: &&Datagram| datagram.port == node::NETCONSOLE_PORT;
    datagrams.iter().filter(is_its)
}

#[cfg(test)]
mod tests {
    use super::super::ways;
    use super::*;

    #[test]
    fn what_netconsole_tells_counts_from_the_line_that_says_why() {
        let way = ways::named("sysrq-c").expect("it");
        let why = "Kernel panic - not syncing: sysrq triggered crash";
        let trigger = Instant::now();
        let at = |ms| trigger + Duration::from_millis(ms);
        let console = [
            (at(1), "[    1.000000] something else".to_owned()),
            (at(9000), format!("[   10.000000] {why}")),
        ];
        let tell = |ms, port| {
            [Datagram {
                at: at(ms),
                port,
                payload: format!("0,100,10000000,-;{why}\n").into_bytes(),
            }]
        };
        let heard = |datagrams: &[Datagram]| netconsole(way, trigger, &console, datagrams);
        let port = node::NETCONSOLE_PORT;
        assert_eq!(heard(&tell(9500, port)), Overheard::Yes(500.0));
        assert_eq!(heard(&tell(8999, port)), Overheard::Yes(0.0));
        assert_eq!(heard(&tell(10_500, port)), Overheard::Slow(1500.0));
        assert_eq!(heard(&tell(9500, port + 1)), Overheard::No);
    }
}
