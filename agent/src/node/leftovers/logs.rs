//! Logs that earlier boots left, for who reads them by hand: the parts of pstore's
//! records put together, and the dmesgs of crash kernels.

use std::path::{Path, PathBuf};

use super::files::{self, Entry};
use super::pstore::{self, Name};
use super::{LeftOut, directories, dmesgs, part_in, parts_in};

/// A log, or where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Log {
    /// A file that is a log as it is.
    File(PathBuf),
    /// A record of pstore: its directory and backend, and its text, oldest line first.
    Record(String, String),
}

/// The logs that these files and directories are or hold, and the number of records that
/// cannot be read or are compressed by another method than deflate.
pub fn logs(paths: &[PathBuf]) -> (Vec<Log>, usize) {
    let mut out = LeftOut::default();
    let mut logs = Vec::new();
    let mut parts = Vec::new();
    for path in paths {
        if path.is_dir() {
            for dir in directories(path) {
                let parts = parts_in(&dir, false, &mut out);
                logs.extend(joined(&dir.display().to_string(), parts));
            }
            logs.extend(dmesgs(path).into_iter().map(|entry| Log::File(entry.path)));
        } else if let Some(entry) = record(path) {
            parts.extend(part_in(&entry, false, &mut out));
        } else {
            logs.push(Log::File(path.clone()));
        }
    }
    logs.extend(joined("pstore", parts));
    (logs, out.compressed + out.unreadable)
}

fn joined(place: &str, parts: Vec<pstore::Part>) -> impl Iterator<Item = Log> {
    let (found, _) = pstore::join(parts);
    found
        .into_iter()
        .map(move |found| Log::Record(format!("{place}, {}", found.source), found.text))
}

/// The file, if its name says that it is a part of a record.
fn record(path: &Path) -> Option<Entry> {
    let name = path.file_name()?.to_str()?;
    Name::parse(name)?;
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    files::list(dir)
        .into_iter()
        .find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn parts_are_put_together_whether_they_or_their_directory_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &[u8]| fs::write(dir.path().join(name), text).expect("a file");
        let newest = miniz_oxide::deflate::compress_to_vec(b"Panic#1 Part1\nnewest\n", 6);
        put("dmesg-efi-177946120801001.enc.z", &newest);
        put("dmesg-efi-177946120802001", b"Panic#1 Part2\noldest\n");
        put("dmesg-efi-177946120803001.enc.z", b"lz4?");
        put("dmesg.202611220000", b"of a crash kernel\n");
        put("notes", b"not a log that we know\n");
        let text = "oldest\nnewest\n";
        let (of_dir, unreadable) = logs(&[dir.path().to_owned()]);
        assert_eq!(unreadable, 1);
        assert_eq!(
            of_dir,
            [
                Log::Record(format!("{}, efi", dir.path().display()), text.to_owned()),
                Log::File(dir.path().join("dmesg.202611220000")),
            ]
        );
        let files = [
            "dmesg-efi-177946120802001",
            "notes",
            "dmesg-efi-177946120801001.enc.z",
        ];
        let (of_files, unreadable) = logs(&files.map(|name| dir.path().join(name)));
        assert_eq!(unreadable, 0);
        assert_eq!(
            of_files,
            [
                Log::File(dir.path().join("notes")),
                Log::Record("pstore, efi".to_owned(), text.to_owned()),
            ]
        );
    }
}
