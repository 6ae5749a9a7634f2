//! The way to the API server: no hidden retries, warm connections, and a
//! deadline on every request.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use kube::api::{GetParams, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::Error;

/// How to reach the API server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Kubeconfig file; otherwise `KUBECONFIG`, `~/.kube/config`, or the pod's
    /// service account.
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; otherwise its current one.
    pub context: Option<String>,
    /// Pod patches in flight at once, 1 to 64. The API server turns away more
    /// than some hundred at a time (priority and fairness: 245 seats for
    /// service accounts).
    pub pods_in_flight: usize,
    /// Deadline of one request.
    pub request_timeout: Duration,
    /// This process in events: the pod's name.
    pub instance: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            pods_in_flight: 24,
            request_timeout: Duration::from_secs(10),
            instance: "lastgasp".to_owned(),
        }
    }
}

/// Requests with a deadline, and errors that name the request.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) client: Client,
    timeout: Duration,
}

impl Api {
    pub(super) async fn connect(settings: &Settings) -> Result<Self, Error> {
        let config = |source| Error::Config {
            path: settings.kubeconfig.clone(),
            source,
        };
        let mut loaded = load(settings).await.map_err(config)?;
        // kube's own policy sleeps up to 1000 s between tries, unseen: a path
        // of milliseconds becomes one of minutes. Retries are ours.
        loaded.default_retry = false;
        loaded.connect_timeout = Some(settings.request_timeout.min(Duration::from_secs(3)));
        let client = Client::try_from(loaded).map_err(|e| config(e.into()))?;
        Ok(Self {
            client,
            timeout: settings.request_timeout,
        })
    }

    /// One request, awaited until the deadline.
    pub(super) async fn call<T>(
        &self,
        what: impl Display,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let asked = Instant::now();
        let answered = tokio::time::timeout(self.timeout, answer).await;
        // Where the time of a death goes: `LASTGASP_LOG=lastgasp::k8s=debug`.
        tracing::debug!(%what, took_us = asked.elapsed().as_micros() as u64, "asked");
        match answered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::from_kube(what.to_string(), error)),
            Err(_) => Err(Error::Timeout {
                what: what.to_string(),
                after: self.timeout,
            }),
        }
    }

    /// Asks whether the API server is ready.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        let ask = async {
            let request = Request::new("").get("readyz", &GetParams::default());
            let request = request.map_err(kube::Error::BuildRequest)?;
            self.client.request_text(request).await
        };
        self.call("get /readyz", ask).await.map(drop)
    }

    /// Opens `count` connections, or keeps them open: the server closes idle
    /// ones after 90 s, and a TLS handshake for each pod of a dead node is time
    /// that the pods do not have.
    pub(super) async fn warm(&self, count: usize) -> Result<(), Error> {
        let asked = join_all((0..count).map(|_| self.ready())).await;
        asked.into_iter().collect()
    }
}

async fn load(settings: &Settings) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let options = KubeConfigOptions {
        context: settings.context.clone(),
        ..KubeConfigOptions::default()
    };
    if let Some(path) = &settings.kubeconfig {
        let file = Kubeconfig::read_from(path)?;
        return Ok(Config::from_custom_kubeconfig(file, &options).await?);
    }
    if settings.context.is_some() {
        return Ok(Config::from_kubeconfig(&options).await?);
    }
    Ok(Config::infer().await?)
}
