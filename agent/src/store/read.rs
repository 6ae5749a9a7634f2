//! Questions to the store.

use agent_core::engine::{self, Action, KnownNode};
use agent_core::model::{
    BootId, Death, Inventory, Line, LogLine, NodeName, NodeObject, PodRef, Proof, Removal,
    SeenObject, Silence, Stop, Timestamp,
};
use rusqlite::{OptionalExtension, Row, named_params, params};
use serde::{Deserialize, Serialize};

use super::write::IS_GONE;
use super::{
    Error, Explanation, Mitigated, PodNote, Removed, Silent, Stopped, Store, Summary, Task,
};

/// Whose end is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// A pod; without a namespace in any.
    Pod {
        /// Namespace, if given.
        namespace: Option<String>,
        /// Name.
        name: String,
    },
    /// A node.
    Node(String),
    /// Whatever bears this name: a pod, else a node, else a death or the record of
    /// a Node object that was deleted.
    Any(String),
}

/// What there is to say, as it is found.
#[derive(Default)]
struct Found {
    pod: Option<PodNote>,
    silent: Option<Silent>,
    removed: Option<Removed>,
    stop: Option<Stopped>,
    mitigations: Vec<Mitigated>,
    summary: Option<Summary>,
}

impl Found {
    fn with(fill: impl FnOnce(&mut Self)) -> Self {
        let mut found = Self::default();
        fill(&mut found);
        found
    }

    fn is_nothing(&self) -> bool {
        let Self {
            pod: _,
            silent,
            removed,
            stop,
            mitigations,
            summary,
        } = self;
        let is_node_well = silent.is_none() && removed.is_none() && stop.is_none();
        is_node_well && mitigations.is_empty() && summary.is_none()
    }
}

/// Name, boot, when it was seen, inventory, whether it was stopped, and silence of a
/// node.
type KnownRow = (String, String, i64, Option<String>, bool, Option<String>);

impl Store {
    /// The deaths to go on with: the newest of those that are proven, then of others.
    pub(crate) fn deaths_to_hold(&self, limit: u32) -> Result<Vec<Death>, Error> {
        let found = self.summaries(
            "SELECT body, 0 FROM death ORDER BY proof = 'P0', detected_ms DESC, name LIMIT ?1",
            params![limit],
        )?;
        Ok(found.into_iter().map(|summary| summary.death).collect())
    }

    /// The newest deaths, newest first.
    pub fn deaths(&self, limit: u32) -> Result<Vec<Summary>, Error> {
        self.summaries(
            "SELECT body, (SELECT count(*) FROM note WHERE note.death = death.name
                AND note.outcome IN ('annotated', 'recorded'))
             FROM death ORDER BY detected_ms DESC, name LIMIT ?1",
            params![limit],
        )
    }

    /// One death by its name.
    pub fn death(&self, name: &str) -> Result<Option<Summary>, Error> {
        let found = self.summaries(
            "SELECT body, (SELECT count(*) FROM note WHERE note.death = death.name
                AND note.outcome IN ('annotated', 'recorded'))
             FROM death WHERE name = ?1",
            params![name],
        )?;
        Ok(found.into_iter().next())
    }

    /// The last lines of a death's boot, oldest first; between them what netconsole
    /// alone said.
    pub fn lines(&self, death: &Death, last: u32) -> Result<Vec<LogLine>, Error> {
        let (node, boot) = (death.node.as_str(), death.boot.to_string());
        let reader = self.reader();
        let read = || -> rusqlite::Result<[Vec<Line>; 2]> {
            let overheard: Vec<Line> = reader
                .prepare_cached(
                    "SELECT seq, mono_ns, 0, level, continues, text FROM overheard
                     WHERE node = ?1 AND boot = ?2 ORDER BY mono_ns, seq",
                )?
                .query_map(params![node, boot], line)?
                .collect::<rusqlite::Result<_>>()?;
            // Any of the proven ones may be a copy of these.
            let count = if overheard.is_empty() { last } else { u32::MAX };
            let mut proven: Vec<Line> = reader
                .prepare_cached(
                    "SELECT seq, mono_ns, cpu, level, continues, text FROM line
                     WHERE node = ?1 AND boot = ?2 ORDER BY mono_ns DESC, seq DESC LIMIT ?3",
                )?
                .query_map(params![node, boot, count], line)?
                .collect::<rusqlite::Result<_>>()?;
            proven.reverse();
            Ok([proven, overheard])
        };
        let [proven, overheard] = read().map_err(|e| self.error(e))?;
        let mut lines = engine::merged(proven, &overheard);
        lines.drain(..lines.len().saturating_sub(last as usize));
        Ok(lines)
    }

    /// Log lines of all boots.
    pub fn lines_kept(&self) -> Result<u64, Error> {
        self.reader()
            .query_row("SELECT count(*) FROM line", [], |row| row.get::<_, i64>(0))
            .map(i64::cast_unsigned)
            .map_err(|e| self.error(e))
    }

    /// What was written on the pods of a death, or is known of those of a node
    /// whose object was deleted.
    pub fn pod_notes(&self, name: &str) -> Result<Vec<PodNote>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<PodNote>> {
            reader
                .prepare_cached(
                    "SELECT namespace, name, uid, owner_kind, owner_name, outcome, at_ms, death
                     FROM note WHERE death = ?1 ORDER BY namespace, name",
                )?
                .query_map([name], |row| Ok(note(row)?.0))?
                .collect()
        };
        read().map_err(|e| self.error(e))
    }

    /// Why a pod or a node went; `None` if nothing is known of it.
    pub fn why(&self, query: &Query, last_lines: u32) -> Result<Option<Explanation>, Error> {
        let mut found = Found::default();
        match query {
            Query::Pod { namespace, name } => {
                self.find_pod(namespace.as_deref(), name, &mut found)?;
            }
            Query::Node(name) => self.find_node(name, &mut found)?,
            Query::Any(name) => {
                self.find_pod(None, name, &mut found)?;
                if found.is_nothing() {
                    self.find_node(name, &mut found)?;
                }
                if found.is_nothing() {
                    found.summary = self.death(name)?;
                    found.removed = self.removals("WHERE name = ?1", [name])?.pop();
                }
            }
        }
        if found.is_nothing() {
            return Ok(None);
        }
        let (pods, lines) = match (&found.summary, &found.removed) {
            (Some(summary), _) => (
                self.pod_notes(summary.death.name.as_str())?,
                self.lines(&summary.death, last_lines)?,
            ),
            (None, Some(removed)) => (self.pod_notes(&removed.removal.name)?, Vec::new()),
            (None, None) => (Vec::new(), Vec::new()),
        };
        let recurrence = match &found.summary {
            Some(summary) => self.recurrence(&summary.death)?,
            None => None,
        };
        Ok(Some(Explanation {
            pod: found.pod,
            silent: found.silent,
            removed: found.removed,
            stop: found.stop,
            mitigations: found.mitigations,
            summary: found.summary,
            recurrence,
            pods,
            lines,
        }))
    }

    fn find_pod(
        &self,
        namespace: Option<&str>,
        name: &str,
        found: &mut Found,
    ) -> Result<(), Error> {
        let died = self.pod(namespace, name)?;
        let died = died.map(|(pod, summary)| (pod, Found::with(|f| f.summary = Some(summary))));
        let removed = self.pod_of_removed(namespace, name)?;
        let removed = removed.map(|(pod, one)| (pod, Found::with(|f| f.removed = Some(one))));
        let silent = self.pod_of_silent(namespace, name)?;
        let silent = silent.map(|(pod, one)| (pod, Found::with(|f| f.silent = Some(one))));
        let mut all: Vec<_> = [died, removed, silent].into_iter().flatten().collect();
        let is_unproven = |s: &Summary| s.death.proof == Proof::P0;
        all.sort_by_key(|(_, found)| found.summary.as_ref().is_some_and(is_unproven));
        if let Some((pod, newest)) = newest(all) {
            *found = newest;
            found.pod = Some(pod);
        }
        Ok(())
    }

    fn find_node(&self, name: &str, found: &mut Found) -> Result<(), Error> {
        found.summary = self.newest_of_node(name)?;
        let reader = self.reader();
        let read = |which: &str| {
            let mut read = reader.prepare_cached(which)?;
            read.query_row([name], |row| row.get::<_, String>(0))
                .optional()
        };
        let silence = read("SELECT silence FROM node WHERE name = ?1 AND silence IS NOT NULL")
            .map_err(|e| self.error(e))?;
        // Not of a boot that went on: only its agent was stopped.
        let stop = read(
            "SELECT stop FROM node WHERE name = ?1 AND stop IS NOT NULL
             AND (stopped OR boot <> stop ->> 'boot')",
        )
        .map_err(|e| self.error(e))?;
        let inventory =
            read("SELECT inventory FROM node WHERE name = ?1 AND inventory IS NOT NULL")
                .map_err(|e| self.error(e))?;
        drop(reader);
        let inventory = inventory.and_then(|text| serde_json::from_str::<Inventory>(&text).ok());
        let said = inventory.into_iter().flat_map(|one| one.mitigations);
        found.mitigations = said.filter_map(|one| Mitigated::new(name, one)).collect();
        found.silent = silence.map(|body| self.silent(&body)).transpose()?;
        let parse = |body: String| serde_json::from_str::<Stop>(&body);
        let stop = stop.map(parse).transpose();
        found.stop = stop.map_err(|e| self.record_error(e))?.map(Stopped::from);
        found.removed = self
            .removals("WHERE node = ?1 ORDER BY at_ms DESC LIMIT 1", [name])?
            .pop();
        Ok(())
    }

    /// The Node objects that were deleted last, newest first.
    pub fn removed(&self, limit: u32) -> Result<Vec<Removed>, Error> {
        self.removals("ORDER BY at_ms DESC, name LIMIT ?1", [limit])
    }

    fn removals(&self, which: &str, with: impl rusqlite::Params) -> Result<Vec<Removed>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<String>> {
            reader
                .prepare_cached(&format!("SELECT body FROM removal {which}"))?
                .query_map(with, |row| row.get(0))?
                .collect()
        };
        let bodies = read().map_err(|e| self.error(e))?;
        let removal = |body: String| -> Result<Removed, Error> {
            let removal: Removal = serde_json::from_str(&body).map_err(|e| self.record_error(e))?;
            Ok(removal.into())
        };
        bodies.into_iter().map(removal).collect()
    }

    /// A pod that was on a node whose object was deleted: as the API server
    /// listed it then, or as the node's own agent had named it.
    fn pod_of_removed(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<(PodNote, Removed)>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Option<(PodNote, String)>> {
            reader
                .prepare_cached(
                    "SELECT namespace, name, uid, owner_kind, owner_name, outcome, at_ms, death
                     FROM (SELECT namespace, note.name, uid, owner_kind, owner_name, outcome,
                             note.at_ms, death
                         FROM note JOIN removal ON removal.name = death
                         WHERE note.name = :name
                         UNION ALL
                         SELECT namespace, pod.name, pod.uid, NULL, NULL, 'known', seen_ms,
                             removal.name
                         FROM pod JOIN removal ON removal.node = pod.node
                             AND removal.at_ms >= pod.seen_ms
                         WHERE pod.name = :name)
                     WHERE :namespace IS NULL OR namespace = :namespace
                     ORDER BY at_ms DESC LIMIT 1",
                )?
                .query_row(
                    named_params! { ":name": name, ":namespace": namespace },
                    note,
                )
                .optional()
        };
        let found = read().map_err(|e| self.error(e))?;
        drop(reader);
        let Some((pod, removal)) = found else {
            return Ok(None);
        };
        let removed = self.removals("WHERE name = ?1", [removal])?.pop();
        Ok(removed.map(|removed| (pod, removed)))
    }

    /// A pod that was on a node that is silent now.
    fn pod_of_silent(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<(PodNote, Silent)>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Option<(PodNote, String)>> {
            reader
                .prepare_cached(
                    "SELECT namespace, pod.name, pod.uid, NULL, NULL, 'known', pod.seen_ms, silence
                     FROM pod JOIN node ON node.name = pod.node AND node.boot = pod.boot
                     WHERE pod.name = :name AND (:namespace IS NULL OR namespace = :namespace)
                     AND silence IS NOT NULL ORDER BY pod.seen_ms DESC LIMIT 1",
                )?
                .query_row(
                    named_params! { ":name": name, ":namespace": namespace },
                    note,
                )
                .optional()
        };
        let found = read().map_err(|e| self.error(e))?;
        found
            .map(|(pod, body)| Ok((pod, self.silent(&body)?)))
            .transpose()
    }

    fn silent(&self, body: &str) -> Result<Silent, Error> {
        let silence: Silence = serde_json::from_str(body).map_err(|e| self.record_error(e))?;
        Ok(silence.into())
    }

    /// The pods that a boot's agent named in its newest hello.
    pub(crate) fn pods_of(&self, node: &NodeName, boot: BootId) -> Result<Vec<PodRef>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<PodRef>> {
            reader
                .prepare_cached(
                    "SELECT namespace, name, uid FROM pod WHERE node = ?1 AND boot = ?2
                     ORDER BY namespace, name",
                )?
                .query_map(params![node.as_str(), boot.to_string()], pod_ref)?
                .collect()
        };
        read().map_err(|e| self.error(e))
    }

    /// All tasks that wait, each death's in order.
    pub(crate) fn tasks(&self) -> Result<Vec<Task>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<(i64, String, String, u32)>> {
            reader
                .prepare_cached(
                    "SELECT task.id, task.action, death.name, task.attempts
                     FROM task JOIN death ON death.name = task.death ORDER BY task.id",
                )?
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .collect()
        };
        let rows = read().map_err(|e| self.error(e))?;
        rows.into_iter()
            .filter_map(|(id, word, death, attempts)| {
                let death = serde_json::from_value(death.into()).map_err(|e| self.record_error(e));
                let action = death
                    .map(|death| Action::from_word(&word, death))
                    .transpose()?;
                Some(action.map(|action| Task {
                    id,
                    action,
                    attempts,
                }))
            })
            .collect()
    }

    /// The nodes, for the engine.
    pub fn known_nodes(&self, limit: usize) -> Result<Vec<KnownNode>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<KnownRow>> {
            reader
                .prepare_cached(&format!(
                    "SELECT name, boot, seen_ms, inventory, stopped, silence FROM node
                     WHERE NOT {IS_GONE} ORDER BY seen_ms DESC LIMIT ?1",
                ))?
                .query_map([limit as i64], |row| {
                    Ok((
                        row.get(0)?,
                        row.get(1)?,
                        row.get(2)?,
                        row.get(3)?,
                        row.get(4)?,
                        row.get(5)?,
                    ))
                })?
                .collect()
        };
        let rows = read().map_err(|e| self.error(e))?;
        let known =
            rows.into_iter()
                .filter_map(|(node, boot, seen_ms, inventory, stopped, silence)| {
                    Some(KnownNode {
                        node: NodeName::new(&node)?,
                        boot: BootId::parse(&boot)?,
                        noted: Some(Timestamp(seen_ms as u64)),
                        inventory: inventory.and_then(|text| serde_json::from_str(&text).ok()),
                        stopped,
                        silence: silence.and_then(|text| serde_json::from_str(&text).ok()),
                    })
                });
        Ok(known.collect())
    }

    /// The Node objects of which it is not recorded that they are gone, oldest first:
    /// as they were seen, or only named by the node's own agent.
    pub fn known_objects(&self, limit: usize) -> Result<Vec<SeenObject>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<SeenObject>> {
            reader
                .prepare_cached(
                    "SELECT node, uid, body, seen_ms AS at_ms,
                        max(seen_ms, coalesce((SELECT at_ms FROM watched), 0))
                     FROM object
                     UNION ALL
                     SELECT name, uid, NULL, seen_ms, seen_ms FROM node
                     WHERE uid IS NOT NULL AND name NOT IN (SELECT node FROM object)
                     AND NOT EXISTS (SELECT 1 FROM removal WHERE removal.node = node.name
                         AND removal.body ->> '$.object.uid' = node.uid)
                     ORDER BY at_ms LIMIT ?1",
                )?
                .query_map([limit as i64], |row| {
                    let (name, uid): (String, String) = (row.get(0)?, row.get(1)?);
                    let body: Option<String> = row.get(2)?;
                    let object = body.and_then(|body| serde_json::from_str(&body).ok());
                    let seen = Timestamp(row.get::<_, i64>(4)? as u64);
                    Ok(NodeName::new(&name).map(|node| SeenObject {
                        node,
                        object: object.unwrap_or_else(|| NodeObject {
                            uid,
                            ..NodeObject::default()
                        }),
                        seen,
                    }))
                })?
                .filter_map(Result::transpose)
                .collect()
        };
        read().map_err(|e| self.error(e))
    }

    /// The pod's newest note, or the death of a boot that it was on.
    fn pod(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<(PodNote, Summary)>, Error> {
        let asked = named_params! { ":name": name, ":namespace": namespace };
        let reader = self.reader();
        let read = || -> rusqlite::Result<[Option<(PodNote, String)>; 2]> {
            let written = reader
                .prepare_cached(
                    "SELECT namespace, name, uid, owner_kind, owner_name, outcome, at_ms, death
                     FROM note WHERE name = :name AND death IN (SELECT name FROM death)
                     AND (:namespace IS NULL OR namespace = :namespace)
                     ORDER BY at_ms DESC LIMIT 1",
                )?
                .query_row(asked, note)
                .optional()?;
            let known = reader
                .prepare_cached(
                    "SELECT namespace, pod.name, uid, NULL, NULL, 'known', seen_ms, death.name
                     FROM pod JOIN death ON death.node = pod.node AND death.boot = pod.boot
                     WHERE pod.name = :name AND (:namespace IS NULL OR namespace = :namespace)
                     ORDER BY proof = 'P0', detected_ms DESC LIMIT 1",
                )?
                .query_row(asked, note)
                .optional()?;
            Ok([written, known])
        };
        let found = read().map_err(|e| self.error(e))?;
        drop(reader);
        let Some((pod, death)) = newest(found.into_iter().flatten().collect()) else {
            return Ok(None);
        };
        Ok(self.death(&death)?.map(|summary| (pod, summary)))
    }

    fn newest_of_node(&self, node: &str) -> Result<Option<Summary>, Error> {
        let found = self.summaries(
            "SELECT body, (SELECT count(*) FROM note WHERE note.death = death.name
                AND note.outcome IN ('annotated', 'recorded'))
             FROM death WHERE node = ?1 ORDER BY proof = 'P0', detected_ms DESC LIMIT 1",
            params![node],
        )?;
        Ok(found.into_iter().next())
    }

    fn summaries(&self, sql: &str, with: impl rusqlite::Params) -> Result<Vec<Summary>, Error> {
        let reader = self.reader();
        let read = || -> rusqlite::Result<Vec<(String, i64)>> {
            reader
                .prepare_cached(sql)?
                .query_map(with, |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        let rows = read().map_err(|e| self.error(e))?;
        rows.into_iter()
            .map(|(body, pods)| {
                let death = serde_json::from_str(&body).map_err(|e| self.record_error(e))?;
                Ok(Summary::new(death, pods as u64))
            })
            .collect()
    }
}

/// Of pods that had one name the newest, and of what is known of that one the first.
fn newest<T>(all: Vec<(PodNote, T)>) -> Option<(PodNote, T)> {
    let (newest, _) = all.iter().max_by_key(|(pod, _)| pod.at)?;
    let uid = newest.pod.uid.clone();
    all.into_iter().find(|(pod, _)| pod.pod.uid == uid)
}

fn pod_ref(row: &Row<'_>) -> rusqlite::Result<PodRef> {
    Ok(PodRef {
        namespace: row.get(0)?,
        name: row.get(1)?,
        uid: row.get(2)?,
    })
}

/// A note and the name of its death.
fn note(row: &Row<'_>) -> rusqlite::Result<(PodNote, String)> {
    let owner: (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
    let note = PodNote {
        pod: pod_ref(row)?,
        owner: owner.0.zip(owner.1),
        outcome: row.get(5)?,
        at: Timestamp(row.get::<_, i64>(6)? as u64),
    };
    Ok((note, row.get(7)?))
}

fn line(row: &Row<'_>) -> rusqlite::Result<Line> {
    Ok(Line {
        seq: row.get::<_, i64>(0)? as u64,
        mono_ns: row.get::<_, i64>(1)? as u64,
        cpu: row.get(2)?,
        level: row.get(3)?,
        continues: row.get(4)?,
        text: row.get(5)?,
    })
}
