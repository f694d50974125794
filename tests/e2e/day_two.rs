//! What is changed on a running cluster, under writers, with the operator killed in the middle.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::kubernetes::{eventually, get, kubectl, request};
use super::writers::{Committed, Writers};
use super::{NAMESPACE, RELEASE, SYSTEM, at_least, condition, leader, tale, wait_until_whole};
use testkit::table::Table;

/// How long a change of a whole cluster may take.
const CHANGED_WITHIN: Duration = Duration::from_secs(300);

/// Every pod of the full sample is replaced, one by one, the leader's last.
pub(super) async fn roll(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let before = uids("full");
    let writers = Writers::start(client, NAMESPACE, "full", "roll", 16);
    at_least(&writers, 200).await;
    let last = format!("full-proposer-{}", leader(client, "full").await);
    let started = Instant::now();
    patch("full", &json!({ "debug": true }));
    let mut order = Vec::new();
    eventually("every pod is another", CHANGED_WITHIN, || {
        for (pod, uid) in uids("full") {
            if before.get(&pod) != Some(&uid) && !order.contains(&pod) {
                order.push(pod);
            }
        }
        (order.len() == before.len()).then_some(())
    })
    .await;
    wait_until_whole("full", before.len()).await;
    let took = started.elapsed();
    at_least(&writers, writers.count() + 100).await;
    let written = writers.finish().await;
    println!("e2e: restarted in this order: {}", order.join(", "));
    let role = |pod: &String| pod.split('-').nth(1).unwrap_or_default().to_owned();
    let mut roles: Vec<_> = order.iter().map(role).collect();
    roles.dedup();
    assert_eq!(roles, ["learner", "acceptor", "proposer"]);
    assert_eq!(order.last(), Some(&last), "the leader's pod is the last");
    let events = events("Restarted");
    for pod in before.keys() {
        assert!(
            events.iter().any(|message| message.contains(pod.as_str())),
            "an event tells of {pod}: {events:#?}"
        );
    }
    let step = "roll all 12 pods of full.yaml under 16 writers";
    table.add(step, took, tale(&written));
    written.committed
}

/// A changed role restarts alone.
pub(super) async fn roll_one_role(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let before = uids("small");
    let writers = Writers::start(client, NAMESPACE, "small", "role", 4);
    at_least(&writers, 50).await;
    let started = Instant::now();
    let resources = json!({ "requests": { "cpu": "60m" } });
    patch("small", &json!({ "learner": { "resources": resources } }));
    kill_operator();
    let is_learner = |pod: &String| pod.contains("-learner-");
    eventually("every learner is another", CHANGED_WITHIN, || {
        let now = uids("small");
        let mut learners = before.iter().filter(|(pod, _)| is_learner(pod));
        learners
            .all(|(pod, uid)| now.get(pod).is_some_and(|now| now != uid))
            .then_some(())
    })
    .await;
    wait_until_whole("small", before.len()).await;
    let took = started.elapsed();
    let written = writers.finish().await;
    for (pod, uid) in uids("small") {
        assert!(is_learner(&pod) || before[&pod] == uid, "{pod} restarted");
    }
    let step = "roll the learners alone, the operator killed meanwhile";
    table.add(step, took, tale(&written));
    written.committed
}

/// A store that comes late gets everything that was written before.
pub(super) async fn switch_stores_on(
    client: &kube::Client,
    before: &[Committed],
    table: &mut Table,
) -> Vec<Committed> {
    let pods = uids("small");
    let writers = Writers::start(client, NAMESPACE, "small", "stores", 4);
    at_least(&writers, 50).await;
    let started = Instant::now();
    patch(
        "small",
        &json!({ "store": { "enabled": true, "replicas": 2 } }),
    );
    kill_operator();
    wait_until_whole("small", pods.len() + 2).await;
    let took = started.elapsed();
    at_least(&writers, writers.count() + 50).await;
    let written = writers.finish().await;
    for store in ["small-store-1", "small-store-2"] {
        read_all_at(client, store, before).await;
        read_all_at(client, store, &written.committed).await;
    }
    let values = before.len() + written.committed.len();
    let found = format!("{}; {values} values at both", tale(&written));
    table.add("switch on 2 stores, until Ready", took, found);
    written.committed
}

/// Proposers and learners come and go while nothing else restarts.
pub(super) async fn scale(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let before = uids("small");
    let writers = Writers::start(client, NAMESPACE, "small", "scale", 4);
    at_least(&writers, 50).await;
    let started = Instant::now();
    kubectl(&["scale", "paxos/small", "-n", NAMESPACE, "--replicas=3"]);
    patch("small", &json!({ "proposer": { "replicas": 5 } }));
    kill_operator();
    wait_until_whole("small", before.len() + 3).await;
    let grown = started.elapsed();
    at_least(&writers, writers.count() + 50).await;
    for (pod, uid) in &before {
        assert_eq!(uids("small").get(pod), Some(uid), "{pod} restarted");
    }
    // The new ones take part: they serve, and know the leader.
    for pod in ["small-proposer-4", "small-proposer-5"] {
        let target = format!("pods/{pod}:8080");
        let what = format!("{pod} knows the leader");
        let mut knows = false;
        for _ in 0..100 {
            let answer = request(client, NAMESPACE, &target, "/status", None).await;
            knows = answer.is_ok_and(|answer| answer.json()["leader_id"].is_u64());
            if knows {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(knows, "{what}");
    }
    // And one of them leads when all the old ones have gone at once.
    kubectl(&[
        "delete",
        "pods",
        "small-proposer-1",
        "small-proposer-2",
        "small-proposer-3",
        "-n",
        NAMESPACE,
        "--wait=false",
    ]);
    at_least(&writers, writers.count() + 50).await;
    wait_until_whole("small", before.len() + 3).await;

    let shrinking = Instant::now();
    kubectl(&["scale", "paxos/small", "-n", NAMESPACE, "--replicas=2"]);
    patch("small", &json!({ "proposer": { "replicas": 3 } }));
    kill_operator();
    wait_until_whole("small", before.len()).await;
    let shrunk = shrinking.elapsed();
    at_least(&writers, writers.count() + 100).await;
    let written = writers.finish().await;
    let step = "scale proposers 3 to 5 and learners 2 to 3, until Ready";
    table.add(step, grown, "no other pod restarted");
    table.add("and back", shrunk, tale(&written));
    written.committed
}

/// As `kubectl drain` does: acceptors are evicted, each as soon as the budget allows it.
pub(super) async fn drain(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let pods = uids("small");
    let writers = Writers::start(client, NAMESPACE, "small", "drain", 4);
    at_least(&writers, 50).await;
    let started = Instant::now();
    let mut refused = 0;
    for pod in pods.keys().filter(|pod| pod.contains("-acceptor-")) {
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "name": pod, "namespace": NAMESPACE },
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction");
        let asked = Instant::now();
        loop {
            let request = http::Request::post(&path)
                .header("content-type", "application/json")
                .body(eviction.to_string().into_bytes().into())
                .expect("a well-formed request");
            let answer = client.send(request).await.expect("the API server answers");
            match answer.status().as_u16() {
                200 | 201 => break,
                429 => refused += 1,
                status => panic!("the eviction of {pod} was answered with {status}"),
            }
            assert!(asked.elapsed() < CHANGED_WITHIN, "{pod} is never evicted");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    wait_until_whole("small", pods.len()).await;
    let took = started.elapsed();
    at_least(&writers, writers.count() + 50).await;
    let written = writers.finish().await;
    let found = format!("{}; the budget refused {refused} times", tale(&written));
    table.add(
        "evict every acceptor as the budget allows, until Ready",
        took,
        found,
    );
    written.committed
}

/// Stopped and resumed, with every value still there (which the caller reads).
pub(super) async fn stop_and_resume(table: &mut Table) {
    let pods = uids("small");
    let started = Instant::now();
    patch("small", &json!({ "stopped": true }));
    kill_operator();
    eventually("no pod is left", CHANGED_WITHIN, || {
        uids("small").is_empty().then_some(())
    })
    .await;
    eventually("Ready=False because Stopped", CHANGED_WITHIN, || {
        condition("small", "Ready")
            .filter(|ready| ready["status"] == "False" && ready["reason"] == "Stopped")
    })
    .await;
    let stopped = started.elapsed();
    let started = Instant::now();
    patch("small", &json!({ "stopped": false }));
    wait_until_whole("small", pods.len()).await;
    table.add("stop, until no pod is left", stopped, "");
    table.row("resume, until Ready", started, "");
}

/// Nothing is applied while it is paused, and all of it afterwards.
pub(super) async fn pause(table: &mut Table) {
    let before = uids("small");
    let started = Instant::now();
    let annotate = |value: &str| {
        let annotation = format!("clustersync.io/paused{value}");
        kubectl(&["annotate", "paxos", "small", "-n", NAMESPACE, &annotation]);
    };
    annotate("=true");
    patch("small", &json!({ "learner": { "replicas": 3 } }));
    eventually("Paused", CHANGED_WITHIN, || {
        condition("small", "Paused").filter(|paused| paused["status"] == "True")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(uids("small"), before, "nothing was applied");
    annotate("-");
    wait_until_whole("small", before.len() + 1).await;
    patch("small", &json!({ "learner": { "replicas": 2 } }));
    wait_until_whole("small", before.len()).await;
    table.row(
        "pause, change, resume",
        started,
        "applied after the pause only",
    );
}

/// The status tells of a lost quorum, and of its return. Paused, the operator leaves the lost ones lost.
pub(super) async fn lose_the_quorum(table: &mut Table) {
    let pods = uids("small");
    let annotate = |value: &str| {
        let annotation = format!("clustersync.io/paused{value}");
        kubectl(&["annotate", "paxos", "small", "-n", NAMESPACE, &annotation]);
    };
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        kubectl(&[
            "scale",
            "statefulset/small-acceptor",
            "-n",
            NAMESPACE,
            &replicas,
        ]);
    };
    annotate("=true");
    let started = Instant::now();
    scale("1");
    eventually("Degraded because QuorumLost", CHANGED_WITHIN, || {
        condition("small", "Degraded")
            .filter(|it| it["status"] == "True" && it["reason"] == "QuorumLost")
    })
    .await;
    let ready = condition("small", "Ready").expect("it is reported");
    assert_eq!(ready["status"], "False", "{ready}");
    table.row("lose 2 of 3 acceptors, until the status tells", started, "");
    let started = Instant::now();
    scale("3");
    eventually("all are back", CHANGED_WITHIN, || {
        let sets = get(&["statefulset", "small-acceptor", "-n", NAMESPACE]);
        (sets["status"]["readyReplicas"] == 3).then_some(())
    })
    .await;
    let back = started.elapsed();
    eventually("Available again", CHANGED_WITHIN, || {
        condition("small", "Available").filter(|it| it["status"] == "True")
    })
    .await;
    let found = format!("the pods took {:.2} s of it", back.as_secs_f64());
    table.row("and get them back, until the status tells", started, &found);
    annotate("-");
    wait_until_whole("small", pods.len()).await;
}

/// Volumes grow where their class allows it; where it does not, the status says so and all continues.
pub(super) async fn grow(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let before = uids("small");
    let writers = Writers::start(client, NAMESPACE, "small", "grow", 2);
    at_least(&writers, 50).await;
    let classes = get(&["storageclasses"]);
    let is_default = |class: &&Value| {
        class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    };
    let class = classes["items"]
        .as_array()
        .and_then(|all| all.iter().find(is_default));
    let grows = class.is_some_and(|class| class["allowVolumeExpansion"] == true);
    let started = Instant::now();
    let size = |size: &str| json!({ "learner": { "storage": { "size": size } } });
    let object = get(&["paxos", "small", "-n", NAMESPACE]);
    let was = object["spec"]["learner"]["storage"]["size"].clone();
    patch("small", &size("6Gi"));
    kill_operator();
    let found = if grows {
        eventually("the claims are larger", CHANGED_WITHIN, || {
            let claims = get(&["pvc", "-l", "clustersync.io/role=learner", "-n", NAMESPACE]);
            let claims = claims["items"].as_array().cloned().unwrap_or_default();
            // A claim whose node is gone grows when the node comes back.
            let used = |claim: &&Value| {
                let name = claim["metadata"]["name"].as_str().unwrap_or_default();
                before.contains_key(name.trim_start_matches("data-"))
            };
            let mut used = claims.iter().filter(used);
            used.all(|claim| claim["spec"]["resources"]["requests"]["storage"] == "6Gi")
                .then_some(())
        })
        .await;
        if !is_whole_soon("small", before.len()).await {
            play_the_resizer().await;
        }
        "the class allows it"
    } else {
        eventually("the status says why not", CHANGED_WITHIN, || {
            let object = get(&["paxos", "small", "-n", NAMESPACE]);
            let conditions = object["status"]["conditions"].to_string();
            conditions.contains("allowVolumeExpansion").then_some(())
        })
        .await;
        patch("small", &size(was.as_str().expect("a size")));
        "the class does not allow it, and the status says so"
    };
    wait_until_whole("small", before.len()).await;
    let took = started.elapsed();
    at_least(&writers, writers.count() + 50).await;
    let written = writers.finish().await;
    assert_eq!(uids("small"), before, "no pod restarted");
    let found = format!("{found}; {}", tale(&written));
    table.add("grow the learners' volumes", took, found);
    written.committed
}

/// Whether the volumes grow by themselves.
async fn is_whole_soon(cluster: &str, pods: usize) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        let ready = super::condition(cluster, "Ready");
        if ready.is_some_and(|ready| ready["status"] == "True") && uids(cluster).len() == pods {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    false
}

/// The class says that volumes may grow, and nothing here makes them: the status says so with each claim's
/// sizes, until they are larger, as a driver would tell.
async fn play_the_resizer() {
    let ready = super::condition("small", "Ready").expect("it has one");
    let told = ready["message"].as_str().unwrap_or_default();
    assert!(told.contains("of 6Gi"), "{ready}");
    // Those of nodes that are gone as well: they come back with a larger claim.
    let claims = get(&["pvc", "-l", "clustersync.io/role=learner", "-n", NAMESPACE]);
    for claim in claims["items"].as_array().into_iter().flatten() {
        let claim = claim["metadata"]["name"].as_str().expect("a name");
        let larger = r#"{"status":{"capacity":{"storage":"6Gi"}}}"#;
        kubectl(&[
            "patch",
            "pvc",
            claim,
            "-n",
            NAMESPACE,
            "--subresource=status",
            "--type=merge",
            "-p",
            larger,
        ]);
    }
}

/// The operator's pods, without a chance to tidy up; the Deployment brings others.
fn kill_operator() {
    let selector = format!("app.kubernetes.io/instance={RELEASE}");
    kubectl(&[
        "delete",
        "pods",
        "-l",
        &selector,
        "-n",
        SYSTEM,
        "--grace-period=0",
        "--force",
        "--wait=false",
    ]);
}

fn patch(cluster: &str, spec: &Value) {
    let patch = json!({ "spec": spec }).to_string();
    kubectl(&[
        "patch",
        "paxos",
        cluster,
        "-n",
        NAMESPACE,
        "--type=merge",
        "-p",
        &patch,
    ]);
}

/// The uid of each pod of a cluster.
fn uids(cluster: &str) -> BTreeMap<String, String> {
    let selector = format!("clustersync.io/cluster={cluster}");
    let pods = get(&["pods", "-l", &selector, "-n", NAMESPACE]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    pods.iter()
        .map(|pod| {
            (
                text(&pod["metadata"]["name"]),
                text(&pod["metadata"]["uid"]),
            )
        })
        .collect()
}

/// What the events with a reason say.
fn events(reason: &str) -> Vec<String> {
    let events = get(&["events", "-n", NAMESPACE]);
    let events = events["items"].as_array().cloned().unwrap_or_default();
    let of_reason = events.iter().filter(|event| event["reason"] == reason);
    of_reason
        .filter_map(|event| event["message"].as_str().map(str::to_owned))
        .collect()
}

/// Every value is in a store's own copy, once it has caught up.
async fn read_all_at(client: &kube::Client, pod: &str, written: &[Committed]) {
    let target = format!("pods/{pod}:8080");
    for write in written {
        let path = format!("/resource/{}?consistency=local", write.resource);
        let mut found = None;
        for _ in 0..50 {
            let answer = request(client, NAMESPACE, &target, &path, None).await;
            found = answer.ok().map(|answer| answer.json()["data"].clone());
            if found.as_ref() == Some(&write.data) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(
            found.as_ref(),
            Some(&write.data),
            "{} at {pod}",
            write.resource
        );
    }
}
