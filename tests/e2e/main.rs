//! The whole path on a real Kubernetes: the chart, PaxosClusters, clients, lost pods, rest, changes of
//! every kind with the operator killed in the middle, deletion.
//! Needs KUBECONFIG and IMAGE (an image with both programs that the Kubernetes cluster has or can
//! pull); CLIENT_IMAGE is any image with bash, for a client inside a pod. Without the first two it says
//! so and ends. With NODE_DIR, a folder of the one node, run there as root, volumes are filled as well.
//! E2E_ONLY=losses runs the losses alone, E2E_ONLY=neighbours the causes and other people's tools. What it leaves after a failure is for inspection; the next run clears it.

mod causes;
mod day_two;
mod kubernetes;
mod losses;
mod neighbours;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kubernetes::{apply, eventually, get, helm, kubectl, request};
use serde_json::{Value, json};
use testkit::table::Table;
use testkit::tools::root;
use writers::{Committed, Writers, Written};

/// Where the operator runs, and the release's name.
const SYSTEM: &str = "cluster-sync-e2e-system";
const RELEASE: &str = "paxos-operator";
/// Where the clusters run.
const NAMESPACE: &str = "cluster-sync-e2e";
const REST: Duration = Duration::from_secs(60);

fn main() {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(_), Some(image)) = (variable("KUBECONFIG"), variable("IMAGE")) else {
        println!("e2e: SKIPPED, nothing was tested: set KUBECONFIG and IMAGE to run it");
        return;
    };
    let client_image = variable("CLIENT_IMAGE");
    let client_image = client_image
        .as_deref()
        .unwrap_or("docker.io/library/debian:bookworm-slim");
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(everything(&image, client_image));
}

async fn everything(image: &str, client_image: &str) {
    let mut config = kube::Config::infer()
        .await
        .expect("KUBECONFIG names a cluster");
    // A failed attempt is for the writers to see.
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let mut table = Table::default();

    clear();
    install(image, &mut table);
    let only = std::env::var("E2E_ONLY").unwrap_or_default();
    if !only.is_empty() {
        match only.as_str() {
            "losses" => losses(&client, image, &mut table).await,
            "neighbours" => neighbours(image, &mut table).await,
            other => panic!("E2E_ONLY is {other:?}, must be losses or neighbours"),
        }
        helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"]);
        clear();
        table.print();
        return;
    }
    let before = objects();
    create("small", image, &mut table);
    propose_from_a_pod(client_image, &mut table);
    let mut written = lose_the_leader(&client, &mut table).await;
    written.extend(lose_every_pod(&client, &mut table).await);
    let step = "read after all pods were lost";
    read_all(&client, step, "small", &written, &mut table).await;
    let company: Vec<String> = (1..=9).map(|k| format!("company-{k}")).collect();
    create_smallest(&company, image, &mut table);
    rest(&client, &mut table).await;
    for cluster in &company {
        remove(cluster);
    }
    delete("small", &before, &mut table).await;
    create("small", image, &mut table);
    let step = "read after deletion, from the volumes";
    read_all(&client, step, "small", &written, &mut table).await;
    written.extend(day_two::roll_one_role(&client, &mut table).await);
    written.extend(day_two::switch_stores_on(&client, &written, &mut table).await);
    written.extend(day_two::scale(&client, &mut table).await);
    written.extend(day_two::drain(&client, &mut table).await);
    written.extend(day_two::grow(&client, &mut table).await);
    day_two::pause(&mut table).await;
    day_two::lose_the_quorum(&mut table).await;
    day_two::stop_and_resume(&mut table).await;
    let step = "read after all that";
    read_all(&client, step, "small", &written, &mut table).await;
    create("full", image, &mut table);
    let rolled = day_two::roll(&client, &mut table).await;
    let step = "read after the roll";
    read_all(&client, step, "full", &rolled, &mut table).await;
    remove("full");
    losses(&client, image, &mut table).await;
    neighbours(image, &mut table).await;
    lose_a_volume(&client, &mut table).await;
    uninstall(&client, &mut table).await;
    clear();
    table.print();
}

async fn losses(client: &kube::Client, image: &str, table: &mut Table) {
    losses::another_acceptor_count(client, image, table).await;
    losses::lose_all_learners(client, image, table).await;
    losses::fill_volumes(client, image, table).await;
}

async fn neighbours(image: &str, table: &mut Table) {
    causes::ten(image, table).await;
    neighbours::autoscale(image, table).await;
    neighbours::without_fixed_ids(image, table).await;
    neighbours::orphans(image, table).await;
}

/// Removes what an earlier run left.
fn clear() {
    helm(&[
        "uninstall",
        RELEASE,
        "--namespace",
        SYSTEM,
        "--ignore-not-found",
        "--wait",
    ]);
    kubectl(&[
        "delete",
        "namespace",
        NAMESPACE,
        SYSTEM,
        "--ignore-not-found",
        "--timeout=120s",
    ]);
    for name in [NAMESPACE, SYSTEM] {
        apply(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": "latest",
            } },
        }));
    }
}

fn install(image: &str, table: &mut Table) {
    let started = Instant::now();
    let (name, version) = match image.split_once('@') {
        Some((name, digest)) => (name, format!("image.digest={digest}")),
        None => {
            let (name, tag) = image.rsplit_once(':').expect("IMAGE has a tag or a digest");
            (name, format!("image.tag={tag}"))
        }
    };
    let chart = root().join("charts/paxos-operator");
    helm(&[
        "install",
        RELEASE,
        chart.to_str().expect("a path in UTF-8"),
        "--namespace",
        SYSTEM,
        "--set",
        &format!("image.repository={name}"),
        "--set-string",
        &version,
        "--take-ownership",
        "--wait",
        "--timeout",
        "60s",
    ]);
    table.row("helm install --wait", started, "");
    let started = Instant::now();
    helm(&["test", RELEASE, "--namespace", SYSTEM, "--timeout", "60s"]);
    table.row("helm test", started, "");
}

fn create(sample_name: &str, image: &str, table: &mut Table) {
    let file = format!("crds/samples/{sample_name}.yaml");
    let sample = std::fs::read_to_string(root().join(&file)).expect("the sample");
    let mut sample: Value = serde_saphyr::from_str(&sample).expect("YAML");
    sample["metadata"]["namespace"] = json!(NAMESPACE);
    sample["spec"]["image"] = json!(image);
    sample["spec"]["imagePullPolicy"] = json!("IfNotPresent");
    let started = Instant::now();
    apply(&sample);
    wait_until_ready(sample_name);
    let took = started.elapsed();
    let line = kubectl(&["get", "paxos", sample_name, "-n", NAMESPACE, "--no-headers"]);
    table.add(
        &format!("kubectl apply {file} until Ready"),
        took,
        line.split_whitespace().collect::<Vec<_>>().join(" "),
    );
}

/// Clusters of one node a role.
fn create_smallest(clusters: &[String], image: &str, table: &mut Table) {
    let one = json!({ "replicas": 1 });
    let started = Instant::now();
    for cluster in clusters {
        apply(&json!({
            "apiVersion": "clustersync.io/v1alpha1",
            "kind": "PaxosCluster",
            "metadata": { "name": cluster, "namespace": NAMESPACE },
            "spec": {
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "proposer": one, "acceptor": one, "learner": one,
            },
        }));
    }
    for cluster in clusters {
        wait_until_ready(cluster);
    }
    let step = format!(
        "{} more clusters, of one node a role, until Ready",
        clusters.len()
    );
    table.row(&step, started, "");
}

fn wait_until_ready(cluster: &str) {
    kubectl(&[
        "wait",
        "--for=condition=Ready",
        &format!("paxoscluster/{cluster}"),
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ]);
}

/// A condition of a cluster, when it has it.
fn condition(cluster: &str, name: &str) -> Option<Value> {
    let object = get(&["paxos", cluster, "-n", NAMESPACE]);
    let conditions = object["status"]["conditions"].as_array()?;
    let mut conditions = conditions.iter();
    conditions.find(|c| c["type"] == name).cloned()
}

/// A cluster and its volumes.
fn remove(cluster: &str) {
    let selector = format!("clustersync.io/cluster={cluster}");
    kubectl(&["delete", "paxos", cluster, "-n", NAMESPACE, "--timeout=60s"]);
    kubectl(&[
        "wait",
        "--for=delete",
        "pods",
        "-l",
        &selector,
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ]);
    kubectl(&[
        "delete",
        "pvc",
        "-l",
        &selector,
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ]);
}

/// A pod with bash only speaks HTTP to the Services, as any client in the Kubernetes cluster would.
fn propose_from_a_pod(client_image: &str, table: &mut Table) {
    const SCRIPT: &str = r#"
        set -eu
        exchange() { # host, request line, body
            exec 3<>"/dev/tcp/$1/8080"
            printf '%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
                "$2" "$1" "${#3}" "$3" >&3
            cat <&3
            echo
        }
        exchange small 'POST /propose?wait=true' \
            '{"clientId":"pod","timestamp":1,"operation":"WRITE","resource":"greeting","data":"hello from a pod"}'
        exchange small-reader 'GET /resource/greeting' ''
    "#;
    let started = Instant::now();
    apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "client", "namespace": NAMESPACE },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "client",
                "image": client_image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["bash", "-c", SCRIPT],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    }));
    let ended = [
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "pod/client",
        "-n",
        NAMESPACE,
    ];
    kubectl(&[&ended[..], &["--timeout=30s"]].concat());
    let said = kubectl(&["logs", "client", "-n", NAMESPACE]);
    assert!(said.contains(r#""status":"COMMITTED""#), "{said}");
    assert!(said.contains(r#""data":"hello from a pod""#), "{said}");
    kubectl(&["delete", "pod", "client", "-n", NAMESPACE, "--wait=false"]);
    table.row(
        "propose and read from a pod, through the Services",
        started,
        "COMMITTED, read back",
    );
}

async fn lose_the_leader(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let writers = Writers::start(client, NAMESPACE, "small", "leader", 4);
    at_least(&writers, 50).await;
    let leader = leader(client, "small").await;
    let pod = format!("small-proposer-{leader}");
    let before = writers.count();
    let started = Instant::now();
    kubectl(&["delete", "pod", &pod, "-n", NAMESPACE, "--wait=false"]);
    at_least(&writers, before + 100).await;
    wait_until_whole("small", 8).await;
    let whole = started.elapsed();
    at_least(&writers, writers.count() + 100).await;
    let written = writers.finish().await;
    let next = self::leader(client, "small").await;
    table.add(
        &format!("delete leader pod {pod} under 4 writers, until Ready"),
        whole,
        format!("{}, then proposer {next} leads", tale(&written)),
    );
    written.committed
}

async fn lose_every_pod(client: &kube::Client, table: &mut Table) -> Vec<Committed> {
    let writers = Writers::start(client, NAMESPACE, "small", "all", 4);
    at_least(&writers, 50).await;
    let started = Instant::now();
    kubectl(&[
        "delete",
        "pods",
        "-l",
        "clustersync.io/cluster=small",
        "-n",
        NAMESPACE,
        "--wait=false",
    ]);
    wait_until_whole("small", 8).await;
    let whole = started.elapsed();
    at_least(&writers, writers.count() + 50).await;
    let written = writers.finish().await;
    table.add(
        "delete all pods at once under 4 writers, until Ready",
        whole,
        tale(&written),
    );
    written.committed
}

/// An acceptor that lost its volume must not vote, and the operator names pod and claim.
async fn lose_a_volume(client: &kube::Client, table: &mut Table) {
    let (pod, claim) = ("small-acceptor-2", "data-small-acceptor-2");
    let writers = Writers::start(client, NAMESPACE, "small", "volume", 4);
    at_least(&writers, 50).await;
    let started = Instant::now();
    kubectl(&["delete", "pvc", claim, "-n", NAMESPACE, "--wait=false"]);
    kubectl(&["delete", "pod", pod, "-n", NAMESPACE, "--wait=false"]);
    let degraded =
        || condition("small", "Degraded").filter(|degraded| degraded["reason"] == "DiskRefused");
    let condition = eventually("DiskRefused", Duration::from_secs(120), degraded).await;
    let took = started.elapsed();
    let message = condition["message"].as_str().unwrap_or_default();
    let names = |text: &str| text.contains(pod) && text.contains(claim);
    assert!(
        condition["status"] == "True" && names(message),
        "{condition}"
    );
    eventually("an event", Duration::from_secs(30), || {
        let events = get(&["events", "-n", NAMESPACE])["items"]
            .as_array()
            .cloned();
        let mut events = events.unwrap_or_default().into_iter();
        events.find(|event| {
            event["reason"] == "DiskRefused" && names(event["message"].as_str().unwrap_or_default())
        })
    })
    .await;
    at_least(&writers, writers.count() + 100).await;
    let written = writers.finish().await;
    let step = "lose an acceptor's volume, until the condition says so";
    table.add(step, took, tale(&written));
}

async fn at_least(writers: &Writers, count: usize) {
    let what = format!("{count} commits");
    eventually(&what, Duration::from_secs(60), || {
        (writers.count() >= count).then_some(())
    })
    .await;
}

fn tale(written: &Written) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in &written.failed {
        *reasons.entry(reason).or_default() += 1;
    }
    let mut most: Vec<_> = reasons.into_iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (reason, count) in most.iter().take(5) {
        println!("e2e: {count} attempts were answered: {}", reason.trim());
    }
    format!(
        "{} commits, longest gap {:.2} s, {} attempts repeated",
        written.committed.len(),
        written.longest_gap().as_secs_f64(),
        written.failed.len(),
    )
}

/// Until no pod is on its way out or in, and the operator has seen it: the condition alone may still
/// tell of the time before.
async fn wait_until_whole(cluster: &str, count: usize) {
    let selector = format!("clustersync.io/cluster={cluster}");
    let pods = || -> Vec<Value> {
        let pods = get(&["pods", "-l", &selector, "-n", NAMESPACE]);
        pods["items"].as_array().cloned().unwrap_or_default()
    };
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let what = format!("{count} pods are ready");
    eventually(&what, Duration::from_secs(120), || {
        let pods = pods();
        (pods.len() == count && pods.iter().all(ready)).then_some(())
    })
    .await;
    wait_until_ready(cluster);
}

/// The leader, as any of the proposers knows it.
async fn leader(client: &kube::Client, cluster: &str) -> u64 {
    let service = format!("services/{cluster}:http");
    for _ in 0..100 {
        let answer = request(client, NAMESPACE, &service, "/status", None).await;
        if let Some(leader) = answer
            .ok()
            .and_then(|answer| answer.json()["leader_id"].as_u64())
        {
            return leader;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no leader within 10 s");
}

/// Every committed write is there, as it was written.
async fn read_all(
    client: &kube::Client,
    step: &str,
    cluster: &str,
    written: &[Committed],
    table: &mut Table,
) {
    let reader = format!("services/{cluster}-reader:http");
    let started = Instant::now();
    let mut lost = Vec::new();
    for write in written {
        let path = format!("/resource/{}", write.resource);
        let answer = request(client, NAMESPACE, &reader, &path, None).await;
        match answer {
            Ok(answer) if answer.status == 200 && answer.json()["data"] == write.data => {}
            Ok(answer) => lost.push(format!(
                "{}: {} {}",
                write.resource, answer.status, answer.body
            )),
            Err(error) => lost.push(format!("{}: {error}", write.resource)),
        }
    }
    assert!(
        lost.is_empty(),
        "{} of {} are lost: {lost:#?}",
        lost.len(),
        written.len()
    );
    table.row(
        step,
        started,
        format!("{} of {} values there", written.len(), written.len()),
    );
}

/// What could change: every object of the namespace and what the operator counts.
async fn snapshot(client: &kube::Client) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for kind in listable() {
        for object in get(&[&kind, "-n", NAMESPACE])["items"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default();
            seen.insert(
                format!("{kind}/{}", object["metadata"]["name"]),
                version.to_owned(),
            );
        }
    }
    for line in operator_metrics(client).await.lines() {
        let counts = [
            "paxos_operator_writes_total",
            "paxos_operator_reconcile_errors_total",
            "paxos_operator_watch_errors_total",
        ];
        if let Some((metric, value)) = line.rsplit_once(' ')
            && counts.iter().any(|name| metric.starts_with(name))
        {
            seen.insert(metric.to_owned(), value.to_owned());
        }
    }
    seen
}

/// Of the one that leads: the others wait.
async fn operator_metrics(client: &kube::Client) -> String {
    let lease = get(&["lease", RELEASE, "-n", SYSTEM]);
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let (pod, _) = holder.split_once('_').expect("it begins with the pod");
    let target = format!("pods/{pod}:8080");
    let answer = request(client, SYSTEM, &target, "/metrics", None).await;
    let answer = answer.expect("the API server answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

fn listable() -> Vec<String> {
    let kinds = kubectl(&[
        "api-resources",
        "--namespaced",
        "--verbs=list",
        "-o",
        "name",
    ]);
    let kinds = kinds.lines().map(str::to_owned);
    // Metrics servers make theirs up for each request, and events are listed once, not twice.
    kinds
        .filter(|kind| !kind.ends_with(".metrics.k8s.io") && kind != "events")
        .collect()
}

async fn rest(client: &kube::Client, table: &mut Table) {
    // The last counters are written, and the StatefulSets' own controllers are done.
    let started = Instant::now();
    let mut before = snapshot(client).await;
    loop {
        tokio::time::sleep(Duration::from_secs(35)).await;
        let now = snapshot(client).await;
        if now == before {
            break;
        }
        before = now;
        assert!(
            started.elapsed() < Duration::from_secs(180),
            "it does not come to rest"
        );
    }
    table.row("until nothing changes any more", started, "");

    let started = Instant::now();
    let reconciled = |metrics: &str| -> f64 {
        let line = metrics
            .lines()
            .find_map(|l| l.strip_prefix("paxos_operator_reconciliations_total{result=\"ok\"} "));
        line.expect("it is counted").parse().expect("a number")
    };
    let looked = reconciled(&operator_metrics(client).await);
    tokio::time::sleep(REST).await;
    let metrics = operator_metrics(client).await;
    let now = snapshot(client).await;
    let changed: Vec<_> = now
        .iter()
        .filter(|(what, value)| before.get(*what) != Some(value))
        .collect();
    assert!(
        changed.is_empty() && now.len() == before.len(),
        "changed at rest: {changed:#?}"
    );
    let looked = reconciled(&metrics) - looked;
    assert!(
        looked > 0.0,
        "the operator did look at the cluster meanwhile"
    );

    let logs = kubectl(&["logs", &format!("deployment/{RELEASE}"), "-n", SYSTEM]);
    let level = |line: &&str| {
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        entry["level"] == "ERROR" || entry["level"] == "WARN" || entry["level"].is_null()
    };
    let (complaints, recent) = (logs.lines().filter(level), started.elapsed());
    for line in complaints.clone() {
        println!("e2e: the operator's log: {line}");
    }
    let since = format!("--since={}s", recent.as_secs());
    let logs_at_rest = kubectl(&[
        "logs",
        &format!("deployment/{RELEASE}"),
        "-n",
        SYSTEM,
        &since,
    ]);
    assert_eq!(
        logs_at_rest.lines().filter(level).collect::<Vec<_>>(),
        [""; 0],
        "at rest"
    );
    assert!(!logs.contains(r#""level":"ERROR""#), "{logs}");
    let memory = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let memory: f64 = memory
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or_default();
    table.row(
        "at rest",
        started,
        format!(
            "{} objects and counters unchanged, {looked} reconciliations, 0 warnings; {} in the whole run; operator {:.0} MiB",
            now.len(), complaints.count(), memory / f64::from(1 << 20),
        ),
    );
}

/// Every object of the namespace, as `kind/name`, but those that tell of the past.
fn objects() -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    for kind in listable()
        .iter()
        .filter(|kind| *kind != "events.events.k8s.io")
    {
        let list = get(&[kind, "-n", NAMESPACE]);
        for object in list["items"].as_array().into_iter().flatten() {
            objects.insert(format!("{kind}/{}", object["metadata"]["name"]));
        }
    }
    objects
}

async fn delete(cluster: &str, before: &BTreeSet<String>, table: &mut Table) {
    let started = Instant::now();
    kubectl(&[
        "delete",
        "paxoscluster",
        cluster,
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ]);
    let is_volume = |object: &String| object.starts_with("persistentvolumeclaims/");
    let volumes = loop {
        let left: Vec<String> = objects().difference(before).cloned().collect();
        if left.iter().all(is_volume) {
            break left.len();
        }
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(60), "left behind: {left:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(volumes, 8, "every node's volume stays");
    table.row(
        "kubectl delete, until all is gone",
        started,
        format!("{volumes} PersistentVolumeClaims left, nothing else"),
    );
}

/// Clusters keep running without their operator, and the CRD stays.
async fn uninstall(client: &kube::Client, table: &mut Table) {
    let started = Instant::now();
    helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"]);
    let writers = Writers::start(client, NAMESPACE, "small", "alone", 1);
    at_least(&writers, 20).await;
    let written = writers.finish().await;
    kubectl(&["get", "paxoscluster", "small", "-n", NAMESPACE]);
    table.row(
        "helm uninstall, and write",
        started,
        format!("{} commits; the CRD stays", written.committed.len()),
    );
    kubectl(&[
        "delete",
        "paxoscluster",
        "small",
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ]);
}
