//! One operator with many clusters among many objects of others, on the control plane that KUBECONFIG
//! names (no pods need to run): what it remembers, how fast it acts, and that it rests. Says so and
//! ends without KUBECONFIG. OPERATOR names the program (default: target/release/paxos-operator).

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, CustomResourceExt};
use operator::crd::PaxosCluster;
use serde_json::json;
use testkit::table::Table;
use testkit::tools::root;

const OURS: &str = "cluster-sync-fleet";
const OTHERS: &str = "cluster-sync-fleet-others";
const CLUSTERS: usize = 200;
/// StatefulSets, and as many Pods, that the operator does not own.
const UNRELATED: usize = 10_000;
const REST: Duration = Duration::from_secs(60);
/// How many requests of this program are under way at once.
const AT_ONCE: usize = 32;

fn main() {
    if std::env::var_os("KUBECONFIG").is_none_or(|path| path.is_empty()) {
        println!("fleet: SKIPPED, nothing was tested: set KUBECONFIG to run it");
        return;
    }
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(everything());
}

async fn everything() {
    let client = Client::try_default()
        .await
        .expect("KUBECONFIG names a cluster");
    let mut table = Table::default();
    clear(&client).await;
    let apply = PatchParams::apply("fleet").force();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = PaxosCluster::crd();
    let name = "paxosclusters.clustersync.io";
    crds.patch(name, &apply, &Patch::Apply(&crd))
        .await
        .expect("the CRD is applied");

    let operator = Operator::start();
    let idle = operator.settled().await;
    table.add("start", Duration::ZERO, megabytes("operator", idle));

    let started = Instant::now();
    each(0..CLUSTERS, |number| create(&client, number)).await;
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), OURS);
    loop {
        let all = sets.list_metadata(&ListParams::default()).await;
        if all.expect("a list").items.len() == 3 * CLUSTERS {
            break;
        }
        let waited = started.elapsed();
        assert!(
            waited < Duration::from_secs(300),
            "not all StatefulSets are there"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let step = format!(
        "{CLUSTERS} clusters, until all {} StatefulSets are there",
        3 * CLUSTERS
    );
    table.row(&step, started, "");

    let started = Instant::now();
    let alone = operator.settled().await;
    table.row("until it rests", started, megabytes("operator", alone));
    // One that starts reads everything at once.
    drop(operator);
    let started = Instant::now();
    let operator = Operator::start();
    let restarted = operator.settled().await;
    table.row(
        "start again, until it rests",
        started,
        megabytes("operator", restarted),
    );
    let alone = alone.max(restarted);
    changes(&client, 61, &mut table, "change one of them, until applied").await;
    operator.settled().await;
    let writes = operator.writes().await;
    tokio::time::sleep(REST).await;
    assert_eq!(operator.writes().await, writes, "it wrote at rest");
    table.add("at rest", REST, "0 writes");

    let started = Instant::now();
    each(0..UNRELATED, |number| unrelated(&client, number)).await;
    let step = format!("{UNRELATED} StatefulSets and {UNRELATED} Pods of others");
    table.row(
        &step,
        started,
        megabytes("operator", operator.memory().await),
    );
    changes(
        &client,
        62,
        &mut table,
        "change one among them, until applied",
    )
    .await;
    operator.settled().await;
    let among = operator.memory().await;
    drop(operator);
    let started = Instant::now();
    let operator = Operator::start();
    let again = operator.settled().await;
    table.row(
        "start again among them, until it rests",
        started,
        megabytes("operator", again),
    );
    let ratio = among.max(again) / alone;
    table.add(
        "memory, among others' objects to alone",
        Duration::ZERO,
        format!("{ratio:.2}"),
    );
    drop(operator);
    clear(&client).await;
    table.print();
    assert!(alone < 64.0, "the operator takes {alone:.0} MiB");
    assert!(ratio < 1.10, "others' objects cost memory");
}

/// Changes the spec of some clusters, one after the other, each until its StatefulSet shows it.
async fn changes(client: &Client, interval: u32, table: &mut Table, step: &str) {
    let clusters: Api<PaxosCluster> = Api::namespaced(client.clone(), OURS);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), OURS);
    let mut took = Vec::new();
    for number in (0..CLUSTERS).step_by(CLUSTERS / 20) {
        let name = name(number);
        let set = format!("{name}-proposer");
        let patch = json!({ "spec": { "heartbeatIntervalMs": interval } });
        let started = Instant::now();
        let params = PatchParams::default();
        let changed = clusters.patch(&name, &params, &Patch::Merge(&patch)).await;
        changed.expect("the change is taken");
        loop {
            let set = sets.get(&set).await.expect("the StatefulSet");
            let set = serde_json::to_value(set).expect("JSON");
            let env = &set["spec"]["template"]["spec"]["containers"][0]["env"];
            let wanted = json!({ "name": "HEARTBEAT_INTERVAL_MS", "value": interval.to_string() });
            if env.as_array().is_some_and(|env| env.contains(&wanted)) {
                break;
            }
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "{name} is not changed"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        took.push(started.elapsed());
    }
    took.sort();
    let most = took[took.len() - 1];
    let found = format!(
        "of {}: median {} ms",
        took.len(),
        took[took.len() / 2].as_millis()
    );
    table.add(&format!("{step}: longest"), most, found);
}

async fn create(client: &Client, number: usize) {
    let file = root().join("crds/samples/small.yaml");
    let sample = std::fs::read_to_string(file).expect("the sample");
    let mut cluster: PaxosCluster = serde_saphyr::from_str(&sample).expect("a PaxosCluster");
    cluster.metadata.name = Some(name(number));
    let api = Api::namespaced(client.clone(), OURS);
    let created = api.create(&PostParams::default(), &cluster).await;
    created.expect("it is created");
}

fn name(number: usize) -> String {
    format!("c{number:03}")
}

/// Nothing that any controller has to do with: no replicas, and held back from the scheduler.
async fn unrelated(client: &Client, number: usize) {
    let name = format!("other-{number:05}");
    let labels = json!({ "app": name });
    let template = json!({
        "metadata": { "labels": labels },
        "spec": {
            "schedulingGates": [{ "name": "clustersync.io/never" }],
            "containers": [{ "name": "none", "image": "none" }],
        },
    });
    let set = json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 0, "serviceName": name, "selector": { "matchLabels": labels },
            "template": template,
        },
    });
    let pod = json!({
        "metadata": { "name": name, "labels": labels },
        "spec": template["spec"],
    });
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), OTHERS);
    let pods: Api<Pod> = Api::namespaced(client.clone(), OTHERS);
    let set = serde_json::from_value(set).expect("a StatefulSet");
    let pod = serde_json::from_value(pod).expect("a Pod");
    let params = PostParams::default();
    sets.create(&params, &set).await.expect("it is created");
    pods.create(&params, &pod).await.expect("it is created");
}

async fn each<F: Future<Output = ()>>(numbers: std::ops::Range<usize>, run: impl Fn(usize) -> F) {
    stream::iter(numbers)
        .map(run)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

/// Removes what an earlier run left, and recreates both namespaces.
async fn clear(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let everything = ListParams::default();
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::background()
    };
    let clusters: Api<PaxosCluster> = Api::namespaced(client.clone(), OURS);
    // Without the CRD there are none.
    let _ = clusters.delete_collection(&at_once, &everything).await;
    for namespace in [OURS, OTHERS] {
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        sets.delete_collection(&at_once, &everything)
            .await
            .expect("they are deleted");
        pods.delete_collection(&at_once, &everything)
            .await
            .expect("they are deleted");
        let _ = namespaces
            .delete(namespace, &DeleteParams::background())
            .await;
    }
    for namespace in [OURS, OTHERS] {
        let started = Instant::now();
        while namespaces
            .get_opt(namespace)
            .await
            .expect("an answer")
            .is_some()
        {
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(300), "{namespace} does not go");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let object = json!({ "metadata": { "name": namespace } });
        let object = serde_json::from_value(object).expect("a Namespace");
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .expect("it is created");
    }
}

/// The operator as a process of this machine.
struct Operator {
    process: Child,
    metrics: String,
}

impl Operator {
    fn start() -> Operator {
        let program = std::env::var_os("OPERATOR").map(PathBuf::from);
        let program = program.unwrap_or_else(|| root().join("target/release/paxos-operator"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listen = listener
            .local_addr()
            .expect("it has an address")
            .to_string();
        drop(listener);
        let process = Command::new(&program)
            .args(["run", "--log-format", "text", "--listen", &listen])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn();
        let process = process.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Operator {
            process,
            metrics: format!("http://{listen}/metrics"),
        }
    }

    /// The value of a metric, or the sum over its labels; 0 while there is none.
    async fn metric(&self, name: &str) -> f64 {
        let url = self.metrics.clone();
        let read = move || {
            ureq::get(&url)
                .call()
                .ok()?
                .body_mut()
                .read_to_string()
                .ok()
        };
        let text = tokio::task::spawn_blocking(read)
            .await
            .expect("it does not panic");
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        text.unwrap_or_default()
            .lines()
            .filter(of_name)
            .filter_map(value)
            .sum()
    }

    async fn writes(&self) -> f64 {
        self.metric("paxos_operator_writes_total").await
    }

    /// MiB.
    async fn memory(&self) -> f64 {
        self.metric("process_resident_memory_bytes").await / f64::from(1 << 20)
    }

    /// Waits until it has written nothing for a while; its memory then, in MiB.
    async fn settled(&self) -> f64 {
        let started = Instant::now();
        let (mut writes, mut since) = (-1.0, Instant::now());
        while since.elapsed() < Duration::from_secs(15) {
            let now = self.writes().await;
            if now != writes {
                (writes, since) = (now, Instant::now());
            }
            assert!(
                started.elapsed() < Duration::from_secs(600),
                "it does not come to rest"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.memory().await
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn megabytes(whose: &str, amount: f64) -> String {
    format!("{whose} {amount:.1} MiB")
}
