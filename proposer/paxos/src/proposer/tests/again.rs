//! What is repeated, and what is not.

use super::*;

/// An Accept for the batch at `first` fails.
fn fail(leader: &mut Proposer, acceptor: u8, first: u64) -> Effects {
    let sent = Sent::Accept {
        ballot: mine(),
        first: Slot(first),
    };
    let from = node(acceptor);
    step(leader, Input::Failed { from, sent }).1
}

/// Ticks, with a quorum that confirms the leader each time; whom each asks for votes.
fn ticks(leader: &mut Proposer, count: usize) -> Vec<Vec<u8>> {
    let tick = |_| {
        renew_all(leader);
        if let Phase::Leading(leading) = &leader.phase {
            let round = leading.round;
            reply(leader, 3, renewed(round));
        }
        let asked = asked(&step(leader, Input::Tick).1);
        asked.into_iter().flat_map(|(to, ..)| to).collect()
    };
    (0..count).map(tick).collect()
}

#[test]
fn what_is_under_way_is_not_sent_again_however_long_it_takes() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    assert_eq!(ticks(&mut leader, 100), vec![Vec::<u8>::new(); 100]);
    reply(&mut leader, 1, accepted(1, 1));
    reply(&mut leader, 3, accepted(1, 1));
    assert_eq!(leader.committed(), Slot(1));
}

#[test]
fn an_accept_that_failed_is_sent_again_to_that_acceptor_alone_after_pauses_that_grow() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    reply(&mut leader, 2, accepted(1, 1));
    for pause in [1, 2, 4, 8, 16, 16] {
        assert!(asked(&fail(&mut leader, 3, 1)).is_empty(), "not at once");
        let mut expected = vec![vec![]; pause + 2];
        expected[pause - 1] = vec![3];
        assert_eq!(ticks(&mut leader, pause + 2), expected);
    }
    // The vote of an earlier copy, though the last one is still under way.
    reply(&mut leader, 3, accepted(1, 1));
    assert_eq!(leader.committed(), Slot(1));
}

#[test]
fn a_failure_of_another_batch_or_ballot_or_of_one_who_has_voted_repeats_nothing() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    reply(&mut leader, 2, accepted(1, 1));
    fail(&mut leader, 2, 1);
    fail(&mut leader, 3, 7);
    let sent = Sent::Accept {
        ballot: ballot(8, 1),
        first: Slot(1),
    };
    let from = node(3);
    step(&mut leader, Input::Failed { from, sent });
    assert_eq!(ticks(&mut leader, 4), vec![Vec::<u8>::new(); 4]);
}

#[test]
fn slots_are_open_until_a_learner_has_applied_them() {
    let mut leader = leader();
    step(&mut leader, Input::Propose(vec![value("a"), value("b")]));
    assert_eq!(leader.open_slots(), 2);
    // More than this leader knows to be chosen says nothing about its own slots.
    step(&mut leader, Input::Learned(Slot(9)));
    assert_eq!(leader.open_slots(), 2);
    reply(&mut leader, 1, accepted(1, 2));
    let told = reply(&mut leader, 2, accepted(1, 2)).learners;
    assert_eq!(told[0].values.len(), 2);
    assert_eq!(leader.open_slots(), 0);
    step(&mut leader, Input::Propose(vec![value("c")]));
    assert_eq!(leader.open_slots(), 1);
}

#[test]
fn an_acceptor_that_failed_is_asked_last_and_another_one_at_once_in_its_place() {
    let mut leader = thrifty_leader();
    step(&mut leader, Input::Propose(vec![value("a")]));
    assert_eq!(asked(&fail(&mut leader, 2, 1)), [(vec![4], 1, 1)]);
    // Late first and failed then is one loss, not two.
    let effects = step(&mut leader, Input::Unanswered(node(2))).1;
    assert_eq!(asked(&effects), []);
    assert_eq!(asked(&fail(&mut leader, 4, 1)), [(vec![5], 1, 1)]);
    let effects = step(&mut leader, Input::Propose(vec![value("b")])).1;
    assert_eq!(asked(&effects), [(vec![1, 3, 5], 2, 1)]);
    // Nobody is left: those that failed get it again.
    assert_eq!(ticks(&mut leader, 2), [vec![2, 4], vec![]]);
}

#[test]
fn one_that_is_slow_to_take_what_was_chosen_without_it_gets_the_rest_when_it_has_answered() {
    let mut leader = thrifty_leader();
    let choose = |leader: &mut Proposer, first| {
        step(leader, Input::Propose(vec![value("a")]));
        for acceptor in 1..=3 {
            reply(leader, acceptor, accepted(first, 1));
        }
    };
    choose(&mut leader, 1);
    assert_eq!(ticks(&mut leader, 1), [[4, 5]]);
    choose(&mut leader, 2);
    choose(&mut leader, 3);
    reply(&mut leader, 4, accepted(1, 1));
    renew_all(&mut leader);
    let effects = step(&mut leader, Input::Tick).1;
    assert_eq!(asked(&effects), [(vec![4], 2, 2)]);
    fail(&mut leader, 5, 1);
    renew_all(&mut leader);
    let effects = step(&mut leader, Input::Tick).1;
    assert_eq!(
        asked(&effects),
        [(vec![5], 2, 2)],
        "what failed is not repeated"
    );
    assert_eq!(ticks(&mut leader, 3), vec![Vec::<u8>::new(); 3]);
}

#[test]
fn what_waits_for_slow_acceptors_has_a_bound_and_the_newest_is_kept() {
    let mut leader = thrifty_leader();
    for first in 1..=40 {
        step(&mut leader, Input::Propose(vec![value("a")]));
        for acceptor in 1..=3 {
            reply(&mut leader, acceptor, accepted(first, 1));
        }
        ticks(&mut leader, 1);
    }
    reply(&mut leader, 4, accepted(1, 1));
    renew_all(&mut leader);
    let effects = step(&mut leader, Input::Tick).1;
    let got: Vec<u64> = asked(&effects)
        .iter()
        .flat_map(|(_, first, count)| *first..*first + *count as u64)
        .collect();
    // Four batches of three values.
    assert_eq!(got, (29..=40).collect::<Vec<_>>());
    // One that steps down keeps nothing back.
    let effects = step(&mut leader, Input::StepDown).1;
    assert!(asked(&effects).iter().any(|(to, ..)| to.contains(&5)));
}

#[test]
fn a_part_of_a_promise_and_word_that_one_is_coming_restart_the_election_timer() {
    let mut candidate = candidate();
    let progress = |proposer: &mut Proposer| {
        let effects = step(proposer, Input::Progress(node(2))).1;
        effects.restart_election_timer
    };
    assert!(progress(&mut candidate));
    let part = Reply::Promise {
        ballot: mine(),
        from: Slot(1),
        votes: vec![vote(1, ballot(3, 2), "a")],
        rest: Some(Slot(2)),
        committed: Slot::ZERO,
    };
    assert!(reply(&mut candidate, 2, part.clone()).restart_election_timer);
    assert!(
        !reply(&mut candidate, 2, part).restart_election_timer,
        "a part that it has"
    );
    let mut leader = leader();
    assert!(!progress(&mut leader));
    assert!(!progress(&mut proposer(3)));
}

#[test]
fn the_next_part_of_a_promise_is_asked_for_again_when_it_failed_and_only_that() {
    let mut candidate = candidate();
    let part = Reply::Promise {
        ballot: mine(),
        from: Slot(1),
        votes: vec![vote(1, ballot(3, 2), "a")],
        rest: Some(Slot(2)),
        committed: Slot::ZERO,
    };
    reply(&mut candidate, 2, part);
    let fail = |candidate: &mut Proposer, acceptor, from| {
        let sent = Sent::Prepare {
            ballot: mine(),
            from: Slot(from),
        };
        let from = node(acceptor);
        assert_eq!(
            step(candidate, Input::Failed { from, sent }).1,
            Effects::default()
        );
    };
    fail(&mut candidate, 2, 1);
    fail(&mut candidate, 3, 1);
    assert_eq!(step(&mut candidate, Input::Tick).1, Effects::default());
    fail(&mut candidate, 2, 2);
    let again = Request::Prepare {
        ballot: mine(),
        run: 0,
        from: Slot(2),
    };
    let effects = step(&mut candidate, Input::Tick).1;
    assert_eq!(effects.acceptors, [(To::One(node(2)), again)]);
    assert_eq!(
        step(&mut candidate, Input::Tick).1,
        Effects::default(),
        "once"
    );
}
