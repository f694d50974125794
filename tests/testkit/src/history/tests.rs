use std::time::Duration;

use super::*;
use crate::sim::Rng;

const BUDGET: Duration = Duration::from_secs(60);

fn op(client: u32, called: u64, call: Call, returned: Option<(u64, Return)>) -> Operation {
    Operation {
        client,
        called,
        call,
        returned,
    }
}

fn write(data: u64) -> Call {
    Call::Write {
        data,
        if_version: None,
    }
}

const DELETE: Call = Call::Delete { if_version: None };

fn found(version: u64, data: u64) -> Return {
    Return::Found(Some((version, data)))
}

fn is_good(operations: &[Operation]) -> bool {
    match check(operations, BUDGET) {
        Verdict::Linearizable => true,
        Verdict::Illegal(_) => false,
        Verdict::Undecided => panic!("the budget is ample"),
    }
}

#[test]
fn one_after_the_other_is_good() {
    assert!(is_good(&[
        op(1, 0, Call::Read, Some((1, Return::Found(None)))),
        op(1, 2, write(7), Some((3, Return::Committed(1)))),
        op(2, 4, Call::Read, Some((5, found(1, 7)))),
        op(2, 6, DELETE, Some((7, Return::Committed(2)))),
        op(1, 8, DELETE, Some((9, Return::Committed(0)))),
        op(1, 10, Call::Read, Some((11, Return::Found(None)))),
    ]));
}

#[test]
fn a_read_may_see_a_write_under_way_or_not() {
    let reads = |state| {
        [
            op(1, 0, write(7), Some((10, Return::Committed(1)))),
            op(2, 1, Call::Read, Some((2, Return::Found(state)))),
        ]
    };
    assert!(is_good(&reads(None)));
    assert!(is_good(&reads(Some((1, 7)))));
    assert!(!is_good(&reads(Some((2, 7)))));
}

#[test]
fn a_stale_read_is_bad() {
    let history = [
        op(1, 0, write(1), Some((1, Return::Committed(1)))),
        op(1, 2, write(2), Some((3, Return::Committed(2)))),
        op(2, 4, Call::Read, Some((5, found(1, 1)))),
    ];
    let Verdict::Illegal(example) = check(&history, BUDGET) else {
        panic!("it was overwritten before the read began");
    };
    assert_eq!(example.order, history[..2]);
    assert_eq!(example.state, Some((2, 2)));
    assert_eq!(example.stuck, history[2..]);
}

#[test]
fn two_readers_may_not_see_two_orders() {
    let mut history = vec![
        op(1, 0, write(1), Some((100, Return::Committed(1)))),
        op(3, 10, Call::Read, Some((20, found(1, 1)))),
    ];
    assert!(is_good(&history));
    history.push(op(4, 30, Call::Read, Some((40, Return::Found(None)))));
    assert!(!is_good(&history));
}

#[test]
fn a_lost_write_is_bad() {
    assert!(!is_good(&[
        op(1, 0, write(1), Some((1, Return::Committed(1)))),
        op(2, 2, write(2), Some((3, Return::Committed(1)))),
    ]));
}

#[test]
fn a_write_with_two_effects_is_bad() {
    assert!(!is_good(&[
        op(1, 0, write(1), Some((1, Return::Committed(1)))),
        op(2, 2, Call::Read, Some((3, found(2, 1)))),
    ]));
}

#[test]
fn a_write_without_an_answer_may_come_late_or_never_but_once() {
    let unknown = op(1, 0, write(1), None);
    let read = |at, state| op(2, at, Call::Read, Some((at + 1, Return::Found(state))));
    assert!(is_good(&[unknown, read(10, None)]));
    assert!(is_good(&[unknown, read(10, None), read(20, Some((1, 1)))]));
    assert!(!is_good(&[unknown, read(10, Some((1, 1))), read(20, None)]));
    let overwritten = op(3, 12, write(2), Some((13, Return::Committed(2))));
    let again = read(20, Some((3, 1)));
    assert!(!is_good(&[
        unknown,
        read(10, Some((1, 1))),
        overwritten,
        again
    ]));
}

#[test]
fn compare_and_set_has_one_winner() {
    let cas = |client, data, answer| {
        let call = Call::Write {
            data,
            if_version: Some(0),
        };
        op(client, 0, call, Some((10, answer)))
    };
    assert!(is_good(&[
        cas(1, 1, Return::Committed(1)),
        cas(2, 2, Return::NotCommitted(1))
    ]));
    assert!(!is_good(&[
        cas(1, 1, Return::Committed(1)),
        cas(2, 2, Return::Committed(1))
    ]));
    assert!(!is_good(&[
        cas(1, 1, Return::NotCommitted(1)),
        cas(2, 2, Return::NotCommitted(1))
    ]));
}

#[test]
fn a_conditional_delete_removes_that_version_and_no_other() {
    let delete = |expected| Call::Delete {
        if_version: Some(expected),
    };
    let history = |expected, answer, left| {
        [
            op(1, 0, write(7), Some((1, Return::Committed(1)))),
            op(2, 2, delete(expected), Some((3, answer))),
            op(3, 4, Call::Read, Some((5, left))),
        ]
    };
    let absent = Return::Found(None);
    assert!(is_good(&history(1, Return::Committed(2), absent)));
    assert!(is_good(&history(2, Return::NotCommitted(1), found(1, 7))));
    assert!(!is_good(&history(2, Return::Committed(2), absent)));
    assert!(!is_good(&history(1, Return::NotCommitted(1), found(1, 7))));
    assert!(!is_good(&history(1, Return::Committed(2), found(1, 7))));
    let nothing = |answer| is_good(&[op(1, 0, delete(0), Some((1, answer)))]);
    assert!(nothing(Return::Committed(0)));
    assert!(!nothing(Return::Committed(1)));
}

#[test]
fn a_resource_that_comes_back_begins_at_version_1_and_must_not_have_been_there() {
    let create = |data, answer| {
        let call = Call::Write {
            data,
            if_version: Some(0),
        };
        op(3, 6, call, Some((7, answer)))
    };
    let deleted = [
        op(1, 0, write(7), Some((1, Return::Committed(1)))),
        op(1, 2, write(8), Some((3, Return::Committed(2)))),
        op(2, 4, DELETE, Some((5, Return::Committed(3)))),
    ];
    let then = |next: &[Operation]| is_good(&[&deleted[..], next].concat());
    let created = create(9, Return::Committed(1));
    let read = |state| op(4, 8, Call::Read, Some((9, Return::Found(state))));
    assert!(then(&[created, read(Some((1, 9)))]));
    // As if the delete had left a version behind, or had not been.
    assert!(!then(&[create(9, Return::Committed(4))]));
    assert!(!then(&[create(9, Return::NotCommitted(2))]));
    // What was deleted, or overwritten before, is read again; what was created is not there.
    assert!(!then(&[read(Some((2, 8)))]));
    assert!(!then(&[created, read(Some((1, 7)))]));
    assert!(!then(&[created, read(None)]));
}

#[test]
fn a_store_that_has_not_applied_a_write_yet_must_not_answer() {
    // The writer was answered by a learner, and then reads at a store: what it gets there is the
    // state before its own write, after a delete, or in the middle of two writes.
    let history = |answer| {
        [
            op(1, 0, write(1), Some((10, Return::Committed(1)))),
            op(1, 11, DELETE, Some((20, Return::Committed(2)))),
            op(1, 21, write(2), Some((30, Return::Committed(1)))),
            op(2, 25, write(3), Some((40, Return::Committed(2)))),
            op(1, 31, Call::Read, Some((35, answer))),
        ]
    };
    assert!(is_good(&history(found(1, 2))));
    assert!(is_good(&history(found(2, 3))));
    assert!(!is_good(&history(Return::Found(None))));
    assert!(!is_good(&history(found(1, 1))));
    assert!(!is_good(&history(found(1, 3))));
}

#[test]
fn many_requests_that_nobody_heard_of_again_do_not_hide_an_error() {
    // None of these can have had an effect: the version is never theirs.
    let lost = (0..64).map(|i| {
        let call = Call::Write {
            data: 1000 + i,
            if_version: Some(1000 + i),
        };
        op(9, i, call, None)
    });
    let mut history: Vec<Operation> = lost.collect();
    for i in 0..100 {
        let answer = Return::Committed(i + 1);
        history.push(op(1, 100 + 2 * i, write(i), Some((101 + 2 * i, answer))));
    }
    assert!(is_good(&history));
    history.push(op(2, 400, Call::Read, Some((401, found(99, 98)))));
    assert!(!is_good(&history));
}

/// Every order that the times allow, one after the other.
fn by_trying_everything(operations: &[Operation], state: State) -> bool {
    if operations.iter().all(|op| op.returned.is_none()) {
        return true;
    }
    let returned = operations.iter().filter_map(|op| Some(op.returned?.0));
    let Some(first_return) = returned.min() else {
        return true;
    };
    (0..operations.len()).any(|i| {
        let op = operations[i];
        let mut rest = operations.to_vec();
        rest.remove(i);
        op.called <= first_return
            && op
                .call
                .apply(state, op.returned.map(|(_, answer)| answer))
                .is_some_and(|state| by_trying_everything(&rest, state))
    })
}

/// A few clients on a resource that works, and then an answer or none is changed.
fn random_history(rng: &mut Rng) -> Vec<Operation> {
    let mut state: State = None;
    let mut operations = Vec::new();
    for i in 0..rng.between(2, 7) {
        let call = match rng.below(6) {
            0 => DELETE,
            1 | 2 => Call::Read,
            3 => Call::Delete {
                if_version: Some(rng.below(3)),
            },
            4 => Call::Write {
                data: i,
                if_version: Some(rng.below(3)),
            },
            _ => write(i),
        };
        let moment = 10 * i + 20;
        let (called, returned) = (moment - rng.below(21), moment + rng.below(21));
        let version = state.map_or(0, |(version, _)| version);
        let answers = [
            Return::Committed(version + 1),
            Return::Committed(0),
            Return::NotCommitted(version),
            Return::Found(state),
        ];
        let answer = answers
            .into_iter()
            .find(|answer| call.apply(state, Some(*answer)).is_some())
            .unwrap();
        if rng.chance(150) {
            // Nobody knows, and perhaps it never happened.
            operations.push(op(i as u32, called, call, None));
            if rng.chance(500) {
                continue;
            }
        } else {
            operations.push(op(i as u32, called, call, Some((returned, answer))));
        }
        state = call.apply(state, None).unwrap();
    }
    if rng.chance(500) {
        let victim = rng.below(operations.len() as u64) as usize;
        if let Some((_, answer)) = &mut operations[victim].returned {
            *answer = match *answer {
                Return::Committed(version) => Return::Committed(version + rng.below(2)),
                Return::NotCommitted(version) => Return::NotCommitted(version + 1),
                Return::Found(None) => found(1, rng.below(7)),
                Return::Found(Some((version, data))) => match rng.below(3) {
                    0 => Return::Found(None),
                    1 => found(version, (data + 1) % 7),
                    _ => found(version + 1, data),
                },
            };
        }
    }
    operations
}

#[test]
fn it_agrees_with_trying_every_order() {
    let mut rng = Rng::new(1);
    let mut bad = 0;
    for _ in 0..20_000 {
        let history = random_history(&mut rng);
        let expected = by_trying_everything(&history, None);
        assert_eq!(is_good(&history), expected, "{history:#?}");
        bad += usize::from(!expected);
    }
    assert!((1_000..10_000).contains(&bad), "{bad} of 20000 were bad");
}

#[test]
fn a_long_history_with_many_clients_is_decided_in_time() {
    let mut rng = Rng::new(2);
    let mut state: State = None;
    let mut operations = Vec::new();
    for i in 0..5_000u64 {
        let call = if rng.chance(300) {
            Call::Read
        } else {
            write(i)
        };
        let moment = 10 * i + 100;
        let (called, returned) = (moment - rng.below(101), moment + rng.below(101));
        let next = call.apply(state, None).unwrap();
        let answer = match call {
            Call::Read => Return::Found(state),
            _ => Return::Committed(next.map_or(0, |(version, _)| version)),
        };
        let known = !rng.chance(20);
        operations.push(op(0, called, call, known.then_some((returned, answer))));
        state = next;
    }
    assert!(is_good(&operations));
    let last = operations.len() - 1;
    operations[last].call = Call::Read;
    operations[last].returned = Some((u64::MAX, found(1, 0)));
    assert!(!is_good(&operations));
}
