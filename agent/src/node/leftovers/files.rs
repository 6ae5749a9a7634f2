//! Files that anybody may have put there: regular ones of root's or our own
//! only, never followed elsewhere, never more of them than fits.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use agent_core::model::Timestamp;

/// Most entries of one directory that are looked at.
const ENTRIES_MAX: usize = 1_024;

/// An entry of a directory, itself and not what it may point to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) is_dir: bool,
    pub(super) len: u64,
    pub(super) modified: Option<Timestamp>,
}

/// The files and directories in a directory, in the order of their names; empty
/// if it cannot be read.
pub(super) fn list(dir: &Path) -> Vec<Entry> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<Entry> = entries
        .flatten()
        .take(ENTRIES_MAX)
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            (meta.is_dir() || meta.is_file()).then(|| Entry {
                path: entry.path(),
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: meta.is_dir(),
                len: meta.len(),
                modified: modified(&meta),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn modified(meta: &fs::Metadata) -> Option<Timestamp> {
    let since = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp(since.as_millis() as u64))
}

/// The last `max` bytes of a regular file of root's or our own, and whether there
/// were more. Where everybody may write, as in some `/var/crash`, a user's file
/// is no evidence.
pub(super) fn end_of(path: &Path, max: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    // Asked of the open file, so that it cannot be swapped in between.
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("no regular file"));
    }
    let owner = meta.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to uid {owner}")));
    }
    let more = meta.len() > max;
    if more {
        file.seek(SeekFrom::Start(meta.len() - max))?;
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok((bytes, more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_pipes_and_what_is_too_long_do_no_harm() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "0123456789").expect("a file");
        std::os::unix::fs::symlink("/etc/passwd", path("link")).expect("a link");
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        fs::create_dir(path("dir")).expect("a directory");
        let names: Vec<String> = list(dir.path()).into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["a", "dir"]);
        assert!(end_of(&path("link"), 100).is_err());
        assert!(end_of(&path("pipe"), 100).is_err());
        assert!(end_of(&path("dir"), 100).is_err());
        assert_eq!(
            end_of(&path("a"), 4).expect("readable"),
            (b"6789".to_vec(), true)
        );
        assert!(!end_of(&path("a"), 10).expect("readable").1);
        assert!(list(&path("none")).is_empty());
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dmesg.1");
        fs::write(&path, "Kernel panic - not syncing: x").expect("a file");
        assert!(end_of(&path, 100).is_ok());
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
            let error = end_of(&path, 100).expect_err("of nobody").to_string();
            assert_eq!(error, "it belongs to uid 65534");
        }
    }
}
