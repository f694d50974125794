//! What the learner tells proposers of the values that it has applied.

use std::time::Duration;

use paxos::ids::Slot;
use paxos::machine::Applied;
use paxos::message::{Learn, Learned, Recalled, Value};
use paxos::recent::{first, fit, outcomes};

use super::{Action, LearnerRole, World};

/// An answer that waits for its values to be applied.
#[derive(Debug)]
pub(super) struct Held<A> {
    pub(super) until: Duration,
    pub(super) asker: A,
    pub(super) learn: Learn,
}

impl<A> Held<A> {
    fn last(&self) -> Slot {
        let count = self.learn.values.len() as u64;
        self.learn.first.plus(count).previous()
    }
}

impl<W: World> LearnerRole<W> {
    /// Answers whose values are applied, and those that have waited long enough.
    pub(super) fn answer_held(&mut self, now: Duration) -> Result<(), W::Error> {
        let applied = self.applied;
        let halted = self.halted.is_some();
        // What it has may be wrong: it says how far it is, and nothing of what came of it.
        let is_mute = self.is_mute();
        let due = |held: &mut Held<W::Asker>| held.last() <= applied || held.until <= now || halted;
        let due: Vec<Held<W::Asker>> = self.held.extract_if(.., due).collect();
        for Held { asker, learn, .. } in due {
            let values = learn.values.iter().map(Some);
            let slots = (learn.first.0..).map(Slot);
            let outcomes = match is_mute {
                true => vec![None; values.len()],
                false => self.outcomes(slots.zip(values))?,
            };
            let learned = Learned {
                applied,
                durable: self.durable,
                first: learn.first,
                outcomes: fit(self.settings.answer_bytes, outcomes),
            };
            self.actions.push(Action::Answer { asker, learned });
        }
        Ok(())
    }

    /// What became of the first of these slots, as many as fit one answer.
    pub fn recall(&mut self, slots: &[Slot]) -> Result<Recalled, W::Error> {
        let outcomes = match self.is_mute() {
            true => vec![None; slots.len()],
            false => self.outcomes(slots.iter().map(|slot| (*slot, None)))?,
        };
        Ok(Recalled {
            applied: self.applied,
            outcomes: first(self.settings.recalled_bytes, outcomes),
        })
    }

    fn outcomes<'a>(
        &mut self,
        slots: impl Iterator<Item = (Slot, Option<&'a Value>)>,
    ) -> Result<Vec<Option<Applied>>, W::Error> {
        let (log, world) = (&mut self.log, &self.world);
        let mut failed = None;
        let state = world.state();
        let logged = |slot| match log.entries(|at| world.read(at), slot, 1) {
            Ok(entries) => entries?.into_iter().next(),
            Err(error) => {
                failed = Some(error);
                None
            }
        };
        let outcomes = outcomes(&state.recent, &state.machine, slots, logged);
        failed.map_or(Ok(outcomes), Err)
    }
}
