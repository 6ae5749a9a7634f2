//! The tables, and how an older file becomes a newer one.

use std::ops::Range;
use std::path::Path;

use rusqlite::Connection;

use super::{Error, explain};

/// One step per format; `user_version` counts those that were taken. Steps
/// that were released are never changed.
const STEPS: [&str; 9] = [
    "
CREATE TABLE node (
    name      TEXT PRIMARY KEY,
    uid       TEXT,
    boot      TEXT NOT NULL,
    seen_ms   INTEGER NOT NULL,
    inventory TEXT
) STRICT;
-- Pods that were on a node in one boot, by its agent's newest hello.
CREATE TABLE pod (
    node      TEXT NOT NULL,
    boot      TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    uid       TEXT NOT NULL,
    seen_ms   INTEGER NOT NULL,
    PRIMARY KEY (node, boot, namespace, name, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX pod_name ON pod (name, namespace);
CREATE TABLE death (
    name        TEXT PRIMARY KEY,
    node        TEXT NOT NULL,
    boot        TEXT NOT NULL,
    state       TEXT NOT NULL,
    proof       TEXT NOT NULL,
    code        TEXT NOT NULL,
    detected_ms INTEGER NOT NULL,
    body        TEXT NOT NULL
) STRICT;
CREATE INDEX death_node ON death (node, detected_ms);
CREATE INDEX death_time ON death (detected_ms);
CREATE TABLE line (
    node      TEXT NOT NULL,
    boot      TEXT NOT NULL,
    session   INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    mono_ns   INTEGER NOT NULL,
    cpu       INTEGER NOT NULL,
    level     INTEGER,
    continues INTEGER NOT NULL,
    text      TEXT NOT NULL,
    PRIMARY KEY (node, boot, session, seq)
) STRICT, WITHOUT ROWID;
-- What was written on which pod.
CREATE TABLE note (
    death      TEXT NOT NULL,
    namespace  TEXT NOT NULL,
    name       TEXT NOT NULL,
    uid        TEXT NOT NULL,
    owner_kind TEXT,
    owner_name TEXT,
    outcome    TEXT NOT NULL,
    at_ms      INTEGER NOT NULL,
    content    TEXT NOT NULL,
    PRIMARY KEY (death, namespace, name, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX note_name ON note (name, namespace);
-- What is still to do; in the order of id for one death.
CREATE TABLE task (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    death    TEXT NOT NULL,
    action   TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_ms  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (death, action)
) STRICT;
",
    "
-- Since when the node's newest boot is silent, and what its Lease says.
ALTER TABLE node ADD COLUMN silence TEXT;
",
    "
-- What the kernel of an earlier boot left, by the SHA-256 of its text.
CREATE TABLE record (
    node        TEXT NOT NULL,
    id          TEXT NOT NULL,
    boot        TEXT,
    channel     TEXT NOT NULL,
    source      TEXT NOT NULL,
    at_ms       INTEGER,
    received_ms INTEGER NOT NULL,
    text        TEXT NOT NULL,
    PRIMARY KEY (node, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_time ON record (received_ms);
",
    "
-- Node objects that were deleted; their pods are in note.
CREATE TABLE removal (
    name  TEXT PRIMARY KEY,
    node  TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    body  TEXT NOT NULL
) STRICT;
CREATE INDEX removal_node ON removal (node, at_ms);
",
    "
-- Whether a goodbye is the last that the node's newest boot said.
ALTER TABLE node ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;
-- The last orderly stop of which somebody is known who told it to.
ALTER TABLE node ADD COLUMN stop TEXT;
",
    "
-- Node objects as the API server showed them last, until it is recorded that
-- they are gone.
CREATE TABLE object (
    node    TEXT NOT NULL,
    uid     TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (node, uid)
) STRICT, WITHOUT ROWID;
-- One row: until when all that went is recorded.
CREATE TABLE watched (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
) STRICT;
",
    "
-- What netconsole said around crashes, without proof. Copies have their text and
-- the time in common; that is 0 where they had none.
CREATE TABLE overheard (
    node        TEXT NOT NULL,
    boot        TEXT NOT NULL,
    mono_ns     INTEGER NOT NULL,
    text        TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    level       INTEGER,
    continues   INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (node, boot, mono_ns, text)
) STRICT, WITHOUT ROWID;
",
    "
-- What boots ran on; most nodes of a fleet have it in common. Named by the first
-- bytes of the SHA-256 of its text.
CREATE TABLE platform (
    id   BLOB PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- For how long each boot was seen alive: up_ms is its own clock when it was last seen.
CREATE TABLE boot (
    node     TEXT NOT NULL,
    boot     TEXT NOT NULL,
    platform BLOB,
    seen_ms  INTEGER NOT NULL,
    up_ms    INTEGER NOT NULL,
    alive_ms INTEGER NOT NULL,
    PRIMARY KEY (node, boot)
) STRICT, WITHOUT ROWID;
ALTER TABLE death ADD COLUMN fingerprint TEXT
    GENERATED ALWAYS AS (body ->> '$.report.fingerprint') VIRTUAL;
CREATE INDEX death_kind ON death (fingerprint, code);
",
    "
-- Whether somebody died in a boot; which deaths and removals go first.
CREATE INDEX death_boot ON death (node, boot);
CREATE INDEX death_unproven ON death (detected_ms) WHERE proof = 'P0';
CREATE INDEX removal_time ON removal (at_ms);
",
];

/// What a reader sees in place of what files of these formats lack. It is the
/// connection's own: nothing of it gets into the file.
const STAND_INS: [(Range<usize>, &str); 8] = [
    (
        1..2,
        "CREATE TEMP VIEW node AS
         SELECT *, NULL AS silence, 0 AS stopped, NULL AS stop FROM main.node;",
    ),
    (
        2..5,
        "CREATE TEMP VIEW node AS SELECT *, 0 AS stopped, NULL AS stop FROM main.node;",
    ),
    (
        1..3,
        "CREATE TEMP TABLE record
         (node, id, boot, channel, source, at_ms, received_ms, text);",
    ),
    (1..4, "CREATE TEMP TABLE removal (name, node, at_ms, body);"),
    (
        1..6,
        "CREATE TEMP TABLE object (node, uid, seen_ms, body);
         CREATE TEMP TABLE watched (id, at_ms);",
    ),
    (
        1..7,
        "CREATE TEMP TABLE overheard
         (node, boot, mono_ns, text, seq, level, continues, received_ms);",
    ),
    (
        1..8,
        "CREATE TEMP TABLE platform (id, body);
         CREATE TEMP TABLE boot (node, boot, platform, seen_ms, up_ms, alive_ms);",
    ),
    (
        1..8,
        "CREATE TEMP VIEW death AS
         SELECT *, body ->> '$.report.fingerprint' AS fingerprint FROM main.death;",
    ),
];

/// Makes a file of an older format readable as it is.
pub(super) fn stand_in(path: &Path, connection: &Connection) -> Result<(), Error> {
    let version = check(path, connection)?;
    if version == 0 {
        return Err(Error::Foreign {
            path: path.to_owned(),
        });
    }
    let lacking = STAND_INS.iter().filter(|(of, _)| of.contains(&version));
    let lacking: String = lacking.map(|(_, sql)| *sql).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    connection
        .execute_batch(&format!("PRAGMA temp_store = memory; {lacking}"))
        .map_err(|source| explain(path, source))
}

/// Sets the connection up and brings the file to the newest format.
pub(super) fn prepare(path: &Path, connection: &mut Connection) -> Result<(), Error> {
    prepare_until(path, connection, STEPS.len())
}

/// The same, up to an older format: for tests of how that becomes the newest.
pub(super) fn prepare_until(
    path: &Path,
    connection: &mut Connection,
    steps: usize,
) -> Result<(), Error> {
    let failed = |source| explain(path, source);
    // Before anything is changed: it may be a file of somebody else.
    let version = check(path, connection)?;
    // Takes effect while the file has no table.
    connection
        .pragma_update(None, "auto_vacuum", "incremental")
        .map_err(failed)?;
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(failed)?;
    connection
        .pragma_update(None, "synchronous", "normal")
        .map_err(failed)?;
    for (i, step) in STEPS.iter().enumerate().take(steps).skip(version) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", i as i64 + 1)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// Checks that this version can read the file, and gives its format: 0 if nothing is in it.
fn check(path: &Path, connection: &Connection) -> Result<usize, Error> {
    let failed = |source| explain(path, source);
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    let (tables, ours): (bool, bool) = connection
        .query_row(
            "SELECT count(*) > 0, count(*) FILTER (WHERE name IN ('death', 'note', 'task')) = 3
             FROM main.sqlite_schema WHERE type = 'table'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(failed)?;
    if found < 0 || tables != (found > 0) || tables != ours {
        return Err(Error::Foreign {
            path: path.to_owned(),
        });
    }
    match usize::try_from(found) {
        Ok(version) if version <= STEPS.len() => Ok(version),
        _ => Err(Error::Newer {
            path: path.to_owned(),
            found,
            known: STEPS.len() as i64,
        }),
    }
}

#[cfg(test)]
pub(super) const FORMATS: usize = STEPS.len();
