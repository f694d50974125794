use super::*;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn learn(first: u64, count: usize) -> Learn {
    of_size(first, count, 1)
}

fn of_size(first: u64, count: usize, bytes: usize) -> Learn {
    Learn {
        first: Slot(first),
        values: vec![Value(vec![7; bytes].into()); count].into(),
        committed: Slot(first).plus(count as u64).previous(),
    }
}

/// Of two learners.
fn telling() -> Telling {
    let mut telling = Telling::default();
    telling.set_learners([node(1), node(2)]);
    telling
}

/// Whom each message goes to, its first slot and how many values it has.
fn tells(tells: impl IntoIterator<Item = Tell>) -> Vec<(Vec<u8>, u64, usize)> {
    let show = |tell: Tell| {
        let to = tell.to.iter().map(|id| id.number()).collect();
        (to, tell.learn.first.0, tell.learn.values.len())
    };
    tells.into_iter().map(show).collect()
}

fn answered(
    telling: &mut Telling,
    from: u8,
    first: u64,
    count: usize,
    applied: u64,
) -> Vec<(Vec<u8>, u64, usize)> {
    tells(telling.answered(node(from), Slot(first), count, Slot(applied)))
}

#[test]
fn what_is_chosen_goes_to_all_at_once_and_only_once() {
    let mut telling = telling();
    assert_eq!(tells(telling.tell(learn(1, 2))), [(vec![1, 2], 1, 2)]);
    assert_eq!(tells(telling.tell(learn(3, 1))), [(vec![1, 2], 3, 1)]);
    for _ in 0..100 {
        assert_eq!(tells(telling.tick()), []);
    }
    assert_eq!(answered(&mut telling, 1, 1, 2, 2), []);
    assert_eq!(answered(&mut telling, 2, 1, 2, 2), []);
}

#[test]
fn a_slow_learner_gets_what_waits_in_one_message_and_the_other_does_not_wait_for_it() {
    let mut telling = telling();
    for first in 1..=4 {
        telling.tell(learn(first, 1));
        answered(&mut telling, 1, first, 1, first);
    }
    for first in 5..=9 {
        assert_eq!(tells(telling.tell(learn(first, 1))), [(vec![1], first, 1)]);
        answered(&mut telling, 1, first, 1, first);
    }
    assert_eq!(answered(&mut telling, 2, 1, 1, 1), [(vec![2], 5, 5)]);
    assert_eq!(answered(&mut telling, 2, 2, 1, 2), []);
    assert_eq!(tells(telling.tell(learn(10, 1))), [(vec![1, 2], 10, 1)]);
}

#[test]
fn messages_keep_to_their_limits_and_one_larger_value_goes_alone() {
    let mut telling = telling();
    for first in 1..=4 {
        telling.tell(learn(first, 1));
    }
    let sizes = [
        (5, 600_000),
        (6, 400_000),
        (7, 100_000),
        (8, 3 << 20),
        (9, 1),
    ];
    for (first, bytes) in sizes {
        assert_eq!(tells(telling.tell(of_size(first, 1, bytes))), []);
    }
    assert_eq!(answered(&mut telling, 1, 1, 1, 4), [(vec![1], 5, 2)]);
    assert_eq!(answered(&mut telling, 1, 2, 1, 4), [(vec![1], 7, 1)]);
    assert_eq!(answered(&mut telling, 1, 3, 1, 4), [(vec![1], 8, 1)]);
    assert_eq!(answered(&mut telling, 1, 4, 1, 4), [(vec![1], 9, 1)]);
    for first in (10..10 + 2 * 1024).step_by(1024) {
        assert_eq!(tells(telling.tell(learn(first, 1024))), []);
    }
    assert_eq!(answered(&mut telling, 1, 5, 2, 6), [(vec![1], 10, 1024)]);
}

#[test]
fn what_failed_is_told_again_to_that_learner_alone_after_pauses_that_grow() {
    let mut telling = telling();
    telling.tell(learn(1, 2));
    for pause in [1, 2, 4, 8, 16, 16] {
        telling.failed(node(2), Slot(1), 2);
        let told: Vec<_> = (0..pause + 3).map(|_| tells(telling.tick())).collect();
        let again = told.iter().position(|tells| !tells.is_empty());
        assert_eq!(again, Some(pause - 1));
        assert_eq!(told[pause - 1], [(vec![2], 1, 2)]);
    }
}

#[test]
fn one_that_fails_gets_one_message_at_a_time_until_it_answers() {
    let mut telling = telling();
    for first in 1..=4 {
        telling.tell(of_size(first, 1, 900_000));
    }
    for first in 1..=4 {
        telling.failed(node(2), Slot(first), 1);
    }
    let told = (0..20)
        .flat_map(|_| tells(telling.tick()))
        .collect::<Vec<_>>();
    assert_eq!(told, [(vec![2], 1, 1)]);
    let more = answered(&mut telling, 2, 1, 1, 1);
    assert_eq!(more, [(vec![2], 2, 1), (vec![2], 3, 1), (vec![2], 4, 1)]);
}

#[test]
fn a_learner_that_answers_an_announcement_is_tried_at_once() {
    let mut telling = telling();
    telling.tell(learn(1, 1));
    for _ in 0..5 {
        telling.failed(node(2), Slot(1), 1);
        (0..40).for_each(|_| drop(telling.tick()));
    }
    telling.failed(node(2), Slot(1), 1);
    assert_eq!(tells(telling.tick()), []);
    assert_eq!(tells(telling.tell(learn(2, 0))), [(vec![1, 2], 2, 0)]);
    assert_eq!(answered(&mut telling, 2, 2, 0, 0), [(vec![2], 1, 1)]);
}

#[test]
fn one_announcement_is_under_way_to_each_learner() {
    let mut telling = telling();
    assert_eq!(tells(telling.tell(learn(1, 0))), [(vec![1, 2], 1, 0)]);
    assert_eq!(tells(telling.tell(learn(1, 0))), []);
    answered(&mut telling, 1, 1, 0, 0);
    assert_eq!(tells(telling.tell(learn(1, 0))), [(vec![1], 1, 0)]);
    telling.failed(node(2), Slot(1), 0);
    assert_eq!(tells(telling.tell(learn(1, 0))), [(vec![2], 1, 0)]);
}

#[test]
fn what_one_has_applied_waits_for_the_others_within_a_bound() {
    let mut telling = telling();
    for first in 1..=4 {
        telling.tell(of_size(first, 1, 1 << 20));
    }
    for first in 5..=40 {
        telling.tell(of_size(first, 1, 1 << 20));
        for done in 1..=first {
            telling.answered(node(1), Slot(done), 1, Slot(first));
        }
        let bytes: usize = telling
            .waiting
            .values()
            .map(|values| bytes_of(values))
            .sum();
        assert_eq!(bytes, telling.waiting_bytes);
        assert!(bytes <= WAITING_BYTES, "{bytes}");
    }
    // It finds the rest at the acceptors.
    assert_eq!(answered(&mut telling, 2, 1, 1, 1), [(vec![2], 37, 1)]);
}

#[test]
fn what_no_learner_has_applied_is_kept_whatever_its_size() {
    let mut telling = telling();
    for first in 1..=12 {
        telling.tell(of_size(first, 1, 1 << 20));
    }
    assert_eq!(telling.waiting.len(), 12);
    for first in 1..=4 {
        telling.failed(node(1), Slot(first), 1);
        telling.failed(node(2), Slot(first), 1);
    }
    (0..16).for_each(|_| drop(telling.tick()));
    let mut told = BTreeSet::new();
    for first in 1..=12 {
        let more = telling.answered(node(1), Slot(first), 1, Slot(first));
        told.extend(more.iter().map(|tell| tell.learn.first.0));
    }
    assert_eq!(told, (2..=12).collect());
}

#[test]
fn nothing_waits_for_one_that_fails_and_what_it_has_applied_is_not_told_it() {
    let mut telling = telling();
    telling.tell(learn(1, 3));
    telling.failed(node(2), Slot(1), 3);
    answered(&mut telling, 1, 1, 3, 3);
    assert!(telling.waiting.is_empty());
    telling.tell(learn(4, 1));
    // It has found everything at the acceptors.
    assert_eq!(answered(&mut telling, 2, 5, 0, 4), []);
    answered(&mut telling, 1, 4, 1, 4);
    assert!(telling.waiting.is_empty());
}

#[test]
fn learners_that_come_are_told_what_is_new_and_those_that_go_hold_nothing_back() {
    let mut telling = telling();
    telling.tell(learn(1, 1));
    telling.set_learners([node(1), node(3)]);
    answered(&mut telling, 1, 1, 1, 1);
    assert_eq!(
        tells(telling.tell(learn(2, 1))),
        [(vec![1], 2, 1), (vec![3], 1, 2)]
    );
    telling.set_learners([node(1)]);
    answered(&mut telling, 1, 2, 1, 2);
    assert!(telling.waiting.is_empty());
}

/// Asks again for these slots.
fn ask_again(telling: &mut Telling, wanted: &[u64]) -> Vec<(Vec<u8>, u64, usize)> {
    let value = Value(vec![1].into());
    let wanted = wanted.iter().map(|slot| (Slot(*slot), &value));
    let tell = telling.ask_again(wanted);
    tells(tell)
}

#[test]
fn an_outcome_is_asked_for_again_when_its_answer_is_lost_and_at_one_learner_at_a_time() {
    let mut telling = telling();
    telling.tell(learn(1, 3));
    assert_eq!(
        ask_again(&mut telling, &[1, 2, 3]),
        [],
        "none has applied it"
    );
    telling.answered(node(2), Slot(4), 0, Slot(3));
    assert_eq!(
        ask_again(&mut telling, &[1, 2, 3]),
        [],
        "its answer may still come"
    );
    telling.failed(node(2), Slot(1), 3);
    (0..2).for_each(|_| drop(telling.tick()));
    telling.answered(node(2), Slot(4), 0, Slot(3));
    assert_eq!(ask_again(&mut telling, &[1, 2, 3]), [(vec![2], 1, 3)]);
    assert_eq!(
        ask_again(&mut telling, &[1, 2, 3]),
        [],
        "one question at a time"
    );
    telling.answered(node(2), Slot(1), 3, Slot(3));
    assert_eq!(ask_again(&mut telling, &[2]), [(vec![2], 2, 1)]);
}

#[test]
fn outcomes_are_asked_for_in_turn_so_that_one_that_never_comes_holds_up_none() {
    let mut telling = telling();
    telling.set_learners([node(1)]);
    for first in [1, 3, 6] {
        telling.tell(learn(first, 1));
        telling.failed(node(1), Slot(first), 1);
    }
    telling.answered(node(1), Slot(9), 0, Slot(9));
    let mut asked = Vec::new();
    for _ in 0..6 {
        let question = ask_again(&mut telling, &[1, 3, 6]);
        let (_, first, count) = question[0].clone();
        asked.push(first);
        telling.answered(node(1), Slot(first), count, Slot(9));
    }
    assert_eq!(asked, [1, 3, 6, 1, 3, 6]);
}

#[test]
fn learners_are_asked_for_outcomes_in_turn() {
    let mut telling = telling();
    telling.tell(Learn {
        committed: Slot(9),
        ..learn(10, 0)
    });
    for id in [1, 2] {
        telling.answered(node(id), Slot(9), 0, Slot(9));
    }
    let mut asked = Vec::new();
    for _ in 0..4 {
        let (to, first, count) = ask_again(&mut telling, &[5])[0].clone();
        asked.push(to[0]);
        telling.failed(node(to[0]), Slot(first), count);
        telling.answered(node(to[0]), Slot(9), 0, Slot(9));
    }
    assert_eq!(asked, [1, 2, 1, 2]);
}

#[test]
fn outcomes_are_not_asked_for_in_slots_that_another_leader_may_have_filled() {
    let mut telling = telling();
    telling.tell(learn(1, 2));
    // The learner has applied 3 and 4, which this leader has given out and does not know to be chosen.
    answered(&mut telling, 1, 1, 2, 4);
    assert_eq!(ask_again(&mut telling, &[3, 4]), []);
    assert_eq!(ask_again(&mut telling, &[2, 3, 4]), [(vec![1], 2, 1)]);
    telling.tell(learn(3, 2));
    answered(&mut telling, 1, 2, 1, 4);
    answered(&mut telling, 1, 3, 2, 4);
    assert_eq!(ask_again(&mut telling, &[3, 4]), [(vec![1], 3, 2)]);
}

#[test]
fn a_new_leader_begins_with_nothing() {
    let mut telling = telling();
    telling.tell(learn(1, 1));
    telling.clear();
    assert!(telling.waiting.is_empty());
    assert_eq!(tells(telling.tell(learn(1, 1))), [(vec![1, 2], 1, 1)]);
}
