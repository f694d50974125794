//! Whether what this learner has applied is what the acceptors have chosen.
//!
//! A leader sends what is chosen, so a value sent again is the same value. One that is not comes from
//! acceptors that were set back in time and now choose again, or from a sender that is no leader. The
//! acceptors decide which: while they are asked, nothing is applied and no outcome is sent. If they
//! have what was applied here, the message is refused and its sender named; if they have something
//! else, or nothing, this learner stops for good.
//!
//! Nobody need tell anything wrong, so a sample of what was applied is compared with the acceptors'
//! votes as well: the newest slot when it has changed, and else one of those remembered.

use std::time::{Duration, Instant};

use api::status::HaltReason;
use paxos::codec::NodeName;
use paxos::ids::{NodeId, Slot};
use paxos::message::{Learn, Message, Reply};
use paxos::verify::{Verdict, Verify};
use rand::Rng;
use tracing::{debug, error, warn};

use super::Run;
use super::handle::Ask;
use crate::driver::halt;
use crate::peers::{Breakers, Lane};

/// Between two samples while the log grows, and while it does not.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const IDLE_EVERY: Duration = Duration::from_secs(10);
/// How long acceptors may take over a question before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The most that samples may read of each acceptor, bytes a second.
const SAMPLE_BYTES: u64 = 256 << 10;
/// Samples go this far back: acceptors forget older ones when learners have them.
const SAMPLE_SLOTS: u64 = 8192;

/// What is known of it.
pub(super) struct Truth {
    /// The question that is open.
    open: Option<Open>,
    /// The next sample, at the earliest.
    sample_at: Instant,
    /// The newest slot that was asked for.
    sampled: Slot,
}

struct Open {
    verify: Verify,
    asked: Instant,
    /// Who said something else there; `None` for a sample.
    told_by: Option<NodeName>,
}

impl Truth {
    /// Nothing is known yet.
    pub(super) fn new(now: Instant) -> Truth {
        Truth {
            open: None,
            sample_at: now + SAMPLE_EVERY,
            sampled: Slot::ZERO,
        }
    }

    /// Whether somebody has said something else, and the acceptors are being asked who is right.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.told_by.is_some())
    }
}

impl Run {
    /// Whether a message says of what is applied here what was applied. If not, the acceptors are
    /// asked, and until they have answered nothing is taken.
    pub(super) fn is_told_the_same(&mut self, learn: &Learn, from: NodeName) -> bool {
        if self.truth.is_in_doubt() {
            return false;
        }
        if learn.values.is_empty() || learn.first > self.applied {
            return true;
        }
        let compared = self.handle.state().digests.compare(learn);
        let other = compared.other.map(|slot| {
            let digests = &self.handle.state().digests;
            (slot, digests.of(slot).unwrap_or_default())
        });
        let older = || self.older_differs(learn, compared.unknown?);
        let Some((slot, mine)) = other.or_else(older) else {
            return true;
        };
        warn!(
            from = %from,
            instance = slot.0,
            "it says that another value was chosen than the one applied here: asking the acceptors"
        );
        self.ask(slot, mine, Some(from));
        false
    }

    /// The first slot of a range that is in the log on disk alone and holds something else there.
    fn older_differs(&mut self, learn: &Learn, (first, last): (Slot, Slot)) -> Option<(Slot, u64)> {
        let mut next = first;
        while next <= last {
            // What the log no longer has cannot be compared. No outcome is sent for it either.
            let entries = self.older(next, 1 << 20).ok()?;
            for entry in entries.iter().filter(|entry| entry.slot <= last) {
                let told = learn.values.get((entry.slot.0 - learn.first.0) as usize);
                if told.is_some_and(|told| *told != entry.value) {
                    return Some((entry.slot, entry.value.checksum()));
                }
            }
            next = entries.last()?.slot.next();
        }
        None
    }

    fn ask(&mut self, slot: Slot, mine: u64, told_by: Option<NodeName>) {
        let verify = Verify::new(self.members, slot, mine);
        self.question(&verify);
        let asked = Instant::now();
        self.truth.open = Some(Open {
            verify,
            asked,
            told_by,
        });
    }

    fn question(&self, verify: &Verify) {
        let frame = self.me.frame(Message::Request(verify.request()));
        for link in self.acceptors.iter().cloned() {
            let (frame, handle) = (frame.clone(), self.handle.clone());
            self.runtime.spawn(async move {
                let asked = link.ask(Lane::Bulk, frame, ASK_AGAIN, Breakers::Ignore);
                match asked.await {
                    Ok(Message::Reply(reply)) => {
                        let from = link.node.id;
                        // Full: it is asked again.
                        let _ = handle.send(Ask::Fetched { from, reply });
                    }
                    Ok(_) => debug!(acceptor = %link.node, "no answer to a question"),
                    Err(error) => debug!(acceptor = %link.node, %error, "does not say what it has"),
                }
            });
        }
    }

    /// Takes an acceptor's answer, if it is to the question that is open.
    pub(super) fn heard(&mut self, from: NodeId, reply: &Reply) {
        let Some(open) = &mut self.truth.open else {
            return;
        };
        if let Some(verdict) = open.verify.answer(from, reply) {
            self.judge(verdict);
        }
    }

    fn judge(&mut self, verdict: Verdict) {
        let Some(open) = self.truth.open.take() else {
            return;
        };
        let (slot, told_by) = (open.verify.slot(), open.told_by);
        let checks = &self.metrics.vote_checks;
        checks.with_label_values(&[verdict.name()]).inc();
        match (verdict, told_by) {
            (Verdict::Same, None) | (Verdict::Forgotten, None) => {}
            (Verdict::Same | Verdict::Forgotten, Some(sender)) => {
                self.metrics.learns_refused.inc();
                let acceptors = match verdict {
                    Verdict::Same => "have what was applied here",
                    _ => "have forgotten the instance, as enough learners have it",
                };
                error!(
                    from = %sender,
                    instance = slot.0,
                    "a message about another value is refused: the acceptors {acceptors}. Its \
                     sender is no leader of this cluster"
                );
            }
            (Verdict::Other(_), _) => self.contradicted(&format!(
                "a quorum of acceptors has another value in instance {slot}. Either the acceptors' \
                 disks were set back in time, or this learner received what was never chosen. \
                 Compare the learners' /instance/{slot} before any disk is replaced (runbook \
                 PaxosContradiction)"
            )),
            (Verdict::NoVote, _) => self.contradicted(&format!(
                "a quorum of acceptors has no vote in instance {slot}, which is applied here. \
                 Either the acceptors' disks were set back in time: give them their newest ones; or \
                 this learner received what was never chosen (runbook PaxosContradiction)"
            )),
        }
    }

    /// Whether it tells nobody what came of anything: what it has applied may be wrong.
    pub(super) fn is_mute(&self) -> bool {
        let halt = self.handle.halt();
        self.truth.is_in_doubt() || halt.is_some_and(|halt| halt.reason == HaltReason::Contradicted)
    }

    fn contradicted(&mut self, how: &str) {
        self.metrics.contradicted.set(1);
        self.halt(halt::contradicted(how));
    }

    /// Asks again what was not answered, and takes a sample now and then.
    pub(super) fn tick_truth(&mut self, now: Instant) {
        if self.is_halted() {
            return;
        }
        if let Some(open) = &mut self.truth.open {
            if now - open.asked < ASK_AGAIN {
                return;
            }
            open.asked = now;
            // A sample can wait: nobody has said anything else.
            match open.told_by {
                None => self.truth.open = None,
                Some(_) => match open.verify.give_up() {
                    Some(verdict) => self.judge(verdict),
                    None => {
                        let verify = open.verify.clone();
                        self.question(&verify);
                    }
                },
            }
            return;
        }
        // A quorum by a list of another length proves nothing against this disk.
        if now < self.truth.sample_at || !self.me.may_learn() {
            return;
        }
        let is_newer = self.applied > self.truth.sampled;
        let sample = {
            let state = self.handle.state();
            let slot = match (is_newer, state.digests.known()) {
                (_, None) => None,
                (true, Some(_)) => Some(self.applied),
                (false, Some((first, last))) => {
                    let first = first.0.max(last.0.saturating_sub(SAMPLE_SLOTS));
                    Some(Slot(rand::rng().random_range(first..=last.0)))
                }
            };
            slot.and_then(|slot| Some((slot, state.digests.of(slot)?)))
        };
        let Some((slot, mine)) = sample else {
            self.truth.sample_at = now + SAMPLE_EVERY;
            return;
        };
        self.truth.sampled = self.truth.sampled.max(slot);
        let pause = if is_newer { SAMPLE_EVERY } else { IDLE_EVERY };
        let bytes = mine & 0xffff_ffff;
        self.truth.sample_at = now + pause + Duration::from_millis(bytes * 1000 / SAMPLE_BYTES);
        self.ask(slot, mine, None);
    }
}
