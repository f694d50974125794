//! Nodes come and go: what the lists say, what the StatefulSets say, and in which order.

use serde_json::{Value, json};
use testkit::kube::Fault;
use testkit::kube::scenarios::{NAMESPACE, World};

/// How many addresses a list has.
fn listed(world: &World, list: &str) -> usize {
    let map = world
        .server
        .object("configmaps", NAMESPACE, "ledger-members");
    let map = map.expect("there is always one");
    let list = map["data"][list].as_str().expect("a list");
    list.split(',')
        .filter(|address| !address.is_empty())
        .count()
}

fn replicas(world: &World, role: &str) -> Value {
    let name = format!("ledger-{role}");
    let set = world.server.object("statefulsets", NAMESPACE, &name);
    set.map_or(Value::Null, |set| set["spec"]["replicas"].clone())
}

async fn scale(world: &World, spec: Value) {
    world.edit_spec("ledger", spec);
    world.reconcile("ledger").await.unwrap();
}

/// Lets pods come and go, and the operator see it.
async fn settle(world: &World) {
    world.server.run_pods(|_| false);
    world.reconcile("ledger").await.unwrap();
}

#[tokio::test]
async fn lists_grow_before_there_are_pods_and_shrink_when_they_are_gone() {
    let world = World::whole("ledger", json!({})).await;
    world.take_writes();
    scale(&world, json!({ "proposer": { "replicas": 7 } })).await;
    assert_eq!(listed(&world, "PROPOSERS"), 7);
    assert_eq!(replicas(&world, "proposer"), 7);
    let writes = world.take_writes();
    let first = |resource: &str| writes.iter().position(|call| call.resource == resource);
    assert!(first("configmaps") < first("statefulsets"), "{writes:?}");
    // The pods that run hear of it, and no pod template did but for the environment of new ones.
    let nudged = writes
        .iter()
        .filter(|call| call.resource == "pods/status")
        .count();
    assert_eq!(nudged, 5 + 5 + 2);
    settle(&world).await;
    assert_eq!(world.condition("ledger", "Ready").0, "True");

    scale(&world, json!({ "proposer": { "replicas": 3 } })).await;
    assert_eq!(
        (listed(&world, "PROPOSERS"), replicas(&world, "proposer")),
        (7, json!(3))
    );
    settle(&world).await;
    assert_eq!(listed(&world, "PROPOSERS"), 3);
    assert_eq!(listed(&world, "ACCEPTORS"), 5);
    world.take_writes();
    world.reconcile("ledger").await.unwrap();
    assert_eq!(world.take_writes(), []);
}

#[tokio::test]
async fn stores_are_listed_from_before_they_come_until_they_are_gone() {
    let world = World::whole("ledger", json!({})).await;
    assert_eq!(listed(&world, "STORES"), 0);
    scale(&world, json!({ "store": { "enabled": true } })).await;
    assert_eq!(
        (listed(&world, "STORES"), replicas(&world, "store")),
        (3, json!(3))
    );
    settle(&world).await;
    scale(&world, json!({ "store": null })).await;
    // Here the pods go together with their set.
    assert_eq!(
        (listed(&world, "STORES"), replicas(&world, "store")),
        (3, Value::Null)
    );
    settle(&world).await;
    assert_eq!(listed(&world, "STORES"), 0);
}

#[tokio::test]
async fn learners_leave_one_by_one_and_not_before_one_that_stays_has_everything() {
    let world = World::whole("ledger", json!({ "learner": { "replicas": 3 } })).await;
    world.nodes.forget(5, 1);
    scale(&world, json!({ "learner": { "replicas": 1 } })).await;
    settle(&world).await;
    assert_eq!(
        replicas(&world, "learner"),
        3,
        "learner 1 has nothing on disk"
    );
    let (ready, reason) = world.condition("ledger", "Progressing");
    assert_eq!((ready.as_str(), reason.as_str()), ("True", "RollingOut"));
    let status = world.status("ledger").to_string();
    assert!(
        status.contains("learners 1 to 1 has instance 5 on disk"),
        "{status}"
    );

    world.nodes.forget(5, 0);
    world.reconcile("ledger").await.unwrap();
    assert_eq!(
        (replicas(&world, "learner"), listed(&world, "LEARNERS")),
        (json!(2), 3)
    );
    world.reconcile("ledger").await.unwrap();
    assert_eq!(
        replicas(&world, "learner"),
        2,
        "the third pod is not gone yet"
    );
    settle(&world).await;
    assert_eq!(
        (replicas(&world, "learner"), listed(&world, "LEARNERS")),
        (json!(1), 2)
    );
    settle(&world).await;
    assert_eq!(
        (replicas(&world, "learner"), listed(&world, "LEARNERS")),
        (json!(1), 1)
    );
    assert_eq!(world.condition("ledger", "Ready").0, "True");
}

/// Up with every role that can be scaled, and down again.
async fn up_and_down(world: &mut World) {
    world.start();
    let specs = [
        json!({ "proposer": { "replicas": 5 }, "learner": { "replicas": 3 }, "store": { "enabled": true } }),
        json!({ "proposer": { "replicas": 3 }, "learner": { "replicas": 1 }, "store": null }),
    ];
    for spec in specs {
        world.edit_spec("ledger", spec);
        world.pass(10).await;
        for _ in 0..3 {
            world.server.run_pods(|_| false);
            world.pass(10).await;
        }
    }
    // By now a look without a reason is due.
    world.pass(35).await;
}

async fn small() -> World {
    let spec = json!({ "proposer": { "replicas": 3 }, "acceptor": { "replicas": 3 } });
    let world = World::whole("ledger", spec).await;
    world.take_writes();
    world
}

fn assert_down(world: &World, what: &str) {
    let sizes = ["PROPOSERS", "ACCEPTORS", "LEARNERS", "STORES"].map(|list| listed(world, list));
    assert_eq!(sizes, [3, 3, 1, 0], "{what}");
    let sets = ["proposer", "acceptor", "learner", "store"].map(|role| replicas(world, role));
    assert_eq!(sets, [json!(3), json!(3), json!(1), Value::Null], "{what}");
    let pods = world.server.objects("pods");
    assert_eq!(pods.len(), 3 + 3 + 1, "{what}");
    let nudged = |pod: &Value| pod["metadata"]["annotations"]["clustersync.io/members"].clone();
    let first = nudged(&pods[0]);
    assert!(
        first.is_string() && pods.iter().all(|pod| nudged(pod) == first),
        "{what}"
    );
    assert_eq!(world.condition("ledger", "Ready").0, "True", "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_call_of_scaling_changes_nothing_about_the_end() {
    let mut undisturbed = small().await;
    up_and_down(&mut undisturbed).await;
    assert_down(&undisturbed, "undisturbed");
    let calls = undisturbed.take_writes();
    let mut lives = 0;
    for resource in ["configmaps", "statefulsets", "pods/status"] {
        let count = calls
            .iter()
            .filter(|call| call.verb == "patch" && call.resource == resource);
        // One pod is notified like the other.
        let step = if resource == "pods/status" { 5 } else { 1 };
        for nth in (1..=count.count()).step_by(step) {
            for fault in [Fault::LoseAnswer(500), Fault::Refuse(409), Fault::Reset] {
                let mut world = small().await;
                world.server.fail("patch", resource, nth, fault);
                up_and_down(&mut world).await;
                assert!(!world.server.has_unmet_faults(), "{resource} {nth}");
                assert_down(
                    &world,
                    &format!("{fault:?} at patch {resource} number {nth}"),
                );
                lives += 1;
            }
        }
    }
    assert!(lives > 50, "only {lives} faults were tried");
}

#[tokio::test(start_paused = true)]
async fn an_operator_killed_after_any_write_of_scaling_is_taken_over_by_the_next() {
    let mut undisturbed = small().await;
    up_and_down(&mut undisturbed).await;
    let writes = undisturbed.take_writes().len();
    assert!(writes > 40, "only {writes} writes");
    for write in 0..writes {
        let mut first = small().await;
        first.server.cut_off_after_writes(write);
        up_and_down(&mut first).await;
        first.stop();
        first.server.reconnect();
        let mut second = World::with(first.server.clone(), first.nodes.clone());
        second.start();
        for _ in 0..4 {
            second.pass(10).await;
            second.server.run_pods(|_| false);
        }
        second.pass(35).await;
        assert_down(&second, &format!("killed after write {write}"));
    }
}
