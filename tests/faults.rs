//! Real processes under load through the rarer faults: stopped leaders, failing disks, learners that
//! are all away, requests that nobody waits for. Then every log, vote and answer is compared.

use std::process::Command;
use std::thread;
use std::time::Duration;

use api::env::Role;
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::{Value as Json, json};
use testkit::cluster::client::{Client, Outcome, Proposal};
use testkit::cluster::workload::{Load, Workload, write_through_each};
use testkit::cluster::{Audit, Cluster, Name, binary, http};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shorter than a circuit breaker stays open.
const BREAKER_OPEN: Duration = Duration::from_secs(25);

const LIGHT: Load = Load {
    pause_ms: 2,
    ..Load::of_writes(8)
};

fn client(name: &str, cluster: &Cluster) -> Client {
    Client::new(name, cluster.urls(Role::Proposer))
}

fn post(url: &str, body: &Json) -> http::Answer {
    let agent = http::agent(Duration::from_secs(70));
    http::post(&agent, url, body.to_string().into_bytes()).unwrap()
}

/// Compares logs and votes, and what clients received with both.
fn compare(cluster: &Cluster, workload: Option<Workload>) -> Audit {
    let seen = workload.map(Workload::stop).unwrap_or_default();
    let last = write_through_each(cluster, "afterwards");
    cluster.wait_until_learners_agree(last);
    let mut audit = Audit::default();
    audit.look(cluster);
    for told in &seen.acknowledged {
        audit.acknowledged(&told.client, &told.request, &told.key, told.outcome);
    }
    assert_eq!(audit.violations, [""; 0]);
    assert_eq!(seen.unexpected, [""; 0]);
    assert_eq!(seen.unknown(), 0);
    let instances = audit.chosen.len() as u64;
    assert!(
        instances >= last,
        "the log has holes: {instances} of {last}"
    );
    assert_eq!(audit.lines_compared, instances, "learners' logs");
    assert_eq!(audit.votes_compared, instances, "acceptors' votes");
    audit
}

#[test]
fn a_paused_leader_keeps_no_request_for_itself() {
    let cluster = Cluster::start(5, 5, 2);
    let leader = cluster.wait_for_leader();
    cluster.node(leader).signal(Signal::STOP);
    // Followers believe in it for a while yet, and pass these on to it.
    let followers = cluster.of_role(Role::Proposer).into_iter();
    let requests: Vec<_> = followers
        .filter(|name| *name != leader)
        .flat_map(|name| (0..8).map(move |n| (name, n)))
        .map(|((role, id), n)| {
            let url = cluster.node((role, id)).url();
            let url = format!("{url}/propose?wait=true&timeoutMs=60000");
            let body = json!({
                "clientId": format!("dave-{id}"), "timestamp": n, "operation": "WRITE",
                "resource": format!("{id}/{n}"), "data": n,
            });
            thread::spawn(move || post(&url, &body))
        })
        .collect();
    cluster.wait_for(
        "all are answered although the leader is stopped",
        PATIENCE,
        || {
            requests
                .iter()
                .all(thread::JoinHandle::is_finished)
                .then_some(())
        },
    );
    for request in requests {
        let answer = request.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["version"], 1);
    }
    cluster.node(leader).signal(Signal::CONT);
    cluster.wait_until_ready();
    compare(&cluster, None);
}

#[test]
fn writes_go_on_without_a_minority_of_acceptors_and_wait_for_a_majority() {
    let mut cluster = Cluster::start(5, 5, 2);
    let workload = Workload::start(&cluster, LIGHT);
    let acceptors = cluster.of_role(Role::Acceptor);
    cluster.kill(&acceptors[..2]);
    let mut client = client("erin", &cluster);
    for i in 0..20 {
        assert_eq!(client.write("minority", json!(i)).1, i + 1);
    }
    cluster.kill(&acceptors[2..3]);
    let proposal = Proposal {
        operation: "WRITE",
        resource: "majority",
        data: json!(1),
        if_version: None,
    };
    // Long enough for the circuit breakers to open.
    let outcome = client.propose(&proposal, Duration::from_secs(4));
    assert_eq!(outcome, Outcome::Unknown);
    cluster.restart(&acceptors[..3]);
    let outcome = client.propose(&proposal, BREAKER_OPEN);
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    let last = write_through_each(&cluster, "back");
    cluster.wait_for("all acceptors vote again", PATIENCE, || {
        let voted = |name: &Name| cluster.node(*name).number("last_instance_id");
        acceptors
            .iter()
            .all(|name| voted(name) >= Some(last))
            .then_some(())
    });
    compare(&cluster, Some(workload));
}

#[test]
fn everything_killed_at_once_comes_back_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start(5, 5, 2);
    let all = cluster.names();
    for round in 0..3 {
        let workload = Workload::start(
            &cluster,
            Load {
                seed: round,
                ..LIGHT
            },
        );
        cluster.wait_for("some writes", PATIENCE, || {
            (workload.committed() > 200).then_some(())
        });
        cluster.kill(&all);
        cluster.restart(&all);
        cluster.wait_until_ready();
        let before = workload.committed();
        cluster.wait_for("fresh writes", PATIENCE, || {
            (workload.committed() > before + 50).then_some(())
        });
        compare(&cluster, Some(workload));
    }
}

#[test]
fn learners_catch_up_after_one_and_after_both_were_down() {
    let mut cluster = Cluster::start(5, 5, 2);
    let learners = cluster.of_role(Role::Learner);
    let workload = Workload::start(&cluster, LIGHT);
    for learner in &learners {
        cluster.kill(&[*learner]);
        let before = workload.committed();
        cluster.wait_for("writes continue", PATIENCE, || {
            (workload.committed() > before + 200).then_some(())
        });
        cluster.restart(&[*learner]);
        cluster.wait_until_ready();
    }
    // With both down nothing is answered, since nothing is applied; but it is chosen.
    cluster.kill(&learners);
    let before = cluster
        .node(cluster.wait_for_leader())
        .number("committed_instance_id");
    cluster.wait_for("acceptors choose without learners", PATIENCE, || {
        let now = cluster
            .node(cluster.leader()?)
            .number("committed_instance_id");
        (now > before).then_some(())
    });
    cluster.restart(&learners);
    cluster.wait_until_ready();
    let before = workload.committed();
    cluster.wait_for("fresh writes", PATIENCE, || {
        (workload.committed() > before + 50).then_some(())
    });
    compare(&cluster, Some(workload));
}

/// A batch of writes that waits for no outcome; one answer each.
fn accept(url: &str, name: &str, count: u64, data: &Json) -> Vec<Json> {
    let request = |i| {
        json!({
            "clientId": name, "requestId": format!("{name}-{i}"), "timestamp": i,
            "operation": "WRITE", "resource": name, "data": data,
        })
    };
    let answer = post(
        &format!("{url}/propose/batch"),
        &(0..count).map(request).collect(),
    );
    assert!(matches!(answer.status, 202 | 504), "{}", answer.text());
    answer.json().as_array().unwrap().clone()
}

#[test]
fn what_is_accepted_while_no_learner_runs_is_where_it_was_said_to_be() {
    let mut cluster = Cluster::start(5, 5, 2);
    let learners = cluster.of_role(Role::Learner);
    cluster.kill(&learners);
    let leader = cluster.wait_for_leader();
    let follower = cluster
        .of_role(Role::Proposer)
        .into_iter()
        .find(|name| *name != leader);
    let url = cluster.node(follower.unwrap()).url();
    let mut accepted = Vec::new();
    // More than may be open at once: the rest must not be said to be accepted.
    for batch in 0..10 {
        let name = format!("grace-{batch}");
        for (i, answer) in accept(&url, &name, 1000, &json!(batch)).iter().enumerate() {
            if answer["status"] == "accepted" {
                accepted.push((
                    answer["instanceId"].as_u64().unwrap(),
                    format!("{name}-{i}"),
                ));
            }
        }
    }
    assert!(accepted.len() >= 7000, "{}", accepted.len());
    cluster.restart(&learners);
    cluster.wait_until_ready();
    let audit = compare(&cluster, None);
    for (instance, request) in accepted {
        let line = audit.chosen.get(&instance);
        let held = line.map(|line| line.command["requestId"].clone());
        assert_eq!(held, Some(json!(request)), "instance {instance}");
    }
}

#[test]
fn a_read_that_nobody_waits_for_any_more_blocks_no_later_write() {
    let mut cluster = Cluster::start(5, 5, 2);
    let learners = cluster.of_role(Role::Learner);
    cluster.kill(&learners);
    let leader = cluster.node(cluster.wait_for_leader()).url();
    let body = json!({
        "clientId": "heidi", "timestamp": 1, "operation": "READ", "resource": "nothing",
    });
    let answer = post(&format!("{leader}/propose?wait=true&timeoutMs=200"), &body);
    assert_eq!(answer.status, 504, "{}", answer.text());
    // Far more than learners keep in memory: they forget what the read found.
    let long = json!("x".repeat(12_000));
    for batch in 0..20 {
        accept(&leader, &format!("ivan-{batch}"), 80, &long);
    }
    cluster.restart(&learners);
    cluster.wait_until_ready();
    // And more than may be open at once.
    for batch in 0..10 {
        accept(&leader, &format!("judy-{batch}"), 1000, &json!(1));
    }
    client("mallory", &cluster).write("afterwards", json!(1));
    compare(&cluster, None);
}

#[test]
fn requests_that_nobody_waits_for_any_more_take_no_memory() {
    let mut cluster = Cluster::prepare(1, 1, 1);
    let proposer = cluster.of_role(Role::Proposer)[0];
    cluster.node_mut(proposer).start();
    cluster.wait_for("it answers", PATIENCE, || cluster.node(proposer).status());
    // No acceptor, no leader: 400 MB of requests that each wait for a moment in vain.
    let data = "x".repeat(60_000);
    let url = format!(
        "{}/propose/batch?wait=true&timeoutMs=50",
        cluster.node(proposer).url()
    );
    thread::scope(|scope| {
        for thread in 0..4 {
            let (url, data) = (&url, &data);
            scope.spawn(move || {
                for i in 0..100 {
                    let request = |n| {
                        json!({
                            "clientId": format!("{thread}/{i}/{n}"), "timestamp": i,
                            "operation": "WRITE", "resource": "x", "data": data,
                        })
                    };
                    let answer = post(url, &(0..16).map(request).collect());
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    assert_eq!(answer.header("retry-after"), "1");
                }
            });
        }
    });
    let pid = cluster.node(proposer).pid().as_raw_pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 200 << 10, "{kib} KiB");
}

#[test]
fn a_leader_told_to_end_hands_over_without_a_failed_request() {
    let mut cluster = Cluster::start(5, 5, 2);
    for round in 0..3 {
        let load = Load {
            pause_ms: 0,
            seed: 100 + round,
            ..LIGHT
        };
        let workload = Workload::start(&cluster, load);
        cluster.wait_for("some writes", PATIENCE, || {
            (workload.committed() > 200).then_some(())
        });
        let leader = cluster.wait_for_leader();
        cluster.node(leader).signal(Signal::TERM);
        // The contract's own limit.
        let status = cluster.node_mut(leader).wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0));
        let next = cluster.wait_for_leader();
        assert_ne!(next, leader);
        let before = workload.committed();
        cluster.wait_for("fresh writes", PATIENCE, || {
            (workload.committed() > before + 50).then_some(())
        });
        cluster.restart(&[leader]);
        cluster.wait_until_ready();
        let seen = workload.stop();
        assert_eq!(seen.unknown(), 0);
        let statuses: Vec<u16> = seen.answers.keys().copied().collect();
        assert_eq!(statuses, [200], "{:?}", seen.answers);
    }
    compare(&cluster, None);
}

#[test]
fn other_roles_end_within_five_seconds_too() {
    let mut cluster = Cluster::start(3, 3, 2);
    let workload = Workload::start(&cluster, LIGHT);
    let learner = cluster.of_role(Role::Learner)[0];
    let url = cluster.node(learner).url();
    // A client that follows the log must not hold the learner up.
    let follower = thread::spawn(move || {
        let agent = http::agent(PATIENCE);
        let request = ::http::Request::get(format!("{url}/log")).body(Vec::new());
        http::send(&agent, request.unwrap())
    });
    for name in [learner, cluster.of_role(Role::Acceptor)[0]] {
        let before = workload.committed();
        cluster.wait_for("some writes", PATIENCE, || {
            (workload.committed() > before + 50).then_some(())
        });
        cluster.node(name).signal(Signal::TERM);
        let status = cluster.node_mut(name).wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "{name:?}");
        cluster.restart(&[name]);
        cluster.wait_until_ready();
    }
    let stream = follower.join().unwrap().unwrap();
    assert_eq!(stream.status, 200);
    assert!(stream.text().lines().count() > 0);
    compare(&cluster, Some(workload));
}

#[test]
fn a_disk_that_fails_ends_the_process_with_code_1() {
    let mut cluster = Cluster::start(3, 3, 2);
    let victims = [
        cluster.of_role(Role::Acceptor)[0],
        cluster.of_role(Role::Learner)[0],
    ];
    for victim in victims {
        cluster.kill(&[victim]);
        // With the signal ignored, a write past the limit is an error like that of a full disk.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\""])
            .arg(binary::path());
        cluster.node_mut(victim).start_as(&mut command);
        cluster.wait_until_ready();
        let limit = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        prlimit(Some(cluster.node(victim).pid()), Resource::Fsize, limit).unwrap();
        client(&format!("frank-{}", victim.0), &cluster).write("disk", json!(1));
        let status = cluster.node_mut(victim).wait(PATIENCE);
        assert_eq!(status.code(), Some(1), "{status}");
        cluster.restart(&[victim]);
        cluster.wait_until_ready();
    }
    compare(&cluster, None);
}

#[test]
fn a_folder_that_cannot_be_used_ends_with_code_1() {
    let output = Command::new(binary::path())
        .env_clear()
        .envs([
            ("NODE_ID", "1"),
            ("ROLE", "acceptor"),
            ("PORT", "9"),
            ("ACCEPTORS", "localhost:9"),
            ("DATA_DIR", "/dev/null/x"),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/dev/null/x"), "{text}");
}
