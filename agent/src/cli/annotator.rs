//! `lastgasp annotator`: puts receiver, store, engine, writer and pages together.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::known;
use crate::annotate::{self, Annotator, Executor, State};
use crate::channels::netconsole::{self, Addresses, Listener};
use crate::config::annotator::{Kube, Low, Settings, default_stores};
use crate::config::layer;
use crate::gasp::counters::{Counters, Outcome};
use crate::gasp::protocol::{Key, KeyRing};
use crate::gasp::receiver::{self, Receiver};
use crate::k8s::Writer;
use crate::store::Store;
use crate::telemetry::{Metrics, log};
use crate::web::{self, Pages};

/// How often the connections to the API server are kept warm and tried.
const KUBE_EVERY: Duration = Duration::from_secs(10);
/// How long the loop may not come round until it counts as stuck, in
/// milliseconds. It ticks every second.
const STUCK_MS: u64 = 10_000;

const EXAMPLES: &str = "\
Examples:
  Stand-alone, deaths are kept in an embedded store:
    lastgasp annotator --key-file gasp.key
  In a cluster, with the service account of its pod:
    lastgasp annotator --kube --key-file /etc/lastgasp/gasp.key --http 0.0.0.0:9619
  From a file, flags win over the environment, both over the file:
    lastgasp annotator --config lastgasp.toml

The file has a table [annotator] with the flags' names: silence-ms = 15000.
Then ask it: `lastgasp deaths`, `lastgasp why pod/NAME`, `lastgasp why node/NAME`.";

/// Receive gasps, decide what they mean, and write it on nodes and pods.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// TOML file with a table [annotator]
    #[arg(long, value_name = "FILE", env = "LASTGASP_CONFIG")]
    config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", env = "LASTGASP_LOG_FORMAT")]
    log_format: log::Format,
    #[command(flatten)]
    low: Low,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    log::start(args.log_format);
    let low = layer(&args.low, args.config.as_deref(), "annotator")?;
    let settings = Settings::try_from(low)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime; is the limit of processes or open files reached?")?;
    runtime.block_on(serve(settings))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let Some(key_file) = &settings.key_file else {
        bail!(
            "no key: name the file with the agents' key by --key-file; make one with \
             `head -c 32 /dev/urandom > gasp.key && chmod 600 gasp.key`"
        );
    };
    let keys = Arc::new(KeyRing::pre_shared(Key::read(key_file)?));
    let (store, path) = open_store(settings.store.as_deref())?;
    let store = Arc::new(store);
    agent_decode::prepare();
    let metrics = Arc::new(Metrics::new());
    let addresses = Arc::new(Addresses::new(settings.limits.nodes));
    let (executor, api) = match &settings.kube {
        Some(kube) => {
            let writer = connect(kube).await?;
            let api = keep_warm(writer.clone());
            (Executor::Kubernetes(writer), Some(api))
        }
        None => (Executor::Standalone, None),
    };
    let (annotator, state) = Annotator::new(
        settings.limits,
        Arc::clone(&store),
        executor,
        settings.keys.clone(),
        Arc::clone(&metrics),
        Arc::clone(&addresses),
    )?;
    // The pages first: if their address is taken, no gasp was taken in vain.
    let listener = tokio::net::TcpListener::bind(settings.http)
        .await
        .with_context(|| {
            format!(
                "cannot listen for HTTP on {}; choose another address with --http",
                settings.http
            )
        })?;
    let http = listener.local_addr().unwrap_or(settings.http);
    let receiving = receiver::Settings::new(settings.listen);
    let (receiver, queue) = Receiver::spawn(&receiving, Arc::clone(&keys), annotate::now)?;
    let annotator = annotator.with_receipts(receiver.receipts(keys));
    let receiver = Arc::new(receiver);
    let listen = receiver.local_addr().unwrap_or(settings.listen);
    let (netconsole, overheard) = hear(settings.netconsole, addresses)?;
    let hears = netconsole.as_ref().and_then(|l| l.local_addr().ok());

    let (stopper, stop) = watch::channel(false);
    let pages = Pages {
        store,
        metrics,
        refresh: {
            let receiver = Arc::clone(&receiver);
            Box::new(move |metrics| {
                show_receiver(metrics, &receiver);
                if let Some(listener) = &netconsole {
                    show_netconsole(metrics, listener);
                }
            })
        },
        problems: Box::new(move || problems(&state.borrow(), api.as_ref())),
        has_bug: known::has_bug,
    };
    let mut web = tokio::spawn(web::serve(listener, pages, stop.clone()));
    let mut work = tokio::spawn(annotator.run(queue, overheard, stop));
    tracing::info!(
        %listen,
        netconsole = hears.map_or_else(|| "off".to_owned(), |to| to.to_string()),
        %http,
        store = %path.display(),
        kubernetes = settings.kube.is_some(),
        "ready"
    );

    let early = tokio::select! {
        name = terminated() => {
            tracing::info!(signal = name?, "stopping");
            None
        }
        ended = &mut web => Some(format!("the HTTP pages ended: {ended:?}")),
        ended = &mut work => Some(format!("the annotator's loop ended: {ended:?}")),
    };
    stopper.send_replace(true);
    if let Some(why) = early {
        bail!(why);
    }
    // What is not done by then is in the store, and goes on at the next start.
    let orderly = async { tokio::join!(work, web) };
    if tokio::time::timeout(Duration::from_secs(5), orderly)
        .await
        .is_err()
    {
        tracing::warn!("some answers were still being given; stopped all the same");
    }
    Ok(())
}

type Overheard = tokio::sync::mpsc::Receiver<netconsole::Heard>;

/// Listens for netconsole, if that is wanted.
fn hear(
    wanted: Option<std::net::SocketAddr>,
    addresses: Arc<Addresses>,
) -> anyhow::Result<(Option<Listener>, Overheard)> {
    let Some(address) = wanted else {
        return Ok((None, tokio::sync::mpsc::channel(1).1));
    };
    let (listener, overheard) = Listener::spawn(address, addresses, annotate::now)?;
    Ok((Some(listener), overheard))
}

async fn terminated() -> anyhow::Result<&'static str> {
    let cannot = "cannot wait for signals";
    let mut term = signal(SignalKind::terminate()).context(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(cannot)?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn open_store(named: Option<&Path>) -> anyhow::Result<(Store, PathBuf)> {
    if let Some(path) = named {
        return Ok((Store::open(path)?, path.to_owned()));
    }
    let mut refused = Vec::new();
    for path in default_stores() {
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        match made
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(Store::open(&path)?))
        {
            Ok(store) => return Ok((store, path)),
            Err(error) => {
                // Another annotator's store is no reason to begin an empty one elsewhere.
                if let Some(crate::store::Error::InUse { .. }) = error.downcast_ref() {
                    return Err(error);
                }
                refused.push(format!("{}: {error:#}", path.display()));
            }
        }
    }
    bail!(
        "no place for the store; name a file with --store ({})",
        refused.join("; ")
    )
}

async fn connect(kube: &Kube) -> anyhow::Result<Writer> {
    let settings = crate::k8s::Settings {
        kubeconfig: kube.kubeconfig.clone(),
        context: kube.context.clone(),
        pods_in_flight: kube.pods_in_flight,
        instance: std::env::var("HOSTNAME").unwrap_or_else(|_| "lastgasp".to_owned()),
        ..crate::k8s::Settings::default()
    };
    Ok(Writer::connect(&settings).await?)
}

/// Keeps the connections open that a death will need; says why it cannot.
fn keep_warm(writer: Writer) -> watch::Receiver<Option<String>> {
    let (tell, told) = watch::channel(Some("the API server was not asked yet".to_owned()));
    tokio::spawn(async move {
        while !tell.is_closed() {
            let problem = writer.warm().await.err();
            let problem = problem.map(|e| format!("{:#}", anyhow::Error::from(e)));
            let before = tell.send_replace(problem.clone());
            match (before, problem) {
                (Some(_), None) => tracing::info!("the API server answers"),
                (before, Some(why)) if before.as_ref() != Some(&why) => {
                    tracing::warn!(why, "the API server does not answer");
                }
                _ => {}
            }
            tokio::time::sleep(KUBE_EVERY).await;
        }
    });
    told
}

fn problems(state: &State, api: Option<&watch::Receiver<Option<String>>>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(why) = &state.store_fails {
        problems.push(format!("store: {why}"));
    }
    if annotate::now().since(state.round_at) > STUCK_MS {
        problems.push("loop: it does not come round".to_owned());
    }
    if let Some(why) = api.and_then(|api| api.borrow().clone()) {
        problems.push(format!("API server: {why}"));
    }
    problems
}

fn show_receiver(metrics: &Metrics, receiver: &Receiver) {
    let counters: &Counters = receiver.counters();
    for outcome in Outcome::ALL {
        metrics.set_datagrams(outcome.as_str(), counters.of(outcome));
    }
    let load =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    metrics.set_lost("session_evicted", load(&counters.sessions_evicted));
    metrics.set_lost("message_given_up", load(&counters.reassembly_evicted));
    metrics.set_lost("socket_error", load(&counters.receive_errors));
    if let Some(drops) = receiver.kernel_drops() {
        metrics.set_lost("socket_buffer_full", drops);
    }
}

fn show_netconsole(metrics: &Metrics, listener: &Listener) {
    let counters = listener.counters();
    for outcome in netconsole::Outcome::ALL {
        metrics.set_netconsole(outcome.as_str(), counters.of(outcome));
    }
    for (what, count) in counters.losses() {
        metrics.set_lost(what, count);
    }
    if let Some(drops) = listener.kernel_drops() {
        metrics.set_lost("netconsole_buffer_full", drops);
    }
}
