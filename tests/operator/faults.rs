//! Everything that goes wrong, at every call: the end is always the same.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use operator::crd::CONDITIONS;
use serde_json::{Value, json};
use testkit::kube::scenarios::{NAMESPACE, World};
use testkit::kube::{ApiServer, Call, Fault};

/// How a call that changes something may fail; one that looks is not lost on its way back.
const FAULTS: [Fault; 5] = [
    Fault::LoseAnswer(500),
    Fault::Refuse(409),
    Fault::Refuse(429),
    Fault::Refuse(500),
    Fault::Reset,
];

/// How calls fail that are like others before them.
const OFTEN: [Fault; 1] = [Fault::LoseAnswer(500)];

/// Lives through creation, a change of scale and the growth of volumes, until all is as it should be.
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
    world.edit_spec(
        "ledger",
        json!({ "learner": { "storage": { "size": "9Gi", "retention": { "whenDeleted": "Delete" } } } }),
    );
    world.pass(80).await;
    world.server.run_pods(|_| false);
    world.pass(40).await;
}

/// Lives through another image, until every pod has it.
async fn roll(world: &mut World) {
    world.start();
    world.start_pods(|_| false);
    world.edit_spec("ledger", json!({ "image": "nodes:2" }));
    world.pass(40).await;
}

/// Lives through a change that waits for the end of a pause, and through a stop.
async fn pause_and_stop(world: &mut World) {
    world.start();
    world.start_pods(|_| false);
    let pause = |paused: Value| {
        let patch = json!({ "metadata": { "annotations": { "clustersync.io/paused": paused } } });
        world
            .server
            .edit("paxosclusters", NAMESPACE, "ledger", patch);
    };
    pause(json!("true"));
    world.edit_spec(
        "ledger",
        json!({ "learner": { "priorityClassName": "high" } }),
    );
    world.pass(10).await;
    pause(Value::Null);
    world.pass(30).await;
    world.edit_spec("ledger", json!({ "stopped": true }));
    world.pass(30).await;
    world.edit_spec("ledger", json!({ "stopped": false }));
    world.pass(40).await;
}

async fn smallest() -> World {
    let one = json!({ "replicas": 1 });
    let spec = json!({ "proposer": one, "acceptor": one, "learner": one });
    let world = World::whole("ledger", spec).await;
    world.take_writes();
    world
}

/// The state to end in: what is owned, how it is specified, what is said of it.
fn end(server: &ApiServer, world: &World) -> Vec<Value> {
    let kinds = [
        "statefulsets",
        "services",
        "configmaps",
        "poddisruptionbudgets",
        "persistentvolumeclaims",
    ];
    let mut end: Vec<Value> = kinds
        .into_iter()
        .flat_map(|plural| server.objects(plural))
        // Whether there ever were stores is a matter of when the operator came.
        .filter(|object| object["metadata"]["labels"]["clustersync.io/role"] != "store")
        .map(|object| json!([object["metadata"]["name"], object["spec"], object["data"]]))
        .collect();
    let pods = server.objects("pods").into_iter();
    // Pods keep the addresses of when they were made.
    end.extend(pods.map(|mut pod| {
        let image = pod["spec"]["containers"][0]["image"].take();
        let annotations = pod["metadata"]["annotations"].take();
        json!([pod["metadata"]["name"], image, annotations])
    }));
    end.push(json!(
        CONDITIONS.map(|kind| world.condition("ledger", kind))
    ));
    end
}

/// A runtime in which time passes when there is nothing to do.
fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap()
}

#[test]
fn a_fault_at_any_call_changes_nothing_about_the_end() {
    let (expected, calls) = runtime().block_on(async {
        let mut undisturbed = World::new();
        live(&mut undisturbed).await;
        assert_eq!(undisturbed.condition("ledger", "Ready").0, "True");
        let expected = end(&undisturbed.server, &undisturbed);
        (expected, undisturbed.server.calls())
    });
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
    let mut lives = Vec::new();
    for (verb, resource) in &kinds {
        // Every write, but of the reads, which are the same again and again, the first three.
        let (calls, faults) = match verb.as_str() {
            "get" | "list" | "watch" => (3, &FAULTS[3..]),
            // What the kubelets get is the same for each pod; `scaling` goes through it.
            _ if resource == "pods/status" => (2, &FAULTS[..]),
            _ => (usize::MAX, &FAULTS[..]),
        };
        for nth in 1..=count(verb, resource).min(calls) {
            // Each is tried; what fails differently is tried of the first ones of a kind.
            let faults = if nth > 6 { &OFTEN[..] } else { faults };
            lives.extend(faults.iter().map(|fault| (verb, resource, nth, *fault)));
        }
    }
    assert!(lives.len() > 150, "only {} faults are tried", lives.len());
    // It is the longest test of all: two threads share it.
    let (first, second) = lives.split_at(lives.len() / 2);
    std::thread::scope(|scope| {
        for half in [first, second] {
            let expected = &expected;
            scope.spawn(move || {
                for (verb, resource, nth, fault) in half {
                    let reached = runtime().block_on(async {
                        let mut world = World::new();
                        world.server.fail(verb, resource, *nth, *fault);
                        live(&mut world).await;
                        let met = !world.server.has_unmet_faults();
                        assert!(met, "{verb} {resource} {nth} was reached");
                        end(&world.server, &world)
                    });
                    let at = format!("{fault:?} at {verb} {resource} number {nth}");
                    assert_eq!(&reached, expected, "{at}");
                }
            });
        }
    });
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
async fn a_roll_comes_through_a_fault_or_a_death_at_any_of_its_writes() {
    // An operator that dies right after an eviction has done it, and nobody does it again.
    come_through(roll, 3..=3).await;
}

#[tokio::test(start_paused = true)]
async fn so_do_a_pause_a_stop_and_what_comes_after_them() {
    // An operator that is dead all along leaves the next one less to do.
    come_through(pause_and_stop, 1..=1).await;
}

/// At each write that an undisturbed life makes, a fault or a death; the end is the same.
async fn come_through(live: impl AsyncFn(&mut World), evictions: RangeInclusive<usize>) {
    let mut undisturbed = smallest().await;
    live(&mut undisturbed).await;
    let expected = end(&undisturbed.server, &undisturbed);
    assert!(evictions.contains(&undisturbed.restarted().len()));
    assert_eq!(undisturbed.condition("ledger", "Ready").0, "True");
    let writes = undisturbed.take_writes();
    assert!(writes.len() > 10, "{writes:?}");
    for (at, write) in writes.iter().enumerate() {
        let before = &writes[..at];
        let like = |call: &&Call| (&call.verb, &call.resource) == (&write.verb, &write.resource);
        let nth = before.iter().filter(like).count() + 1;
        for fault in [Fault::LoseAnswer(500), Fault::Refuse(429), Fault::Reset] {
            let mut world = smallest().await;
            world.server.fail(&write.verb, &write.resource, nth, fault);
            live(&mut world).await;
            let reached = end(&world.server, &world);
            let Call { verb, resource, .. } = write;
            assert_eq!(reached, expected, "{fault:?} at {verb} {resource} {nth}");
        }

        let mut first = smallest().await;
        first.server.cut_off_after_writes(at);
        live(&mut first).await;
        first.stop();
        first.server.reconnect();
        let mut second = World::with(first.server.clone(), first.nodes.clone());
        second.start();
        second.pass(60).await;
        let reached = end(&second.server, &second);
        assert_eq!(reached, expected, "killed after write {at}");
        let evicted = second.restarted();
        assert!(evictions.contains(&evicted.len()), "{evicted:?}");
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
