//! How long each boot was seen alive and on what, and what that says of the deaths.

use std::sync::PoisonError;

use agent_core::model::{Death, NodeName, Platform, Timestamp};
use agent_core::recurrence::{
    self, AskBug, Asked, Census, Fleet, Kind, PlatformId, Recurrence, recurrence,
};
use rusqlite::{Connection, Transaction, named_params, params};
use sha2::{Digest, Sha256};

use super::write::SeenNode;
use super::{Error, Store, connect_to_read};

/// First bytes of the SHA-256 of a platform: its name.
const ID_LEN: usize = 16;

/// Of a record in the table: the boot ended, and somebody has proven it
/// ([`recurrence::is_death`]).
const IS_DEATH: &str = "state IN ('Dead', 'Returned') AND proof <> 'P0'";

/// What a boot lived since it was last seen: as long as both clocks went on, the boot's
/// own and the annotator's. So neither can be set forward to make it longer, and a machine
/// that was suspended did not live.
const LIVED: &str = "max(0, min(:up - up_ms, :now - seen_ms))";

/// Notes that a boot is alive, with what it is made of, if it said so.
pub(super) fn see_boot(
    tx: &Transaction<'_>,
    now: Timestamp,
    seen: &SeenNode,
) -> rusqlite::Result<()> {
    let platform = seen.inventory.as_deref().map(|inventory| {
        let text = serde_json::to_string(&Platform::from(inventory)).unwrap_or_default();
        (Sha256::digest(&text)[..ID_LEN].to_vec(), text)
    });
    if let Some((id, text)) = &platform {
        tx.prepare_cached("INSERT OR IGNORE INTO platform (id, body) VALUES (?1, ?2)")?
            .execute(params![id, text])?;
    }
    tx.prepare_cached(&format!(
        "INSERT INTO boot (node, boot, platform, seen_ms, up_ms, alive_ms)
         VALUES (:node, :boot, :platform, :now, :up, 0)
         ON CONFLICT (node, boot) DO UPDATE SET
            platform = coalesce(:platform, platform), alive_ms = alive_ms + {LIVED},
            up_ms = max(up_ms, :up), seen_ms = :now",
    ))?
    .execute(named_params! {
        ":node": seen.node.as_str(),
        ":boot": seen.boot.to_string(),
        ":platform": platform.map(|(id, _)| id),
        ":now": now.0 as i64,
        ":up": i64::try_from(seen.up_ms).unwrap_or(i64::MAX),
    })?;
    Ok(())
}

/// Notes that a boot was alive until it said its last word: one that dies within a minute
/// over and over would else have lived for no time at all.
pub(super) fn see_death(tx: &Transaction<'_>, death: &Death) -> rusqlite::Result<()> {
    let Some(word) = &death.word else {
        return Ok(());
    };
    tx.prepare_cached(&format!(
        "UPDATE boot SET alive_ms = alive_ms + {LIVED},
            up_ms = max(up_ms, :up), seen_ms = max(seen_ms, :now)
         WHERE node = :node AND boot = :boot",
    ))?
    .execute(named_params! {
        ":node": death.node.as_str(),
        ":boot": death.boot.to_string(),
        ":now": death.detected_at.0 as i64,
        ":up": (word.at_ns / 1_000_000) as i64,
    })?;
    Ok(())
}

impl Store {
    /// Who died of what, and who never did; `since` leaves out what was before.
    pub fn fleet(
        &self,
        since: Option<Timestamp>,
        asked: &Asked,
        has_bug: AskBug<'_>,
    ) -> Result<Fleet, Error> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection of its own: this reads a lot, and the loop must not wait for it.
        let reader = connect_to_read(&self.path)?;
        let failed = |e| self.error(e);
        let tx = reader.unchecked_transaction().map_err(failed)?;
        let mut census = Census::default();
        let known = platforms(&tx, &mut census).map_err(failed)?;
        let since_ms = since.map_or(0, |since| since.0 as i64);
        lives(&tx, since_ms, &known, &mut census).map_err(failed)?;
        self.died(&tx, since_ms, &known, &mut census)?;
        Ok(census.fleet(since, asked, has_bug))
    }

    fn died(
        &self,
        reader: &Connection,
        since_ms: i64,
        known: &[(Vec<u8>, PlatformId)],
        census: &mut Census,
    ) -> Result<(), Error> {
        let failed = |e| self.error(e);
        let mut read = reader
            .prepare(&format!(
                "SELECT death.body, boot.platform FROM death LEFT JOIN boot
                 ON boot.node = death.node AND boot.boot = death.boot
                 WHERE detected_ms >= ?1 AND {IS_DEATH}
                 ORDER BY detected_ms, death.name"
            ))
            .map_err(failed)?;
        let mut rows = read.query([since_ms]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let body: String = row.get(0).map_err(failed)?;
            let platform: Option<Vec<u8>> = row.get(1).map_err(failed)?;
            let death: Death = serde_json::from_str(&body).map_err(|e| self.record_error(e))?;
            census.death(&death, platform.and_then(|id| find(known, &id)));
        }
        Ok(())
    }

    /// How often a death came before, on its node and elsewhere.
    pub(super) fn recurrence(&self, death: &Death) -> Result<Option<Recurrence>, Error> {
        let (fingerprint, code) = match Kind::of(death) {
            Kind::Ordered(_) => return Ok(None),
            Kind::Crash(fingerprint) => (Some(fingerprint), None),
            Kind::Code(code) => (None, Some(code.as_str())),
        };
        if !recurrence::is_death(death) {
            return Ok(None);
        }
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<(String, i64)>> {
            reader
                .prepare_cached(&format!(
                    "SELECT node, detected_ms FROM death
                     WHERE fingerprint IS :fingerprint AND (:code IS NULL OR code = :code)
                     AND {IS_DEATH}"
                ))?
                .query_map(
                    named_params! { ":fingerprint": fingerprint, ":code": code },
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?
                .collect()
        };
        let alike = read().map_err(|e| self.error(e))?;
        let alike = alike
            .iter()
            .map(|(node, at)| (node.as_str(), Timestamp(at.cast_unsigned())));
        Ok(recurrence(death, alike))
    }
}

/// All platforms, by their ids in order.
fn platforms(
    reader: &Connection,
    census: &mut Census,
) -> rusqlite::Result<Vec<(Vec<u8>, PlatformId)>> {
    let mut read = reader.prepare("SELECT id, body FROM platform ORDER BY id")?;
    let mut rows = read.query([])?;
    let mut known = Vec::new();
    while let Some(row) = rows.next()? {
        let body: String = row.get(1)?;
        let platform: Platform = serde_json::from_str(&body).unwrap_or_default();
        known.push((row.get(0)?, census.platform(&platform)));
    }
    Ok(known)
}

fn find(known: &[(Vec<u8>, PlatformId)], id: &[u8]) -> Option<PlatformId> {
    let at = known.binary_search_by(|(other, _)| other.as_slice().cmp(id));
    Some(known[at.ok()?].1)
}

fn lives(
    reader: &Connection,
    since_ms: i64,
    known: &[(Vec<u8>, PlatformId)],
    census: &mut Census,
) -> rusqlite::Result<()> {
    let mut read = reader.prepare(
        "SELECT node, platform, count(*), sum(min(alive_ms, seen_ms - ?1))
         FROM boot WHERE seen_ms >= ?1 GROUP BY node, platform",
    )?;
    let mut rows = read.query([since_ms])?;
    while let Some(row) = rows.next()? {
        let (name, platform): (String, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?);
        let (boots, alive_ms): (i64, i64) = (row.get(2)?, row.get(3)?);
        let Some(node) = NodeName::new(&name) else {
            continue;
        };
        let platform = platform.and_then(|id| find(known, &id));
        census.life(
            &node,
            platform,
            boots.cast_unsigned(),
            u64::try_from(alive_ms).unwrap_or(0),
        );
    }
    Ok(())
}
