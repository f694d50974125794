use super::*;
use crate::ids::Role;

const MINE: u64 = 7;

fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn members(count: u8) -> Members {
    Members::new(count).unwrap()
}

fn cluster(number: u64) -> ClusterId {
    ClusterId::new(number).unwrap()
}

const START: Start = Start {
    incarnation: 1,
    count: 1,
    run: 1,
};

fn call(list: u8, known: Option<u64>, founders: Option<u8>) -> RollCall {
    let node = NodeName {
        role: Role::Proposer,
        id: id(1),
    };
    let known = known.map(cluster);
    RollCall::new(node, START, members(list), known, founders.map(members))
}

fn witnessed(of: u64, founders: Option<u8>) -> Reply {
    Reply::Witnessed {
        start: START,
        witness: START,
        cluster: ClusterId::new(of),
        acceptors: founders.map(members),
    }
}

fn refused(refusal: Refusal) -> Reply {
    Reply::Refused {
        start: START,
        refusal,
    }
}

fn other_count(founded: u8, listed: u8) -> Refusal {
    Refusal::OtherCount {
        founded: members(founded),
        listed: members(listed),
    }
}

fn member(founders: Option<u8>) -> Finding {
    Finding::Member {
        cluster: cluster(MINE),
        founders: founders.map(members),
    }
}

#[test]
fn a_quorum_names_the_cluster_and_counts_its_founders() {
    let mut call = call(5, None, None);
    for acceptor in [2, 5] {
        assert_eq!(
            call.heard(id(acceptor), &witnessed(MINE, Some(5))),
            Finding::Open
        );
        assert!(!call.may_lead() && !call.may_learn());
    }
    assert_eq!(
        call.heard(id(5), &witnessed(MINE, Some(5))),
        Finding::Open,
        "the same again"
    );
    assert_eq!(
        call.heard(id(1), &witnessed(MINE, Some(5))),
        member(Some(5))
    );
    assert!(call.may_lead() && call.may_learn());
    assert_eq!(
        call.heard(id(3), &witnessed(MINE, Some(5))),
        Finding::Open,
        "no news"
    );
    assert!(call.has_answered(id(3)) && !call.has_answered(id(4)));
}

#[test]
fn a_disk_that_knows_all_needs_nobody() {
    let call = call(3, Some(MINE), Some(3));
    assert!(call.may_lead() && call.may_learn());
}

#[test]
fn a_disk_of_an_earlier_build_waits_until_it_has_heard_the_count() {
    let mut call = call(3, Some(MINE), None);
    assert!(!call.may_lead() && !call.may_learn());
    // Acceptors of that build do not tell. Learners may continue, as they are upgraded first.
    assert_eq!(call.heard(id(1), &witnessed(MINE, None)), Finding::Open);
    assert_eq!(call.heard(id(2), &witnessed(MINE, None)), member(None));
    assert!(!call.may_lead() && call.may_learn());
    assert!(!call.has_answered(id(1)), "it is asked again");
    // One after the other is upgraded.
    assert_eq!(
        call.heard(id(1), &witnessed(MINE, Some(3))),
        member(Some(3))
    );
    assert!(call.may_lead());
}

#[test]
fn a_list_of_another_length_is_refused_by_the_own_cluster_at_once() {
    for (list, founded) in [(3, 5), (7, 5), (4, 3), (1, 2)] {
        let mut call = call(list, Some(MINE), None);
        let refusal = other_count(founded, list);
        assert_eq!(
            call.heard(id(1), &refused(refusal)),
            Finding::Refused(refusal)
        );
        assert!(!call.may_lead() && !call.may_learn());
    }
}

#[test]
fn one_strange_acceptor_is_a_wrong_address_and_many_are_a_wrong_list() {
    let mut call = call(5, None, None);
    let refusal = other_count(3, 5);
    assert_eq!(call.heard(id(1), &refused(refusal)), Finding::Open);
    assert_eq!(call.heard(id(1), &refused(refusal)), Finding::Open);
    for acceptor in [2, 3] {
        assert_eq!(
            call.heard(id(acceptor), &witnessed(MINE, Some(5))),
            Finding::Open
        );
    }
    let mut wrong = call.clone();
    assert_eq!(
        call.heard(id(4), &witnessed(MINE, Some(5))),
        member(Some(5))
    );
    assert_eq!(wrong.heard(id(4), &refused(refusal)), Finding::Open);
    assert_eq!(
        wrong.heard(id(5), &refused(refusal)),
        Finding::Refused(refusal)
    );
}

#[test]
fn acceptors_that_have_founded_nothing_say_nothing() {
    let mut call = call(3, None, None);
    let other_list = Refusal::OtherList {
        witness: members(5),
        listed: members(3),
    };
    for acceptor in [1, 2, 3] {
        assert_eq!(
            call.heard(id(acceptor), &refused(other_list)),
            Finding::Open
        );
        assert_eq!(
            call.heard(id(acceptor), &witnessed(0, Some(3))),
            Finding::Open
        );
    }
    assert!(!call.may_lead() && !call.may_learn());
}

#[test]
fn another_cluster_is_believed_when_a_quorum_is_of_it() {
    let mut call = call(3, Some(MINE), Some(3));
    let refusal = Refusal::OtherCluster {
        cluster: cluster(8),
    };
    assert_eq!(call.heard(id(1), &refused(refusal)), Finding::Open);
    assert_eq!(call.heard(id(2), &witnessed(MINE, Some(3))), Finding::Open);
    assert_eq!(
        call.heard(id(3), &refused(refusal)),
        Finding::Refused(refusal)
    );
}

#[test]
fn answers_to_another_start_count_for_nothing() {
    let mut call = call(1, None, None);
    let Reply::Witnessed {
        witness,
        cluster,
        acceptors,
        ..
    } = witnessed(MINE, Some(1))
    else {
        unreachable!()
    };
    let start = START.next(9);
    let stale = Reply::Witnessed {
        start,
        witness,
        cluster,
        acceptors,
    };
    assert_eq!(call.heard(id(1), &stale), Finding::Open);
    let refusal = Refusal::OlderCopy { known: START };
    let stale = Reply::Refused { start, refusal };
    assert_eq!(call.heard(id(1), &stale), Finding::Open);
    assert_eq!(
        call.heard(id(1), &refused(refusal)),
        Finding::Refused(refusal)
    );
}
