use super::*;
use crate::ids::Ballot;

fn value(text: &'static str) -> Value {
    Value(text.into())
}

fn learner(acceptors: u8) -> Learner {
    Learner::new(Members::new(acceptors).unwrap(), Slot::ZERO)
}

fn learn(first: u64, texts: &[&'static str], committed: u64) -> Input {
    Input::Learn(Learn {
        first: Slot(first),
        values: texts.iter().map(|text| value(text)).collect(),
        committed: Slot(committed),
    })
}

fn fetched(acceptor: u8, from: u64, to: u64, votes: &[(u64, u64, &'static str)]) -> Input {
    let vote = |(slot, round, text): &(u64, u64, &'static str)| Vote {
        slot: Slot(*slot),
        ballot: Ballot::new(*round, NodeId::at(0).unwrap()).unwrap(),
        value: value(text),
    };
    Input::Reply {
        from: NodeId::new(acceptor).unwrap(),
        reply: Reply::Fetched {
            from: Slot(from),
            to: Slot(to),
            votes: votes.iter().map(vote).collect(),
        },
    }
}

/// Questions to these acceptors.
fn fetch(acceptors: &[u8], from: u64, to: u64) -> Vec<(NodeId, Request)> {
    let request = Request::Fetch {
        from: Slot(from),
        to: Slot(to),
    };
    let ids = acceptors.iter().map(|id| NodeId::new(*id).unwrap());
    ids.map(|id| (id, request.clone())).collect()
}

fn failed(acceptor: u8, first: u64) -> Input {
    Input::Failed {
        from: NodeId::new(acceptor).unwrap(),
        first: Slot(first),
    }
}

/// The slots and values that a step delivers.
fn delivers(learner: &mut Learner, input: Input) -> Vec<(u64, Value)> {
    let effects = learner.step(input);
    effects
        .deliver
        .into_iter()
        .map(|(slot, value)| (slot.0, value))
        .collect()
}

/// A learner of three acceptors that asks for slots 1 to `to`.
fn fetching(to: u64) -> Learner {
    let mut learner = learner(3);
    learner.step(learn(to + 1, &[], to));
    assert_eq!(learner.step(Input::Tick).fetch, []);
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 1, to));
    learner
}

#[test]
fn values_are_delivered_in_order_and_once() {
    let mut learner = learner(3);
    assert_eq!(delivers(&mut learner, learn(3, &["c"], 3)), []);
    assert_eq!(
        delivers(&mut learner, learn(1, &["a"], 1)),
        [(1, value("a"))]
    );
    assert_eq!(
        delivers(&mut learner, learn(1, &["a", "b"], 3)),
        [(2, value("b")), (3, value("c"))]
    );
    assert_eq!(delivers(&mut learner, learn(1, &["a", "b", "c"], 3)), []);
    assert_eq!(learner.delivered(), Slot(3));
}

#[test]
fn a_gap_is_fetched_when_it_is_still_there_at_the_second_tick() {
    let mut learner = learner(3);
    learner.step(learn(4, &["d"], 4));
    assert_eq!(learner.step(Input::Tick).fetch, []);
    learner.step(learn(1, &["a"], 4));
    assert_eq!(learner.step(Input::Tick).fetch, [], "the gap has moved on");
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 2, 3));
}

#[test]
fn the_value_of_the_highest_ballot_in_a_quorum_is_the_chosen_one() {
    for answers in [
        [
            fetched(1, 1, 1, &[(1, 2, "old")]),
            fetched(2, 1, 1, &[(1, 5, "chosen")]),
        ],
        [
            fetched(2, 1, 1, &[(1, 5, "chosen")]),
            fetched(1, 1, 1, &[(1, 2, "old")]),
        ],
        [fetched(1, 1, 1, &[(1, 5, "chosen")]), fetched(2, 1, 1, &[])],
    ] {
        let mut learner = fetching(1);
        let [first, second] = answers;
        assert_eq!(delivers(&mut learner, first.clone()), []);
        assert_eq!(
            delivers(&mut learner, first),
            [],
            "one acceptor twice is no quorum"
        );
        assert_eq!(delivers(&mut learner, second), [(1, value("chosen"))]);
    }
}

#[test]
fn only_what_a_whole_quorum_has_answered_for_is_taken() {
    let mut learner = fetching(3);
    // Acceptor 1 has room for one slot only: what it voted for in slot 2 is not known yet.
    learner.step(fetched(1, 1, 1, &[(1, 2, "a")]));
    let effects = learner.step(fetched(
        2,
        1,
        3,
        &[(1, 2, "a"), (2, 1, "old"), (3, 1, "old")],
    ));
    assert_eq!(effects.deliver, [(Slot(1), value("a"))]);
    assert_eq!(
        effects.fetch,
        fetch(&[1, 2], 2, 3),
        "the next stretch is asked for at once"
    );
    assert_eq!(
        delivers(&mut learner, fetched(2, 1, 3, &[(1, 2, "a")])),
        [],
        "a late answer"
    );
}

#[test]
fn a_slot_that_a_quorum_does_not_know_is_reported_and_stops_delivery() {
    let mut learner = fetching(3);
    learner.step(fetched(1, 1, 3, &[(1, 2, "a"), (3, 2, "c")]));
    let effects = learner.step(fetched(2, 1, 3, &[(3, 2, "c")]));
    assert_eq!(effects.missing, Some(Slot(2)));
    assert_eq!(
        (effects.deliver, effects.fetch),
        (vec![(Slot(1), value("a"))], vec![])
    );
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    for answer in [
        fetched(1, 2, 2, &[(2, 2, "x")]),
        fetched(4, 1, 2, &[(1, 2, "x"), (2, 2, "x")]),
        fetched(3, 1, 2, &[(1, 2, "x"), (2, 2, "x")]),
        fetched(1, 1, 9, &[(1, 2, "x"), (2, 2, "x")]),
    ] {
        let mut learner = fetching(2);
        learner.step(answer);
        let asked = [(1, 2, "a"), (2, 2, "b")];
        assert_eq!(delivers(&mut learner, fetched(1, 1, 2, &asked)), []);
        assert_eq!(delivers(&mut learner, fetched(2, 1, 2, &asked)).len(), 2);
    }
}

#[test]
fn values_far_beyond_the_gap_are_not_kept_but_known_to_be_chosen() {
    let mut learner = learner(3).with_ahead_slots(2);
    learner.step(learn(2, &["b", "c"], 3));
    assert_eq!(
        delivers(&mut learner, learn(1, &["a"], 3)),
        [(1, value("a")), (2, value("b"))]
    );
    assert_eq!(learner.committed(), Slot(3));
    learner.step(Input::Tick);
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 3, 3));
}

#[test]
fn a_state_from_elsewhere_replaces_what_it_covers() {
    let mut learner = fetching(5);
    learner.step(learn(7, &["g"], 7));
    learner.skip_to(Slot(6));
    assert_eq!(
        delivers(&mut learner, learn(1, &["a"], 7)),
        [(7, value("g"))]
    );
    learner.skip_to(Slot(2));
    assert_eq!(learner.delivered(), Slot(7));
}

fn truncated(acceptor: u8, from: u64, floor: u64) -> Input {
    Input::Reply {
        from: NodeId::new(acceptor).unwrap(),
        reply: Reply::Truncated {
            from: Slot(from),
            floor: Slot(floor),
        },
    }
}

#[test]
fn what_a_quorum_has_forgotten_is_asked_of_other_learners_at_once() {
    let mut learner = fetching(3);
    let effects = learner.step(truncated(1, 1, 2));
    assert_eq!(effects.truncated, None);
    assert_eq!(effects.fetch, fetch(&[3], 1, 3), "another may remember");
    assert_eq!(learner.step(truncated(2, 1, 3)).truncated, Some(Slot(3)));
}

#[test]
fn what_one_acceptor_has_forgotten_while_another_is_gone_is_asked_of_other_learners_later() {
    let mut learner = fetching(3);
    learner.step(truncated(1, 1, 2));
    learner.step(fetched(2, 1, 3, &[]));
    assert_eq!(
        learner.step(Input::Tick).truncated,
        None,
        "acceptor 3 is asked"
    );
    assert_eq!(learner.step(failed(3, 1)).truncated, None);
    let effects = learner.step(Input::Tick);
    assert_eq!(effects.truncated, Some(Slot(2)));
    assert_eq!(effects.fetch.len(), 2);
}

#[test]
fn a_fetch_under_way_is_not_repeated_however_long_it_takes() {
    let mut learner = fetching(3);
    learner.step(fetched(1, 1, 3, &[(1, 2, "a"), (2, 2, "b"), (3, 2, "c")]));
    for _ in 0..100 {
        assert_eq!(learner.step(Input::Tick).fetch, []);
    }
    let votes = [(1, 2, "a"), (2, 2, "b"), (3, 2, "c")];
    assert_eq!(delivers(&mut learner, fetched(2, 1, 3, &votes)).len(), 3);
}

#[test]
fn another_acceptor_is_asked_when_one_fails_and_that_one_last_from_then_on() {
    let mut learner = fetching(8);
    let effects = learner.step(failed(1, 1));
    assert_eq!(effects.fetch, fetch(&[3], 1, 8));
    assert_eq!(learner.step(failed(1, 1)).fetch, [], "it failed already");
    let votes: Vec<(u64, u64, &str)> = (1..=4).map(|slot| (slot, 2, "a")).collect();
    learner.step(fetched(2, 1, 4, &votes));
    let effects = learner.step(fetched(3, 1, 4, &votes));
    assert_eq!(effects.deliver.len(), 4);
    assert_eq!(effects.fetch, fetch(&[2, 3], 5, 8));
}

#[test]
fn after_failures_less_is_asked_for_at_once_and_after_answers_more_again() {
    let mut learner = fetching(100);
    learner.step(failed(1, 1));
    learner.step(failed(2, 1));
    assert_eq!(learner.step(Input::Tick).fetch, [], "acceptor 3 is asked");
    learner.step(failed(3, 1));
    let mut asked = learner.step(Input::Tick).fetch;
    let mut sizes = Vec::new();
    while let Some((_, Request::Fetch { from, to })) = asked.first() {
        let (from, to) = (from.0, to.0);
        sizes.push(to + 1 - from);
        let votes: Vec<(u64, u64, &str)> = (from..=to).map(|slot| (slot, 2, "a")).collect();
        let answers = asked.iter().map(|(acceptor, _)| acceptor.number());
        let answers = answers.map(|acceptor| fetched(acceptor, from, to, &votes));
        asked = answers
            .map(|answer| learner.step(answer).fetch)
            .last()
            .unwrap();
    }
    // Three failures left an eighth.
    assert_eq!(sizes, [13, 26, 52, 9]);
    assert_eq!(learner.delivered(), Slot(100));
}

#[test]
fn a_fetch_that_fails_at_all_acceptors_is_tried_again_after_pauses_that_grow() {
    let mut learner = fetching(3);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        for acceptor in 1..=3 {
            learner.step(failed(acceptor, 1));
        }
        let pause = (1..).find(|_| !learner.step(Input::Tick).fetch.is_empty());
        pauses.push(pause.unwrap());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 16]);
}

#[test]
fn an_answer_that_comes_after_all_counts() {
    let mut learner = fetching(1);
    learner.step(failed(1, 1));
    assert_eq!(delivers(&mut learner, fetched(1, 1, 1, &[(1, 2, "a")])), []);
    assert_eq!(delivers(&mut learner, fetched(3, 1, 1, &[])).len(), 1);
}

#[test]
fn what_the_leader_tells_meanwhile_ends_a_fetch_and_the_rest_is_fetched() {
    let mut learner = fetching(2);
    learner.step(learn(1, &["a", "b"], 6));
    assert_eq!(learner.delivered(), Slot(2));
    assert_eq!(learner.step(Input::Tick).fetch, []);
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 3, 6));
    assert_eq!(delivers(&mut learner, fetched(1, 1, 2, &[(1, 2, "a")])), []);
}

fn learn_values(first: u64, sizes: &[usize], committed: u64) -> Input {
    let value = |size: &usize| Value(vec![b'v'; *size].into());
    Input::Learn(Learn {
        first: Slot(first),
        values: sizes.iter().map(value).collect(),
        committed: Slot(committed),
    })
}

fn slots(effects: &Effects) -> Vec<u64> {
    effects.deliver.iter().map(|(slot, _)| slot.0).collect()
}

#[test]
fn what_is_ahead_of_a_gap_is_bounded_in_bytes_and_the_furthest_goes_first() {
    let mut learner = learner(3).with_ahead_bytes(1_000);
    for first in [8, 2, 5] {
        learner.step(learn_values(first, &[200; 3], 10));
        assert!(learner.ahead_bytes <= 1_000);
    }
    // What is received again takes no more room.
    learner.step(learn_values(2, &[200; 3], 10));
    assert_eq!(
        learner.ahead.keys().map(|slot| slot.0).collect::<Vec<_>>(),
        [2, 3, 4, 5, 6]
    );
    assert_eq!(
        slots(&learner.step(learn_values(1, &[200], 10))),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(learner.ahead_bytes, 0);
    learner.step(Input::Tick);
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 7, 10));
}

#[test]
fn what_can_be_delivered_is_whatever_its_size() {
    let mut learner = learner(3).with_ahead_bytes(100);
    let effects = learner.step(learn_values(1, &[5_000, 5_000, 5_000], 3));
    assert_eq!(slots(&effects), [1, 2, 3]);
    learner.step(learn_values(6, &[50, 5_000], 7));
    learner.skip_to(Slot(5));
    assert_eq!(slots(&learner.step(Input::Tick)), [6]);
    let effects = learner.step(learn_values(7, &[5_000], 7));
    assert_eq!(slots(&effects), [7]);
    assert_eq!(learner.ahead_bytes, 0);
}

#[test]
fn what_is_delivered_at_once_is_cut_into_records() {
    let delivered = |sizes: &[usize]| {
        let value = |(i, size): (usize, &usize)| (Slot(i as u64), Value(vec![0; *size].into()));
        sizes.iter().enumerate().map(value).collect::<Vec<_>>()
    };
    let cut = |sizes: &[usize], bytes| {
        let records = records(delivered(sizes), bytes);
        records.map(|record| record.len()).collect::<Vec<_>>()
    };
    assert_eq!(cut(&[], 100), [] as [usize; 0]);
    assert_eq!(cut(&[10; 5], 84), [2, 2, 1]);
    assert_eq!(cut(&[10, 500, 10, 10], 100), [1, 1, 2]);
    assert_eq!(cut(&[0; 100], 1 << 20), [100]);
    // Values without a byte take room in a record, too.
    assert!(cut(&[0; 1_000], 3_200).len() >= 10);
}

#[test]
fn where_two_values_are_told_only_what_acceptors_say_counts() {
    let mut learner = learner(3);
    learner.step(learn(2, &["b"], 2));
    assert_eq!(learner.step(learn(2, &["B"], 2)).disputed, Some(Slot(2)));
    // Neither, nor any later word.
    assert_eq!(
        delivers(&mut learner, learn(1, &["a", "b"], 3)),
        [(1, value("a"))]
    );
    learner.step(Input::Tick);
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 2, 3));
    learner.step(fetched(1, 2, 3, &[(2, 5, "b")]));
    assert_eq!(
        delivers(&mut learner, fetched(2, 2, 3, &[(3, 5, "c")])),
        [(2, value("b")), (3, value("c"))]
    );
    assert_eq!(learner.step(learn(4, &["d"], 4)).disputed, None);
    assert_eq!(learner.delivered(), Slot(4));
}

#[test]
fn the_same_value_told_twice_is_not_disputed() {
    let mut learner = learner(3);
    for _ in 0..3 {
        assert_eq!(learner.step(learn(2, &["b"], 2)).disputed, None);
    }
    assert_eq!(
        delivers(&mut learner, learn(1, &["a"], 2)),
        [(1, value("a")), (2, value("b"))]
    );
}

#[test]
fn a_log_said_to_be_longer_than_acceptors_know_is_not_believed_for_long() {
    for said in [3, 100, 10_u64.pow(15)] {
        let mut learner = learner(3);
        learner.step(learn(1, &["a", "b"], 2));
        learner.step(learn(3, &[], said));
        learner.step(Input::Tick);
        assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 3, said));
        learner.step(fetched(1, 3, said, &[]));
        let effects = learner.step(fetched(2, 3, said, &[]));
        assert_eq!(effects.missing, Some(Slot(3)));
        assert_eq!(learner.committed(), Slot(2));
        // What is chosen there later is delivered as ever.
        assert_eq!(
            delivers(&mut learner, learn(3, &["c"], 3)),
            [(3, value("c"))]
        );
    }
}

#[test]
fn what_was_told_and_cannot_be_read_counts_only_if_a_quorum_has_it() {
    let mut learner = learner(3);
    let told = learner.step(learn(1, &["x", "b"], 2));
    assert!(!told.is_sure(Slot(1)));
    learner.distrust(Slot(1));
    assert_eq!(learner.delivered(), Slot::ZERO);
    assert_eq!(learner.committed(), Slot::ZERO, "nobody else has said so");
    assert_eq!(delivers(&mut learner, learn(1, &["x"], 2)), []);
    assert_eq!(learner.step(Input::Tick), Effects::default());
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 1, 2));
    let votes = [(1, 1, "a"), (2, 1, "b")];
    learner.step(fetched(1, 1, 2, &votes));
    let effects = learner.step(fetched(2, 1, 2, &votes));
    let delivered: Vec<Slot> = effects.deliver.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(delivered, [Slot(1), Slot(2)]);
    assert_eq!(effects.deliver[0].1, value("a"));
    assert!(effects.is_sure(Slot(1)) && effects.is_sure(Slot(2)));
    assert!(!effects.is_sure(Slot(3)));
}

#[test]
fn where_acceptors_have_forgotten_a_disputed_slot_another_learners_log_counts() {
    let mut learner = learner(3);
    learner.step(learn(2, &["b"], 2));
    assert_eq!(learner.step(learn(2, &["B"], 2)).disputed, Some(Slot(2)));
    learner.step(Input::Tick);
    learner.step(Input::Tick);
    let truncated = |acceptor| Input::Reply {
        from: NodeId::new(acceptor).unwrap(),
        reply: Reply::Truncated {
            from: Slot(1),
            floor: Slot(2),
        },
    };
    learner.step(truncated(1));
    assert_eq!(learner.step(truncated(2)).truncated, Some(Slot(2)));
    let delivered = delivers(&mut learner, learn(1, &["a", "b"], 2));
    assert_eq!(delivered, [(1, value("a")), (2, value("b"))]);
}

#[test]
fn what_a_quorum_says_counts_before_what_was_told_while_it_was_asked() {
    let mut learner = learner(3);
    learner.step(learn(1, &[], 2));
    learner.step(Input::Tick);
    assert_eq!(learner.step(Input::Tick).fetch, fetch(&[1, 2], 1, 2));
    learner.step(learn(2, &["x"], 2));
    let votes = [(1, 1, "a"), (2, 1, "b")];
    learner.step(fetched(1, 1, 2, &votes));
    let delivered = delivers(&mut learner, fetched(2, 1, 2, &votes));
    assert_eq!(delivered, [(1, value("a")), (2, value("b"))]);
}
