//! `cargo xtask demo`: one kernel dies, and one can watch its pods learn why.

mod cluster;
mod death;
mod figures;
mod heard;
mod screen;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent_core::model::PodRef;
use anyhow::{Context as _, Result, bail};
use harness::cache::Cache;
use harness::kernels::{self, Kernel};
use harness::tool::QEMU_X86_64;
use harness::vm::Vm;
use lastgasp::gasp::protocol::{Frame, Kind};
use serde_json::json;

use crate::annotator::{self, Annotator};
use crate::lab::ways::{self, Way};
use crate::node;
use cluster::InCluster;
use death::Death;
use figures::Figures;
use screen::{Screen, Style};

/// CPUs of the node.
const CPUS: u32 = 2;
/// The agent says hello at once, and that it lives every second.
const HELLO: Duration = Duration::from_secs(15);

/// What to show.
#[derive(Clone, Debug)]
pub struct Show {
    /// A kernel of `tests/kernels.toml`.
    pub kernel: String,
    /// A way to die.
    pub how: String,
    /// With a real API server.
    pub kube: bool,
    /// Where the figures go.
    pub json: Option<PathBuf>,
    /// Where logs are kept if something is missing.
    pub keep: PathBuf,
}

/// Set when somebody wants the demo to end.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Fails where the demo is to end.
fn go_on() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Everything that runs; dropped in this order.
struct Stage {
    vm: Vm,
    annotator: Annotator,
    cluster: Option<InCluster>,
}

/// Runs the demo. What was missing, if anything was.
pub fn run(show: &Show) -> Result<Vec<String>> {
    let way = way(&show.how)?;
    let spec = kernels::named(&show.kernel)?;
    let screen = Screen::new();
    // What is missing on this machine is said before anything is started.
    QEMU_X86_64.find()?;
    let dir = tempfile::Builder::new()
        .prefix("lastgasp-demo-")
        .tempdir()?;
    screen.line(
        "lastgasp: a kernel dies, and its pods learn why",
        Style::Bold,
    );
    screen.line("", Style::Plain);
    let cache = Cache::open()?;
    let kernel = screen.step(
        &format!("kernel {}, from the distribution", spec.name),
        || spec.get(&cache),
    )?;
    let result = set_up(show, screen, &cache, &kernel, dir.path())
        .and_then(|stage| act(show, screen, way, &kernel, stage, dir.path()));
    let failed = result.as_ref().map_or(true, |missing| !missing.is_empty());
    if failed && !INTERRUPTED.load(Ordering::Relaxed) {
        match keep(dir.path(), &show.keep) {
            Ok(()) => screen.line(
                &format!("logs are kept in {}", show.keep.display()),
                Style::Plain,
            ),
            Err(error) => screen.line(&format!("logs could not be kept: {error:#}"), Style::Red),
        }
    }
    result
}

fn set_up(
    show: &Show,
    screen: Screen,
    cache: &Cache,
    kernel: &Kernel,
    dir: &Path,
) -> Result<Stage> {
    let mut cluster = None;
    if show.kube {
        let mut started = screen.step(
            "control plane: etcd, kube-apiserver, deploy/ applied",
            InCluster::start,
        )?;
        go_on()?;
        screen.step(
            &format!("node {} and its pods, through the API", node::NAME),
            || started.fill(),
        )?;
        // A server that has just started is slower than any that is in use.
        screen.step("the API server warms up on another node's pods", || {
            started.bare_loop("warm-up")
        })?;
        cluster = Some(started);
    }
    go_on()?;
    let kubeconfig = cluster.as_ref().map(InCluster::kubeconfig);
    let annotator = screen.step("lastgasp annotator", || {
        Annotator::start(dir, kubeconfig.as_deref())
    })?;
    let pods = match &cluster {
        Some(cluster) => cluster.references()?,
        None => pods(),
    };
    go_on()?;
    let machine = {
        let mut machine = node::machine(cache, kernel, CPUS)?;
        machine.forward.clone_from(&annotator.listen);
        machine
    };
    let boots = format!(
        "node {}: Linux {} boots in a VM",
        node::NAME,
        kernel.release
    );
    let mut vm = screen.step(&boots, || Vm::boot(&machine))?;
    go_on()?;
    screen.step("lastgasp agent attaches its probes in it", || {
        for pod in &pods {
            vm.ask(&format!(
                "mkdir /var/log/pods/{}_{}_{}",
                pod.namespace, pod.name, pod.uid
            ))?;
        }
        node::start_agent(&mut vm, "")
    })?;
    screen.step(
        &format!(
            "the annotator hears of the node and its {} pods",
            pods.len()
        ),
        || hello(&vm, Instant::now() + HELLO),
    )?;
    go_on()?;
    Ok(Stage {
        vm,
        annotator,
        cluster,
    })
}

/// Waits for a whole hello, and the heartbeat behind it.
fn hello(vm: &Vm, until: Instant) -> Result<()> {
    let mut fragments = 0;
    let mut of = u16::MAX;
    loop {
        go_on()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("the agent said no hello in {} s", HELLO.as_secs());
        }
        let Ok(datagram) = vm
            .datagrams
            .recv_timeout(left.min(Duration::from_millis(100)))
        else {
            continue;
        };
        let Ok(frame) = Frame::parse(&datagram.payload) else {
            continue;
        };
        match frame.kind() {
            Kind::Hello => {
                fragments += 1;
                of = frame.fragment().1;
            }
            Kind::Heartbeat if fragments >= of => return Ok(()),
            _ => {}
        }
    }
}

fn act(
    show: &Show,
    screen: Screen,
    way: &Way,
    kernel: &Kernel,
    stage: Stage,
    dir: &Path,
) -> Result<Vec<String>> {
    let Stage {
        vm,
        annotator,
        cluster,
    } = stage;
    screen.heading(&format!("Killing {}: {}", node::NAME, way.name));
    let (mut figures, mut missing) = Death {
        way,
        screen,
        annotator: &annotator,
        cluster: cluster.as_ref(),
    }
    .watch(vm, dir)?;
    go_on()?;
    if let Some(cluster) = &cluster {
        figures.bare_loop = Some(bare_loop(cluster)?);
    }
    screen.heading("Times");
    figures.show(screen, show.kube);
    if let Some(path) = &show.json {
        let case = json!({
            "kernel": kernel.name, "release": kernel.release, "way": way.name,
            "cpus": CPUS, "pods": figures.eligible,
        });
        figures.write(path, show.kube, &case)?;
    }
    if let Err(error) = explain(screen, way, &annotator, cluster.as_ref()) {
        missing.push(format!("{error:#}"));
    }
    go_on()?;
    conclude(screen, way, &figures, &missing);
    Ok(missing)
}

/// The yardstick: the middle one of three, each on pods of its own that are
/// watched as the dead node's were. One alone is off by a third now and then.
fn bare_loop(cluster: &InCluster) -> Result<Duration> {
    let mut times = Vec::new();
    for name in ["bare-loop-0", "bare-loop-1", "bare-loop-2"] {
        times.push(cluster.bare_loop(name)?);
    }
    times.sort();
    Ok(times[1])
}

/// What people ask afterwards.
fn explain(
    screen: Screen,
    way: &Way,
    annotator: &Annotator,
    cluster: Option<&InCluster>,
) -> Result<()> {
    let ask = |arguments: &[&str]| -> Result<String> {
        let answer = annotator.ask(arguments)?;
        screen.heading(&format!("$ lastgasp {}", arguments.join(" ")));
        match arguments.first() {
            // A table and log lines are cut, what people read goes on below.
            Some(&"why") => {
                let (text, log) = answer.split_once("\nLast lines").unwrap_or((&answer, ""));
                screen.fields(text, 14);
                if !log.is_empty() {
                    screen.quoted(&format!("\nLast lines{log}"));
                }
            }
            _ => screen.quoted(&answer),
        }
        Ok(answer)
    };
    ask(&["deaths"])?;
    if way.is_survived() {
        return Ok(());
    }
    let (job, web) = match cluster {
        Some(_) => ("w01/job-0", "w01/web-7"),
        None => ("jobs/etl-20261120-7k2xq", "shop/checkout-6d5f8c9b7-q2m4z"),
    };
    ask(&["why", job, "--lines", "6"])?;
    let Some(cluster) = cluster else {
        return Ok(());
    };
    annotations(screen, cluster, web)?;
    screen.step("node and pods are deleted, as later in a cluster", || {
        cluster.collect_garbage()
    })?;
    let answer = ask(&["why", web, "--lines", "0"])?;
    if !answer.contains(way.code.as_str()) {
        bail!("once deleted, {web} is no longer explained");
    }
    Ok(())
}

/// One pod as the API server has it.
fn annotations(screen: Screen, cluster: &InCluster, name: &str) -> Result<()> {
    let (_, short) = name.split_once('/').unwrap_or(("", name));
    let pods = cluster.pods()?;
    let pod = pods
        .iter()
        .find(|(_, pod)| pod.metadata.name.as_deref() == Some(short));
    let (_, pod) = pod.with_context(|| format!("no pod {name}"))?;
    screen.heading(&format!("Pod {name} in the API server: annotations"));
    for (key, value) in pod.metadata.annotations.iter().flatten() {
        screen.fields(&format!("{key}: {}", screen::cut(value, 200)), 6);
    }
    screen.line("", Style::Plain);
    Ok(())
}

fn conclude(screen: Screen, way: &Way, figures: &Figures, missing: &[String]) {
    screen.line("", Style::Plain);
    if missing.is_empty() {
        let text = if way.is_survived() {
            "The kernel survived; no pod was told anything.".to_owned()
        } else {
            format!(
                "All {} pods carry the true reason: {}.",
                figures.told,
                way.code.as_str()
            )
        };
        screen.line(&text, Style::Green);
    }
    for what in missing {
        screen.line(&format!("missing: {what}"), Style::Red);
    }
}

/// Keeps what may explain a failure; never the key.
fn keep(dir: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for name in ["annotator.log", "console.txt", annotator::STORE] {
        let from = dir.join(name);
        if from.is_file() {
            fs::copy(&from, to.join(name)).with_context(|| format!("cannot keep {name}"))?;
        }
    }
    Ok(())
}

fn way(name: &str) -> Result<&'static Way> {
    let names: Vec<&str> = ways::ALL.iter().map(|way| way.name).collect();
    ways::ALL
        .iter()
        .find(|way| way.name == name)
        .with_context(|| {
            format!(
                "no way to die called {name}; there are {}",
                names.join(", ")
            )
        })
}

/// The pods of a node without a cluster: a dozen, as a kubelet names them.
fn pods() -> Vec<PodRef> {
    const PODS: [(&str, &str); 12] = [
        ("jobs", "etl-20261120-7k2xq"),
        ("jobs", "etl-20261120-x8m4t"),
        ("jobs", "report-29388120-lq6wn"),
        ("jobs", "train-resnet-0-zk5jd"),
        ("shop", "checkout-6d5f8c9b7-q2m4z"),
        ("shop", "checkout-6d5f8c9b7-w9hxk"),
        ("shop", "cart-7c4b9d6f5-2vt8r"),
        ("shop", "search-5f6d7b8c9-nn4lp"),
        ("db", "postgres-0"),
        ("db", "kafka-2"),
        ("kube-system", "coredns-668d6bf9bc-hv7tz"),
        ("monitoring", "prometheus-0"),
    ];
    let pod = |(i, (namespace, name)): (usize, &(&str, &str))| PodRef {
        namespace: (*namespace).to_owned(),
        name: (*name).to_owned(),
        uid: format!("0b5e9c1a-52d4-4e55-9a3f-{i:012x}"),
    };
    PODS.iter().enumerate().map(pod).collect()
}
