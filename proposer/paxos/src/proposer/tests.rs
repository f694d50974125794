use super::election::PREPARE_TIMEOUTS;
use super::replication::{ASK_FULL_TICKS, SILENT_FAILURES};
use super::*;

mod again;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn ballot(round: u64, id: u8) -> Ballot {
    Ballot::new(round, node(id)).unwrap()
}

fn value(text: &'static str) -> Value {
    Value(text.into())
}

/// Proposer 1 of a cluster with so many acceptors.
fn proposer(acceptors: u8) -> Proposer {
    let settings = Settings {
        batches_in_flight: 2,
        batch_values: 3,
        batch_bytes: 100,
        patience_ticks: 3,
        thrifty: false,
    };
    Proposer::new(node(1), Members::new(acceptors).unwrap(), settings, 0)
}

/// One step; its claims and its effects.
fn step(proposer: &mut Proposer, input: Input) -> (Vec<Claim>, Effects) {
    let mut claims = Vec::new();
    let effects = proposer.step(input).persist(|written| {
        claims.extend_from_slice(written);
        Ok::<_, ()>(())
    });
    (claims, effects.unwrap())
}

fn reply(proposer: &mut Proposer, from: u8, reply: Reply) -> Effects {
    let from = node(from);
    step(proposer, Input::Reply { from, reply }).1
}

fn probed(promised: Ballot) -> Reply {
    Reply::Probed {
        promised,
        committed: Slot::ZERO,
        leader_alive: false,
    }
}

fn promise(votes: Vec<Vote>) -> Reply {
    Reply::Promise {
        ballot: mine(),
        from: Slot(1),
        votes,
        rest: None,
        committed: Slot::ZERO,
    }
}

fn vote(slot: u64, at: Ballot, text: &'static str) -> Vote {
    Vote {
        slot: Slot(slot),
        ballot: at,
        value: value(text),
    }
}

/// The ballot of [`candidate`] and [`leader`].
fn mine() -> Ballot {
    ballot(9, 1)
}

/// A candidate at ballot 9.1, of three acceptors, that waits for promises.
fn candidate() -> Proposer {
    let mut candidate = proposer(3);
    step(&mut candidate, Input::ElectionTimeout);
    reply(&mut candidate, 1, probed(ballot(8, 2)));
    reply(&mut candidate, 2, probed(Ballot::NONE));
    assert_eq!(candidate.phase(), "preparing");
    candidate
}

/// A leader at ballot 9.1, of three acceptors, with an empty log.
fn leader() -> Proposer {
    let mut leader = candidate();
    reply(&mut leader, 1, promise(vec![]));
    reply(&mut leader, 2, promise(vec![]));
    assert!(leader.is_leading());
    leader
}

/// What is sent in phase 2: first slot and values.
fn accepts(effects: &Effects) -> Vec<(u64, Vec<Value>)> {
    let accept = |(_, request): &(To, Request)| match request {
        Request::Accept { first, values, .. } => Some((first.0, values.to_vec())),
        _ => None,
    };
    effects.acceptors.iter().filter_map(accept).collect()
}

fn accepted(first: u64, count: u64) -> Reply {
    Reply::Accepted {
        ballot: mine(),
        first: Slot(first),
        count,
    }
}

fn nack(promised: Ballot) -> Reply {
    Reply::Nack {
        ballot: mine(),
        promised,
    }
}

/// The round of the Prepare that a candidate sends once these promises were told.
fn round_after(promises: &[Ballot]) -> Option<u64> {
    let mut candidate = proposer(promises.len() as u8);
    step(&mut candidate, Input::ElectionTimeout);
    for (from, promised) in (1..).zip(promises) {
        let from = node(from);
        let reply = probed(*promised);
        let (claims, effects) = step(&mut candidate, Input::Reply { from, reply });
        if let [Claim { counter }] = claims[..] {
            let own = ballot(counter, 1);
            assert!(
                matches!(&effects.acceptors[..], [(To::All, Request::Prepare { ballot, .. })] if *ballot == own)
            );
            return Some(counter);
        }
    }
    None
}

#[test]
fn a_claim_lies_above_the_promises_of_a_quorum() {
    assert_eq!(round_after(&[Ballot::NONE; 3]), Some(1));
    assert_eq!(
        round_after(&[ballot(7, 2), ballot(3, 3), ballot(9, 1)]),
        Some(8)
    );
    assert_eq!(
        round_after(&[ballot(3, 2), ballot(7, 1), ballot(9, 1)]),
        Some(8)
    );
}

#[test]
fn one_acceptor_with_an_absurd_promise_does_not_lead_the_round_out_of_the_others_reach() {
    let absurd = ballot(6 + Ballot::MAX_JUMP, 9);
    assert_eq!(round_after(&[absurd, ballot(5, 2)]), None);
    assert_eq!(round_after(&[absurd, ballot(5, 2), ballot(4, 2)]), Some(6));
    assert_eq!(round_after(&[ballot(5, 2), absurd, ballot(4, 2)]), Some(6));
    let high = ballot(5 + Ballot::MAX_JUMP, 9);
    assert_eq!(round_after(&[high, ballot(6, 2)]), Some(high.counter() + 1));
}

#[test]
fn a_higher_promise_deposes_and_the_next_claim_lies_above_it() {
    let mut leader = leader();
    let effects = reply(&mut leader, 3, nack(ballot(12, 2)));
    assert!(effects.leader_changed && effects.restart_election_timer);
    assert_eq!((leader.phase(), leader.counter()), ("following", 12));
    step(&mut leader, Input::ElectionTimeout);
    reply(&mut leader, 1, probed(mine()));
    let from = node(2);
    let reply = probed(mine());
    let (claims, _) = step(&mut leader, Input::Reply { from, reply });
    assert_eq!(claims, [Claim { counter: 13 }]);
}

#[test]
fn an_acceptor_that_refuses_without_a_higher_promise_deposes_nobody() {
    for promised in [Ballot::NONE, ballot(10 + Ballot::MAX_JUMP, 2)] {
        let mut candidate = candidate();
        reply(&mut candidate, 3, nack(promised));
        assert_eq!(candidate.phase(), "preparing");
        let mut leader = leader();
        reply(&mut leader, 3, nack(promised));
        assert!(leader.is_leading());
    }
}

#[test]
fn two_values_at_its_ballot_depose_a_leader_whose_identity_somebody_else_uses() {
    let mut leader = leader();
    reply(&mut leader, 3, nack(mine()));
    assert!(!leader.is_leading());
}

#[test]
fn nobody_is_deposed_while_a_quorum_hears_from_a_leader() {
    let hears = |leader_alive| Reply::Probed {
        promised: Ballot::NONE,
        committed: Slot::ZERO,
        leader_alive,
    };
    for (input, alive, phase) in [
        (Input::ElectionTimeout, [true, true, false], "probing"),
        (Input::ElectionTimeout, [false, true, false], "preparing"),
        (Input::TakeOver, [true, true, true], "preparing"),
    ] {
        let mut proposer = proposer(3);
        step(&mut proposer, input);
        for (from, alive) in (1..).zip(alive) {
            reply(&mut proposer, from, hears(alive));
        }
        assert_eq!(proposer.phase(), phase, "{alive:?}");
    }
}

#[test]
fn the_value_of_the_highest_ballot_is_taken_over_and_holes_become_noops() {
    let mut candidate = candidate();
    let first = vec![vote(1, ballot(3, 2), "old"), vote(4, ballot(2, 2), "a")];
    let second = vec![vote(1, ballot(5, 3), "new"), vote(2, ballot(4, 2), "b")];
    reply(&mut candidate, 1, promise(first));
    let effects = reply(&mut candidate, 3, promise(second));
    assert!(candidate.is_leading());
    let adopted = vec![value("new"), value("b"), Value::NOOP];
    assert_eq!(accepts(&effects), [(1, adopted)]);
    let effects = step(&mut candidate, Input::Propose(vec![value("c")])).1;
    assert_eq!(effects.assigned, Some(Slot(5)));
    reply(&mut candidate, 1, accepted(1, 3));
    let effects = reply(&mut candidate, 3, accepted(1, 3));
    assert_eq!(accepts(&effects), [(4, vec![value("a"), value("c")])]);
}

#[test]
fn slots_that_a_promise_says_are_chosen_are_not_proposed_again() {
    let mut candidate = candidate();
    let told = Reply::Promise {
        ballot: mine(),
        from: Slot(1),
        votes: vec![vote(2, ballot(3, 2), "a"), vote(3, ballot(3, 2), "b")],
        rest: None,
        committed: Slot(2),
    };
    reply(&mut candidate, 1, told);
    let effects = reply(&mut candidate, 2, promise(vec![vote(1, ballot(2, 2), "z")]));
    assert_eq!(accepts(&effects), [(3, vec![value("b")])]);
    assert_eq!(candidate.committed(), Slot(2));
}

#[test]
fn the_parts_of_a_promise_count_in_order_and_only_whole_promises_elect() {
    let part = |from, votes, rest: Option<u64>| Reply::Promise {
        ballot: mine(),
        from: Slot(from),
        votes,
        rest: rest.map(Slot),
        committed: Slot::ZERO,
    };
    let mut candidate = candidate();
    reply(&mut candidate, 1, promise(vec![]));
    let effects = reply(
        &mut candidate,
        2,
        part(1, vec![vote(1, ballot(3, 2), "a")], Some(2)),
    );
    let more = Request::Prepare {
        ballot: mine(),
        run: 0,
        from: Slot(2),
    };
    assert_eq!(effects.acceptors, [(To::One(node(2)), more)]);
    // The first part again, and a part that is not the next one.
    reply(
        &mut candidate,
        2,
        part(1, vec![vote(1, ballot(3, 2), "a")], None),
    );
    reply(&mut candidate, 2, part(3, vec![], None));
    assert_eq!(candidate.phase(), "preparing");
    let effects = reply(
        &mut candidate,
        2,
        part(2, vec![vote(2, ballot(3, 2), "b")], None),
    );
    assert_eq!(accepts(&effects), [(1, vec![value("a"), value("b")])]);
}

#[test]
fn promises_for_another_ballot_elect_nobody() {
    let mut candidate = candidate();
    for from in 1..=3 {
        let old = Reply::Promise {
            ballot: ballot(8, 1),
            from: Slot(1),
            votes: vec![],
            rest: None,
            committed: Slot::ZERO,
        };
        reply(&mut candidate, from, old);
    }
    assert_eq!(candidate.phase(), "preparing");
}

#[test]
fn a_quorum_is_made_of_different_acceptors_that_voted_for_the_whole_batch() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a"), value("b")]));
    let of = |ballot, first, count| Reply::Accepted {
        ballot,
        first: Slot(first),
        count,
    };
    for (from, answer) in [
        (1, accepted(1, 2)),
        (1, accepted(1, 2)),
        (2, of(mine(), 1, 1)),
        (2, of(mine(), 2, 2)),
        (2, of(ballot(8, 1), 1, 2)),
        (4, accepted(1, 2)),
    ] {
        reply(&mut leader, from, answer);
        assert_eq!(leader.committed(), Slot::ZERO);
    }
    let effects = reply(&mut leader, 3, accepted(1, 2));
    assert_eq!(leader.committed(), Slot(2));
    assert_eq!(effects.learners[0].values[..], [value("a"), value("b")]);
}

#[test]
fn what_is_chosen_is_told_in_order() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    step(&mut leader, Input::Propose(vec![value("b")]));
    reply(&mut leader, 1, accepted(2, 1));
    assert!(reply(&mut leader, 2, accepted(2, 1)).learners.is_empty());
    reply(&mut leader, 1, accepted(1, 1));
    let told = reply(&mut leader, 2, accepted(1, 1)).learners;
    assert_eq!(
        told.iter().map(|learn| learn.first.0).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(leader.committed(), Slot(2));
}

#[test]
fn batches_wait_for_their_turn_and_keep_to_their_limits() {
    let mut leader = leader();
    let large = Value(vec![1; 90].into());
    let small = value("small");
    let values = vec![
        large.clone(),
        small.clone(),
        large.clone(),
        large.clone(),
        small.clone(),
    ];
    let effects = step(&mut leader, Input::Propose(values)).1;
    let sent = [
        (1, vec![large.clone(), small.clone()]),
        (3, vec![large.clone()]),
    ];
    assert_eq!(accepts(&effects), sent);
    reply(&mut leader, 1, accepted(3, 1));
    let effects = reply(&mut leader, 2, accepted(3, 1));
    assert_eq!(accepts(&effects), [(4, vec![large, small])]);
    let huge = Value(vec![1; 500].into());
    let effects = step(&mut leader, Input::Propose(vec![huge.clone()])).1;
    assert_eq!(
        (accepts(&effects), effects.assigned),
        (vec![], Some(Slot(6)))
    );
    reply(&mut leader, 1, accepted(1, 2));
    let effects = reply(&mut leader, 2, accepted(1, 2));
    assert_eq!(accepts(&effects), [(6, vec![huge])]);
}

#[test]
fn a_further_batch_is_as_large_as_all_that_is_under_way() {
    let mut leader = leader();
    let propose = |leader: &mut Proposer| {
        let effects = step(leader, Input::Propose(vec![value("a")])).1;
        accepts(&effects)
            .iter()
            .map(|(first, of)| (*first, of.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(propose(&mut leader), [(1, 1)]);
    assert_eq!(propose(&mut leader), [(2, 1)]);
    reply(&mut leader, 1, accepted(1, 1));
    reply(&mut leader, 2, accepted(1, 1));
    assert_eq!(propose(&mut leader), [(3, 1)]);
    reply(&mut leader, 1, accepted(2, 1));
    reply(&mut leader, 2, accepted(2, 1));
    reply(&mut leader, 1, accepted(3, 1));
    reply(&mut leader, 2, accepted(3, 1));
    let three = vec![value("a"); 3];
    assert_eq!(
        accepts(&step(&mut leader, Input::Propose(three.clone())).1),
        [(4, three)]
    );
    assert_eq!(propose(&mut leader), []);
    assert_eq!(propose(&mut leader), []);
    assert_eq!(propose(&mut leader), [(7, 3)]);
}

/// The newest round asked for in these effects.
fn round(effects: &Effects) -> Option<u64> {
    let round = |(_, request): &(To, Request)| match request {
        Request::Renew { round, .. } => Some(*round),
        _ => None,
    };
    effects.acceptors.iter().filter_map(round).max()
}

fn renewed(round: u64) -> Reply {
    Reply::Renewed {
        ballot: mine(),
        round,
    }
}

/// A quorum answers every round there was.
fn renew_all(leader: &mut Proposer) -> Effects {
    let Phase::Leading(leading) = &leader.phase else {
        return Effects::default();
    };
    let round = leading.round;
    reply(leader, 1, renewed(round));
    reply(leader, 2, renewed(round))
}

#[test]
fn a_read_waits_for_a_round_that_started_after_it() {
    let mut leader = leader();
    // The round that the new leader announced itself with is still under way.
    assert_eq!(round(&step(&mut leader, Input::Read(7)).1), None);
    reply(&mut leader, 1, renewed(1));
    let effects = reply(&mut leader, 2, renewed(1));
    assert_eq!((round(&effects), effects.readable), (Some(2), vec![]));
    reply(&mut leader, 3, renewed(1));
    assert!(reply(&mut leader, 3, renewed(2)).readable.is_empty());
    assert!(
        reply(&mut leader, 2, renewed(3)).readable.is_empty(),
        "nobody asked for round 3"
    );
    assert_eq!(
        reply(&mut leader, 1, renewed(2)).readable,
        [(7, Slot::ZERO)]
    );
}

#[test]
fn a_new_leader_allows_no_read_before_the_old_leaders_values_are_chosen() {
    let mut leader = candidate();
    reply(&mut leader, 1, promise(vec![vote(1, ballot(3, 2), "a")]));
    reply(&mut leader, 2, promise(vec![]));
    step(&mut leader, Input::Read(7));
    for _ in 0..3 {
        let (first, second) = (renew_all(&mut leader), step(&mut leader, Input::Tick).1);
        assert!(first.readable.is_empty() && second.readable.is_empty());
    }
    reply(&mut leader, 1, accepted(1, 1));
    assert_eq!(
        reply(&mut leader, 2, accepted(1, 1)).readable,
        [(7, Slot(1))]
    );
}

#[test]
fn reads_and_values_are_turned_away_by_one_that_does_not_lead() {
    let mut follower = proposer(3);
    assert_eq!(step(&mut follower, Input::Read(7)).1.unreadable, [7]);
    assert_eq!(
        step(&mut follower, Input::Propose(vec![value("a")])).1,
        Effects::default()
    );
    let mut leader = leader();
    step(&mut leader, Input::Read(8));
    assert_eq!(step(&mut leader, Input::StepDown).1.unreadable, [8]);
}

#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut leader = leader();
    for _ in 0..3 {
        renew_all(&mut leader);
        step(&mut leader, Input::Tick);
    }
    for _ in 0..3 {
        step(&mut leader, Input::Tick);
        assert!(leader.is_leading());
    }
    assert!(step(&mut leader, Input::Tick).1.leader_changed);
    assert!(!leader.is_leading());
}

#[test]
fn only_the_heartbeat_of_a_higher_ballot_ends_a_leadership() {
    let heartbeat = |ballot| {
        Input::Heartbeat(Heartbeat {
            ballot,
            last: Slot(9),
            committed: Slot(9),
        })
    };
    for (from, follows) in [
        (ballot(8, 2), false),
        (ballot(9, 2), true),
        (ballot(10, 1), false),
        (ballot(10, 3), true),
    ] {
        let mut leader = leader();
        step(&mut leader, heartbeat(from));
        assert_eq!(leader.leader() == Some(from), follows, "{from}");
        assert_eq!(
            leader.committed(),
            Slot::ZERO,
            "nothing decides by a heartbeat"
        );
    }
}

#[test]
fn a_proposer_that_lost_its_claims_leaves_out_more_rounds_than_it_can_have_claimed() {
    let mut damaged = proposer(3).with_claims_lost();
    step(&mut damaged, Input::ElectionTimeout);
    reply(&mut damaged, 1, probed(ballot(8, 2)));
    reply(&mut damaged, 2, probed(Ballot::NONE));
    assert_eq!(damaged.counter(), 9 + ROUNDS_LOST);
    // Once: from then on it knows what it claimed. Nobody promises, and it gives up in the end.
    for _ in 0..=PREPARE_TIMEOUTS {
        step(&mut damaged, Input::ElectionTimeout);
    }
    reply(&mut damaged, 1, probed(ballot(8, 2)));
    reply(&mut damaged, 2, probed(Ballot::NONE));
    assert_eq!(damaged.counter(), 10 + ROUNDS_LOST);
}

/// A leader at ballot 9.1, of five acceptors, that asks a quorum first.
fn thrifty_leader() -> Proposer {
    let settings = Settings {
        batch_values: 3,
        thrifty: true,
        ..Settings::default()
    };
    let mut leader = Proposer::new(node(1), Members::new(5).unwrap(), settings, 8);
    step(&mut leader, Input::ElectionTimeout);
    for acceptor in 1..=3 {
        reply(&mut leader, acceptor, probed(Ballot::NONE));
    }
    for acceptor in 1..=3 {
        reply(&mut leader, acceptor, promise(vec![]));
    }
    assert!(leader.is_leading());
    leader
}

/// Who is asked to vote: the acceptors, the first slot and how many values.
fn asked(effects: &Effects) -> Vec<(Vec<u8>, u64, usize)> {
    let asked = |(to, request): &(To, Request)| match request {
        Request::Accept { first, values, .. } => Some((numbers(to), first.0, values.len())),
        _ => None,
    };
    effects.acceptors.iter().filter_map(asked).collect()
}

fn numbers(to: &To) -> Vec<u8> {
    match to {
        To::All => vec![1, 2, 3, 4, 5],
        To::Quorum(some) | To::Others(some) => some.iter().map(|id| id.number()).collect(),
        To::One(one) => vec![one.number()],
    }
}

#[test]
fn a_batch_goes_to_a_quorum_and_at_the_next_tick_to_the_others() {
    let mut leader = thrifty_leader();
    for slot in 1..=2 {
        let effects = step(&mut leader, Input::Propose(vec![value("a")])).1;
        assert_eq!(asked(&effects), [(vec![1, 2, 3], slot, 1)]);
        for acceptor in 1..=3 {
            let effects = reply(&mut leader, acceptor, accepted(slot, 1));
            assert!(asked(&effects).is_empty());
        }
    }
    assert_eq!(leader.committed(), Slot(2));
    let effects = step(&mut leader, Input::Tick).1;
    assert_eq!(asked(&effects), [(vec![4, 5], 1, 2)]);
    assert!(asked(&step(&mut leader, Input::Tick).1).is_empty());
}

#[test]
fn the_others_get_what_is_chosen_at_once_when_it_is_a_batch_or_the_leader_steps_down() {
    let mut leader = thrifty_leader();
    let choose = |leader: &mut Proposer, count: u64| {
        let values = vec![value("a"); count as usize];
        let effects = step(leader, Input::Propose(values)).1;
        let first = asked(&effects)[0].1;
        for acceptor in 1..=2 {
            reply(leader, acceptor, accepted(first, count));
        }
        reply(leader, 3, accepted(first, count))
    };
    assert_eq!(asked(&choose(&mut leader, 2)), []);
    // A message has no more values than a batch may have.
    let sent = [(vec![4, 5], 1, 2), (vec![4, 5], 3, 2)];
    assert_eq!(asked(&choose(&mut leader, 2)), sent);
    assert_eq!(asked(&choose(&mut leader, 1)), []);
    let effects = step(&mut leader, Input::StepDown).1;
    assert_eq!(asked(&effects), [(vec![4, 5], 5, 1)]);
}

#[test]
fn others_are_asked_in_place_of_an_acceptor_that_does_not_answer() {
    let mut leader = thrifty_leader();
    let unanswered = |leader: &mut Proposer, acceptor| {
        let effects = step(leader, Input::Unanswered(node(acceptor))).1;
        asked(&effects)
    };
    step(&mut leader, Input::Propose(vec![value("a")]));
    reply(&mut leader, 1, accepted(1, 1));
    // It has voted: its next message is what is late.
    assert_eq!(unanswered(&mut leader, 1), []);
    assert_eq!(unanswered(&mut leader, 2), [(vec![4], 1, 1)]);
    assert_eq!(unanswered(&mut leader, 4), [(vec![5], 1, 1)]);
    assert_eq!(unanswered(&mut leader, 5), []);
    reply(&mut leader, 3, accepted(1, 1));
    reply(&mut leader, 5, accepted(1, 1));
    assert_eq!(leader.committed(), Slot(1));
    let effects = step(&mut leader, Input::Propose(vec![value("b")])).1;
    assert_eq!(asked(&effects), [(vec![1, 2, 3], 2, 1)]);
    // Everybody was asked for the first one already.
    assert!(asked(&step(&mut leader, Input::Tick).1).is_empty());
}

#[test]
fn a_quorum_confirms_a_leader_for_reads_and_all_when_one_does_not_answer() {
    let mut leader = thrifty_leader();
    // The first round is that of the leader's announcement, to all.
    renew_all(&mut leader);
    reply(&mut leader, 3, renewed(1));
    let renews = |effects: &Effects| {
        let renews = effects
            .acceptors
            .iter()
            .filter(|(_, request)| matches!(request, Request::Renew { .. }));
        renews.map(|(to, _)| numbers(to)).collect::<Vec<_>>()
    };
    let effects = step(&mut leader, Input::Read(7)).1;
    assert_eq!(renews(&effects), [[1, 2, 3]]);
    let effects = step(&mut leader, Input::Unanswered(node(2))).1;
    assert_eq!(renews(&effects), [[1, 2, 3, 4, 5]]);
    // Found by the simulator: one that does not vote answers each round at once, and for ever.
    let again = reply(&mut leader, 2, Reply::NotVoting);
    assert!(renews(&again).is_empty());
    let readable: Vec<_> = (3..=5)
        .flat_map(|acceptor| {
            let renewed = renewed(round(&effects).unwrap());
            reply(&mut leader, acceptor, renewed).readable
        })
        .collect();
    assert_eq!(readable, [(7, Slot::ZERO)]);
}

/// Found by the simulator: an acceptor that has lost its disk held up each batch for two ticks.
#[test]
fn an_acceptor_that_does_not_vote_is_asked_last() {
    let mut leader = thrifty_leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    let effects = reply(&mut leader, 2, Reply::NotVoting);
    assert_eq!(asked(&effects), [(vec![4], 1, 1)]);
    let effects = step(&mut leader, Input::Propose(vec![value("b")])).1;
    assert_eq!(asked(&effects), [(vec![1, 3, 4], 2, 1)]);
}

fn learner(id: u8) -> NodeName {
    NodeName {
        role: crate::ids::Role::Learner,
        id: node(id),
    }
}

fn has_applied(proposer: &mut Proposer, id: u8, upto: u64) -> Effects {
    let (by, upto) = (learner(id), Slot(upto));
    step(proposer, Input::Applied { by, upto }).1
}

/// One that stood for election again with promises that tell of these votes.
fn elected_again(proposer: &mut Proposer, votes: &[(u64, &'static str)]) -> Effects {
    step(proposer, Input::ElectionTimeout);
    reply(proposer, 1, probed(mine()));
    reply(proposer, 2, probed(mine()));
    let promised = |votes: Vec<Vote>| Reply::Promise {
        ballot: ballot(10, 1),
        from: Slot(1),
        votes,
        rest: None,
        committed: Slot::ZERO,
    };
    let votes = votes.iter().map(|(slot, text)| vote(*slot, mine(), text));
    reply(proposer, 1, promised(votes.collect()));
    reply(proposer, 2, promised(vec![]))
}

#[test]
fn a_leader_that_hears_of_slots_it_never_gave_out_steps_down_and_a_learner_behind_it_is_no_news() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a"), value("b")]));
    for (id, upto) in [(1, 0), (1, 2), (2, 1)] {
        assert!(!leader.is_news(Slot(upto)));
        assert_eq!(has_applied(&mut leader, id, upto).behind, None);
    }
    assert!(leader.is_leading() && leader.is_news(Slot(3)));
    let behind = has_applied(&mut leader, 2, 3).behind;
    let expected = Behind {
        node: learner(2),
        applied: Slot(3),
        known: Slot(2),
        is_proved: false,
    };
    assert_eq!(behind, Some(expected));
    assert!(!leader.is_leading());
}

#[test]
fn who_knows_of_a_node_ahead_leads_when_promises_tell_of_its_slots_and_not_before() {
    let mut proposer = leader();
    has_applied(&mut proposer, 2, 2);
    let effects = elected_again(&mut proposer, &[(1, "a")]);
    let behind = effects.behind.expect("votes are lost");
    assert_eq!((behind.known, behind.applied), (Slot(1), Slot(2)));
    assert!(behind.is_proved && !proposer.is_leading());
    assert_eq!(accepts(&effects), [], "nothing is given out");
    assert_eq!(effects.learners.len(), 1, "the learner is asked again");
    assert!(effects.learners[0].values.is_empty());

    let mut proposer = leader();
    has_applied(&mut proposer, 2, 2);
    let effects = elected_again(&mut proposer, &[(1, "a"), (2, "b")]);
    assert_eq!((effects.behind, proposer.is_leading()), (None, true));
    assert_eq!(proposer.ahead().count(), 0);
}

#[test]
fn a_node_ahead_that_was_given_another_disk_or_has_left_stands_in_nobodys_way() {
    let mut proposer = leader();
    has_applied(&mut proposer, 2, 7);
    has_applied(&mut proposer, 2, 0);
    elected_again(&mut proposer, &[]);
    assert!(proposer.is_leading());

    let mut proposer = leader();
    has_applied(&mut proposer, 2, 7);
    step(&mut proposer, Input::Gone(learner(2)));
    elected_again(&mut proposer, &[]);
    assert!(proposer.is_leading());
}

#[test]
fn a_heartbeat_of_an_absurd_term_is_not_believed() {
    let heartbeat = |term, id| Heartbeat {
        ballot: ballot(term, id),
        last: Slot(9),
        committed: Slot(9),
    };
    for mut proposer in [proposer(3), candidate(), leader()] {
        let before = proposer.clone();
        let most = before.counter() + Ballot::MAX_JUMP;
        for term in [most + 1, 1 << 55] {
            assert!(!proposer.believes(&heartbeat(term, 2)));
            step(&mut proposer, Input::Heartbeat(heartbeat(term, 2)));
            assert_eq!(proposer, before);
        }
        assert!(proposer.believes(&heartbeat(most, 2)));
        step(&mut proposer, Input::Heartbeat(heartbeat(most, 2)));
        assert_eq!(proposer.leader(), Some(ballot(most, 2)));
        // From there on it may go on as far again.
        assert!(proposer.believes(&heartbeat(most + 5, 3)));
    }
}

fn no_room(first: u64) -> Reply {
    Reply::NoRoom {
        ballot: mine(),
        first: Slot(first),
        log: 8,
        free: 2,
    }
}

#[test]
fn a_leader_without_a_quorum_that_has_room_knows_and_asks_again_now_and_then() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    reply(&mut leader, 1, no_room(1));
    assert!(leader.has_room(), "two others make a quorum");
    let tight = Reply::AcceptedTight {
        ballot: mine(),
        first: Slot(1),
        count: 1,
        log: 8,
        free: 2,
    };
    reply(&mut leader, 2, tight);
    assert!(!leader.has_room());
    // The vote counted all the same.
    reply(&mut leader, 3, accepted(1, 1));
    assert_eq!(leader.committed(), Slot(1));
    let mut questions = Vec::new();
    for _ in 0..2 * ASK_FULL_TICKS {
        renew_all(&mut leader);
        let effects = step(&mut leader, Input::Tick).1;
        questions.extend(
            asked(&effects)
                .into_iter()
                .filter(|(_, _, count)| *count == 0),
        );
    }
    assert_eq!(questions.len(), 4, "each of two, twice: {questions:?}");
    assert!(leader.is_leading() && !leader.has_room());
    reply(&mut leader, 2, accepted(2, 0));
    assert!(leader.has_room());
}

#[test]
fn a_leader_with_a_full_acceptor_and_one_that_is_down_has_no_room() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    reply(&mut leader, 1, no_room(1));
    let failed = |acceptor| Input::Failed {
        from: node(acceptor),
        sent: Sent::Accept {
            ballot: mine(),
            first: Slot(1),
        },
    };
    step(&mut leader, failed(1));
    assert!(leader.has_room(), "the two others may have");
    reply(&mut leader, 3, accepted(1, 1));
    for _ in 1..SILENT_FAILURES {
        step(&mut leader, failed(2));
    }
    assert!(leader.has_room(), "it may only start again");
    step(&mut leader, failed(2));
    assert_eq!(leader.committed(), Slot::ZERO);
    assert!(!leader.has_room());
    assert_eq!(leader.silent(), BTreeSet::from([node(2)]));
    // It is back: the write that waited for it is chosen, and others may come.
    reply(&mut leader, 2, accepted(1, 1));
    assert_eq!(leader.committed(), Slot(1));
    assert!(leader.has_room() && leader.silent().is_empty());
}

#[test]
fn acceptors_that_are_down_are_no_reason_to_refuse_while_none_is_full() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    for _ in 0..SILENT_FAILURES {
        for acceptor in [1, 2] {
            let sent = Sent::Accept {
                ballot: mine(),
                first: Slot(1),
            };
            let from = node(acceptor);
            step(&mut leader, Input::Failed { from, sent });
        }
    }
    assert_eq!(leader.silent(), BTreeSet::from([node(1), node(2)]));
    assert!(leader.has_room());
}

#[test]
fn what_has_no_room_anywhere_is_not_sent_again_at_every_tick() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    for acceptor in 1..=3 {
        reply(&mut leader, acceptor, no_room(1));
    }
    let mut sent = 0;
    for _ in 0..ASK_FULL_TICKS - 1 {
        renew_all(&mut leader);
        sent += asked(&step(&mut leader, Input::Tick).1).len();
    }
    assert_eq!(sent, 0);
    assert!(leader.is_leading());
}

#[test]
fn a_candidate_waits_for_promises_longer_than_one_timeout_and_asks_again() {
    let prepares = |effects: &Effects| {
        let prepares = effects
            .acceptors
            .iter()
            .filter_map(|(to, request)| match request {
                Request::Prepare { ballot, from, .. } => Some((numbers(to), *ballot, from.0)),
                _ => None,
            });
        prepares.collect::<Vec<_>>()
    };
    let mut candidate = candidate();
    reply(&mut candidate, 2, promise(vec![]));
    let (claims, effects) = step(&mut candidate, Input::ElectionTimeout);
    assert!(claims.is_empty() && effects.restart_election_timer);
    let again = [(vec![1], mine(), 1), (vec![3], mine(), 1)];
    assert_eq!(
        prepares(&effects),
        again,
        "at the same ballot, of those that are missing"
    );
    // However late it comes, it counts.
    reply(&mut candidate, 3, promise(vec![]));
    assert!(candidate.is_leading());
}

#[test]
fn a_candidate_without_promises_gives_up_in_the_end() {
    let mut candidate = candidate();
    for _ in 0..PREPARE_TIMEOUTS {
        step(&mut candidate, Input::ElectionTimeout);
        assert_eq!(candidate.phase(), "preparing");
    }
    step(&mut candidate, Input::ElectionTimeout);
    assert_eq!(candidate.phase(), "probing");
}
