//! What became of clients' requests reaches them, whatever its size and whatever restarts meanwhile:
//! READs of large values in numbers, all learners away with much open, logs with large records. No
//! node needs more memory for it than it has under the operator's default limit.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use serde_json::{Value as Json, json};
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// What any node may ever need here, MiB. The operator's default limit is 512.
const MOST_MEMORY: u64 = 400;

fn text(length: usize) -> Json {
    Json::from("x".repeat(length))
}

fn request(name: &str, operation: &str, resource: &str) -> Json {
    json!({
        "clientId": "outcomes", "requestId": name, "timestamp": 1, "operation": operation,
        "resource": resource,
    })
}

fn write(name: &str, resource: &str, data: &Json) -> Json {
    let mut request = request(name, "WRITE", resource);
    request["data"] = data.clone();
    request
}

fn post(url: &str, path: &str, body: &Json) -> (u16, Json) {
    let agent = http::agent(Duration::from_secs(70));
    let url = format!("{url}{path}");
    let answer = http::post(&agent, &url, body.to_string().into_bytes()).unwrap();
    (answer.status, answer.json())
}

/// Sends requests at once, each by itself, and returns the answers by their names.
fn at_once(url: &str, within: Duration, requests: &[Json]) -> BTreeMap<String, (u16, Json)> {
    let path = format!("/propose?wait=true&timeoutMs={}", within.as_millis());
    thread::scope(|scope| {
        let send = |request: &Json| {
            let (path, request) = (path.clone(), request.clone());
            let name = request["requestId"].as_str().unwrap().to_owned();
            (name, scope.spawn(move || post(url, &path, &request)))
        };
        let sent: Vec<_> = requests.iter().map(send).collect();
        let answers = sent
            .into_iter()
            .map(|(name, answer)| (name, answer.join().unwrap()));
        answers.collect()
    })
}

/// The most memory that each node ever had, MiB.
fn most_memory(cluster: &Cluster) -> BTreeMap<Name, u64> {
    let most = |name: Name| {
        let status = format!("/proc/{}/status", cluster.node(name).pid().as_raw_nonzero());
        let status = fs::read_to_string(status).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        (name, kib >> 10)
    };
    cluster.names().into_iter().map(most).collect()
}

fn assert_little_memory(cluster: &Cluster) {
    let most = most_memory(cluster);
    assert!(most.values().all(|mib| *mib < MOST_MEMORY), "{most:?}");
}

fn applied(cluster: &Cluster) -> u64 {
    let applied = cluster
        .node((Role::Learner, 1))
        .number("applied_instance_id");
    applied.unwrap()
}

fn follower(cluster: &Cluster) -> String {
    let leader = cluster.wait_for_leader();
    let mut proposers = cluster.of_role(Role::Proposer).into_iter();
    let follower = proposers.find(|name| *name != leader).unwrap();
    cluster.node(follower).url()
}

#[test]
fn large_reads_at_once_are_all_answered_and_hold_up_no_write() {
    let cluster = Cluster::start(3, 3, 2);
    let data = text(900_000);
    let mut client = Client::new("writer", cluster.urls(Role::Proposer));
    client.write("large", data.clone());
    let leader = cluster.node(cluster.wait_for_leader()).url();
    for (round, url) in [leader, follower(&cluster)].into_iter().enumerate() {
        let read = |i| request(&format!("{round}-{i}"), "READ", "large");
        let reads: Vec<Json> = (0..40).map(read).collect();
        thread::scope(|scope| {
            let reading = scope.spawn(|| at_once(&url, PATIENCE, &reads));
            let mut slowest = Duration::ZERO;
            while !reading.is_finished() {
                let started = Instant::now();
                client.write("small", json!(1));
                slowest = slowest.max(started.elapsed());
            }
            for (name, (status, answer)) in reading.join().unwrap() {
                assert_eq!(status, 200, "{name}");
                assert_eq!(answer["data"], data, "{name}");
            }
            assert!(slowest < Duration::from_secs(5), "a write took {slowest:?}");
        });
    }
    assert_little_memory(&cluster);
}

#[test]
fn reads_through_a_follower_have_one_place_in_the_log_each() {
    let cluster = Cluster::start(3, 3, 2);
    let mut client = Client::new("writer", cluster.urls(Role::Proposer));
    client.write("large", text(300_000));
    cluster.wait_until_learners_agree(1);
    let before = applied(&cluster);
    let reads: Vec<Json> = (0..60)
        .map(|i| request(&format!("read-{i}"), "READ", "large"))
        .collect();
    let url = follower(&cluster);
    let single = at_once(&url, PATIENCE, &reads);
    assert!(single.values().all(|(status, _)| *status == 200));
    let batch: Vec<Json> = (60..110)
        .map(|i| request(&format!("read-{i}"), "READ", "large"))
        .collect();
    let batch = json!(batch);
    let (status, answers) = post(&url, "/propose/batch?wait=true&timeoutMs=30000", &batch);
    assert_eq!(status, 200);
    let answers = answers.as_array().unwrap();
    assert!(answers.iter().all(|answer| answer["status"] == "COMMITTED"));
    assert_eq!(applied(&cluster) - before, 60 + 50);
    assert_little_memory(&cluster);
}

#[test]
fn a_batch_of_reads_that_found_too_much_is_answered_one_by_one() {
    let cluster = Cluster::start(3, 3, 2);
    let data = text(700_000);
    let mut client = Client::new("writer", cluster.urls(Role::Proposer));
    client.write("large", data.clone());
    client.write("small", json!(7));
    let leader = cluster.node(cluster.wait_for_leader()).url();
    for (round, url) in [leader, follower(&cluster)].into_iter().enumerate() {
        let read = |i| match i % 100 {
            99 => request(&format!("{round}-{i}"), "READ", "small"),
            _ => request(&format!("{round}-{i}"), "READ", "large"),
        };
        let batch: Vec<Json> = (0..1000).map(read).collect();
        let path = "/propose/batch?wait=true&timeoutMs=30000";
        let (status, answers) = post(&url, path, &json!(batch));
        assert_eq!(status, 200);
        let mut found = 0;
        for (i, answer) in answers.as_array().unwrap().iter().enumerate() {
            match answer["status"].as_str().unwrap() {
                "COMMITTED" if i % 100 == 99 => assert_eq!(answer["data"], 7),
                "COMMITTED" => {
                    assert_eq!(answer["data"], data);
                    found += 1;
                }
                "NOT_READ" => {
                    let detail = answer["detail"].as_str().unwrap();
                    assert!(detail.contains("GET /resource/"), "{detail}");
                }
                other => panic!("{i}: {other}"),
            }
        }
        assert!((10..100).contains(&found), "{found} were read");
    }
    // The memory is free again: the next one is answered in full.
    let reads: Vec<Json> = (0..10)
        .map(|i| request(&format!("again-{i}"), "READ", "large"))
        .collect();
    let url = cluster.node(cluster.wait_for_leader()).url();
    let (_, answers) = post(&url, "/propose/batch?wait=true", &json!(reads));
    let answers = answers.as_array().unwrap();
    assert!(answers.iter().all(|answer| answer["status"] == "COMMITTED"));
    assert_little_memory(&cluster);
}

#[test]
fn learners_that_start_with_thousands_of_large_reads_before_them_need_little_memory() {
    let mut cluster = Cluster::start(1, 3, 2);
    let mut client = Client::new("writer", cluster.urls(Role::Proposer));
    // Each READ finds another one.
    for i in 0..8 {
        client.write(&format!("large-{i}"), text(1_000_000));
    }
    let learners = cluster.of_role(Role::Learner);
    cluster.kill(&learners);
    let url = cluster.node(cluster.wait_for_leader()).url();
    for batch in 0..4 {
        let read = |i| request(&format!("{batch}-{i}"), "READ", &format!("large-{}", i % 8));
        let batch: Vec<Json> = (0..1000).map(read).collect();
        assert_eq!(post(&url, "/propose/batch", &json!(batch)).0, 202);
    }
    for _ in 0..2 {
        cluster.restart(&learners);
        cluster.wait_until_ready();
        client.write("small", json!(1));
        assert_little_memory(&cluster);
        cluster.kill(&learners);
    }
    cluster.restart(&learners);
    cluster.wait_until_learners_agree(4_000);
}

#[test]
fn all_learners_away_with_much_open_and_everybody_hears_what_became_of_his_request() {
    let mut cluster = Cluster::start(3, 3, 2);
    let learners = cluster.of_role(Role::Learner);
    let mut client = Client::new("writer", cluster.urls(Role::Proposer));
    client.write("kept", json!("kept"));
    client.write("removed", json!(1));
    let url = cluster.node(cluster.wait_for_leader()).url();
    let once = write("once", "once", &json!(1));
    assert_eq!(post(&url, "/propose?wait=true", &once).0, 200);
    cluster.kill(&learners);
    let large = text(800_000);
    let mut requests: Vec<Json> = (0..6)
        .map(|i| write(&format!("before-{i}"), &format!("large-{i}"), &large))
        .collect();
    let cas = |name: &str, version: u64| {
        let mut request = write(name, "kept", &json!(2));
        request["ifVersion"] = version.into();
        request
    };
    requests.extend([
        request("read", "READ", "kept"),
        request("read-nothing", "READ", "nothing"),
        request("delete", "DELETE", "removed"),
        cas("cas-fails", 7),
        write("retry", "once", &json!(1)),
        write("once", "once", &json!(2)),
        write("plain", "plain", &json!(1)),
    ]);
    // The first outcome again.
    let retry = requests.len() - 3;
    requests[retry]["requestId"] = "once".into();
    requests[retry]["clientId"] = "outcomes".into();
    requests.extend((0..12).map(|i| write(&format!("after-{i}"), &format!("more-{i}"), &large)));
    let started = Instant::now();
    let answers = thread::scope(|scope| {
        // In this order, so that most of what is open comes after the small ones.
        let mut sent = Vec::new();
        for request in &requests {
            let url = url.clone();
            let path = "/propose?wait=true&timeoutMs=60000";
            sent.push(scope.spawn(move || post(&url, path, request)));
            thread::sleep(Duration::from_millis(20));
        }
        cluster.restart(&learners);
        sent.into_iter()
            .map(|sent| sent.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(
        started.elapsed() < Duration::from_secs(25),
        "{:?}",
        started.elapsed()
    );
    for (request, (status, answer)) in requests.iter().zip(&answers) {
        let name = request["requestId"].as_str().unwrap();
        let expected = match (name, request["data"].as_u64()) {
            ("cas-fails", _) => json!([200, "NOT_COMMITTED", 1]),
            ("once", Some(2)) => json!([409, null, null]),
            ("read-nothing", _) => json!([200, "COMMITTED", 0]),
            ("delete", _) => json!([200, "COMMITTED", 2]),
            _ => json!([200, "COMMITTED", 1]),
        };
        let told = json!([status, answer["status"], answer["version"]]);
        // Of a READ of nothing that memory does not reach it may say to read again.
        let again = name == "read-nothing" && *status == 503;
        let told = if *status == 409 {
            json!([409, null, null])
        } else {
            told
        };
        assert!(again || told == expected, "{name}: {status} {answer}");
        if name == "read" {
            assert_eq!(answer["data"], "kept");
        }
    }
    cluster.wait_until_ready();
    assert_little_memory(&cluster);
}

/// A leader asks learners again for outcomes that were lost, with the values as it proposed them. Each
/// write here is the first in a second, so that all have a stamp.
#[test]
fn writes_with_a_stamp_get_their_outcomes_from_learners_that_were_away() {
    let mut cluster = Cluster::start(3, 3, 2);
    let learners = cluster.of_role(Role::Learner);
    let leader = cluster.node(cluster.wait_for_leader()).url();
    for round in 0..3 {
        thread::sleep(Duration::from_millis(1100));
        cluster.kill(&learners);
        let open = write(&format!("open-{round}"), "key", &json!(round));
        let (leader, cluster) = (&leader, &mut cluster);
        thread::scope(|scope| {
            let path = "/propose?wait=true&timeoutMs=25000";
            let waiting = scope.spawn(move || post(leader, path, &open));
            thread::sleep(Duration::from_millis(2500));
            cluster.restart(&learners);
            let (status, answer) = waiting.join().unwrap();
            assert_eq!(
                (status, &answer["status"]),
                (200, &json!("COMMITTED")),
                "{answer}"
            );
        });
    }
    for learner in learners {
        let output = cluster.node(learner).output();
        assert!(!output.contains("another value"), "{output}");
    }
}
