//! What clients should not send, to every route of every role: always a 4xx with a `detail` that
//! names the field, and a node that is as well afterwards as before.

use std::time::Duration;

use api::env::Role;
use http::{Method, Request};
use serde_json::{Value as Json, json};
use testkit::cluster::client::Client;
use testkit::cluster::http::{Answer, agent, send};
use testkit::cluster::{Cluster, Name};

const POSTS: [(Role, &str); 9] = [
    (Role::Proposer, "/propose"),
    (Role::Proposer, "/propose?wait=true"),
    (Role::Proposer, "/propose/batch"),
    (Role::Proposer, "/leader-heartbeat"),
    (Role::Proposer, "/paxos/proposer/1"),
    (Role::Acceptor, "/prepare"),
    (Role::Acceptor, "/accept"),
    (Role::Acceptor, "/paxos/acceptor/1"),
    (Role::Learner, "/learn"),
];

const GETS: [&str; 6] = [
    "/status",
    "/health",
    "/ready",
    "/logs/important",
    "/metrics",
    "/logs",
];

fn call(cluster: &Cluster, role: Role, method: Method, path: &str, body: &[u8]) -> Answer {
    let name: Name = (role, 1);
    let url = format!("{}{path}", cluster.node(name).url());
    let request = Request::builder().method(method).uri(url);
    let request = request.body(body.to_vec()).unwrap();
    send(&agent(Duration::from_secs(10)), request).unwrap()
}

/// A refusal in the form of RFC 9457; its detail.
fn refused(answer: &Answer, status: std::ops::Range<u16>) -> String {
    assert!(
        status.contains(&answer.status),
        "{} {}",
        answer.status,
        answer.text()
    );
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let detail = answer.json()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(!detail.is_empty(), "{}", answer.text());
    detail
}

fn assert_healthy(cluster: &Cluster) {
    for role in [Role::Proposer, Role::Acceptor, Role::Learner] {
        let health = call(cluster, role, Method::GET, "/health", b"");
        assert_eq!(health.status, 200);
        assert_eq!(health.json()["status"], "healthy");
    }
}

#[test]
fn what_is_wrong_is_refused_with_the_field_named() {
    let cluster = Cluster::start(1, 1, 1);
    let post = |role, path: &str, body: &str| {
        refused(
            &call(&cluster, role, Method::POST, path, body.as_bytes()),
            400..500,
        )
    };
    let request = r#"{"clientId":"a","timestamp":1,"operation":"WRITE","resource":"r","data":1}"#;
    for (field, body) in [
        ("clientId", request.replace("\"a\"", "7")),
        ("clientId", request.replace("\"a\"", "\"\"")),
        ("timestamp", request.replace(":1,", ":-1,")),
        ("timestamp", request.replace(":1,", ":\"now\",")),
        ("operation", request.replace("WRITE", "BURN")),
        ("resource", request.replace("\"r\"", "\"\"")),
        ("data", request.replace(",\"data\":1", "")),
        ("ifVersion", request.replace("}", ",\"ifVersion\":-1}")),
        ("requestId", request.replace("}", ",\"requestId\":\"\"}")),
        ("ifInstance", request.replace("}", ",\"ifInstance\":-1}")),
        ("ifInstance", request.replace("}", ",\"ifInstance\":\"1\"}")),
        ("sequence", request.replace("}", ",\"sequence\":1.5}")),
        (
            "sequence",
            request.replace("}", ",\"sequence\":9007199254740992}"),
        ),
    ] {
        let detail = post(Role::Proposer, "/propose", &body);
        assert!(detail.contains(field), "{field}: {detail}");
        let detail = post(
            Role::Proposer,
            "/propose/batch",
            &format!("[{request},{body}]"),
        );
        assert!(
            detail.contains(field) && detail.contains("[1]"),
            "{field}: {detail}"
        );
    }
    for (role, path, body, field) in [
        (Role::Proposer, "/propose?timeoutMs=0", request, "timeoutMs"),
        (Role::Proposer, "/propose?wait=perhaps", request, "wait"),
        (
            Role::Proposer,
            "/leader-heartbeat",
            r#"{"leaderId":0,"term":1,"lastInstanceId":1}"#,
            "leaderId",
        ),
        (
            Role::Proposer,
            "/leader-heartbeat",
            r#"{"leaderId":1,"lastInstanceId":1}"#,
            "term",
        ),
        (
            Role::Acceptor,
            "/prepare",
            r#"{"proposalNumber":256,"instanceId":1,"proposerId":1}"#,
            "proposalNumber",
        ),
        (
            Role::Acceptor,
            "/prepare",
            r#"{"proposalNumber":257,"instanceId":1,"proposerId":2}"#,
            "proposerId",
        ),
        (
            Role::Acceptor,
            "/accept",
            r#"{"proposalNumber":257,"instanceId":0,"proposerId":1,"value":null}"#,
            "instanceId",
        ),
        (
            Role::Acceptor,
            "/accept",
            r#"{"proposalNumber":257,"instanceId":1,"proposerId":1,"value":5}"#,
            "value",
        ),
        (
            Role::Acceptor,
            "/accept",
            r#"{"proposalNumber":257,"instanceId":1,"proposerId":1,"value":{"clientId":7}}"#,
            "clientId",
        ),
        (
            Role::Learner,
            "/learn",
            r#"{"instanceId":"x"}"#,
            "instanceId",
        ),
    ] {
        let detail = post(role, path, body);
        assert!(detail.contains(field), "{path} {body}: {detail}");
    }
    for (role, path, field) in [
        (Role::Learner, "/instance/0", "id"),
        (Role::Learner, "/instance/x", "path"),
        (Role::Learner, "/instances?limit=0", "limit"),
        (Role::Learner, "/log?from=0", "from"),
        (Role::Learner, "/log?follow=perhaps", "follow"),
        (Role::Learner, "/resource/r?consistency=some", "consistency"),
        (Role::Proposer, "/logs/important?limit=1001", "limit"),
    ] {
        let answer = call(&cluster, role, Method::GET, path, b"");
        let detail = refused(&answer, 400..401);
        assert!(detail.contains(field), "{path}: {detail}");
    }
    assert_healthy(&cluster);
}

#[test]
fn a_leader_that_is_no_proposer_of_the_cluster_is_not_believed() {
    let cluster = Cluster::start(1, 1, 1);
    let heartbeat = br#"{"leaderId":200,"term":1000000,"lastInstanceId":0}"#;
    let path = "/leader-heartbeat";
    let answer = call(&cluster, Role::Proposer, Method::POST, path, heartbeat);
    assert!(refused(&answer, 400..401).contains("leaderId"));
    Client::new("alice", cluster.urls(Role::Proposer)).write("r", serde_json::json!(1));
    assert_healthy(&cluster);
}

#[test]
fn unknown_paths_wrong_methods_and_large_bodies_are_refused() {
    let cluster = Cluster::start(1, 1, 1);
    for (role, path) in POSTS {
        let path = path.split('?').next().unwrap();
        refused(&call(&cluster, role, Method::GET, path, b""), 405..406);
        if !path.starts_with("/paxos/") {
            refused(
                &call(
                    &cluster,
                    role,
                    Method::POST,
                    path,
                    &vec![b' '; (1 << 20) + 1],
                ),
                413..414,
            );
        }
    }
    for role in [Role::Proposer, Role::Acceptor, Role::Learner] {
        refused(
            &call(&cluster, role, Method::GET, "/nothing/here", b""),
            404..405,
        );
        for path in GETS {
            refused(&call(&cluster, role, Method::POST, path, b"{}"), 405..406);
        }
        refused(&call(&cluster, role, Method::GET, "/logs", b""), 403..404);
    }
    // Another acceptor's traffic is not for this one.
    refused(
        &call(
            &cluster,
            Role::Acceptor,
            Method::POST,
            "/paxos/acceptor/2",
            b"",
        ),
        404..405,
    );
    assert_healthy(&cluster);
}

/// The readable form is Paxos to the letter: what is chosen is not open to another round, and a vote is
/// proposed again to the byte, with what JSON does not show.
#[test]
fn a_round_by_hand_proposes_what_the_promises_told_and_halts_nobody() {
    let cluster = Cluster::start(1, 3, 2);
    let mut client = Client::new("alice", cluster.urls(Role::Proposer));
    client.write("r", json!(1));
    cluster.wait_until_learners_agree(1);
    // Acceptors learn what is chosen with the next batch or heartbeat, after the client has its answer.
    for acceptor in cluster.of_role(Role::Acceptor) {
        let node = cluster.node(acceptor);
        let is_told = || (node.number("committed_instance_id")? == 1).then_some(());
        let within = Duration::from_secs(30);
        cluster.wait_for("every acceptor learns what is chosen", within, is_told);
    }
    let round = |number: u64, instance: u64, value: Option<Json>| -> Vec<Answer> {
        let mut body = json!({"proposalNumber": number, "instanceId": instance, "proposerId": 9});
        let path = match value {
            Some(value) => {
                body["value"] = value;
                "/accept"
            }
            None => "/prepare",
        };
        let body = body.to_string();
        let acceptors = (1..=3).map(|id| cluster.node((Role::Acceptor, id)).url());
        let ask = |url| {
            let request = Request::post(format!("{url}{path}"));
            let request = request.body(body.clone().into_bytes()).unwrap();
            send(&agent(Duration::from_secs(10)), request).unwrap()
        };
        acceptors.map(ask).collect()
    };
    // Phase 2 asks a quorum first: one of the three may have no vote yet.
    let told = |promises: &[Answer]| {
        let values = promises.iter().map(|promise| promise.json());
        let mut values = values.map(|promise| promise["acceptedValue"].clone());
        values.find(|value| !value.is_null()).unwrap()
    };
    let ballot = |counter: u64| counter * 256 + 9;

    // A leader's first value has its stamp, which JSON does not show.
    let chosen = told(&round(ballot(1000), 1, None));
    assert_eq!(chosen["data"], 1);
    for answer in round(ballot(1000), 1, Some(chosen)) {
        assert!(refused(&answer, 409..410).contains("instance 1 is chosen"));
    }

    let data = json!({"b": 1.0, "a": "\u{e4}"});
    let new = json!({"clientId": "hand", "timestamp": 7, "operation": "WRITE", "resource": "h",
        "data": data, "requestId": "1"});
    for answer in round(ballot(1001), 40, Some(new.clone())) {
        assert_eq!(answer.json()["type"], "ACCEPTED", "{}", answer.text());
    }
    let voted = told(&round(ballot(1002), 40, None));
    let mut other = new;
    other["data"] = json!(2);
    for answer in round(ballot(1002), 40, Some(other)) {
        assert!(refused(&answer, 409..410).contains("acceptedValue"));
    }
    let mut broken = voted.clone();
    broken["encoded"] = json!("AAAA");
    for answer in round(ballot(1002), 40, Some(broken)) {
        assert!(refused(&answer, 400..401).contains("value.encoded"));
    }
    for answer in round(ballot(1002), 40, Some(voted)) {
        assert_eq!(answer.json()["type"], "ACCEPTED", "{}", answer.text());
    }

    // The next leader fills what is before it, and continues.
    client.write("r", json!(2));
    let last = cluster.wait_until_learners_agree(41);
    client.write("r", json!(3));
    cluster.wait_until_learners_agree(last + 1);
    let entry = call(&cluster, Role::Learner, Method::GET, "/instance/40", b"");
    assert_eq!(entry.json()["data"], data);
    for name in cluster.of_role(Role::Learner) {
        let status = cluster.node(name).status().unwrap();
        assert_eq!(status["halted"], Json::Null, "{status}");
        let output = cluster.node(name).output();
        assert!(!output.contains("another value"), "{output}");
    }
}
