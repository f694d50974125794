//! A changed template reaches every pod: in order, one at a time, and never needlessly.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::kube::ApiServer;
use testkit::kube::scenarios::{NAMESPACE, World};

const PODS: [&str; 6] = [
    "ledger-learner-1",
    "ledger-acceptor-1",
    "ledger-acceptor-2",
    "ledger-acceptor-3",
    "ledger-proposer-1",
    "ledger-proposer-2",
];

fn small() -> Value {
    json!({
        "image": "nodes:1",
        "proposer": { "replicas": 2 },
        "acceptor": { "replicas": 3 },
        "learner": { "replicas": 1 },
    })
}

fn image_of(server: &ApiServer, pod: &str) -> String {
    let pod = server.object("pods", NAMESPACE, pod).unwrap_or_default();
    let image = &pod["spec"]["containers"][0]["image"];
    image.as_str().unwrap_or_default().to_owned()
}

fn ready_pods(server: &ApiServer) -> usize {
    let is_ready = |pod: &Value| {
        pod["status"]["conditions"][0]["status"] == "True"
            && pod["metadata"]["deletionTimestamp"].is_null()
    };
    server
        .objects("pods")
        .iter()
        .filter(|p| is_ready(p))
        .count()
}

fn message(world: &World, kind: &str) -> String {
    let status = world.status("ledger");
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let condition = conditions.find(|condition| condition["type"] == kind);
    condition.unwrap()["message"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn another_image_reaches_every_pod_one_at_a_time_and_the_leader_last() {
    let mut spec = small();
    // Of two, one may be away.
    spec["learner"]["replicas"] = json!(2);
    let mut world = World::whole("ledger", spec).await;
    let mut pods = PODS.to_vec();
    pods.insert(1, "ledger-learner-2");
    world.nodes.say(1, 2, 10);
    world.start();
    world.start_pods(|_| false);
    world.edit_spec("ledger", json!({ "image": "nodes:2" }));
    let mut seconds = 0;
    let mut told = Vec::new();
    while world.restarted().len() < pods.len() || ready_pods(&world.server) < pods.len() {
        world.pass(1).await;
        seconds += 1;
        assert!(seconds < 120, "restarted: {:?}", world.restarted());
        assert!(ready_pods(&world.server) >= pods.len() - 1, "one at a time");
        let progressing = world.condition("ledger", "Progressing");
        if told.last() != Some(&progressing) {
            told.push(progressing);
        }
        assert_eq!(world.condition("ledger", "Degraded").0, "False");
        assert_eq!(world.condition("ledger", "Available").0, "True");
    }
    let mut order = pods.clone();
    order[5..].reverse();
    assert_eq!(world.restarted(), order, "proposer 1 leads");
    world.pass(5).await;
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    assert_eq!(
        world.condition("ledger", "Progressing"),
        ("False".into(), "UpToDate".into())
    );
    let rolling = ("True".to_owned(), "RollingOut".to_owned());
    assert!(told.contains(&rolling), "{told:?}");
    for pod in &pods {
        assert_eq!(image_of(&world.server, pod), "nodes:2", "{pod}");
    }
    // Each restart is an event that says which pod and why.
    let events = world.server.objects("events");
    let mut notes: Vec<_> = (events.iter())
        .filter(|event| event["reason"] == "Restarted")
        .map(|event| {
            assert_eq!(event["regarding"]["name"], "ledger");
            (event["related"]["name"].clone(), event["note"].clone())
        })
        .collect();
    notes.sort_by_key(|(pod, _)| pod.to_string());
    let mut expected: Vec<_> = pods
        .into_iter()
        .map(|pod| {
            (
                json!(pod),
                json!(format!("pod {pod}: image nodes:1 -> nodes:2")),
            )
        })
        .collect();
    expected.sort_by_key(|(pod, _)| pod.to_string());
    assert_eq!(notes, expected);
    // And then there is rest.
    world.take_writes();
    world.pass(120).await;
    assert_eq!(world.take_writes(), []);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_restart_restarts_every_pod_once_and_is_not_undone() {
    let mut world = World::whole("ledger", small()).await;
    world.nodes.say(1, 2, 10);
    world.start();
    world.start_pods(|_| false);
    let asked = json!({ "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z" });
    let template = json!({ "metadata": { "annotations": asked } });
    let sets = ["ledger-proposer", "ledger-acceptor", "ledger-learner"];
    for set in sets {
        let patch = json!({ "spec": { "template": template } });
        world.server.edit("statefulsets", NAMESPACE, set, patch);
    }
    world.pass(120).await;
    let mut order = PODS;
    order[4..].reverse();
    assert_eq!(world.restarted(), order, "proposer 1 leads");
    for set in sets {
        let set = world.server.object("statefulsets", NAMESPACE, set).unwrap();
        let annotations = &set["spec"]["template"]["metadata"]["annotations"];
        let key = "kubectl.kubernetes.io/restartedAt";
        assert_eq!(annotations[key], asked[key]);
    }
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    world.take_writes();
    world.pass(120).await;
    assert_eq!(world.take_writes(), []);
}

#[tokio::test(start_paused = true)]
async fn a_bad_image_stops_at_the_first_pod_and_a_good_one_mends_it() {
    let mut world = World::whole("ledger", small()).await;
    let server = world.server.clone();
    world.start();
    world.start_pods(move |pod| image_of(&server, pod) == "bad");
    world.edit_spec("ledger", json!({ "image": "bad" }));
    world.pass(60).await;
    assert_eq!(world.restarted(), ["ledger-learner-1"]);
    // A lost learner is reported at once, even while the roll may still advance.
    assert_eq!(
        world.condition("ledger", "Available"),
        ("False".into(), "NoLearner".into())
    );
    assert_eq!(world.condition("ledger", "Progressing").1, "RollingOut");
    let message_then = message(&world, "Progressing");
    assert!(
        message_then.contains("pod ledger-learner-1 is not ready"),
        "{message_then}"
    );

    // Much later, by the operator's own clock.
    let mut status = world.status("ledger");
    for member in status["members"].as_array_mut().unwrap() {
        if member["pod"] == "ledger-learner-1" {
            member["since"] = json!("2020-01-01T00:00:00Z");
        }
    }
    world
        .server
        .edit_status("paxosclusters", NAMESPACE, "ledger", status);
    world.pass(10).await;
    assert_eq!(
        world.condition("ledger", "Progressing"),
        ("False".into(), "RollStuck".into())
    );
    assert_eq!(world.condition("ledger", "Degraded").0, "True");
    assert_eq!(world.restarted(), ["ledger-learner-1"]);
    world.take_writes();
    world.pass(300).await;
    assert_eq!(world.take_writes(), [], "it is reported once");

    world.edit_spec("ledger", json!({ "image": "nodes:3" }));
    world.pass(60).await;
    assert_eq!(world.restarted().len(), PODS.len());
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_bad_image_from_the_beginning_is_mended_everywhere_at_once() {
    let mut world = World::new();
    let server = world.server.clone();
    // No pod gets ready before all have an image that works, as with acceptors that must meet.
    world.start_pods(move |_| PODS.iter().any(|pod| image_of(&server, pod) == "bad"));
    world.start();
    let mut spec = small();
    spec["image"] = json!("bad");
    world.create("ledger", spec);
    world.pass(60).await;
    world.edit_spec("ledger", json!({ "image": "nodes:1" }));
    world.nodes.say(2, 1, 10);
    world.pass(60).await;
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    assert_eq!(world.restarted().len(), PODS.len());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_an_older_operator_is_taken_over_without_a_restart() {
    let mut world = World::whole("ledger", small()).await;
    for set in world.server.objects("statefulsets") {
        let name = set["metadata"]["name"].as_str().unwrap();
        let bare = json!({ "metadata": { "annotations": { "clustersync.io/template": null } } });
        let spec = json!({ "updateStrategy": { "type": "RollingUpdate" }, "template": bare });
        let patch = json!({ "spec": spec });
        world.server.edit("statefulsets", NAMESPACE, name, patch);
    }
    world.server.run_pods(|_| false);
    let digest = "/metadata/annotations/clustersync.io~1template";
    let pods = || world.server.objects("pods");
    assert!(pods().iter().all(|pod| pod.pointer(digest).is_none()));
    let uids = || {
        pods()
            .iter()
            .map(|pod| pod["metadata"]["uid"].clone())
            .collect::<Vec<_>>()
    };
    let before = uids();

    world.start();
    world.start_pods(|_| false);
    world.pass(60).await;
    assert_eq!(
        world.server.objects("statefulsets")[0]["spec"]["updateStrategy"],
        json!({ "type": "OnDelete" })
    );
    assert_eq!(world.restarted(), [""; 0]);
    let uids: Vec<_> = (world.server.objects("pods").iter())
        .map(|pod| pod["metadata"]["uid"].clone())
        .collect();
    assert_eq!(uids, before);
    assert_eq!(world.condition("ledger", "Ready").0, "True");

    // A change of one role then restarts that role alone.
    world.edit_spec(
        "ledger",
        json!({ "acceptor": { "priorityClassName": "high" } }),
    );
    world.pass(60).await;
    assert_eq!(world.restarted(), PODS[1..4]);
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_forbids_an_eviction_is_waited_for_and_told() {
    let mut world = World::whole("ledger", small()).await;
    // Somebody else's budget over the same pods: Kubernetes evicts none of them.
    world.server.create(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "mine", "namespace": NAMESPACE },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": {
            "clustersync.io/role": "learner",
        }}},
    }));
    world.start();
    world.start_pods(|_| false);
    world.edit_spec("ledger", json!({ "image": "nodes:2" }));
    world.pass(60).await;
    let told = message(&world, "Progressing");
    assert!(
        told.contains("pod ledger-learner-1 may not be evicted now: This pod has more than one"),
        "{told}"
    );
    assert_eq!(image_of(&world.server, "ledger-learner-1"), "nodes:1");
    // After that long, the roll no longer counts as advancing.
    world.pass(400).await;
    let stuck = ("False".into(), "RollStuck".into());
    assert_eq!(world.condition("ledger", "Progressing"), stuck);
    assert_eq!(world.condition("ledger", "Degraded").0, "True");
    world
        .server
        .delete("poddisruptionbudgets", NAMESPACE, "mine");
    world.pass(120).await;
    assert_eq!(image_of(&world.server, "ledger-proposer-2"), "nodes:2");
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_drained_in_the_middle_of_a_roll_is_waited_for() {
    let mut world = World::whole("ledger", small()).await;
    let drained = Arc::new(Mutex::new(true));
    let waits = drained.clone();
    world.start_pods(move |pod| pod == "ledger-acceptor-3" && *waits.lock().unwrap());
    world.pass(2).await;
    world.start();
    world.edit_spec(
        "ledger",
        json!({ "learner": { "priorityClassName": "high" } }),
    );
    world.pass(60).await;
    assert_eq!(world.restarted(), [""; 0]);
    *drained.lock().unwrap() = false;
    world.pass(60).await;
    assert_eq!(world.restarted(), ["ledger-learner-1"]);
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}
