//! Which records a collector has, kept over a restart of the agent. Losing it
//! costs a few datagrams: what is sent again is known there.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::gasp::receipt::RecordId;
use crate::node::disk;

/// Most records remembered; the oldest go first.
const IDS_MAX: usize = 512;

/// Longest file that is read, in bytes.
const LEN_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    ids: VecDeque<RecordId>,
}

impl Memory {
    /// What is remembered in this directory; nothing if there is none.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join("records.json");
        let text = super::files::end_of(&path, LEN_MAX).map(|(bytes, _)| bytes);
        let ids: Vec<String> = text
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let ids = ids.iter().filter_map(|id| RecordId::parse(id)).collect();
        Self { path, ids }
    }

    pub(super) fn knows(&self, id: RecordId) -> bool {
        self.ids.contains(&id)
    }

    /// Remembers a record, in this process also where the disk takes nothing.
    pub(super) fn keep(&mut self, id: RecordId) -> io::Result<()> {
        if self.knows(id) {
            return Ok(());
        }
        self.ids.push_back(id);
        while self.ids.len() > IDS_MAX {
            self.ids.pop_front();
        }
        let ids: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        disk::replace(&self.path, &serde_json::to_vec(&ids)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> RecordId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        RecordId(bytes)
    }

    #[test]
    fn what_arrived_is_known_after_a_restart_and_there_is_an_end_to_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = &dir.path().join("made/by/us");
        let mut memory = Memory::open(dir);
        for n in 0..IDS_MAX as u16 + 3 {
            memory.keep(id(n)).expect("a disk");
        }
        let memory = Memory::open(dir);
        assert!(!memory.knows(id(2)) && memory.knows(id(3)) && memory.knows(id(514)));
    }

    #[test]
    fn a_disk_that_takes_nothing_or_gives_nonsense_is_no_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("records.json");
        let deep = vec![b'['; 100_000];
        for bytes in [&b""[..], b"{}", b"[1]", b"[\"x\"]", &deep] {
            fs::write(&path, bytes).expect("a file");
            assert!(Memory::open(dir.path()).ids.is_empty());
        }
        // Where the new one would be written is a directory.
        fs::create_dir(dir.path().join("records.new")).expect("mkdir");
        let mut memory = Memory::open(dir.path());
        assert!(memory.keep(id(1)).is_err());
        assert!(memory.knows(id(1)), "this process knows it all the same");
        assert!(!Memory::open(dir.path()).knows(id(1)));
    }
}
