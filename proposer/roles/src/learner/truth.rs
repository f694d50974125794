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

use std::time::Duration;

use paxos::ids::{NodeId, NodeName, Slot};
use paxos::message::{Learn, Reply};
use paxos::verify::{Verdict, Verify};

use super::{Action, Halt, LearnerRole, Notice, Question, World};

/// How long acceptors may take over a question before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The most that samples may read of each acceptor, bytes a second.
const SAMPLE_BYTES: u64 = 256 << 10;
/// Samples go this far back: acceptors forget older ones when learners have them.
const SAMPLE_SLOTS: u64 = 8192;
/// Bytes of the log that are read at once for a comparison.
const COMPARED_BYTES: usize = 1 << 20;

/// When samples are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Between two of them while the log grows.
    pub every: Duration,
    /// And while it does not.
    pub idle_every: Duration,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            every: Duration::from_secs(1),
            idle_every: Duration::from_secs(10),
        }
    }
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct Truth {
    /// The question that is open.
    open: Option<Open>,
    sampling: Option<Sampling>,
    /// The next sample, at the earliest.
    sample_at: Duration,
    /// The newest slot that was asked for.
    sampled: Slot,
}

#[derive(Debug)]
struct Open {
    verify: Verify,
    asked: Duration,
    /// Who said something else there; `None` for a sample.
    told_by: Option<NodeName>,
}

impl Truth {
    /// Nothing is known yet.
    pub(super) fn new(sampling: Option<Sampling>, now: Duration) -> Truth {
        Truth {
            open: None,
            sampling,
            sample_at: sampling.map_or(now, |sampling| now + sampling.every),
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

impl<W: World> LearnerRole<W> {
    /// Whether a message says of what is applied here what was applied. If not, the acceptors are
    /// asked, and until they have answered nothing is taken.
    pub(super) fn is_told_the_same(
        &mut self,
        learn: &Learn,
        from: NodeName,
        now: Duration,
    ) -> Result<bool, W::Error> {
        if self.truth.is_in_doubt() {
            return Ok(false);
        }
        if learn.values.is_empty() || learn.first > self.applied {
            return Ok(true);
        }
        let (other, unknown) = {
            let state = self.world.state();
            let compared = state.digests.compare(learn);
            let of = |slot| (slot, state.digests.of(slot).unwrap_or_default());
            (compared.other.map(of), compared.unknown)
        };
        let differs = match (other, unknown) {
            (Some(other), _) => Some(other),
            (None, Some(unknown)) => self.older_differs(learn, unknown)?,
            (None, None) => None,
        };
        let Some((slot, mine)) = differs else {
            return Ok(true);
        };
        self.say(Notice::ToldAnother { from, slot });
        self.verify(slot, mine, Some(from), now);
        Ok(false)
    }

    /// The first slot of a range that is in the log on disk alone and holds something else there.
    fn older_differs(
        &mut self,
        learn: &Learn,
        (first, last): (Slot, Slot),
    ) -> Result<Option<(Slot, u64)>, W::Error> {
        let mut next = first;
        while next <= last {
            // What the log no longer has cannot be compared. No outcome is sent for it either.
            let Ok(entries) = self.older(next, COMPARED_BYTES)? else {
                return Ok(None);
            };
            for entry in entries.iter().filter(|entry| entry.slot <= last) {
                let told = learn.values.get((entry.slot.0 - learn.first.0) as usize);
                if told.is_some_and(|told| *told != entry.value) {
                    return Ok(Some((entry.slot, entry.value.checksum())));
                }
            }
            match entries.last() {
                Some(last) => next = last.slot.next(),
                None => break,
            }
        }
        Ok(None)
    }

    fn verify(&mut self, slot: Slot, mine: u64, told_by: Option<NodeName>, now: Duration) {
        let verify = Verify::new(self.members, slot, mine);
        self.ask_all(&verify);
        self.truth.open = Some(Open {
            verify,
            asked: now,
            told_by,
        });
    }

    fn ask_all(&mut self, verify: &Verify) {
        for acceptor in self.members.acceptors() {
            let question = Question::Verify { acceptor };
            self.ask(acceptor, question, verify.request(), ASK_AGAIN);
        }
    }

    /// Takes an acceptor's answer, if it is to the question that is open.
    pub(super) fn verified(&mut self, from: NodeId, reply: &Reply) {
        let open = self.truth.open.as_mut();
        if let Some(verdict) = open.and_then(|open| open.verify.answer(from, reply)) {
            self.judge(verdict);
        }
    }

    fn judge(&mut self, verdict: Verdict) {
        let Some(open) = self.truth.open.take() else {
            return;
        };
        let (slot, told_by) = (open.verify.slot(), open.told_by);
        self.actions.push(Action::Judged {
            verdict,
            slot,
            told_by,
        });
        match verdict {
            Verdict::Same | Verdict::Forgotten => {}
            Verdict::Other(_) => self.halt(Halt::Contradicted {
                slot,
                has_other: true,
            }),
            Verdict::NoVote => self.halt(Halt::Contradicted {
                slot,
                has_other: false,
            }),
        }
    }

    /// Whether it tells nobody what came of anything: what it has applied may be wrong.
    pub fn is_mute(&self) -> bool {
        let contradicted = matches!(self.halted, Some(Halt::Contradicted { .. }));
        self.truth.is_in_doubt() || contradicted
    }

    /// Asks again what was not answered, and takes a sample now and then.
    pub(super) fn tick_truth(&mut self, now: Duration, dice: u64) {
        if self.halted.is_some() {
            return;
        }
        if let Some(open) = &mut self.truth.open {
            if now.saturating_sub(open.asked) < ASK_AGAIN {
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
                        self.ask_all(&verify);
                    }
                },
            }
            return;
        }
        // A quorum by a list of another length proves nothing against this disk.
        match self.truth.sampling {
            Some(sampling) if now >= self.truth.sample_at && self.world.may_learn() => {
                self.sample(sampling, now, dice);
            }
            _ => {}
        }
    }

    fn sample(&mut self, sampling: Sampling, now: Duration, dice: u64) {
        let is_newer = self.applied > self.truth.sampled;
        let sample = {
            let state = self.world.state();
            let slot = match (is_newer, state.digests.known()) {
                (_, None) => None,
                (true, Some(_)) => Some(self.applied),
                (false, Some((first, last))) => {
                    let first = first.0.max(last.0.saturating_sub(SAMPLE_SLOTS));
                    Some(Slot(first + dice % (last.0 - first + 1)))
                }
            };
            slot.and_then(|slot| Some((slot, state.digests.of(slot)?)))
        };
        let Some((slot, mine)) = sample else {
            self.truth.sample_at = now + sampling.every;
            return;
        };
        self.truth.sampled = self.truth.sampled.max(slot);
        let pause = match is_newer {
            true => sampling.every,
            false => sampling.idle_every,
        };
        // The lower half of a checksum is the value's length.
        let bytes = mine & 0xffff_ffff;
        self.truth.sample_at = now + pause + Duration::from_millis(bytes * 1000 / SAMPLE_BYTES);
        self.verify(slot, mine, None, now);
    }
}
