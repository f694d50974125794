use super::*;
use crate::ids::NodeId;

fn ballot(round: u64, id: u8) -> Ballot {
    Ballot::new(round, NodeId::new(id).unwrap()).unwrap()
}

fn values(texts: &[&'static str]) -> Values {
    texts.iter().map(|text| Value((*text).into())).collect()
}

fn prepare(ballot: Ballot, from: u64) -> Request {
    Request::Prepare {
        ballot,
        run: 0,
        from: Slot(from),
    }
}

fn accept(ballot: Ballot, first: u64, texts: &[&'static str]) -> Request {
    Request::Accept {
        ballot,
        first: Slot(first),
        values: values(texts),
        committed: Slot::ZERO,
    }
}

fn renew(ballot: Ballot) -> Request {
    Request::Renew {
        ballot,
        round: 1,
        committed: Slot::ZERO,
        trim: Slot::ZERO,
    }
}

fn handle(acceptor: &mut Acceptor, request: Request) -> (Vec<Record>, Reply) {
    let mut records = Vec::new();
    let output = acceptor.handle(request);
    let persisted = output.persist_proven(|written| {
        records.extend_from_slice(written);
        Ok::<_, ()>(())
    });
    let (answer, proof) = persisted.unwrap();
    let votes = records
        .iter()
        .filter(|record| matches!(record, Record::Accepted { .. }));
    let places: Vec<Place> = votes.map(|_| NOWHERE).collect();
    acceptor.written(proof, &places);
    (records, answer.into_reply(&()).unwrap())
}

/// Where records lie in tests whose values all stay in memory.
const NOWHERE: Place = Place { file: 0, offset: 0 };

fn is_refused(acceptor: &mut Acceptor, request: Request) -> bool {
    let before = acceptor.clone();
    let (records, reply) = handle(acceptor, request);
    let refused = matches!(reply, Reply::Nack { promised, .. } if promised == before.promised());
    if refused {
        assert_eq!(
            (&*acceptor, records),
            (&before, vec![]),
            "a refusal changes nothing"
        );
    }
    refused
}

/// The slots returned, and where to continue.
fn page(acceptor: &mut Acceptor, request: Request) -> (Vec<u64>, Option<u64>) {
    match handle(acceptor, request).1 {
        Reply::Promise { votes, rest, .. } => (
            votes.iter().map(|vote| vote.slot.0).collect(),
            rest.map(|slot| slot.0),
        ),
        Reply::Fetched { votes, to, .. } => {
            (votes.iter().map(|vote| vote.slot.0).collect(), Some(to.0))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_lies_below_the_promise_is_refused_and_whatever_does_not_is_taken() {
    for (at, refused) in [
        (ballot(4, 9), true),
        (ballot(5, 1), true),
        (ballot(5, 2), false),
        (ballot(5, 3), false),
        (ballot(6, 1), false),
        (Ballot::NONE, true),
    ] {
        for request in [prepare(at, 1), accept(at, 1, &["a"]), renew(at)] {
            let mut acceptor = Acceptor::new();
            let (records, _) = handle(&mut acceptor, prepare(ballot(5, 2), 1));
            assert_eq!(
                records,
                [Record::Promised {
                    ballot: ballot(5, 2),
                    run: 0,
                }]
            );
            assert_eq!(
                is_refused(&mut acceptor, request.clone()),
                refused,
                "{request:?}"
            );
        }
    }
}

#[test]
fn a_vote_is_a_promise_not_to_vote_lower() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, accept(ballot(3, 1), 1, &["a"]));
    assert_eq!(acceptor.promised(), ballot(3, 1));
    assert!(is_refused(&mut acceptor, accept(ballot(2, 1), 7, &["b"])));
    handle(&mut acceptor, renew(ballot(4, 1)));
    assert!(is_refused(&mut acceptor, accept(ballot(3, 1), 2, &["b"])));
}

#[test]
fn a_second_value_at_the_same_ballot_is_refused_and_the_same_one_is_told_again() {
    let mut acceptor = Acceptor::new();
    let first = handle(&mut acceptor, accept(ballot(3, 1), 1, &["a", "b"]));
    assert_eq!(first.0.len(), 1);
    assert!(is_refused(
        &mut acceptor,
        accept(ballot(3, 1), 2, &["c", "d"])
    ));
    let again = handle(&mut acceptor, accept(ballot(3, 1), 1, &["a", "b"]));
    assert_eq!(again, (vec![], first.1));
    // Partly known, and the same where it is known: one more vote.
    assert_eq!(
        handle(&mut acceptor, accept(ballot(3, 1), 2, &["b", "c"]))
            .0
            .len(),
        1
    );
    let (at, value) = acceptor.vote(Slot(3)).unwrap();
    assert_eq!((at, &value.unwrap().0[..]), (ballot(3, 1), &b"c"[..]));
}

#[test]
fn impossible_slots_and_absurd_ballots_are_refused() {
    let mut acceptor = Acceptor::new();
    assert!(is_refused(&mut acceptor, accept(ballot(1, 1), 0, &["a"])));
    assert!(is_refused(
        &mut acceptor,
        accept(ballot(1, 1), u64::MAX, &["a"])
    ));
    assert!(is_refused(
        &mut acceptor,
        prepare(ballot(Ballot::MAX_JUMP + 1, 1), 1)
    ));
    assert!(!is_refused(
        &mut acceptor,
        prepare(ballot(Ballot::MAX_JUMP, 1), 1)
    ));
}

#[test]
fn a_vote_far_beyond_the_log_is_refused_whatever_the_message_says_of_the_log() {
    let mut acceptor = Acceptor::new();
    assert!(is_refused(
        &mut acceptor,
        accept(ballot(1, 1), MAX_AHEAD + 1, &["a"])
    ));
    let stray = Request::Accept {
        ballot: ballot(1, 1),
        first: Slot(5 * MAX_AHEAD),
        values: values(&["a"]),
        committed: Slot(5 * MAX_AHEAD - 1),
    };
    assert!(is_refused(&mut acceptor, stray));
    assert!(!is_refused(
        &mut acceptor,
        accept(ballot(1, 1), MAX_AHEAD, &["b"])
    ));
}

fn renew_with(ballot: Ballot, committed: u64, trim: u64) -> Request {
    Request::Renew {
        ballot,
        round: 1,
        committed: Slot(committed),
        trim: Slot(trim),
    }
}

fn probed(acceptor: &mut Acceptor) -> Slot {
    match handle(acceptor, Request::Probe) {
        (_, Reply::Probed { committed, .. }) => committed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_acceptor_that_was_away_for_long_takes_part_again_after_some_renewals() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, accept(ballot(1, 1), 1, &["a"]));
    let far = 5 * MAX_AHEAD + 7;
    for _ in 0..4 {
        handle(&mut acceptor, renew_with(ballot(1, 1), far, 0));
        assert!(is_refused(
            &mut acceptor,
            accept(ballot(1, 1), far + 1, &["b"])
        ));
    }
    handle(&mut acceptor, renew_with(ballot(1, 1), far, 0));
    assert!(!is_refused(
        &mut acceptor,
        accept(ballot(1, 1), far + 1, &["b"])
    ));
    handle(&mut acceptor, renew_with(ballot(1, 1), far, 0));
    assert_eq!(probed(&mut acceptor), Slot(far));
}

#[test]
fn what_is_said_to_be_chosen_moves_no_later_leader_past_what_was_voted_for() {
    for said in [4, 1_000, MAX_AHEAD, 10_u64.pow(15)] {
        let mut acceptor = Acceptor::new();
        handle(&mut acceptor, accept(ballot(1, 1), 1, &["a", "b", "c"]));
        handle(&mut acceptor, renew_with(ballot(1, 1), said, said));
        assert_eq!(probed(&mut acceptor), Slot(3), "{said}");
        let (_, promise) = handle(&mut acceptor, prepare(ballot(2, 2), 1));
        let Reply::Promise {
            votes, committed, ..
        } = promise
        else {
            panic!("{promise:?}")
        };
        assert_eq!((votes.len(), committed), (3, Slot(3)), "{said}");
    }
}

#[test]
fn a_trim_never_goes_beyond_what_was_voted_for() {
    let policy = TrimPolicy {
        tail: 0,
        stride: 1,
        ..TrimPolicy::default()
    };
    let mut acceptor = Acceptor::new().with_trimming(policy);
    handle(&mut acceptor, accept(ballot(1, 1), 1, &["a", "b", "c"]));
    handle(
        &mut acceptor,
        renew_with(ballot(1, 1), 10_u64.pow(15), 10_u64.pow(15)),
    );
    assert_eq!(acceptor.floor(), Slot(3));
    assert!(!is_refused(&mut acceptor, accept(ballot(1, 1), 4, &["d"])));
    assert_eq!(acceptor.last_voted(), Slot(4));
}

#[test]
fn a_promise_tells_the_newest_vote_of_every_slot_from_the_one_asked_for() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, accept(ballot(1, 1), 1, &["a", "b", "c"]));
    handle(&mut acceptor, accept(ballot(2, 2), 2, &["B"]));
    let Reply::Promise {
        votes, rest: None, ..
    } = handle(&mut acceptor, prepare(ballot(3, 1), 2)).1
    else {
        panic!()
    };
    let votes: Vec<_> = votes
        .iter()
        .map(|v| (v.slot.0, v.ballot, &v.value.0[..]))
        .collect();
    assert_eq!(
        votes,
        [(2, ballot(2, 2), &b"B"[..]), (3, ballot(1, 1), &b"c"[..])]
    );
}

#[test]
fn long_answers_come_in_pages_that_leave_nothing_out() {
    let mut acceptor = Acceptor::with_answers(AnswerLimits {
        bytes: 10,
        promise_bytes: 10,
        votes: 3,
    });
    let eleven = "eleven byte";
    handle(
        &mut acceptor,
        accept(ballot(1, 1), 1, &["a", "b", "c", "d", eleven, "e"]),
    );
    let at = ballot(2, 1);
    assert_eq!(
        page(&mut acceptor, prepare(at, 1)),
        (vec![1, 2, 3], Some(4))
    );
    assert_eq!(page(&mut acceptor, prepare(at, 4)), (vec![4], Some(5)));
    assert_eq!(
        page(&mut acceptor, prepare(at, 5)),
        (vec![5], Some(6)),
        "a large value goes alone"
    );
    assert_eq!(page(&mut acceptor, prepare(at, 6)), (vec![6], None));
    assert_eq!(page(&mut acceptor, prepare(at, 7)), (vec![], None));
    let fetch = |from, to| Request::Fetch {
        from: Slot(from),
        to: Slot(to),
    };
    assert_eq!(page(&mut acceptor, fetch(1, 2)), (vec![1, 2], Some(2)));
    assert_eq!(page(&mut acceptor, fetch(2, 9)), (vec![2, 3, 4], Some(4)));
    assert_eq!(page(&mut acceptor, fetch(6, 9)), (vec![6], Some(9)));
    assert_eq!(page(&mut acceptor, fetch(9, 6)), (vec![], Some(6)));
}

#[test]
fn replaying_its_records_makes_the_same_acceptor() {
    let mut acceptor = Acceptor::new();
    let mut log = Vec::new();
    for request in [
        prepare(ballot(1, 1), 1),
        accept(ballot(1, 1), 1, &["a", "b"]),
        accept(ballot(1, 1), 1, &["a", "b"]),
        prepare(ballot(2, 2), 1),
        accept(ballot(1, 1), 3, &["c"]),
        accept(ballot(2, 2), 2, &["B", "C"]),
        renew(ballot(5, 3)),
    ] {
        log.extend(handle(&mut acceptor, request).0);
    }
    let mut again = Acceptor::new();
    log.iter().for_each(|record| again.replay(record, NOWHERE));
    again.leader_ticks = acceptor.leader_ticks;
    assert_eq!(again, acceptor);
    assert_eq!(log.len(), 5);
}

#[test]
fn a_leader_counts_as_alive_for_two_ticks_after_its_last_word() {
    let alive = |acceptor: &mut Acceptor| match handle(acceptor, Request::Probe).1 {
        Reply::Probed { leader_alive, .. } => leader_alive,
        other => panic!("{other:?}"),
    };
    for request in [
        prepare(ballot(1, 1), 1),
        accept(ballot(1, 1), 1, &["a"]),
        renew(ballot(1, 1)),
    ] {
        let mut acceptor = Acceptor::new();
        assert!(!alive(&mut acceptor));
        handle(&mut acceptor, request);
        acceptor.tick();
        assert!(alive(&mut acceptor));
        acceptor.tick();
        assert!(!alive(&mut acceptor));
        handle(&mut acceptor, renew(Ballot::NONE));
        assert!(!alive(&mut acceptor), "whom it refuses is no leader");
    }
}

fn chosen(count: u64) -> Acceptor {
    let mut acceptor = Acceptor::new().with_trimming(TrimPolicy {
        tail: 2,
        stride: 3,
        ..TrimPolicy::default()
    });
    for slot in 1..=count {
        let accept = Request::Accept {
            ballot: Ballot::from_number(257).unwrap(),
            first: Slot(slot),
            values: [Value::NOOP].into(),
            committed: Slot(slot - 1),
        };
        handle(&mut acceptor, accept);
    }
    acceptor
}

fn trim(acceptor: &mut Acceptor, committed: u64, trim: u64) -> Vec<Record> {
    let renew = Request::Renew {
        ballot: Ballot::from_number(257).unwrap(),
        round: 1,
        committed: Slot(committed),
        trim: Slot(trim),
    };
    handle(acceptor, renew).0
}

#[test]
fn only_what_is_chosen_and_durable_at_the_learners_is_forgotten_but_for_a_tail() {
    let mut acceptor = chosen(10);
    assert_eq!(trim(&mut acceptor, 9, 0), []);
    assert_eq!(trim(&mut acceptor, 9, 4), [], "less than a stride");
    assert_eq!(trim(&mut acceptor, 9, 100).len(), 1);
    assert_eq!(acceptor.floor(), Slot(7));
    assert_eq!(acceptor.vote(Slot(7)), None);
    assert!(acceptor.vote(Slot(8)).is_some());
}

#[test]
fn a_trimmed_slot_is_never_said_to_be_empty() {
    let mut acceptor = chosen(10);
    trim(&mut acceptor, 10, 10);
    let floor = acceptor.floor();
    let fetch = Request::Fetch {
        from: Slot(3),
        to: Slot(10),
    };
    let reply = handle(&mut acceptor, fetch).1;
    assert_eq!(
        reply,
        Reply::Truncated {
            from: Slot(3),
            floor
        }
    );
    // A candidate learns from `committed` that it need not look there.
    let ballot = Ballot::from_number(2 * 256 + 2).unwrap();
    let prepare = Request::Prepare {
        ballot,
        run: 0,
        from: Slot(1),
    };
    match handle(&mut acceptor, prepare).1 {
        Reply::Promise {
            committed, votes, ..
        } => {
            assert!(committed >= floor);
            assert!(votes.iter().all(|vote| vote.slot > floor));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_records_after_a_trim_are_enough_to_restore_it() {
    let mut acceptor = chosen(10);
    let trimmed = trim(&mut acceptor, 10, 10);
    let mut restored = Acceptor::new();
    let records = trimmed.iter();
    records.for_each(|record| restored.replay(record, NOWHERE));
    assert_eq!(restored.promised(), acceptor.promised());
    assert_eq!(restored.floor(), acceptor.floor());
    // What it has voted for since is in later records.
    assert_eq!(restored.committed(), acceptor.floor());
}

/// Two processes with one identity, one of them without the other's disk, may claim the same ballot.
#[test]
fn one_ballot_is_promised_to_one_process_only() {
    let prepare = |run| Request::Prepare {
        ballot: ballot(5, 2),
        run,
        from: Slot(1),
    };
    let mut acceptor = Acceptor::new();
    let (mut records, _) = handle(&mut acceptor, prepare(7));
    assert!(!is_refused(&mut acceptor, prepare(7)));
    assert!(is_refused(&mut acceptor, prepare(8)));
    // Votes at the ballot change nothing, nor does a restart.
    records.extend(handle(&mut acceptor, accept(ballot(5, 2), 1, &["a"])).0);
    let mut restarted = Acceptor::new();
    for record in &records {
        restarted.replay(record, NOWHERE);
    }
    assert!(is_refused(&mut restarted, prepare(8)));
    assert!(!is_refused(&mut restarted, prepare(7)));
}

#[test]
fn a_ballot_learned_from_a_vote_is_promised_to_the_first_that_asks() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, accept(ballot(5, 2), 1, &["a"]));
    let prepare = |run| Request::Prepare {
        ballot: ballot(5, 2),
        run,
        from: Slot(1),
    };
    assert!(!is_refused(&mut acceptor, prepare(7)));
    assert!(is_refused(&mut acceptor, prepare(8)));
}

/// What is answered at once, to a request that waits for nothing.
fn at_once(acceptor: &mut Acceptor, request: &Request) -> Option<Reply> {
    let answer = acceptor.answer(request)?;
    Some(answer.into_reply(&()).unwrap())
}

fn fetch(from: u64, to: u64) -> Request {
    Request::Fetch {
        from: Slot(from),
        to: Slot(to),
    }
}

/// Between a step and its sync.
fn writing(acceptor: &mut Acceptor, request: Request) -> Output<Record, Answer> {
    acceptor.handle(request)
}

fn finish(acceptor: &mut Acceptor, output: Output<Record, Answer>) {
    let mut places = Vec::new();
    let persisted = output.persist_proven(|records| {
        let votes = records.iter();
        let votes = votes.filter(|record| matches!(record, Record::Accepted { .. }));
        places.extend(votes.map(|_| NOWHERE));
        Ok::<_, ()>(())
    });
    acceptor.written(persisted.unwrap().1, &places);
}

#[test]
fn a_leader_is_confirmed_while_the_disk_works_on_its_votes() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, prepare(ballot(1, 1), 1));
    let vote = writing(&mut acceptor, accept(ballot(1, 1), 1, &["a"]));
    let renewed = Reply::Renewed {
        ballot: ballot(1, 1),
        round: 1,
    };
    assert_eq!(at_once(&mut acceptor, &renew(ballot(1, 1))), Some(renewed));
    // The vote itself is nobody's before it is on disk.
    assert_eq!(at_once(&mut acceptor, &fetch(1, 1)), None);
    finish(&mut acceptor, vote);
    assert!(at_once(&mut acceptor, &fetch(1, 1)).is_some());
}

#[test]
fn nobody_is_confirmed_by_a_promise_that_is_not_on_disk() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, prepare(ballot(1, 1), 1));
    let promise = writing(&mut acceptor, prepare(ballot(2, 2), 1));
    assert_eq!(at_once(&mut acceptor, &renew(ballot(2, 2))), None);
    // The older leader is refused already: it is about to be deposed.
    let refused = at_once(&mut acceptor, &renew(ballot(1, 1)));
    assert!(matches!(refused, Some(Reply::Nack { .. })), "{refused:?}");
    let Some(Reply::Probed { promised, .. }) = at_once(&mut acceptor, &Request::Probe) else {
        panic!()
    };
    assert_eq!(promised, ballot(1, 1), "it tells what is on disk");
    finish(&mut acceptor, promise);
    assert!(at_once(&mut acceptor, &renew(ballot(2, 2))).is_some());
}

#[test]
fn a_promise_on_its_way_to_a_slow_disk_counts_as_a_sign_of_life() {
    let mut acceptor = Acceptor::new();
    let promise = writing(&mut acceptor, prepare(ballot(2, 2), 1));
    let alive = |acceptor: &mut Acceptor| match at_once(acceptor, &Request::Probe) {
        Some(Reply::Probed { leader_alive, .. }) => leader_alive,
        other => panic!("{other:?}"),
    };
    for _ in 0..10 {
        acceptor.tick();
        assert!(alive(&mut acceptor));
    }
    finish(&mut acceptor, promise);
    acceptor.tick();
    acceptor.tick();
    assert!(!alive(&mut acceptor));
}

#[test]
fn what_a_leader_lets_go_at_once_is_forgotten_later_by_a_record() {
    let mut acceptor = chosen(10);
    let renew = Request::Renew {
        ballot: Ballot::from_number(257).unwrap(),
        round: 1,
        committed: Slot(10),
        trim: Slot(10),
    };
    assert!(at_once(&mut acceptor, &renew).is_some());
    assert_eq!(acceptor.floor(), Slot::ZERO);
    let tidied = acceptor.tidy();
    assert_eq!(
        at_once(&mut acceptor, &fetch(1, 9)),
        None,
        "not forgotten before it is on disk"
    );
    let mut trimmed = 0;
    let persisted = tidied.persist_proven(|records| {
        trimmed = records.len();
        Ok::<_, ()>(())
    });
    acceptor.written(persisted.unwrap().1, &[]);
    assert_eq!((trimmed, acceptor.floor()), (1, Slot(8)));
    let truncated = at_once(&mut acceptor, &fetch(1, 9));
    assert!(matches!(
        truncated,
        Some(Reply::Truncated { floor: Slot(8), .. })
    ));
}

/// One value of 1,000 bytes in each slot.
fn large(acceptor: &mut Acceptor, slots: std::ops::RangeInclusive<u64>) {
    for slot in slots {
        let accept = Request::Accept {
            ballot: ballot(1, 1),
            first: Slot(slot),
            values: [Value(vec![b'x'; 1000].into())].into(),
            committed: Slot(slot - 1),
        };
        handle(acceptor, accept);
    }
}

#[test]
fn votes_are_forgotten_by_their_bytes_as_well_as_by_their_number() {
    let policy = TrimPolicy {
        tail: 1 << 20,
        stride: 1 << 20,
        tail_bytes: 20_000,
        stride_bytes: 5_000,
    };
    let mut acceptor = Acceptor::new().with_trimming(policy);
    let let_go = |acceptor: &mut Acceptor, trim| {
        let renew = Request::Renew {
            ballot: ballot(1, 1),
            round: 1,
            committed: Slot(1_000),
            trim: Slot(trim),
        };
        handle(acceptor, renew).0.len()
    };
    large(&mut acceptor, 1..=20);
    assert_eq!(let_go(&mut acceptor, 20), 0, "no more than the tail");
    large(&mut acceptor, 21..=100);
    assert_eq!(let_go(&mut acceptor, 0), 0, "no learner has it");
    assert_eq!(let_go(&mut acceptor, 50), 1);
    assert_eq!(
        acceptor.floor(),
        Slot(50),
        "not beyond what the learners have"
    );
    assert_eq!(let_go(&mut acceptor, 100), 1);
    let kept = 100 - acceptor.floor().0;
    assert!((15..=20).contains(&kept), "{kept}");
    assert_eq!(let_go(&mut acceptor, 100), 0, "once is enough");
}

#[test]
fn memory_does_not_grow_with_the_log_while_nothing_may_be_forgotten() {
    let mut acceptor = Acceptor::new().with_held_bytes(50_000);
    for slot in 1..=5_000_u64 {
        let accept = Request::Accept {
            ballot: ballot(1, 1),
            first: Slot(slot),
            values: [Value(vec![b'x'; 100].into())].into(),
            committed: Slot(slot - 1),
        };
        let output = acceptor.handle(accept);
        let place = Place {
            file: 1,
            offset: slot * 200,
        };
        let (_, proof) = output.persist_proven(|_| Ok::<_, ()>(())).unwrap();
        acceptor.written(proof, &[place]);
    }
    let (held, index) = acceptor.memory();
    assert!(held <= 50_000, "{held}");
    assert!(index < 60_000, "{index}");
    assert!(acceptor.voted_bytes() > 500_000);
}

#[test]
fn an_acceptor_with_little_room_votes_and_says_so() {
    let mut acceptor = Acceptor::new();
    acceptor.set_room(Room::Tight, Volume { log: 8, free: 2 });
    let tight = |count| Reply::AcceptedTight {
        ballot: ballot(1, 1),
        first: Slot(1),
        count,
        log: 8,
        free: 2,
    };
    assert_eq!(
        handle(&mut acceptor, accept(ballot(1, 1), 1, &["a"])).1,
        tight(1)
    );
    // A leader asks with no value whether that is so still.
    let (records, reply) = handle(&mut acceptor, accept(ballot(1, 1), 1, &[]));
    assert_eq!((records.len(), reply), (0, tight(0)));
    acceptor.set_room(Room::Enough, Volume::default());
    let reply = handle(&mut acceptor, accept(ballot(1, 1), 1, &[])).1;
    assert!(
        matches!(reply, Reply::Accepted { count: 0, .. }),
        "{reply:?}"
    );
}

fn no_room(reply: &Reply) -> bool {
    matches!(reply, Reply::NoRoom { .. })
}

#[test]
fn a_log_with_its_share_takes_what_it_voted_in_again_and_nothing_new() {
    let mut acceptor = Acceptor::new();
    handle(&mut acceptor, accept(ballot(1, 1), 1, &["a", "b"]));
    acceptor.set_room(Room::Share, Volume { log: 8, free: 2 });
    let new = accept(ballot(1, 1), 3, &["c"]);
    let (records, reply) = handle(&mut acceptor, new.clone());
    assert_eq!(records, []);
    let expected = Reply::NoRoom {
        ballot: ballot(1, 1),
        first: Slot(3),
        log: 8,
        free: 2,
    };
    assert_eq!(reply, expected);
    // Told again, promised, proposed again by the next leader, a hole closed: all of that still works.
    let again = accept(ballot(1, 1), 1, &["a", "b"]);
    assert!(!no_room(&handle(&mut acceptor, again).1));
    assert!(!no_room(&handle(&mut acceptor, prepare(ballot(2, 2), 1)).1));
    let proposed_again = accept(ballot(2, 2), 1, &["a", "b"]);
    assert!(!no_room(&handle(&mut acceptor, proposed_again).1));
    let noop = Request::Accept {
        ballot: ballot(2, 2),
        first: Slot(3),
        values: [Value::NOOP].into(),
        committed: Slot::ZERO,
    };
    assert!(!no_room(&handle(&mut acceptor, noop).1));
    acceptor.set_room(Room::Enough, Volume::default());
    assert!(!no_room(
        &handle(&mut acceptor, accept(ballot(2, 2), 4, &["d"])).1
    ));
}

#[test]
fn a_volume_that_is_almost_full_takes_promises_and_trims_and_no_votes() {
    let mut acceptor = chosen(10);
    acceptor.set_room(Room::Reserve, Volume::default());
    let at = Ballot::from_number(2 * 256 + 1).unwrap();
    assert_eq!(handle(&mut acceptor, prepare(at, 1)).0.len(), 1);
    let (records, reply) = handle(&mut acceptor, accept(at, 10, &["x"]));
    assert!(no_room(&reply) && records.is_empty(), "{reply:?}");
    let renew = Request::Renew {
        ballot: at,
        round: 1,
        committed: Slot(10),
        trim: Slot(10),
    };
    assert_eq!(handle(&mut acceptor, renew).0.len(), 1);
    assert_eq!(acceptor.floor(), Slot(8));
}

#[test]
fn what_is_no_longer_in_memory_is_settled_by_the_log_before_it_is_answered() {
    let mut acceptor = Acceptor::new().with_held_bytes(0);
    handle(&mut acceptor, accept(ballot(3, 1), 1, &["a", "b"]));
    let again = accept(ballot(3, 1), 1, &["a", "b"]);
    assert!(acceptor.doubt(&again).is_some());
    assert!(acceptor.doubt(&accept(ballot(4, 1), 1, &["c"])).is_none());
    assert!(acceptor.doubt(&accept(ballot(2, 1), 1, &["a"])).is_none());
    let reply = |is_same| {
        let output = acceptor.clone().handle_settled(again.clone(), is_same);
        let answer = output.persist(|_| Err("a record")).unwrap();
        answer.into_reply(&()).unwrap()
    };
    assert!(matches!(reply(Some(true)), Reply::Accepted { .. }));
    assert!(matches!(reply(Some(false)), Reply::Nack { .. }));
    assert_eq!(
        reply(None),
        Reply::NotVoting,
        "not settled, not voted, not refused"
    );
}
