//! When a leader that no learner answers looks for one, and for a successor. Pure: times are since
//! some start.

use std::time::Duration;

/// How many election timeouts no learner may have answered.
const SILENT_TIMEOUTS: u32 = 4;
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A learner answers, though none has applied anything lately.
    Reached,
    /// Another proposer takes over.
    HandedOver,
    /// No proposer that follows reaches a learner either.
    Nobody,
}

/// What a proposer knows of its learners' answers.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    silent: Duration,
    heard_at: Duration,
    look_at: Duration,
    is_looking: bool,
    failures: u32,
}

impl Reach {
    /// Of a proposer with that election timeout.
    pub fn new(election_timeout: Duration) -> Reach {
        Reach {
            silent: SILENT_TIMEOUTS * election_timeout,
            heard_at: Duration::ZERO,
            look_at: Duration::ZERO,
            is_looking: false,
            failures: 0,
        }
    }

    /// A learner has answered, or this proposer does not lead.
    pub fn heard(&mut self, now: Duration) {
        self.heard_at = now;
        self.failures = 0;
    }

    /// Whether a leader is to look now. Then it tells what the look came to, by [`looked`].
    ///
    /// [`looked`]: Reach::looked
    pub fn begins_to_look(&mut self, now: Duration) -> bool {
        let quiet = now.saturating_sub(self.heard_at) >= self.silent;
        let begins = quiet && !self.is_looking && now >= self.look_at;
        self.is_looking |= begins;
        begins
    }

    /// The look is over. The next one comes later each time that nobody was found: where no proposer
    /// reaches a learner, the leader stays.
    pub fn looked(&mut self, look: Look, now: Duration) {
        self.is_looking = false;
        match look {
            Look::Reached => self.heard(now),
            Look::HandedOver => self.look_at = now + self.silent,
            Look::Nobody => {
                let pause = self.silent * (1 << self.failures.min(8));
                self.failures += 1;
                self.look_at = now + pause.min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn reach() -> Reach {
        Reach::new(millis(400))
    }

    #[test]
    fn a_leader_looks_when_no_learner_has_answered_for_four_election_timeouts() {
        let mut reach = reach();
        reach.heard(millis(1000));
        assert!(!reach.begins_to_look(millis(2599)));
        assert!(reach.begins_to_look(millis(2600)));
        assert!(!reach.begins_to_look(millis(9000)), "one look at a time");
        reach.looked(Look::Reached, millis(9000));
        assert!(!reach.begins_to_look(millis(10_000)));
        assert!(reach.begins_to_look(millis(10_600)));
    }

    #[test]
    fn looks_that_find_nobody_become_rare_and_an_answer_makes_them_prompt_again() {
        let mut reach = reach();
        let mut now = millis(1600);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let begin = now;
            while !reach.begins_to_look(now) {
                now += millis(100);
            }
            pauses.push((now - begin).as_millis());
            reach.looked(Look::Nobody, now);
        }
        assert_eq!(pauses, [0, 1600, 3200, 6400, 12_800, 15_000]);
        reach.heard(now);
        reach.looked(Look::Nobody, now);
        assert!(reach.begins_to_look(now + millis(1600)));
    }
}
