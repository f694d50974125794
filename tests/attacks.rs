//! Messages of nobody who may send them, to real processes: none halts a node, moves a number out of
//! reach, or has something served that was never chosen, without a word.
//!
//! That a message comes from whom it names is not proved yet. What remains possible until then is said
//! where it matters: a learner that was made to apply something stops and says so.

use std::thread::sleep;
use std::time::Duration;

use api::env::Role;
use paxos::codec::Frame;
use paxos::ids::{Ballot, NodeId, Slot};
use paxos::message::{Forwarded, Learn, Message, Request, Value};
use paxos::standing::Start;
use serde_json::json;
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};
use testkit::forge::{leader, name, send, write};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn put(cluster: &Cluster, resource: &str) -> u64 {
    let mut client = Client::new(resource, cluster.urls(Role::Proposer));
    client.write(resource, json!({"of": resource})).0
}

/// Everything commits and is read, now and after a restart of all.
fn is_well(cluster: &mut Cluster, word: &str) {
    for when in ["now", "after a restart"] {
        let instance = put(cluster, &format!("{word} {when}"));
        cluster.wait_until_learners_agree(instance);
        cluster.wait_until_ready();
        for learner in cluster.of_role(Role::Learner) {
            let status = cluster.node(learner).status().unwrap();
            assert_eq!(status["halted"], json!(null), "{word}: {status}");
        }
        if when == "now" {
            let all = cluster.names();
            cluster.kill(&all);
            cluster.restart(&all);
            cluster.wait_until_ready();
        }
    }
}

fn values(values: &[Value]) -> std::sync::Arc<[Value]> {
    values.to_vec().into()
}

#[test]
fn what_a_client_may_not_write_no_node_may_forward() {
    let mut cluster = Cluster::start(2, 3, 2);
    put(&cluster, "before");
    let to = cluster.wait_for_leader();
    let long = "x".repeat(2000);
    let bad = [
        Value(b"\xff"[..].into()),
        Value(b"\x01\x01\x80 unknown flags"[..].into()),
        Value::NOOP,
        write("k", "not json {"),
        write("k", ""),
        write(&long, "1"),
        write("", "1"),
        write("k", &format!("\"{}\"", "y".repeat(1 << 20))),
    ];
    for (i, bad) in bad.iter().enumerate() {
        for wait_ms in [0, 1000] {
            let values = values(&[write(&format!("good/{i}"), "1"), bad.clone()]);
            let message = Message::Forward { wait_ms, values };
            let answer = send(&cluster, to, (Role::Proposer, 2), message);
            assert_eq!(answer.status, 200, "{i}: {}", answer.text());
            let frame = Frame::decode(answer.body.into()).unwrap();
            let Message::Forwarded(Forwarded::Outcomes { outcomes }) = frame.message else {
                panic!("{i}: {:?}", frame.message)
            };
            let known: Vec<bool> = outcomes.iter().map(Option::is_some).collect();
            assert_eq!(known, [true, false], "{i}");
        }
    }
    // What came with it is there, and nothing else.
    let url = cluster.node((Role::Learner, 1)).url();
    for i in 0..bad.len() {
        let good = http::get(&format!("{url}/resource/good/{i}")).unwrap();
        assert_eq!(good.status, 200, "{}", good.text());
    }
    assert_eq!(http::get(&format!("{url}/resource/k")).unwrap().status, 404);
    let good = values(&[write("good", "1")]);
    let message = Message::Forward {
        wait_ms: 5000,
        values: good,
    };
    assert_eq!(send(&cluster, to, (Role::Proposer, 2), message).status, 200);
    assert_eq!(
        http::get(&format!("{url}/resource/good")).unwrap().status,
        200
    );
    is_well(&mut cluster, "forwarded");
}

fn metric(cluster: &Cluster, node: Name, metric: &str) -> Option<f64> {
    let url = format!("{}/metrics", cluster.node(node).url());
    let text = http::get(&url).ok()?.text();
    let line = text.lines().find(|line| line.starts_with(metric))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn another_value_for_an_applied_instance_is_refused_and_its_sender_named() {
    let mut cluster = Cluster::start(2, 3, 2);
    let last = (0..5)
        .map(|i| put(&cluster, &format!("k/{i}")))
        .max()
        .unwrap();
    cluster.wait_until_learners_agree(last);
    for learner in cluster.of_role(Role::Learner) {
        for (first, forged) in [(1, write("k/0", "\"forged\"")), (last, Value::NOOP)] {
            let by = leader(&cluster);
            let learn = Learn {
                first: Slot(first),
                values: values(&[forged]),
                committed: Slot(last),
            };
            send(&cluster, learner, by, Message::Learn(learn));
            cluster.wait_for("it is refused", PATIENCE, || {
                let refused = metric(&cluster, learner, "paxos_learns_refused_total")?;
                let output = cluster.node(learner).output();
                let named = format!("{}", name(by));
                (refused >= 1.0 && output.contains("is refused") && output.contains(&named))
                    .then_some(())
            });
        }
        assert!(metric(&cluster, learner, "paxos_learns_refused_total") >= Some(2.0));
        assert_eq!(metric(&cluster, learner, "paxos_contradicted"), Some(0.0));
        let url = format!("{}/resource/k/0", cluster.node(learner).url());
        assert_eq!(
            http::get(&url).unwrap().json()["data"],
            json!({"of": "k/0"})
        );
    }
    is_well(&mut cluster, "contradicted");
}

#[test]
fn a_learner_made_to_apply_what_was_never_chosen_stops_and_no_write_is_lost_without_a_word() {
    let cluster = Cluster::start(2, 3, 2);
    let last = put(&cluster, "before");
    cluster.wait_until_learners_agree(last);
    let learners = cluster.of_role(Role::Learner);
    for learner in &learners {
        let learn = Learn {
            first: Slot(last + 1),
            values: values(&[write("k", "\"forged\"")]),
            committed: Slot(last + 1),
        };
        send(&cluster, *learner, leader(&cluster), Message::Learn(learn));
    }
    let agent = http::agent(PATIENCE);
    let body = json!({
        "clientId": "honest", "requestId": "1", "timestamp": 1,
        "operation": "WRITE", "resource": "honest", "data": 1,
    });
    let url = format!(
        "{}/propose?wait=true&timeoutMs=3000",
        cluster.urls(Role::Proposer)[0]
    );
    let answer = http::post(&agent, &url, body.to_string().into_bytes()).unwrap();
    assert!([503, 504].contains(&answer.status), "{}", answer.text());
    for learner in learners {
        cluster.wait_for("it stops", PATIENCE, || {
            let status = cluster.node(learner).status()?;
            (status["halt_reason"] == "contradicted").then_some(())
        });
        assert!(!cluster.node(learner).is_ready());
        assert_eq!(metric(&cluster, learner, "paxos_contradicted"), Some(1.0));
        let url = format!("{}/resource/k", cluster.node(learner).url());
        assert_eq!(http::get(&url).unwrap().status, 503);
    }
}

#[test]
fn no_word_of_what_is_chosen_moves_the_log_out_of_reach() {
    let mut cluster = Cluster::start(3, 3, 2);
    put(&cluster, "before");
    // Far beyond, and just beyond: neither was ever given out.
    for (said, trim) in [
        (10_u64.pow(15), 0),
        (10_u64.pow(15), 10_u64.pow(15)),
        (1000, 1000),
    ] {
        for acceptor in cluster.of_role(Role::Acceptor) {
            let promised = cluster.node(acceptor).number("highest_promised").unwrap();
            let ballot = Ballot::from_number(promised).unwrap();
            let renew = Request::Renew {
                ballot,
                round: 1,
                committed: Slot(said),
                trim: Slot(trim),
            };
            let by = (Role::Proposer, ballot.node().map_or(1, NodeId::number));
            assert_eq!(
                send(&cluster, acceptor, by, Message::Request(renew)).status,
                200
            );
        }
        let (_, leads) = leader(&cluster);
        let next = (Role::Proposer, 1 + leads % 3);
        send(&cluster, next, (Role::Proposer, leads), Message::TakeOver);
        let instance = put(&cluster, &format!("after {said} {trim}"));
        assert!(instance < 100, "{instance}");
    }
    // Nor does what a learner is sent.
    for learner in cluster.of_role(Role::Learner) {
        let learn = Learn {
            first: Slot(10_u64.pow(15)),
            values: values(&[]),
            committed: Slot(10_u64.pow(15)),
        };
        send(&cluster, learner, leader(&cluster), Message::Learn(learn));
    }
    is_well(&mut cluster, "said to be chosen");
}

#[test]
fn no_count_of_starts_keeps_a_node_from_starting_again() {
    let mut cluster = Cluster::start(2, 3, 2);
    put(&cluster, "before");
    let nodes = cluster.names();
    for node in nodes {
        let status = cluster.node(node).status().unwrap();
        let incarnation = status["incarnation"].as_str().unwrap();
        let incarnation = u64::from_str_radix(incarnation, 16).unwrap();
        for acceptor in cluster
            .of_role(Role::Acceptor)
            .into_iter()
            .filter(|a| *a != node)
        {
            for count in [u64::MAX, 1 << 40] {
                let start = Start {
                    incarnation,
                    count,
                    run: 9,
                };
                let enlist = Request::Enlist {
                    node: name(node),
                    start,
                    cluster: None,
                    acceptors: None,
                };
                send(&cluster, acceptor, node, Message::Request(enlist));
            }
        }
    }
    is_well(&mut cluster, "counted");
}

#[test]
fn heartbeats_of_absurd_terms_depose_nobody() {
    let mut cluster = Cluster::start(3, 3, 2);
    put(&cluster, "before");
    let term = cluster
        .node(cluster.wait_for_leader())
        .number("term")
        .unwrap();
    let agent = http::agent(PATIENCE);
    for round in 0..20 {
        for (i, url) in cluster.urls(Role::Proposer).into_iter().enumerate() {
            let beat = json!({
                "leaderId": 1 + (i + round) % 3, "term": (1_u64 << 55) + round as u64,
                "lastInstanceId": 1,
            });
            let url = format!("{url}/leader-heartbeat");
            let answer = http::post(&agent, &url, beat.to_string().into_bytes()).unwrap();
            assert_eq!(
                (answer.status, &answer.json()["ignored"]),
                (200, &json!(true))
            );
        }
        put(&cluster, &format!("during/{round}"));
        sleep(Duration::from_millis(50));
    }
    let now = cluster
        .node(cluster.wait_for_leader())
        .number("term")
        .unwrap();
    assert_eq!(now, term, "nobody stood for election");
    let said = |proposer: Name| {
        cluster
            .node(proposer)
            .output()
            .contains("a heartbeat is ignored")
    };
    assert!(cluster.of_role(Role::Proposer).into_iter().any(said));
    is_well(&mut cluster, "beaten");
}
