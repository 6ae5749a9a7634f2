//! What one boot leaves on the disk for the next: which boot it was, and
//! whether its agent was told to stop. A marker that cannot be kept up to date
//! is taken away: none is better than an old one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use agent_core::model::{BootId, PreviousBoot, Timestamp};
use serde::{Deserialize, Serialize};

use super::disk;

/// Longest marker that is read, in bytes.
const LEN_MAX: u64 = 4096;

/// The file's content.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    /// The boot it was written in, and whether the agent was told to stop.
    this: PreviousBoot,
    /// When that boot began, by its wall clock; older versions do not say.
    #[serde(default)]
    began: Timestamp,
    /// The one before, for an agent that starts again in the same boot.
    previous: Option<PreviousBoot>,
    /// When that one began.
    #[serde(default)]
    previous_began: Timestamp,
}

/// The boot before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Which it was.
    pub boot: BootId,
    /// When it began, by its wall clock.
    pub began: Timestamp,
}

/// This boot's marker.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    content: Content,
}

/// Why there is no marker of this boot.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot keep {path}: the next boot will not know how this one ended; set --state-dir to a directory that outlives it"
)]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Marker {
    /// Reads what the boot before has left in `dir`, made if it is not there,
    /// and leaves this boot's marker in its place; it began at `began`. The
    /// second is why the next boot will find none.
    pub fn begin(dir: &Path, boot: BootId, began: Timestamp) -> (Self, Option<Error>) {
        let path = dir.join("boot.json");
        let (previous, previous_began) = match read(&path) {
            Some(old) if old.this.boot == boot => (old.previous, old.previous_began),
            Some(old) => (Some(old.this), old.began),
            None => (None, Timestamp::default()),
        };
        let this = PreviousBoot {
            boot,
            stopped: false,
        };
        let content = Content {
            this,
            began,
            previous,
            previous_began,
        };
        let marker = Self { path, content };
        let made = fs::create_dir_all(dir);
        let error = made.and_then(|()| marker.write()).err();
        let error = error.map(|source| marker.give_up(source));
        (marker, error)
    }

    /// The boot before this one, if it left a marker.
    pub fn previous(&self) -> Option<&PreviousBoot> {
        self.content.previous.as_ref()
    }

    /// Which boot that was, and when it began, if it said so.
    pub fn before(&self) -> Option<Before> {
        let content = &self.content;
        let boot = content.previous.as_ref()?.boot;
        let began = content.previous_began;
        (began.0 > 0).then_some(Before { boot, began })
    }

    /// The agent was told to stop: silence from now on means nothing.
    pub fn stop(mut self) -> Result<(), Error> {
        self.content.this.stopped = true;
        self.write().map_err(|source| self.give_up(source))
    }

    /// Puts it on the disk, whole or not at all.
    fn write(&self) -> io::Result<()> {
        disk::replace(&self.path, &serde_json::to_vec(&self.content)?)
    }

    /// What is there now is not true any more. A full disk lets go of files.
    fn give_up(&self, source: io::Error) -> Error {
        let _ = fs::remove_file(&self.path);
        Error {
            path: self.path.clone(),
            source,
        }
    }
}

fn read(path: &Path) -> Option<Content> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(LEN_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BootId = BootId([1; 16]);
    const B: BootId = BootId([2; 16]);

    fn begin(dir: &Path, boot: BootId) -> (Marker, Option<PreviousBoot>) {
        let began = Timestamp(u64::from(boot.0[0]) * 1_000);
        let (marker, error) = Marker::begin(dir, boot, began);
        assert!(error.is_none(), "{error:?}");
        let previous = marker.previous().cloned();
        (marker, previous)
    }

    fn left(boot: BootId, stopped: bool) -> PreviousBoot {
        PreviousBoot { boot, stopped }
    }

    #[test]
    fn the_next_boot_knows_whether_this_one_was_told_to_stop() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = &dir.path().join("made/by/us");
        assert_eq!(begin(dir, A).1, None);
        // Without a stop: the machine went from under it.
        let (marker, previous) = begin(dir, B);
        assert_eq!(previous, Some(left(A, false)));
        marker.stop().expect("a disk");
        assert_eq!(begin(dir, A).1, Some(left(B, true)));
    }

    #[test]
    fn an_agent_that_starts_again_still_knows_the_boot_before() {
        let dir = tempfile::tempdir().expect("temporary directory");
        begin(dir.path(), A);
        let (marker, _) = begin(dir.path(), B);
        marker.stop().expect("a disk");
        // It runs again, so the end of this boot is open again.
        assert_eq!(begin(dir.path(), B).1, Some(left(A, false)));
        assert_eq!(begin(dir.path(), A).1, Some(left(B, false)));
    }

    #[test]
    fn a_boot_knows_when_the_one_before_it_began() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(begin(dir.path(), A).0.before(), None);
        let before = Before {
            boot: A,
            began: Timestamp(1_000),
        };
        for _ in 0..2 {
            assert_eq!(begin(dir.path(), B).0.before(), Some(before));
        }
        // As a version wrote it that kept no times.
        let old = serde_json::json!({ "this": left(A, false), "previous": null });
        fs::write(dir.path().join("boot.json"), old.to_string()).expect("a file");
        let (marker, previous) = begin(dir.path(), B);
        assert_eq!((previous, marker.before()), (Some(left(A, false)), None));
    }

    #[test]
    fn what_is_no_marker_says_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("boot.json");
        for bytes in [&b""[..], b"{}", b"\xff", &[b'['; 10_000]] {
            fs::write(&path, bytes).expect("a file");
            assert_eq!(begin(dir.path(), A).1, None);
        }
    }

    #[test]
    fn a_marker_that_cannot_be_renewed_is_taken_away() {
        let dir = tempfile::tempdir().expect("temporary directory");
        begin(dir.path(), A);
        // Where the new one would be written is a directory.
        fs::create_dir(dir.path().join("boot.new")).expect("mkdir");
        let (_, error) = Marker::begin(dir.path(), B, Timestamp(9));
        let text = error.expect("no marker").to_string();
        assert!(
            text.contains("boot.json") && text.contains("--state-dir"),
            "{text}"
        );
        assert!(!dir.path().join("boot.json").exists());
    }
}
