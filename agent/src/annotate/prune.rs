//! When old records are dropped from the store: every hour, turn by turn, beside the loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{now, until};
use crate::store::{self, Dropped, Round, Store};
use crate::telemetry::{Metrics, with_causes};

/// How long after its start, so that one that never runs for an hour drops them as well.
const FIRST: Duration = Duration::from_secs(60);
/// From the end of a round to the next.
const EVERY: Duration = Duration::from_secs(3_600);
/// The same where the store takes nothing.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two turns: the store is for others most of the time.
const PAUSE: Duration = Duration::from_millis(20);

/// A turn that ended: its round, and whether more is to come.
pub(super) type Turn = (Round, Result<bool, store::Error>);

/// Rounds over the store.
pub(super) struct Pruning {
    due: Instant,
    round: Option<Round>,
    turn: Option<JoinHandle<Turn>>,
    /// What of the round is counted.
    counted: Dropped,
}

impl Pruning {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::now() + FIRST,
            round: None,
            turn: None,
            counted: Dropped::default(),
        }
    }

    /// Waits for the end of a turn, which begins when it is due. Nothing is lost where
    /// nobody waits any more. `None` if the turn panicked.
    pub(super) async fn next(&mut self, store: &Arc<Store>) -> Option<Turn> {
        if self.turn.is_none() {
            until(Some(self.due)).await;
        }
        let turn = self.turn.get_or_insert_with(|| {
            let store = Arc::clone(store);
            let round = self.round.take();
            let mut round = round.unwrap_or_else(|| Round::new(now()));
            tokio::task::spawn_blocking(move || {
                let more = store.prune_turn(&mut round);
                (round, more)
            })
        });
        let ended = turn.await;
        self.turn = None;
        ended.ok()
    }

    /// Counts what a turn dropped, and says when the next is.
    pub(super) fn ended(&mut self, turn: Option<Turn>, metrics: &Metrics) {
        let before = std::mem::take(&mut self.counted).named();
        let Some((round, more)) = turn else {
            self.due = Instant::now() + AGAIN;
            return;
        };
        let dropped = round.dropped.named();
        for ((what, all), (_, counted)) in dropped.into_iter().zip(before) {
            metrics.lost(what, all.saturating_sub(counted));
        }
        let wait = match more {
            Ok(true) => {
                self.counted = round.dropped;
                self.round = Some(round);
                PAUSE
            }
            Ok(false) => {
                if round.dropped != Dropped::default() {
                    tracing::info!(dropped = ?round.dropped, "old records dropped");
                }
                EVERY
            }
            Err(error) => {
                metrics.lost("store_write_failed", 1);
                tracing::warn!(why = with_causes(&error), "old records are not dropped");
                AGAIN
            }
        };
        self.due = Instant::now() + wait;
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::{BootId, Line, NodeName, Timestamp};

    use super::*;
    use crate::store::{BootLines, Change};

    #[tokio::test]
    async fn a_round_is_taken_turn_by_turn_and_each_loss_is_counted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("a.db")).expect("opens");
        let line = |seq| Line {
            seq,
            mono_ns: seq,
            cpu: 0,
            level: None,
            continues: false,
            text: "a line of a boot that nobody died of".into(),
        };
        let lines = BootLines {
            node: NodeName::new("w01").expect("a DNS label"),
            boot: BootId([1; 16]),
            session: 1,
            lines: (0..3_000).map(line).collect(),
        };
        let change = Change {
            lines: vec![lines],
            ..Change::default()
        };
        store.commit(Timestamp(1), &change).expect("fits");
        let (store, metrics) = (Arc::new(store), Metrics::new());
        let mut pruning = Pruning::new();
        let mut turns = 0;
        loop {
            pruning.due = Instant::now();
            let turn = pruning.next(&store).await;
            pruning.ended(turn, &metrics);
            turns += 1;
            if pruning.round.is_none() {
                break;
            }
            let wait = pruning.due.saturating_duration_since(Instant::now());
            assert!(wait <= PAUSE, "a round that has begun goes on: {wait:?}");
        }
        assert!(turns > 6, "{turns} turns for 3,000 lines");
        assert!(pruning.due > Instant::now() + EVERY / 2);
        let text = metrics.text().expect("text");
        let counted = "lastgasp_losses_total{result=\"stored_lines\"} 3000";
        assert!(text.contains(counted), "{text}");
        assert_eq!(store.lines_kept().expect("readable"), 0);
    }
}
