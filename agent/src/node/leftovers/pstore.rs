//! Records of pstore (fs/pstore/platform.c): parts into logs. Pure.
//!
//! Each part begins with a line `Panic#1 Part3`. The kernel writes the newest
//! part first, so the highest number is the oldest.

use std::path::PathBuf;

use agent_core::model::{Channel, RecordKind, Timestamp};

use super::Found;

/// Parts of one death are written this close together, in milliseconds: variables
/// of a slow firmware take their time.
const TOGETHER_MS: u64 = 120_000;

/// What a file in pstore, or in its archive, is by its name.
#[derive(Debug, PartialEq)]
pub(super) struct Name<'a> {
    /// `ramoops`, `erst`, `efi_pstore`.
    pub(super) backend: &'a str,
    /// The backend's number for it.
    id: Option<u64>,
    /// It is compressed still: the kernel could not make sense of it.
    pub(super) is_compressed: bool,
}

impl<'a> Name<'a> {
    /// Reads `dmesg-BACKEND-ID`, also with `.enc.z`; `None` for what is no log
    /// of a dying kernel (`console-ramoops-0`).
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix("dmesg-")?;
        let plain = rest.strip_suffix(".enc.z");
        let (backend, id) = plain.unwrap_or(rest).rsplit_once('-')?;
        (!backend.is_empty()).then(|| Self {
            backend,
            id: id.parse().ok(),
            is_compressed: plain.is_some(),
        })
    }

    /// When it was written, as far as the number says so: EFI counts seconds,
    /// two digits of part and three of count (`generic_id`,
    /// drivers/firmware/efi/efi-pstore.c); ERST begins each boot with the second
    /// in its upper half (`cper_next_record_id`, drivers/firmware/efi/cper.c).
    pub(super) fn at(&self) -> Option<Timestamp> {
        let id = self.id?;
        let seconds = match self.backend {
            "efi" | "efi_pstore" => id / 100_000,
            "erst" if id >> 63 == 0 => id >> 32,
            "erst" => (id & !(1 << 63)) >> 24,
            _ => return None,
        };
        (seconds > 0).then(|| Timestamp(seconds.saturating_mul(1_000)))
    }
}

/// What a record holds that the kernel left compressed, up to `max` bytes: deflate, which
/// all kernels since 6.6 use and those before where they were told to
/// (fs/pstore/platform.c, `pstore_compress`).
pub(super) fn inflated(bytes: &[u8], max: usize) -> Option<Vec<u8>> {
    let raw = miniz_oxide::inflate::decompress_to_vec_with_limit(bytes, max);
    let whole = |_| miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(bytes, max);
    raw.or_else(whole).ok()
}

/// One file, or what such a file held.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) backend: String,
    pub(super) at: Option<Timestamp>,
    pub(super) text: String,
    /// The file in pstore itself, which may be let go of.
    pub(super) file: Option<PathBuf>,
}

/// What a part's first line says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Header<'a> {
    reason: &'a str,
    count: u32,
    part: u32,
}

impl<'a> Header<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (reason, rest) = line.trim_end().split_once('#')?;
        let (count, part) = rest.split_once(" Part")?;
        let is_word = !reason.is_empty() && reason.bytes().all(|b| b.is_ascii_alphabetic());
        is_word.then_some(Self {
            reason,
            count: count.parse().ok()?,
            part: part.parse().ok().filter(|part| *part > 0)?,
        })
    }

    /// The record's kind, if it is the log of a death.
    fn kind(&self) -> Option<RecordKind> {
        match self.reason {
            "Panic" => Some(RecordKind::Panic),
            "Oops" => Some(RecordKind::Oops),
            _ => None,
        }
    }
}

/// The parts in a log that systemd-pstore put together (`dmesg.txt`), each
/// behind its header; what stands before the first header is none.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        // Older versions name the file before each part: `dmesg-efi-1234:`.
        let is_name = line
            .trim_end()
            .strip_suffix(':')
            .is_some_and(|name| Name::parse(name).is_some());
        if is_name {
            continue;
        }
        if Header::parse(line).is_some() {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
        }
    }
    parts
}

struct Group {
    kind: RecordKind,
    count: u32,
    backend: String,
    at: Option<Timestamp>,
    parts: Vec<(u32, Part)>,
}

/// Puts parts together. Those without a header, or of what is no death (an
/// orderly shutdown), are left out; the second value says how many those were.
pub(super) fn join(parts: Vec<Part>) -> (Vec<Found>, usize) {
    let mut groups: Vec<Group> = Vec::new();
    let mut others = 0;
    let mut parts = parts;
    parts.sort_by_key(|part| part.at);
    for part in parts {
        let header = part.text.lines().next().and_then(Header::parse);
        let known = header.and_then(|header| Some((header, header.kind()?)));
        let Some((header, kind)) = known else {
            others += 1;
            continue;
        };
        let (count, number) = (header.count, header.part);
        let belongs = |group: &&mut Group| {
            let near = match (group.at, part.at) {
                (Some(a), Some(b)) => a.0.abs_diff(b.0) <= TOGETHER_MS,
                (a, b) => a == b,
            };
            near && (group.kind, group.count) == (kind, count)
                && group.backend == part.backend
                && group.parts.iter().all(|(n, _)| *n != number)
        };
        match groups.iter_mut().find(belongs) {
            Some(group) => group.parts.push((number, part)),
            None => groups.push(Group {
                kind,
                count,
                backend: part.backend.clone(),
                at: part.at,
                parts: vec![(number, part)],
            }),
        }
    }
    (groups.into_iter().map(Group::join).collect(), others)
}

impl Group {
    fn join(mut self) -> Found {
        self.parts
            .sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        let highest = self.parts.first().map_or(0, |(number, _)| *number);
        let mut found = Found {
            channel: Channel::Pstore,
            source: self.backend,
            kind: self.kind,
            at: self.at,
            missing: highest.saturating_sub(self.parts.len() as u32),
            cut: false,
            text: String::new(),
            files: Vec::new(),
        };
        for (_, part) in self.parts {
            let log = part.text.split_once('\n').map_or("", |(_, log)| log);
            found.text.push_str(log);
            if !log.ends_with('\n') {
                found.text.push('\n');
            }
            found.files.extend(part.file);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(backend: &str, at_s: u64, text: &str) -> Part {
        Part {
            backend: backend.into(),
            at: Some(Timestamp(at_s * 1_000)),
            text: text.into(),
            file: None,
        }
    }

    #[test]
    fn names_of_every_backend_are_read() {
        let name = |name| Name::parse(name).expect("a record's name");
        assert_eq!(name("dmesg-ramoops-0").backend, "ramoops");
        assert_eq!(name("dmesg-ramoops-0").at(), None);
        let efi = name("dmesg-efi-177946120803001");
        assert_eq!(efi.at(), Some(Timestamp(1_779_461_208_000)));
        let efi = name("dmesg-efi_pstore-177946120803001");
        assert_eq!(efi.backend, "efi_pstore");
        let id = (1_779_461_208_u64 << 32) + 1;
        let text = format!("dmesg-erst-{id}");
        let erst = name(&text);
        assert_eq!(erst.at(), Some(Timestamp(1_779_461_208_000)));
        assert!(name("dmesg-erst-1.enc.z").is_compressed);
        for other in ["console-ramoops-0", "dmesg", "dmesg-1", "dmesg--1", "x"] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn parts_are_joined_oldest_first_and_deaths_kept_apart() {
        let (found, others) = join(vec![
            part("efi", 1_000, "Panic#1 Part1\nnewest\n"),
            part("efi", 1_001, "Panic#1 Part2\nmiddle"),
            part("efi", 999, "Oops#1 Part1\nan oops before it\n"),
            part("efi", 1_002, "Panic#1 Part4\noldest\n"),
            // The next boot died as well, and counts anew.
            part("efi", 1_090, "Panic#1 Part1\nagain\n"),
            part("efi", 9_000, "Shutdown#1 Part1\nbye\n"),
            part("efi", 9_000, "no header\n"),
        ]);
        assert_eq!(others, 2);
        let told: Vec<(RecordKind, &str, u32)> = found
            .iter()
            .map(|f| (f.kind, f.text.as_str(), f.missing))
            .collect();
        assert_eq!(
            told,
            [
                (RecordKind::Oops, "an oops before it\n", 0),
                (RecordKind::Panic, "oldest\nmiddle\nnewest\n", 1),
                (RecordKind::Panic, "again\n", 0),
            ]
        );
    }

    #[test]
    fn what_systemd_put_together_is_taken_apart() {
        let old = "dmesg-efi-2:\nPanic#1 Part2\na\ndmesg-efi-1:\nPanic#1 Part1\nb\n";
        let new = "Panic#1 Part2\na\nPanic#1 Part1\nb\n";
        for text in [old, new] {
            assert_eq!(split(text), ["Panic#1 Part2\na\n", "Panic#1 Part1\nb\n"]);
        }
        assert!(split("no header\n").is_empty());
    }

    #[test]
    fn what_the_kernel_left_compressed_is_read() {
        let log = "Panic#1 Part1\n<4>[    1.0] Kernel panic - not syncing: x\n".repeat(40);
        let raw = miniz_oxide::deflate::compress_to_vec(log.as_bytes(), 6);
        let zlib = miniz_oxide::deflate::compress_to_vec_zlib(log.as_bytes(), 6);
        for bytes in [raw, zlib] {
            assert_eq!(inflated(&bytes, 1 << 16).as_deref(), Some(log.as_bytes()));
            assert_eq!(inflated(&bytes, 100), None, "more than fits");
            assert_eq!(inflated(&bytes[..bytes.len() / 2], 1 << 16), None, "cut");
        }
        assert_eq!(inflated(b"\x78\x9c", 100), None);
    }

    proptest! {
        #[test]
        fn the_order_in_which_files_are_listed_does_not_matter(
            (one, other) in prop::collection::btree_map(1u32..20, "[a-z]{0,8}", 0..12)
                .prop_flat_map(|parts| {
                    let parts: Vec<_> = parts.into_iter().collect();
                    (Just(parts.clone()), Just(parts).prop_shuffle())
                }),
        ) {
            let texts = |parts: Vec<(u32, String)>| {
                let parts = parts.into_iter().map(|(number, text)| {
                    part("erst", 7, &format!("Panic#2 Part{number}\n{text}\n"))
                });
                let (found, _) = join(parts.collect());
                found.into_iter().map(|f| (f.text, f.missing)).collect::<Vec<_>>()
            };
            prop_assert_eq!(texts(one), texts(other));
        }

        #[test]
        fn anything_is_read(name in "(dmesg-)?\\PC{0,30}", text in "(\\PC|\n|#| Part){0,60}") {
            let _ = Name::parse(&name).map(|name| name.at());
            let parts = split(&text).into_iter().chain([text]);
            let parts = parts.map(|text| part("x", 1, &text)).collect();
            let (found, others) = join(parts);
            prop_assert!(found.len() + others > 0);
        }
    }
}
