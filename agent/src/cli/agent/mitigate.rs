//! What is done against packets that this kernel dies of, on a thread of its own: the
//! kernel may let who switches features wait, and heartbeats do not.

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
use crate::node::netns;

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
            let is_own = netns::own() == Some(packet.netns);
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::mem::offset_of;
    use std::os::unix::fs::FileExt as _;
    use std::time::Instant;

    use agent_common::segment::{Packet, check};
    use agent_common::{Control, DETAIL_PACKET, KIND_MARK, Slot};
    use agent_core::model::MitigationState;

    use super::*;
    use crate::config::agent::Low;
    use crate::node::mitigate::Devices as _;

    const BOOT: BootId = BootId([1; 16]);

    fn agent(dir: &std::path::Path, mode: &str) -> Agent {
        let low = Low {
            collector: Some(vec!["10.0.0.5:9618".to_owned()]),
            key_file: Some("key".into()),
            state_dir: Some(dir.to_owned()),
            mitigate: Some(mode.to_owned()),
            ..Low::default()
        };
        low.check().expect("valid")
    }

    /// A ring whose only entry is a packet that left by `out0`; and where it is said that
    /// something dies.
    fn ring(netns: u32) -> (CrashRing, File) {
        let file = |len: usize| {
            let file = tempfile::tempfile().expect("a temporary file");
            file.set_len(len as u64).expect("room for it");
            file
        };
        let control = file(4096);
        let slots = file(RING_SLOTS as usize * size_of::<Slot>());
        let text = offset_of!(Slot, text);
        let write = |at: usize, bytes: &[u8]| {
            slots.write_all_at(bytes, at as u64).expect("a slot");
        };
        write(offset_of!(Slot, published), &1_u64.to_le_bytes());
        write(offset_of!(Slot, kind), &KIND_MARK.to_le_bytes());
        write(offset_of!(Slot, detail), &DETAIL_PACKET.to_le_bytes());
        write(text + offset_of!(Packet, check), &[check::NOT_IN_A_PAGE]);
        write(text + offset_of!(Packet, netns), &netns.to_le_bytes());
        write(text + offset_of!(Packet, device), b"out0");
        let ring = CrashRing::map(&control, &slots).expect("two mappings");
        (ring, control)
    }

    fn control(file: &File, at: usize, value: u64) {
        let bytes = value.to_le_bytes();
        file.write_all_at(&bytes, at as u64)
            .expect("the control page");
    }

    /// Waits until it stands so.
    fn standing(mitigating: &mut Mitigating, state: MitigationState) -> Mitigation {
        let end = Instant::now() + Duration::from_secs(30);
        while mitigating.status().state != state {
            assert!(Instant::now() < end, "{:?}", mitigating.status());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(mitigating.is_news(), "the next hello says so");
        mitigating.status()
    }

    #[test]
    fn a_packet_that_was_survived_is_a_reason_and_one_that_may_kill_is_none_yet() {
        let own = netns::own().expect("a network namespace");
        for (netns, device) in [(own, Some("out0")), (own.wrapping_add(1), None)] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let agent = agent(dir.path(), "gso=observe");
            let started = Mitigating::start(&agent, BOOT).expect("it starts");
            let Some(mut mitigating) = started else {
                println!("SKIPPED: a kernel without ethtool's netlink interface");
                return;
            };
            assert_eq!(mitigating.status().state, MitigationState::Ready);
            let (ring, page) = ring(netns);
            control(&page, offset_of!(Control, head), 1);
            mitigating.foresee(0, &ring);
            control(&page, offset_of!(Control, declared), 1);
            mitigating.foresee(1, &ring);
            assert_eq!(mitigating.foreseen, 0, "it may be dying");
            control(&page, offset_of!(Control, declared), 0);
            mitigating.foresee(1, &ring);
            mitigating.look_for_uplinks(|| vec!["lo".to_owned()]);
            let status = if known::may_have_gso_bug(&identity::kernel("osrelease"), None) {
                standing(&mut mitigating, MitigationState::Observed)
            } else {
                return;
            };
            let cause = status.cause.expect("a reason");
            assert_eq!(cause.device.as_deref(), device);
            let packet = cause.packet.expect("the packet");
            assert!(
                packet.contains("head_frag") && packet.contains("out0"),
                "{packet}"
            );
            // Once there is a reason, nobody reads the ring again.
            mitigating.foresee(9, &ring);
            assert_eq!(mitigating.foreseen, 9);
            let last = mitigating.stop();
            assert_eq!(last.state, MitigationState::Observed);
        }
    }

    #[test]
    fn the_thread_that_keeps_one_capability_switches_and_undoes_at_the_stop() {
        netns::tests::with_a_veth(
            "cli::agent::mitigate::tests::\
             the_thread_that_keeps_one_capability_switches_and_undoes_at_the_stop",
            on_a_real_kernel,
        );
    }

    fn on_a_real_kernel() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let started = Mitigating::start(&agent(dir.path(), "gso=apply"), BOOT);
        let Some(mut mitigating) = started.expect("it starts") else {
            println!("SKIPPED: a kernel without ethtool's netlink interface");
            return;
        };
        let gso = || {
            let mut kernel = Ethtool::open().expect("generic netlink");
            let device = kernel.find("up0").expect("a device");
            let features = kernel.features(&device).expect("features");
            features.active.contains("tx-generic-segmentation")
        };
        assert!(gso());
        mitigating.look_for_uplinks(|| vec!["up0".to_owned()]);
        let advice = advice::Advice::new("cve-2024-42281", "w01-00000001").expect("plain");
        let told = mitigating.tell.try_send(News::Met(advice.cause()));
        assert!(told.is_ok());
        let status = standing(&mut mitigating, MitigationState::Applied);
        assert_eq!(status.problem, None);
        assert!(!gso());
        let last = mitigating.stop();
        assert!(gso(), "undone at the stop");
        assert_ne!(
            last.state,
            MitigationState::Applied,
            "the last hello says so"
        );
    }

    #[test]
    fn advice_is_taken_and_without_the_setting_there_is_nobody_to_take_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let off = Mitigating::start(&agent(dir.path(), "off"), BOOT);
        assert!(off.expect("nothing to do").is_none());
        let started = Mitigating::start(&agent(dir.path(), "gso"), BOOT).expect("it starts");
        let Some(mut mitigating) = started else {
            println!("SKIPPED: a kernel without ethtool's netlink interface");
            return;
        };
        let advice = advice::Advice::new("cve-2024-42281", "w01-00000001").expect("plain");
        let told = mitigating.tell.try_send(News::Met(advice.cause()));
        assert!(told.is_ok());
        standing(&mut mitigating, MitigationState::Pending);
        mitigating.look_for_uplinks(|| vec!["lo".to_owned()]);
        standing(&mut mitigating, MitigationState::Suggested);
        mitigating.stop();
        let known = mitigate::known(dir.path(), BOOT).expect("a file");
        assert_eq!(known.state, MitigationState::Suggested);
        // The next agent knows it at once; one that is not to look forgets it.
        let again = Mitigating::start(&agent(dir.path(), "gso"), BOOT).expect("it starts");
        let again = again.expect("as before");
        assert_eq!(again.status().state, MitigationState::Suggested);
        again.stop();
        let off = Mitigating::start(&agent(dir.path(), "off"), BOOT);
        assert!(off.expect("nothing to do").is_none());
        assert_eq!(mitigate::known(dir.path(), BOOT), None);
    }
}
