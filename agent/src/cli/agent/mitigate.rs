//! What is done against packets that this kernel dies of, on a thread of its own: the
//! kernel may let who switches features wait, and heartbeats do not.

use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::{self, RecvTimeoutError, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use agent_common::RING_SLOTS;
use agent_core::model::{BootId, Check, Mitigation, MitigationCause, MitigationMode, is_device};
use anyhow::Context as _;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::known;
use crate::config::agent::Agent;
use crate::gasp::advice;
use crate::gasp::protocol::{Identity, KeyRing};
use crate::kernel::caps::{self, Capability};
use crate::kernel::ring::{CrashRing, Entry, Read, until_zero};
use crate::node::identity;
use crate::node::mitigate::{self, Ethtool, Mitigator, Settings};

/// Between two looks whether somebody has undone it, or a device came.
const LOOK: Duration = Duration::from_secs(10);
/// Heartbeats between two looks for uplinks: a bond may change its way.
const UPLINKS_EVERY: u32 = 10;
/// What the thread is told and has not taken yet.
const NEWS_MAX: usize = 16;
/// How long the agent's end may wait for a device.
const STOP_MAX: Duration = Duration::from_secs(5);

/// What the thread is told.
enum News {
    Uplinks(Vec<String>),
    Met(MitigationCause),
    Stop,
}

/// The thread, and what it is told of.
pub(super) struct Mitigating {
    tell: mpsc::SyncSender<News>,
    status: watch::Receiver<Mitigation>,
    thread: JoinHandle<()>,
    uplinks: Vec<String>,
    /// Heartbeats until the uplinks are asked for again.
    until_uplinks: u32,
    /// Predictions that were looked at.
    foreseen: u64,
    entry: Box<Entry>,
}

/// Takes what collectors advise.
pub(super) struct Advised(mpsc::SyncSender<News>);

impl Advised {
    /// Takes a datagram, if it is advice for this agent. What does not fit comes again
    /// with the next hello.
    pub(super) fn take(&self, datagram: &[u8], own: &Identity, keys: &KeyRing) {
        if let Some(advice) = advice::read(datagram, own, keys) {
            let _ = self.0.try_send(News::Met(advice.cause()));
        }
    }
}

impl Mitigating {
    /// Starts it, if it is wanted; else undoes what an agent that was killed has left.
    /// Before capabilities are dropped.
    pub(super) fn start(agent: &Agent, boot: BootId) -> anyhow::Result<Option<Self>> {
        let Some(wanted) = agent.mitigate else {
            clear(agent, boot);
            return Ok(None);
        };
        let ethtool = match Ethtool::open() {
            Ok(ethtool) => ethtool,
            Err(error) => {
                warn!(
                    "--mitigate does nothing: this kernel's ethtool netlink interface cannot be used: {error}"
                );
                return Ok(None);
            }
        };
        let may = caps::have(Capability::NetAdmin);
        let mode = match wanted {
            MitigationMode::Apply if !may => {
                warn!(
                    "--mitigate gso=apply needs CAP_NET_ADMIN, which is not there (on Kubernetes \
                     deploy/mitigate gives it): what to do is said, and not done"
                );
                MitigationMode::Suggest
            }
            mode => mode,
        };
        if mode != MitigationMode::Apply {
            undo(agent, boot);
        }
        let settings = Settings {
            dir: agent.state_dir.clone(),
            mode,
            boot,
            release: identity::kernel("osrelease"),
        };
        info!(mode = mode.as_str(), "mitigation of GSO bugs");
        let mut mitigator = Mitigator::begin(settings.clone(), ethtool);
        let (tell, told) = mpsc::sync_channel(NEWS_MAX);
        let (show, status) = watch::channel(mitigator.status());
        let (ready, is_ready) = mpsc::sync_channel(1);
        let keeps_all = agent.keep_capabilities;
        let thread = std::thread::Builder::new()
            .name("mitigate".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || {
                let dropped = match mode {
                    _ if keeps_all => Ok(()),
                    MitigationMode::Apply => caps::keep_only(Capability::NetAdmin),
                    _ => caps::drop_all(),
                };
                let goes_on = dropped.is_ok();
                let _ = ready.send(dropped);
                if goes_on {
                    run(&mut mitigator, &settings.release, &told, &show);
                }
            })?;
        is_ready
            .recv()
            .context("the thread that mitigates ended at once")?
            .context("cannot drop capabilities (--keep-capabilities keeps them)")?;
        Ok(Some(Self {
            tell,
            status,
            thread,
            uplinks: Vec::new(),
            until_uplinks: 0,
            foreseen: 0,
            entry: Box::default(),
        }))
    }

    /// What takes advice.
    pub(super) fn advised(&self) -> Advised {
        Advised(self.tell.clone())
    }

    /// How it stands, for the hello.
    pub(super) fn status(&self) -> Mitigation {
        self.status.borrow().clone()
    }

    /// Whether it stands differently than at the last look.
    pub(super) fn is_news(&mut self) -> bool {
        let is_news = self.status.has_changed().unwrap_or(false);
        if is_news {
            let status = self.status.borrow_and_update();
            let text = agent_core::engine::mitigation_text(&status).unwrap_or_default();
            info!(state = status.state.as_str(), "mitigation: {text}");
        }
        is_news
    }

    /// Asks now and then which devices the node is reached by.
    pub(super) fn look_for_uplinks(&mut self, uplinks: impl FnOnce() -> Vec<String>) {
        if self.until_uplinks > 0 {
            self.until_uplinks -= 1;
            return;
        }
        let names = uplinks();
        self.until_uplinks = if names.is_empty() { 0 } else { UPLINKS_EVERY };
        if names != self.uplinks && self.tell.try_send(News::Uplinks(names.clone())).is_ok() {
            self.uplinks = names;
        }
    }

    /// So many packets were foreseen to stop this kernel, and it lives. Nothing is done as
    /// long as it may be dying.
    pub(super) fn foresee(&mut self, foreseen: u64, ring: &CrashRing) {
        if foreseen <= self.foreseen || ring.declared().is_some() {
            return;
        }
        if self.status.borrow().cause.is_some() {
            self.foreseen = foreseen;
            return;
        }
        let cause = self.newest_packet(ring);
        match self.tell.try_send(News::Met(cause)) {
            Err(TrySendError::Full(_)) => {}
            Ok(()) | Err(TrySendError::Disconnected(_)) => self.foreseen = foreseen,
        }
    }

    /// The packet that was told last; its device, if this node has it itself.
    fn newest_packet(&mut self, ring: &CrashRing) -> MitigationCause {
        let head = ring.head();
        for seq in (head.saturating_sub(RING_SLOTS.into())..head).rev() {
            if ring.read(seq, &mut self.entry) != Read::Entry {
                continue;
            }
            let Some(packet) = self.entry.packet() else {
                continue;
            };
            let name = String::from_utf8_lossy(until_zero(&packet.device)).into_owned();
            let check = Check::from_wire(packet.check).map_or("a check", Check::condition);
            let is_own = own_netns() == Some(packet.netns);
            return MitigationCause {
                packet: Some(format!("{check} of skb_segment, leaving by {name}")),
                device: Some(name).filter(|name| is_own && is_device(name)),
                ..MitigationCause::default()
            };
        }
        MitigationCause {
            packet: Some("which one is not in the ring any more".to_owned()),
            ..MitigationCause::default()
        }
    }

    /// Undoes it, and gives how it stands then. A device that does not answer is left.
    pub(super) fn stop(self) -> Mitigation {
        // The queue is shorter than what it takes to empty it, unless the kernel makes the
        // thread wait; then nothing can be undone either.
        let end = std::time::Instant::now() + STOP_MAX;
        let mut stop = News::Stop;
        while let Err(TrySendError::Full(again)) = self.tell.try_send(stop) {
            if std::time::Instant::now() >= end {
                break;
            }
            stop = again;
            std::thread::sleep(Duration::from_millis(20));
        }
        while !self.thread.is_finished() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !self.thread.is_finished() {
            warn!("GRO and GSO may still be off: the kernel lets who switches them on wait");
        }
        self.status.borrow().clone()
    }
}

fn run<D: mitigate::Devices>(
    mitigator: &mut Mitigator<D>,
    release: &str,
    told: &mpsc::Receiver<News>,
    show: &watch::Sender<Mitigation>,
) {
    loop {
        let is_over = match told.recv_timeout(LOOK) {
            Ok(News::Uplinks(names)) => {
                mitigator.set_uplinks(names);
                false
            }
            Ok(News::Met(cause)) => {
                if is_vulnerable(&cause, release) {
                    mitigator.met(cause, identity::now());
                }
                false
            }
            Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        };
        if is_over {
            mitigator.stop();
        } else {
            mitigator.turn(identity::now());
        }
        let status = mitigator.status();
        show.send_if_modified(|shown| {
            let is_new = *shown != status;
            *shown = status;
            is_new
        });
        if is_over {
            return;
        }
    }
}

/// Of a death the annotator has judged that; a packet alone may be one that a kernel
/// with all fixes takes.
fn is_vulnerable(cause: &MitigationCause, release: &str) -> bool {
    let version = identity::kernel("version");
    let is = cause.death.is_some() || known::may_have_gso_bug(release, Some(&version));
    if !is {
        warn!(
            release,
            "a packet was foreseen to stop this kernel, which has the fix of every known bug: nothing is done"
        );
    }
    is
}

/// The number of this process's network namespace, as the kernel gives it with a packet.
fn own_netns() -> Option<u32> {
    let file = std::fs::metadata("/proc/self/ns/net").ok()?;
    u32::try_from(file.ino()).ok()
}

/// Undoes what an agent left that was killed, and forgets why.
fn clear(agent: &Agent, boot: BootId) {
    if mitigate::known(&agent.state_dir, boot).is_none() {
        return;
    }
    let cleared = Ethtool::open()
        .map_err(anyhow::Error::from)
        .and_then(|mut devices| Ok(mitigate::clear(&agent.state_dir, boot, &mut devices)?));
    if let Err(error) = cleared {
        warn!("what an agent before this one switched off stays off: {error:#}");
    }
}

/// The same where the reason still counts.
fn undo(agent: &Agent, boot: BootId) {
    let known = mitigate::known(&agent.state_dir, boot);
    if known.is_none_or(|known| known.devices.is_empty()) {
        return;
    }
    let undone = Ethtool::open()
        .map_err(anyhow::Error::from)
        .and_then(|mut devices| Ok(mitigate::put_back(&agent.state_dir, boot, &mut devices)?));
    if let Err(error) = undone {
        warn!("what an agent before this one switched off stays off: {error:#}");
    }
}
