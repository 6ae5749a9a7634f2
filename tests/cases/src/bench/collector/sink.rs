//! A receiver in a process of its own, on a CPU of its own: `bench sink`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agent_core::model::{Body, NodeName};
use anyhow::{Context as _, Result, bail};
use lastgasp::annotate;
use lastgasp::channels::netconsole::{self, Addresses, Listener};
use lastgasp::gasp::counters::Outcome;
use lastgasp::gasp::protocol::{Key, KeyRing};
use lastgasp::gasp::receiver::{Receiver, Settings};
use lastgasp::kernel::sched;
use lastgasp::kernel::udp::Batch;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::load::{self, KEY};

/// Where receivers run; the load comes from [`SENDER`].
pub(super) const RECEIVER: u32 = 1;
/// Where the load comes from.
pub(super) const SENDER: u32 = 0;

/// What receives.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Kind {
    /// `recvmmsg` in a loop, which counts and looks at nothing.
    Bare,
    /// The annotator's receiver, and a thread that takes its messages.
    Gasps,
    /// The annotator's ear for netconsole, which knows the hosts' addresses.
    Netconsole,
}

/// Runs a receiver until standard input ends. It says its port first, and for
/// each line that comes what it has counted. `pause`: how long the taker rests
/// after each 256 messages.
pub fn run(kind: Kind, pause: Duration) -> Result<()> {
    let count: Box<dyn Fn() -> Value> = match kind {
        Kind::Bare => bare()?,
        Kind::Gasps => gasps(pause)?,
        Kind::Netconsole => overhear()?,
    };
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", count());
    }
    Ok(())
}

fn bare() -> Result<Box<dyn Fn() -> Value>> {
    let local = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let wanted = Settings::new(local).socket_buffer;
    if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &wanted)
        .is_err()
    {
        socket.set_recv_buffer_size(wanted)?;
    }
    socket.bind(&local.into())?;
    let address = socket.local_addr()?.as_socket().context("no address")?;
    println!("{}", address.port());
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    thread::spawn(move || -> std::io::Result<()> {
        let mut batch = Batch::new(64, 2048);
        loop {
            match batch.receive(socket.as_fd(), 64) {
                Ok(count) => {
                    counter.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                    let fd = PollFd::new(socket.as_fd(), PollFlags::POLLIN);
                    poll(&mut [fd], PollTimeout::NONE)?;
                }
                Err(error) => return Err(error),
            }
        }
    });
    Ok(Box::new(
        move || json!({"received": received.load(Ordering::Relaxed)}),
    ))
}

fn gasps(pause: Duration) -> Result<Box<dyn Fn() -> Value>> {
    let local = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let keys = KeyRing::pre_shared(Key::new(KEY).context("the key is too short")?);
    let settings = Settings::new(local);
    let (receiver, mut taker) = Receiver::spawn(&settings, Arc::new(keys), annotate::now)?;
    println!("{}", receiver.local_addr()?.port());
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let counters = Arc::clone(&counts);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    thread::spawn(move || {
        let mut messages = Vec::with_capacity(256);
        while runtime.block_on(taker.take(&mut messages, 256)) > 0 {
            for message in messages.drain(..) {
                let is_beat = matches!(message.gasp.body, Body::Heartbeat);
                counters[usize::from(is_beat)].fetch_add(1, Ordering::Relaxed);
            }
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    });
    Ok(Box::new(move || {
        let counters = receiver.counters();
        let [words, beats] = [0, 1].map(|at| counts[at].load(Ordering::Relaxed));
        json!({
            "received": words + beats,
            "words": words,
            "heartbeats": beats,
            "accepted": counters.of(Outcome::Accepted),
            "queue_full": counters.of(Outcome::QueueFull),
            "heartbeat_dropped": counters.of(Outcome::HeartbeatDropped),
            "judged": counters.received(),
            "kernel_drops": receiver.kernel_drops(),
        })
    }))
}

fn overhear() -> Result<Box<dyn Fn() -> Value>> {
    let addresses = Addresses::new(1);
    for host in 0..super::HOSTS[2] {
        let node = NodeName::new(&load::name(host)).context("no node name")?;
        addresses.learn(load::source(host).into(), &node, annotate::now());
    }
    let local = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let (listener, _) = Listener::spawn(local, Arc::new(addresses), annotate::now)?;
    println!("{}", listener.local_addr()?.port());
    Ok(Box::new(move || {
        let counters = listener.counters();
        json!({
            "received": counters.of(netconsole::Outcome::Accepted),
            "kernel_drops": listener.kernel_drops(),
        })
    }))
}

/// A receiver that was started.
pub(super) struct Sink {
    child: Child,
    say: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(super) port: u16,
}

impl Sink {
    /// Starts one on its CPU.
    pub(super) fn start(kind: Kind, pause: Duration) -> Result<Self> {
        let name = match kind {
            Kind::Bare => "bare",
            Kind::Gasps => "gasps",
            Kind::Netconsole => "netconsole",
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["sink", name, "--pause-us", &pause.as_micros().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = on_its_cpu(&mut command)?;
        let say = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("it says nothing")?);
        let mut sink = Self {
            child,
            say,
            answers,
            port: 0,
        };
        sink.port = sink.answer()?.parse().context("it named no port")?;
        Ok(sink)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the receiver ended");
        }
        Ok(line.trim().to_owned())
    }

    /// What it has counted.
    pub(super) fn counts(&mut self) -> Result<Value> {
        let say = self.say.as_mut().context("it was stopped")?;
        say.write_all(b"?\n")?;
        say.flush()?;
        Ok(serde_json::from_str(&self.answer()?)?)
    }

    /// A field of its `/proc/PID/status`, in MiB.
    pub(super) fn memory(&self, field: &str) -> Result<f64> {
        memory(self.child.id(), field)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.say = None;
        let _ = self.child.wait();
    }
}

/// Starts a program that may only run on the receivers' CPU.
pub(super) fn on_its_cpu(command: &mut Command) -> Result<Child> {
    sched::pin(RECEIVER).context("cannot pin to a CPU; the bench needs two")?;
    let child = command.spawn();
    sched::pin(SENDER)?;
    child.with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// A field of `/proc/PID/status`, in MiB.
pub(super) fn memory(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: f64 = line
        .and_then(|line| line.trim_start_matches(':').split_ascii_whitespace().next())
        .with_context(|| format!("{path} has no {field}"))?
        .parse()?;
    Ok(kib / 1024.0)
}
