//! What the status says of pods that are not there, and of specs that make no sense meanwhile.

use serde_json::{Value, json};
use testkit::kube::scenarios::{NAMESPACE, World};
use testkit::kube::{OFFLINE, STUCK};

fn message(world: &World, kind: &str) -> String {
    let status = world.status("ledger");
    let conditions = status["conditions"].as_array().unwrap();
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == kind);
    condition.unwrap()["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_quota_is_told_while_pods_are_missing_and_no_longer() {
    let world = World::new();
    world
        .server
        .forbid_pods(Some("exceeded quota: compute, requested: pods=1"));
    world.create("ledger", json!({}));
    world.reconcile("ledger").await.unwrap();
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    let told = message(&world, "Ready");
    assert!(
        told.contains("FailedCreate: exceeded quota: compute"),
        "{told}"
    );
    world.server.forbid_pods(None);
    world.server.run_pods(|_| false);
    world.nodes.say(2, 1, 10);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    // One that is refused again stands in both conditions.
    world
        .server
        .forbid_pods(Some("exceeded quota: compute, requested: pods=1"));
    world.server.delete("pods", NAMESPACE, "ledger-acceptor-2");
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    for kind in ["Ready", "Degraded"] {
        let told = message(&world, kind);
        assert!(told.contains("pod ledger-acceptor-2"), "{kind}: {told}");
        assert!(told.contains("FailedCreate: exceeded"), "{kind}: {told}");
    }
}

#[tokio::test]
async fn a_container_that_cannot_start_is_told_with_what_the_kubelet_says() {
    let world = World::whole("ledger", json!({})).await;
    world.server.run_pods(|pod| pod == "ledger-acceptor-4");
    let waiting = json!({ "containerStatuses": [{
        "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 4,
        "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
        "lastState": { "terminated": { "exitCode": 1, "message": "volume is full\n" } },
    }]});
    world
        .server
        .edit_status("pods", NAMESPACE, "ledger-acceptor-4", waiting);
    world.reconcile("ledger").await.unwrap();
    for kind in ["Ready", "Degraded"] {
        let told = message(&world, kind);
        let expected = "pod ledger-acceptor-4: it ended with exit code 1: volume is full";
        assert!(told.contains(expected), "{kind}: {told}");
    }
    // The kubelet's clock keeps running; that is no news.
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
}

async fn grown(class: &str) -> World {
    let storage = |size: &str| json!({ "storage": { "size": size, "storageClassName": class } });
    let world = World::whole("ledger", json!({ "acceptor": storage("5Gi") })).await;
    world.edit_spec("ledger", json!({ "acceptor": storage("9Gi") }));
    for _ in 0..3 {
        world.reconcile("ledger").await.unwrap();
        world.server.run_pods(|_| false);
    }
    world.reconcile("ledger").await.unwrap();
    world
}

#[tokio::test]
async fn a_volume_that_does_not_grow_is_told() {
    let world = grown(STUCK).await;
    assert_eq!(world.condition("ledger", "Ready").0, "False");
    let told = message(&world, "Ready");
    assert!(
        told.contains("data-ledger-acceptor-1 has 5Gi of 9Gi"),
        "{told}"
    );
    assert_eq!(world.restarted(), [""; 0], "no restart would help");
}

#[tokio::test(start_paused = true)]
async fn volumes_that_grow_offline_have_their_pods_restarted_one_by_one() {
    let mut world = grown(OFFLINE).await;
    world.start();
    world.start_pods(|_| false);
    world.pass(120).await;
    let mut restarted = world.restarted();
    restarted.sort();
    let acceptors: Vec<String> = (1..=5).map(|k| format!("ledger-acceptor-{k}")).collect();
    assert_eq!(restarted, acceptors);
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}

#[tokio::test]
async fn a_spec_that_makes_no_sense_does_not_end_repair() {
    for wrong in [
        json!({ "acceptor": { "storage": { "size": "1Gi" } } }),
        json!({ "learner": { "replicas": 0 } }),
        json!({ "learner": "many" }),
        json!({ "acceptor": { "replicas": 3 } }),
    ] {
        let world = World::whole("ledger", json!({ "proposer": { "replicas": 3 } })).await;
        world.edit_spec("ledger", wrong.clone());
        let all = world.children("ledger");
        // Whether the operator remembers the last spec or was restarted since.
        for world in [
            &world,
            &World::with(world.server.clone(), world.nodes.clone()),
        ] {
            world.server.delete("services", NAMESPACE, "ledger");
            world
                .server
                .delete("statefulsets", NAMESPACE, "ledger-proposer");
            world.reconcile("ledger").await.unwrap();
            world.server.run_pods(|_| false);
            world.reconcile("ledger").await.unwrap();
            assert_eq!(world.children("ledger"), all, "{wrong}");
            assert_eq!(world.condition("ledger", "Stalled").0, "True");
            assert_eq!(world.condition("ledger", "Available").0, "True");
            assert_eq!(world.status("ledger")["proposer"]["summary"], "3/3");
            let told = message(world, "Ready");
            assert!(told.ends_with("is kept up"), "{told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_kept_up_by_an_older_spec_is_looked_at_again_and_goes_on_with_the_next() {
    let mut world = World::whole("ledger", json!({})).await;
    world.start();
    world.pass(5).await;
    world.edit_spec("ledger", json!({ "learner": { "replicas": 0 } }));
    world.pass(5).await;
    world.take_writes();
    world.pass(300).await;
    assert_eq!(world.take_writes(), [], "at rest");
    world
        .server
        .delete("poddisruptionbudgets", NAMESPACE, "ledger-learner");
    world.pass(5).await;
    assert!(
        world
            .children("ledger")
            .contains("poddisruptionbudgets/ledger-learner")
    );
    world.edit_spec("ledger", json!({ "learner": { "replicas": 3 } }));
    world.pass(5).await;
    world.server.run_pods(|_| false);
    world.pass(40).await;
    assert_eq!(world.status("ledger")["learner"]["summary"], "3/3");
    assert_eq!(world.condition("ledger", "Stalled").0, "");
}

#[tokio::test(start_paused = true)]
async fn counters_are_at_most_ten_seconds_old_and_cost_no_read_at_rest() {
    let mut world = World::whole("ledger", json!({})).await;
    world.start();
    world.pass(35).await;
    world.nodes.say(2, 1, 5000);
    world.pass(11).await;
    assert_eq!(world.status("ledger")["committedInstance"], 5000);
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    world.pass(60).await;
    world.server.take_calls();
    world.pass(600).await;
    let calls = world.server.take_calls();
    let lists = calls.iter().filter(|call| call.verb == "list").count();
    assert!(lists <= 8 * 21, "{lists} lists in ten minutes");
    assert!(calls.iter().all(|call| !call.is_write()));
}

#[tokio::test(start_paused = true)]
async fn clusters_that_never_start_cost_little_soon() {
    let mut world = World::new();
    for k in 0..12 {
        world.create(
            &format!("c{k}"),
            json!({ "learner": { "storage": { "storageClassName": "x" } } }),
        );
    }
    world.server.forbid_pods(Some("exceeded quota"));
    world.start();
    world.start_pods(|_| false);
    world.pass(300).await;
    world.server.take_calls();
    world.pass(60).await;
    let calls = world.server.take_calls();
    let lists = calls.iter().filter(|call| call.verb == "list").count();
    // As much as 8 a second are of 30 clusters.
    assert!(lists <= 8 * 60 * 12 / 30, "{lists} lists in a minute");
    // And a pod that comes is seen at once.
    world.server.forbid_pods(None);
    world.nodes.say(2, 1, 10);
    world.pass(10).await;
    let ready: Value = world.status("c7")["proposer"]["summary"].take();
    assert_eq!(ready, "5/5");
}
