//! What may stand behind the line of a word: parts, each a tag and its length before its
//! content. Written on the dying path, so nothing of that half allocates, and read from
//! anywhere.

use agent_common::asked::{CGROUP_MAX, CGROUPS_MAX};
use agent_core::model::{Asked, Packet, Told};

use super::{asked, packet};
use crate::kernel::ring::until_zero;

/// Part of a word: who asked the kernel.
pub(super) const ASKER: u8 = 1;
/// Part of a word: who had told that one.
pub(super) const TOLD: u8 = 2;
/// Part of a word: the packet that the kernel is about to stop at.
pub(super) const PACKET: u8 = 3;

/// Bytes of a part before its content.
pub(super) const PART: usize = 3;

/// More than the longest part has, in bytes.
pub(super) const PART_MAX: usize = 1024;

/// A part that is being written; what does not fit is left out.
pub(super) struct Part {
    bytes: [u8; PART_MAX],
    len: usize,
}

impl Part {
    pub(super) fn of(tag: u8) -> Self {
        let mut bytes = [0; PART_MAX];
        bytes[0] = tag;
        Self { bytes, len: PART }
    }

    /// The whole part.
    pub(super) fn bytes(&mut self) -> &[u8] {
        let content = (self.len - PART) as u16;
        self.bytes[1..PART].copy_from_slice(&content.to_le_bytes());
        &self.bytes[..self.len]
    }

    /// Names of cgroups, up to the first that is empty, behind their number.
    pub(super) fn names(&mut self, cgroups: &[[u8; CGROUP_MAX]; CGROUPS_MAX]) {
        let names = || cgroups.iter().map(|name| until_zero(name));
        let known = names().take_while(|name| !name.is_empty());
        self.push(&[known.clone().count() as u8]);
        for name in known {
            self.text(name);
        }
    }

    /// A text shorter than 256 bytes, behind its length.
    pub(super) fn text(&mut self, text: &[u8]) {
        self.push(&[text.len() as u8]);
        self.push(text);
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

/// The parts of a word that are known. What is damaged, or longer than this version
/// knows, costs no word: it is left out.
#[derive(Default)]
pub(super) struct Parts {
    /// Who asked the kernel, and who had told that one.
    pub(super) asked: Option<Asked>,
    /// Who told, of a goodbye, which has nothing else.
    pub(super) told: Option<Told>,
    /// The packet that the kernel is about to stop at.
    pub(super) packet: Option<Packet>,
}

/// Reads them.
pub(super) fn read(mut rest: &[u8]) -> Parts {
    let (mut by, mut parts) = (None, Parts::default());
    while let Some((head, behind)) = rest.split_at_checked(PART) {
        let len = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let Some((content, behind)) = behind.split_at_checked(len) else {
            break;
        };
        let mut bytes = Bytes(content);
        match head[0] {
            ASKER => by = asked::read_asker(&mut bytes).flatten(),
            TOLD => parts.told = asked::read_told(&mut bytes),
            PACKET => parts.packet = packet::read(&mut bytes),
            _ => {}
        }
        rest = behind;
    }
    parts.asked = by.map(|by| Asked {
        by,
        told: parts.told.clone(),
    });
    parts
}

/// What is left of a part.
pub(super) struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// How many follow; each takes bytes, so the part bounds them.
    pub(super) fn count(&mut self) -> Option<usize> {
        let [count] = self.take()?;
        Some(count.into())
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let len = self.count()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// Texts behind their number.
    pub(super) fn texts(&mut self) -> Option<Vec<String>> {
        let mut texts = Vec::new();
        for _ in 0..self.count()? {
            texts.push(self.text()?);
        }
        Some(texts)
    }

    /// All that is left, as a text.
    pub(super) fn rest(&mut self) -> String {
        String::from_utf8_lossy(std::mem::take(&mut self.0)).into_owned()
    }
}
