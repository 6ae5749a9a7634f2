//! What kernels say by netconsole: text that nobody has proven, over UDP.
//!
//! [`Collector`] reads datagrams without socket and clock; [`Listener`] runs it
//! on a thread of its own. Whatever is sent here, however much of it, costs the
//! channels that can prove who they are neither time nor memory.

mod addresses;
mod lines;
mod listener;
mod pieces;
mod record;
mod stream;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_core::model::{BootId, Line, NodeName, Report, Timestamp};

pub use addresses::{Addresses, Owner};
pub use listener::{Error, Listener};
use pieces::{Pieces, Step};
use record::{Datagram, Head};
use stream::{Stream, Taken};

use crate::gasp::bounded::Bounded;
use crate::gasp::counters::outcomes;
use crate::gasp::limiter::{Limiter, Rate};
use crate::gasp::text::lossy;

/// Nodes whose text is kept: with all that one may hold, 64 MiB.
const NODES: usize = 1_024;
/// Longest datagram: the kernel's are 1,000 bytes (`MAX_PRINT_CHUNK`).
const DATAGRAM_MAX: usize = 2_048;
/// Lines of all nodes that are kept in a minute: of sixteen that die at once and say
/// all that one may, or of eighty as they mostly die.
const KEPT: Rate = Rate {
    max: 8_192,
    within_ms: 60_000,
};
/// Of these, one node's.
const KEPT_OF_NODE: Rate = Rate {
    max: 512,
    within_ms: 60_000,
};

/// What is heard around crashes.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A crash.
    Crash(Overheard),
    /// Lines before, of and behind one.
    Lines(HeardLines),
}

/// Lines that somebody told in a node's name, without proof.
#[derive(Clone, Debug, PartialEq)]
pub struct HeardLines {
    /// The node that has the address they came from.
    pub node: NodeName,
    /// The boot that they name, if they name one.
    pub boot: Option<BootId>,
    /// The lines, by number of the kernel, or in the order in which they came. The
    /// time is 0 where they had none.
    pub lines: Vec<Line>,
    /// When the last was received.
    pub at: Timestamp,
}

/// A crash that somebody told of in a node's name, without proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Overheard {
    /// The node that has the address it came from.
    pub node: NodeName,
    /// The boot that the text names, if it names one.
    pub boot: Option<BootId>,
    /// What the text says.
    pub report: Report,
    /// When it was received.
    pub at: Timestamp,
}

outcomes! {
    /// What became of one datagram: each has exactly one.
    pub enum Outcome {
        /// Its text was taken.
        Accepted = "accepted",
        /// A piece of a record that is not whole yet.
        Fragment = "fragment",
        /// It came before.
        Duplicate = "duplicate",
        /// Too far behind what came before.
        Late = "late",
        /// A program wrote it to the kernel's log, not the kernel.
        FromProgram = "from_program",
        /// A piece that does not fit its record.
        Malformed = "malformed",
        /// Longer than any kernel sends.
        TooLong = "too_long",
        /// From an address that is no node's.
        UnknownSource = "unknown_source",
        /// From an address of several nodes, and it names none.
        AmbiguousSource = "ambiguous_source",
        /// It names a node that does not have this address.
        WrongSource = "wrong_source",
    }
}

/// Counts of one listener, read from anywhere.
#[derive(Debug, Default)]
pub struct Counters {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Numbers of records that never came: lost, or below the console's log
    /// level.
    missing: AtomicU64,
    /// Records of which some pieces never came.
    given_up: AtomicU64,
    /// Nodes whose text was forgotten because there were too many.
    nodes_evicted: AtomicU64,
    /// Crashes that were not told: one node told of too many.
    suppressed: AtomicU64,
    /// Crashes that were not told: too many waited.
    queue_full: AtomicU64,
    /// Lines around crashes that were not kept: there were too many.
    lines_cut: AtomicU64,
    /// Errors of the socket.
    receive_errors: AtomicU64,
}

impl Counters {
    /// Datagrams with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// What was lost, by its word for metrics.
    pub fn losses(&self) -> [(&'static str, u64); 7] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("netconsole_missing", load(&self.missing)),
            ("netconsole_fragments", load(&self.given_up)),
            ("netconsole_node_evicted", load(&self.nodes_evicted)),
            ("netconsole_suppressed", load(&self.suppressed)),
            ("netconsole_queue_full", load(&self.queue_full)),
            ("netconsole_lines_cut", load(&self.lines_cut)),
            ("netconsole_socket_error", load(&self.receive_errors)),
        ]
    }

    fn add(counter: &AtomicU64, more: u64) {
        if more > 0 {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// Reads datagrams one by one. No socket, no clock.
#[derive(Debug)]
pub struct Collector {
    addresses: Arc<Addresses>,
    counters: Arc<Counters>,
    pieces: Pieces,
    nodes: Bounded<NodeName, Stream>,
    /// Nodes whose lines are to be kept and that spoke since they were asked for.
    fresh: BTreeSet<NodeName>,
    keeping: Limiter,
}

impl Collector {
    /// One that has heard nothing.
    pub fn new(addresses: Arc<Addresses>, counters: Arc<Counters>) -> Self {
        Self {
            addresses,
            counters,
            pieces: Pieces::new(),
            nodes: Bounded::new(NODES),
            fresh: BTreeSet::new(),
            keeping: Limiter::default(),
        }
    }

    /// The lines around crashes that came since this was called last; to be called
    /// behind each batch of datagrams.
    pub fn lines(&mut self, now: Timestamp) -> Vec<HeardLines> {
        let mut heard = Vec::new();
        for node in std::mem::take(&mut self.fresh) {
            let Some(stream) = self.nodes.get_mut(&node) else {
                continue;
            };
            let mut lines = stream.lines_to_keep(now);
            let all = lines.len();
            lines.retain(|_| stream.may_keep(KEPT_OF_NODE, now) && self.keeping.allows(KEPT, now));
            let cut = (all - lines.len()) as u64;
            Counters::add(&self.counters.lines_cut, cut);
            if !lines.is_empty() {
                let boot = stream.boot();
                let at = now;
                heard.push(HeardLines {
                    node,
                    boot,
                    lines,
                    at,
                });
            }
        }
        heard
    }

    /// Takes one datagram and counts what became of it. Gives what the node's
    /// text says since, if that is a crash and it is news.
    pub fn take(&mut self, datagram: &[u8], source: IpAddr, now: Timestamp) -> Option<Overheard> {
        let (outcome, overheard) = self.read(datagram, source, now);
        Counters::add(&self.counters.outcomes[outcome as usize], 1);
        overheard
    }

    fn read(
        &mut self,
        datagram: &[u8],
        source: IpAddr,
        now: Timestamp,
    ) -> (Outcome, Option<Overheard>) {
        let owner = |named| self.addresses.owner(source, named);
        let if_known = |outcome| match owner(None) {
            Owner::Unknown => (Outcome::UnknownSource, None),
            _ => (outcome, None),
        };
        if datagram.len() > DATAGRAM_MAX {
            return if_known(Outcome::TooLong);
        }
        let (head, fragment, body) = match record::parse(datagram) {
            Err(record::Malformed) => return if_known(Outcome::Malformed),
            Ok(Datagram::Plain(text)) => {
                let Owner::Node(node) = owner(None) else {
                    return if_known(Outcome::AmbiguousSource);
                };
                let text = lossy(text);
                return self.hear(node, None, now, |stream| stream.plain(&text));
            }
            Ok(Datagram::Record {
                head,
                fragment: None,
                body,
            }) => return self.whole(head, body, source, now),
            Ok(Datagram::Record {
                head,
                fragment: Some(fragment),
                body,
            }) => (head, fragment, body),
        };
        // Before anything is kept of it.
        if owner(None) == Owner::Unknown {
            return (Outcome::UnknownSource, None);
        }
        let before = self.pieces.given_up();
        let step = self.pieces.take(source, head, fragment, body);
        let given_up = self.pieces.given_up() - before;
        Counters::add(&self.counters.given_up, given_up);
        match step {
            Step::Kept => (Outcome::Fragment, None),
            Step::Copy => (Outcome::Duplicate, None),
            Step::Refused => (Outcome::Malformed, None),
            Step::Whole(body) => self.whole(head, &body, source, now),
        }
    }

    /// Takes a whole record: its text and what it says of itself.
    fn whole(
        &mut self,
        head: Head,
        body: &[u8],
        source: IpAddr,
        now: Timestamp,
    ) -> (Outcome, Option<Overheard>) {
        let body = lossy(body);
        let (text, [named, boot]) = record::text_and(&body, ["node", "boot"]);
        let node = match self.addresses.owner(source, named) {
            Owner::Node(node) => node,
            Owner::Another => return (Outcome::WrongSource, None),
            Owner::Ambiguous => return (Outcome::AmbiguousSource, None),
            Owner::Unknown => return (Outcome::UnknownSource, None),
        };
        let boot = boot.and_then(BootId::parse);
        self.hear(node, boot, now, |stream| stream.record(head, text, boot))
    }

    fn hear(
        &mut self,
        node: NodeName,
        boot: Option<BootId>,
        now: Timestamp,
        take: impl FnOnce(&mut Stream) -> Taken,
    ) -> (Outcome, Option<Overheard>) {
        let (stream, evicted) = self.nodes.get_or_insert(&node, Stream::default);
        Counters::add(&self.counters.nodes_evicted, u64::from(evicted.is_some()));
        let before = stream.missing();
        let outcome = match take(stream) {
            Taken::New => Outcome::Accepted,
            Taken::Copy => Outcome::Duplicate,
            Taken::Late => Outcome::Late,
            Taken::FromProgram => Outcome::FromProgram,
        };
        Counters::add(&self.counters.missing, stream.missing() - before);
        let report = stream.news();
        let may_tell = report.is_some() && stream.may_tell(now);
        if stream.keeps(now) {
            self.fresh.insert(node.clone());
        }
        let Some(report) = report else {
            return (outcome, None);
        };
        if !may_tell {
            Counters::add(&self.counters.suppressed, 1);
            return (outcome, None);
        }
        let overheard = Overheard {
            node,
            boot,
            report,
            at: now,
        };
        (outcome, Some(overheard))
    }
}

#[cfg(test)]
mod tests;
