//! Putting a node's last words together: the log lines of each boot, in order
//! and once, and what they mean so far.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::size_of;

use agent_core::model::{Body, BootId, Line, NodeName, Report};

use crate::gasp::bounded::Bounded;
use crate::gasp::receiver::Received;

/// Agent processes of one boot whose lines are kept.
const SESSIONS: usize = 8;
/// First words of one boot that are kept.
const WORDS: usize = 8;

/// What an assembler may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Boots.
    pub boots: usize,
    /// Lines of one boot.
    pub lines: usize,
    /// Bytes of one boot's lines.
    pub bytes: usize,
    /// Bytes of all boots' lines.
    pub total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            boots: 4_096,
            lines: 4_096,
            bytes: 1 << 20,
            total_bytes: 64 << 20,
        }
    }
}

/// What one message added to what is known of a boot.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The node.
    pub node: NodeName,
    /// The boot.
    pub boot: BootId,
    /// Lines that had not come before, in the order of the message.
    pub fresh_lines: Vec<Line>,
    /// What all lines and words of the boot mean so far.
    pub report: Option<Report>,
}

/// What had to be given up to stay within the limits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Losses {
    /// Boots that were forgotten.
    pub boots: u64,
    /// Lines of boots that said too much.
    pub lines: u64,
}

/// Collects the lines of each boot.
#[derive(Debug)]
pub struct Assembler {
    limits: Limits,
    boots: Bounded<(NodeName, BootId), Boot>,
    bytes: usize,
    losses: Losses,
}

impl Assembler {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            boots: Bounded::new(limits.boots),
            bytes: 0,
            losses: Losses::default(),
        }
    }

    /// Takes a message; says what is known since, if it was of a death.
    pub fn take(&mut self, received: &Received) -> Option<Update> {
        let gasp = &received.gasp;
        if !matches!(gasp.body, Body::Word(_) | Body::Lines(_) | Body::Survived) {
            return None;
        }
        let key = (gasp.node.clone(), gasp.boot);
        let (boot, evicted) = self.boots.get_or_insert(&key, Boot::default);
        let before = boot.bytes;
        let fresh_lines = match &gasp.body {
            Body::Word(word) => {
                if word.at_ns >= boot.survived_ns {
                    boot.word(word.at_ns, &word.line);
                }
                Vec::new()
            }
            Body::Lines(lines) => boot.lines(gasp.session, lines),
            Body::Survived => {
                boot.survived(gasp.mono_ns);
                Vec::new()
            }
            _ => Vec::new(),
        };
        self.losses.lines += boot.trim(&self.limits);
        let report = boot.report();
        self.bytes = self.bytes - before + boot.bytes;
        self.lose(evicted);
        while self.bytes > self.limits.total_bytes
            && let Some(evicted) = self.boots.evict()
        {
            self.lose(Some(evicted));
        }
        let (node, boot) = key;
        Some(Update {
            node,
            boot,
            fresh_lines,
            report,
        })
    }

    /// What this boot said up to `at_ns`, by its own clock, is no part of what
    /// comes: it lived on. For what the boot's own [`Body::Survived`] would
    /// have said, had it come.
    pub fn lived_on(&mut self, node: &NodeName, boot: BootId, at_ns: u64) {
        let key = (node.clone(), boot);
        let (boot, evicted) = self.boots.get_or_insert(&key, Boot::default);
        let before = boot.bytes;
        boot.survived(at_ns);
        self.bytes = self.bytes - before + boot.bytes;
        self.lose(evicted);
    }

    fn lose(&mut self, evicted: Option<((NodeName, BootId), Boot)>) {
        if let Some((_, boot)) = evicted {
            self.losses.boots += 1;
            self.bytes -= boot.bytes;
        }
    }

    /// What was given up so far.
    pub fn losses(&self) -> Losses {
        self.losses
    }
}

/// What one boot said.
#[derive(Debug, Default)]
struct Boot {
    /// By agent process in the order they came, and by number in it.
    lines: BTreeMap<(u32, u64), Line>,
    bytes: usize,
    /// Session and its place in the order.
    sessions: VecDeque<(u64, u32)>,
    next: u32,
    /// First words, and when they were said by the boot's own clock.
    words: VecDeque<(u64, String)>,
    /// The kernel lived on after what it said before this, by its own clock:
    /// none of that is the root of what comes.
    survived_ns: u64,
    /// Where the lines begin of which the oldest go first. The very first
    /// ones, which hold the root of what follows, stay.
    middle: Option<(u32, u64)>,
}

impl Boot {
    fn word(&mut self, at_ns: u64, line: &str) {
        if line.is_empty() || self.words.iter().any(|(_, word)| word == line) {
            return;
        }
        if self.words.len() == WORDS {
            // The first is the root; of the rest the newest matter.
            self.words.remove(1);
        }
        self.words.push_back((at_ns, line.to_owned()));
    }

    /// Lets go of what the kernel survived.
    fn survived(&mut self, at_ns: u64) {
        self.survived_ns = self.survived_ns.max(at_ns);
        self.words.retain(|(at_ns, _)| *at_ns >= self.survived_ns);
        self.lines
            .retain(|_, line| line.mono_ns >= self.survived_ns);
        self.bytes = self.lines.values().map(cost).sum();
        self.middle = None;
    }

    /// Adds lines; gives those that are new. Late ones of what the kernel
    /// survived are new, but explain nothing that comes.
    fn lines(&mut self, session: u64, lines: &[Line]) -> Vec<Line> {
        let order = self.order(session);
        let mut fresh = Vec::new();
        for line in lines {
            if line.mono_ns < self.survived_ns {
                fresh.push(line.clone());
                continue;
            }
            if let std::collections::btree_map::Entry::Vacant(place) =
                self.lines.entry((order, line.seq))
            {
                self.bytes += cost(line);
                place.insert(line.clone());
                fresh.push(line.clone());
            }
        }
        fresh
    }

    fn order(&mut self, session: u64) -> u32 {
        if let Some((_, order)) = self.sessions.iter().find(|(s, _)| *s == session) {
            return *order;
        }
        let order = self.next;
        self.next += 1;
        self.sessions.push_back((session, order));
        if self.sessions.len() > SESSIONS {
            self.sessions.pop_front();
            let keep = self.sessions.front().map_or(order, |(_, order)| *order);
            self.lines = self.lines.split_off(&(keep, 0));
            self.bytes = self.lines.values().map(cost).sum();
            self.middle = None;
        }
        order
    }

    /// Brings it within its limits; says how many lines that cost.
    fn trim(&mut self, limits: &Limits) -> u64 {
        let mut lost = 0;
        while self.lines.len() > limits.lines || self.bytes > limits.bytes {
            let quarter = self.lines.len() / 4;
            let middle = *self.middle.get_or_insert_with(|| {
                let at = self.lines.keys().nth(quarter);
                at.copied().unwrap_or_default()
            });
            let after = self.lines.range(middle..).next().map(|(key, _)| *key);
            // Nothing after it: late lines of the beginning fill it up.
            let Some(key) = after.or_else(|| self.lines.keys().next_back().copied()) else {
                break;
            };
            if let Some(line) = self.lines.remove(&key) {
                self.bytes -= cost(&line);
                lost += 1;
            }
        }
        lost
    }

    fn report(&self) -> Option<Report> {
        let mut lines = self.whole_lines();
        // The words come first, and may be all that ever comes.
        for (_, word) in &self.words {
            let is_known = |line: &Line| {
                !line.text.is_empty()
                    && (line.text.starts_with(word) || word.starts_with(&line.text))
            };
            if !lines.iter().any(is_known) {
                lines.push(Line {
                    seq: u64::MAX,
                    mono_ns: 0,
                    cpu: 0,
                    level: None,
                    continues: false,
                    text: word.clone(),
                });
            }
        }
        agent_decode::decode(&lines)
    }

    /// The lines in order, the pieces of each CPU joined.
    fn whole_lines(&self) -> Vec<Line> {
        let mut whole: Vec<Line> = Vec::with_capacity(self.lines.len());
        let mut last_of: HashMap<u16, usize> = HashMap::new();
        for line in self.lines.values() {
            match last_of.get(&line.cpu) {
                Some(at) if line.continues => whole[*at].text.push_str(&line.text),
                _ => {
                    last_of.insert(line.cpu, whole.len());
                    whole.push(line.clone());
                }
            }
        }
        whole
    }
}

/// Bytes that a line takes.
fn cost(line: &Line) -> usize {
    line.text.len() + size_of::<Line>()
}

#[cfg(test)]
mod tests;
