//! What is kept of a mitigation in the state directory: why it is, and what was switched,
//! so that whoever comes next in this boot can undo it, and the next boot knows why it was.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_core::model::{BootId, MitigationCause, MitigationMode, Switched, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Device, Error};
use crate::node::disk;

/// Longest file that is read, in bytes.
const LEN_MAX: u64 = 64 * 1024;
/// Most devices that are remembered.
pub(super) const DEVICES_MAX: usize = 64;
/// How long somebody else may have it: the agent, or `lastgasp mitigate undo`.
const LOCKED: (u32, Duration) = (100, Duration::from_millis(100));

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Content {
    /// The boot that it was written in.
    pub(super) boot: Option<BootId>,
    /// Its kernel.
    pub(super) kernel_release: String,
    /// Why; none if there is no reason.
    pub(super) cause: Option<MitigationCause>,
    /// Since when it stands as it does.
    pub(super) since: Timestamp,
    /// What was on, and was switched off. Devices of which nothing was on are here too:
    /// they have been looked at.
    pub(super) changed: Vec<Changed>,
    /// Without consent to do it: what would be switched off, for who asks.
    pub(super) would: Vec<Switched>,
    /// Undone by hand in this boot.
    pub(super) undone: bool,
    /// How far the agent may go, for who asks.
    pub(super) mode: MitigationMode,
    /// What could not be done.
    pub(super) problem: Option<String>,
}

/// What was done to one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Changed {
    /// Its index: another device may get the name.
    pub(super) index: u32,
    /// Its name, and the features that were on before.
    #[serde(flatten)]
    pub(super) what: Switched,
}

impl Changed {
    /// The device that it is about.
    pub(super) fn device(&self) -> Device {
        Device {
            name: self.what.device.clone(),
            index: self.index,
        }
    }
}

impl Content {
    /// Notes that these features of a device were on, beside what is noted of it already.
    pub(super) fn add(&mut self, index: u32, what: &Switched) {
        let same = |c: &&mut Changed| c.index == index && c.what.device == what.device;
        let Some(known) = self.changed.iter_mut().find(same) else {
            let what = what.clone();
            self.changed.push(Changed { index, what });
            return;
        };
        for feature in &what.features {
            if !known.what.features.contains(feature) {
                known.what.features.push(feature.clone());
            }
        }
    }
}

/// What became of an earlier boot's reason.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resumed {
    /// There was none.
    Nothing,
    /// It still holds: an agent that starts again, or a boot of the same kernel.
    Holds,
    /// It was about another kernel.
    OtherKernel(String),
    /// It was undone by hand in an earlier boot.
    WasUndone,
}

/// What of the file is still true in this boot of this kernel.
pub(super) fn resume(old: Option<Content>, boot: BootId, release: &str) -> (Content, Resumed) {
    let mut new = Content {
        boot: Some(boot),
        kernel_release: release.to_owned(),
        ..Content::default()
    };
    let Some(old) = old else {
        return (new, Resumed::Nothing);
    };
    if old.boot == Some(boot) {
        let resumed = match old.cause {
            Some(_) => Resumed::Holds,
            None => Resumed::Nothing,
        };
        return (old, resumed);
    }
    // Features are gone with the boot; only the reason may hold.
    let resumed = match old.cause {
        None => Resumed::Nothing,
        Some(_) if old.undone => Resumed::WasUndone,
        Some(_) if old.kernel_release != release => Resumed::OtherKernel(old.kernel_release),
        Some(cause) => {
            new.cause = Some(cause);
            new.since = old.since;
            Resumed::Holds
        }
    };
    (new, resumed)
}

/// The file, while nobody else has it.
pub(super) struct Locked {
    path: PathBuf,
    _lock: File,
}

impl Locked {
    /// Waits for whoever has it, ten seconds at most.
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("mitigate.json");
        let failed = |source| Error::State {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        // Not cut: that alone would be a write to the disk each time.
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(dir.join("mitigate.lock"))
            .map_err(failed)?;
        for _ in 0..LOCKED.0 {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCKED.1),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Err(failed(io::Error::new(
            io::ErrorKind::TimedOut,
            "somebody else has had it locked for ten seconds",
        )))
    }

    /// What it holds; nothing if it is not there, torn, or none of ours.
    pub(super) fn read(&self) -> Option<Content> {
        read(&self.path)
    }

    /// Puts it on the disk, whole or not at all.
    pub(super) fn write(&self, content: &Content) -> Result<(), Error> {
        let failed = |source| Error::State {
            path: self.path.clone(),
            source,
        };
        let bytes = serde_json::to_vec(content).map_err(|e| failed(e.into()))?;
        disk::replace(&self.path, &bytes).map_err(failed)
    }

    /// Takes the file away.
    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::State {
                path: self.path.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

/// What the file in this directory holds, whoever has it.
pub(super) fn peek(dir: &Path) -> Option<Content> {
    read(&dir.join("mitigate.json"))
}

fn read(path: &Path) -> Option<Content> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(LEN_MAX).read_to_end(&mut bytes).ok()?;
    let mut content: Content = serde_json::from_slice(&bytes).ok()?;
    content.changed.truncate(DEVICES_MAX);
    content.would.truncate(DEVICES_MAX);
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BootId = BootId([1; 16]);
    const B: BootId = BootId([2; 16]);

    fn written(boot: BootId, undone: bool) -> Content {
        Content {
            boot: Some(boot),
            kernel_release: "6.1.1".into(),
            cause: Some(MitigationCause {
                death: Some("w01-00000001".into()),
                bug: Some("cve-2024-42281".into()),
                ..MitigationCause::default()
            }),
            since: Timestamp(7),
            changed: vec![Changed {
                index: 2,
                what: Switched {
                    device: "eth0".into(),
                    features: vec!["rx-gro".into()],
                },
            }],
            would: Vec::new(),
            undone,
            mode: MitigationMode::Apply,
            problem: None,
        }
    }

    #[test]
    fn a_reason_holds_for_the_kernel_and_what_was_switched_for_the_boot() {
        let other = Resumed::OtherKernel("6.1.1".to_owned());
        for (undone, boot, release, expected) in [
            (false, A, "6.1.1", Resumed::Holds),
            (true, A, "6.1.1", Resumed::Holds),
            (false, B, "6.1.1", Resumed::Holds),
            (false, B, "6.1.103", other),
            (true, B, "6.1.1", Resumed::WasUndone),
            (true, B, "6.1.103", Resumed::WasUndone),
        ] {
            let (content, resumed) = resume(Some(written(A, undone)), boot, release);
            assert_eq!(resumed, expected, "{undone} {boot} {release}");
            assert_eq!(content.cause.is_some(), expected == Resumed::Holds);
            assert_eq!(content.changed.is_empty(), boot != A);
            assert_eq!(content.undone, undone && boot == A);
            assert_eq!(content.boot, Some(boot));
        }
        assert_eq!(resume(None, A, "6.1.1").1, Resumed::Nothing);
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_by_a_newer_version_too() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = &dir.path().join("made/by/us");
        let file = Locked::take(dir).expect("nobody else has it");
        assert_eq!(file.read(), None);
        file.write(&written(A, false)).expect("a disk");
        assert_eq!(file.read(), Some(written(A, false)));
        let path = dir.join("mitigate.json");
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        json["new"] = 1.into();
        json["changed"][0]["new"] = 1.into();
        fs::write(&path, json.to_string()).expect("a file");
        assert_eq!(peek(dir), Some(written(A, false)));
    }

    #[test]
    fn what_is_torn_or_not_ours_is_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("mitigate.json");
        let whole = serde_json::to_vec(&written(A, true)).expect("JSON");
        for bytes in [
            &b""[..],
            b"\xff",
            b"[1]",
            &whole[..whole.len() - 1],
            &vec![b'['; 200_000],
        ] {
            fs::write(&path, bytes).expect("a file");
            assert_eq!(peek(dir.path()), None);
        }
        // Whatever it is, it is no boot of ours.
        fs::write(&path, "{}").expect("a file");
        let (content, resumed) = resume(peek(dir.path()), A, "6.1.1");
        assert_eq!((content.boot, resumed), (Some(A), Resumed::Nothing));
    }

    #[test]
    fn two_do_not_write_at_the_same_time() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = Locked::take(dir.path()).expect("nobody else has it");
        let other = dir.path().to_owned();
        let second = std::thread::spawn(move || {
            let file = Locked::take(&other).expect("given back");
            file.read().is_some()
        });
        std::thread::sleep(Duration::from_millis(150));
        first.write(&written(A, false)).expect("a disk");
        drop(first);
        assert!(second.join().expect("no panic"), "it did not wait");
    }
}
