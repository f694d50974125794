//! Several operators: one works, and another takes over only when it has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use operator::context::Options;
use operator::defaults::Defaults;
use operator::lease::{Election, Held, Lost};
use operator::telemetry::Phase;
use serde_json::{Value, json};
use testkit::kube::scenarios::{NAMESPACE, SYSTEM, World};
use testkit::kube::{ApiServer, Fault, Line, Nodes};
use tokio::time::Instant;

fn holder(server: &ApiServer) -> Value {
    let lease = server.object("leases", SYSTEM, "paxos-operator");
    lease.unwrap_or_default()["spec"]["holderIdentity"].take()
}

/// Two operators of which the first works.
async fn two() -> (World, World) {
    let mut first = World::new();
    let mut second = World::with(first.server.clone(), first.nodes.clone());
    std::mem::forget(first.stand("first"));
    first.pass(2).await;
    std::mem::forget(second.stand("second"));
    first.pass(30).await;
    assert_eq!(holder(&first.server), "first");
    let phases = (first.metrics.phase(), second.metrics.phase());
    assert_eq!(phases, (Phase::Working, Phase::Standby));
    let text = second.metrics.text();
    assert!(text.contains("\npaxos_operator_leader 0\n"), "{text}");
    (first, second)
}

/// How long it takes until that operator works, to the second.
async fn until_it_works(world: &World) -> u64 {
    for second in 0..60 {
        if world.metrics.phase() == Phase::Working {
            return second;
        }
        world.pass(1).await;
    }
    panic!("it does not take over");
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_dies_is_replaced_within_20_seconds() {
    let (mut first, second) = two().await;
    first.stop();
    assert!(until_it_works(&second).await < 20);
    let text = second.metrics.text();
    assert!(text.contains("\npaxos_operator_leader 1\n"), "{text}");
    second.create("ledger", json!({}));
    second.pass(5).await;
    assert!(!second.children("ledger").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_ends_lets_the_lease_go() {
    let mut first = World::new();
    let mut second = World::with(first.server.clone(), first.nodes.clone());
    let end = first.stand("first");
    first.pass(2).await;
    let _end = second.stand("second");
    second.pass(10).await;
    end.send(()).unwrap();
    assert!(first.ended().await.is_ok());
    assert_ne!(holder(&first.server), "first");
    assert!(until_it_works(&second).await <= 2);
    let lease = second.server.object("leases", SYSTEM, "paxos-operator");
    assert_eq!(lease.unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_cut_off_ends_before_another_works() {
    let (mut first, second) = two().await;
    first.line.cut();
    let lost = first.ended().await.unwrap_err();
    assert!(matches!(lost, Lost::NotRenewed { .. }), "{lost}");
    assert_eq!(second.metrics.phase(), Phase::Standby);
    until_it_works(&second).await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_whose_lease_is_deleted_or_taken_ends() {
    let (mut first, _second) = two().await;
    first.server.delete("leases", SYSTEM, "paxos-operator");
    let lost = first.ended().await.unwrap_err();
    assert!(matches!(lost, Lost::Taken { .. }), "{lost}");

    let (mut first, mut second) = two().await;
    let thief = json!({ "spec": { "holderIdentity": "thief" } });
    second.stop();
    let server = &first.server;
    server.edit("leases", SYSTEM, "paxos-operator", thief);
    let lost = first.ended().await.unwrap_err();
    assert!(matches!(lost, Lost::Taken { .. }), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_remark_on_the_lease_costs_nobody_the_lead() {
    let (first, _second) = two().await;
    let remark = json!({ "metadata": { "annotations": { "mine": "yes" } } });
    let server = &first.server;
    server.edit("leases", SYSTEM, "paxos-operator", remark);
    first.pass(60).await;
    assert_eq!(first.metrics.phase(), Phase::Working);
    assert_eq!(holder(&first.server), "first");
}

/// Competes for the lease for a minute, then stops; asserts that it works alone.
async fn compete(server: ApiServer, name: String, working: Arc<AtomicUsize>) {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let election = Election::new(server.client(), SYSTEM, "paxos-operator", &name);
        let Ok(held) = tokio::time::timeout_at(until, election.win()).await else {
            return;
        };
        let _ = Held::during(held, async {
            struct Alone<'a>(&'a AtomicUsize);
            impl Drop for Alone<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            let others = working.fetch_add(1, Ordering::SeqCst);
            let _alone = Alone(&working);
            assert_eq!(others, 0, "{name} works while another does");
            tokio::time::sleep(Duration::from_secs(7)).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_two_work_at_once_whatever_call_about_the_lease_fails() {
    let faults = [
        Fault::Refuse(409),
        Fault::Refuse(500),
        Fault::LoseAnswer(500),
        Fault::LoseAnswer(409),
        Fault::Reset,
    ];
    let mut lives = 0;
    for verb in ["create", "get", "update"] {
        for nth in 1..=12 {
            for fault in faults {
                let server = ApiServer::new();
                server.fail(verb, "leases", nth, fault);
                // Twice in a row, as in an outage.
                server.fail(verb, "leases", nth, fault);
                let working = Arc::new(AtomicUsize::new(0));
                let three = ["a", "b", "c"].map(|name| {
                    tokio::spawn(compete(server.clone(), name.to_owned(), working.clone()))
                });
                for competitor in three {
                    competitor.await.expect("nobody works beside another");
                }
                lives += 1;
                let lease = server.object("leases", SYSTEM, "paxos-operator").unwrap();
                let changes = lease["spec"]["leaseTransitions"].as_i64();
                assert!(changes >= Some(2), "{fault:?} at {verb} {nth}: {lease}");
            }
        }
    }
    assert_eq!(lives, 3 * 12 * faults.len());
}

#[tokio::test(start_paused = true)]
async fn a_missing_crd_is_waited_for() {
    let mut world = World::new();
    for _ in 0..3 {
        world
            .server
            .fail("list", "paxosclusters", 1, Fault::Refuse(404));
    }
    world.create("ledger", json!({}));
    let _end = world.stand("one");
    world.pass(3).await;
    assert_eq!(world.metrics.phase(), Phase::Waiting);
    assert_eq!(holder(&world.server), Value::Null, "nobody leads in vain");
    world.pass(60).await;
    assert_eq!(world.metrics.phase(), Phase::Working);
    assert!(!world.children("ledger").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_operator_of_some_namespaces_looks_nowhere_else() {
    let namespaces = vec![NAMESPACE.to_owned(), "bank".to_owned()];
    let options = Options {
        namespaces: namespaces.clone(),
        defaults: Defaults {
            image: Some("mirror.example.com/sync:1".to_owned()),
            ..Defaults::default()
        },
        ..Options::default()
    };
    let mut world = World::told(ApiServer::new(), Nodes::default(), options);
    let cluster = |namespace: &str| {
        world.server.create(json!({
            "apiVersion": "clustersync.io/v1alpha1",
            "kind": "PaxosCluster",
            "metadata": { "name": "ledger", "namespace": namespace },
            "spec": {},
        }));
    };
    for namespace in [NAMESPACE, "bank", "elsewhere"] {
        cluster(namespace);
    }
    let _end = world.stand("one");
    world.pass(60).await;
    let set = |namespace: &str| {
        let set = world
            .server
            .object("statefulsets", namespace, "ledger-acceptor");
        set.map(|set| set["spec"]["template"]["spec"]["containers"][0]["image"].clone())
    };
    let image = Some(json!("mirror.example.com/sync:1"));
    assert_eq!((set(NAMESPACE), set("bank")), (image.clone(), image));
    assert_eq!(set("elsewhere"), None);
    let calls = world.server.calls();
    let strays: Vec<_> = calls
        .iter()
        .filter(|call| match &call.namespace {
            Some(namespace) => !namespaces.contains(namespace) && namespace != SYSTEM,
            None => true,
        })
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_cut_answers_nothing() {
    let (server, line) = (ApiServer::new(), Line::default());
    line.cut();
    let election = Election::new(server.client_over(&line), SYSTEM, "paxos-operator", "one");
    let waited = tokio::time::timeout(Duration::from_secs(60), election.win()).await;
    assert!(waited.is_err());
    assert_eq!(server.calls(), []);
}
