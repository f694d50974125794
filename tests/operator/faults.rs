//! Everything that goes wrong, at every call: the end is always the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::kube::scenarios::{NAMESPACE, World};
use tests::kube::{ApiServer, Fault};

/// How a call that changes something may fail; one that looks is not lost on its way back.
const FAULTS: [Fault; 5] = [
    Fault::LoseAnswer(500),
    Fault::Refuse(409),
    Fault::Refuse(429),
    Fault::Refuse(500),
    Fault::Reset,
];

/// Lives through creation and a change of scale, until all is as it should be.
async fn live(world: &mut World) {
    world.start();
    world.create("ledger", json!({ "store": { "enabled": true } }));
    world.pass(10).await;
    world.server.run_pods(|_| false);
    world.nodes.say(2, 1, 10);
    world.pass(10).await;
    world.edit_spec(
        "ledger",
        json!({ "learner": { "replicas": 3 }, "store": null }),
    );
    world.pass(40).await;
    world.server.run_pods(|_| false);
    world.pass(40).await;
}

/// The state to end in: what is owned, how it is specified, what is said of it.
fn end(server: &ApiServer, world: &World) -> Vec<Value> {
    let mut end: Vec<Value> = ["statefulsets", "services", "poddisruptionbudgets"]
        .into_iter()
        .flat_map(|plural| server.objects(plural))
        .map(|object| json!([object["metadata"]["name"], object["spec"]]))
        .collect();
    let conditions = ["Ready", "Available", "Progressing", "Degraded", "Stalled"];
    end.push(json!(
        conditions.map(|kind| world.condition("ledger", kind))
    ));
    end
}

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_call_changes_nothing_about_the_end() {
    let mut undisturbed = World::new();
    live(&mut undisturbed).await;
    let expected = end(&undisturbed.server, &undisturbed);
    assert_eq!(undisturbed.condition("ledger", "Ready").0, "True");
    let calls = undisturbed.server.calls();
    let count = |verb: &str, resource: &str| {
        calls
            .iter()
            .filter(|call| call.verb == verb && call.resource == resource)
            .count()
    };
    let kinds: BTreeSet<_> = calls
        .iter()
        .map(|call| (call.verb.clone(), call.resource.clone()))
        .collect();
    let mut lives = 0;
    for (verb, resource) in &kinds {
        // Every write, but of the reads, which are the same again and again, the first three.
        let (calls, faults) = match verb.as_str() {
            "get" | "list" | "watch" => (3, &FAULTS[3..]),
            _ => (usize::MAX, &FAULTS[..]),
        };
        for nth in 1..=count(verb, resource).min(calls) {
            for &fault in faults {
                let mut world = World::new();
                world.server.fail(verb, resource, nth, fault);
                live(&mut world).await;
                lives += 1;
                assert!(
                    !world.server.has_unmet_faults(),
                    "{verb} {resource} {nth} was reached"
                );
                let reached = end(&world.server, &world);
                assert_eq!(
                    reached, expected,
                    "{fault:?} at {verb} {resource} number {nth}"
                );
            }
        }
    }
    assert!(lives > 150, "only {lives} faults were tried");
}

#[tokio::test(start_paused = true)]
async fn an_operator_killed_after_any_write_is_taken_over_by_the_next() {
    let mut undisturbed = World::new();
    live(&mut undisturbed).await;
    let expected = end(&undisturbed.server, &undisturbed);
    let writes = undisturbed.take_writes().len();
    assert!(writes > 20, "only {writes} writes");
    for write in 0..writes {
        let mut first = World::new();
        // Nothing that it does after this write reaches the server.
        first.server.cut_off_after_writes(write);
        live(&mut first).await;
        first.stop();
        first.server.reconnect();

        let mut second = World::with(first.server.clone(), first.nodes.clone());
        second.start();
        second.pass(60).await;
        second.server.run_pods(|_| false);
        second.pass(60).await;
        assert_eq!(
            end(&second.server, &second),
            expected,
            "killed after write {write}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_watches_and_forgotten_history_lose_no_change() {
    let mut world = World::whole("ledger", json!({})).await;
    world.start();
    world.pass(10).await;
    for (learners, forget) in [(3, false), (4, true), (5, false), (6, true)] {
        if forget {
            world.server.compact();
        } else {
            world.server.drop_watches();
        }
        world.edit_spec("ledger", json!({ "learner": { "replicas": learners } }));
        // Long enough for the watch's back-off, too short for the half-minute's look to hide a loss.
        world.pass(25).await;
        let set = world
            .server
            .object("statefulsets", NAMESPACE, "ledger-learner")
            .unwrap();
        assert_eq!(
            set["spec"]["replicas"], learners,
            "history forgotten: {forget}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_out_for_minutes_is_waited_for() {
    let mut world = World::new();
    world.create("ledger", json!({}));
    for _ in 0..40 {
        world.server.fail("list", "statefulsets", 1, Fault::Reset);
        world
            .server
            .fail("patch", "services", 1, Fault::Refuse(503));
    }
    world.start();
    world.pass(3600).await;
    assert!(!world.children("ledger").is_empty());
    assert!(!world.server.has_unmet_faults(), "every fault was met");
    let text = world.metrics.text();
    let sum = |series: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(series));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    };
    for series in [
        "paxos_operator_reconciliations_total{result=\"error\"}",
        "paxos_operator_reconcile_errors_total{reason=\"apply\"}",
        "paxos_operator_api_errors_total{code=\"503\"}",
        "paxos_operator_api_errors_total{code=\"none\"}",
    ] {
        assert!(sum(series) > 0, "{series} in {text}");
    }
    let clusters = sum("paxos_operator_clusters{condition=\"Ready\"");
    assert_eq!(clusters, 1, "{text}");
}
