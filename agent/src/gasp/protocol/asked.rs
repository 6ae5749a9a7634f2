//! Who asked, behind the line of a word: written on the dying path, so nothing of
//! that half allocates, and read from anywhere.

use agent_common::COMM_MAX;
use agent_common::asked::{self, CGROUP_MAX, CGROUPS_MAX, COMMAND_MAX, PARENTS_MAX};
use agent_core::model::{Asker, Means, Process, Told};

use super::part::{ASKER, Bytes, PART, PART_MAX, Part, TOLD};
use crate::kernel::ring::until_zero;

/// The longest asker: uid, then processes and cgroups behind their numbers.
const ASKER_MAX: usize =
    4 + 1 + (1 + PARENTS_MAX) * (4 + 1 + COMM_MAX) + 1 + CGROUPS_MAX * (1 + CGROUP_MAX);

// Means, number, time, command line, asker.
const _: () = assert!(PART + 2 + 8 + 1 + COMMAND_MAX + ASKER_MAX <= PART_MAX);

/// Who asked the kernel.
pub(super) fn asker(asked: &asked::Asked) -> Part {
    let mut part = Part::of(ASKER);
    process_in_place(&mut part, &asked.by);
    part
}

/// Who had told that one before `at_ns`, if anybody had.
pub(super) fn told(told: &asked::Told, at_ns: u64) -> Option<Part> {
    if told.at_ns == 0 {
        return None;
    }
    let len = usize::from(told.command_len).min(told.command.len());
    let mut part = Part::of(TOLD);
    part.push(&[told.means, told.number]);
    part.push(&at_ns.saturating_sub(told.at_ns).to_le_bytes());
    part.text(&told.command[..len]);
    process_in_place(&mut part, &told.by);
    Some(part)
}

fn process_in_place(part: &mut Part, asker: &asked::Asker) {
    part.push(&asker.uid.to_le_bytes());
    let family = || std::iter::once(&asker.process).chain(&asker.parents);
    let known = family().take_while(|process| process.pid != 0);
    part.push(&[known.clone().count() as u8]);
    for process in known {
        part.push(&process.pid.to_le_bytes());
        part.text(until_zero(&process.comm));
    }
    part.names(&asker.cgroups);
}

fn read_process(bytes: &mut Bytes<'_>) -> Option<Process> {
    Some(Process {
        pid: bytes.u32()?,
        comm: bytes.text()?,
    })
}

/// `Some(None)`: it was no process.
#[expect(clippy::option_option, reason = "damaged, nobody, somebody")]
pub(super) fn read_asker(bytes: &mut Bytes<'_>) -> Option<Option<Asker>> {
    let uid = bytes.u32()?;
    let mut family = Vec::new();
    for _ in 0..bytes.count()? {
        family.push(read_process(bytes)?);
    }
    let cgroups = bytes.texts()?;
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

pub(super) fn read_told(bytes: &mut Bytes<'_>) -> Option<Told> {
    let [means, number] = bytes.take()?;
    let before_ns = bytes.u64()?;
    let command = bytes.text()?;
    let by = read_asker(bytes)?;
    Some(Told {
        means: Means::from_wire(means, number)?,
        by,
        before_ns,
        command: command.replace('\0', " ").trim_end().to_owned(),
    })
}
