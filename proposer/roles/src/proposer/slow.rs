//! How long each acceptor takes over a batch, and a warning that names one that takes long.

use std::collections::BTreeMap;
use std::time::Duration;

use paxos::ids::NodeId;
use paxos::message::Reply;

/// From here on an acceptor is slow.
const SLOW: Duration = Duration::from_millis(200);
/// The same is said again this often.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// This many answers in a row before anything is said: one is a hiccup.
const ENOUGH: u32 = 3;

#[derive(Default)]
pub(super) struct Slow(BTreeMap<NodeId, Usual>);

#[derive(Default)]
struct Usual {
    takes: Duration,
    answers: u32,
    said: Option<Duration>,
}

impl Slow {
    /// It took so long over an answer: what it usually takes, if that is to be said now.
    pub(super) fn note(
        &mut self,
        from: NodeId,
        took: Duration,
        reply: &Reply,
        now: Duration,
    ) -> Option<Duration> {
        match reply {
            Reply::Accepted { .. } | Reply::AcceptedTight { .. } => self.count(from, took, now),
            _ => None,
        }
    }

    fn count(&mut self, from: NodeId, took: Duration, now: Duration) -> Option<Duration> {
        let usual = self.0.entry(from).or_default();
        usual.takes = match usual.answers {
            0 => took,
            _ => (usual.takes * 3 + took) / 4,
        };
        if usual.takes < SLOW {
            usual.answers = 1;
            return None;
        }
        usual.answers += 1;
        let due = usual.said.is_none_or(|at| now - at >= SAY_EVERY);
        (usual.answers > ENOUGH && due).then(|| {
            usual.said = Some(now);
            usual.takes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_acceptor_is_named_once_in_a_while_and_a_hiccup_is_not() {
        let (mut slow, now) = (Slow::default(), Duration::ZERO);
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let millis = Duration::from_millis;
        let hiccup = [1, 900, 1, 1, 1, 1];
        assert!(
            hiccup
                .iter()
                .all(|took| slow.count(two, millis(*took), now).is_none())
        );
        let said = (0..40).filter(|_| slow.count(one, millis(520), now).is_some());
        assert_eq!(said.count(), 1);
        let later = now + SAY_EVERY;
        assert_eq!(slow.count(one, millis(520), later), Some(millis(520)));
    }
}
