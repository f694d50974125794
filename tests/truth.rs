//! Real processes whose disks tell different stories: acceptors, or all but one role, set back in time;
//! learners' volumes lost with and without a store. A node that has more says so, nothing is given out
//! twice, and what is still on some disk is found.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use api::env::Role;
use serde_json::{Value as Json, json};
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};
use testkit::files::copy;

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// More slots than acceptors keep behind what learners have, and than they forget at once.
const MANY: u64 = 34_000;

fn put(cluster: &Cluster, resource: &str, data: &str) -> u64 {
    let mut client = Client::new(format!("{resource} {data}"), cluster.urls(Role::Proposer));
    client.write(resource, json!(data)).0
}

fn kept(cluster: &Cluster, (role, id): Name) -> PathBuf {
    cluster
        .folder
        .path()
        .join("kept")
        .join(format!("{role}-{id}"))
}

/// Stops all, copies the folders of these, and starts all again.
fn back_up(cluster: &mut Cluster, names: &[Name]) {
    let all = cluster.names();
    cluster.kill(&all);
    for name in names {
        copy(&cluster.node(*name).config.data_dir, &kept(cluster, *name));
    }
    cluster.restart(&all);
    cluster.wait_until_ready();
}

/// Waits until every learner has applied this, and has it on disk: what an acceptor forgets, it keeps.
fn wait_until_learners_have(cluster: &Cluster, last: u64) {
    cluster.wait_until_learners_agree(last);
    for learner in cluster.of_role(Role::Learner) {
        cluster.wait_for("it is on the learner's disk", PATIENCE, || {
            let durable = cluster.node(learner).status()?["durable_instance_id"].as_u64()?;
            (durable >= last).then_some(())
        });
    }
}

/// Stops all, puts these back to their copies, and starts all again.
fn set_back(cluster: &mut Cluster, names: &[Name]) {
    let all = cluster.names();
    cluster.kill(&all);
    for name in names {
        let folder = cluster.node(*name).config.data_dir.clone();
        fs::remove_dir_all(&folder).unwrap();
        copy(&kept(cluster, *name), &folder);
    }
    cluster.restart(&all);
}

/// A write that is not retried.
fn try_write(cluster: &Cluster, proposer: usize, data: &str) -> (u16, Json) {
    let agent = http::agent(PATIENCE);
    let body = json!({
        "clientId": data, "requestId": data, "timestamp": 1,
        "operation": "WRITE", "resource": "k", "data": data,
    });
    let proposer = &cluster.urls(Role::Proposer)[proposer];
    let url = format!("{proposer}/propose?wait=true&timeoutMs=1000");
    let answer = cluster.wait_for("the proposer answers", PATIENCE, || {
        http::post(&agent, &url, body.to_string().into_bytes()).ok()
    });
    (answer.status, answer.json())
}

fn ready(cluster: &Cluster, name: Name) -> String {
    let url = format!("{}/ready", cluster.node(name).url());
    http::get(&url).map_or(String::new(), |answer| answer.text())
}

#[test]
fn acceptors_that_are_all_set_back_are_noticed_before_anything_is_acknowledged() {
    let mut cluster = Cluster::start(2, 3, 2);
    let acceptors = cluster.of_role(Role::Acceptor);
    put(&cluster, "k", "old");
    back_up(&mut cluster, &acceptors);
    let last = (0..7)
        .map(|i| put(&cluster, "k", &format!("acknowledged {i}")))
        .max()
        .unwrap();
    wait_until_learners_have(&cluster, last);
    set_back(&mut cluster, &acceptors);

    for i in 0..6 {
        let (status, answer) = try_write(&cluster, i % 2, &format!("newer {i}"));
        assert_ne!(status, 200, "{answer}");
        sleep(Duration::from_millis(200));
    }
    for proposer in cluster.of_role(Role::Proposer) {
        cluster.wait_for("every proposer says why it does not lead", PATIENCE, || {
            let behind = cluster.node(proposer).status()?["behind"]
                .as_str()?
                .to_owned();
            (behind.contains(&last.to_string()) && ready(&cluster, proposer).contains("set back"))
                .then_some(())
        });
    }
    for learner in cluster.of_role(Role::Learner) {
        cluster.wait_for("learners stop", PATIENCE, || {
            let status = cluster.node(learner).status()?;
            (status["halt_reason"] == "contradicted").then_some(())
        });
        // What it has is still there to be saved.
        let log = format!("{}/log?from=1&follow=false", cluster.node(learner).url());
        assert!(http::get(&log).unwrap().text().contains("acknowledged 6"));
    }
}

#[test]
fn acceptors_set_back_and_given_their_newest_disks_again_have_lost_nothing() {
    let mut cluster = Cluster::start(2, 3, 2);
    let acceptors = cluster.of_role(Role::Acceptor);
    put(&cluster, "k", "old");
    back_up(&mut cluster, &acceptors);
    let last = put(&cluster, "k", "newest");
    wait_until_learners_have(&cluster, last);
    // The newest ones are put aside, and come back.
    let all = cluster.names();
    cluster.kill(&all);
    let aside = |cluster: &Cluster, name: Name| kept(cluster, name).with_extension("newest");
    for name in &acceptors {
        copy(
            &cluster.node(*name).config.data_dir,
            &aside(&cluster, *name),
        );
    }
    cluster.restart(&all);
    set_back(&mut cluster, &acceptors);
    cluster.wait_for("it is noticed", PATIENCE, || {
        let status = cluster.node((Role::Proposer, 1)).status()?;
        status["behind"].as_str().map(drop)
    });
    cluster.kill(&all);
    for name in &acceptors {
        let folder = cluster.node(*name).config.data_dir.clone();
        fs::remove_dir_all(&folder).unwrap();
        fs::rename(aside(&cluster, *name), &folder).unwrap();
    }
    cluster.restart(&all);
    cluster.wait_until_ready();
    for url in cluster.urls(Role::Learner) {
        let read = http::get(&format!("{url}/resource/k")).unwrap().json();
        assert_eq!(read["data"], "newest");
    }
    put(&cluster, "k", "after");
}

#[test]
fn a_store_ahead_of_its_cluster_says_so_and_stops_when_the_log_goes_on_otherwise() {
    let mut cluster = Cluster::start(1, 3, 2);
    let store = cluster.add_store();
    put(&cluster, "k", "old");
    cluster.wait_until_ready();
    let others = cluster.names().into_iter().filter(|name| *name != store);
    let others: Vec<Name> = others.collect();
    back_up(&mut cluster, &others);
    let last = (0..5)
        .map(|i| put(&cluster, "k", &format!("lost {i}")))
        .max()
        .unwrap();
    let applied = |cluster: &Cluster| cluster.node(store).number("applied_instance_id");
    cluster.wait_for("the store has it", PATIENCE, || {
        applied(&cluster).filter(|applied| *applied >= last)
    });
    set_back(&mut cluster, &others);
    cluster.wait_for("the store says that it is ahead", PATIENCE, || {
        let why = ready(&cluster, store);
        (why.contains("set back in time") && why.contains(&last.to_string())).then_some(())
    });
    // The others know nothing of it, and continue.
    for i in 0..9 {
        put(&cluster, "k", &format!("again {i}"));
    }
    cluster.wait_for("the store stops", PATIENCE, || {
        let status = cluster.node(store).status()?;
        (status["halt_reason"] == "contradicted").then_some(())
    });
    assert_eq!(
        applied(&cluster),
        Some(last),
        "nothing of another log is applied"
    );
}

/// Has `MANY` small values chosen.
fn fill(cluster: &Cluster) {
    let agent = http::agent(PATIENCE);
    let mut done = 0;
    while done < MANY {
        let url = cluster.node(cluster.wait_for_leader()).url();
        let request = |i: u64| {
            json!({
                "clientId": "fill", "requestId": i.to_string(), "timestamp": i,
                "operation": "WRITE", "resource": format!("k/{}", i % 50), "data": i,
            })
        };
        let batch: Json = (done..(done + 1000).min(MANY)).map(request).collect();
        let body = batch.to_string().into_bytes();
        let answer = http::post(&agent, &format!("{url}/propose/batch?wait=true"), body).unwrap();
        let answers = answer.json();
        let answers = answers.as_array().map_or(&[][..], Vec::as_slice);
        let committed = |answer: &&Json| answer["status"] == "COMMITTED";
        done += answers.iter().take_while(committed).count() as u64;
    }
}

fn forgotten(cluster: &Cluster) {
    cluster.wait_for("acceptors forget", PATIENCE, || {
        let acceptors = cluster.of_role(Role::Acceptor).into_iter();
        let floors = acceptors.map(|name| cluster.node(name).number("trimmed_instance_id"));
        floors.min().flatten().filter(|floor| *floor > 0)
    });
}

fn wipe(cluster: &mut Cluster, names: &[Name]) {
    cluster.kill(names);
    for name in names {
        fs::remove_dir_all(&cluster.node(*name).config.data_dir).unwrap();
    }
    cluster.restart(names);
}

#[test]
fn learners_that_have_all_lost_their_volumes_take_over_a_stores_state() {
    let place = testkit::cluster::Place::default();
    let mut cluster = Cluster::prepare_in(&place, [2, 3, 2, 1]);
    cluster.start_all();
    fill(&cluster);
    let retried = put(&cluster, "k", "once");
    forgotten(&cluster);
    let store = (Role::Store, 1);
    cluster.wait_for("the store has it all", PATIENCE, || {
        let applied = cluster.node(store).number("applied_instance_id")?;
        (applied >= retried).then_some(())
    });
    let learners = cluster.of_role(Role::Learner);
    wipe(&mut cluster, &learners);
    cluster.wait_until_ready();
    for url in cluster.urls(Role::Learner) {
        for i in 0..50 {
            let read = http::get(&format!("{url}/resource/k/{i}")).unwrap();
            assert_eq!(read.status, 200, "{}", read.text());
        }
    }
    let last = put(&cluster, "k", "after");
    cluster.wait_until_learners_agree(last);
    // What the store remembered of requests came along: no second effect.
    assert_eq!(put(&cluster, "k", "once"), retried);
    let output = cluster.node(learners[0]).output();
    assert!(output.contains("snapshot installed"));
}

#[test]
fn when_no_node_has_it_any_more_learners_say_so_and_serve_nothing_until_a_volume_is_back() {
    let mut cluster = Cluster::start(2, 3, 2);
    fill(&cluster);
    forgotten(&cluster);
    let learners = cluster.of_role(Role::Learner);
    let aside = kept(&cluster, learners[1]);
    cluster.kill(&learners);
    copy(&cluster.node(learners[1]).config.data_dir, &aside);
    cluster.restart(&learners);
    wipe(&mut cluster, &learners);
    for learner in &learners {
        cluster.wait_for("it says that data are lost", PATIENCE, || {
            let status = cluster.node(*learner).status()?;
            let lost = status["data_lost"].as_str()?;
            (status["state"] == "data-lost" && lost.contains("old volume back")).then_some(())
        });
        let url = cluster.node(*learner).url();
        for path in [
            "/resource/k/1?consistency=local",
            "/resources?consistency=local",
        ] {
            assert_eq!(
                http::get(&format!("{url}{path}")).unwrap().status,
                503,
                "{path}"
            );
        }
    }
    // With one of them away nothing is certain.
    cluster.kill(&learners[1..]);
    cluster.wait_for("it names who may have it", PATIENCE, || {
        let why = ready(&cluster, learners[0]);
        (why.contains("learner-2") && why.contains("does not answer")).then_some(())
    });
    let folder = cluster.node(learners[1]).config.data_dir.clone();
    fs::remove_dir_all(&folder).unwrap();
    copy(&aside, &folder);
    cluster.restart(&learners[1..]);
    cluster.wait_until_ready();
    for url in cluster.urls(Role::Learner) {
        assert_eq!(
            http::get(&format!("{url}/resource/k/1")).unwrap().status,
            200
        );
    }
}
