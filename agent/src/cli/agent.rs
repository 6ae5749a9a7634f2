//! `lastgasp agent`.

mod mitigate;
mod predictor;

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use agent_core::model::{Inventory, Mitigation};
use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use self::mitigate::Mitigating;
use self::predictor::Predictor;
use crate::config::{self, agent::Agent, agent::Netconsole as Wanted};
use crate::gasp::beacon;
use crate::gasp::drain::{Drain, Losses, MAX_COLLECTORS, Reserve, Shared};
use crate::gasp::protocol::{Identity, Key, KeyRing, Sealer};
use crate::kernel::attach::{self, Attached, Bell};
use crate::kernel::caps::{self, Capability};
use crate::kernel::packet::PacketSocket;
use crate::kernel::sched;
use crate::kernel::told::Tellers;
use crate::node::leftovers::{self, Leftovers};
use crate::node::marker::Marker;
use crate::node::netconsole::Netconsole;
use crate::node::uplink::{self, Uplink};
use crate::node::{identity, inventory};
use crate::{probes, telemetry};

/// Watch this node's kernel and get its last words out before it dies.
///
/// Attaches eBPF programs to the panic, oops and restart paths, keeps the last
/// lines of the kernel log, and when the kernel dies sends them to the
/// annotators, while the dying CPU is held for a few milliseconds. Heartbeats
/// go out every second.
///
/// Every flag can also stand in the file given by --config, in the section
/// [agent], without its dashes: hold-max-ms = 20.
///
/// Needs CAP_BPF and CAP_PERFMON; NET_RAW, SYS_NICE, IPC_LOCK and SYSLOG make it
/// better (`lastgasp doctor` says how). All are dropped once it has attached; only
/// --mitigate gso=apply keeps one, NET_ADMIN, in one thread.
///
/// Example: lastgasp agent --collector 10.0.0.5:9618 --key-file /etc/lastgasp/key
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TOML file with the settings below.
    #[arg(long, env = "LASTGASP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    low: config::agent::Low,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let low = config::layer(&args.low, args.config.as_deref(), "agent")?;
    telemetry::log::start(low.log_format.unwrap_or_default());
    let agent = low.check()?;
    not_ready(&agent)?;
    let started = Started::new(&agent)?;
    if !agent.keep_capabilities {
        caps::drop_all().context("cannot drop capabilities (--keep-capabilities keeps them)")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(live(&agent, started))?;
    Ok(ExitCode::SUCCESS)
}

/// Everything that needs capabilities, set up before they are dropped.
struct Started {
    shared: Arc<Shared>,
    attached: Attached,
    threads: Vec<JoinHandle<()>>,
    tellers: Tellers,
    predictor: Predictor,
    collectors: Vec<SocketAddr>,
    ports: Vec<u16>,
    netconsole: Option<Netconsole>,
    mitigating: Option<Mitigating>,
    marker: Marker,
    /// With what receipts are told by; taken by its thread.
    leftovers: Option<(Leftovers, Identity, KeyRing)>,
}

impl Started {
    fn new(agent: &Agent) -> anyhow::Result<Self> {
        let identity = Identity {
            node: identity::node_name(agent.node_name.as_deref())?,
            node_uid: agent.node_uid,
            boot: identity::boot_id()?,
            session: identity::session()?,
            key_id: 0,
        };
        let key = Key::read(&agent.key_file)?;
        let collectors = agent
            .collectors
            .iter()
            .map(|c| lookup(c))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let udp = collectors
            .iter()
            .map(|c| connect(*c))
            .collect::<anyhow::Result<Vec<UdpSocket>>>()?;
        let ports = udp
            .iter()
            .map(|s| s.local_addr().map_or(0, |a| a.port()))
            .collect();
        let cpus = drain_cpus(agent)?;
        let (mut attached, memory) = attach::attach(&probes::roles(), agent.ebpf_log)?;
        report(&attached);
        if agent.predict_cost_max == 0 {
            let why = "--predict-cost-max is 0".to_owned();
            attached.turn_off(probes::segment::NAME, why);
        }

        let hold = if cpus.len() > 1 {
            agent.pace.hold_max
        } else {
            std::time::Duration::ZERO
        };
        if hold.is_zero() {
            warn!("the kernel will not be held: nobody could send meanwhile, or hold-max-ms is 0");
        }
        memory.ring.set_hold_max_ns(hold.as_nanos() as u64);
        let shared = Arc::new(Shared {
            ring: memory.ring,
            sealer: Sealer::new(&identity, &key),
            next_seq: AtomicU64::new(1),
            links: Mutex::new([None; MAX_COLLECTORS]),
            links_version: AtomicU64::new(0),
            udp,
            pace: agent.pace,
            losses: Losses::default(),
            leads_ns: AtomicU64::new(0),
            survived: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let threads = drain_threads(agent, &shared, memory.bells, &cpus)?;
        let began = identity::began()?;
        let (marker, error) = Marker::begin(&agent.state_dir, identity.boot, began);
        if let Some(error) = error {
            warn!("{:#}", anyhow::Error::from(error));
        }
        let mitigating = Mitigating::start(agent, identity.boot)?;
        let settings = leftovers::Settings {
            pstore: agent.leftovers.pstore_dir.clone(),
            archive: agent.leftovers.archive_dir.clone(),
            crash: agent.leftovers.crash_dirs.clone(),
            delete: agent.leftovers.pstore_delete,
            state: agent.state_dir.clone(),
        };
        let leftovers = Leftovers::new(settings, marker.before(), began);
        // Below UDP as well, so of no use to a collector behind an overlay.
        let wanted = agent.netconsole == Wanted::Auto && !agent.udp_only;
        let (node, boot) = (identity.node.as_str(), identity.boot.to_string());
        let netconsole = Netconsole::new(&agent.configfs, agent.netconsole_port, node, &boot);
        let netconsole = if wanted {
            Some(netconsole)
        } else {
            // An agent that was killed leaves what it had set up.
            netconsole.stop();
            None
        };
        info!(node = %identity.node, boot = %identity.boot, cpus = ?cpus, "watching");
        Ok(Self {
            shared,
            attached,
            threads,
            tellers: memory.tellers,
            predictor: Predictor::new(memory.segments, agent.predict_cost_max),
            collectors,
            ports,
            netconsole,
            mitigating,
            marker,
            leftovers: Some((leftovers, identity, KeyRing::pre_shared(key))),
        })
    }
}

impl Started {
    /// What this boot is made of, and how what the agent does stands.
    fn inventory(
        &self,
        agent: &Agent,
        beside: Option<&Beside>,
        mitigation: Option<Mitigation>,
    ) -> Inventory {
        let statuses = self.attached.statuses.iter();
        let mut statuses: Vec<(String, String)> =
            statuses.map(|s| (s.role.to_owned(), s.summary())).collect();
        let netconsole = beside.map(|beside| beside.status.borrow().clone());
        let netconsole = netconsole.unwrap_or_else(|| "off".to_owned());
        statuses.push(("netconsole".to_owned(), netconsole));
        let mitigations = mitigation.into_iter().collect();
        let previous = self.marker.previous();
        inventory::collect(&agent.pod_logs, statuses, previous, mitigations)
    }
}

/// Says hello and goes on saying that the node lives, until told to stop.
async fn live(agent: &Agent, mut started: Started) -> anyhow::Result<()> {
    let shared = Arc::clone(&started.shared);
    if agent.ebpf_log {
        started
            .attached
            .log()
            .context("cannot read the eBPF programs' diagnostics")?;
    }
    let (connection, netlink, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    if let Some((leftovers, own, keys)) = started.leftovers.take() {
        let to = Arc::clone(&shared);
        let advised = started.mitigating.as_ref().map(Mitigating::advised);
        // Nobody waits for its end: it may hang in a disk.
        std::thread::Builder::new()
            .name("leftovers".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                leftovers.run(&to, &own, &keys, |datagram| {
                    if let Some(advised) = &advised {
                        advised.take(datagram, &own, &keys);
                    }
                });
            })?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut beat = interval(beacon::HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut next_hello = Instant::now();
    let mut ready = false;
    let mut ways = Ways::default();
    let mut beside = started.netconsole.take().map(Beside::start).transpose()?;
    let mut lost = [0; 4];
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        shared.ring.set_crash_kernel(crash_kernel_loaded());
        if next_hello <= Instant::now() {
            let mitigation = started.mitigating.as_ref().map(Mitigating::status);
            beacon::hello(
                &shared,
                &started.inventory(agent, beside.as_ref(), mitigation),
            );
            next_hello = Instant::now() + beacon::HELLO;
        }
        beacon::heartbeat(&shared);
        say_losses(&shared.losses, &mut lost);
        if let Some(why) = started.predictor.look() {
            warn!("packets are not looked at any more: {why}");
            started.attached.turn_off(probes::segment::NAME, why);
            next_hello = Instant::now();
        }
        if !agent.udp_only {
            ways.refresh(&netlink, &started, &shared).await;
            if let Some(beside) = &mut beside
                && beside.is_news(&ways)
            {
                next_hello = Instant::now();
            }
        }
        if let Some(mitigating) = &mut started.mitigating {
            let foreseen = started.predictor.foreseen();
            mitigating.foresee(foreseen, &shared.ring);
            if ways.tried || agent.udp_only {
                let ways = ways.uplinks.iter().flatten();
                mitigating.look_for_uplinks(|| uplink::lowest(ways));
            }
            if mitigating.is_news() {
                next_hello = Instant::now();
            }
        }
        if !ready && (agent.udp_only || ways.tried) {
            ready = true;
            if let Some(path) = &agent.ready_file {
                std::fs::write(path, "ready\n")
                    .with_context(|| format!("cannot write the ready file {}", path.display()))?;
            }
            info!("ready");
        }
        ways.tried |= ready;
    }
    info!("stopping in an orderly way");
    let told = started.tellers.newest(sched::monotonic_ns());
    if let Some(mitigating) = started.mitigating.take() {
        let mitigation = Some(mitigating.stop());
        let inventory = started.inventory(agent, beside.as_ref(), mitigation);
        beacon::hello(&shared, &inventory);
    }
    // First the probes, so that nothing declares a death after the goodbye.
    drop(started.attached);
    started.predictor.sum();
    shared.stop.store(true, Ordering::Relaxed);
    for thread in started.threads {
        let _ = thread.join();
    }
    beacon::goodbye(&shared, told.as_ref());
    if let Err(error) = not_ready(agent) {
        warn!("{error:#}");
    }
    if let Err(error) = started.marker.stop() {
        warn!("{:#}", anyhow::Error::from(error));
    }
    if let Some(Beside { ways, thread, .. }) = beside {
        drop(ways);
        let _ = thread.join();
    }
    Ok(())
}

/// Takes the ready file away: that of an agent that was killed would speak for this one.
fn not_ready(agent: &Agent) -> anyhow::Result<()> {
    let Some(path) = &agent.ready_file else {
        return Ok(());
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the ready file {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Says what was lost since `before`, what was said last.
fn say_losses(losses: &Losses, before: &mut [u64; 4]) {
    for ((what, now), before) in losses.all().into_iter().zip(before) {
        if now > *before {
            warn!(more = now - *before, in_all = now, "lost: {what}");
            *before = now;
        }
    }
}

/// netconsole on a thread of its own: configfs may wait for a device, and
/// heartbeats do not.
struct Beside {
    ways: mpsc::SyncSender<Vec<Option<Uplink>>>,
    status: watch::Receiver<String>,
    thread: JoinHandle<()>,
}

impl Beside {
    fn start(mut netconsole: Netconsole) -> std::io::Result<Self> {
        let (ways, told) = mpsc::sync_channel::<Vec<Option<Uplink>>>(1);
        let (tell, status) = watch::channel(netconsole.status().to_owned());
        let thread = std::thread::Builder::new()
            .name("netconsole".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                for ways in told {
                    if netconsole.refresh(&ways) {
                        tell.send_replace(netconsole.status().to_owned());
                    }
                }
                netconsole.stop();
            })?;
        Ok(Self {
            ways,
            status,
            thread,
        })
    }

    /// Hands the ways on; true if it stands differently than before.
    fn is_news(&mut self, ways: &Ways) -> bool {
        if ways.fresh {
            // If the ones before still wait, the next ones will do.
            let _ = self.ways.try_send(ways.uplinks.clone());
        }
        let is_news = self.status.has_changed().unwrap_or(false);
        if is_news {
            info!(status = *self.status.borrow_and_update(), "netconsole");
        }
        is_news
    }
}

/// The ways below UDP, kept fresh.
#[derive(Default)]
struct Ways {
    /// Whether all were looked up with success, or long enough without.
    tried: bool,
    rounds: u32,
    /// As they were looked up last, and whether that was just now.
    uplinks: Vec<Option<Uplink>>,
    fresh: bool,
    said: [bool; MAX_COLLECTORS],
}

impl Ways {
    /// Looks every way up: each second until all are known, then every ten.
    async fn refresh(&mut self, netlink: &rtnetlink::Handle, started: &Started, shared: &Shared) {
        self.rounds += 1;
        let known = |links: &[Option<_>]| links.iter().flatten().count();
        let old = shared.links.lock().map(|l| *l).unwrap_or_default();
        self.fresh = known(&old) != started.collectors.len() || self.rounds.is_multiple_of(10);
        if !self.fresh {
            return;
        }
        // A way that is not found any more may still be the right one: a next hop that
        // does not answer is mostly where it was.
        let mut links = old;
        self.uplinks.resize(started.collectors.len(), None);
        for (i, (to, port)) in started.collectors.iter().zip(&started.ports).enumerate() {
            match uplink::resolve(netlink, *to, *port).await {
                Ok(way) => {
                    links[i] = Some(way.link);
                    self.uplinks[i] = Some(way);
                }
                Err(error) if links[i].is_some() => {
                    debug!(collector = %to, "the way below UDP is as it was: {error}");
                }
                Err(error) if self.rounds > 3 && !self.said[i] => {
                    self.said[i] = true;
                    let error = anyhow::Error::from(error);
                    warn!(collector = %to, "no way below UDP, so by UDP only: {error:#}");
                }
                Err(error) => debug!(collector = %to, "no way below UDP yet: {error}"),
            }
        }
        if links != old {
            if let Ok(mut shared_links) = shared.links.lock() {
                *shared_links = links;
            }
            shared.links_version.fetch_add(1, Ordering::Release);
            info!(ways = known(&links), "ways below UDP have changed");
        }
        self.tried = known(&links) == started.collectors.len() || self.rounds > 3;
    }
}

fn lookup(collector: &str) -> anyhow::Result<SocketAddr> {
    let mut found = collector
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve the collector {collector:?} (HOST:PORT)"))?;
    found
        .next()
        .with_context(|| format!("the collector {collector:?} has no address"))
}

fn connect(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket
        .connect(to)
        .with_context(|| format!("there is no route to the collector {to}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One CPU for each drain thread: as given, or the first and the last.
fn drain_cpus(agent: &Agent) -> anyhow::Result<Vec<u32>> {
    let allowed = sched::allowed_cpus().context("cannot read which CPUs may be used")?;
    if let Some(cpus) = &agent.cpus {
        if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            bail!("cpus names CPU {cpu}, but this process may use {allowed:?} only");
        }
        return Ok(cpus.clone());
    }
    Ok(sched::two_of(&allowed))
}

fn drain_threads(
    agent: &Agent,
    shared: &Arc<Shared>,
    bells: [Bell; 2],
    cpus: &[u32],
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let (ready, is_ready) = mpsc::channel();
    let mut threads = Vec::new();
    for (index, (bell, cpu)) in bells.into_iter().zip(cpus.iter().copied()).enumerate() {
        let packet = if agent.udp_only {
            None
        } else {
            PacketSocket::open()
                .inspect_err(|e| warn!("frames go by UDP only: cannot open AF_PACKET: {e}"))
                .ok()
        };
        let shared = Arc::clone(shared);
        let (ready, priority) = (ready.clone(), agent.priority);
        let keep = agent.keep_capabilities;
        let alone = cpus.len() == 1;
        let thread = std::thread::Builder::new()
            .name(format!("drain-{cpu}"))
            .spawn(move || {
                let mut notes = Vec::new();
                let mut note = |what: &str, result: std::io::Result<()>| {
                    if let Err(error) = result {
                        notes.push(format!("{what}: {error}"));
                    }
                };
                let pinned = sched::pin(cpu);
                let known = (!alone && pinned.is_ok()).then_some(cpu);
                note("not pinned to its CPU", pinned);
                note(
                    "no real-time priority (needs CAP_SYS_NICE)",
                    sched::fifo(priority),
                );
                note(
                    "memory not locked (needs CAP_IPC_LOCK)",
                    sched::lock_memory(),
                );
                if !keep {
                    note("capabilities not dropped", caps::drop_all());
                }
                let reserve = Reserve::open()
                    .map_err(|error| note("no memory set aside for frames", Err(error)))
                    .ok();
                let drain = Drain::new(&shared, packet, reserve, known, index);
                let _ = ready.send(notes);
                drain.run(bell);
            })?;
        threads.push(thread);
    }
    for _ in &threads {
        for note in is_ready.recv().context("a drain thread ended at once")? {
            warn!("a drain thread is less sure: {note}");
        }
    }
    if let Err(error) = sched::lock_memory() {
        warn!("the drain threads may be swapped out (needs CAP_IPC_LOCK): {error}");
    }
    Ok(threads)
}

fn report(attached: &Attached) {
    for status in &attached.statuses {
        if status.attached().is_some() {
            debug!(role = status.role, how = status.summary(), "attached");
        } else {
            warn!(
                role = status.role,
                "{}: {}",
                status.summary(),
                status.without
            );
        }
    }
    if !attached.knows_context {
        let way_out = if caps::have(Capability::Syslog) {
            "this kernel does not tell where its preempt count lies"
        } else {
            "CAP_SYSLOG would tell"
        };
        debug!("marks carry no context: {way_out}");
    }
}

fn crash_kernel_loaded() -> bool {
    std::fs::read("/sys/kernel/kexec_crash_loaded").is_ok_and(|text| text.starts_with(b"1"))
}
