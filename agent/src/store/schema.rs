//! The tables, and how an older file becomes a newer one.

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
    let version = check(path, connection)?;
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

/// Checks that this version can read the file, and gives its format.
pub(super) fn check(path: &Path, connection: &Connection) -> Result<usize, Error> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| explain(path, source))?;
    match usize::try_from(found) {
        Ok(version) if version <= STEPS.len() => Ok(version),
        _ => Err(Error::Newer {
            path: path.to_owned(),
            found,
            known: STEPS.len() as i64,
        }),
    }
}
