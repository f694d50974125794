//! What must not lose anything: another number of acceptors over the same volumes, every learner's volume
//! gone, acceptors' volumes that fill.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::tools::said;

use super::kubernetes::{apply, eventually, get, kubectl, request};
use super::writers::{Committed, Writers};
use super::{NAMESPACE, at_least, condition, leader, read_all, remove, tale, wait_until_whole};
use testkit::table::Table;

/// How long the operator may take to tell of a loss, and nodes to get over it.
const WITHIN: Duration = Duration::from_secs(180);
/// More than acceptors keep of what all learners have.
const MANY_WRITES: usize = 40_000;
/// As many as a batch may have, and a fraction of the bytes.
const BATCH: usize = 1000;
/// How many of the writes are read again.
const SAMPLE: usize = 500;

/// A cluster with these numbers of nodes, with these other fields.
pub(super) fn cluster(name: &str, image: &str, counts: [u8; 3], more: Value) -> Value {
    let [proposers, acceptors, learners] = counts;
    let mut spec = json!({
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "proposer": { "replicas": proposers },
        "acceptor": { "replicas": acceptors },
        "learner": { "replicas": learners },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        match (&mut spec[field], value) {
            (Value::Object(have), Value::Object(value)) => have.extend(value.clone()),
            (have, value) => *have = value.clone(),
        }
    }
    json!({
        "apiVersion": "clustersync.io/v1alpha1",
        "kind": "PaxosCluster",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": spec,
    })
}

fn pods_of(cluster: &str) -> Vec<Value> {
    let selector = format!("clustersync.io/cluster={cluster}");
    let pods = get(&["pods", "-l", &selector, "-n", NAMESPACE]);
    pods["items"].as_array().cloned().unwrap_or_default()
}

/// Deletes the object; the volumes stay.
async fn delete_object(cluster: &str) {
    kubectl(&["delete", "paxos", cluster, "-n", NAMESPACE, "--timeout=60s"]);
    eventually("its pods are gone", WITHIN, || {
        pods_of(cluster).is_empty().then_some(())
    })
    .await;
}

/// A cluster is deleted and recreated over the same volumes, with another number of acceptors: the operator
/// says what it was founded with, and starts nothing.
pub(super) async fn another_acceptor_count(client: &kube::Client, image: &str, table: &mut Table) {
    let of = |acceptors| cluster("founded", image, [2, acceptors, 2], json!({}));
    apply(&of(3));
    wait_until_whole("founded", 7).await;
    let writers = Writers::start(client, NAMESPACE, "founded", "before", 4);
    at_least(&writers, 100).await;
    let mut written = writers.finish().await.committed;
    for wrong in [1, 5] {
        delete_object("founded").await;
        let started = Instant::now();
        apply(&of(wrong));
        let stalled = eventually("Stalled", WITHIN, || {
            condition("founded", "Stalled").filter(|stalled| stalled["status"] == "True")
        })
        .await;
        let took = started.elapsed();
        let message = stalled["message"].as_str().unwrap_or_default();
        assert!(
            message.contains('3') && message.contains("acceptor"),
            "{stalled}"
        );
        // Long enough for whatever would be started to be there.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let pods = pods_of("founded");
        assert!(pods.is_empty(), "{} pods were started", pods.len());
        let step = format!("delete, apply with {wrong} acceptors instead of 3, until Stalled");
        table.add(&step, took, message);
    }
    delete_object("founded").await;
    let started = Instant::now();
    apply(&of(3));
    wait_until_whole("founded", 7).await;
    table.row("delete, apply with 3 again, until Ready", started, "");
    let writers = Writers::start(client, NAMESPACE, "founded", "after", 4);
    at_least(&writers, 100).await;
    written.extend(writers.finish().await.committed);
    let step = "read what was written before and after";
    read_all(client, step, "founded", &written, table).await;
    remove("founded");
}

/// All learners lose their volumes after the acceptors have forgotten what the learners had. With stores
/// everything comes back from them; without, the status says that it is lost, and nothing looks absent.
pub(super) async fn lose_all_learners(client: &kube::Client, image: &str, table: &mut Table) {
    let stores = json!({ "store": { "enabled": true, "replicas": 2 } });
    apply(&cluster("kept", image, [2, 3, 2], stores));
    wait_until_whole("kept", 9).await;
    let written = write_until_trimmed(client, "kept").await;
    let started = Instant::now();
    lose_volumes("kept", 2);
    wait_until_whole("kept", 9).await;
    let step = "lose both learners' volumes with 2 stores there, until Ready";
    table.row(step, started, "");
    read_all(
        client,
        "read from the learners again",
        "kept",
        &written,
        table,
    )
    .await;
    remove("kept");

    apply(&cluster("lost", image, [2, 3, 2], json!({})));
    wait_until_whole("lost", 7).await;
    let written = write_until_trimmed(client, "lost").await;
    let started = Instant::now();
    lose_volumes("lost", 2);
    let told = eventually("the status tells of the loss", WITHIN, || {
        let object = get(&["paxos", "lost", "-n", NAMESPACE]);
        let conditions = object["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|it| {
            let is = |field: &str| it[field] == "DataLost";
            (is("type") || is("reason")) && it["status"] != "Unknown"
        })
    })
    .await;
    let message = told["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("data-lost-learner-"),
        "it names claims: {told}"
    );
    let name = &written[0].resource;
    for learner in 1..=2 {
        let target = format!("pods/lost-learner-{learner}:8080");
        let path = format!("/resource/{name}?consistency=local");
        let answer = request(client, NAMESPACE, &target, &path, None).await;
        let answer = answer.expect("it serves, though it is not ready");
        assert_eq!(answer.status, 503, "lost is not absent: {}", answer.body);
    }
    let step = "the same without stores, until the status tells";
    table.row(step, started, message);
    remove("lost");
}

/// Claims and pods of all learners, at once.
fn lose_volumes(cluster: &str, learners: usize) {
    let names = |prefix: &str| -> Vec<String> {
        let names = (1..=learners).map(|k| format!("{prefix}{cluster}-learner-{k}"));
        names.collect()
    };
    let delete = |kind: &str, names: &[String]| {
        let names = names.iter().map(String::as_str);
        let head = ["delete", kind, "-n", NAMESPACE, "--wait=false"];
        let all: Vec<&str> = head.into_iter().chain(names).collect();
        kubectl(&all);
    };
    delete("pvc", &names("data-"));
    delete("pods", &names(""));
}

/// Writes until every acceptor has forgotten what learners have. Returns a sample.
async fn write_until_trimmed(client: &kube::Client, cluster: &str) -> Vec<Committed> {
    let target = format!("services/{cluster}:http");
    let mut sample = Vec::new();
    for first in (0..MANY_WRITES).step_by(BATCH) {
        let write = |n: usize| {
            json!({
                "clientId": "many", "requestId": n.to_string(), "timestamp": n,
                "operation": "WRITE", "resource": format!("many/{n}"), "data": n,
            })
        };
        let batch: Value = (first..first + BATCH).map(write).collect();
        write_batch(client, &target, &batch).await;
        sample.extend(
            (first..first + BATCH)
                .step_by(MANY_WRITES / SAMPLE)
                .map(|n| Committed {
                    resource: format!("many/{n}"),
                    data: json!(n),
                    at: Instant::now(),
                }),
        );
    }
    let started = Instant::now();
    for acceptor in 1..=3 {
        let target = format!("pods/{cluster}-acceptor-{acceptor}:8080");
        loop {
            let answer = request(client, NAMESPACE, &target, "/status", None).await;
            let trimmed = answer
                .ok()
                .and_then(|it| it.json()["trimmed_instance_id"].as_u64());
            if trimmed.is_some_and(|trimmed| trimmed > 0) {
                break;
            }
            assert!(
                started.elapsed() < WITHIN,
                "acceptor {acceptor} forgets nothing"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    sample
}

/// Sends a batch, under the same ids, until every write of it is committed.
async fn write_batch(client: &kube::Client, target: &str, batch: &Value) {
    let started = Instant::now();
    loop {
        let path = "/propose/batch?wait=true&timeoutMs=4000";
        let answer = request(client, NAMESPACE, target, path, Some(batch)).await;
        let answers = answer.as_ref().ok().map(|answer| answer.json());
        let committed = |answers: &Vec<Value>| answers.iter().all(|it| it["status"] == "COMMITTED");
        if answers
            .as_ref()
            .and_then(Value::as_array)
            .is_some_and(committed)
        {
            return;
        }
        let why = answer.map_or_else(|error| error, |answer| answer.body);
        let why: String = why.chars().take(500).collect();
        assert!(started.elapsed() < WITHIN, "not committed: {why}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Offers a folder of the node as a volume to that claim alone.
pub(super) fn offer(name: &str, class: &str, size: &str, folder: &Path, claim: &str) {
    apply(&json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name },
        "spec": {
            "storageClassName": class,
            "capacity": { "storage": size },
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": { "path": folder },
            "claimRef": { "namespace": NAMESPACE, "name": claim },
        },
    }));
}

/// A volume that is as small as it says: a file system in memory, on the node that this runs on.
struct SmallVolume(PathBuf);

impl SmallVolume {
    fn mount(folder: &Path, name: &str, size: &str) -> SmallVolume {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).expect("a folder in NODE_DIR");
        let options = format!("size={size},mode=777");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path));
        SmallVolume(path)
    }

    fn enlarge(&self, size: &str) {
        let options = format!("remount,size={size}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0));
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}

/// The acceptors' volumes fill, as one learner is away and nothing can be forgotten: writes are refused with
/// a reason, reads continue, no pod restarts, and with more room it resumes by itself. Needs NODE_DIR, a
/// folder of the one node of the Kubernetes cluster, and to run there as root, to make volumes that fill.
pub(super) async fn fill_volumes(client: &kube::Client, image: &str, table: &mut Table) {
    let Some(folder) = std::env::var_os("NODE_DIR").filter(|it| !it.is_empty()) else {
        println!("e2e: volumes that fill: SKIPPED, set NODE_DIR to a folder of the node to run it");
        return;
    };
    const CLASS: &str = "cluster-sync-e2e-small";
    const VALUE_BYTES: usize = 100_000;
    let volumes: Vec<SmallVolume> = (1..=3)
        .map(|k| {
            let name = format!("cluster-sync-e2e-{k}");
            let volume = SmallVolume::mount(Path::new(&folder), &name, "48m");
            let claim = format!("data-filling-acceptor-{k}");
            offer(&name, CLASS, "48Mi", &volume.0, &claim);
            volume
        })
        .collect();
    let storage =
        json!({ "acceptor": { "storage": { "size": "48Mi", "storageClassName": CLASS } } });
    apply(&cluster("filling", image, [2, 3, 2], storage));
    wait_until_whole("filling", 7).await;
    let restarts = || -> Vec<(Value, Value)> {
        let pods = pods_of("filling").into_iter();
        let acceptors = pods.filter(|pod| pod["metadata"]["name"].to_string().contains("acceptor"));
        acceptors
            .map(|pod| {
                let count = &pod["status"]["containerStatuses"][0]["restartCount"];
                (pod["metadata"]["uid"].clone(), count.clone())
            })
            .collect()
    };
    let before = restarts();
    assert_eq!(before.len(), 3);
    // The operator would bring the learner back.
    kubectl(&[
        "annotate",
        "paxos",
        "filling",
        "-n",
        NAMESPACE,
        "clustersync.io/paused=true",
    ]);
    let set = "statefulset/filling-learner";
    kubectl(&["scale", set, "-n", NAMESPACE, "--replicas=1"]);
    eventually("a learner is away", WITHIN, || {
        (pods_of("filling").len() == 6).then_some(())
    })
    .await;

    let started = Instant::now();
    let text = "x".repeat(VALUE_BYTES);
    let mut written = Vec::new();
    let mut refused = None;
    for n in 0..2000 {
        match write_one(client, n, &text).await {
            Ok(write) => written.push(write),
            Err(why) => {
                refused = Some(why);
                break;
            }
        }
    }
    let why = refused.expect("three volumes of 48 MiB are full after 200 MB");
    assert!(why.starts_with("503"), "{why}");
    let names_it = ["volume", "disk", "full"]
        .iter()
        .any(|word| why.contains(word));
    assert!(names_it, "the reason is given: {why}");
    table.row(
        "fill 3 volumes of 48 MiB, until writes are refused",
        started,
        &why,
    );

    let full = eventually("the status tells of it", WITHIN, || {
        condition("filling", "Degraded").filter(|degraded| degraded["reason"] == "VolumeFull")
    })
    .await;
    let message = full["message"].as_str().unwrap_or_default();
    assert!(message.contains("data-filling-acceptor-"), "{full}");
    // It stays so, and nobody falls over.
    for n in 2000..2020 {
        if let Ok(write) = write_one(client, n, &text).await {
            written.push(write);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(restarts(), before, "no acceptor restarted");
    leader(client, "filling").await;
    let step = "read while it is full";
    read_all(client, step, "filling", &written[..20], table).await;

    let started = Instant::now();
    for volume in &volumes {
        volume.enlarge("400m");
    }
    let writers = Writers::start(client, NAMESPACE, "filling", "larger", 2);
    at_least(&writers, 1).await;
    let took = started.elapsed();
    at_least(&writers, 50).await;
    let more = writers.finish().await;
    table.add(
        "enlarge them, until a write is committed",
        took,
        tale(&more),
    );
    assert_eq!(restarts(), before, "no acceptor restarted");
    kubectl(&["scale", set, "-n", NAMESPACE, "--replicas=2"]);
    kubectl(&[
        "annotate",
        "paxos",
        "filling",
        "-n",
        NAMESPACE,
        "clustersync.io/paused-",
    ]);
    wait_until_whole("filling", 7).await;
    written.extend(more.committed);
    let step = "read after they were full";
    read_all(client, step, "filling", &written, table).await;
    remove("filling");
    for k in 1..=3 {
        kubectl(&[
            "delete",
            "pv",
            &format!("cluster-sync-e2e-{k}"),
            "--wait=false",
        ]);
    }
}

/// One large write, or the answer by which it was refused. An outcome that is unknown is asked for again.
async fn write_one(client: &kube::Client, n: usize, text: &str) -> Result<Committed, String> {
    let (resource, data) = (format!("large/{n}"), json!(format!("{n} {text}")));
    let proposal = json!({
        "clientId": "large", "requestId": n.to_string(), "timestamp": n,
        "operation": "WRITE", "resource": resource, "data": data,
    });
    let path = "/propose?wait=true&timeoutMs=4000";
    let started = Instant::now();
    let mut refusals = 0;
    loop {
        let target = "services/filling:http";
        let why = match request(client, NAMESPACE, target, path, Some(&proposal)).await {
            Ok(answer) if answer.json()["status"] == "COMMITTED" => {
                let at = Instant::now();
                return Ok(Committed { resource, data, at });
            }
            Ok(answer) if answer.status == 503 => {
                refusals += 1;
                format!("503 {}", answer.body)
            }
            Ok(answer) => format!("{} {}", answer.status, answer.body),
            Err(error) => error,
        };
        // One refusal may be an election's.
        if refusals >= 5 || started.elapsed() > Duration::from_secs(60) {
            return Err(why);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
