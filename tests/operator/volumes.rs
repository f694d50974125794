//! Volumes: they grow while pods run, never shrink, and go only where that is asked for.

use serde_json::{Value, json};
use testkit::kube::scenarios::{NAMESPACE, World};

const CLAIMS: &str = "persistentvolumeclaims";

fn sizes(world: &World, role: &str) -> Vec<String> {
    let claims = world.server.objects(CLAIMS);
    let of_role = claims
        .iter()
        .filter(|claim| claim["metadata"]["labels"]["clustersync.io/role"] == role);
    let size = |claim: &Value| claim["spec"]["resources"]["requests"]["storage"].clone();
    of_role
        .map(|claim| size(claim).as_str().expect("a size").to_owned())
        .collect()
}

fn set(world: &World, role: &str) -> Value {
    let name = format!("ledger-{role}");
    let set = world.server.object("statefulsets", NAMESPACE, &name);
    set.expect("the set exists")
}

fn template_size(set: &Value) -> &Value {
    &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
}

fn stored(role: &str, storage: Value) -> Value {
    json!({ role: { "storage": storage } })
}

#[tokio::test]
async fn volumes_grow_around_running_pods() {
    let world = World::whole("ledger", json!({})).await;
    let (before, pods) = (set(&world, "acceptor"), world.server.objects("pods"));
    world.edit_spec("ledger", stored("acceptor", json!({ "size": "9Gi" })));
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(sizes(&world, "acceptor"), vec!["9Gi"; 5]);
    assert_eq!(sizes(&world, "proposer"), vec!["5Gi"; 5]);
    // The set is on its way out, and all is reported as it is.
    assert_eq!(world.condition("ledger", "Available").0, "True");
    assert_eq!(world.condition("ledger", "Progressing").0, "True");
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Available").0, "True");
    let touched = world.take_writes().into_iter();
    let others = touched.filter(|call| {
        let name = call.name.trim_start_matches("data-");
        !name.starts_with("ledger-acceptor") && !call.resource.starts_with("paxosclusters")
    });
    // The ConfigMap has the spec beside the lists.
    let told = ["events", "configmaps"];
    let others: Vec<_> = others
        .filter(|call| !told.contains(&&*call.resource))
        .collect();
    assert!(others.is_empty(), "{others:?}");

    let after = set(&world, "acceptor");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(template_size(&after), "9Gi");
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);
    world.server.run_pods(|_| false);
    let uids = |pods: &[Value]| -> Vec<Value> {
        let uid = |pod: &Value| pod["metadata"]["uid"].clone();
        pods.iter().map(uid).collect()
    };
    let now = world.server.objects("pods");
    assert_eq!(uids(&now), uids(&pods), "no pod was restarted");
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    assert!(!world.events().contains(&"QuorumLost".to_owned()));
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
}

#[tokio::test]
async fn a_node_that_comes_back_to_a_smaller_volume_gets_it_grown() {
    let world = World::whole("ledger", json!({ "learner": { "replicas": 3 } })).await;
    world.edit_spec("ledger", json!({ "learner": { "replicas": 2 } }));
    world.reconcile("ledger").await.unwrap();
    world.server.run_pods(|_| false);
    world.edit_spec("ledger", stored("learner", json!({ "size": "9Gi" })));
    for _ in 0..3 {
        world.reconcile("ledger").await.unwrap();
        world.server.run_pods(|_| false);
    }
    assert_eq!(sizes(&world, "learner"), ["9Gi", "9Gi", "5Gi"]);
    world.edit_spec("ledger", json!({ "learner": { "replicas": 3 } }));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(sizes(&world, "learner"), vec!["9Gi"; 3]);
}

#[tokio::test]
async fn claims_of_others_are_left_alone() {
    let world = World::whole("ledger", json!({})).await;
    let claim = |name: &str, cluster: &str| {
        world.server.create(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "namespace": NAMESPACE, "labels": {
                "clustersync.io/cluster": cluster, "clustersync.io/role": "other",
            } },
            "spec": { "resources": { "requests": { "storage": "1Gi" } } },
        }));
    };
    claim("data-ledger-learner-x-1", "ledger");
    claim("data-ledger-learner-9", "ledger");
    claim("data-ledgers-learner-1", "ledgers");
    world.edit_spec("ledger", stored("learner", json!({ "size": "9Gi" })));
    for _ in 0..3 {
        world.reconcile("ledger").await.unwrap();
    }
    assert_eq!(sizes(&world, "learner"), vec!["9Gi"; 2]);
    assert_eq!(sizes(&world, "other"), vec!["1Gi"; 3]);
}

#[tokio::test]
async fn what_cannot_change_about_volumes_is_refused_by_name() {
    for (created, changed, expected) in [
        (
            json!({ "size": "9Gi" }),
            json!({ "size": "4Gi" }),
            "spec.learner.storage.size: is 4Gi, but volumes cannot shrink: set it to 9Gi or more",
        ),
        (
            json!({ "storageClassName": "fast" }),
            json!({ "storageClassName": "slow" }),
            "spec.learner.storage.storageClassName: is \"slow\", but the volumes were made with \
             \"fast\": set it back",
        ),
        (
            json!({ "storageClassName": "fast" }),
            Value::Null,
            "spec.learner.storage.storageClassName: is the default class, but the volumes were made \
             with \"fast\": set it back",
        ),
        (
            json!({}),
            json!({ "accessModes": ["ReadWriteMany"] }),
            "spec.learner.storage.accessModes: is ReadWriteMany, but the volumes were made with \
             ReadWriteOnce: set it back",
        ),
    ] {
        let world = World::whole("ledger", stored("learner", created)).await;
        let before = (world.server.objects(CLAIMS), set(&world, "learner"));
        world.edit_spec("ledger", stored("learner", Value::Null));
        world.edit_spec("ledger", stored("learner", changed));
        world.reconcile("ledger").await.unwrap();
        assert_eq!(world.condition("ledger", "Stalled").0, "True");
        let message = world.status("ledger")["conditions"][0]["message"].clone();
        let message = message.as_str().unwrap();
        assert!(
            message.starts_with(&format!("{expected}; until then")),
            "{message}"
        );
        let after = (world.server.objects(CLAIMS), set(&world, "learner"));
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn volumes_stay_unless_their_role_says_otherwise() {
    let spec = json!({
        "learner": { "replicas": 3, "storage": { "retention": { "whenScaled": "Delete" } } },
        "store": { "enabled": true, "storage": { "retention": { "whenDeleted": "Delete" } } },
    });
    let world = World::whole("ledger", spec).await;
    world.edit_spec(
        "ledger",
        json!({ "learner": { "replicas": 2 }, "proposer": { "replicas": 3 } }),
    );
    world.reconcile("ledger").await.unwrap();
    world.server.run_pods(|_| false);
    assert_eq!(sizes(&world, "learner").len(), 2, "the third is gone");
    assert_eq!(sizes(&world, "proposer").len(), 5, "all are kept");
    world.server.delete("paxosclusters", NAMESPACE, "ledger");
    let left = ["proposer", "acceptor", "learner", "store"];
    let left = left.map(|role| sizes(&world, role).len());
    assert_eq!(left, [5, 5, 2, 0]);
    assert_eq!(world.server.objects("pods"), [Value::Null; 0]);
}

#[tokio::test]
async fn volumes_that_would_go_with_their_set_stay_while_it_is_made_anew() {
    let retention = json!({ "whenDeleted": "Delete" });
    let spec = stored("acceptor", json!({ "retention": retention }));
    let world = World::whole("ledger", spec).await;
    let uids = || -> Vec<Value> {
        let claims = world.server.objects(CLAIMS);
        claims
            .iter()
            .map(|claim| claim["metadata"]["uid"].clone())
            .collect()
    };
    let before = uids();
    world.edit_spec("ledger", stored("acceptor", json!({ "size": "9Gi" })));
    for _ in 0..3 {
        world.reconcile("ledger").await.unwrap();
        world.server.run_pods(|_| false);
    }
    assert_eq!(sizes(&world, "acceptor"), vec!["9Gi"; 5]);
    assert_eq!(uids(), before);
    world.server.delete("paxosclusters", NAMESPACE, "ledger");
    assert_eq!(sizes(&world, "acceptor"), [""; 0]);
}

fn marks(world: &World) -> Vec<Value> {
    let claims = world.server.objects(CLAIMS);
    let of_role = claims
        .iter()
        .filter(|claim| claim["metadata"]["labels"]["clustersync.io/role"] == "acceptor");
    of_role
        .map(|claim| claim["metadata"]["annotations"]["clustersync.io/acceptors"].clone())
        .collect()
}

fn acceptors(count: u8) -> Value {
    json!({ "acceptor": { "replicas": count } })
}

/// What a refusal may write.
fn touched(world: &World) -> Vec<String> {
    let writes = world.take_writes().into_iter();
    let told = ["paxosclusters/status", "events"];
    let touched = writes.filter(|call| !told.contains(&call.resource.as_str()));
    touched
        .map(|call| format!("{} {}", call.resource, call.name))
        .collect()
}

#[tokio::test]
async fn a_cluster_made_again_with_another_number_of_acceptors_is_stalled_and_nothing_is_touched() {
    for (founded, other) in [(5, 3), (3, 5), (3, 1), (1, 2)] {
        let world = World::whole("ledger", acceptors(founded)).await;
        assert_eq!(
            marks(&world),
            vec![json!(founded.to_string()); founded.into()]
        );
        world.server.delete("paxosclusters", NAMESPACE, "ledger");
        // Another operator: nothing is remembered but what stands on the claims.
        let world = World::with(world.server.clone(), world.nodes.clone());
        world.create("ledger", acceptors(other));
        world.take_writes();
        for _ in 0..2 {
            world.reconcile("ledger").await.unwrap();
        }
        let stalled = ("True".into(), "OtherAcceptorCount".into());
        assert_eq!(world.condition("ledger", "Stalled"), stalled);
        assert_eq!(touched(&world), Vec::<String>::new());
        assert!(world.server.objects("statefulsets").is_empty());
        let conditions = world.status("ledger")["conditions"].clone();
        let message = conditions.as_array().unwrap().iter().find_map(|condition| {
            (condition["type"] == "Stalled").then(|| condition["message"].as_str().unwrap())
        });
        let message = message.unwrap();
        assert!(
            message.contains(&format!("founded with {founded} acceptors")),
            "{message}"
        );
        assert!(message.contains("data-ledger-acceptor-1"), "{message}");

        // The founders' number makes it continue where it was.
        world.edit_spec("ledger", acceptors(founded));
        world.reconcile("ledger").await.unwrap();
        world.server.run_pods(|_| false);
        world.reconcile("ledger").await.unwrap();
        assert_eq!(world.condition("ledger", "Ready").0, "True");
    }
}

#[tokio::test]
async fn without_the_volumes_another_number_of_acceptors_is_another_cluster() {
    let world = World::whole("ledger", acceptors(5)).await;
    world.server.delete("paxosclusters", NAMESPACE, "ledger");
    world.create("ledger", acceptors(3));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Stalled").0, "True");
    for id in 1..=5 {
        let claim = format!("data-ledger-acceptor-{id}");
        world.server.delete(CLAIMS, NAMESPACE, &claim);
        if id < 5 {
            world.reconcile("ledger").await.unwrap();
            assert_eq!(
                world.condition("ledger", "Stalled").0,
                "True",
                "one is left"
            );
        }
    }
    // Nobody tells the operator of that: it looks again.
    world.reconcile("ledger").await.unwrap();
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    assert_eq!(marks(&world), vec![json!("3"); 3]);
}

#[tokio::test]
async fn claims_of_an_older_operator_are_marked_once_and_count_until_then() {
    let world = World::whole("ledger", acceptors(3)).await;
    for id in 1..=3 {
        let claim = format!("data-ledger-acceptor-{id}");
        let unmarked = json!({ "metadata": { "annotations": null } });
        world.server.edit(CLAIMS, NAMESPACE, &claim, unmarked);
    }
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(marks(&world), vec![json!("3"); 3]);
    assert_eq!(touched(&world).len(), 3);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);

    for id in 1..=3 {
        let claim = format!("data-ledger-acceptor-{id}");
        let unmarked = json!({ "metadata": { "annotations": null } });
        world.server.edit(CLAIMS, NAMESPACE, &claim, unmarked);
    }
    world.server.delete("paxosclusters", NAMESPACE, "ledger");
    world.create("ledger", acceptors(1));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Stalled").0, "True");
}
