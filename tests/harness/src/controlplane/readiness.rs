//! Whether the API server answers.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{GetParams, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Whether `/readyz` says yes to the user of this kubeconfig.
pub(super) fn is_ready(kubeconfig: &Path) -> bool {
    // A thread of its own: the caller may be inside a runtime, where another
    // one can neither run nor be dropped.
    thread::scope(|scope| {
        let asked = scope.spawn(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("no runtime")?;
            let limit = Duration::from_secs(2);
            runtime.block_on(async { tokio::time::timeout(limit, ask(kubeconfig)).await })?
        });
        matches!(asked.join(), Ok(Ok(())))
    })
}

async fn ask(kubeconfig: &Path) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let request = Request::new("").get("readyz", &GetParams::default());
    let answer = client.request_text(request?).await?;
    ensure!(answer == "ok", "not ready");
    Ok(())
}
