//! One control plane for all cases of a test program.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use harness::controlplane::{Assets, AuditEvent, ControlPlane, Options, Unavailable, User};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use lastgasp::k8s::{NodeDeath, Settings, Writer};
use serde_json::json;

use super::manifests;

/// The ServiceAccount of `deploy/annotator.yaml`: what its ClusterRole does
/// not give, the cases' writer may not do.
pub fn annotator() -> User {
    User::service_account("lastgasp", "lastgasp-annotator")
}

/// A ServiceAccount whose rights a case gives it.
pub fn narrow() -> User {
    User::service_account("lastgasp", "narrow")
}

/// A control plane on which `deploy/` is applied.
#[derive(Debug)]
pub struct Cluster {
    /// The programs.
    pub plane: ControlPlane,
}

/// Starts a control plane of the caller's own and applies `deploy/`.
pub fn start(mut options: Options) -> Result<Cluster, Unavailable> {
    let assets = Assets::ensure(|line| eprintln!("{line}"))?;
    options.users.extend([annotator(), narrow()]);
    let plane = ControlPlane::start(&assets, options)?;
    let cluster = Cluster { plane };
    std::thread::scope(|scope| {
        let applied = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("no runtime")?;
            runtime.block_on(async {
                let client = cluster.admin().await?;
                manifests::apply(&client, manifests::documents()?).await?;
                served(&client).await
            })
        });
        let panicked = || Err(anyhow!("applying deploy/ panicked"));
        applied.join().unwrap_or_else(|_| panicked())
    })?;
    Ok(cluster)
}

/// The control plane that all cases of this program share; `None`, with the
/// reason printed, where the machine cannot have one. With `CI=true` that is a
/// failure.
pub fn cluster() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Result<Cluster, Unavailable>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        start(Options {
            audit: true,
            ..Options::default()
        })
    });
    match shared {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            unavailable(error);
            None
        }
    }
}

/// Says why a case is skipped; where that is not allowed, fails.
pub fn unavailable(error: &Unavailable) {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    match error {
        Unavailable::Skip(reason) if !ci => println!("SKIPPED: {reason}"),
        error => panic!("{error}"),
    }
}

impl Cluster {
    /// A client that may do everything.
    pub async fn admin(&self) -> Result<Client> {
        client(&self.plane.admin_kubeconfig()).await
    }

    /// A client of one of the users that the control plane was started with.
    pub async fn client(&self, user: &User) -> Result<Client> {
        client(&self.plane.kubeconfig(user)).await
    }

    /// Settings of a writer with the rights that `deploy/` gives.
    pub fn settings(&self) -> Settings {
        Settings {
            kubeconfig: Some(self.plane.kubeconfig(&annotator())),
            instance: "lastgasp-annotator-0".to_owned(),
            ..Settings::default()
        }
    }

    /// A writer with the rights that `deploy/` gives.
    pub async fn writer(&self) -> Result<Writer> {
        Ok(Writer::connect(&self.settings()).await?)
    }

    /// All writes of the annotator so far, as the API server recorded them.
    ///
    /// The record of an answer may be written after the answer is sent, so a
    /// later write of our own is awaited first.
    pub async fn writes(&self) -> Result<Vec<AuditEvent>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let marks: Api<ConfigMap> = Api::namespaced(self.admin().await?, "default");
        let name = format!("mark-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mark: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        marks.create(&PostParams::default(), &mark).await?;
        let start = Instant::now();
        loop {
            let events = self.plane.audit()?;
            let mark = format!("create configmaps default/{name}");
            if events.iter().any(|e| e.line() == mark) {
                let user = annotator().name;
                let ours = |e: &AuditEvent| e.user.username == user;
                return Ok(events.into_iter().filter(ours).collect());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(5),
                "the audit log does not show a write of five seconds ago"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(Client::try_from(config)?)
}

/// Waits until the new resource is served.
async fn served(client: &Client) -> Result<()> {
    let deaths: Api<NodeDeath> = Api::all(client.clone());
    let start = Instant::now();
    while let Err(error) = deaths.list(&kube::api::ListParams::default()).await {
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "NodeDeath is not served after 30 s: {error}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
