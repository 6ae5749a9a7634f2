//! Rows that belong to something that is gone.

use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, Transaction, params};

/// How long a turn goes on to look and to drop; what it has begun it ends.
pub(super) const TURN: Duration = Duration::from_millis(4);
/// Rows that a turn drops, at most.
pub(super) const ROWS: i64 = 512;
/// How many of them between two looks at the clock.
const AT_ONCE: i64 = 32;
/// Boots, deaths or nodes that a turn looks at, at most.
pub(super) const LOOKS: i64 = 512;

/// A node and its boot; the name of a death, and nothing.
pub(super) type Key = (String, String);

/// A table whose rows belong to something.
pub(super) struct Owned {
    /// The first key behind `?1`, `?2`, and the time of its first row.
    next: &'static str,
    /// Whether the rows of `?1`, `?2` stay.
    stays: &'static str,
    /// Drops `?3` of those rows that are of `?4` or before, unless they stay.
    drop: &'static str,
}

pub(super) const NOTES: Owned = Owned {
    next: "SELECT death, '', at_ms FROM note WHERE death > ?1 AND ?2 = ''
        ORDER BY death LIMIT 1",
    stays: "SELECT EXISTS (SELECT 1 FROM death WHERE name = ?1)
        OR EXISTS (SELECT 1 FROM removal WHERE name = ?1) AND ?2 = ''",
    drop: "DELETE FROM note WHERE (death, namespace, name, uid) IN
        (SELECT death, namespace, name, uid FROM note
         WHERE death = ?1 AND ?2 = '' AND at_ms <= ?4 LIMIT ?3)",
};

/// Those of the boot that a node runs may be all that is left of a death to come.
pub(super) const LINES: Owned = Owned {
    next: "SELECT node, boot, 0 FROM line WHERE (node, boot) > (?1, ?2)
        ORDER BY node, boot LIMIT 1",
    stays: "SELECT EXISTS (SELECT 1 FROM death WHERE node = ?1 AND boot = ?2)
        OR EXISTS (SELECT 1 FROM node WHERE name = ?1 AND boot = ?2)",
    drop: "DELETE FROM line WHERE (node, boot, session, seq) IN
        (SELECT node, boot, session, seq FROM line
         WHERE node = ?1 AND boot = ?2 AND ?4 NOT NULL LIMIT ?3)",
};

pub(super) const OVERHEARD: Owned = Owned {
    next: "SELECT node, boot, received_ms FROM overheard WHERE (node, boot) > (?1, ?2)
        ORDER BY node, boot LIMIT 1",
    stays: "SELECT EXISTS (SELECT 1 FROM death WHERE node = ?1 AND boot = ?2)",
    drop: "DELETE FROM overheard WHERE (node, boot, mono_ns, text) IN
        (SELECT node, boot, mono_ns, text FROM overheard
         WHERE node = ?1 AND boot = ?2 AND received_ms <= ?4 LIMIT ?3)",
};

pub(super) const PODS: Owned = Owned {
    // All pods of a boot are of its agent's newest hello.
    next: "SELECT node, boot, seen_ms FROM pod WHERE (node, boot) > (?1, ?2)
        ORDER BY node, boot LIMIT 1",
    stays: "SELECT EXISTS (SELECT 1 FROM node WHERE name = ?1 AND boot = ?2)
        OR EXISTS (SELECT 1 FROM death WHERE node = ?1 AND boot = ?2)
        OR EXISTS (SELECT 1 FROM removal WHERE node = ?1 AND at_ms >=
            (SELECT max(seen_ms) FROM pod WHERE node = ?1 AND boot = ?2))",
    drop: "DELETE FROM pod WHERE (node, boot, namespace, name, uid) IN
        (SELECT node, boot, namespace, name, uid FROM pod
         WHERE node = ?1 AND boot = ?2 AND seen_ms <= ?4 LIMIT ?3)",
};

/// What a turn over rows that belong to something did.
pub(super) struct Swept {
    pub(super) gone: i64,
    /// Where the next goes on; `None` at the end.
    pub(super) after: Option<Key>,
}

/// Looks at some boots or deaths behind `after`, and drops rows that belong to none.
/// Those that are not dropped are given to `stayed`.
pub(super) fn sweep(
    tx: &Transaction<'_>,
    table: &Owned,
    mut after: Key,
    before: i64,
    stayed: &mut dyn FnMut(&Key) -> rusqlite::Result<()>,
) -> rusqlite::Result<Swept> {
    let mut next = tx.prepare_cached(table.next)?;
    let mut stays = tx.prepare_cached(table.stays)?;
    let mut drop = tx.prepare_cached(table.drop)?;
    let (mut gone, mut looks, until) = (0, 0, Instant::now() + TURN);
    while looks < LOOKS && gone < ROWS && Instant::now() < until {
        let found: Option<(Key, i64)> = next
            .query_row([&after.0, &after.1], |row| {
                Ok(((row.get(0)?, row.get(1)?), row.get(2)?))
            })
            .optional()?;
        let Some((key, at_ms)) = found else {
            return Ok(Swept { gone, after: None });
        };
        looks += 1;
        let is_kept =
            at_ms > before || stays.query_row([&key.0, &key.1], |row| row.get::<_, bool>(0))?;
        if !is_kept {
            let now = drop.execute(params![key.0, key.1, AT_ONCE, before])?;
            gone += now as i64;
            if now as i64 == AT_ONCE {
                // It may have more.
                continue;
            }
        }
        stayed(&key)?;
        after = key;
    }
    Ok(Swept {
        gone,
        after: Some(after),
    })
}
