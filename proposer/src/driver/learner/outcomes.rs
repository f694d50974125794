//! What the learner tells proposers of the values that it has applied.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use paxos::ids::Slot;
use paxos::machine::Applied;
use paxos::message::{Learned, Recalled, Value};
use paxos::recent::{ANSWER_BYTES, RECALLED_BYTES, first, fit, outcomes};

use super::{Held, Run};

impl Run {
    /// Answers whose values are applied, and those that have waited long enough.
    pub(super) fn answer_held(&mut self, now: Instant) {
        let applied = self.applied;
        let halted = self.is_halted();
        // What it has may be wrong: it says how far it is, and nothing of what came of it.
        let is_mute = self.is_mute();
        let due = |held: &mut Held| held.last <= applied || held.until <= now || halted;
        let due: Vec<Held> = self.held.extract_if(.., due).collect();
        for held in due {
            let values = held.learn.values.iter().map(Some);
            let slots = (held.first.0..).map(Slot);
            let outcomes = match is_mute {
                true => vec![None; values.len()],
                false => self.outcomes(slots.zip(values)),
            };
            let learned = Learned {
                applied,
                durable: Slot(self.shared.durable.load(Ordering::Relaxed)),
                first: held.first,
                outcomes: fit(ANSWER_BYTES, outcomes),
            };
            // The leader may have given up on this answer.
            let _ = held.answer.send(learned);
        }
    }

    /// What became of the first of these slots, as many as fit one answer.
    pub(super) fn recall(&mut self, slots: &[Slot]) -> Recalled {
        let outcomes = match self.is_mute() {
            true => vec![None; slots.len()],
            false => self.outcomes(slots.iter().map(|slot| (*slot, None))),
        };
        Recalled {
            applied: self.handle.state().machine.applied(),
            outcomes: first(RECALLED_BYTES, outcomes),
        }
    }

    fn outcomes<'a>(
        &mut self,
        slots: impl Iterator<Item = (Slot, Option<&'a Value>)>,
    ) -> Vec<Option<Applied>> {
        let state = self.shared.state.read();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let (reader, wal, index) = (&mut self.log_reader, &self.wal, &self.index);
        let logged = |slot| reader.entries(wal, index, slot, 1)?.into_iter().next();
        outcomes(&state.recent, &state.machine, slots, logged)
    }
}
