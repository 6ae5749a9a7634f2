//! What the cluster tells beside what is written to it: Leases that were asked
//! for, and nodes that are gone. The loop waits for none of it.

use agent_core::engine::Input;
use agent_core::model::{Lease, NodeName, SeenObject};
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::{Annotator, BATCH, Executor, now};
use crate::k8s;
use crate::store::Change;
use crate::telemetry::with_causes;

/// What may wait, to be asked and to be told: two seconds' worth of what the
/// engine asks for.
const WAITING_MAX: usize = 128;
/// Looks at Leases at the same time.
const IN_FLIGHT: usize = 8;

/// One thing that the cluster told.
pub(super) enum Told {
    /// A look at a Lease; an error if the API server did not answer.
    Lease(NodeName, Result<Lease, k8s::Error>),
    /// Of a Node object; an error if they cannot be watched for now.
    Node(Result<k8s::Told, k8s::Error>),
}

/// The cluster, if there is one.
pub(super) struct Cluster(Option<Ways>);

struct Ways {
    ask: mpsc::Sender<NodeName>,
    leases: mpsc::Receiver<(NodeName, Result<Lease, k8s::Error>)>,
    nodes: mpsc::Receiver<Result<k8s::Told, k8s::Error>>,
}

impl Cluster {
    /// Starts what looks and watches; `objects` are the Node objects that were there
    /// when an annotator looked last.
    pub(super) fn start(executor: &Executor, objects: Vec<SeenObject>) -> Self {
        let Executor::Kubernetes(writer) = executor else {
            return Self(None);
        };
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        let (tell, leases) = mpsc::channel(WAITING_MAX);
        tokio::spawn(look(writer.clone(), asked, tell));
        let (tell, nodes) = mpsc::channel(WAITING_MAX);
        tokio::spawn(writer.clone().watch_nodes(objects, tell));
        Self(Some(Ways { ask, leases, nodes }))
    }

    /// Asks for a look at a Lease. False if too many wait already; the engine
    /// asks again.
    pub(super) fn look(&self, node: NodeName) -> bool {
        let ways = self.0.as_ref();
        ways.is_some_and(|ways| ways.ask.try_send(node).is_ok())
    }

    /// The next thing that it tells.
    pub(super) async fn next(&mut self) -> Told {
        if let Some(ways) = &mut self.0 {
            tokio::select! {
                Some((node, lease)) = ways.leases.recv() => return Told::Lease(node, lease),
                Some(node) = ways.nodes.recv() => return Told::Node(node),
                else => {}
            }
        }
        std::future::pending().await
    }
}

async fn look(
    writer: k8s::Writer,
    asked: mpsc::Receiver<NodeName>,
    tell: mpsc::Sender<(NodeName, Result<Lease, k8s::Error>)>,
) {
    let nodes = stream::unfold(asked, |mut asked| async {
        asked.recv().await.map(|node| (node, asked))
    });
    let look = |node: NodeName| {
        let writer = &writer;
        async move {
            let lease = writer.lease(&node).await;
            (node, lease)
        }
    };
    let mut looks = std::pin::pin!(nodes.map(look).buffer_unordered(IN_FLIGHT));
    while let Some(look) = looks.next().await {
        if tell.send(look).await.is_err() {
            return;
        }
    }
}

impl Annotator {
    /// The cluster told something.
    pub(super) async fn told(&mut self, told: Told) {
        let (input, pods) = match told {
            Told::Lease(node, Ok(lease)) => {
                self.metrics.looked(match lease {
                    Lease::Found { .. } => "found",
                    Lease::Missing => "missing",
                    Lease::Denied(_) => "denied",
                });
                (Input::Leased { node, lease }, Vec::new())
            }
            Told::Lease(node, Err(error)) => {
                self.metrics.looked("failed");
                tracing::debug!(%node, cause = with_causes(&error), "no look at its Lease");
                return;
            }
            Told::Node(Ok(k8s::Told::Found {
                node,
                addresses,
                mitigated,
            })) => {
                if mitigated && !self.mitigations.shown(&node) {
                    self.metrics.lost("mitigation_not_told", 1);
                }
                // Gasps may come by another way than netconsole, or not have come yet.
                for address in addresses {
                    self.addresses.learn(address, &node, now());
                }
                return;
            }
            Told::Node(Ok(k8s::Told::Seen(seen))) => {
                // A first list has all of them: together they are one transaction.
                self.objects.push(seen);
                if self.objects.len() >= BATCH {
                    let change = self.seen_objects();
                    self.commit(change).await;
                }
                return;
            }
            Told::Node(Ok(k8s::Told::Complete(at))) => {
                let mut change = self.seen_objects();
                change.watched = Some(at);
                self.commit(change).await;
                return;
            }
            Told::Node(Ok(k8s::Told::Gone(gone))) => {
                self.mitigations.forget(&gone.deleted.node);
                (Input::NodeDeleted(Box::new(gone.deleted)), gone.pods)
            }
            Told::Node(Err(error)) => {
                self.metrics.lost("node_watch_failed", 1);
                let cause = with_causes(&error);
                tracing::warn!(cause, "nodes cannot be watched for now: one may go unseen");
                return;
            }
        };
        let mut change = self.seen_objects();
        let said = self.engine.step(now(), input);
        self.collect(said, &mut change);
        if let Some((_, kept)) = change.removals.last_mut() {
            *kept = pods;
        }
        self.commit(change).await;
    }

    /// A change with what nodes have shown since the last one: what is gone must
    /// not be stored behind the record that it is.
    pub(super) fn seen_objects(&mut self) -> Change {
        Change {
            objects: std::mem::take(&mut self.objects),
            ..Change::default()
        }
    }
}
