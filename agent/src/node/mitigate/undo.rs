//! All as it was: what was switched off is switched on again, by whoever may do it.

use std::path::Path;

use agent_core::model::{BootId, GSO_OFF, Mitigation, RECEIVE, Switched, Timestamp};
use tracing::info;

use super::state::{self, Changed, Content, Locked};
use super::{Devices, Error};

/// What became of one device at an undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// They are on again.
    Restored,
    /// Somebody else had switched them on.
    WereOn,
    /// The device is not there any more, or is another one.
    Gone,
    /// The kernel refused it; it is still to be undone.
    Refused,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Restored => "on again",
            Self::WereOn => "somebody had switched them on already",
            Self::Gone => "the device is not there any more",
            Self::Refused => "the kernel refused it",
        })
    }
}

/// Switches on what was switched off, in the opposite order, and forgets what worked.
pub(super) fn restore<D: Devices>(
    devices: &mut D,
    content: &mut Content,
    mut on_each: impl FnMut(&Switched, Outcome),
) -> Option<Error> {
    let mut first_error = None;
    let mut left = Vec::new();
    for changed in std::mem::take(&mut content.changed).into_iter().rev() {
        match restore_one(devices, &changed) {
            Ok(outcome) => {
                if !changed.what.features.is_empty() {
                    on_each(&changed.what, outcome);
                }
            }
            Err(error) => {
                on_each(&changed.what, Outcome::Refused);
                first_error = first_error.or(Some(error));
                left.insert(0, changed);
            }
        }
    }
    content.changed = left;
    first_error
}

fn restore_one<D: Devices>(devices: &mut D, changed: &Changed) -> Result<Outcome, Error> {
    let name = &changed.what.device;
    let device = devices.find(name).filter(|d| d.index == changed.index);
    let Some(device) = device else {
        return Ok(Outcome::Gone);
    };
    let now = devices.features(&device).map_err(|source| Error::Unread {
        device: name.clone(),
        source,
    })?;
    let mut off = changed.what.clone();
    off.features.retain(|feature| !now.active.contains(feature));
    if off.features.is_empty() {
        return Ok(Outcome::WereOn);
    }
    // What sends first: see `Mitigator::switch_off`.
    for is_receive in [false, true] {
        let mut features = off.features.clone();
        features.retain(|feature| RECEIVE.contains(&feature.as_str()) == is_receive);
        if features.is_empty() {
            continue;
        }
        let switched = devices.switch(&device, &features, true);
        switched.map_err(|source| Error::Refused {
            device: name.clone(),
            features: off.names(),
            to: "on",
            source,
        })?;
    }
    Ok(Outcome::Restored)
}

/// What was undone, device by device.
#[derive(Debug, serde::Serialize)]
pub struct Undone {
    /// What was switched off, and what became of it.
    pub devices: Vec<(Switched, Outcome)>,
    /// Why not all of it is undone.
    #[serde(skip)]
    pub problem: Option<Error>,
}

/// Undoes by hand what an agent did in this boot; `None` if none did. It is not done again
/// in this boot.
pub fn undo<D: Devices>(
    dir: &Path,
    boot: BootId,
    devices: &mut D,
    now: Timestamp,
) -> Result<Option<Undone>, Error> {
    let Some(content) = state::peek(dir) else {
        return Ok(None);
    };
    if content.boot != Some(boot) || content.cause.is_none() {
        return Ok(None);
    }
    let file = Locked::take(dir)?;
    let Some(mut content) = file.read() else {
        return Ok(None);
    };
    let mut undone = Vec::new();
    let problem = restore(devices, &mut content, |what, outcome| {
        undone.push((what.clone(), outcome));
    });
    if !content.undone {
        content.undone = true;
        content.since = now;
    }
    file.write(&content)?;
    Ok(Some(Undone {
        devices: undone,
        problem,
    }))
}

/// Undoes what an agent that was killed has left, where none is to do it any more. The
/// reason stays.
pub fn put_back<D: Devices>(dir: &Path, boot: BootId, devices: &mut D) -> Result<(), Error> {
    put_back_and(dir, boot, devices, Locked::write)
}

/// The same, and forgets the reason.
pub fn clear<D: Devices>(dir: &Path, boot: BootId, devices: &mut D) -> Result<(), Error> {
    put_back_and(dir, boot, devices, |file, _| file.remove())
}

fn put_back_and<D: Devices>(
    dir: &Path,
    boot: BootId,
    devices: &mut D,
    end: impl FnOnce(&Locked, &Content) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(content) = state::peek(dir) else {
        return Ok(());
    };
    let file = Locked::take(dir)?;
    let mut content = file.read().unwrap_or(content);
    if content.boot == Some(boot) {
        let problem = restore(devices, &mut content, |what, outcome| {
            info!(device = what.device, features = what.names(), %outcome, "of an agent before");
        });
        if let Some(error) = problem {
            file.write(&content)?;
            return Err(error);
        }
    }
    end(&file, &content)
}

/// What is on the disk of this boot, for who asks.
pub fn known(dir: &Path, boot: BootId) -> Option<Mitigation> {
    let content = state::peek(dir).filter(|content| content.boot == Some(boot))?;
    Some(Mitigation {
        action: GSO_OFF.to_owned(),
        mode: content.mode,
        state: super::state(&content, false),
        devices: content
            .changed
            .into_iter()
            .map(|c| c.what)
            .chain(content.would)
            .collect(),
        cause: content.cause,
        since: content.since,
        problem: content.problem,
    })
}
