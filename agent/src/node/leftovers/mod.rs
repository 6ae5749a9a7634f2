//! What earlier boots left of their ends: records of pstore, there or where
//! systemd-pstore put them, and the dmesg of a crash kernel. Each is sent until a
//! collector says that it has it.

mod files;
mod kdump;
mod logs;
mod memory;
mod pstore;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use agent_core::model::{Channel, Record, RecordKind, Timestamp};
use tracing::{debug, info, warn};

pub use self::logs::{Log, logs};

use self::files::Entry;
use self::memory::Memory;
use self::pstore::{Name, Part};
use super::marker::Before;
use crate::gasp::beacon;
use crate::gasp::drain::Shared;
use crate::gasp::protocol::{Identity, KeyRing, MAX_FRAME};
use crate::gasp::receipt::{self, RecordId};

/// Longest text of a record, in bytes; its end stays, which has the crash.
const TEXT_MAX: usize = 48 * 1024;
/// Longest part of a record that is read, in bytes.
const PART_MAX: u64 = 1 << 20;
/// Most records that wait for a receipt.
const PENDING_MAX: usize = 16;
/// Between two looks, once nothing changes any more.
const LOOK: Duration = Duration::from_secs(30);
/// Between two looks at what is changing: systemd-pstore moves files one by one.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Looks that come soon in any case.
const LOOKS_SOON: u32 = 10;
/// Before a record is sent again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Between two looks for receipts, where one is awaited; and where none is.
const TURN: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_secs(1);
/// Clocks of two boots may differ by this much, in milliseconds: until a server
/// tells it the time, a boot has it from a clock that counts seconds.
const CLOCKS_MS: u64 = 5_000;

/// Where to look, and what may be done there.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where pstore is mounted.
    pub pstore: Option<PathBuf>,
    /// Where systemd-pstore puts what it takes from there.
    pub archive: Option<PathBuf>,
    /// Where crash kernels save.
    pub crash: Vec<PathBuf>,
    /// Let go of records in pstore that a collector has.
    pub delete: bool,
    /// What outlives the boot.
    pub state: PathBuf,
}

/// A whole record, as it was found.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    channel: Channel,
    source: String,
    kind: RecordKind,
    at: Option<Timestamp>,
    missing: u32,
    cut: bool,
    text: String,
    /// The files in pstore that it was made of.
    files: Vec<PathBuf>,
}

/// What cannot be sent, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LeftOut {
    /// Compressed in a way that the kernel could not undo.
    compressed: usize,
    /// Cannot be read.
    unreadable: usize,
    /// No record of a death.
    others: usize,
    /// Of this boot, which lives.
    own: usize,
    /// More than are sent at once.
    many: usize,
}

struct Pending {
    record: Record,
    files: Vec<PathBuf>,
    due: Instant,
    pause: Duration,
}

/// Looks, sends, and listens for receipts.
pub struct Leftovers {
    settings: Settings,
    /// The boot before, and when it and this one began.
    before: Option<Before>,
    began: Timestamp,
    memory: Memory,
    pending: BTreeMap<RecordId, Pending>,
    /// What was there at the last look, and whether it was read since.
    seen: Option<Vec<Entry>>,
    read: bool,
    looks: u32,
    next_look: Instant,
    left_out: LeftOut,
}

impl Leftovers {
    /// Nothing looked at yet. This boot began at `began`.
    pub fn new(settings: Settings, before: Option<Before>, began: Timestamp) -> Self {
        Self {
            memory: Memory::open(&settings.state),
            settings,
            before,
            began,
            pending: BTreeMap::new(),
            seen: None,
            read: false,
            looks: 0,
            next_look: Instant::now(),
            left_out: LeftOut::default(),
        }
    }

    /// Looks and sends until told to stop. For a thread of its own: a directory
    /// may be on a disk that does not answer. What collectors say beside receipts is
    /// given to `others`.
    pub fn run(
        mut self,
        shared: &Shared,
        own: &Identity,
        keys: &KeyRing,
        mut others: impl FnMut(&[u8]),
    ) {
        let mut datagram = [0; MAX_FRAME];
        while !shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if self.next_look <= now {
                self.look(now);
            }
            // One a turn: a burst of all would not fit the send buffer.
            for record in self.due(now).take(1) {
                beacon::record(shared, record);
            }
            for socket in &shared.udp {
                // Whoever floods it delays receipts and nothing else.
                for _ in 0..64 {
                    let Ok(len) = socket.recv(&mut datagram) else {
                        break;
                    };
                    match receipt::read(&datagram[..len], own, keys) {
                        Some(id) => self.arrived(id),
                        None => others(&datagram[..len]),
                    }
                }
            }
            thread::sleep(if self.pending.is_empty() { IDLE } else { TURN });
        }
    }

    /// Reads what is there, once it has not changed between two looks.
    fn look(&mut self, now: Instant) {
        let there = self.listing();
        self.looks = self.looks.saturating_add(1);
        if self.seen.as_ref() != Some(&there) {
            self.read = false;
        } else if !std::mem::replace(&mut self.read, true) {
            self.take_in(now);
        }
        self.seen = Some(there);
        let soon = !self.read || self.looks < LOOKS_SOON;
        self.next_look = now + if soon { LOOK_SOON } else { LOOK };
    }

    /// All files that may be records.
    fn listing(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        let dirs = self.settings.pstore.iter();
        for dir in dirs.chain(&self.settings.archive) {
            all.extend(walk(dir, 2));
        }
        for dir in &self.settings.crash {
            all.extend(dmesgs(dir));
        }
        all
    }

    fn take_in(&mut self, now: Instant) {
        let mut out = LeftOut::default();
        let mut found = self.find(&mut out);
        // The newest first: they may be what everybody waits for.
        found.sort_by_key(|found| std::cmp::Reverse(found.at));
        for found in found {
            let Some((record, files)) = self.place(found) else {
                out.own += 1;
                continue;
            };
            let id = RecordId::of(&record);
            if self.memory.knows(id) {
                self.let_go(&files);
            } else if let Some(pending) = self.pending.get_mut(&id) {
                // It was moved.
                pending.files = files;
            } else if self.pending.len() >= PENDING_MAX {
                out.many += 1;
            } else {
                info!(source = record.source, boot = ?record.boot, "found what an earlier boot left");
                let pending = Pending {
                    record,
                    files,
                    due: now,
                    pause: PAUSE.0,
                };
                self.pending.insert(id, pending);
            }
        }
        if out != self.left_out {
            self.left_out = out;
            out.say();
        }
    }

    fn find(&self, out: &mut LeftOut) -> Vec<Found> {
        let mut found = Vec::new();
        let pstore = self.settings.pstore.iter().map(|dir| (dir, true));
        let archive = self.settings.archive.iter().map(|dir| (dir, false));
        for (root, is_pstore) in pstore.chain(archive) {
            for dir in directories(root) {
                let (joined, others) = pstore::join(parts_in(&dir, is_pstore, out));
                out.others += others;
                found.extend(joined);
            }
        }
        for dir in &self.settings.crash {
            for entry in dmesgs(dir) {
                match files::end_of(&entry.path, TEXT_MAX as u64) {
                    Ok((bytes, cut)) => {
                        let source = entry.path.display().to_string();
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        found.push(kdump::found(source, entry.modified, text, cut));
                    }
                    Err(_) => out.unreadable += 1,
                }
            }
        }
        found.retain(|found| !found.text.trim().is_empty());
        found
    }

    /// The record to send, and the files in pstore behind it; `None` if it is
    /// this boot's own: that one lives, and has an agent to tell of it.
    fn place(&self, found: Found) -> Option<(Record, Vec<PathBuf>)> {
        let is_later = |at: Timestamp| at > self.began.plus(CLOCKS_MS);
        let mut at = found.at;
        if at.is_some_and(is_later) {
            if found.kind == RecordKind::Oops {
                return None;
            }
            // This boot has not ended: that is when it was put there.
            at = None;
        }
        let boot = self.before.as_ref().and_then(|before| {
            let from = before.began.0.saturating_sub(CLOCKS_MS);
            at.filter(|at| at.0 >= from).map(|_| before.boot)
        });
        let mut record = Record {
            boot,
            at,
            missing: found.missing,
            cut: found.cut,
            ..Record::new(found.channel, found.source, found.kind, found.text)
        };
        keep_end(&mut record, TEXT_MAX);
        while !beacon::fits(&record) {
            let half = record.text.len() / 2;
            keep_end(&mut record, half);
        }
        Some((record, found.files))
    }

    /// Those that are to be sent now.
    fn due(&mut self, now: Instant) -> impl Iterator<Item = &Record> {
        let due = self.pending.values_mut();
        due.filter(move |pending| pending.due <= now)
            .map(move |pending| {
                pending.due = now + pending.pause;
                pending.pause = (pending.pause * 2).min(PAUSE.1);
                &pending.record
            })
    }

    /// A collector has it.
    fn arrived(&mut self, id: RecordId) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        info!(source = pending.record.source, "a collector has it");
        if let Err(error) = self.memory.keep(id) {
            warn!(
                "a restarted agent will send it again: cannot note that in the state directory: {error}"
            );
        }
        self.let_go(&pending.files);
        if self.left_out.many > 0 {
            // There is room for those.
            self.read = false;
        }
    }

    /// Removes records from pstore, if that is wanted.
    fn let_go(&self, files: &[PathBuf]) {
        for file in files.iter().filter(|_| self.settings.delete) {
            match fs::remove_file(file) {
                Ok(()) => info!(file = %file.display(), "deleted"),
                Err(error) => warn!(file = %file.display(), "cannot delete it: {error}"),
            }
        }
    }
}

impl LeftOut {
    fn say(&self) {
        let Self {
            compressed,
            unreadable,
            others,
            own,
            many,
        } = *self;
        if compressed + unreadable > 0 {
            warn!(
                compressed,
                unreadable,
                "records of earlier boots that cannot be read; compressed: by another method \
                 than deflate (pstore.compress); unreadable: damaged, too \
                 long, or of a user who is not root"
            );
        }
        if many > 0 {
            info!(many, "more records wait until a collector has the newest");
        }
        if others + own > 0 {
            debug!(others, own, "records that tell of no death");
        }
    }
}

/// A directory and those in it, three levels deep: newer versions of
/// systemd-pstore make two.
fn directories(root: &Path) -> Vec<PathBuf> {
    let mut all = vec![root.to_owned()];
    all.extend(
        walk_all(root, 2)
            .into_iter()
            .filter(|e| e.is_dir)
            .map(|e| e.path),
    );
    all
}

/// The files in a directory and in those below it, so many levels deep.
fn walk(root: &Path, depth: u32) -> Vec<Entry> {
    let mut all = walk_all(root, depth);
    all.retain(|entry| !entry.is_dir);
    all
}

/// The dmesgs that crash kernels saved below a directory.
fn dmesgs(root: &Path) -> Vec<Entry> {
    let mut all = walk(root, 1);
    all.retain(|entry| kdump::is_dmesg(&entry.name));
    all
}

fn walk_all(root: &Path, depth: u32) -> Vec<Entry> {
    let mut all = Vec::new();
    for entry in files::list(root) {
        let below = (entry.is_dir && depth > 0).then(|| walk_all(&entry.path, depth - 1));
        all.push(entry);
        all.extend(below.into_iter().flatten());
        if all.len() > ENTRIES_MAX {
            break;
        }
    }
    all
}

/// Most files and directories that are looked at below one.
const ENTRIES_MAX: usize = 4_096;

/// The parts of records in a directory. `is_pstore`: they are in pstore itself.
fn parts_in(dir: &Path, is_pstore: bool, out: &mut LeftOut) -> Vec<Part> {
    let entries: Vec<Entry> = files::list(dir).into_iter().filter(|e| !e.is_dir).collect();
    let of = |entry: &Entry| part_in(entry, is_pstore, out);
    let mut parts: Vec<Part> = entries.iter().filter_map(of).collect();
    let whole = entries.iter().find(|entry| entry.name == "dmesg.txt");
    if let (Some(whole), true, false) = (whole, parts.is_empty(), is_pstore)
        && let Ok((bytes, _)) = files::end_of(&whole.path, PART_MAX)
    {
        let text = String::from_utf8_lossy(&bytes);
        parts.extend(pstore::split(&text).into_iter().map(|text| Part {
            backend: "pstore".to_owned(),
            at: None,
            text,
            file: None,
        }));
    }
    parts
}

/// The part of a record in a file, if its name says that it is one.
fn part_in(entry: &Entry, is_pstore: bool, out: &mut LeftOut) -> Option<Part> {
    let name = Name::parse(&entry.name)?;
    let Ok((mut bytes, false)) = files::end_of(&entry.path, PART_MAX) else {
        out.unreadable += 1;
        return None;
    };
    if name.is_compressed {
        let Some(inflated) = pstore::inflated(&bytes, PART_MAX as usize) else {
            out.compressed += 1;
            return None;
        };
        bytes = inflated;
    }
    Some(Part {
        backend: name.backend.to_owned(),
        // In the archive it is the time of moving it there.
        at: if is_pstore { entry.modified } else { name.at() },
        text: String::from_utf8_lossy(&bytes).into_owned(),
        file: is_pstore.then(|| entry.path.clone()),
    })
}

/// Cuts all but the end of a record's text, at the start of a line.
fn keep_end(record: &mut Record, max: usize) {
    let text = &record.text;
    if text.len() <= max {
        return;
    }
    let from = text.ceil_char_boundary(text.len() - max);
    let line = text[from..].find('\n').map_or(from, |at| from + at + 1);
    record.text = text[if line < text.len() { line } else { from }..].to_owned();
    record.cut = true;
}

#[cfg(test)]
mod tests;
