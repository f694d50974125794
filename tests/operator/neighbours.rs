//! Other people's tools around a cluster: what scales, labels, rewrites, restores and runs beside.

use operator::context::Options;
use operator::defaults::Defaults;
use serde_json::{Value, json};
use testkit::kube::scenarios::{CHILDREN, NAMESPACE, World};
use testkit::kube::{ApiServer, Call, Nodes};

fn object(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "clustersync.io/v1alpha1",
        "kind": "PaxosCluster",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": spec,
    })
}

fn set(world: &World, role: &str) -> Value {
    let name = format!("ledger-{role}");
    world
        .server
        .object("statefulsets", NAMESPACE, &name)
        .unwrap()
}

#[tokio::test]
async fn a_cluster_that_says_nothing_of_learners_can_be_scaled() {
    let world = World::whole("ledger", json!({})).await;
    assert_eq!(world.server.scale(NAMESPACE, "ledger"), Ok(2));
    // As does one that was made before the default was, once it is written again.
    world.edit_spec("ledger", json!({ "learner": null }));
    assert_eq!(world.server.scale(NAMESPACE, "ledger"), Ok(2));
    world.edit_spec("ledger", json!({ "learner": { "replicas": 4 } }));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(set(&world, "learner")["spec"]["replicas"], 4);
}

#[tokio::test]
async fn security_contexts_are_taken_whole_however_they_are_applied() {
    let world = World::new();
    // A null in a patch is lost on its way, a whole context is not.
    let spec = json!({
        "podSecurityContext": {},
        "securityContext": { "allowPrivilegeEscalation": false },
        "proposer": { "podTemplate": { "spec": { "priority": null } } },
    });
    world
        .server
        .apply_client_side("paxosclusters", object("ledger", spec));
    world.reconcile("ledger").await.unwrap();
    for role in ["proposer", "acceptor", "learner"] {
        let pod = set(&world, role)["spec"]["template"]["spec"].take();
        let fixed = ["runAsUser", "runAsGroup", "fsGroup"];
        assert!(
            fixed.iter().all(|id| pod["securityContext"][id].is_null()),
            "{pod}"
        );
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(*container, json!({ "allowPrivilegeEscalation": false }));
    }
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
}

#[tokio::test]
async fn an_operators_defaults_are_those_of_every_cluster_that_says_nothing() {
    let told = |class: &str| {
        let json = json!({
            "storageClassName": class,
            "podSecurityContext": {},
            "labels": { "team": "data" },
        });
        Options {
            defaults: Defaults::parse(&json.to_string()).unwrap(),
            ..Options::default()
        }
    };
    let world = World::told(ApiServer::new(), Nodes::default(), told("fast"));
    world.create("ledger", json!({}));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(
        world.condition("ledger", "Stalled").0,
        "",
        "{}",
        world.status("ledger")
    );
    let class = |world: &World| {
        set(world, "acceptor")["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"].take()
    };
    assert_eq!(class(&world), "fast");
    assert_eq!(set(&world, "learner")["metadata"]["labels"]["team"], "data");
    // Another default is for other clusters: volumes keep the class that they have.
    let other = World::told(world.server.clone(), Nodes::default(), told("slow"));
    other.reconcile("ledger").await.unwrap();
    assert_eq!(other.condition("ledger", "Stalled").0, "");
    assert_eq!(class(&other), "fast");
    // Nor does it matter when it is gone.
    let none = Options {
        defaults: Defaults::parse(r#"{"podSecurityContext":{},"labels":{"team":"data"}}"#).unwrap(),
        ..Options::default()
    };
    let none = World::told(world.server.clone(), Nodes::default(), none);
    none.reconcile("ledger").await.unwrap();
    assert_eq!(none.condition("ledger", "Stalled").0, "");
    assert_eq!(class(&none), "fast");
}

#[tokio::test]
async fn what_is_said_of_pods_decides_over_what_is_said_of_everything() {
    let spec = json!({
        "annotations": { "example.com/inject": "false" }, "labels": { "team": "data" },
        "acceptor": {
            "podAnnotations": { "example.com/inject": "true" },
            "podTemplate": { "metadata": { "labels": { "team": "disks" } } },
        },
    });
    let world = World::whole("ledger", spec).await;
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    let pods = |role: &str| set(&world, role)["spec"]["template"]["metadata"].take();
    let acceptors = pods("acceptor");
    assert_eq!(acceptors["annotations"]["example.com/inject"], "true");
    assert_eq!(acceptors["labels"]["team"], "disks");
    assert_eq!(
        pods("learner")["annotations"]["example.com/inject"],
        "false"
    );
}

#[tokio::test]
async fn a_set_whose_claims_admission_labels_is_not_made_anew() {
    let world = World::new();
    world.server.rewrite_sets(|set| {
        let claim = &mut set["spec"]["volumeClaimTemplates"][0]["metadata"];
        claim["labels"]["policy"] = json!("added");
    });
    world.create("ledger", json!({}));
    world.reconcile("ledger").await.unwrap();
    world.server.run_pods(|_| false);
    let before = set(&world, "acceptor")["metadata"]["uid"].take();
    for _ in 0..3 {
        world.reconcile("ledger").await.unwrap();
    }
    assert_eq!(set(&world, "acceptor")["metadata"]["uid"], before);
}

#[tokio::test]
async fn what_a_deleted_cluster_left_behind_and_the_next_does_not_want_goes() {
    let world = World::whole("ledger", json!({ "store": { "enabled": true } })).await;
    world.server.orphan("paxosclusters", NAMESPACE, "ledger");
    world.create("ledger", json!({}));
    world.reconcile("ledger").await.unwrap();
    let sets = world.server.names("statefulsets");
    assert!(!sets.contains(&"ledger-store".to_owned()), "{sets:?}");
    assert_eq!(sets.len(), 3);
}

#[tokio::test]
async fn labels_and_annotations_are_on_everything_claims_included_and_go_again() {
    let spec = json!({
        "labels": { "team": "data" }, "annotations": { "bill": "7" },
        "store": { "enabled": true }, "networkPolicy": { "enabled": true },
    });
    let world = World::whole("ledger", spec).await;
    let all = |kind: &str| {
        let objects = world.server.objects(kind);
        assert!(!objects.is_empty(), "{kind}");
        objects
    };
    let kinds = CHILDREN.into_iter().filter(|kind| *kind != "podmonitors");
    for kind in kinds.chain(["pods", "persistentvolumeclaims"]) {
        for object in all(kind) {
            let metadata = &object["metadata"];
            assert_eq!(metadata["labels"]["team"], "data", "{kind}: {metadata}");
            assert_eq!(metadata["annotations"]["bill"], "7", "{kind}: {metadata}");
        }
    }
    // Others, later: sets are recreated around their pods.
    let uid =
        |pod: &str| world.server.object("pods", NAMESPACE, pod).unwrap()["metadata"]["uid"].take();
    let before = uid("ledger-acceptor-1");
    world.edit_spec("ledger", json!({ "labels": { "team": null, "cost": "9" } }));
    for _ in 0..4 {
        world.reconcile("ledger").await.unwrap();
        world.server.run_pods(|_| false);
    }
    for kind in [
        "statefulsets",
        "services",
        "configmaps",
        "persistentvolumeclaims",
    ] {
        for object in all(kind) {
            let labels = &object["metadata"]["labels"];
            assert_eq!(
                (&labels["cost"], &labels["team"]),
                (&json!("9"), &Value::Null),
                "{kind}"
            );
        }
    }
    let claim = &set(&world, "acceptor")["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"];
    assert_eq!(*claim, json!({ "cost": "9" }));
    assert_eq!(uid("ledger-acceptor-1"), before, "no pod was deleted by it");
    assert_eq!(set(&world, "acceptor")["spec"]["replicas"], 5);
}

#[tokio::test]
async fn a_label_of_the_operators_own_is_refused() {
    for key in ["clustersync.io/role", "app.kubernetes.io/instance"] {
        let world = World::new();
        world.create("ledger", json!({ "labels": { key: "mine" } }));
        world.reconcile("ledger").await.unwrap();
        let message = world.status("ledger")["conditions"][0]["message"].to_string();
        assert!(
            message.contains("spec.labels") && message.contains(key),
            "{message}"
        );
    }
}

#[tokio::test]
async fn what_a_deleted_cluster_left_behind_is_adopted_without_a_restart() {
    let world = World::whole("ledger", json!({})).await;
    let children = world.children("ledger");
    let pods = world.server.objects("pods");
    world.server.orphan("paxosclusters", NAMESPACE, "ledger");
    assert!(
        set(&world, "acceptor")["metadata"]["ownerReferences"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    world.create("ledger", json!({}));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.children("ledger"), children);
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    assert_eq!(world.server.objects("pods"), pods);
}

#[tokio::test]
async fn an_object_of_another_cluster_is_named_with_its_owner() {
    let world = World::whole("ledger", json!({})).await;
    world.create("ledger-reader", json!({}));
    let error = world
        .reconcile("ledger-reader")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("belongs to PaxosCluster ledger"), "{error}");
}

#[tokio::test]
async fn what_admission_makes_of_a_set_is_written_once() {
    let world = World::new();
    world.server.rewrite_sets(|set| {
        let container = &mut set["spec"]["template"]["spec"]["containers"][0];
        container["image"] = json!("mirror.example.com/node@sha256:1");
    });
    world.create("ledger", json!({ "image": "node:1" }));
    for _ in 0..3 {
        world.reconcile("ledger").await.unwrap();
        world.server.run_pods(|_| false);
    }
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    let sets = |calls: Vec<Call>| {
        calls
            .into_iter()
            .filter(|call| call.resource == "statefulsets")
            .count()
    };
    assert_eq!(sets(world.take_writes()), 0);
    // What somebody else changes about it is still set back.
    world.server.edit(
        "statefulsets",
        NAMESPACE,
        "ledger-acceptor",
        json!({ "spec": { "replicas": 1 } }),
    );
    world.reconcile("ledger").await.unwrap();
    assert_eq!(set(&world, "acceptor")["spec"]["replicas"], 5);
}

/// Two operators of these identities and images over the same objects; how often sets were written
/// within a quarter of an hour, and by how many the cluster is left alone.
async fn two_operators(identities: [&str; 2], images: [&str; 2]) -> (usize, usize) {
    let told = |identity: &str, image: &str| Options {
        identity: identity.to_owned(),
        defaults: Defaults {
            image: Some(image.to_owned()),
            ..Defaults::default()
        },
        ..Options::default()
    };
    let first = told(identities[0], images[0]);
    let mut first = World::known_as(ApiServer::new(), Nodes::default(), first);
    first.nodes.say(2, 1, 10);
    first.create("ledger", json!({}));
    first.start();
    first.start_pods(|_| false);
    first.pass(60).await;
    let second = told(identities[1], images[1]);
    let mut second = World::known_as(first.server.clone(), first.nodes.clone(), second);
    second.start();
    first.take_writes();
    first.pass(900).await;
    let writes = first.take_writes().into_iter();
    let writes = writes
        .filter(|call| call.resource == "statefulsets")
        .count();
    let left = |world: &World| {
        let never = "paxos_operator_reconcile_errors_total{reason=\"rival\"} 0";
        usize::from(!world.metrics.text().contains(never))
    };
    (writes, left(&first) + left(&second))
}

#[tokio::test(start_paused = true)]
async fn of_two_operators_that_want_different_things_one_stands_back() {
    for identities in [
        ["a/paxos", "b/paxos"],
        ["b/paxos", "a/paxos"],
        // Two processes that share a lease's name, and hold no election.
        ["a/paxos host_1_a", "a/paxos host_2_b"],
    ] {
        let (writes, left) = two_operators(identities, ["node:1", "node:2"]).await;
        assert_eq!(left, 1, "{identities:?}");
        assert!(
            writes < 40,
            "{writes} writes of sets in a quarter of an hour"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_operators_that_want_the_same_do_not_even_notice() {
    let (writes, left) = two_operators(["a/paxos", "b/paxos"], ["node:1", "node:1"]).await;
    assert_eq!((writes, left), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn clusters_are_brought_up_to_date_one_after_the_other_and_held_ones_not_at_all() {
    let told = |rollouts, image: &str| Options {
        rollouts,
        defaults: Defaults {
            image: Some(image.to_owned()),
            ..Defaults::default()
        },
        ..Options::default()
    };
    let mut old = World::told(ApiServer::new(), Nodes::default(), told(1, "node:1"));
    old.nodes.say(2, 1, 10);
    let small = json!({ "replicas": 1 });
    let spec = json!({ "proposer": { "replicas": 2 }, "acceptor": small, "learner": small });
    let names = ["alpha", "beta", "held"];
    for name in names {
        old.create(name, spec.clone());
    }
    let hold = json!({ "metadata": { "annotations": { "clustersync.io/hold-rollout": "true" } } });
    old.server.edit("paxosclusters", NAMESPACE, "held", hold);
    old.start();
    old.start_pods(|_| false);
    old.pass(60).await;
    old.stop();
    let mut new = World::told(old.server.clone(), old.nodes.clone(), told(1, "node:2"));
    new.start();
    new.start_pods(|_| false);
    new.pass(8).await;
    let rolling = |world: &World| {
        let evicted = world.restarted();
        names.map(|name| evicted.iter().filter(|pod| pod.starts_with(name)).count())
    };
    let early = rolling(&new);
    assert!(
        early[0] == 0 || early[1] == 0 || early[0] == 4 || early[1] == 4,
        "{early:?}"
    );
    new.pass(120).await;
    assert_eq!(rolling(&new), [4, 4, 0]);
    let held = new.status("held")["conditions"].to_string();
    assert!(held.contains("clustersync.io/hold-rollout"), "{held}");
    // Repair continues there.
    new.server.delete("services", NAMESPACE, "held");
    new.pass(5).await;
    assert!(new.server.object("services", NAMESPACE, "held").is_some());
    let release = json!({ "metadata": { "annotations": { "clustersync.io/hold-rollout": null } } });
    new.server.edit("paxosclusters", NAMESPACE, "held", release);
    new.pass(120).await;
    assert_eq!(rolling(&new), [4, 4, 4]);
}

#[tokio::test]
async fn a_budget_can_be_left_out_or_made_larger() {
    let spec = json!({
        "acceptor": { "disruptionBudget": { "enabled": false } },
        "learner": { "disruptionBudget": { "maxUnavailable": "50%" } },
    });
    let world = World::whole("ledger", spec).await;
    let budget = |role: &str| {
        world
            .server
            .object("poddisruptionbudgets", NAMESPACE, &format!("ledger-{role}"))
    };
    assert!(budget("acceptor").is_none());
    assert_eq!(budget("learner").unwrap()["spec"]["maxUnavailable"], "50%");
    assert_eq!(budget("proposer").unwrap()["spec"]["maxUnavailable"], 4);
}

#[tokio::test]
async fn without_a_ready_proposer_clients_get_an_answer_all_the_same() {
    let world = World::whole("ledger", json!({})).await;
    let open = || {
        let service = world
            .server
            .object("services", NAMESPACE, "ledger")
            .unwrap();
        service["spec"]["publishNotReadyAddresses"] == true
    };
    assert!(!open());
    world
        .server
        .run_pods(|pod| pod.starts_with("ledger-proposer"));
    world.reconcile("ledger").await.unwrap();
    assert!(open(), "proposers answer that no one leads");
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    assert!(!open());
}
