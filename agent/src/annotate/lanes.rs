//! Which action runs when: in order for one death, side by side for many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::engine::Action;
use agent_core::model::{Death, DeathName};

use crate::store::Task;

/// Deaths that are written at the same time.
const SIDE_BY_SIDE: usize = 16;
/// First wait after a failure; doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait after a failure: what a server that is back waits for us.
const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// Longest wait that a server can ask for.
const ASKED_MAX: Duration = Duration::from_secs(30);
/// Failures after which the pods no longer wait for the node's mark: a missing
/// right on nodes must not keep the reason from the pods.
const PATIENCE: u32 = 3;

/// Deaths of which it is remembered that their node is marked.
const MARKED_MAX: usize = 1_024;

#[derive(Debug)]
struct Lane {
    death: Arc<Death>,
    tasks: VecDeque<Task>,
    running: bool,
    due: Instant,
}

impl Lane {
    fn is_mark_before_pods(&self) -> bool {
        let mut actions = self.tasks.iter().map(|task| &task.action);
        matches!(
            (actions.next(), actions.next()),
            (Some(Action::MarkNode(_)), Some(Action::AnnotatePods(_)))
        )
    }
}

/// The queues of all deaths. As many as the engine holds deaths.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    by_death: BTreeMap<DeathName, Lane>,
    running: usize,
    /// Whose node is marked: another mark only says more, and pods need not wait
    /// for it.
    marked: BTreeSet<DeathName>,
}

impl Lanes {
    /// Puts a task at the end of its death's queue, and takes out what it makes
    /// pointless.
    pub(super) fn push(&mut self, death: &Arc<Death>, task: Task, now: Instant) {
        let lane = self
            .by_death
            .entry(death.name.clone())
            .or_insert_with(|| Lane {
                death: Arc::clone(death),
                tasks: VecDeque::new(),
                running: false,
                due: now,
            });
        lane.death = Arc::clone(death);
        // The first one of a running lane is being carried out.
        let fixed = usize::from(lane.running);
        let mut at = 0;
        lane.tasks.retain(|other| {
            at += 1;
            at <= fixed || !task.action.supersedes(&other.action)
        });
        lane.tasks.push_back(task);
        if !lane.running {
            // New knowledge is a reason to try at once.
            lane.due = now;
        }
    }

    /// More is known of a death: what still waits is to say it.
    pub(super) fn refresh(&mut self, death: &Arc<Death>) {
        if let Some(lane) = self.by_death.get_mut(&death.name) {
            lane.death = Arc::clone(death);
        }
    }

    /// Takes what is to be carried out now.
    pub(super) fn start(&mut self, now: Instant) -> Vec<(Task, Arc<Death>)> {
        let mut started = Vec::new();
        for (name, lane) in &mut self.by_death {
            if self.running >= SIDE_BY_SIDE {
                break;
            }
            if lane.running || lane.due > now {
                continue;
            }
            if self.marked.contains(name) && lane.is_mark_before_pods() {
                lane.tasks.swap(0, 1);
            }
            if let Some(task) = lane.tasks.front() {
                lane.running = true;
                self.running += 1;
                started.push((task.clone(), Arc::clone(&lane.death)));
            }
        }
        started
    }

    /// When the next task becomes due, if one waits for its time.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.running >= SIDE_BY_SIDE {
            return None;
        }
        let idle = self.by_death.values().filter(|lane| !lane.running);
        idle.map(|lane| lane.due).min()
    }

    /// The first task of this death is done.
    pub(super) fn done(&mut self, death: &DeathName, now: Instant) {
        let Some(lane) = self.by_death.get_mut(death) else {
            return;
        };
        let task = lane.tasks.pop_front();
        lane.running = false;
        lane.due = now;
        self.running -= 1;
        if lane.tasks.is_empty() {
            self.by_death.remove(death);
        }
        match task.map(|task| task.action) {
            Some(Action::MarkNode(name)) => {
                if self.marked.len() >= MARKED_MAX {
                    self.marked.pop_first();
                }
                self.marked.insert(name);
            }
            Some(Action::Revoke(_) | Action::NodeReturned(_)) => {
                self.marked.remove(death);
            }
            Some(Action::AnnotatePods(_) | Action::ReportOops(_) | Action::UpdateRecord(_))
            | None => {}
        }
    }

    /// The first task of this death failed. Gives how often, and the wait.
    pub(super) fn failed(
        &mut self,
        death: &DeathName,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<(u32, Duration)> {
        let lane = self.by_death.get_mut(death)?;
        lane.running = false;
        self.running -= 1;
        let task = lane.tasks.front_mut()?;
        task.attempts = task.attempts.saturating_add(1);
        let attempts = task.attempts;
        let pods_wait = lane
            .tasks
            .get(1)
            .is_some_and(|next| matches!(next.action, Action::AnnotatePods(_)));
        let wait = if attempts >= PATIENCE && pods_wait {
            lane.tasks.swap(0, 1);
            Duration::ZERO
        } else {
            retry_after.map_or_else(|| backoff(attempts), |asked| asked.min(ASKED_MAX))
        };
        lane.due = now + wait;
        Some((attempts, wait))
    }

    /// Tasks that are not done.
    pub(super) fn waiting(&self) -> usize {
        self.by_death.values().map(|lane| lane.tasks.len()).sum()
    }
}

/// Doubling, and somewhere in the upper half, so that those who failed
/// together do not come back together.
fn backoff(attempts: u32) -> Duration {
    let full = BACKOFF_FIRST
        .saturating_mul(1 << attempts.saturating_sub(1).min(16))
        .min(BACKOFF_MAX);
    let half_ms = (full.as_millis() as u64) / 2;
    // The standard library's per-process random keys are random enough.
    let random = RandomState::new().hash_one(attempts);
    Duration::from_millis(half_ms + random % (half_ms + 1))
}

#[cfg(test)]
mod tests {
    use agent_core::model::{BootId, DeathState, NodeName, Notice, Opinion, Proof, Timestamp};

    use super::*;

    fn death(node: &str) -> Arc<Death> {
        let node = NodeName::new(node).expect("a DNS label");
        let boot = BootId([1; 16]);
        Arc::new(Death {
            name: DeathName::of(&node, boot),
            node,
            node_uid: None,
            boot,
            state: DeathState::Dead,
            proof: Proof::P2,
            notice: Some(Notice::Panic),
            word: None,
            packet: None,
            report: None,
            detected_at: Timestamp(0),
            happened_at: Timestamp(0),
            evidence: Vec::new(),
            steps: Vec::new(),
            channels: Vec::new(),
            lease: Opinion::Open,
            kernel_release: None,
        })
    }

    fn push(lanes: &mut Lanes, death: &Arc<Death>, make: fn(DeathName) -> Action, now: Instant) {
        let task = Task {
            id: 0,
            action: make(death.name.clone()),
            attempts: 0,
        };
        lanes.push(death, task, now);
    }

    fn words(started: &[(Task, Arc<Death>)]) -> Vec<&'static str> {
        started.iter().map(|(task, _)| task.action.word()).collect()
    }

    #[test]
    fn one_death_in_order_and_many_side_by_side() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let (a, b) = (death("a"), death("b"));
        for d in [&a, &b] {
            push(&mut lanes, d, Action::MarkNode, now);
            push(&mut lanes, d, Action::AnnotatePods, now);
        }
        assert_eq!(words(&lanes.start(now)), ["MarkNode", "MarkNode"]);
        assert!(lanes.start(now).is_empty());
        lanes.done(&a.name, now);
        assert_eq!(words(&lanes.start(now)), ["AnnotatePods"]);
        lanes.done(&a.name, now);
        assert_eq!(lanes.waiting(), 2);
    }

    #[test]
    fn what_is_wanted_again_runs_once_more_and_not_twice() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let a = death("a");
        push(&mut lanes, &a, Action::MarkNode, now);
        assert_eq!(lanes.start(now).len(), 1);
        for _ in 0..3 {
            push(&mut lanes, &a, Action::MarkNode, now);
        }
        assert_eq!(lanes.waiting(), 2, "the running one and one more");
    }

    #[test]
    fn pods_wait_for_the_first_mark_and_not_for_one_that_says_more() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let a = death("a");
        push(&mut lanes, &a, Action::MarkNode, now);
        assert_eq!(words(&lanes.start(now)), ["MarkNode"]);
        lanes.done(&a.name, now);
        let more = |lanes: &mut Lanes| {
            push(lanes, &a, Action::MarkNode, now);
            push(lanes, &a, Action::AnnotatePods, now);
        };
        more(&mut lanes);
        for expected in ["AnnotatePods", "MarkNode"] {
            assert_eq!(words(&lanes.start(now)), [expected]);
            lanes.done(&a.name, now);
        }
        // The mark is taken off: the next one is a first one.
        push(&mut lanes, &a, Action::Revoke, now);
        assert_eq!(words(&lanes.start(now)), ["Revoke"]);
        lanes.done(&a.name, now);
        more(&mut lanes);
        assert_eq!(words(&lanes.start(now)), ["MarkNode"]);
    }

    #[test]
    fn a_revocation_takes_the_place_of_what_waits() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let a = death("a");
        push(&mut lanes, &a, Action::MarkNode, now);
        push(&mut lanes, &a, Action::AnnotatePods, now);
        lanes.start(now);
        push(&mut lanes, &a, Action::Revoke, now);
        lanes.done(&a.name, now);
        assert_eq!(words(&lanes.start(now)), ["Revoke"]);
    }

    #[test]
    fn failures_wait_longer_and_longer_and_not_for_ever() {
        let (mut lanes, start) = (Lanes::default(), Instant::now());
        let a = death("a");
        push(&mut lanes, &a, Action::AnnotatePods, start);
        let mut now = start;
        for attempt in 1..40 {
            assert_eq!(lanes.start(now).len(), 1);
            let (n, wait) = lanes.failed(&a.name, None, now).expect("it ran");
            assert_eq!(n, attempt);
            assert!(wait >= BACKOFF_FIRST / 2 && wait <= BACKOFF_MAX, "{wait:?}");
            assert!(lanes.start(now).is_empty(), "not before its time");
            now = lanes.next_due().expect("it waits");
        }
    }

    #[test]
    fn pods_do_not_wait_for_ever_for_a_node_that_cannot_be_marked() {
        let (mut lanes, mut now) = (Lanes::default(), Instant::now());
        let a = death("a");
        push(&mut lanes, &a, Action::MarkNode, now);
        push(&mut lanes, &a, Action::AnnotatePods, now);
        for _ in 0..PATIENCE {
            assert_eq!(words(&lanes.start(now)), ["MarkNode"]);
            lanes.failed(&a.name, None, now);
            now = lanes.next_due().expect("it waits");
        }
        assert_eq!(words(&lanes.start(now)), ["AnnotatePods"]);
        lanes.done(&a.name, now);
        assert_eq!(words(&lanes.start(now)), ["MarkNode"]);
    }
}
