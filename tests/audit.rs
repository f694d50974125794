//! The agreement audit: a learner whose disk was altered in a way that no checksum shows stops as soon
//! as it has compared itself with the others, and is well again with an empty disk.

use std::fs;
use std::time::Duration;

use api::env::Role;
use paxos::ids::Slot;
use serde_json::json;
use testkit::cluster::{Cluster, Name, http};
use testkit::forge::forge;

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than there are from one comparison to the next.
const MANY: u64 = 2500;
/// The slot whose value is altered.
const ALTERED: Slot = Slot(700);

fn fill(cluster: &Cluster, name: &str) {
    let agent = http::agent(PATIENCE);
    let url = cluster.node(cluster.wait_for_leader()).url();
    for first in (0..MANY).step_by(500) {
        let request = |i: u64| {
            json!({
                "clientId": name, "requestId": i.to_string(), "timestamp": i,
                "operation": "WRITE", "resource": format!("{name}/{}", i % 100), "data": i,
            })
        };
        let batch: Vec<_> = (first..first + 500).map(request).collect();
        let body = json!(batch).to_string().into_bytes();
        let answer = http::post(&agent, &format!("{url}/propose/batch?wait=true"), body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn metric(cluster: &Cluster, node: Name, name: &str) -> Option<i64> {
    let text = http::get(&format!("{}/metrics", cluster.node(node).url()))
        .ok()?
        .text();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_learner_that_has_something_else_stops_and_is_well_again_with_an_empty_disk() {
    let mut cluster = Cluster::start(3, 3, 3);
    let learners = cluster.of_role(Role::Learner);
    fill(&cluster, "first");
    cluster.wait_until_learners_agree(MANY);
    let audited = |cluster: &Cluster, node, at_least| {
        cluster.wait_for("learners compare", PATIENCE, || {
            let audited = metric(cluster, node, "paxos_audited_instance")?;
            (audited >= at_least).then_some(())
        });
        assert_eq!(metric(cluster, node, "paxos_agreement_violated"), Some(0));
    };
    for learner in &learners {
        audited(&cluster, *learner, 2000);
    }

    let wrong = learners[1];
    cluster.kill(&[wrong]);
    forge(&cluster.node(wrong).config.data_dir.join("log"), ALTERED);
    cluster.restart(&[wrong]);
    cluster.wait_for("the altered learner stops", PATIENCE, || {
        let status = cluster.node(wrong).status()?;
        let halted = status["halted"].as_str()?;
        assert!(halted.contains("agreement is violated"), "{halted}");
        assert!(halted.contains("up to instance 1000"), "{halted}");
        (status["state"] == "halted").then_some(())
    });
    assert!(!cluster.node(wrong).is_ready());
    assert_eq!(metric(&cluster, wrong, "paxos_halted"), Some(1));
    assert_eq!(metric(&cluster, wrong, "paxos_agreement_violated"), Some(1));
    // Those that agree continue: two of three.
    fill(&cluster, "second");
    for learner in [learners[0], learners[2]] {
        audited(&cluster, learner, 4000);
        assert!(cluster.node(learner).is_ready());
    }

    cluster.kill(&[wrong]);
    fs::remove_dir_all(&cluster.node(wrong).config.data_dir).unwrap();
    cluster.restart(&[wrong]);
    cluster.wait_until_ready();
    cluster.wait_until_learners_agree(2 * MANY);
    audited(&cluster, wrong, 4000);
    // A restart alone finds nothing wrong either.
    cluster.kill(&[wrong]);
    cluster.restart(&[wrong]);
    cluster.wait_until_ready();
    audited(&cluster, wrong, 4000);
}
