//! A circuit breaker: the outcomes of calls to one peer come in, leave to call comes out. Pure: the
//! time since some start and the jitter are arguments, so a simulator can drive it.
//!
//! A breaker spares a peer that is down and the callers that would wait for it. It may never be the
//! reason why a quorum does not form: see [`must_ignore`].

use std::time::Duration;

/// A breaker's figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Failures in a row that open it.
    pub failures_to_open: u32,
    /// How long it stays open the first time; twice as long after each failed probe.
    pub open_for: Duration,
    /// The most it stays open, before jitter.
    pub open_for_max: Duration,
    /// Successes in a row, one probe at a time, that close it again.
    pub successes_to_close: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            failures_to_open: 5,
            open_for: Duration::from_secs(30),
            open_for_max: Duration::from_secs(300),
            successes_to_close: 3,
        }
    }
}

/// How far [`Breaker::failed`] may move the end of the open time, as a fraction of it.
pub const JITTER: f64 = 0.1;

/// What a breaker does with calls, as metrics and `/status` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls go.
    Closed,
    /// No call goes.
    Open,
    /// One call at a time goes, as a probe.
    HalfOpen,
}

/// Leave for one call; its outcome goes back with it. Passes from before a change of state count no
/// more, so a late answer cannot close or open the wrong thing.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "give the call's outcome back"]
pub struct Pass {
    era: u64,
    probe: Option<u64>,
}

/// The breaker of one peer.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: Policy,
    phase: Phase,
    /// Counts the changes of state, which void the passes of the time before.
    era: u64,
    /// Probes sent, for their names.
    probes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        until: Duration,
        lasting: Duration,
    },
    HalfOpen {
        successes: u32,
        probe: Option<Probe>,
        /// How long the open time before was, before jitter.
        lasted: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Probe {
    name: u64,
    /// From then on it counts as lost, and another may go.
    deadline: Duration,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: Policy) -> Breaker {
        Breaker {
            policy,
            phase: Phase::Closed { failures: 0 },
            era: 0,
            probes: 0,
        }
    }

    /// The state at `now`. An open breaker whose time is up is half-open.
    pub fn state(&self, now: Duration) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { until, .. } if now < until => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Closed, and the last call did not fail: the only peers [`must_ignore`] counts on.
    pub fn is_healthy(&self) -> bool {
        self.phase == Phase::Closed { failures: 0 }
    }

    /// Leave for a call that ends within `timeout`; `None` says not to call.
    pub fn admit(&mut self, now: Duration, timeout: Duration) -> Option<Pass> {
        match self.phase {
            Phase::Closed { .. } => return Some(self.pass(None)),
            Phase::Open { until, .. } if now < until => return None,
            Phase::Open { lasting, .. } => self.enter(Phase::HalfOpen {
                successes: 0,
                probe: None,
                lasted: lasting,
            }),
            Phase::HalfOpen { .. } => {}
        }
        let Phase::HalfOpen { probe, .. } = &mut self.phase else {
            return None;
        };
        if probe.is_some_and(|probe| now < probe.deadline) {
            return None;
        }
        self.probes += 1;
        *probe = Some(Probe {
            name: self.probes,
            deadline: now.saturating_add(timeout),
        });
        Some(self.pass(Some(self.probes)))
    }

    /// Leave for a call that must be made whatever the state is. Its success counts as a probe's.
    pub fn force(&mut self) -> Pass {
        self.pass(None)
    }

    /// The call was answered.
    pub fn succeeded(&mut self, pass: Pass) {
        if !self.take(&pass) {
            return;
        }
        let needed = self.policy.successes_to_close;
        match &mut self.phase {
            Phase::Closed { failures } => *failures = 0,
            Phase::HalfOpen { successes, .. } if *successes + 1 < needed => *successes += 1,
            Phase::HalfOpen { .. } => self.close_early(),
            // Only a forced call gets through an open breaker.
            Phase::Open { .. } if needed <= 1 => self.close_early(),
            Phase::Open { lasting, .. } => {
                let lasted = *lasting;
                self.enter(Phase::HalfOpen {
                    successes: 1,
                    probe: None,
                    lasted,
                });
            }
        }
    }

    /// The call failed in a way that speaks against the peer: no connection, no answer in time, a
    /// server error. `jitter` from -1 to 1 moves the end of the open time by up to [`JITTER`] of it.
    pub fn failed(&mut self, pass: Pass, now: Duration, jitter: f64) {
        if !self.take(&pass) {
            return;
        }
        let lasting = match &mut self.phase {
            Phase::Closed { failures } if *failures + 1 < self.policy.failures_to_open => {
                *failures += 1;
                return;
            }
            Phase::Closed { .. } => self.policy.open_for,
            Phase::HalfOpen { lasted, .. } => lasted.saturating_mul(2),
            Phase::Open { .. } => return,
        };
        let lasting = lasting.min(self.policy.open_for_max);
        let until = now + lasting.mul_f64(1.0 + JITTER * jitter.clamp(-1.0, 1.0));
        self.enter(Phase::Open { until, lasting });
    }

    /// The call was never made, or given up for reasons of the caller's own.
    pub fn dropped(&mut self, pass: Pass) {
        self.take(&pass);
    }

    /// The peer showed by itself that it is there, by a heartbeat for one.
    pub fn close_early(&mut self) {
        self.enter(Phase::Closed { failures: 0 });
    }

    fn enter(&mut self, phase: Phase) {
        let same = std::mem::discriminant(&self.phase) == std::mem::discriminant(&phase);
        self.phase = phase;
        if !same {
            self.era += 1;
        }
    }

    fn pass(&self, probe: Option<u64>) -> Pass {
        Pass {
            era: self.era,
            probe,
        }
    }

    /// Ends the probe if the pass is its own. False if the pass no longer counts.
    fn take(&mut self, pass: &Pass) -> bool {
        if pass.era != self.era {
            return false;
        }
        match (&mut self.phase, pass.probe) {
            (Phase::HalfOpen { probe, .. }, Some(name)) => {
                let mine = probe.is_some_and(|probe| probe.name == name);
                if mine {
                    *probe = None;
                }
                mine
            }
            _ => true,
        }
    }
}

/// The quorum guard: whether a round of calls that needs `quorum` answers must go to all peers,
/// past their breakers. It must as soon as the peers with [`Breaker::is_healthy`] are too few.
///
/// Healthy is less than admitted: a peer that failed once, or that is being probed, is called but
/// not counted on. So a round that missed its quorum though enough peers live is followed by one
/// that asks every peer.
pub fn must_ignore(healthy: impl IntoIterator<Item = bool>, quorum: usize) -> bool {
    healthy.into_iter().filter(|healthy| *healthy).count() < quorum
}

#[cfg(test)]
mod tests;
