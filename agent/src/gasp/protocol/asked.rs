//! Who asked, behind the line of a word: written on the dying path, so nothing of
//! that half allocates, and read from anywhere.

use agent_common::COMM_MAX;
use agent_common::asked::{self, CGROUP_MAX, CGROUPS_MAX, COMMAND_MAX, PARENTS_MAX};
use agent_core::model::{Asked, Asker, Means, Process, Told};

use crate::kernel::ring::until_zero;

/// Part of a word: who asked the kernel.
const ASKER: u8 = 1;
/// Part of a word: who had told that one.
const TOLD: u8 = 2;

/// Bytes of a part before its content.
const PART: usize = 3;

/// More than the longest part has, in bytes.
const PART_MAX: usize = 512;

/// The longest asker: uid, then processes and cgroups behind their numbers.
const ASKER_MAX: usize =
    4 + 1 + (1 + PARENTS_MAX) * (4 + 1 + COMM_MAX) + 1 + CGROUPS_MAX * (1 + CGROUP_MAX);

// Means, number, time, command line, asker.
const _: () = assert!(PART + 2 + 8 + 1 + COMMAND_MAX + ASKER_MAX <= PART_MAX);

/// A part that is being written; what does not fit is left out.
pub(super) struct Part {
    bytes: [u8; PART_MAX],
    len: usize,
}

impl Part {
    /// Who asked the kernel.
    pub(super) fn asker(asked: &asked::Asked) -> Self {
        let mut part = Self::of(ASKER);
        part.process_in_place(&asked.by);
        part
    }

    /// Who had told that one before `at_ns`, if anybody had.
    pub(super) fn told(told: &asked::Told, at_ns: u64) -> Option<Self> {
        if told.at_ns == 0 {
            return None;
        }
        let len = usize::from(told.command_len).min(told.command.len());
        let mut part = Self::of(TOLD);
        part.push(&[told.means, told.number]);
        part.push(&at_ns.saturating_sub(told.at_ns).to_le_bytes());
        part.text(&told.command[..len]);
        part.process_in_place(&told.by);
        Some(part)
    }

    /// The whole part.
    pub(super) fn bytes(&mut self) -> &[u8] {
        let content = (self.len - PART) as u16;
        self.bytes[1..PART].copy_from_slice(&content.to_le_bytes());
        &self.bytes[..self.len]
    }

    fn of(tag: u8) -> Self {
        let mut bytes = [0; PART_MAX];
        bytes[0] = tag;
        Self { bytes, len: PART }
    }

    fn process_in_place(&mut self, asker: &asked::Asker) {
        self.push(&asker.uid.to_le_bytes());
        let family = || std::iter::once(&asker.process).chain(&asker.parents);
        let known = family().take_while(|process| process.pid != 0);
        self.push(&[known.clone().count() as u8]);
        for process in known {
            self.push(&process.pid.to_le_bytes());
            self.text(until_zero(&process.comm));
        }
        let names = || asker.cgroups.iter().map(|name| until_zero(name));
        let known = names().take_while(|name| !name.is_empty());
        self.push(&[known.clone().count() as u8]);
        for name in known {
            self.text(name);
        }
    }

    /// A text shorter than 256 bytes, behind its length.
    fn text(&mut self, text: &[u8]) {
        self.push(&[text.len() as u8]);
        self.push(text);
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

/// Reads the parts of a word that are known. What is damaged, or longer than this
/// version knows, costs no word: it is left out.
pub(super) fn read(parts: &[u8]) -> Option<Asked> {
    let (by, told) = read_parts(parts);
    by.map(|by| Asked { by, told })
}

/// The same of a goodbye, which only has who told.
pub(super) fn read_told(parts: &[u8]) -> Option<Told> {
    read_parts(parts).1
}

fn read_parts(mut rest: &[u8]) -> (Option<Asker>, Option<Told>) {
    let (mut by, mut told) = (None, None);
    while let Some((head, behind)) = rest.split_at_checked(PART) {
        let len = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let Some((content, behind)) = behind.split_at_checked(len) else {
            break;
        };
        let mut bytes = Bytes(content);
        match head[0] {
            ASKER => by = bytes.asker().flatten(),
            TOLD => told = bytes.told(),
            _ => {}
        }
        rest = behind;
    }
    (by, told)
}

/// What is left of a part.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// How many follow; each takes bytes, so the part bounds them.
    fn count(&mut self) -> Option<usize> {
        let [count] = self.take()?;
        Some(count.into())
    }

    fn text(&mut self) -> Option<String> {
        let [len] = self.take()?;
        let (text, rest) = self.0.split_at_checked(len.into())?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn process(&mut self) -> Option<Process> {
        Some(Process {
            pid: u32::from_le_bytes(self.take()?),
            comm: self.text()?,
        })
    }

    /// `Some(None)`: it was no process.
    #[expect(clippy::option_option, reason = "damaged, nobody, somebody")]
    fn asker(&mut self) -> Option<Option<Asker>> {
        let uid = u32::from_le_bytes(self.take()?);
        let mut family = Vec::new();
        for _ in 0..self.count()? {
            family.push(self.process()?);
        }
        let mut cgroups = Vec::new();
        for _ in 0..self.count()? {
            cgroups.push(self.text()?);
        }
        let mut family = family.into_iter();
        let own = family.next();
        let asker = |process| Asker {
            process,
            uid,
            parents: family.collect(),
            cgroups,
            pod: None,
        };
        Some(own.map(asker))
    }

    fn told(&mut self) -> Option<Told> {
        let [means, number] = self.take()?;
        let before_ns = u64::from_le_bytes(self.take()?);
        let command = self.text()?;
        let by = self.asker()?;
        Some(Told {
            means: Means::from_wire(means, number)?,
            by,
            before_ns,
            command: command.replace('\0', " ").trim_end().to_owned(),
        })
    }
}
