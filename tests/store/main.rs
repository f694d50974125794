//! Stores and what clients expect of reads: real processes, killed, switched on late, followed.
//! `STORE_WRITES=100000` and `STORM_KILLS=10` make the two long tests as long as promised.

mod batches;
mod streams;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use api::env::Role;
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::{Value as Json, json};
use testkit::cluster::client::{Client, Outcome, Proposal};
use testkit::cluster::{Cluster, LEVEL_WITHIN, Name, binary, http};
use testkit::sim::Rng;

use batches::write_batches;
use streams::{Events, Lines};

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn client(cluster: &Cluster, id: &str) -> Client {
    Client::new(id, cluster.urls(Role::Proposer))
}

/// The answer to a read; asked again while no leader confirms it, as clients should.
fn get(cluster: &Cluster, name: Name, path: &str) -> http::Answer {
    let url = format!("{}{path}", cluster.node(name).url());
    let agent = http::agent(Duration::from_secs(20));
    cluster.wait_for("a read is answered", LEVEL_WITHIN, || {
        let request = ::http::Request::get(&url).body(Vec::new()).unwrap();
        let answer = http::send(&agent, request).unwrap();
        (answer.status != 503).then_some(answer)
    })
}

/// Waits until all learners and stores have applied the same, and compares what they hold.
fn assert_equal(cluster: &Cluster) -> Vec<Json> {
    cluster.everything_everywhere().unwrap()
}

#[test]
fn a_store_killed_again_and_again_during_many_writes_equals_the_learners() {
    let writes = from_env("STORE_WRITES", 12_000);
    let mut cluster = Cluster::start(3, 3, 2);
    let (store, other) = (cluster.add_store(), cluster.add_store());
    cluster.wait_until_ready();
    write_batches(&cluster, "before", 1_000, 200, 256);
    // Killed while it applies, at a different point each time.
    for round in 0..5 {
        let name = format!("round-{round}");
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_batches(&cluster, &name, writes / 10, 2_000, 256));
            thread::sleep(Duration::from_millis(20 + 30 * round));
            cluster.node(store).signal(Signal::KILL);
            writer.join().unwrap();
        });
        cluster.node_mut(store).wait(LEVEL_WITHIN);
        cluster.restart(&[store]);
    }
    // Away for half of all writes.
    cluster.kill(&[store]);
    write_batches(&cluster, "away", writes / 2, 2_000, 256);
    cluster.restart(&[store]);
    let resources = assert_equal(&cluster);
    assert_eq!(resources.len(), 2_000);
    let written: u64 = resources
        .iter()
        .map(|r| r["version"].as_u64().unwrap())
        .sum();
    assert_eq!(written, 1_000 + writes, "each write took effect once");
    assert!(cluster.node_mut(other).is_running());
}

#[test]
fn stores_switched_on_late_get_everything_from_a_snapshot_and_the_log_that_is_left() {
    let mut cluster = Cluster::start(3, 3, 2);
    // Enough for two snapshots, behind which the log is trimmed.
    let learner = (Role::Learner, 1);
    let mut round = 0;
    cluster.wait_for("the log is trimmed", Duration::from_secs(120), || {
        round += 1;
        write_batches(&cluster, &format!("fill-{round}"), 4_000, 500, 2_000);
        let answer = get(&cluster, learner, "/log?from=1&follow=false");
        (answer.status == 410).then_some(())
    });
    for path in ["/log?from=1", "/watch?from=1", "/instance/1"] {
        let answer = get(&cluster, learner, path);
        assert_eq!(answer.status, 410, "{path}: {}", answer.text());
        let floor = answer.json()["floor"].as_u64().unwrap();
        let from_floor = format!("/log?from={floor}&follow=false");
        assert_eq!(get(&cluster, learner, &from_floor).status, 200);
        let below = format!("/log?from={}&follow=false", floor - 1);
        assert_eq!(get(&cluster, learner, &below).status, 410);
    }
    let stores = [cluster.add_store(), cluster.add_store()];
    cluster.wait_until_ready();
    for store in stores {
        let output = cluster.node(store).output();
        assert!(output.contains("snapshot installed"), "{output}");
    }
    write_batches(&cluster, "after", 1_000, 700, 100);
    assert_eq!(assert_equal(&cluster).len(), 700);
    // What was installed and followed is there after a restart, without a learner.
    let learners = cluster.of_role(Role::Learner);
    let before = cluster.everything(stores[0]);
    cluster.kill(&learners);
    cluster.kill(&stores[..1]);
    cluster.restart(&stores[..1]);
    cluster.wait_for("the store answers", LEVEL_WITHIN, || {
        cluster.node(stores[0]).status()
    });
    assert!(cluster.everything(stores[0]) == before);
}

#[test]
fn reads_at_stores_and_learners_see_every_write_acknowledged_before() {
    let mut cluster = Cluster::start(3, 3, 2);
    let stores = [cluster.add_store(), cluster.add_store()];
    cluster.wait_until_ready();
    let mut client = client(&cluster, "alice");
    let readers = stores.into_iter().chain(cluster.of_role(Role::Learner));
    let readers: Vec<Name> = readers.collect();
    for i in 0..60 {
        let (instance, version) = client.write("a/counter", json!(i));
        let reader = readers[i % readers.len()];
        let answer = get(&cluster, reader, "/resource/a/counter");
        let expected = json!({"resource": "a/counter", "data": i, "version": version,
            "instanceId": instance, "clientId": "alice", "timestamp": answer.json()["timestamp"]});
        assert_eq!(answer.json(), expected, "{reader:?}");
        assert_eq!(answer.header("etag"), format!("\"{version}\""));
        let page = get(&cluster, reader, "/resources?prefix=a/").json();
        assert_eq!(page["resources"], json!([expected]));
        assert!(page["instanceId"].as_u64().unwrap() >= instance);
    }
    let delete = Proposal {
        operation: "DELETE",
        resource: "a/counter",
        data: Json::Null,
        if_version: Some(60),
    };
    let outcome = client.propose(&delete, LEVEL_WITHIN);
    assert!(matches!(outcome, Outcome::Committed { version: 61, .. }));
    for reader in readers {
        assert_eq!(get(&cluster, reader, "/resource/a/counter").status, 404);
        let page = get(&cluster, reader, "/resources?prefix=a/").json();
        assert_eq!(page["resources"], json!([]));
    }
}

#[test]
fn pages_are_in_order_of_names_and_bad_parameters_are_named() {
    let mut cluster = Cluster::start(1, 1, 2);
    let store = cluster.add_store();
    cluster.wait_until_ready();
    let mut client = client(&cluster, "alice");
    let names = ["a", "b/1", "b/10", "b/2", "b/3", "c", "ü"];
    for name in names {
        client.write(name, json!({"large": "x".repeat(1_000)}));
    }
    for reader in [store, (Role::Learner, 1)] {
        let page = |path: &str| {
            let page = get(&cluster, reader, path).json();
            let names = page["resources"].as_array().unwrap().iter();
            let names: Vec<String> = names
                .map(|r| r["resource"].as_str().unwrap().to_owned())
                .collect();
            (names, page["next"].as_str().map(str::to_owned))
        };
        let (all, next) = page("/resources");
        assert_eq!((all, next), (names.map(str::to_owned).into(), None));
        let (two, next) = page("/resources?prefix=b/&limit=2");
        assert_eq!(two, ["b/1", "b/10"]);
        assert_eq!(next.as_deref(), Some("b/10"));
        let (rest, next) = page("/resources?prefix=b/&limit=2&after=b/10");
        assert_eq!((rest, next), (vec!["b/2".into(), "b/3".into()], None));
        let bad = [
            ("limit", "limit=0".to_owned()),
            ("limit", "limit=1001".to_owned()),
            ("limit", "limit=x".to_owned()),
            ("consistency", "consistency=no".to_owned()),
            ("prefix", format!("prefix={}", "x".repeat(1025))),
            ("after", format!("after={}", "x".repeat(1025))),
        ];
        for (field, query) in bad {
            let answer = get(&cluster, reader, &format!("/resources?{query}"));
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert_eq!(answer.status, 400, "{detail}");
            assert!(detail.contains(field), "{query}: {detail}");
        }
    }
}

#[test]
fn learners_show_how_far_behind_a_store_is() {
    let mut cluster = Cluster::start(1, 1, 2);
    let store = cluster.add_store();
    let address = cluster.node(store).url().replace("http://", "");
    let learner = (Role::Learner, 1);
    cluster.kill(&[learner]);
    let config = &mut cluster.node_mut(learner).config;
    config.use_cluster_store = true;
    config.stores = vec![address];
    cluster.restart(&[learner]);
    cluster.wait_until_ready();
    let mut client = client(&cluster, "alice");
    client.write("r", json!(1));
    let stores = || cluster.node(learner).status()?.get("stores").cloned();
    cluster.wait_for("the store is level and seen", LEVEL_WITHIN, || {
        (stores()?[0]["lag"] == 0 && stores()?[0]["applied_instance_id"] == 1).then_some(())
    });
    cluster.node(store).signal(Signal::KILL);
    for i in 0..10 {
        client.write("r", json!(i));
    }
    cluster.wait_for("the store is missed", LEVEL_WITHIN, || {
        let expected = json!([
            {"node_id": 1, "applied_instance_id": 1, "lag": 10, "reachable": false}
        ]);
        (stores()? == expected).then_some(())
    });
    let is_lag = |line: &&str| {
        line.starts_with("paxos_store_lag_instances{") && line.contains("store=\"1\"")
    };
    cluster.wait_for("the metrics show it", LEVEL_WITHIN, || {
        let metrics = get(&cluster, learner, "/metrics").text();
        let lag = metrics.lines().find(is_lag)?;
        lag.ends_with(" 10").then_some(())
    });
}

#[test]
fn a_damaged_store_ends_with_an_error_and_starts_anew_once_it_is_moved_away() {
    let mut cluster = Cluster::start(1, 1, 2);
    let store = cluster.add_store();
    cluster.wait_until_ready();
    write_batches(&cluster, "all", 1_000, 100, 256);
    assert_equal(&cluster);
    cluster.kill(&[store]);
    let folder = cluster.node(store).config.data_dir.join("store");
    let file = folder.join("store.redb");
    let good = fs::read(&file).unwrap();
    for bytes in [Vec::new(), vec![7; good.len()], good[..5_000].to_vec()] {
        fs::write(&file, bytes).unwrap();
        cluster.restart(&[store]);
        let status = cluster.node_mut(store).wait(LEVEL_WITHIN);
        assert_eq!(status.code(), Some(1), "{}", cluster.node(store).tail());
        assert!(cluster.node(store).tail().contains("store.redb"));
    }
    fs::remove_file(&file).unwrap();
    cluster.restart(&[store]);
    assert_eq!(assert_equal(&cluster).len(), 100);
}

#[test]
fn a_store_whose_disk_fails_ends_at_once_and_lacks_nothing_afterwards() {
    let mut cluster = Cluster::start(1, 1, 2);
    let store = cluster.add_store();
    cluster.wait_until_ready();
    cluster.kill(&[store]);
    // With the signal ignored, a write past the limit is an error like that of a full disk.
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\""])
        .arg(binary::path());
    cluster.node_mut(store).start_as(&mut command);
    cluster.wait_until_ready();
    let limit = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    prlimit(Some(cluster.node(store).pid()), Resource::Fsize, limit).unwrap();
    client(&cluster, "alice").write("r", json!(1));
    let status = cluster.node_mut(store).wait(LEVEL_WITHIN);
    assert_eq!(status.code(), Some(1), "{status}");
    cluster.restart(&[store]);
    assert_eq!(assert_equal(&cluster).len(), 1);
}

#[test]
fn a_storm_of_duplicates_over_leader_kills_has_each_effect_once() {
    let kills = from_env("STORM_KILLS", 3);
    let mut cluster = Cluster::start(5, 5, 2);
    cluster.add_store();
    cluster.wait_until_ready();
    let urls = cluster.urls(Role::Proposer);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for sender in 0..4 {
            let (stop, sent, urls) = (&stop, &sent, &urls);
            scope.spawn(move || {
                let mut rng = Rng::new(sender);
                let agent = http::agent(Duration::from_secs(7));
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let body = json!({"clientId": format!("storm-{sender}"), "timestamp": n,
                        "requestId": format!("{n}"), "operation": "WRITE",
                        "resource": format!("storm/{sender}/{}", n / 2), "data": n})
                    .to_string();
                    // Whatever comes back: each is sent 5 times.
                    thread::scope(|scope| {
                        for _ in 0..5 {
                            let url = &urls[rng.below(urls.len() as u64) as usize];
                            let wait = rng.chance(500);
                            let url = format!("{url}/propose?wait={wait}");
                            let (agent, body) = (&agent, body.clone().into_bytes());
                            scope.spawn(move || drop(http::post(agent, &url, body)));
                        }
                    });
                    // And then until its outcome is known.
                    let mut tries = urls.iter().cycle();
                    while !tries.next().is_some_and(|url| {
                        let url = format!("{url}/propose?wait=true");
                        let answer = http::post(&agent, &url, body.clone().into_bytes());
                        answer.is_ok_and(|answer| answer.status == 200)
                    }) {
                        thread::sleep(Duration::from_millis(10));
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..kills {
            let leader = cluster.wait_for_leader();
            cluster.kill(&[leader]);
            let target = sent.load(Ordering::Relaxed) + 12;
            cluster.wait_for("the storm continues", LEVEL_WITHIN, || {
                (sent.load(Ordering::Relaxed) >= target).then_some(())
            });
            cluster.restart(&[leader]);
            cluster.wait_until_ready();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let sent = sent.into_inner();
    assert!(sent >= kills * 12);
    let resources = assert_equal(&cluster);
    let effects = |r: &Json| r["version"].as_u64().unwrap();
    assert_eq!(resources.iter().map(effects).sum::<u64>(), sent);
    let log = get(&cluster, (Role::Learner, 1), "/log?follow=false").text();
    let mut committed: BTreeMap<String, u64> = BTreeMap::new();
    let mut duplicates = 0;
    for line in log.lines() {
        let line: Json = serde_json::from_str(line).unwrap();
        match line["status"].as_str().unwrap() {
            "COMMITTED" => {
                let request = format!("{}/{}", line["clientId"], line["requestId"]);
                *committed.entry(request).or_default() += 1;
            }
            "DUPLICATE" => duplicates += 1,
            other => assert_eq!(other, "NOOP"),
        }
    }
    assert_eq!(committed.len() as u64, sent);
    assert!(committed.values().all(|count| *count == 1), "{committed:?}");
    assert!(duplicates > 0, "the storm reached the log");
}

/// A lock is a resource: taken by a write on the version at which it was free. The version of that
/// write is the fencing token: a later holder has a higher one.
fn take_lock(cluster: &Cluster, client: &mut Client, seen: Option<u64>) -> Option<u64> {
    let answer = get(cluster, (Role::Store, 1), "/resource/lock");
    let lock = (answer.status == 200).then(|| answer.json());
    let version = lock
        .as_ref()
        .map_or(0, |lock| lock["version"].as_u64().unwrap());
    let is_free = lock.is_none_or(|lock| lock["data"] == Json::Null);
    // A holder that has not renewed since is taken for dead.
    if !is_free && seen != Some(version) {
        return None;
    }
    hold(client, json!(client.id), version)
}

/// Takes, renews or (with `null`) releases the lock; the new token, if it still had that version.
fn hold(client: &mut Client, holder: Json, version: u64) -> Option<u64> {
    let proposal = Proposal {
        operation: "WRITE",
        resource: "lock",
        data: holder,
        if_version: Some(version),
    };
    match client.propose(&proposal, LEVEL_WITHIN) {
        Outcome::Committed { version, .. } => Some(version),
        Outcome::NotCommitted { .. } => None,
        Outcome::Unknown => panic!("{:?}", client.unexpected),
    }
}

#[test]
fn if_version_alone_makes_a_lock_with_fencing_tokens() {
    let mut cluster = Cluster::start(3, 3, 2);
    cluster.add_store();
    cluster.wait_until_ready();
    let (inside, last_token) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for id in 0..4 {
            let (cluster, inside, last_token) = (&cluster, &inside, &last_token);
            scope.spawn(move || {
                let mut client = client(cluster, &format!("worker-{id}"));
                for _ in 0..8 {
                    let token = loop {
                        if let Some(token) = take_lock(cluster, &mut client, None) {
                            break token;
                        }
                        thread::sleep(Duration::from_millis(2));
                    };
                    assert!(!inside.swap(true, Ordering::SeqCst), "two hold the lock");
                    let before = last_token.swap(token, Ordering::SeqCst);
                    assert!(before < token, "tokens grow: {before} {token}");
                    inside.store(false, Ordering::SeqCst);
                    assert!(hold(&mut client, Json::Null, token).is_some());
                }
            });
        }
    });
    // Each of the 32 turns is one write to take the lock and one to give it back.
    let lock = get(&cluster, (Role::Store, 1), "/resource/lock").json();
    assert_eq!((&lock["version"], &lock["data"]), (&json!(64), &Json::Null));
}

#[test]
fn if_version_alone_elects_a_leader_and_a_late_one_finds_out() {
    let mut cluster = Cluster::start(3, 3, 2);
    cluster.add_store();
    cluster.wait_until_ready();
    let (mut old, mut new) = (client(&cluster, "old"), client(&cluster, "new"));
    let token = take_lock(&cluster, &mut old, None).unwrap();
    let renewed = hold(&mut old, json!("old"), token).unwrap();
    assert_eq!(take_lock(&cluster, &mut new, None), None, "it leads");
    assert_eq!(
        take_lock(&cluster, &mut new, Some(token)),
        None,
        "it renewed"
    );
    // It does not renew any more: a client that saw the same version for long enough takes over.
    let taken = take_lock(&cluster, &mut new, Some(renewed)).unwrap();
    assert!(taken > renewed);
    assert_eq!(
        hold(&mut old, json!("old"), renewed),
        None,
        "it leads no more"
    );
    let lock = get(&cluster, (Role::Store, 1), "/resource/lock").json();
    assert_eq!(
        (&lock["data"], &lock["version"]),
        (&json!("new"), &json!(taken))
    );
}

#[test]
fn the_log_goes_on_exactly_where_a_reader_left_it() {
    let mut cluster = Cluster::start(3, 3, 2);
    let mut books = client(&cluster, "alice");
    let mut seen = Vec::new();
    for round in 0..6 {
        let learner = (Role::Learner, 1 + round % 2);
        let from = seen.len() as u64 + 1;
        let mut lines = Lines::open(&cluster, learner, &format!("/log?from={from}"));
        for n in 0..20 {
            // With line breaks, which a line must not have.
            let data: Json = json!({"round": round, "n": n});
            let body = format!(
                r#"{{"clientId":"bob","timestamp":{n},"operation":"WRITE","resource":"r-{round}-{n}","data":{}}}"#,
                serde_json::to_string_pretty(&data).unwrap()
            );
            let url = format!("{}/propose?wait=true", cluster.urls(Role::Proposer)[0]);
            let agent = http::agent(Duration::from_secs(20));
            let answer = http::post(&agent, &url, body.into_bytes()).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        // Not all of it: the rest comes after the break.
        for _ in 0..15 {
            seen.push(lines.next().expect("the log continues"));
        }
        drop(lines);
        if round == 2 {
            cluster.kill(&[learner]);
            cluster.restart(&[learner]);
            cluster.wait_until_ready();
        }
    }
    let last = books.write("last", json!(1)).0;
    let from = seen.len() as u64 + 1;
    let rest = Lines::open(&cluster, (Role::Learner, 2), &format!("/log?from={from}"));
    seen.extend(rest.take((last + 1 - from) as usize));
    let instances: Vec<u64> = seen
        .iter()
        .map(|l| l["instanceId"].as_u64().unwrap())
        .collect();
    assert_eq!(instances, (1..=last).collect::<Vec<_>>());
    let whole = get(&cluster, (Role::Learner, 1), "/log?follow=false").text();
    let whole: Vec<Json> = whole
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(whole, seen);
}

#[test]
fn a_watch_shows_matching_changes_and_resumes_after_the_last_event() {
    let mut cluster = Cluster::start(3, 3, 2);
    let mut client = client(&cluster, "alice");
    client.write("a/old", json!(0));
    let learner = (Role::Learner, 1);
    let mut watch = Events::open(&cluster, learner, "/watch?prefix=a/", None);
    let from_start = Events::open(
        &cluster,
        (Role::Learner, 2),
        "/watch?prefix=a/&from=1",
        None,
    );
    client.write("b", json!(1));
    let (first, _) = client.write("a/1", json!({"colour": "red"}));
    let (second, _) = client.write("a/1", json!(2));
    let event = watch.next().unwrap();
    assert_eq!((event.name.as_str(), event.id), ("put", first));
    let mut data = event.data;
    assert!(data["timestamp"].take().as_u64().unwrap() > 0);
    let expected = json!({"resource": "a/1", "data": {"colour": "red"}, "version": 1,
        "instanceId": first, "timestamp": null, "clientId": "alice"});
    assert_eq!(data, expected);
    drop(watch);
    let remove = |resource| Proposal {
        operation: "DELETE",
        resource,
        data: Json::Null,
        if_version: None,
    };
    client.propose(&remove("a/never"), LEVEL_WITHIN);
    client.propose(&remove("a/1"), LEVEL_WITHIN);
    cluster.kill(&[learner]);
    cluster.restart(&[learner]);
    cluster.wait_until_ready();
    // As a browser does it: the same address, and the last event's id.
    let watch = Events::open(&cluster, learner, "/watch?prefix=a/&from=1", Some(first));
    let events: Vec<_> = watch.take(2).map(|e| (e.name, e.id, e.data)).collect();
    assert_eq!((events[0].0.as_str(), events[0].1), ("put", second));
    assert_eq!(events[1].0, "delete");
    let gone = &events[1].2;
    assert_eq!(
        (&gone["resource"], &gone["version"]),
        (&json!("a/1"), &json!(3))
    );
    assert!(gone.get("data").is_none());
    let all: Vec<u64> = from_start.take(4).map(|e| e.id).collect();
    assert_eq!(all, [1, first, second, events[1].1]);
    for (header, path) in [(None, "/watch?from=0"), (None, "/watch?from=x")] {
        assert_eq!(Events::status(&cluster, learner, path, header), 400);
    }
    assert_eq!(Events::status(&cluster, learner, "/watch", Some("x")), 400);
}

#[test]
fn streams_end_when_the_learner_ends() {
    let mut cluster = Cluster::start(1, 1, 2);
    client(&cluster, "alice").write("r", json!(1));
    let learner = (Role::Learner, 1);
    let mut lines = Lines::open(&cluster, learner, "/log");
    let mut events = Events::open(&cluster, learner, "/watch?from=1", None);
    assert!(lines.next().is_some());
    assert!(events.next().is_some());
    cluster.node(learner).signal(Signal::TERM);
    let status = cluster.node_mut(learner).wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0));
    // An end, not a broken connection: that would panic here.
    assert_eq!((lines.next(), events.next().map(|e| e.id)), (None, None));
}

#[test]
fn followers_that_read_nothing_hold_nobody_up_and_take_bounded_memory() {
    let cluster = Cluster::start(3, 3, 2);
    let learner = (Role::Learner, 1);
    write_batches(&cluster, "before", 4_000, 100, 2_000);
    let before = streams::resident_bytes(cluster.node(learner));
    let paths = ["/log?from=1", "/watch?from=1"];
    let stuck: Vec<_> = (0..100)
        .map(|i| streams::stuck(&cluster, learner, paths[i % 2]))
        .collect();
    write_batches(&cluster, "after", 8_000, 100, 2_000);
    cluster.wait_until_learners_agree(1);
    let grown = streams::resident_bytes(cluster.node(learner)).saturating_sub(before);
    // What the newest entries and a snapshot may take, and a chunk and buffers for each of them.
    assert!(grown < (100 << 20), "grown by {grown} bytes");
    drop(stuck);
}
