//! Real processes whose acceptors have forgotten what a new learner needs: it takes over another
//! learner's snapshot, continues with that one's log, and ends with the same state.

use std::fs;
use std::time::Duration;

use api::env::Role;
use serde_json::{Value as Json, json};
use testkit::cluster::workload::write_through_each;
use testkit::cluster::{Cluster, Name, http};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// More slots than acceptors keep behind what learners have, and than they forget at once.
const MANY: u64 = 34_000;
/// How many resources each of these writes, in turn.
const KEYS: u64 = 100;
const FILLS: [&str; 3] = ["small", "large", "more"];

/// Has `values` values of about `bytes` bytes chosen.
fn fill(cluster: &Cluster, name: &str, values: u64, bytes: usize) {
    let agent = http::agent(PATIENCE);
    let data = "x".repeat(bytes);
    let most = (900_000 / (bytes as u64 + 200)).min(1000);
    let mut done = 0;
    while done < values {
        let url = cluster.node(cluster.wait_for_leader()).url();
        let request = |i: u64| {
            json!({
                "clientId": name, "requestId": i.to_string(), "timestamp": i,
                "operation": "WRITE", "resource": format!("{name}/{}", i % KEYS), "data": data,
            })
        };
        let batch: Json = (done..(done + most).min(values)).map(request).collect();
        let body = batch.to_string().into_bytes();
        let answer = http::post(&agent, &format!("{url}/propose/batch?wait=true"), body).unwrap();
        // The first of them that must be sent again, if any.
        let answers = answer.json();
        let answers = answers.as_array().map_or(&[][..], Vec::as_slice);
        let committed = |answer: &&Json| answer["status"] == "COMMITTED";
        done += answers.iter().take_while(committed).count() as u64;
    }
}

/// Waits until every acceptor has forgotten a slot, and returns the last one that all have.
fn wait_until_forgotten(cluster: &Cluster, slot: u64) -> u64 {
    cluster.wait_for("acceptors forget", PATIENCE, || {
        let acceptors = cluster.of_role(Role::Acceptor).into_iter();
        let floors = acceptors.map(|name| cluster.node(name).number("trimmed_instance_id"));
        floors.min().flatten().filter(|floor| *floor >= slot)
    })
}

/// The slot of a learner's newest snapshot.
fn snapshot(cluster: &Cluster, name: Name) -> u64 {
    let folder = cluster.node(name).config.data_dir.join("snapshots");
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let slots = files.filter_map(|file| {
        let name = file.file_name().into_string().ok()?;
        name.strip_prefix("snapshot-")?.parse().ok()
    });
    slots.max().unwrap_or(0)
}

/// What a learner has in every resource written here, without asking anybody else.
fn resources(cluster: &Cluster, name: Name) -> Vec<Json> {
    let url = cluster.node(name).url();
    let names = FILLS
        .iter()
        .flat_map(|fill| (0..KEYS).map(move |key| format!("{fill}/{key}")));
    let read = |resource| {
        let url = format!("{url}/resource/{resource}?consistency=local");
        http::get(&url).unwrap().json()
    };
    names.map(read).collect()
}

/// Gives a learner an empty disk and waits until it has what the other one has.
fn replace(cluster: &mut Cluster, name: Name, other: Name) {
    cluster.kill(&[name]);
    fs::remove_dir_all(&cluster.node(name).config.data_dir).unwrap();
    let told = cluster.node(name).output().len();
    cluster.restart(&[name]);
    cluster.wait_until_ready();
    let last = write_through_each(cluster, &format!("after-{}", name.1));
    cluster.wait_until_learners_agree(last);
    let output = cluster.node(name).output();
    assert!(output[told..].contains("snapshot installed"));
    // Its log begins behind the snapshot, and says so.
    let log = http::get(&format!(
        "{}/log?from=1&follow=false",
        cluster.node(name).url()
    ));
    assert_eq!(log.unwrap().status, 410);
    assert_eq!(resources(cluster, name), resources(cluster, other));
}

#[test]
fn a_learner_without_its_disk_takes_over_the_others_snapshot_and_goes_on_with_its_log() {
    let mut cluster = Cluster::start(3, 3, 2);
    let learners = cluster.of_role(Role::Learner);
    let (first, second) = (learners[0], learners[1]);
    fill(&cluster, FILLS[0], MANY, 10);
    // Each of two snapshots follows 32 MiB of log; only then is the log's beginning given up.
    fill(&cluster, FILLS[1], 4_400, 16_000);
    cluster.wait_for("snapshots", PATIENCE, || {
        (snapshot(&cluster, second) > MANY).then_some(())
    });
    let floor = wait_until_forgotten(&cluster, 1);
    assert!(snapshot(&cluster, second) > floor);
    replace(&mut cluster, first, second);

    // Now acceptors forget more than the snapshot has, which learner 1 alone has to give.
    fill(&cluster, FILLS[2], MANY, 10);
    let floor = wait_until_forgotten(&cluster, MANY + 4_400 + 1);
    assert!(snapshot(&cluster, first) < floor);
    replace(&mut cluster, second, first);
}
