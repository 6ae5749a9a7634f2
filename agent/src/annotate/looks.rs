//! Looks at Leases, beside the loop: it waits for none of them.

use agent_core::model::{Lease, NodeName};
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::Executor;
use crate::k8s;

/// Looks that may wait: two seconds' worth of what the engine asks for.
const WAITING_MAX: usize = 128;
/// Looks at the same time.
const IN_FLIGHT: usize = 8;

/// What came of one look; no Lease if the API server did not answer.
pub(super) struct Look {
    pub(super) node: NodeName,
    pub(super) result: Result<Lease, k8s::Error>,
}

/// Whom to ask, and where the answers come out. Without a cluster there is
/// neither.
pub(super) struct Looks(Option<(mpsc::Sender<NodeName>, mpsc::Receiver<Look>)>);

impl Looks {
    /// Starts a task that looks.
    pub(super) fn start(executor: &Executor) -> Self {
        let Executor::Kubernetes(writer) = executor.clone() else {
            return Self(None);
        };
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        let (tell, told) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let nodes = stream::unfold(asked, |mut asked: mpsc::Receiver<NodeName>| async {
                asked.recv().await.map(|node| (node, asked))
            });
            let look = |node: NodeName| {
                let writer = &writer;
                async move {
                    let result = writer.lease(&node).await;
                    Look { node, result }
                }
            };
            let mut looks = std::pin::pin!(nodes.map(look).buffer_unordered(IN_FLIGHT));
            while let Some(look) = looks.next().await {
                if tell.send(look).await.is_err() {
                    return;
                }
            }
        });
        Self(Some((ask, told)))
    }

    /// Asks for a look. False if too many wait already; the engine asks again.
    pub(super) fn ask(&self, node: NodeName) -> bool {
        self.0
            .as_ref()
            .is_some_and(|(ask, _)| ask.try_send(node).is_ok())
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Look {
        if let Some((_, told)) = &mut self.0
            && let Some(look) = told.recv().await
        {
            return look;
        }
        std::future::pending().await
    }
}
