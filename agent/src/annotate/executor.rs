//! Carrying an action out: into a cluster, or into the store alone.

use std::sync::Arc;
use std::time::Duration;

use agent_core::engine::{self, Action, Keys};
use agent_core::model::Death;

use super::now;
use crate::k8s::{self, Ineligible, PodOutcome, PodResult, Writer};
use crate::store::{PodNote, Store};

/// Where actions go.
#[derive(Clone)]
pub enum Executor {
    /// No cluster: what would be written on pods is kept in the store.
    Standalone,
    /// A cluster.
    Kubernetes(Writer),
}

/// Why an action is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Kubernetes(#[from] k8s::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error("the task that carried the action out ended early")]
    Lost,
}

impl Error {
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Kubernetes(error) => error.retry_after(),
            Self::Store(_) | Self::Lost => None,
        }
    }

    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Kubernetes(error) => error.is_transient(),
            Self::Store(_) | Self::Lost => true,
        }
    }
}

/// What came of the pods, also when the action as a whole failed.
pub(super) struct Tried {
    pub(super) pods: Vec<&'static str>,
    pub(super) result: Result<(), Error>,
}

impl Executor {
    /// Tries an action once.
    pub(super) async fn carry_out(
        &self,
        store: &Arc<Store>,
        keys: &Keys,
        action: &Action,
        death: &Arc<Death>,
    ) -> Tried {
        let mut pods = Vec::new();
        let result = match (self, action) {
            (_, Action::AnnotatePods(_)) => self.annotate(store, keys, death, &mut pods).await,
            (Self::Kubernetes(writer), Action::MarkNode(_)) => {
                writer.mark_node(death).await.map_err(Error::from)
            }
            (Self::Kubernetes(writer), Action::ReportOops(_)) => {
                writer.report_oops(death).await.map_err(Error::from)
            }
            (Self::Kubernetes(writer), Action::UpdateRecord(_)) => {
                writer.update_record(death).await.map_err(Error::from)
            }
            (Self::Kubernetes(writer), Action::NodeReturned(_)) => {
                writer.node_returned(death).await.map_err(Error::from)
            }
            (Self::Kubernetes(writer), Action::Revoke(_)) => {
                let written = engine::annotations(death, keys);
                match writer.revoke(death, &written).await {
                    Ok(()) => forget(store, death).await,
                    Err(error) => Err(error.into()),
                }
            }
            (Self::Standalone, Action::Revoke(_)) => forget(store, death).await,
            // The record of the death says it all.
            (
                Self::Standalone,
                Action::MarkNode(_)
                | Action::ReportOops(_)
                | Action::UpdateRecord(_)
                | Action::NodeReturned(_),
            ) => Ok(()),
        };
        Tried { pods, result }
    }

    async fn annotate(
        &self,
        store: &Arc<Store>,
        keys: &Keys,
        death: &Arc<Death>,
        pods: &mut Vec<&'static str>,
    ) -> Result<(), Error> {
        let content = engine::annotations(death, keys);
        let mut notes = Vec::new();
        let result = match self {
            Self::Kubernetes(writer) => writer
                .annotate_pods(death, &content, |outcome| {
                    pods.push(result_word(&outcome.result));
                    notes.extend(note(outcome));
                })
                .await
                .map(drop)
                .map_err(Error::from),
            Self::Standalone => {
                let (from, of) = (Arc::clone(store), Arc::clone(death));
                let known = blocking(move || from.pods_of(&of.node, of.boot)).await?;
                pods.extend(known.iter().map(|_| "recorded"));
                notes.extend(known.into_iter().map(|pod| PodNote {
                    pod,
                    owner: None,
                    outcome: "recorded".to_owned(),
                    at: now(),
                }));
                Ok(())
            }
        };
        if !notes.is_empty() {
            let (to, name) = (Arc::clone(store), death.name.clone());
            let stored = blocking(move || to.note_pods(&name, &content, &notes)).await;
            // Without its pods in the store `why` cannot answer for them.
            return result.and(stored);
        }
        result
    }
}

async fn forget(store: &Arc<Store>, death: &Arc<Death>) -> Result<(), Error> {
    let (store, death) = (Arc::clone(store), Arc::clone(death));
    blocking(move || store.forget_pods(&death.name)).await
}

/// Runs a call to the store where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, crate::store::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::Lost),
    }
}

fn result_word(result: &PodResult) -> &'static str {
    match result {
        PodResult::Annotated => "annotated",
        PodResult::Already => "already",
        PodResult::Gone => "gone",
        PodResult::Skipped(_) => "skipped",
        PodResult::Refused(_) => "refused",
        PodResult::Later(_) => "later",
    }
}

/// What to remember of a pod. Of one that was told earlier, what was
/// remembered then stays true.
fn note(outcome: PodOutcome) -> Option<PodNote> {
    let text = match outcome.result {
        // It was never on the node that died; or it is not settled yet.
        PodResult::Skipped(Ineligible::Later) | PodResult::Later(_) => return None,
        PodResult::Annotated | PodResult::Already => "annotated".to_owned(),
        PodResult::Gone => "gone".to_owned(),
        PodResult::Skipped(why) => format!("skipped: {why:?}"),
        PodResult::Refused(why) => format!("refused: {why}"),
    };
    Some(PodNote {
        pod: outcome.pod,
        owner: outcome.owner.map(|owner| (owner.kind, owner.name)),
        outcome: text,
        at: now(),
    })
}
