//! The operator against an API server in memory: what it makes, when it writes, and how it comes
//! through everything that goes wrong.

mod connection;
mod faults;
mod lease;
mod namespaces;
mod neighbours;
mod reasons;
mod rest;
mod roll;
mod scaling;
mod volumes;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::kube::scenarios::{NAMESPACE, World, every_permission};
use testkit::kube::{Fault, RIGID};

#[tokio::test]
async fn a_cluster_becomes_all_its_objects_and_owns_them() {
    let world = World::whole("ledger", json!({})).await;
    let roles = ["proposer", "acceptor", "learner"];
    let of_roles = |plural: &str| roles.map(|role| format!("{plural}/ledger-{role}"));
    let mut expected =
        BTreeSet::from(["services/ledger", "services/ledger-reader"].map(String::from));
    expected.insert("configmaps/ledger-members".to_owned());
    for plural in ["statefulsets", "services", "poddisruptionbudgets"] {
        expected.extend(of_roles(plural));
    }
    assert_eq!(world.children("ledger"), expected);
    let set = world
        .server
        .object("statefulsets", NAMESPACE, "ledger-acceptor")
        .unwrap();
    let owner = &set["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["controller"], &owner["blockOwnerDeletion"]),
        (&json!(true), &json!(true))
    );

    // Deleting it leaves nothing behind.
    world.server.delete("paxosclusters", NAMESPACE, "ledger");
    for plural in [
        "statefulsets",
        "services",
        "configmaps",
        "poddisruptionbudgets",
        "pods",
    ] {
        assert_eq!(world.server.objects(plural), [Value::Null; 0], "{plural}");
    }
}

#[tokio::test]
async fn the_status_tells_who_leads_and_what_is_ready() {
    let world = World::whole("ledger", json!({})).await;
    let status = world.status("ledger");
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["acceptors"], 5);
    assert_eq!(status["proposer"]["summary"], "5/5");
    assert_eq!(status["learner"]["summary"], "2/2");
    assert_eq!(
        (
            &status["leaderId"],
            &status["term"],
            &status["committedInstance"]
        ),
        (&json!(2), &json!(1), &json!(10))
    );
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    assert_eq!(world.events(), ["Starting", "Ready", "LeaderElected"]);
}

#[tokio::test]
async fn reconciling_twice_writes_nothing_the_second_time() {
    // Amounts that the API server rewrites, and fields that it defaults.
    let spec = json!({
        "proposer": { "resources": { "requests": { "cpu": "1000m" }, "limits": { "cpu": 2 } } },
        "store": { "enabled": true },
    });
    let world = World::whole("ledger", spec).await;
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);

    // Nor does an operator that was restarted or upgraded.
    let restarted = World::with(world.server.clone(), world.nodes.clone());
    restarted.reconcile("ledger").await.unwrap();
    assert_eq!(restarted.take_writes(), []);
}

#[tokio::test]
async fn a_cache_that_lags_behind_causes_no_second_write() {
    let world = World::new();
    world.create("ledger", json!({}));
    let cached = world
        .server
        .object("paxosclusters", NAMESPACE, "ledger")
        .unwrap();
    world.reconcile_seeing(cached.clone()).await.unwrap();
    world.take_writes();
    world.reconcile_seeing(cached).await.unwrap();
    assert_eq!(world.take_writes(), []);
}

#[tokio::test(start_paused = true)]
async fn an_operator_at_rest_writes_nothing() {
    let mut world = World::whole("ledger", json!({})).await;
    world.start();
    world.pass(60).await;
    world.take_writes();
    world.pass(600).await;
    let calls = world.server.take_calls();
    assert!(calls.iter().any(|call| call.resource == "pods"), "it looks");
    assert_eq!(
        calls
            .into_iter()
            .filter(|call| call.is_write())
            .collect::<Vec<_>>(),
        []
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_log_moves_the_status_now_and_then_only() {
    let mut world = World::whole("ledger", json!({})).await;
    world.nodes.be_busy();
    world.start();
    world.pass(60).await;
    world.take_writes();
    let before = world.status("ledger")["committedInstance"].as_i64();
    // The write itself is a change, upon which the operator looks again and sees another number.
    world.pass(300).await;
    let writes = world.take_writes();
    assert!(
        writes
            .iter()
            .all(|call| call.resource == "paxosclusters/status"),
        "{writes:?}"
    );
    assert!(
        (5..=30).contains(&writes.len()),
        "{} writes in 300 s",
        writes.len()
    );
    assert!(world.status("ledger")["committedInstance"].as_i64() > before);
}

#[tokio::test]
async fn a_deleted_child_comes_back() {
    let world = World::whole("ledger", json!({})).await;
    let before = world.children("ledger");
    for child in &before {
        let (plural, name) = child.split_once('/').unwrap();
        world.server.delete(plural, NAMESPACE, name);
        assert_ne!(world.children("ledger"), before);
        world.reconcile("ledger").await.unwrap();
        assert_eq!(world.children("ledger"), before, "{child}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_controller_notices_a_deleted_child_by_itself() {
    let mut world = World::whole("ledger", json!({})).await;
    world.start();
    world.pass(5).await;
    world.server.delete("services", NAMESPACE, "ledger-reader");
    // Well before it would look again anyway.
    world.pass(5).await;
    assert!(
        world
            .server
            .object("services", NAMESPACE, "ledger-reader")
            .is_some()
    );
}

#[tokio::test]
async fn what_others_change_is_undone_and_what_others_add_is_left() {
    let world = World::whole("ledger", json!({})).await;
    let edit = |plural: &str, name: &str, patch| world.server.edit(plural, NAMESPACE, name, patch);
    edit(
        "statefulsets",
        "ledger-acceptor",
        json!({ "spec": { "replicas": 1 } }),
    );
    edit(
        "services",
        "ledger",
        json!({ "spec": { "selector": { "clustersync.io/role": null } } }),
    );
    edit(
        "services",
        "ledger-reader",
        json!({ "metadata": { "labels": { "mine": "yes" } } }),
    );
    edit(
        "poddisruptionbudgets",
        "ledger-acceptor",
        json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": "me" } } }),
    );
    world.reconcile("ledger").await.unwrap();
    let object = |plural: &str, name: &str| world.server.object(plural, NAMESPACE, name).unwrap();
    assert_eq!(
        object("statefulsets", "ledger-acceptor")["spec"]["replicas"],
        5
    );
    assert_eq!(
        object("services", "ledger")["spec"]["selector"]["clustersync.io/role"],
        "proposer"
    );
    assert_eq!(
        object("services", "ledger-reader")["metadata"]["labels"]["mine"],
        "yes"
    );
    let budget = object("poddisruptionbudgets", "ledger-acceptor");
    assert_eq!(
        budget["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "paxos-operator"
    );
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
}

#[tokio::test]
async fn a_field_that_is_no_longer_wanted_goes() {
    let spec =
        json!({ "learner": { "nodeSelector": { "disk": "fast" }, "priorityClassName": "high" } });
    let world = World::whole("ledger", spec).await;
    let pod = || {
        let set = world
            .server
            .object("statefulsets", NAMESPACE, "ledger-learner")
            .unwrap();
        set["spec"]["template"]["spec"].clone()
    };
    assert_eq!(pod()["nodeSelector"]["disk"], "fast");
    world.edit_spec("ledger", json!({ "learner": null }));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(
        (&pod()["nodeSelector"], &pod()["priorityClassName"]),
        (&Value::Null, &Value::Null)
    );
    // Only this role's pods change.
    let touched = world
        .take_writes()
        .into_iter()
        .filter(|call| call.resource == "statefulsets");
    let touched: Vec<_> = touched.map(|call| call.name).collect();
    assert_eq!(touched.last().unwrap(), "ledger-learner");
}

#[tokio::test]
async fn scaling_learners_leaves_the_acceptors_alone() {
    let world = World::whole("ledger", json!({})).await;
    world.take_writes();
    world.edit_spec("ledger", json!({ "learner": { "replicas": 4 } }));
    world.reconcile("ledger").await.unwrap();
    let touched: BTreeSet<_> = world
        .take_writes()
        .into_iter()
        .map(|call| call.name)
        .collect();
    assert!(touched.contains("ledger-learner") && !touched.contains("ledger-acceptor"));
    assert_eq!(world.condition("ledger", "Progressing").1, "RollingOut");
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.status("ledger")["learner"]["summary"], "4/4");
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}

#[tokio::test]
async fn stores_that_are_switched_off_are_deleted_and_nothing_else() {
    let world = World::whole("ledger", json!({ "store": { "enabled": true } })).await;
    assert!(
        world
            .children("ledger")
            .contains("statefulsets/ledger-store")
    );
    assert_eq!(world.status("ledger")["store"]["summary"], "3/3");
    // Somebody else's object with our labels is not ours to delete.
    world.server.create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "mine", "namespace": NAMESPACE, "labels": {
            "app.kubernetes.io/managed-by": "paxos-operator", "clustersync.io/cluster": "ledger",
        }},
        "spec": {},
    }));
    world.edit_spec("ledger", json!({ "store": null }));
    world.reconcile("ledger").await.unwrap();
    assert!(
        world
            .children("ledger")
            .iter()
            .all(|child| !child.ends_with("-store"))
    );
    assert!(world.server.object("services", NAMESPACE, "mine").is_some());
    assert_eq!(world.status("ledger")["store"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_spec_says_which_field_and_why_and_does_not_loop() {
    let mut world = World::new();
    world.create("ledger", json!({ "proposer": { "replicas": 300 } }));
    world.start();
    world.pass(600).await;
    assert_eq!(
        world.condition("ledger", "Ready"),
        ("False".into(), "InvalidSpec".into())
    );
    assert_eq!(
        world.condition("ledger", "Stalled"),
        ("True".into(), "InvalidSpec".into())
    );
    let message = world.status("ledger")["conditions"][0]["message"].clone();
    assert_eq!(
        message,
        "spec.proposer.replicas: is 300, must be from 1 to 255"
    );
    assert_eq!(world.children("ledger"), BTreeSet::new());
    assert_eq!(world.events(), ["InvalidSpec"]);
    let writes = world.take_writes();
    assert_eq!(writes.len(), 2, "one status and one event: {writes:?}");
    // Once when it appeared and once for the status that was written.
    let text = world.metrics.text();
    assert!(
        text.contains("paxos_operator_reconciliations_total{result=\"invalid\"} 2"),
        "{text}"
    );

    world.edit_spec("ledger", json!({ "proposer": { "replicas": 3 } }));
    world.pass(5).await;
    assert_eq!(
        world.condition("ledger", "Stalled").0,
        "",
        "gone once the spec is right"
    );
    assert!(!world.children("ledger").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_no_paxos_cluster_hides_no_other_and_is_reported_once() {
    let mut world = World::new();
    world.create("garbage", json!({ "acceptor": "five", "proposer": [] }));
    world.create("ledger", json!({}));
    world.start();
    world.pass(600).await;
    assert_eq!(world.condition("garbage", "Stalled").0, "True");
    assert!(!world.children("ledger").is_empty());
    let writes = world.take_writes();
    let of_garbage = writes.iter().filter(|call| call.name == "garbage");
    assert_eq!(of_garbage.count(), 1, "{writes:?}");

    // An operator that was restarted does not repeat it.
    world.stop();
    let mut restarted = World::with(world.server.clone(), world.nodes.clone());
    restarted.start();
    restarted.pass(600).await;
    assert_eq!(restarted.take_writes(), []);
}

#[tokio::test]
async fn another_acceptor_count_is_refused_and_nothing_is_touched() {
    let world = World::whole("ledger", json!({ "acceptor": { "replicas": 3 } })).await;
    world.take_writes();
    world.edit_spec("ledger", json!({ "acceptor": { "replicas": 5 } }));
    world.reconcile("ledger").await.unwrap();
    assert_eq!(
        world.condition("ledger", "Stalled"),
        ("True".into(), "InvalidSpec".into())
    );
    assert_eq!(
        world.condition("ledger", "Available").0,
        "True",
        "it continues as it was"
    );
    let set = world
        .server
        .object("statefulsets", NAMESPACE, "ledger-acceptor")
        .unwrap();
    assert_eq!(set["spec"]["replicas"], 3);

    // Even when the status was lost, as after a restore from a backup.
    let restored = World::with(world.server.clone(), world.nodes.clone());
    restored
        .server
        .edit_status("paxosclusters", NAMESPACE, "ledger", Value::Null);
    restored.reconcile("ledger").await.unwrap();
    assert_eq!(restored.condition("ledger", "Stalled").0, "True");
    let set = restored
        .server
        .object("statefulsets", NAMESPACE, "ledger-acceptor")
        .unwrap();
    assert_eq!(set["spec"]["replicas"], 3);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_never_taken_over() {
    let world = World::new();
    world.server.create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "ledger", "namespace": NAMESPACE },
        "spec": { "selector": { "app": "books" } },
    }));
    world.create("ledger", json!({}));
    let error = world.reconcile("ledger").await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Service ledger exists and belongs to somebody else"),
        "{error}"
    );
    assert_eq!(
        world.condition("ledger", "Ready"),
        ("False".into(), "ApplyFailed".into())
    );
    let service = world
        .server
        .object("services", NAMESPACE, "ledger")
        .unwrap();
    assert_eq!(service["spec"]["selector"], json!({ "app": "books" }));
    // Said once.
    world.take_writes();
    world.reconcile("ledger").await.unwrap_err();
    assert_eq!(world.take_writes(), []);
    // And gone with the cause.
    world.server.delete("services", NAMESPACE, "ledger");
    world.reconcile("ledger").await.unwrap();
    assert_eq!(
        world.condition("ledger", "Ready"),
        ("False".into(), "Starting".into())
    );
}

#[tokio::test]
async fn a_change_that_kubernetes_refuses_is_reported_and_holds_up_nothing_else() {
    let rigid = |size: &str| json!({ "storageClassName": RIGID, "size": size });
    let spec = json!({ "store": { "enabled": true }, "learner": { "storage": rigid("5Gi") } });
    let world = World::whole("ledger", spec).await;
    let spec = json!({ "learner": { "storage": rigid("9Gi") }, "store": null });
    world.edit_spec("ledger", spec);
    let claims = world.server.objects("persistentvolumeclaims");
    let error = world.reconcile("ledger").await.unwrap_err().to_string();
    let expected = "PersistentVolumeClaim data-ledger-learner-1 cannot grow to 9Gi: ";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(world.server.objects("persistentvolumeclaims"), claims);
    assert_eq!(
        world.condition("ledger", "Ready"),
        ("False".into(), "ApplyFailed".into())
    );
    assert_eq!(world.condition("ledger", "Available").0, "True");
    assert!(world.events().contains(&"NotReady".to_owned()));
    assert!(
        world
            .children("ledger")
            .contains("statefulsets/ledger-learner")
    );
    assert!(
        !world
            .children("ledger")
            .contains("statefulsets/ledger-store")
    );

    // It is said once, and what happens meanwhile is still reported. The lists have heard by then that
    // the stores are gone.
    world.reconcile("ledger").await.unwrap_err();
    world.take_writes();
    world.reconcile("ledger").await.unwrap_err();
    let told = world.take_writes().into_iter();
    assert_eq!(
        told.filter(|call| call.resource != "persistentvolumeclaims")
            .count(),
        0,
        "but for what is tried on the claims"
    );
    world
        .server
        .run_pods(|pod| pod.starts_with("ledger-acceptor"));
    world.reconcile("ledger").await.unwrap_err();
    assert_eq!(
        world.condition("ledger", "Available"),
        ("False".into(), "QuorumLost".into())
    );
    assert_eq!(world.status("ledger")["acceptor"]["summary"], "0/5");
}

#[tokio::test]
async fn a_pod_monitor_whose_kind_is_not_defined_is_told_and_holds_up_nothing_else() {
    let world = World::whole("ledger", json!({ "podMonitor": { "enabled": true } })).await;
    let monitor = world.server.objects("podmonitors").remove(0);
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], "http", "{monitor}");
    // What others make of it is no reason to fail.
    let odd = json!({ "spec": { "podMetricsEndpoints": [{ "targetPort": 1 }] } });
    world.server.edit("podmonitors", NAMESPACE, "ledger", odd);
    world.reconcile("ledger").await.unwrap();
    let mended = world.server.objects("podmonitors").remove(0);
    assert_eq!(mended["spec"], monitor["spec"]);

    world.server.delete("podmonitors", NAMESPACE, "ledger");
    world
        .server
        .fail("list", "podmonitors", 1, Fault::Refuse(404));
    world
        .server
        .fail("patch", "podmonitors", 1, Fault::Refuse(404));
    world.edit_spec("ledger", json!({ "debug": true }));
    let error = world.reconcile("ledger").await.unwrap_err().to_string();
    assert!(error.contains("install the Prometheus operator"), "{error}");
    assert_eq!(
        world.condition("ledger", "Ready"),
        ("False".into(), "ApplyFailed".into())
    );
    let sets = world.server.objects("statefulsets");
    assert!(sets.iter().all(|set| set.to_string().contains("DEBUG")));

    // Who asks for none needs neither the definition nor the permission.
    for code in [403, 404] {
        world.edit_spec("ledger", json!({ "podMonitor": null }));
        world
            .server
            .fail("list", "podmonitors", 1, Fault::Refuse(code));
        world.reconcile("ledger").await.unwrap();
    }
    assert!(!world.server.has_unmet_faults());
}

#[tokio::test]
async fn a_cluster_that_is_being_deleted_is_left_alone() {
    let world = World::whole("ledger", json!({})).await;
    let held = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    world
        .server
        .edit("paxosclusters", NAMESPACE, "ledger", held);
    world.server.delete("paxosclusters", NAMESPACE, "ledger");
    world.server.delete("services", NAMESPACE, "ledger");
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
    let released = json!({ "metadata": { "finalizers": null } });
    world
        .server
        .edit("paxosclusters", NAMESPACE, "ledger", released);
    assert!(
        world
            .server
            .object("paxosclusters", NAMESPACE, "ledger")
            .is_none()
    );
}

#[tokio::test]
async fn a_lost_quorum_shows_and_so_does_its_return() {
    let world = World::whole("ledger", json!({})).await;
    let down = |pod: &str| {
        [
            "ledger-acceptor-1",
            "ledger-acceptor-3",
            "ledger-acceptor-4",
        ]
        .contains(&pod)
    };
    world.server.run_pods(down);
    world.reconcile("ledger").await.unwrap();
    for kind in ["Ready", "Available"] {
        assert_eq!(
            world.condition("ledger", kind),
            ("False".into(), "QuorumLost".into())
        );
    }
    assert_eq!(world.condition("ledger", "Degraded").0, "True");
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    // The same event again is counted, not repeated.
    assert_eq!(
        world.events(),
        ["Starting", "Ready", "LeaderElected", "QuorumLost"]
    );
    let events = world.server.objects("events");
    let ready = events
        .iter()
        .find(|event| event["reason"] == "Ready")
        .unwrap();
    assert_eq!(ready["series"]["count"], 2);
}

#[tokio::test(start_paused = true)]
async fn the_permissions_used_are_these_and_no_others() {
    let expected = [
        ("", "configmaps", "create"),
        ("", "configmaps", "get"),
        ("", "configmaps", "list"),
        ("", "configmaps", "patch"),
        ("", "configmaps", "watch"),
        ("", "events", "list"),
        ("", "persistentvolumeclaims", "list"),
        ("", "persistentvolumeclaims", "patch"),
        ("", "pods", "list"),
        ("", "pods/eviction", "create"),
        ("", "pods/status", "patch"),
        ("", "services", "create"),
        ("", "services", "delete"),
        ("", "services", "get"),
        ("", "services", "list"),
        ("", "services", "patch"),
        ("", "services", "watch"),
        ("apps", "statefulsets", "create"),
        ("apps", "statefulsets", "delete"),
        ("apps", "statefulsets", "get"),
        ("apps", "statefulsets", "list"),
        ("apps", "statefulsets", "patch"),
        ("apps", "statefulsets", "watch"),
        ("clustersync.io", "paxosclusters", "get"),
        ("clustersync.io", "paxosclusters", "list"),
        ("clustersync.io", "paxosclusters", "watch"),
        ("clustersync.io", "paxosclusters/status", "patch"),
        ("coordination.k8s.io", "leases", "create"),
        ("coordination.k8s.io", "leases", "get"),
        ("coordination.k8s.io", "leases", "update"),
        ("events.k8s.io", "events", "create"),
        ("events.k8s.io", "events", "patch"),
        ("monitoring.coreos.com", "podmonitors", "create"),
        ("monitoring.coreos.com", "podmonitors", "delete"),
        ("monitoring.coreos.com", "podmonitors", "get"),
        ("monitoring.coreos.com", "podmonitors", "list"),
        ("monitoring.coreos.com", "podmonitors", "patch"),
        ("networking.k8s.io", "networkpolicies", "create"),
        ("networking.k8s.io", "networkpolicies", "delete"),
        ("networking.k8s.io", "networkpolicies", "get"),
        ("networking.k8s.io", "networkpolicies", "list"),
        ("networking.k8s.io", "networkpolicies", "patch"),
        ("networking.k8s.io", "networkpolicies", "watch"),
        ("policy", "poddisruptionbudgets", "create"),
        ("policy", "poddisruptionbudgets", "delete"),
        ("policy", "poddisruptionbudgets", "get"),
        ("policy", "poddisruptionbudgets", "list"),
        ("policy", "poddisruptionbudgets", "patch"),
        ("policy", "poddisruptionbudgets", "watch"),
    ];
    let used = every_permission().await;
    let used: Vec<_> = used
        .iter()
        .map(|(g, r, v)| (g.as_str(), r.as_str(), v.as_str()))
        .collect();
    assert_eq!(used, expected);
}
