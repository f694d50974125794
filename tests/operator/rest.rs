//! Clusters that are paused or stopped, and what is reported of nodes and quorum.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::kube::scenarios::{NAMESPACE, World};

fn small() -> Value {
    json!({
        "image": "example.org:5000/nodes:1",
        "proposer": { "replicas": 2 },
        "acceptor": { "replicas": 3 },
        "learner": { "replicas": 2 },
    })
}

fn pause(world: &World, paused: Value) {
    let patch = json!({ "metadata": { "annotations": { "clustersync.io/paused": paused } } });
    world
        .server
        .edit("paxosclusters", NAMESPACE, "ledger", patch);
}

fn says(world: &World, kind: &str) -> String {
    let (status, reason) = world.condition("ledger", kind);
    format!("{status} {reason}")
}

#[tokio::test(start_paused = true)]
async fn a_paused_cluster_is_left_as_it_is_and_goes_on_afterwards() {
    let mut world = World::whole("ledger", small()).await;
    world.start();
    world.start_pods(|_| false);
    world.pass(5).await;
    pause(&world, json!("true"));
    world.edit_spec("ledger", json!({ "image": "nodes:2" }));
    world.server.delete("services", NAMESPACE, "ledger-reader");
    world.pass(120).await;
    assert_eq!(world.restarted(), [""; 0]);
    assert!(!world.children("ledger").contains("services/ledger-reader"));
    assert_eq!(says(&world, "Paused"), "True Paused");
    assert_eq!(says(&world, "Progressing"), "False Paused");
    assert_eq!(says(&world, "Ready"), "True AllNodesReady");
    // What it speaks of is the spec before the one that waits.
    assert_eq!(world.status("ledger")["observedGeneration"], 1);
    world.take_writes();
    world.pass(300).await;
    assert_eq!(world.take_writes(), []);

    // It is reported as it is even so.
    world.nodes.fall_silent();
    world.start_pods(|pod| pod.starts_with("ledger-acceptor"));
    world.pass(10).await;
    assert_eq!(says(&world, "Available"), "False QuorumLost");
    assert_eq!(says(&world, "Ready"), "False QuorumLost");
    world.nodes.say(2, 1, 10);
    world.start_pods(|_| false);
    world.pass(60).await;

    pause(&world, Value::Null);
    world.pass(120).await;
    assert!(world.children("ledger").contains("services/ledger-reader"));
    assert_eq!(world.restarted().len(), 7);
    assert_eq!(says(&world, "Paused"), " ");
    assert_eq!(says(&world, "Ready"), "True AllNodesReady");
    assert_eq!(world.status("ledger")["observedGeneration"], 2);
    let events = world.events();
    for reason in ["Paused", "Resumed"] {
        let times = events.iter().filter(|event| *event == reason).count();
        assert_eq!(times, 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_paused_from_the_beginning_is_nothing_yet() {
    let mut world = World::new();
    world.create("ledger", small());
    pause(&world, json!("true"));
    world.start();
    world.pass(60).await;
    assert!(world.children("ledger").is_empty());
    assert_eq!(says(&world, "Ready"), "False Paused");
    assert_eq!(world.status("ledger")["observedGeneration"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_cluster_has_no_pods_and_resumes_as_the_same() {
    let mut world = World::whole("ledger", small()).await;
    world.start();
    world.start_pods(|_| false);
    world.pass(5).await;
    let identities = |world: &World| -> Vec<Value> {
        (world.server.objects("statefulsets").into_iter())
            .map(|set| json!([set["metadata"]["uid"], set["spec"]["volumeClaimTemplates"]]))
            .collect()
    };
    let before = identities(&world);
    world.edit_spec("ledger", json!({ "stopped": true }));
    world.pass(60).await;
    assert_eq!(world.server.objects("pods"), [Value::Null; 0]);
    for set in world.server.objects("statefulsets") {
        let retention = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
        assert_eq!(retention["whenScaled"], "Retain");
    }
    assert_eq!(says(&world, "Ready"), "False Stopped");
    assert_eq!(says(&world, "Available"), "False Stopped");
    assert_eq!(says(&world, "Progressing"), "False Stopped");
    assert_eq!(says(&world, "Degraded"), "False Stopped");
    assert_eq!(world.status("ledger")["quorum"]["safeToDisrupt"], false);
    assert_eq!(world.status("ledger")["acceptor"]["summary"], "0/0");
    world.take_writes();
    world.pass(300).await;
    assert_eq!(world.take_writes(), []);

    world.edit_spec("ledger", json!({ "stopped": false }));
    world.pass(60).await;
    assert_eq!(says(&world, "Ready"), "True AllNodesReady");
    assert_eq!(identities(&world), before);
    assert_eq!(world.restarted(), [""; 0], "it is scaled, not evicted");
    let told = world.events();
    assert!(told.contains(&"Stopped".to_owned()), "{told:?}");
    assert!(!told.contains(&"NotReady".to_owned()), "{told:?}");
}

#[tokio::test]
async fn the_status_answers_whether_a_node_may_be_drained() {
    let world = World::whole("ledger", small()).await;
    let quorum = |world: &World| world.status("ledger")["quorum"].clone();
    let expected = |healthy, tolerates, safe| json!({ "size": 2, "healthy": healthy, "tolerates": tolerates, "safeToDisrupt": safe });
    assert_eq!(quorum(&world), expected(3, 1, true));
    // A pod that is away takes what there is to spare.
    for (away, expected) in [
        ("ledger-acceptor-2", expected(2, 0, false)),
        ("ledger-learner-1", expected(3, 1, false)),
        ("ledger-proposer-1", expected(3, 1, false)),
        ("ledger-acceptor", expected(0, 0, false)),
        ("none", expected(3, 1, true)),
    ] {
        world.server.run_pods(|pod| pod.starts_with(away));
        world.reconcile("ledger").await.unwrap();
        assert_eq!(quorum(&world), expected, "{away}");
    }
}

#[tokio::test]
async fn every_node_is_listed_and_at_rest_nothing_about_it_moves() {
    let world = World::whole("ledger", small()).await;
    let members = |world: &World| world.status("ledger")["members"].clone();
    let listed = members(&world);
    assert_eq!(listed.as_array().unwrap().len(), 7);
    let third = listed.as_array().unwrap().iter();
    let third = third.clone().find(|it| it["pod"] == "ledger-acceptor-3");
    let third = third.unwrap();
    assert_eq!(
        (&third["role"], &third["id"]),
        (&json!("acceptor"), &json!(3))
    );
    assert_eq!(
        (&third["ready"], &third["version"]),
        (&json!(true), &json!("1"))
    );
    assert_eq!(third["incarnation"], "start-of-3");
    // Nodes that do not answer just now are no news.
    world.nodes.fall_silent();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(members(&world), listed);

    // One that is not there at all is listed as such, since it was seen so.
    world.server.delete("pods", NAMESPACE, "ledger-acceptor-3");
    world.reconcile("ledger").await.unwrap();
    let gone = |world: &World| {
        let members = members(world);
        let mut members = members.as_array().unwrap().clone().into_iter();
        members.find(|it| it["pod"] == "ledger-acceptor-3").unwrap()
    };
    let first = gone(&world);
    assert_eq!(
        (&first["ready"], &first["version"]),
        (&json!(false), &Value::Null)
    );
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
    assert_eq!(gone(&world), first);
}

#[tokio::test(start_paused = true)]
async fn a_lost_quorum_is_told_within_five_seconds_and_so_is_its_return() {
    let mut world = World::whole("ledger", small()).await;
    let down = Arc::new(Mutex::new(false));
    let is_down = down.clone();
    world.start_pods(move |pod| pod.starts_with("ledger-acceptor") && *is_down.lock().unwrap());
    world.start();
    world.pass(60).await;
    *down.lock().unwrap() = true;
    world.pass(5).await;
    for kind in ["Ready", "Available"] {
        assert_eq!(says(&world, kind), "False QuorumLost");
    }
    assert_eq!(says(&world, "Degraded"), "True QuorumLost");
    *down.lock().unwrap() = false;
    world.pass(5).await;
    assert_eq!(says(&world, "Ready"), "True AllNodesReady");
    assert_eq!(says(&world, "Degraded"), "False AsDesired");
}
