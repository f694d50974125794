use super::*;
use crate::paxos::ids::NodeId;

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
    let reply = acceptor.handle(request).persist(|written| {
        records.extend_from_slice(written);
        Ok::<_, ()>(())
    });
    (records, reply.unwrap())
}

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

/// The slots told, and where to go on.
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
    assert_eq!((at, &value.0[..]), (ballot(3, 1), &b"c"[..]));
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
    let policy = TrimPolicy { tail: 0, stride: 1 };
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
    log.iter().for_each(|record| again.remember(record));
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
    let mut acceptor = Acceptor::new().with_trimming(TrimPolicy { tail: 2, stride: 3 });
    for slot in 1..=count {
        let accept = Request::Accept {
            ballot: Ballot::from_number(257).unwrap(),
            first: Slot(slot),
            values: [Value::NOOP].into(),
            committed: Slot(slot - 1),
        };
        let _ = acceptor.handle(accept);
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
    let mut records = Vec::new();
    let persisted = acceptor.handle(renew).persist(|new| {
        records.extend_from_slice(new);
        Ok::<_, ()>(())
    });
    persisted.unwrap();
    records
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
    let reply = acceptor.handle(fetch).persist(|_| Ok::<_, ()>(())).unwrap();
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
    match acceptor
        .handle(prepare)
        .persist(|_| Ok::<_, ()>(()))
        .unwrap()
    {
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
    trimmed.iter().for_each(|record| restored.remember(record));
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
        restarted.remember(record);
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
