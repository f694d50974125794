//! Random bodies, paths and queries for every route of every role: never a server error, and nodes
//! that are as well afterwards as before.

use std::time::Duration;

use api::env::Role;
use bytes::Bytes;
use http::{Method, Request};
use paxos::codec::Frame;
use paxos::ids::ClusterId;
use proptest::prelude::*;
use proptest::sample::select;
use testkit::cluster::http::{agent, send};
use testkit::cluster::{Cluster, Name};
use testkit::fuzz::Fuzz;

use super::messages::{damaged, frame};

/// A JSON value that may be right or wrong.
fn json_value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => r#""[a-zA-Z/]{0,6}""#,
        2 => "[0-9]{1,4}",
        1 => "-?[0-9]{1,22}",
        1 => "-?[0-9]{1,3}\\.[0-9]{1,3}(e[0-9]{1,3})?",
        1 => r#"(null|true|\[\]|\{\}|\[1,\[2\]\]|\{"a":\{"b":null\}\})"#,
        1 => r#""[\\u0000-\\uffff]{0,6}""#,
    ]
}

/// An object with these fields, each with a right value, a wrong one, or left out.
fn object(fields: Vec<(&'static str, String)>) -> impl Strategy<Value = Vec<u8>> {
    let field = |(name, good): (&'static str, String)| {
        prop_oneof![
            8 => Just(format!("\"{name}\":{good}")),
            1 => json_value().prop_map(move |value| format!("\"{name}\":{value}")),
            1 => Just(String::new()),
        ]
    };
    let fields: Vec<_> = fields.into_iter().map(field).collect();
    let text = fields.prop_map(|fields| {
        let fields: Vec<_> = fields
            .into_iter()
            .filter(|field| !field.is_empty())
            .collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![
        3 => text.clone().prop_map(String::into_bytes),
        1 => damaged(text.prop_map(Bytes::from)),
    ]
}

fn request() -> Vec<(&'static str, String)> {
    [
        ("clientId", "\"a\""),
        ("timestamp", "1"),
        ("operation", "\"WRITE\""),
        ("resource", "\"r\""),
        ("data", "[1]"),
        ("requestId", "\"q\""),
        ("ifVersion", "0"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

pub(super) fn propose() -> impl Strategy<Value = Vec<u8>> {
    object(request())
}

fn batch() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(propose(), 0..4).prop_map(|bodies| {
        let bodies = bodies.join(&b',');
        [b"[", &bodies[..], b"]"].concat()
    })
}

pub(super) fn heartbeat() -> impl Strategy<Value = Vec<u8>> {
    let fields = [
        ("leaderId", "1"),
        ("term", "1"),
        ("lastInstanceId", "0"),
        ("committedInstanceId", "0"),
    ];
    object(
        fields
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec(),
    )
}

/// What an acceptor is asked in its readable form, at ballots that soon lie behind the leader's.
fn readable() -> impl Strategy<Value = Vec<u8>> {
    (1..4_u64, 0..9_u64, any::<bool>()).prop_flat_map(|(round, instance, null)| {
        let command = r#"{"clientId":"a","timestamp":1,"operation":"DELETE","resource":"r"}"#;
        let value = if null { "null" } else { command };
        object(vec![
            ("proposalNumber", (round * 256 + 200).to_string()),
            ("instanceId", instance.to_string()),
            ("proposerId", "200".to_owned()),
            ("value", value.to_owned()),
        ])
    })
}

/// The cluster's own traffic. Good frames are of another cluster: of this one's, a forged
/// acceptance would be believed, as it should be.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let foreign = || {
        frame().prop_map(|frame| {
            let cluster = ClusterId::new(1);
            Frame { cluster, ..frame }.encode()
        })
    };
    prop_oneof![
        foreign().prop_map(|bytes| bytes.to_vec()),
        damaged(foreign())
    ]
}

type Call = (Role, Method, String, Vec<u8>);

fn post(
    role: Role,
    path: &'static str,
    body: impl Strategy<Value = Vec<u8>> + 'static,
) -> BoxedStrategy<Call> {
    (query(&["wait", "timeoutMs"]), body)
        .prop_map(move |(query, body)| (role, Method::POST, format!("{path}?{query}"), body))
        .boxed()
}

fn get(role: Role, path: &'static str, names: &'static [&'static str]) -> BoxedStrategy<Call> {
    ("[a-z0-9.~%/-]{0,6}", query(names))
        .prop_map(move |(segment, query)| {
            let path = path.replace("{}", &segment);
            (role, Method::GET, format!("{path}?{query}"), Vec::new())
        })
        .boxed()
}

fn query(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let value = prop_oneof![
        3 => "[0-9]{1,3}",
        1 => "(true|false|local|linearizable)",
        1 => "-?[0-9]{1,22}",
        1 => "[a-z%0-9]{0,4}",
    ];
    let pair = (select(names), value).prop_map(|(name, value)| format!("{name}={value}"));
    prop::collection::vec(pair, 0..3).prop_map(|pairs| pairs.join("&"))
}

fn calls() -> impl Strategy<Value = Call> {
    let reader = [
        ("/instance/{}", &["a"][..]),
        ("/instances", &["from", "limit"]),
        ("/resource/{}", &["consistency"]),
        ("/resources", &["prefix", "limit", "after"]),
        ("/paxos/learner/1/entries", &["from", "waitMs"]),
        ("/paxos/learner/1/snapshot", &["instance", "offset"]),
    ];
    // A log or a watch that is followed has no end.
    let log = query(&["from", "a"]).prop_map(|query| {
        let path = format!("/log?follow=false&{query}");
        (Role::Learner, Method::GET, path, Vec::new())
    });
    let mut calls = vec![
        log.boxed(),
        post(Role::Proposer, "/propose", propose()),
        post(Role::Proposer, "/propose/batch", batch()),
        post(Role::Proposer, "/leader-heartbeat", heartbeat()),
        post(Role::Proposer, "/paxos/proposer/1", frames()),
        post(Role::Acceptor, "/prepare", readable()),
        post(Role::Acceptor, "/accept", readable()),
        post(Role::Acceptor, "/paxos/acceptor/1", frames()),
        post(Role::Learner, "/learn", readable()),
        post(Role::Learner, "/paxos/learner/1", frames()),
        post(Role::Store, "/learn", readable()),
        post(Role::Store, "/paxos/store/1", frames()),
        get(Role::Proposer, "/leader-status", &["a"]),
    ];
    for role in Role::ALL {
        calls.push(get(role, "/logs", &["limit"]));
        calls.push(get(role, "/logs/important", &["limit"]));
        calls.push(get(role, "/no/{}", &["a"]));
    }
    for role in [Role::Learner, Role::Store] {
        calls.extend(reader.map(|(path, names)| get(role, path, names)));
    }
    proptest::strategy::Union::new(calls)
}

#[test]
fn no_call_of_any_route_makes_a_server_error() {
    let fuzz = Fuzz::begin("no_call_of_any_route_makes_a_server_error");
    let mut cluster = Cluster::start(1, 1, 1);
    cluster.add_store();
    cluster.wait_until_ready();
    let agent = agent(Duration::from_secs(20));
    fuzz.check(512, &calls(), |(role, method, path, body)| {
        let name: Name = (role, 1);
        let url = format!("{}{path}", cluster.node(name).url());
        let Ok(request) = Request::builder().method(method).uri(url).body(body) else {
            // No client can send such a path.
            return Ok(());
        };
        let answer = send(&agent, request);
        prop_assert!(answer.is_ok(), "{path}: {answer:?}");
        let answer = answer.unwrap();
        // 503 and 504 are answers to good requests that cannot be served now.
        let fine = answer.status < 500 || matches!(answer.status, 503 | 504);
        prop_assert!(fine, "{path}: {} {}", answer.status, answer.text());
        if (400..500).contains(&answer.status) {
            let problem = "application/problem+json";
            prop_assert_eq!(answer.header("content-type"), problem, "{}", path);
        }
        Ok(())
    });
    cluster.wait_until_ready();
    for name in cluster.names() {
        let output = cluster.node(name).output();
        assert!(!output.contains("panicked"), "{}", cluster.tails());
    }
}
