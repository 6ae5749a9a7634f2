//! GRO and GSO off, where this kernel dies of what they make: decided, done, kept in the
//! state directory, undone.
//!
//! What is changed is on the disk before it is changed. So whoever comes next, an agent
//! that starts again or `lastgasp mitigate undo`, knows what was on before; what somebody
//! else has switched on meanwhile is left as it is.

mod ethtool;
mod state;
mod undo;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use agent_core::model::{
    BootId, GSO_OFF, Mitigation, MitigationCause, MitigationMode, MitigationState, RECEIVE, SEND,
    Switched, Timestamp,
};
use tracing::{info, warn};

pub use self::ethtool::Ethtool;
use self::state::{Changed, Content, DEVICES_MAX, Locked, Resumed, resume};
use self::undo::restore;
pub use self::undo::{Outcome, Undone, clear, known, put_back, undo};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without a record nothing is changed.
    #[error(
        "cannot keep {path}, and without it nothing could be undone; set --state-dir to a directory that can be written"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not do it.
    #[error("cannot switch {features} of {device} {to}{}", way_out(source))]
    Refused {
        /// The device.
        device: String,
        /// What was to be switched.
        features: String,
        /// `on` or `off`.
        to: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not say what is on.
    #[error("cannot read the features of {device}")]
    Unread {
        /// The device.
        device: String,
        /// Why not.
        source: io::Error,
    },
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": it needs CAP_NET_ADMIN (on Kubernetes deploy/mitigate gives it)"
        }
        _ => "",
    }
}

/// A network device. Its index is its own as long as it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
}

/// What a device can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// What is on.
    pub active: BTreeSet<String>,
    /// What can be switched at all.
    pub changeable: BTreeSet<String>,
}

/// The kernel's devices.
pub trait Devices {
    /// The device of this name, if there is one.
    fn find(&self, name: &str) -> Option<Device>;
    /// What it can do.
    fn features(&mut self, device: &Device) -> io::Result<Features>;
    /// Switches features.
    fn switch(&mut self, device: &Device, features: &[String], on: bool) -> io::Result<()>;
}

/// A device that is meant, and whether for what comes, for what leaves, or for both.
#[derive(Clone, Debug, PartialEq)]
struct Target {
    device: Device,
    receives: bool,
    sends: bool,
}

/// GRO is for the uplinks. GSO is for the device that the packet left by; where that is
/// not known, or is not this node's, for the uplinks too.
fn targets(uplinks: Vec<Device>, left_by: Option<Device>) -> Vec<Target> {
    let mut targets: Vec<Target> = uplinks
        .into_iter()
        .map(|device| Target {
            sends: left_by.as_ref().is_none_or(|left_by| *left_by == device),
            receives: true,
            device,
        })
        .collect();
    if let Some(device) = left_by
        && !targets.is_empty()
        && targets.iter().all(|target| target.device != device)
    {
        targets.push(Target {
            device,
            receives: false,
            sends: true,
        });
    }
    targets
}

/// What of a target is on, and can be switched off.
fn to_switch(target: &Target, features: &Features) -> Vec<String> {
    let receive = RECEIVE.iter().filter(|_| target.receives);
    let wanted = receive.chain(SEND.iter().filter(|_| target.sends));
    wanted
        .filter(|name| features.active.contains(**name) && features.changeable.contains(**name))
        .map(|name| (*name).to_owned())
        .collect()
}

/// How it stands.
fn state(content: &Content, has_problem: bool) -> MitigationState {
    let has_problem = has_problem || content.problem.is_some();
    let mode = content.mode;
    match mode {
        _ if content.cause.is_none() => MitigationState::Ready,
        _ if content.undone => MitigationState::Undone,
        MitigationMode::Observe | MitigationMode::Suggest if content.would.is_empty() => {
            MitigationState::Pending
        }
        MitigationMode::Observe => MitigationState::Observed,
        MitigationMode::Suggest => MitigationState::Suggested,
        MitigationMode::Apply | MitigationMode::Unknown if has_problem => MitigationState::Failed,
        MitigationMode::Apply | MitigationMode::Unknown if content.changed.is_empty() => {
            MitigationState::Pending
        }
        MitigationMode::Apply | MitigationMode::Unknown => MitigationState::Applied,
    }
}

/// Where, how far, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What outlives the boot.
    pub dir: PathBuf,
    /// How far it may go.
    pub mode: MitigationMode,
    /// This boot.
    pub boot: BootId,
    /// Its kernel.
    pub release: String,
}

/// The mitigation of this boot.
pub struct Mitigator<D> {
    settings: Settings,
    devices: D,
    content: Content,
    /// Names of the lowest devices that this node is reached by.
    uplinks: Vec<String>,
    /// Devices that are done with, well or not: what somebody switches on again after
    /// that is meant so.
    tried: Vec<Device>,
    /// Those of them on which something is still on, and turns since that was tried.
    stuck: Vec<Device>,
    turns: u32,
    problem: Option<String>,
}

/// After so many turns what could not be done is tried again.
const TRY_AGAIN: u32 = 30;

impl<D: Devices> Mitigator<D> {
    /// Takes up what is known, and says what of it does not hold any more.
    pub fn begin(settings: Settings, devices: D) -> Self {
        let mut mitigator = Self {
            settings,
            devices,
            content: Content::default(),
            uplinks: Vec::new(),
            tried: Vec::new(),
            stuck: Vec::new(),
            turns: 0,
            problem: None,
        };
        let Settings {
            dir, boot, release, ..
        } = &mitigator.settings;
        let (content, resumed) = resume(state::peek(dir), *boot, release);
        match resumed {
            Resumed::Nothing => {}
            Resumed::Holds => info!(cause = ?content.cause, "the reason to mitigate still holds"),
            Resumed::OtherKernel(old) => info!(
                old,
                new = release,
                "this is another kernel: GRO and GSO stay as they are"
            ),
            Resumed::WasUndone => {
                info!("GRO and GSO stay as they are: it was undone by hand in an earlier boot");
            }
        }
        mitigator.content = content;
        mitigator.content.mode = mitigator.settings.mode;
        let kept = mitigator.update(|mitigator, _| {
            mitigator.content.mode = mitigator.settings.mode;
            if mitigator.content.problem.take().is_none() {
                let done = mitigator.content.changed.iter();
                mitigator.tried = done.map(Changed::device).collect();
            }
            Ok(())
        });
        mitigator.note(kept);
        mitigator
    }

    /// Takes in a reason. The first one counts, and none after it was undone by hand.
    pub fn met(&mut self, cause: MitigationCause, now: Timestamp) {
        let kept = self.update(|mitigator, _| {
            let content = &mut mitigator.content;
            if content.cause.is_none() && !content.undone {
                warn!(?cause, "a reason to switch GRO and GSO off");
                content.cause = Some(cause);
                content.since = now;
            }
            Ok(())
        });
        self.note(kept);
    }

    /// These are the devices that the node is reached by.
    pub fn set_uplinks(&mut self, mut names: Vec<String>) {
        names.sort();
        names.dedup();
        self.uplinks = names;
    }

    /// Does what is left to be done. To be called now and then: a device may come, and
    /// somebody may have undone it.
    pub fn turn(&mut self, now: Timestamp) {
        if !self.is_something() {
            return;
        }
        let done = self.update(|mitigator, file| mitigator.go_on(file, now));
        self.note(done);
    }

    /// Reads the file, does something, and writes it if that changed anything.
    fn update(
        &mut self,
        act: impl FnOnce(&mut Self, &Locked) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let file = Locked::take(&self.settings.dir)?;
        let before = file.read();
        // Somebody else may have undone it meanwhile.
        if let Some(content) = before
            .clone()
            .filter(|c| c.boot == Some(self.settings.boot))
        {
            self.content = content;
        }
        let acted = act(self, &file);
        if before.as_ref() != Some(&self.content) && (before.is_some() || self.is_something()) {
            file.write(&self.content)?;
        }
        acted
    }

    /// A file is made once there is something to keep.
    fn is_something(&self) -> bool {
        self.content.cause.is_some() || !self.content.changed.is_empty()
    }

    fn go_on(&mut self, file: &Locked, now: Timestamp) -> Result<(), Error> {
        let would = std::mem::take(&mut self.content.would);
        if self.content.undone {
            // Whoever undid it may not have been allowed to.
            return self.restore("by hand").map_or(Ok(()), Err);
        }
        let Some(cause) = self.content.cause.clone() else {
            return Ok(());
        };
        let find = |name: &String| self.devices.find(name);
        let uplinks = self.uplinks.iter().filter_map(find).collect();
        let left_by = cause.device.as_ref().and_then(find);
        self.turns = self.turns.saturating_add(1);
        if self.turns >= TRY_AGAIN {
            self.tried.retain(|device| !self.stuck.contains(device));
            self.stuck.clear();
        }
        let mut targets = targets(uplinks, left_by);
        targets.retain(|target| !self.tried.contains(&target.device));
        let mut plan = Vec::new();
        for target in targets {
            let features = self.features(&target.device)?;
            let what = Switched {
                device: target.device.name.clone(),
                features: to_switch(&target, &features),
            };
            plan.push((target.device, what));
        }
        if self.settings.mode != MitigationMode::Apply {
            // What was said stays: a device that went may come back.
            self.content.would = match plan.len() {
                0 => would,
                _ => plan
                    .into_iter()
                    .map(|(_, what)| what)
                    .take(DEVICES_MAX)
                    .collect(),
            };
            return Ok(());
        }
        plan.truncate(DEVICES_MAX.saturating_sub(self.content.changed.len()));
        if plan.is_empty() {
            return Ok(());
        }
        let before = self.content.clone();
        self.content.since = now;
        for (device, what) in &plan {
            self.content.add(device.index, what);
        }
        // First on the disk: what is done and not known could not be undone.
        if let Err(error) = file.write(&self.content) {
            self.content = before;
            return Err(error);
        }
        let refused = self.switch_off(&plan);
        let still_on = self.look_after(&plan);
        self.forget_what_stayed_on();
        self.tried
            .extend(plan.into_iter().map(|(device, _)| device));
        self.turns = 0;
        if self.stuck.is_empty() {
            self.content.problem = None;
        } else if let Some(error) = refused.or(still_on) {
            let why = with_cause(&error);
            warn!("GRO and GSO: {why}");
            self.content.problem = Some(why);
        }
        Ok(())
    }

    fn restore(&mut self, why: &str) -> Option<Error> {
        restore(&mut self.devices, &mut self.content, |what, outcome| {
            info!(device = what.device, features = what.names(), %outcome, "undone {why}");
        })
    }

    fn features(&mut self, device: &Device) -> Result<Features, Error> {
        let read = self.devices.features(device);
        read.map_err(|source| Error::Unread {
            device: device.name.clone(),
            source,
        })
    }

    /// Whether all is off now: a driver may keep something on without a word.
    fn look_after(&mut self, plan: &[(Device, Switched)]) -> Option<Error> {
        let mut first_error = None;
        for (device, what) in plan {
            let error = match self.features(device) {
                Ok(now) => {
                    let mut on = what.clone();
                    on.features.retain(|feature| now.active.contains(feature));
                    (!on.features.is_empty()).then(|| Error::Refused {
                        device: on.device.clone(),
                        features: on.names(),
                        to: "off",
                        source: io::Error::other("its driver keeps that on"),
                    })
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.stuck.push(device.clone());
                first_error.get_or_insert(error);
            }
        }
        first_error
    }

    /// Only what is off is to be undone.
    fn forget_what_stayed_on(&mut self) {
        for changed in &mut self.content.changed {
            if let Ok(now) = self.devices.features(&changed.device()) {
                let features = &mut changed.what.features;
                features.retain(|feature| !now.active.contains(feature));
            }
        }
    }

    /// First what puts packets together: what leaves in pieces that are already too long
    /// has to be taken apart by the kernel, and that is what it may die of.
    fn switch_off(&mut self, plan: &[(Device, Switched)]) -> Option<Error> {
        let mut first_error = None;
        for is_receive in [true, false] {
            for (device, what) in plan {
                let mut features = what.features.clone();
                features.retain(|name| RECEIVE.contains(&name.as_str()) == is_receive);
                if features.is_empty() {
                    continue;
                }
                let switched = self.devices.switch(device, &features, false);
                let names = Switched {
                    device: device.name.clone(),
                    features,
                };
                let features = names.names();
                match switched {
                    Ok(()) => info!(device = device.name, features, "switched off"),
                    Err(source) => {
                        first_error.get_or_insert(Error::Refused {
                            device: names.device,
                            features,
                            to: "off",
                            source,
                        });
                    }
                }
            }
        }
        first_error
    }

    /// Says once what does not work.
    fn note(&mut self, result: Result<(), Error>) {
        let problem = result.err().map(|e| with_cause(&e));
        if let Some(why) = problem.as_ref().filter(|_| problem != self.problem) {
            warn!("GRO and GSO: {why}");
        }
        self.problem = problem;
    }

    /// How it stands.
    pub fn status(&self) -> Mitigation {
        let Content {
            cause,
            since,
            changed,
            would,
            problem,
            ..
        } = &self.content;
        let done = changed.iter().map(|c| &c.what);
        Mitigation {
            action: GSO_OFF.to_owned(),
            mode: self.settings.mode,
            state: state(&self.content, self.problem.is_some()),
            devices: done.chain(would).cloned().collect(),
            cause: cause.clone(),
            since: *since,
            problem: self.problem.as_ref().or(problem.as_ref()).cloned(),
        }
    }

    /// The agent stops in an orderly way, or may not do it any more: all is as it was.
    /// The reason stays, for the agent that starts next.
    pub fn stop(&mut self) {
        let stopped =
            self.update(|mitigator, _| mitigator.restore("at the stop").map_or(Ok(()), Err));
        self.note(stopped);
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
