//! Changes, each in one transaction.

use std::collections::BTreeMap;

use agent_core::engine::{self, Action};
use agent_core::model::{
    BootId, Death, DeathName, Inventory, Line, NodeName, OwnedPod, Record, Removal, SeenObject,
    Silence, Stop, Timestamp,
};
use rusqlite::{Transaction, params};

use super::{Error, PodNote, Store, fleet};

/// Most lines kept of one boot; a log of a crash has a few hundred.
const LINES_MAX: i64 = 8_192;
/// Most lines without proof kept of one boot; the oldest go first. They take no place from
/// those that are proven.
const OVERHEARD_MAX: i64 = 1_024;

/// What is known of one pod of a death, or of a node whose object was deleted.
const INSERT_NOTE: &str = "INSERT OR REPLACE INTO note
    (death, namespace, name, uid, owner_kind, owner_name, outcome, at_ms, content)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// Of a node: its object was deleted, and it did not introduce itself since.
pub(super) const IS_GONE: &str = "EXISTS (SELECT 1 FROM removal
    WHERE removal.node = node.name AND removal.at_ms > node.seen_ms)";

/// A node that introduced itself, was first heard of, or said goodbye.
#[derive(Clone, Debug)]
pub struct SeenNode {
    /// The node.
    pub node: NodeName,
    /// The Node object's uid, if known.
    pub uid: Option<String>,
    /// The boot that runs there.
    pub boot: BootId,
    /// What it is made of, if it said so.
    pub inventory: Option<Box<Inventory>>,
    /// Whether a goodbye is the last that it said.
    pub stopped: bool,
    /// How long the boot is up by its own clock, in milliseconds; zero where it has
    /// not said yet.
    pub up_ms: u64,
}

/// New lines of a boot, numbered by the agent process that sent them.
#[derive(Clone, Debug)]
pub struct BootLines {
    /// The node.
    pub node: NodeName,
    /// The boot.
    pub boot: BootId,
    /// The agent process; another one counts its lines anew.
    pub session: u64,
    /// The lines.
    pub lines: Vec<Line>,
}

/// New lines of a boot that nobody has proven.
#[derive(Clone, Debug)]
pub struct OverheardLines {
    /// The node.
    pub node: NodeName,
    /// The boot.
    pub boot: BootId,
    /// When the last came.
    pub at: Timestamp,
    /// The lines. A time of zero is none.
    pub lines: Vec<Line>,
}

/// What the kernel of an earlier boot left.
#[derive(Clone, Debug)]
pub struct KeptRecord {
    /// The node that it was found on.
    pub node: NodeName,
    /// Its name: the SHA-256 of its text, in hex.
    pub id: String,
    /// The record.
    pub record: Box<Record>,
    /// Its lines, for a boot of which no others came.
    pub lines: Vec<Line>,
}

/// Everything that follows from one batch of facts.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Nodes to remember.
    pub nodes: Vec<SeenNode>,
    /// Boots that somebody had stopped.
    pub stops: Vec<Stop>,
    /// Nodes that fell silent, or spoke again.
    pub silences: Vec<(NodeName, Option<Silence>)>,
    /// Node objects as they were seen last.
    pub objects: Vec<SeenObject>,
    /// Node objects that were deleted, with their pods.
    pub removals: Vec<(Removal, Vec<OwnedPod>)>,
    /// Until when all Node objects that went are among these.
    pub watched: Option<Timestamp>,
    /// Deaths as they stand now.
    pub deaths: Vec<Death>,
    /// New lines of a boot.
    pub lines: Vec<BootLines>,
    /// New lines that nobody has proven.
    pub overheard: Vec<OverheardLines>,
    /// What was found of earlier boots.
    pub records: Vec<KeptRecord>,
    /// What is to be done, in order.
    pub actions: Vec<Action>,
}

impl Change {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.stops.is_empty()
            && self.silences.is_empty()
            && self.objects.is_empty()
            && self.removals.is_empty()
            && self.watched.is_none()
            && self.deaths.is_empty()
            && self.lines.is_empty()
            && self.overheard.is_empty()
            && self.records.is_empty()
            && self.actions.is_empty()
    }
}

/// An action that waits in the store until it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its place in the order.
    pub id: i64,
    /// What to do.
    pub action: Action,
    /// How often it was tried.
    pub attempts: u32,
}

/// What a commit did.
#[derive(Debug, Default)]
pub struct Committed {
    /// The actions with their places in the store.
    pub tasks: Vec<Task>,
    /// Lines that were not kept because their boot has too many.
    pub lines_cut: u64,
    /// The same of lines without proof.
    pub overheard_cut: u64,
}

impl Store {
    /// Stores a change as one transaction: a death is never there without
    /// what has to be done about it.
    pub fn commit(&self, now: Timestamp, change: &Change) -> Result<Committed, Error> {
        let mut writer = self.writer()?;
        let mut done = Committed::default();
        let bodies = change
            .deaths
            .iter()
            .map(|death| Ok((death, serde_json::to_string(death)?)))
            .collect::<Result<Vec<_>, serde_json::Error>>()
            .map_err(|e| self.record_error(e))?;
        let mut run = || -> rusqlite::Result<()> {
            // The node may let go of a record that is here: then it must outlive
            // a power cut, too.
            let synchronous = if change.records.is_empty() {
                "normal"
            } else {
                "full"
            };
            writer.pragma_update(None, "synchronous", synchronous)?;
            let tx = writer.transaction()?;
            for node in &change.nodes {
                see_node(&tx, now, node)?;
            }
            for stop in &change.stops {
                put_stop(&tx, stop)?;
            }
            for (node, silence) in &change.silences {
                put_silence(&tx, node, silence.as_ref())?;
            }
            for object in &change.objects {
                put_object(&tx, object)?;
            }
            for (removal, pods) in &change.removals {
                put_removal(&tx, removal, pods)?;
            }
            if let Some(at) = change.watched {
                tx.prepare_cached("INSERT OR REPLACE INTO watched (id, at_ms) VALUES (1, ?1)")?
                    .execute([at.0 as i64])?;
            }
            for (death, body) in &bodies {
                put_death(&tx, death, body)?;
            }
            for lines in &change.lines {
                done.lines_cut += put_lines(&tx, lines)?;
            }
            for lines in &change.overheard {
                done.overheard_cut += put_overheard(&tx, lines)?;
            }
            for record in &change.records {
                put_record(&tx, now, record)?;
            }
            for action in &change.actions {
                done.tasks.push(put_task(&tx, action)?);
            }
            tx.commit()
        };
        run().map_err(|e| self.error(e))?;
        Ok(done)
    }

    /// The task is done.
    pub(crate) fn finish(&self, task: i64) -> Result<(), Error> {
        self.writer()?
            .execute("DELETE FROM task WHERE id = ?1", [task])
            .map_err(|e| self.error(e))?;
        Ok(())
    }

    /// The task failed and is to be tried again.
    pub(crate) fn postpone(&self, task: i64, attempts: u32, next: Timestamp) -> Result<(), Error> {
        self.writer()?
            .execute(
                "UPDATE task SET attempts = ?2, next_ms = ?3 WHERE id = ?1",
                params![task, attempts, next.0 as i64],
            )
            .map_err(|e| self.error(e))?;
        Ok(())
    }

    /// Remembers what was written on pods.
    pub(crate) fn note_pods(
        &self,
        death: &DeathName,
        content: &BTreeMap<String, String>,
        notes: &[PodNote],
    ) -> Result<(), Error> {
        let content = serde_json::to_string(content).map_err(|e| self.record_error(e))?;
        let mut writer = self.writer()?;
        let mut run = || -> rusqlite::Result<()> {
            let tx = writer.transaction()?;
            let mut insert = tx.prepare_cached(INSERT_NOTE)?;
            for note in notes {
                let (kind, name) = note.owner.as_ref().map(|(k, n)| (k, n)).unzip();
                insert.execute(params![
                    death.as_str(),
                    note.pod.namespace,
                    note.pod.name,
                    note.pod.uid,
                    kind,
                    name,
                    note.outcome,
                    note.at.0 as i64,
                    content,
                ])?;
            }
            drop(insert);
            tx.commit()
        };
        run().map_err(|e| self.error(e))
    }

    /// Forgets what was written on the pods of a death that was none.
    pub(crate) fn forget_pods(&self, death: &DeathName) -> Result<(), Error> {
        self.writer()?
            .execute("DELETE FROM note WHERE death = ?1", [death.as_str()])
            .map_err(|e| self.error(e))?;
        Ok(())
    }
}

fn see_node(tx: &Transaction<'_>, now: Timestamp, seen: &SeenNode) -> rusqlite::Result<()> {
    let boot = seen.boot.to_string();
    let inventory = seen
        .inventory
        .as_ref()
        .and_then(|inventory| serde_json::to_string(inventory).ok());
    tx.prepare_cached(
        "INSERT INTO node (name, uid, boot, seen_ms, inventory, stopped)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (name) DO UPDATE SET
            uid = coalesce(excluded.uid, uid), boot = excluded.boot, seen_ms = excluded.seen_ms,
            stopped = excluded.stopped,
            inventory = coalesce(excluded.inventory, iif(boot = excluded.boot, inventory, NULL))",
    )?
    .execute(params![
        seen.node.as_str(),
        seen.uid,
        boot,
        now.0 as i64,
        inventory,
        seen.stopped
    ])?;
    fleet::see_boot(tx, now, seen)?;
    let Some(inventory) = &seen.inventory else {
        return Ok(());
    };
    tx.prepare_cached("DELETE FROM pod WHERE node = ?1 AND boot = ?2")?
        .execute(params![seen.node.as_str(), boot])?;
    let mut insert = tx.prepare_cached(
        "INSERT OR REPLACE INTO pod (node, boot, namespace, name, uid, seen_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for pod in &inventory.pods {
        insert.execute(params![
            seen.node.as_str(),
            boot,
            pod.namespace,
            pod.name,
            pod.uid,
            now.0 as i64
        ])?;
    }
    Ok(())
}

fn put_stop(tx: &Transaction<'_>, stop: &Stop) -> rusqlite::Result<()> {
    let body = serde_json::to_string(stop).unwrap_or_default();
    tx.prepare_cached("UPDATE node SET stop = ?2 WHERE name = ?1")?
        .execute(params![stop.node.as_str(), body])?;
    Ok(())
}

fn put_silence(
    tx: &Transaction<'_>,
    node: &NodeName,
    silence: Option<&Silence>,
) -> rusqlite::Result<()> {
    let body = silence.and_then(|silence| serde_json::to_string(silence).ok());
    tx.prepare_cached("UPDATE node SET silence = ?2 WHERE name = ?1")?
        .execute(params![node.as_str(), body])?;
    Ok(())
}

fn put_object(tx: &Transaction<'_>, seen: &SeenObject) -> rusqlite::Result<()> {
    let body = serde_json::to_string(&seen.object).unwrap_or_default();
    tx.prepare_cached(
        "INSERT OR REPLACE INTO object (node, uid, seen_ms, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        seen.node.as_str(),
        seen.object.uid,
        seen.seen.0 as i64,
        body
    ])?;
    Ok(())
}

fn put_removal(tx: &Transaction<'_>, removal: &Removal, pods: &[OwnedPod]) -> rusqlite::Result<()> {
    let body = serde_json::to_string(removal).unwrap_or_default();
    tx.prepare_cached(
        "INSERT OR REPLACE INTO removal (name, node, at_ms, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        removal.name,
        removal.node.as_str(),
        removal.at.0 as i64,
        body
    ])?;
    tx.prepare_cached("DELETE FROM object WHERE node = ?1 AND uid = ?2")?
        .execute([removal.node.as_str(), &removal.object.uid])?;
    let mut insert = tx.prepare_cached(INSERT_NOTE)?;
    for OwnedPod { pod, owner } in pods {
        let (kind, name) = owner.as_ref().map(|(k, n)| (k, n)).unzip();
        insert.execute(params![
            removal.name,
            pod.namespace,
            pod.name,
            pod.uid,
            kind,
            name,
            "known",
            removal.at.0 as i64,
            "{}",
        ])?;
    }
    Ok(())
}

fn put_death(tx: &Transaction<'_>, death: &Death, body: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        // What nobody has proven never takes the place of what somebody has.
        "INSERT OR REPLACE INTO death (name, node, boot, state, proof, code, detected_ms, body)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
         WHERE ?5 <> 'P0'
            OR NOT EXISTS (SELECT 1 FROM death WHERE name = ?1 AND proof <> 'P0')",
    )?
    .execute(params![
        death.name.as_str(),
        death.node.as_str(),
        death.boot.to_string(),
        format!("{:?}", death.state),
        format!("{:?}", death.proof),
        engine::reason_code(death).as_str(),
        death.detected_at.0 as i64,
        body,
    ])?;
    fleet::see_death(tx, death)
}

/// Stores lines and gives how many there was no room for.
fn put_lines(tx: &Transaction<'_>, new: &BootLines) -> rusqlite::Result<u64> {
    let (node, boot) = (new.node.as_str(), new.boot.to_string());
    let have: i64 = tx
        .prepare_cached("SELECT count(*) FROM line WHERE node = ?1 AND boot = ?2")?
        .query_row(params![node, boot], |row| row.get(0))?;
    let room = usize::try_from(LINES_MAX - have).unwrap_or(0);
    let mut insert = tx.prepare_cached(
        "INSERT OR IGNORE INTO line
         (node, boot, session, seq, mono_ns, cpu, level, continues, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for line in new.lines.iter().take(room) {
        insert.execute(params![
            node,
            boot,
            new.session as i64,
            line.seq as i64,
            line.mono_ns as i64,
            line.cpu,
            line.level,
            line.continues,
            line.text,
        ])?;
    }
    Ok(new.lines.len().saturating_sub(room) as u64)
}

/// Stores lines without proof, and gives how many others had to go.
fn put_overheard(tx: &Transaction<'_>, new: &OverheardLines) -> rusqlite::Result<u64> {
    let (node, boot) = (new.node.as_str(), new.boot.to_string());
    let mut insert = tx.prepare_cached(
        "INSERT OR IGNORE INTO overheard
         (node, boot, mono_ns, text, seq, level, continues, received_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for line in &new.lines {
        insert.execute(params![
            node,
            boot,
            line.mono_ns as i64,
            line.text,
            line.seq as i64,
            line.level,
            line.continues,
            new.at.0 as i64,
        ])?;
    }
    let have: i64 = tx
        .prepare_cached("SELECT count(*) FROM overheard WHERE node = ?1 AND boot = ?2")?
        .query_row(params![node, boot], |row| row.get(0))?;
    if have <= OVERHEARD_MAX {
        return Ok(0);
    }
    let cut = tx
        .prepare_cached(
            "DELETE FROM overheard WHERE node = ?1 AND boot = ?2 AND (mono_ns, text) IN
             (SELECT mono_ns, text FROM overheard WHERE node = ?1 AND boot = ?2
              ORDER BY received_ms DESC, mono_ns DESC, seq DESC LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![node, boot, OVERHEARD_MAX])?;
    Ok(cut as u64)
}

fn put_record(tx: &Transaction<'_>, now: Timestamp, kept: &KeptRecord) -> rusqlite::Result<()> {
    let record = &kept.record;
    let new = tx
        .prepare_cached(
            "INSERT OR IGNORE INTO record
             (node, id, boot, channel, source, at_ms, received_ms, text)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            kept.node.as_str(),
            kept.id,
            record.boot.map(|boot| boot.to_string()),
            format!("{:?}", record.channel),
            record.source,
            record.at.map(|at| at.0 as i64),
            now.0 as i64,
            record.text,
        ])?;
    let Some(boot) = record.boot.filter(|_| new > 0) else {
        return Ok(());
    };
    let heard: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM line WHERE node = ?1 AND boot = ?2)")?
        .query_row(params![kept.node.as_str(), boot.to_string()], |row| {
            row.get(0)
        })?;
    if !heard {
        // No session of an agent: those are random numbers.
        let lines = BootLines {
            node: kept.node.clone(),
            boot,
            session: 0,
            lines: kept.lines.clone(),
        };
        put_lines(tx, &lines)?;
    }
    Ok(())
}

/// Puts an action at the end of its death's queue. What it makes pointless is
/// taken out: nothing is marked that is revoked right after.
fn put_task(tx: &Transaction<'_>, action: &Action) -> rusqlite::Result<Task> {
    let death = action.death().as_str();
    let all = [
        Action::ReportOops,
        Action::MarkNode,
        Action::AnnotatePods,
        Action::UpdateRecord,
        Action::Revoke,
        Action::NodeReturned,
    ]
    .map(|make| make(action.death().clone()));
    let mut remove = tx.prepare_cached("DELETE FROM task WHERE death = ?1 AND action = ?2")?;
    for other in all.iter().filter(|other| action.supersedes(other)) {
        remove.execute(params![death, other.word()])?;
    }
    tx.prepare_cached("INSERT INTO task (death, action) VALUES (?1, ?2)")?
        .execute(params![death, action.word()])?;
    Ok(Task {
        id: tx.last_insert_rowid(),
        action: action.clone(),
        attempts: 0,
    })
}
