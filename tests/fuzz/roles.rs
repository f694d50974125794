//! Messages of the cluster's own, with the right cluster's name, through every role: whatever they say,
//! no node stops, the cluster commits afterwards, and everything is read.
//!
//! Left out is what only a sender's identity can refuse: promises and votes at other ballots, and words
//! of what is chosen next.

use std::time::Duration;

use api::env::Role;
use bytes::Bytes;
use paxos::codec::{Frame, Version};
use paxos::ids::{Ballot, ClusterId, NodeId, Slot};
use paxos::message::{Learn, Message, Request, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use testkit::cluster::client::Client;
use testkit::cluster::http::{agent, post};
use testkit::cluster::{Cluster, Name};
use testkit::forge;
use testkit::fuzz::Fuzz;

use super::messages::{damaged, damaged_frames, value};

/// How many slots there are before anything is said.
const SLOTS: u64 = 20;

fn values() -> impl Strategy<Value = Vec<Value>> {
    let broken = damaged(value().prop_map(|value| value.0)).prop_map(|bytes| Value(bytes.into()));
    vec(prop_oneof![value(), broken], 0..4)
}

fn far() -> impl Strategy<Value = Slot> {
    let far = select(vec![100, 10_000, 1 << 20, 1 << 40, u64::MAX - (1 << 33)]);
    (far, 0..50_u64).prop_map(|(far, more)| Slot(far + more))
}

/// A message, and to whom it goes. `ballot` is the leader's.
fn message(ballot: Ballot) -> BoxedStrategy<(Role, Message)> {
    let forward = (values(), 0..50_u32).prop_map(|(values, wait_ms)| {
        let values = values.into();
        (Role::Proposer, Message::Forward { wait_ms, values })
    });
    // Of slots that are applied, or far beyond them.
    let first = prop_oneof![
        (1..=SLOTS).prop_map(Slot),
        far().prop_map(|far| far.plus(40_000))
    ];
    let learn = (first, values(), far()).prop_map(|(first, values, committed)| {
        let most = if first.0 <= SLOTS {
            SLOTS + 1 - first.0
        } else {
            4
        };
        let learn = Learn {
            first,
            values: values.into_iter().take(most as usize).collect(),
            committed,
        };
        (Role::Learner, Message::Learn(learn))
    });
    let renew = (far(), far()).prop_map(move |(committed, trim)| {
        let renew = Request::Renew {
            ballot,
            round: 1,
            committed,
            trim,
        };
        (Role::Acceptor, Message::Request(renew))
    });
    let fetch = (far(), far()).prop_map(|(from, to)| {
        let fetch = Request::Fetch { from, to };
        (Role::Acceptor, Message::Request(fetch))
    });
    let small = select(vec![
        (Role::Proposer, Message::ReadIndex),
        (Role::Proposer, Message::Done),
        (Role::Acceptor, Message::Request(Request::Probe)),
        (Role::Learner, Message::TakeOver),
        (Role::Store, Message::ReadIndex),
    ]);
    prop_oneof![
        4 => forward,
        4 => learn,
        2 => renew,
        1 => fetch,
        1 => small,
    ]
    .boxed()
}

/// Bytes that are nearly a message, of whatever kind and cluster.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    damaged_frames()
}

#[test]
fn messages_of_every_kind_stop_no_node_and_everything_is_read_afterwards() {
    let fuzz = Fuzz::begin("messages_of_every_kind_stop_no_node_and_everything_is_read_afterwards");
    let place = testkit::cluster::Place::default();
    let mut cluster = Cluster::prepare_in(&place, [2, 3, 2, 1]);
    cluster.start_all();
    let mut client = Client::new("honest", cluster.urls(Role::Proposer));
    for i in 0..SLOTS {
        client.write(&format!("before/{i}"), json!(i));
    }
    cluster.wait_until_learners_agree(SLOTS);
    let acceptor = cluster.node((Role::Acceptor, 1)).status().unwrap();
    let id = acceptor["cluster"].as_str().and_then(ClusterId::parse);
    let promised = acceptor["highest_promised"].as_u64().unwrap();
    let ballot = Ballot::from_number(promised).unwrap();
    let by = forge::name((Role::Proposer, ballot.node().map_or(1, NodeId::number)));
    let agent = agent(Duration::from_secs(20));
    let calls = (message(ballot), 1..=2_u8, noise());
    fuzz.check(256, &calls, |((role, message), number, noise)| {
        let to: Name = (role, if role == Role::Store { 1 } else { number });
        let url = format!("{}/paxos/{}/{}", cluster.node(to).url(), role, to.1);
        let frame = Frame {
            version: Version::NEWEST,
            from: by,
            cluster: id,
            message,
        };
        for bytes in [frame.encode(), Bytes::from(noise)] {
            let answer = post(&agent, &url, bytes.to_vec());
            prop_assert!(answer.is_ok(), "{role}: {answer:?}");
            let status = answer.unwrap().status;
            prop_assert!(
                status < 500 || matches!(status, 503 | 504),
                "{role}: {status}"
            );
        }
        Ok(())
    });
    let (last, _) = client.write("after", json!("all"));
    cluster.wait_until_learners_agree(last);
    cluster.wait_until_ready();
    for name in cluster.names() {
        let status = cluster.node(name).status().unwrap();
        assert!(
            status.get("halted").is_none_or(|why| why.is_null()),
            "{status}"
        );
        assert!(
            !cluster.node(name).output().contains("panicked"),
            "{}",
            cluster.tails()
        );
    }
    for i in 0..SLOTS {
        for url in [cluster.urls(Role::Learner), cluster.urls(Role::Store)].concat() {
            let read = testkit::cluster::http::get(&format!("{url}/resource/before/{i}"));
            assert_eq!(read.unwrap().json()["data"], json!(i));
        }
    }
}
