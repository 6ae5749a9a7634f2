//! Dropping what is more, or older, than the store keeps: a little at a time.
//!
//! A round goes through the tables, one after the other, in turns. A turn is one short
//! transaction, so that whoever has something to store waits for no more than that,
//! however much there is to drop. What belongs together (the lines of a boot, the notes
//! of a death) is found by its key, not by reading all of it: a round over a store in
//! which nothing is too much looks at each boot once.

mod sweep;

use std::time::Instant;

use agent_core::model::Timestamp;
use rusqlite::{OpenFlags, OptionalExtension, Transaction, params};

use sweep::{Key, LINES, LOOKS, NOTES, OVERHEARD, PODS, ROWS, TURN, sweep};

use super::write::IS_GONE;
use super::{Error, Store, connect};

/// Rows that a turn drops that may have tens of KiB, at most.
const LARGE: i64 = 16;
/// Turns that write before the log is worked off. SQLite itself does so from 1,000 pages on.
const WRITES: u32 = 4;
/// Pages that a turn gives back to the disk, at most.
const PAGES: i64 = 256;

const HOUR_MS: u64 = 3_600 * 1_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How many of each the store keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Deaths; what is unproven goes first, then the oldest.
    pub(super) deaths: i64,
    /// Records (64 KiB each at most); the oldest go first.
    pub(super) records: i64,
    /// Lines without proof, of all boots; the oldest go first.
    pub(super) overheard: i64,
    /// Boots of one node, so that one that boots over and over takes no place from the
    /// others; what was seen last stays.
    pub(super) boots_of_node: i64,
    /// Boots of all.
    pub(super) boots: i64,
    /// Pages of the file with nothing in them, for what comes next.
    pub(super) pages: i64,
}

const LIMITS: Limits = Limits {
    deaths: 10_000,
    records: 2_000,
    overheard: 200_000,
    boots_of_node: 128,
    boots: 200_000,
    pages: 4_096,
};

/// How long the pods of a boot without a death are remembered, and a node whose
/// object was deleted.
const PODS_KEPT_MS: u64 = 30 * DAY_MS;
/// How long it is remembered that a Node object was deleted, and its pods.
const REMOVALS_KEPT_MS: u64 = 365 * DAY_MS;
/// How long it is remembered that a boot was alive.
const BOOTS_KEPT_MS: u64 = 365 * DAY_MS;
/// How long what belongs to no death waits for one: lines may come before it, and what
/// could not be stored at once is stored later.
const ORPHAN_MS: u64 = HOUR_MS;

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Deaths over the limit.
    pub deaths: u64,
    /// What was still to do about those.
    pub tasks: u64,
    /// Log lines of boots that nothing is known of any more.
    pub lines: u64,
    /// Lines without proof, over the limit or as those.
    pub overheard: u64,
    /// What was known of the pods of deaths and removals that are gone.
    pub notes: u64,
    /// Records of earlier boots over the limit.
    pub records: u64,
    /// Removals that are too old.
    pub removals: u64,
    /// Nodes whose objects were deleted long ago.
    pub nodes: u64,
    /// Pods of old boots without a death.
    pub pods: u64,
    /// Boots that are too old, or over the limit.
    pub boots: u64,
}

impl Dropped {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        let Self {
            deaths,
            tasks,
            lines,
            overheard,
            notes,
            records,
            removals,
            nodes,
            pods,
            boots,
        } = *self;
        [
            ("stored_deaths", deaths),
            ("stored_tasks", tasks),
            ("stored_lines", lines),
            ("stored_netconsole_lines", overheard),
            ("stored_pod_notes", notes),
            ("stored_records", records),
            ("stored_removals", removals),
            ("stored_nodes", nodes),
            ("stored_pods", pods),
            ("stored_boots", boots),
        ]
    }
}

/// One round over the store.
#[derive(Debug)]
pub struct Round {
    now: Timestamp,
    limits: Limits,
    step: Step,
    /// Turns that wrote something since the log was last worked off.
    wrote: u32,
    /// What it dropped so far.
    pub dropped: Dropped,
}

/// Where a round is. What is behind the key was looked at.
#[derive(Clone, Debug)]
enum Step {
    Deaths,
    Removals,
    Nodes(String),
    Records,
    Notes(Key),
    Lines(Key),
    /// With how many stay.
    Overheard(Key, i64),
    /// With how many are too many.
    OldestOverheard(i64),
    Pods(Key),
    /// With how many stay.
    Boots(String, i64),
    /// With how many are too many.
    OldestBoots(i64),
    Platforms,
    Pages,
    Done,
}

impl Round {
    /// A round that begins now.
    pub fn new(now: Timestamp) -> Self {
        Self::with(now, LIMITS)
    }

    /// The same, with less than the store keeps.
    pub(super) fn with(now: Timestamp, limits: Limits) -> Self {
        Self {
            now,
            limits,
            step: Step::Deaths,
            wrote: 0,
            dropped: Dropped::default(),
        }
    }

    /// The time before which what was kept so long is dropped.
    fn before(&self, kept_ms: u64) -> i64 {
        self.now.0.saturating_sub(kept_ms) as i64
    }
}

impl Store {
    /// Takes one turn of a round. False if that was the last.
    pub fn prune_turn(&self, round: &mut Round) -> Result<bool, Error> {
        let failed = |e| self.error(e);
        // What needs a look at a whole table has that before, and nobody waits for it.
        let found = self.look(&round.step).map_err(failed)?;
        let mut writer = self.writer()?;
        let mut take = || -> rusqlite::Result<(Step, Dropped)> {
            if let Step::Pages = round.step {
                return Ok((free_pages(&writer, round.limits.pages)?, round.dropped));
            }
            let tx = writer.transaction()?;
            let mut dropped = round.dropped;
            let next = turn(&tx, round, &found, &mut dropped)?;
            tx.commit()?;
            Ok((next, dropped))
        };
        // Of a turn that failed nothing happened.
        let (step, dropped) = take().map_err(failed)?;
        drop(writer);
        round.wrote += u32::from(dropped != round.dropped || matches!(step, Step::Pages));
        (round.step, round.dropped) = (step, dropped);
        if round.wrote >= WRITES {
            round.wrote = 0;
            self.work_off_log().map_err(failed)?;
        }
        Ok(!matches!(round.step, Step::Done))
    }

    /// Drops all that is too much, in one go.
    pub fn prune(&self, now: Timestamp) -> Result<Dropped, Error> {
        let mut round = Round::new(now);
        while self.prune_turn(&mut round)? {}
        Ok(round.dropped)
    }

    /// Copies what was committed into the file: else the commit that makes the log too
    /// long has to, and waits for the disk; here nobody does.
    fn work_off_log(&self) -> rusqlite::Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let Ok(own) = connect(&self.path, flags) else {
            return Ok(());
        };
        own.pragma_update(None, "synchronous", "normal")?;
        own.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }

    fn look(&self, step: &Step) -> rusqlite::Result<Found> {
        let read = || connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok();
        let mut found = Found::default();
        match step {
            Step::OldestOverheard(much) if *much > 0 => {
                let Some(reader) = read() else {
                    return Ok(found);
                };
                found.overheard = reader
                    .prepare(
                        "SELECT node, boot, mono_ns, text FROM overheard
                         ORDER BY received_ms, mono_ns, seq LIMIT ?1",
                    )?
                    .query_map([(*much).min(ROWS)], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                    })?
                    .collect::<rusqlite::Result<_>>()?;
            }
            Step::OldestBoots(much) if *much > 0 => {
                let Some(reader) = read() else {
                    return Ok(found);
                };
                found.boots = reader
                    .prepare("SELECT node, boot, seen_ms FROM boot ORDER BY seen_ms LIMIT ?1")?
                    .query_map([(*much).min(ROWS)], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })?
                    .collect::<rusqlite::Result<_>>()?;
            }
            Step::Platforms => {
                let Some(reader) = read() else {
                    return Ok(found);
                };
                found.platforms = reader
                    .prepare(&format!(
                        "SELECT EXISTS (SELECT 1 FROM platform WHERE {UNUSED})"
                    ))?
                    .query_row([], |row| row.get(0))?;
            }
            _ => {}
        }
        Ok(found)
    }
}

/// Of a platform: no boot that is known ran on it.
const UNUSED: &str = "id NOT IN (SELECT platform FROM boot WHERE platform IS NOT NULL)";

/// What a look at a whole table gave.
#[derive(Default)]
struct Found {
    overheard: Vec<(String, String, i64, String)>,
    boots: Vec<(String, String, i64)>,
    platforms: bool,
}

fn turn(
    tx: &Transaction<'_>,
    round: &Round,
    found: &Found,
    dropped: &mut Dropped,
) -> rusqlite::Result<Step> {
    Ok(match round.step.clone() {
        Step::Deaths => deaths(tx, round.limits.deaths, dropped)?,
        Step::Removals => {
            let before = round.before(REMOVALS_KEPT_MS);
            let gone = tx
                .prepare_cached(
                    "DELETE FROM removal WHERE name IN
                     (SELECT name FROM removal WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
                )?
                .execute([before, ROWS])?;
            dropped.removals += gone as u64;
            match gone as i64 {
                ROWS => Step::Removals,
                _ => Step::Nodes(String::new()),
            }
        }
        Step::Nodes(after) => nodes(tx, round, &after, dropped)?,
        Step::Records => {
            let much = count(tx, "record")? - round.limits.records;
            let gone = tx
                .prepare_cached(
                    "DELETE FROM record WHERE (node, id) IN
                     (SELECT node, id FROM record ORDER BY received_ms LIMIT ?1)",
                )?
                .execute([much.clamp(0, LARGE)])?;
            dropped.records += gone as u64;
            match much {
                much if much > LARGE => Step::Records,
                _ => Step::Notes(Key::default()),
            }
        }
        Step::Notes(after) => {
            let before = round.before(ORPHAN_MS);
            let swept = sweep(tx, &NOTES, after, before, &mut |_| Ok(()))?;
            dropped.notes += swept.gone as u64;
            match swept.after {
                Some(after) => Step::Notes(after),
                None => Step::Lines(Key::default()),
            }
        }
        Step::Lines(after) => {
            let swept = sweep(tx, &LINES, after, 0, &mut |_| Ok(()))?;
            dropped.lines += swept.gone as u64;
            match swept.after {
                Some(after) => Step::Lines(after),
                None => Step::Overheard(Key::default(), 0),
            }
        }
        Step::Overheard(after, mut stay) => {
            let before = round.before(ORPHAN_MS);
            let mut of_boot =
                tx.prepare_cached("SELECT count(*) FROM overheard WHERE node = ?1 AND boot = ?2")?;
            let swept = sweep(tx, &OVERHEARD, after, before, &mut |(node, boot)| {
                stay += of_boot.query_row([node, boot], |row| row.get::<_, i64>(0))?;
                Ok(())
            })?;
            dropped.overheard += swept.gone as u64;
            match swept.after {
                Some(after) => Step::Overheard(after, stay),
                None => Step::OldestOverheard(stay - round.limits.overheard),
            }
        }
        Step::OldestOverheard(much) => {
            let mut drop = tx.prepare_cached(
                "DELETE FROM overheard
                 WHERE node = ?1 AND boot = ?2 AND mono_ns = ?3 AND text = ?4",
            )?;
            for row in &found.overheard {
                dropped.overheard += drop.execute(params![row.0, row.1, row.2, row.3])? as u64;
            }
            match much - found.overheard.len() as i64 {
                much if much > 0 && !found.overheard.is_empty() => Step::OldestOverheard(much),
                _ => Step::Pods(Key::default()),
            }
        }
        Step::Pods(after) => {
            let before = round.before(PODS_KEPT_MS) - 1;
            let swept = sweep(tx, &PODS, after, before, &mut |_| Ok(()))?;
            dropped.pods += swept.gone as u64;
            match swept.after {
                Some(after) => Step::Pods(after),
                None => Step::Boots(String::new(), 0),
            }
        }
        Step::Boots(after, stay) => boots(tx, round, after, stay, dropped)?,
        Step::OldestBoots(much) => {
            let mut drop = tx.prepare_cached(
                "DELETE FROM boot WHERE node = ?1 AND boot = ?2 AND seen_ms = ?3",
            )?;
            for (node, boot, seen_ms) in &found.boots {
                dropped.boots += drop.execute(params![node, boot, seen_ms])? as u64;
            }
            match much - found.boots.len() as i64 {
                much if much > 0 && !found.boots.is_empty() => Step::OldestBoots(much),
                _ => Step::Platforms,
            }
        }
        Step::Platforms => {
            if found.platforms {
                // A boot may have come that runs on it: this asks again.
                tx.execute(&format!("DELETE FROM platform WHERE {UNUSED}"), [])?;
            }
            Step::Pages
        }
        Step::Pages | Step::Done => Step::Done,
    })
}

fn count(tx: &Transaction<'_>, table: &str) -> rusqlite::Result<i64> {
    tx.prepare_cached(&format!("SELECT count(*) FROM {table}"))?
        .query_row([], |row| row.get(0))
}

fn deaths(tx: &Transaction<'_>, keep: i64, dropped: &mut Dropped) -> rusqlite::Result<Step> {
    let much = count(tx, "death")? - keep;
    let mut names: Vec<String> = Vec::new();
    for which in ["proof = 'P0'", "proof <> 'P0'"] {
        let left = much.clamp(0, LARGE) - names.len() as i64;
        let mut read = tx.prepare_cached(&format!(
            "SELECT name FROM death WHERE {which} ORDER BY detected_ms, name DESC LIMIT ?1"
        ))?;
        let found = read.query_map([left], |row| row.get(0))?;
        names.extend(found.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    let mut drop = tx.prepare_cached("DELETE FROM death WHERE name = ?1")?;
    let mut undo = tx.prepare_cached("DELETE FROM task WHERE death = ?1")?;
    for name in &names {
        dropped.deaths += drop.execute([name])? as u64;
        dropped.tasks += undo.execute([name])? as u64;
    }
    Ok(match much {
        much if much > LARGE => Step::Deaths,
        _ => Step::Removals,
    })
}

fn nodes(
    tx: &Transaction<'_>,
    round: &Round,
    after: &str,
    dropped: &mut Dropped,
) -> rusqlite::Result<Step> {
    let until: Option<String> = tx
        .prepare_cached("SELECT name FROM node WHERE name > ?1 ORDER BY name LIMIT 1 OFFSET ?2")?
        .query_row(params![after, LOOKS - 1], |row| row.get(0))
        .optional()?;
    let gone = tx
        .prepare_cached(&format!(
            "DELETE FROM node WHERE name > ?1 AND (?2 IS NULL OR name <= ?2)
             AND seen_ms < ?3 AND {IS_GONE}"
        ))?
        .execute(params![after, until, round.before(PODS_KEPT_MS)])?;
    dropped.nodes += gone as u64;
    Ok(match until {
        Some(until) => Step::Nodes(until),
        None => Step::Records,
    })
}

fn boots(
    tx: &Transaction<'_>,
    round: &Round,
    mut after: String,
    mut stay: i64,
    dropped: &mut Dropped,
) -> rusqlite::Result<Step> {
    let mut next =
        tx.prepare_cached("SELECT node FROM boot WHERE node > ?1 ORDER BY node LIMIT 1")?;
    let mut old = tx.prepare_cached(
        "DELETE FROM boot WHERE (node, boot) IN
         (SELECT node, boot FROM boot WHERE node = ?1 AND seen_ms < ?2 LIMIT ?3)",
    )?;
    let mut of_node = tx.prepare_cached("SELECT count(*) FROM boot WHERE node = ?1")?;
    let mut oldest = tx.prepare_cached(
        "DELETE FROM boot WHERE (node, boot) IN
         (SELECT node, boot FROM boot WHERE node = ?1 ORDER BY seen_ms LIMIT ?2)",
    )?;
    let (mut left, mut looks, until) = (ROWS, 0, Instant::now() + TURN);
    while looks < LOOKS && left > 0 && Instant::now() < until {
        looks += 1;
        let node: Option<String> = next.query_row([&after], |row| row.get(0)).optional()?;
        let Some(node) = node else {
            dropped.boots += (ROWS - left) as u64;
            return Ok(Step::OldestBoots(stay - round.limits.boots));
        };
        left -= old.execute(params![node, round.before(BOOTS_KEPT_MS), left])? as i64;
        let have: i64 = of_node.query_row([&node], |row| row.get(0))?;
        let much = have - round.limits.boots_of_node;
        if much > 0 {
            left -= oldest.execute(params![node, much.min(left)])? as i64;
        }
        if left > 0 {
            stay += have.min(round.limits.boots_of_node);
            after = node;
        }
        // Else this node may have more, and is counted when it has not.
    }
    dropped.boots += (ROWS - left) as u64;
    Ok(Step::Boots(after, stay))
}

/// Gives pages to the disk that nothing is in. Files of before this was done keep them:
/// that can only be changed by writing such a file anew.
fn free_pages(writer: &rusqlite::Connection, keep: i64) -> rusqlite::Result<Step> {
    let ask = |pragma| writer.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let much = ask("freelist_count")? - keep;
    if much <= 0 || ask("auto_vacuum")? != 2 {
        return Ok(Step::Done);
    }
    let mut free = writer.prepare(&format!("PRAGMA incremental_vacuum({})", much.min(PAGES)))?;
    let mut rows = free.query([])?;
    while rows.next()?.is_some() {}
    Ok(Step::Pages)
}
