use std::convert::Infallible;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ids::NodeId;
use crate::message::{Reply, Vote};

/// A log in memory: records and their places.
#[derive(Default)]
struct Disk {
    records: Vec<(Place, Record)>,
    /// How many records were shown.
    shown: std::cell::Cell<usize>,
}

impl Log for Disk {
    type Error = Infallible;

    fn read(&self, place: Place, take: &mut dyn FnMut(&Record) -> bool) -> Result<(), Infallible> {
        let from = self.records.iter().skip_while(|(at, _)| *at != place);
        for (_, record) in from.take_while(|(at, _)| at.file == place.file) {
            self.shown.set(self.shown.get() + 1);
            if !take(record) {
                break;
            }
        }
        Ok(())
    }
}

/// Votes beside the plainest form of the same.
struct World {
    votes: Votes,
    disk: Disk,
    /// Written, and not known to be durable.
    unplaced: Vec<Place>,
    offset: u64,
    all: BTreeMap<Slot, (Ballot, Value)>,
    floor: Slot,
}

fn ballot(round: u64) -> Ballot {
    Ballot::new(round, NodeId::new(1).unwrap()).unwrap()
}

const LIMITS: AnswerLimits = AnswerLimits {
    bytes: 300,
    promise_bytes: 300,
    votes: 20,
};

impl World {
    fn new(budget: usize) -> World {
        World {
            votes: Votes::new(budget),
            disk: Disk::default(),
            unplaced: Vec::new(),
            offset: 0,
            all: BTreeMap::new(),
            floor: Slot::ZERO,
        }
    }

    fn vote(&mut self, round: u64, first: u64, values: Vec<Value>) {
        let (ballot, first, values) = (ballot(round), Slot(first), Values::from(values));
        self.votes.insert(ballot, first, &values);
        self.votes.forget(self.floor);
        for (i, value) in values.iter().enumerate() {
            let slot = first.plus(i as u64);
            if slot > self.floor {
                self.all.insert(slot, (ballot, value.clone()));
            }
        }
        let place = Place {
            file: self.offset / 4_000,
            offset: self.offset,
        };
        self.offset += 40
            + values
                .iter()
                .map(|value| 4 + value.len() as u64)
                .sum::<u64>();
        let record = Record::Accepted {
            ballot,
            first,
            values,
            committed: Slot::ZERO,
        };
        self.disk.records.push((place, record));
        self.unplaced.push(place);
    }

    fn sync(&mut self) {
        self.votes.placed(&std::mem::take(&mut self.unplaced));
        assert!(
            self.votes.cost().0 <= self.votes.budget,
            "values keep to their bytes"
        );
    }

    fn forget(&mut self, floor: u64) {
        self.floor = self.floor.max(Slot(floor));
        self.votes.forget(self.floor);
        self.all = self.all.split_off(&self.floor.next());
    }

    /// All votes, page by page.
    fn read(&self, from: u64) -> Vec<(Slot, Ballot, Value)> {
        let (mut from, to, mut all) = (Slot(from), Slot(u64::MAX), Vec::new());
        loop {
            let about = About::Promise {
                ballot: ballot(1 << 30),
                from,
                committed: Slot::ZERO,
            };
            let pieces = self.votes.read(from, to, LIMITS, false).unwrap();
            let reply = answer(about, pieces, LIMITS)
                .into_reply(&self.disk)
                .unwrap();
            let Reply::Promise { votes, rest, .. } = reply else {
                panic!("{reply:?}")
            };
            let bytes: usize = votes.iter().map(|vote| vote.value.len()).sum();
            assert!(votes.len() <= LIMITS.votes && (bytes <= LIMITS.bytes || votes.len() == 1));
            all.extend(votes.into_iter().map(
                |Vote {
                     slot,
                     ballot,
                     value,
                 }| (slot, ballot, value),
            ));
            match rest {
                Some(rest) => from = rest,
                None => return all,
            }
        }
    }

    fn check(&self) {
        for from in [0, 7, 20] {
            let expected = self.all.range(Slot(from)..);
            let expected = expected.map(|(slot, (ballot, value))| (*slot, *ballot, value.clone()));
            assert_eq!(self.read(from), expected.collect::<Vec<_>>());
        }
        assert_eq!(self.votes.last(), self.all.keys().next_back().copied());
        for slot in (0..80).map(Slot) {
            let ballot = self.votes.get(slot).map(|(ballot, _)| ballot);
            assert_eq!(ballot, self.all.get(&slot).map(|(ballot, _)| *ballot));
        }
    }

    fn spans(&self) -> usize {
        self.votes.spans.len()
    }
}

fn value(slot: u64, round: u64, length: usize) -> Value {
    Value(format!("{slot}.{round}.{}", "x".repeat(length)).into())
}

#[derive(Clone, Debug)]
enum Step {
    Vote {
        first: u64,
        count: u64,
        length: usize,
    },
    NextRound,
    Sync,
    Forget {
        floor: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let vote = |first| {
        (first, 1..9_u64, 0..90_usize).prop_map(|(first, count, length)| Step::Vote {
            first,
            count,
            length,
        })
    };
    prop_oneof![
        6 => vote(1..60_u64),
        2 => Just(Step::NextRound),
        5 => Just(Step::Sync),
        1 => (0..40_u64).prop_map(|floor| Step::Forget { floor }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is in memory and whatever is not, and however votes replace each other.
    #[test]
    fn every_vote_is_told_as_it_was_written(
        budget in prop_oneof![Just(0_usize), Just(900), Just(4_000), Just(1 << 20)],
        steps in vec(step(), 1..60),
    ) {
        let mut world = World::new(budget);
        let mut round = 1;
        for step in steps {
            match step {
                Step::Vote { first, count, length } => {
                    let slots = first..first + count;
                    let values = slots.map(|slot| value(slot, round, length)).collect();
                    let values: Vec<Value> = values;
                    // The same slot at the same ballot has the same value, whatever comes with it.
                    let same = |(i, value): (u64, &Value)| {
                        world.all.get(&Slot(first + i)).is_none_or(|(at, known)| {
                            *at != ballot(round) || known == value
                        })
                    };
                    if (0..).zip(&values).all(same) {
                        world.vote(round, first, values);
                    }
                }
                Step::NextRound => round += 1,
                Step::Sync => world.sync(),
                Step::Forget { floor } => world.forget(floor),
            }
            world.check();
        }
    }
}

#[test]
fn one_entry_stands_for_a_stretch_of_the_log_that_comes_in_order() {
    let mut world = World::new(0);
    for slot in 1..=1_000 {
        world.vote(1, slot, vec![value(slot, 1, 1)]);
        world.sync();
    }
    // Of 4,000 bytes a file, in this log.
    assert!(world.spans() < 20, "{}", world.spans());
    world.disk.shown.set(0);
    let pieces = world
        .votes
        .read(Slot(500), Slot(500), LIMITS, true)
        .unwrap();
    let about = About::Fetched {
        from: Slot(500),
        to: Slot(500),
    };
    let reply = answer(about, pieces, LIMITS)
        .into_reply(&world.disk)
        .unwrap();
    let Reply::Fetched { votes, .. } = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(votes[0].value, value(500, 1, 1));
    assert!(
        world.disk.shown.get() < 100,
        "a place reaches no further than its stretch"
    );
}

#[test]
fn values_that_are_not_durable_stay_whatever_they_cost() {
    let mut world = World::new(1_000);
    for slot in 1..=50 {
        world.vote(1, slot, vec![value(slot, 1, 1_000)]);
    }
    assert!(world.votes.cost().0 > 50_000);
    assert!((1..=50).all(|slot| world.votes.get(Slot(slot)).unwrap().1.is_some()));
    world.sync();
    assert!(world.votes.cost().0 <= 1_000);
    world.check();
}

#[test]
fn what_is_not_durable_is_not_told_where_that_is_asked_for() {
    let mut world = World::new(0);
    world.vote(1, 1, vec![value(1, 1, 1), value(2, 1, 1)]);
    world.sync();
    world.vote(2, 2, vec![value(2, 2, 1)]);
    let read = |from| world.votes.read(Slot(from), Slot(9), LIMITS, true);
    // Slot 2 had a vote on disk: it must not pass for one without.
    assert_eq!(read(2), None);
    let about = About::Fetched {
        from: Slot(1),
        to: Slot(9),
    };
    let reply = answer(about, read(1).unwrap(), LIMITS).into_reply(&world.disk);
    let Ok(Reply::Fetched { to, votes, .. }) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((to, votes.len()), (Slot(1), 1));
}

#[test]
fn a_vote_that_the_log_does_not_hold_is_missed_and_not_taken_for_none() {
    let mut world = World::new(0);
    world.vote(1, 1, vec![value(1, 1, 1), value(2, 1, 1)]);
    world.sync();
    world.disk.records.clear();
    let pieces = world.votes.read(Slot(1), Slot(2), LIMITS, true).unwrap();
    let about = About::Fetched {
        from: Slot(1),
        to: Slot(2),
    };
    let reply = answer(about, pieces, LIMITS).into_reply(&world.disk);
    assert_eq!(reply, Err(Unread::Missing(Slot(1))));
}

#[test]
fn values_sent_again_are_compared_with_those_in_the_log() {
    let mut world = World::new(0);
    let values = |round| -> Values { (1..=3).map(|slot| value(slot, round, 9)).collect() };
    world.vote(5, 1, values(1).to_vec());
    world.sync();
    let settle = |values: Values| {
        let compared = world.votes.compare(ballot(5), Slot(1), &values);
        assert_eq!(
            (compared.known, compared.doubted, compared.differs),
            (0, 3, false)
        );
        let doubt = Doubt {
            first: Slot(1),
            values,
            pieces: compared.pieces,
        };
        doubt.settle(&world.disk).unwrap()
    };
    assert!(settle(values(1)));
    assert!(!settle(values(2)));
    let mut last_differs = values(1).to_vec();
    last_differs[2] = value(3, 2, 9);
    assert!(!settle(last_differs.into()));
    let compared = world.votes.compare(ballot(6), Slot(1), &values(2));
    assert_eq!(
        compared.doubted, 0,
        "at another ballot anything may be voted"
    );
}
