//! The pods of a node, asked for before they are needed: while the node's own
//! condition is written, or at an oops, after which a panic mostly follows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_core::model::{Death, DeathName};
use tokio::task::JoinHandle;

use super::client::Api;
use super::pods::{self, Freshness, Pod};

/// How long an answer is worth more than none. What changes on a node within
/// it is found by the look that follows the patches.
const FRESH: Duration = Duration::from_secs(1);

/// Most answers held, each of one node's pods: as many as deaths are written
/// at the same time.
const HELD_MAX: usize = 16;

/// What was asked for. Only a hint: whoever finds nothing here asks himself.
#[derive(Clone, Default)]
pub(super) struct Ahead(Arc<Mutex<BTreeMap<DeathName, Look>>>);

struct Look {
    since: Instant,
    pods: JoinHandle<Option<Vec<Pod>>>,
}

impl Look {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < FRESH
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.pods.abort();
    }
}

impl Ahead {
    /// Asks for the pods, unless that was done just now.
    pub(super) fn look(&self, api: &Api, death: &Death) {
        let mut looks = self.looks();
        looks.retain(|_, look| look.is_fresh());
        if looks.len() >= HELD_MAX || looks.contains_key(&death.name) {
            return;
        }
        let (api, node) = (api.clone(), death.node.clone());
        let pods = tokio::spawn(async move {
            // Whoever needs them asks again, and says what is wrong.
            pods::list(&api, &node, Freshness::AtHand).await.ok()
        });
        let since = Instant::now();
        looks.insert(death.name.clone(), Look { since, pods });
    }

    /// The pods, if they were asked for a moment ago.
    pub(super) async fn take(&self, death: &Death) -> Option<Vec<Pod>> {
        let look = self.looks().remove(&death.name);
        let mut look = look.filter(Look::is_fresh)?;
        (&mut look.pods).await.ok().flatten()
    }

    fn looks(&self) -> MutexGuard<'_, BTreeMap<DeathName, Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
