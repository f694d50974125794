//! Namespaces that are looked after one by one: each for itself.

use operator::context::Options;
use serde_json::{Value, json};
use testkit::kube::scenarios::World;
use testkit::kube::{ApiServer, Nodes};

fn both() -> World {
    let options = Options {
        namespaces: ["shop", "bank"].map(str::to_owned).into(),
        ..Options::default()
    };
    World::told(ApiServer::new(), Nodes::default(), options)
}

fn create(world: &World, namespace: &str, name: &str) {
    world.server.create(json!({
        "apiVersion": "clustersync.io/v1alpha1",
        "kind": "PaxosCluster",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {},
    }));
}

fn served(world: &World, namespace: &str, name: &str) -> bool {
    world.server.object("services", namespace, name).is_some()
}

fn up(world: &World, namespace: &str) -> bool {
    let text = world.metrics.text();
    let series = format!("paxos_operator_namespace_up{{namespace=\"{namespace}\"}} 1");
    text.contains(&series)
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_gone_at_the_start_holds_up_no_other() {
    let mut world = both();
    world.server.close("bank");
    create(&world, "shop", "ledger");
    world.start();
    world.pass(60).await;
    assert!(served(&world, "shop", "ledger"));
    assert_eq!((up(&world, "shop"), up(&world, "bank")), (true, false));
    // It comes back.
    world.server.open("bank");
    create(&world, "bank", "books");
    world.pass(60).await;
    assert!(served(&world, "bank", "books"));
    assert!(up(&world, "bank"));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_meanwhile_holds_up_no_other_and_asks_for_little() {
    let mut world = both();
    create(&world, "shop", "ledger");
    create(&world, "bank", "books");
    world.start();
    world.pass(30).await;
    assert!(served(&world, "bank", "books"));
    world.server.close("bank");
    world.pass(60).await;
    assert!(!up(&world, "bank"));
    world.server.delete("services", "shop", "ledger");
    world.pass(5).await;
    assert!(served(&world, "shop", "ledger"), "the other is repaired");
    world.server.take_calls();
    world.pass(600).await;
    let calls = world.server.take_calls();
    let lost = calls
        .iter()
        .filter(|call| call.namespace.as_deref() == Some("bank"));
    assert!(lost.count() <= 25, "one look in half a minute");
    world.server.open("bank");
    world.server.delete("services", "bank", "books");
    world.pass(60).await;
    assert!(served(&world, "bank", "books") && up(&world, "bank"));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_on_its_end_is_no_failure_of_its_clusters() {
    let world = World::whole("ledger", json!({})).await;
    let before = world.events().len();
    let ending = json!({ "details": { "causes": [{ "reason": "NamespaceTerminating" }] } });
    world.server.refuse_creations(ending);
    world.server.delete("services", "shop", "ledger");
    world.reconcile("ledger").await.unwrap_err();
    assert_eq!(world.events().len(), before);
    assert_eq!(world.condition("ledger", "Ready").0, "True");
    let conditions: Value = world.status("ledger")["conditions"].take();
    assert!(
        !conditions.to_string().contains("terminated"),
        "{conditions}"
    );
}
