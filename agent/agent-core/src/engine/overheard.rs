//! What is said without proof: kept for people, never acted on.
//!
//! It lives apart from the cases, so that no verdict can see it. Where there is
//! a case of the boot, or once there is one, it is a part of its timeline.

use std::collections::BTreeMap;

use super::case::Case;
use super::fleet::Boot;
use super::log::same_time;
use super::text::escaped;
use super::{Engine, Key, Output, explain};
use crate::model::{
    BootId, Channel, Death, DeathState, Evidence, NodeName, Proof, Report, Timestamp,
};

/// Most boots of which nobody but such text speaks.
const BOOTS_MAX: usize = 1_000;
/// Most entries that such text has in one timeline.
const ENTRIES_MAX: usize = 4;
/// Longest of these, in bytes.
const TEXT_MAX: usize = 256;

/// The boots of which nothing else is known.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    deaths: BTreeMap<Key, Death>,
    dropped: u64,
}

impl Unproven {
    pub(super) fn len(&self) -> usize {
        self.deaths.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn deaths(&self) -> impl Iterator<Item = &Death> {
        self.deaths.values()
    }

    /// Keeps a record; the oldest makes room.
    pub(super) fn put(&mut self, key: Key, death: Death) {
        if self.deaths.len() >= BOOTS_MAX
            && let Some(oldest) = self.deaths.iter().min_by_key(|(_, d)| d.detected_at)
        {
            let oldest = oldest.0.clone();
            self.deaths.remove(&oldest);
            self.dropped += 1;
        }
        self.deaths.insert(key, death);
    }

    /// What was said of a boot, for the case that is opened of it.
    pub(super) fn take(&mut self, key: &Key) -> Vec<Evidence> {
        let death = self.deaths.remove(key);
        death.map(|death| death.evidence).unwrap_or_default()
    }
}

impl Engine {
    pub(super) fn overheard(
        &mut self,
        now: Timestamp,
        node: NodeName,
        boot: Option<BootId>,
        report: Report,
        out: &mut Vec<Output>,
    ) {
        let named = boot.filter(|boot| self.fleet.knows(&node, *boot));
        let Some(boot) = named.or_else(|| self.fleet.current(&node)) else {
            self.unproven.dropped += 1;
            return;
        };
        let key = (node, boot);
        if let Some(case) = self.cases.get_mut(&key) {
            if note(&mut case.death, now, &report, self.limits.evidence) {
                out.push(Output::Record(Box::new(case.death.clone())));
            }
            return;
        }
        if !self.unproven.deaths.contains_key(&key) {
            let suspicion = Death::opened(now, &key.0, key.1, Proof::P0, None, now);
            self.unproven.put(key.clone(), suspicion);
        }
        let Some(death) = self.unproven.deaths.get_mut(&key) else {
            return;
        };
        if death.state == DeathState::Survived {
            // What was said earlier was of something else, or a lie.
            death.state = DeathState::Suspected;
            (death.detected_at, death.happened_at) = (now, now);
            death.report = None;
        }
        let is_news = note(death, now, &report, ENTRIES_MAX);
        let says_more = |old: &Report| explain::quality(&report) > explain::quality(old);
        let better = death.report.as_ref().is_none_or(says_more);
        if better {
            death.kernel_release.clone_from(&report.kernel_release);
            death.report = Some(report);
        }
        if is_news || better {
            out.push(Output::Record(Box::new(death.clone())));
        }
    }

    /// Which boot of a node such text is of, if it can be of one only: the one that it
    /// names; else the one whose clock shows about `printed_ns` now, when its last line
    /// was printed; where it has no time, the one that runs and was heard just before.
    pub fn boot_of_text(
        &self,
        now: Timestamp,
        node: &NodeName,
        named: Option<BootId>,
        printed_ns: Option<u64>,
    ) -> Option<BootId> {
        if named.is_some() {
            return named.filter(|boot| self.fleet.knows(node, *boot));
        }
        let boots = self.fleet.boots(node);
        let Some(printed_ns) = printed_ns else {
            let last = boots.last()?;
            let is_new = |heard| now.since(heard) < self.limits.silence_ms;
            return last.heard.is_some_and(is_new).then_some(last.id);
        };
        let mut fit = boots.iter().filter(|boot| shows(boot, now, printed_ns));
        match (fit.next(), fit.next()) {
            (Some(only), None) => Some(only.id),
            _ => None,
        }
    }

    /// A sign of life of a boot of which only such text speaks.
    pub(super) fn refute(&mut self, now: Timestamp, key: &Key, fresh: bool, out: &mut Vec<Output>) {
        let Some(death) = self.unproven.deaths.get_mut(key) else {
            return;
        };
        let lives = fresh && now.since(death.happened_at) > self.limits.revoke_ms;
        if lives && death.state == DeathState::Suspected {
            death.state = DeathState::Survived;
            out.push(Output::Record(Box::new(death.clone())));
        }
    }
}

/// Whether the boot's clock, going on since it was heard, shows about this now.
fn shows(boot: &Boot, now: Timestamp, printed_ns: u64) -> bool {
    let Some(heard) = boot.heard.filter(|_| boot.life.newest_ns() > 0) else {
        return false;
    };
    let since_ns = now.since(heard).saturating_mul(1_000_000);
    same_time(printed_ns, boot.life.newest_ns().saturating_add(since_ns))
}

/// What is in the timeline of a boot.
pub(super) fn timeline<'a>(
    cases: &'a BTreeMap<Key, Case>,
    unproven: &'a Unproven,
    key: &Key,
) -> &'a [Evidence] {
    let case = cases.get(key).map(|case| &case.death);
    let death = case.or_else(|| unproven.deaths.get(key));
    death.map_or(&[], |death| &death.evidence)
}

/// Adds it to a timeline of at most `max` entries; false if it is there. It takes
/// no place from what is proven: when it has said its share, its last entry gives
/// way.
fn note(death: &mut Death, at: Timestamp, report: &Report, max: usize) -> bool {
    let text = format!("unauthenticated: {}", escaped(&report.title, TEXT_MAX));
    let channel = Channel::Netconsole;
    let mut own = death.evidence.iter_mut().filter(|e| e.channel == channel);
    if own.any(|entry| entry.text == text) {
        return false;
    }
    let is_room = death.evidence.len() < max;
    let new = Evidence { channel, at, text };
    let mut own = death.evidence.iter_mut().filter(|e| e.channel == channel);
    match own.nth(ENTRIES_MAX - 1) {
        Some(last) => *last = new,
        None if is_room => death.evidence.push(new),
        None => return false,
    }
    true
}
