//! Real processes on loopback: 5 proposers, 5 acceptors, 2 learners, killed in every way.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use api::env::Role;
use rustix::process::Signal;
use serde_json::json;
use testkit::cluster::client::{Client, Outcome, Proposal};
use testkit::cluster::{Audit, Cluster, LogLine, binary, http};

fn cluster() -> Cluster {
    Cluster::start(5, 5, 2)
}

fn client(cluster: &Cluster, id: &str) -> Client {
    Client::new(id, cluster.urls(Role::Proposer))
}

/// What clients received, and what is chosen.
#[derive(Default)]
struct Books {
    audit: Audit,
    told: Vec<(String, String, String, Outcome)>,
}

/// Writes values to one resource after the other and notes what was acknowledged.
fn write_some(client: &mut Client, books: &mut Books, count: u64) {
    for i in 0..count {
        let resource = format!("{}-{i}", client.id);
        let (instance, version) = client.write(&resource, json!(i));
        let outcome = Outcome::Committed { instance, version };
        let told = (client.id.clone(), client.last_request(), resource, outcome);
        books.told.push(told);
    }
}

/// Both learners have the same log, and nothing that a client received contradicts it.
fn assert_sound(cluster: &Cluster, books: &mut Books) {
    cluster.wait_until_learners_agree(1);
    let Books { audit, told } = books;
    audit.look(cluster);
    for (client, request, resource, outcome) in told.drain(..) {
        audit.acknowledged(&client, &request, &resource, outcome);
    }
    assert_eq!(audit.violations, [""; 0]);
    assert!(audit.lines_compared > 0, "both learners' logs were read");
    assert!(audit.votes_compared > 0, "the acceptors' votes were read");
}

fn committed<'a>(audit: &'a Audit, client: &str) -> Vec<&'a LogLine> {
    let lines = audit.chosen.values();
    lines
        .filter(|line| line.status == "COMMITTED" && line.command["clientId"] == client)
        .collect()
}

#[test]
fn every_proposer_takes_requests_and_the_learners_agree() {
    let cluster = cluster();
    let mut books = Books::default();
    for url in cluster.urls(Role::Proposer) {
        let mut client = Client::new(format!("to {url}"), vec![url]);
        write_some(&mut client, &mut books, 3);
    }
    assert_sound(&cluster, &mut books);
    assert!(books.audit.chosen.len() >= 15);
}

#[test]
fn a_killed_leader_loses_nothing_and_another_one_goes_on() {
    let mut cluster = cluster();
    let mut books = Books::default();
    let mut client = client(&cluster, "alice");
    write_some(&mut client, &mut books, 20);
    let leader = cluster.wait_for_leader();
    cluster.kill(&[leader]);
    write_some(&mut client, &mut books, 20);
    assert_ne!(cluster.wait_for_leader(), leader);
    cluster.restart(&[leader]);
    cluster.wait_until_ready();
    assert_sound(&cluster, &mut books);
}

#[test]
fn a_minority_of_acceptors_may_die() {
    let mut cluster = cluster();
    let mut books = Books::default();
    let mut client = client(&cluster, "alice");
    write_some(&mut client, &mut books, 10);
    let two = [(Role::Acceptor, 1), (Role::Acceptor, 4)];
    cluster.kill(&two);
    write_some(&mut client, &mut books, 10);
    cluster.restart(&two);
    // With two others gone, those two are needed for a quorum.
    cluster.wait_until_ready();
    cluster.kill(&[(Role::Acceptor, 2), (Role::Acceptor, 3)]);
    write_some(&mut client, &mut books, 10);
    cluster.restart(&[(Role::Acceptor, 2), (Role::Acceptor, 3)]);
    cluster.wait_until_ready();
    assert_sound(&cluster, &mut books);
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_and_with_one_everything_goes_on() {
    let mut cluster = cluster();
    let mut books = Books::default();
    let mut client = client(&cluster, "alice");
    write_some(&mut client, &mut books, 3);
    let three = [
        (Role::Acceptor, 1),
        (Role::Acceptor, 2),
        (Role::Acceptor, 3),
    ];
    cluster.kill(&three);
    let proposal = Proposal {
        operation: "WRITE",
        resource: "stuck",
        data: json!(1),
        if_version: None,
    };
    let outcome = client.propose(&proposal, Duration::from_secs(2));
    assert!(!matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    cluster.restart(&three);
    write_some(&mut client, &mut books, 3);
    cluster.wait_until_ready();
    assert_sound(&cluster, &mut books);
}

#[test]
fn everything_killed_at_once_comes_back_with_everything_acknowledged() {
    let mut cluster = cluster();
    let mut books = Books::default();
    let mut client = client(&cluster, "alice");
    write_some(&mut client, &mut books, 50);
    let all = cluster.names();
    cluster.kill(&all);
    cluster.restart(&all);
    cluster.wait_until_ready();
    write_some(&mut client, &mut books, 5);
    assert_sound(&cluster, &mut books);
    assert_eq!(committed(&books.audit, "alice").len(), 55);
}

#[test]
fn learners_that_were_both_away_catch_up_from_the_acceptors() {
    let mut cluster = cluster();
    let mut books = Books::default();
    let mut writer = client(&cluster, "alice");
    write_some(&mut writer, &mut books, 10);
    let learners = cluster.of_role(Role::Learner);
    cluster.kill(&learners);
    // Chosen without a learner: taken on without waiting for the outcome.
    let agent = http::agent(Duration::from_secs(5));
    for i in 0..200 {
        let body = json!({"clientId": "bob", "timestamp": i, "operation": "WRITE",
            "resource": "b", "data": i});
        let url = format!("{}/propose", cluster.urls(Role::Proposer)[0]);
        let answer = http::post(&agent, &url, body.to_string().into_bytes()).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    cluster.restart(&learners);
    cluster.wait_until_ready();
    write_some(&mut writer, &mut books, 1);
    assert_sound(&cluster, &mut books);
    assert_eq!(committed(&books.audit, "bob").len(), 200);
}

#[test]
fn a_leader_that_is_asked_to_end_hands_over_and_no_request_fails() {
    let mut cluster = cluster();
    let leader = cluster.wait_for_leader();
    let others: Vec<String> = cluster
        .of_role(Role::Proposer)
        .into_iter()
        .filter(|name| *name != leader)
        .map(|name| cluster.node(name).url())
        .collect();
    let stop = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|i| {
                let (stop, others) = (&stop, others.clone());
                scope.spawn(move || {
                    let mut client = Client::new(format!("writer-{i}"), others);
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        client.write("counter", json!(n));
                    }
                    client.answers
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        cluster.node(leader).signal(Signal::TERM);
        let status = cluster.node_mut(leader).wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "a clean end within 5 seconds");
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let answers = writers.into_iter().map(|writer| writer.join().unwrap());
        answers.collect::<Vec<_>>()
    });
    for answers in answers {
        assert!(answers[&200] > 0);
        assert_eq!(answers.len(), 1, "nothing but 200s: {answers:?}");
    }
    assert_ne!(cluster.wait_for_leader(), leader);
}

#[test]
fn a_request_sent_again_after_a_leader_change_has_one_effect() {
    let mut cluster = cluster();
    let agent = http::agent(Duration::from_secs(10));
    let body = json!({"clientId": "carol", "timestamp": 1, "requestId": "once",
        "operation": "WRITE", "resource": "r", "data": 1})
    .to_string();
    let leader = cluster.wait_for_leader();
    let other = cluster
        .of_role(Role::Proposer)
        .into_iter()
        .find(|name| *name != leader);
    let url = format!("{}/propose?wait=true", cluster.node(other.unwrap()).url());
    let first = http::post(&agent, &url, body.clone().into_bytes()).unwrap();
    cluster.kill(&[leader]);
    let again = cluster.wait_for("an answer", Duration::from_secs(20), || {
        let answer = http::post(&agent, &url, body.clone().into_bytes()).ok()?;
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(first.json(), again.json());
    assert_eq!(first.json()["version"], 1);
    let other_body = body.replace("\"data\":1", "\"data\":2");
    let reused = http::post(&agent, &url, other_body.into_bytes()).unwrap();
    assert_eq!(reused.status, 409, "{}", reused.text());
}

#[test]
fn a_store_follows_the_learners_and_serves_reads() {
    let mut cluster = Cluster::start(1, 1, 2);
    let mut books = Books::default();
    let mut client = client(&cluster, "alice");
    write_some(&mut client, &mut books, 20);
    let store = cluster.add_store();
    let ready = || cluster.node(store).is_ready().then_some(());
    cluster.wait_for("the store is level", Duration::from_secs(20), ready);
    write_some(&mut client, &mut books, 1);
    let url = format!("{}/resource/alice-19", cluster.node(store).url());
    let agent = http::agent(Duration::from_secs(10));
    let request = ::http::Request::get(url).body(Vec::new()).unwrap();
    let answer = http::send(&agent, request).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"], 19);
}

#[test]
fn a_bad_environment_is_refused_with_every_bad_variable_named() {
    let mut command = Command::new(binary::path());
    let output = command
        .env_clear()
        .envs([("NODE_ID", "0"), ("ACCEPTORS", "x")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(r#"NODE_ID="0" is invalid"#), "{said}");
    assert!(said.contains(r#"ACCEPTORS="x" is invalid"#), "{said}");
}

#[test]
fn two_processes_never_share_a_folder() {
    let cluster = Cluster::start(1, 1, 1);
    let config = &cluster.node((Role::Acceptor, 1)).config;
    let mut env = config.to_env();
    env.retain(|(name, _)| *name != "PORT");
    let mut command = Command::new(binary::path());
    let output = command.env_clear().envs(env).env("PORT", "1").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_operators_check_writes_and_reads_and_says_what_is_wrong() {
    let cluster = Cluster::start(1, 1, 1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let check = |proposers: &str, readers: &str, timeout_s| {
        let options = operator::config::Check {
            proposers: proposers.to_owned(),
            readers: readers.to_owned(),
            timeout_s,
        };
        let done = runtime.block_on(operator::check::check(&options));
        done.map_err(|error| error.to_string())
    };
    let (proposers, readers) = (cluster.urls(Role::Proposer), cluster.urls(Role::Learner));
    let done = check(&proposers[0], &readers[0], 60).expect("it comes up in time");
    assert!(done.starts_with("wrote instance "), "{done}");
    // A learner takes no proposals.
    let problem = check(&readers[0], &readers[0], 0).expect_err("nothing is written");
    assert!(problem.contains("/propose?wait=true: 404"), "{problem}");
}
