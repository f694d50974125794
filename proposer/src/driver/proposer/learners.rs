//! How far each learner is, as the leader sees it.

use std::time::Duration;

use paxos::ids::{NodeId, Slot};
use paxos::proposer::Input;
use prometheus::IntGaugeVec;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Run;

/// A learner lags when it is this many instances behind, or has not answered for this long.
const LAGGING_SLOTS: u64 = 16_384;

const SILENT_LEARNER: Duration = Duration::from_secs(3);

/// How far a learner was when it last answered.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub(super) applied: Slot,
    pub(super) durable: Slot,
    pub(super) at: Instant,
}

impl Run {
    pub(super) fn set_learners(&mut self) {
        let learners = self.learners.iter().map(|link| link.node.id);
        self.telling.set_learners(learners);
    }

    /// Lets the acceptors forget what enough nodes have on disk, and says which learner lags.
    pub(super) fn watch_learners(&mut self, now: Instant) {
        if !self.core.is_leading() {
            self.progress.clear();
            self.lagging.clear();
            self.history.clear();
            for link in self.learners.iter() {
                self.show_lag(link.node.id, 0, Duration::ZERO);
            }
            return;
        }
        // A learner that left counts no longer: what it alone has is not safe.
        let learners = &self.learners;
        let listed = |id: &NodeId| learners.iter().any(|link| link.node.id == *id);
        for (gone, _) in self.progress.extract_if(.., |id, _| !listed(id)) {
            let gone = gone.to_string();
            // It may never have had a value.
            let _ = self.metrics.learner_lag.remove_label_values(&[&gone]);
            let _ = self
                .metrics
                .learner_lag_seconds
                .remove_label_values(&[&gone]);
        }
        self.lagging.retain(listed);
        if let Some(slot) = self.kept() {
            self.step(Input::Durable(slot));
        }
        let committed = self.core.committed();
        self.history.note(now, committed);
        for link in self.learners.iter() {
            let id = link.node.id;
            let progress = self.progress.get(&id);
            let behind = committed.0 - progress.map_or(0, |p| p.applied.0).min(committed.0);
            let silent = progress.is_none_or(|p| now - p.at > SILENT_LEARNER);
            let lags = silent || behind > LAGGING_SLOTS;
            let applied = progress.map_or(Slot::ZERO, |p| p.applied);
            self.show_lag(id, behind, self.history.age_of(applied.next(), now));
            if lags && self.lagging.insert(id) && now - self.led_since > SILENT_LEARNER {
                warn!(learner = %link.node, behind, silent, "a learner lags");
            } else if !lags && self.lagging.remove(&id) {
                info!(learner = %link.node, "a learner is level again");
            }
        }
    }

    pub(super) fn show_lag(&self, learner: NodeId, behind: u64, since: Duration) {
        let learner = learner.to_string();
        let set = |lag: &IntGaugeVec, value: u64| {
            lag.with_label_values(&[&learner]).set(value as i64);
        };
        set(&self.metrics.learner_lag, behind);
        set(&self.metrics.learner_lag_seconds, since.as_secs());
    }
}
