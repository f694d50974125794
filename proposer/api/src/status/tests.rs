use paxos::ids::{ClusterId, Members};
use paxos::standing::Start;

use super::*;

fn node(role: &'static str) -> NodeStatus {
    NodeStatus {
        node_id: 2,
        role: role.into(),
        version: "1.2.3".into(),
        uptime: 9,
        cluster: Some("00000000000000aa".to_owned()),
        acceptors: Some(3),
        warnings: vec!["proposer 3 answers at the address of proposer 2".to_owned()],
        incarnation: "00000000000000ab".to_owned(),
        starts: 4,
        ready: true,
    }
}

fn every_role() -> [Status; 4] {
    [
        Status::Proposer(ProposerStatus {
            node: node("proposer"),
            is_leader: false,
            leader_id: None,
            term: 0,
            last_instance_id: 7,
            committed_instance_id: u64::MAX,
            proposal_counter: 5,
            behind: Some("learner 1 has applied more".to_owned()),
            state: "following".into(),
        }),
        Status::Acceptor(AcceptorStatus {
            node: node("acceptor"),
            is_leader: false,
            leader_id: Some(3),
            term: 5,
            proposal_counter: 5,
            highest_promised: 1283,
            last_instance_id: 7,
            committed_instance_id: 6,
            trimmed_instance_id: 3,
            state: "older-copy".into(),
            refusal: Some("start 5 of it is known".to_owned()),
            refusal_reason: Some(RefusalReason::OlderCopy),
            log_bytes: 4096,
            disk_sync_ms: 2,
            no_room: Some("its volume is almost full".into()),
        }),
        Status::Learner(LearnerStatus {
            node: node("learner"),
            is_leader: false,
            leader_id: Some(3),
            last_instance_id: 7,
            committed_instance_id: 7,
            applied_instance_id: 7,
            durable_instance_id: 6,
            resources: 2,
            sessions: 1,
            stores: vec![StoreState {
                node_id: 1,
                applied_instance_id: 5,
                lag: 2,
                reachable: true,
            }],
            state: "data-lost".into(),
            halted: Some("learner 1 differs".to_owned()),
            halt_reason: Some(HaltReason::Disagrees),
            data_lost: Some("instances 8 to 9".to_owned()),
        }),
        Status::Store(StoreStatus {
            node: node("store"),
            is_leader: false,
            leader_id: None,
            last_instance_id: 7,
            committed_instance_id: 7,
            applied_instance_id: 7,
            durable_instance_id: 7,
            follows_learner: Some(1),
            resources: None,
            sessions: 1,
            state: "halted".into(),
            halted: Some("a value of another version".to_owned()),
            halt_reason: Some(HaltReason::Undecodable),
        }),
    ]
}

#[test]
fn what_every_role_says_is_read_back() {
    for status in every_role() {
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}

#[test]
fn readers_find_what_is_wrong_with_a_node_and_nothing_with_others() {
    let [proposer, acceptor, learner, store] = every_role();
    assert_eq!(proposer.behind(), Some("learner 1 has applied more"));
    assert_eq!(acceptor.refusal(), Some("start 5 of it is known"));
    assert_eq!(acceptor.no_room(), Some("its volume is almost full"));
    assert_eq!(learner.data_lost(), Some("instances 8 to 9"));
    let halt = |status: &Status| status.halt().map(|halt| halt.reason);
    assert_eq!(halt(&learner), Some(HaltReason::Disagrees));
    assert_eq!(halt(&store), Some(HaltReason::Undecodable));
    for other in [&proposer, &acceptor] {
        assert_eq!(other.halt(), None);
    }
    for other in [&acceptor, &learner, &store] {
        assert_eq!(other.behind(), None);
    }
    for other in [&proposer, &learner, &store] {
        assert_eq!((other.refusal(), other.no_room()), (None, None));
    }
    for other in [&proposer, &acceptor, &store] {
        assert_eq!(other.data_lost(), None);
    }
}

/// A roll of the cluster has nodes of two versions.
#[test]
fn a_newer_node_and_the_one_before_are_understood() {
    let [_, acceptor, learner, _] = every_role();
    let mut newer = serde_json::to_value(&learner).unwrap();
    newer["halt_reason"] = "eclipsed".into();
    newer["mood"] = "fine".into();
    let newer: Status = serde_json::from_value(newer).unwrap();
    let halt = newer.halt().unwrap();
    assert_eq!(halt.reason, HaltReason::Unknown);
    assert_eq!(halt.why, "learner 1 differs");

    let mut older = serde_json::to_value(&acceptor).unwrap();
    let fields = older.as_object_mut().unwrap();
    for since in ["refusal_reason", "warnings", "acceptors", "no_room"] {
        assert!(fields.remove(since).is_some(), "{since}");
    }
    let older: Status = serde_json::from_value(older).unwrap();
    assert_eq!(older.refusal(), acceptor.refusal());
    assert_eq!(older.node().node_id, 2);
}

#[test]
fn what_is_no_status_is_refused() {
    for text in [
        "{}",
        "[]",
        "7",
        "{\"role\":\"witness\"}",
        "{\"role\":\"learner\"}",
    ] {
        assert!(serde_json::from_str::<Status>(text).is_err(), "{text}");
    }
}

#[test]
fn reasons_have_one_name_everywhere() {
    for reason in [
        HaltReason::Undecodable,
        HaltReason::Disagrees,
        HaltReason::Contradicted,
        HaltReason::Unknown,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
    }
    let known = Start {
        incarnation: 1,
        count: 1,
        run: 1,
    };
    let cluster = ClusterId::new(1).unwrap();
    let (founded, listed) = (Members::new(3).unwrap(), Members::new(5).unwrap());
    for refusal in [
        Refusal::OtherDisk { known },
        Refusal::OlderCopy { known },
        Refusal::OtherCluster { cluster },
        Refusal::NotAMember,
        Refusal::OtherCount { founded, listed },
    ] {
        let reason = RefusalReason::from(refusal);
        assert_eq!(serde_json::to_value(reason).unwrap(), refusal.name());
    }
}
