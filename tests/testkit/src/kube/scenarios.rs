//! The operator against the in-memory API server, with pods and proposers that only seem to be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use operator::context::{Context, Options};
use operator::controller::operate;
use operator::crd::Guarded;
use operator::lease::{Election, Lost};
use operator::reconcile::{Error, reconcile};
use operator::telemetry::Metrics;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ApiServer, Call, Line, Nodes, Permission};

/// Where all fixtures live.
pub const NAMESPACE: &str = "shop";
/// What the operator makes of a PaxosCluster.
pub const CHILDREN: [&str; 6] = [
    "statefulsets",
    "services",
    "configmaps",
    "poddisruptionbudgets",
    "networkpolicies",
    "podmonitors",
];
/// Where the operators are.
pub const SYSTEM: &str = "paxos-system";

/// An operator, what it talks to, and what it counted.
pub struct World {
    /// The API server.
    pub server: ApiServer,
    /// The proposers.
    pub nodes: Nodes,
    /// The operator's metrics.
    pub metrics: Arc<Metrics>,
    /// Between the operator and the API server.
    pub line: Line,
    context: Arc<Context>,
    running: Option<JoinHandle<Result<(), Lost>>>,
    pods: Option<JoinHandle<()>>,
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
        self.stop_pods();
    }
}

impl World {
    /// A world without objects.
    pub fn new() -> World {
        World::with(ApiServer::new(), Nodes::default())
    }

    /// An operator that was just started in a world that continues: it remembers nothing.
    pub fn with(server: ApiServer, nodes: Nodes) -> World {
        World::told(server, nodes, Options::default())
    }

    /// Likewise, with these options.
    pub fn told(server: ApiServer, nodes: Nodes, options: Options) -> World {
        let options = Options {
            identity: format!("{SYSTEM}/paxos-operator"),
            ..options
        };
        World::known_as(server, nodes, options)
    }

    /// Likewise, under the identity that the options say.
    pub fn known_as(server: ApiServer, nodes: Nodes, options: Options) -> World {
        let line = Line::default();
        let metrics = Arc::new(Metrics::default());
        let nodes_of_context = Box::new(nodes.clone());
        let context = Arc::new(Context::new(
            server.client_over(&line),
            nodes_of_context,
            metrics.clone(),
            options,
        ));
        World {
            server,
            nodes,
            metrics,
            line,
            context,
            running: None,
            pods: None,
        }
    }

    /// Makes a PaxosCluster.
    pub fn create(&self, name: &str, spec: Value) {
        self.server.create(json!({
            "apiVersion": "clustersync.io/v1alpha1",
            "kind": "PaxosCluster",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": spec,
        }));
    }

    /// Changes a PaxosCluster's spec.
    pub fn edit_spec(&self, name: &str, spec: Value) {
        self.server
            .edit("paxosclusters", NAMESPACE, name, json!({ "spec": spec }));
    }

    /// Reconciles a PaxosCluster once, as a controller whose cache is current would.
    pub async fn reconcile(&self, name: &str) -> Result<(), Error> {
        let object = self.server.object("paxosclusters", NAMESPACE, name);
        self.reconcile_seeing(object.expect("the PaxosCluster exists"))
            .await
    }

    /// Reconciles once, as a controller that has this in its cache would.
    pub async fn reconcile_seeing(&self, object: Value) -> Result<(), Error> {
        let object: Guarded = serde_json::from_value(object).expect("it has metadata");
        reconcile(Arc::new(object), self.context.clone())
            .await
            .map(drop)
    }

    /// A PaxosCluster with all nodes up and proposer 2 leading, at rest.
    pub async fn whole(name: &str, spec: Value) -> World {
        let world = World::new();
        world.create(name, spec);
        world.reconcile(name).await.expect("no fault is planned");
        world.server.run_pods(|_| false);
        world.nodes.say(2, 1, 10);
        world.reconcile(name).await.expect("no fault is planned");
        world
    }

    /// Starts the whole controller.
    pub fn start(&mut self) {
        self.running = Some(tokio::spawn(operate(
            self.context.clone(),
            None,
            std::future::pending(),
        )));
    }

    /// Starts the operator as one of several, under its own name; it ends gracefully when `end` is
    /// sent or dropped.
    pub fn stand(&mut self, name: &str) -> oneshot::Sender<()> {
        let client = self.server.client_over(&self.line);
        let election = Election::new(client, SYSTEM, "paxos-operator", name);
        let (end, ended) = oneshot::channel();
        let ended = ended.map(drop).shared();
        self.running = Some(tokio::spawn(operate(
            self.context.clone(),
            Some(election),
            ended,
        )));
        end
    }

    /// Waits until the operator has ended by itself.
    pub async fn ended(&mut self) -> Result<(), Lost> {
        let running = self.running.take().expect("it was started");
        running.await.expect("it does not panic")
    }

    /// Stops it, in the middle of whatever it does.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    /// From now on, pods come, go and get ready by themselves, but for those for which
    /// `fails(pod's name)`.
    pub fn start_pods(&mut self, fails: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.stop_pods();
        let server = self.server.clone();
        self.pods = Some(tokio::spawn(async move {
            // What has led to nothing leads to nothing until something changes.
            let mut idle = None;
            loop {
                let failing = || -> Vec<String> {
                    let mut names = server.names("pods");
                    names.retain(|pod| fails(pod));
                    names
                };
                let before = (server.version(), failing());
                if idle.as_ref() != Some(&before) {
                    server.step_pods(&fails);
                    idle = Some(before).filter(|(version, _)| *version == server.version());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }));
    }

    /// From now on, nothing happens to pods.
    pub fn stop_pods(&mut self) {
        if let Some(pods) = self.pods.take() {
            pods.abort();
        }
    }

    /// The pods that were evicted so far, in this order.
    pub fn restarted(&self) -> Vec<String> {
        let calls = self.server.calls().into_iter();
        let evictions = calls.filter(|call| call.resource == "pods/eviction");
        evictions.map(|call| call.name).collect()
    }

    /// Lets time pass; in a test with paused time this takes none.
    pub async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// The status of a PaxosCluster.
    pub fn status(&self, name: &str) -> Value {
        let object = self.server.object("paxosclusters", NAMESPACE, name);
        object.expect("the PaxosCluster exists")["status"].take()
    }

    /// A condition: its status and its reason.
    pub fn condition(&self, name: &str, kind: &str) -> (String, String) {
        let status = self.status(name);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let condition = conditions
            .into_iter()
            .find(|condition| condition["type"] == kind);
        let condition = condition.unwrap_or_default();
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// The calls since the last time that change something.
    pub fn take_writes(&self) -> Vec<Call> {
        self.server
            .take_calls()
            .into_iter()
            .filter(Call::is_write)
            .collect()
    }

    /// The reasons of all events so far.
    pub fn events(&self) -> Vec<String> {
        let mut events = self.server.objects("events");
        events.sort_by_key(|event| event["eventTime"].to_string());
        let reason = |event: &Value| event["reason"].as_str().unwrap_or_default().to_owned();
        events.iter().map(reason).collect()
    }

    /// Everything that a PaxosCluster owns, as `plural/name`.
    pub fn children(&self, name: &str) -> BTreeSet<String> {
        CHILDREN
            .into_iter()
            .flat_map(|plural| {
                let owned = self
                    .server
                    .objects(plural)
                    .into_iter()
                    .filter(|object| object["metadata"]["ownerReferences"][0]["name"] == name);
                let path = move |object: Value| {
                    format!(
                        "{plural}/{}",
                        object["metadata"]["name"].as_str().unwrap_or("?")
                    )
                };
                owned.map(path).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// Runs the controller through everything that it does and returns what it needed of RBAC: the
/// chart's roles must grant this, and nothing else. Wants a runtime with paused time.
pub async fn every_permission() -> BTreeSet<Permission> {
    let mut world = World::new();
    let _end = world.stand("one");
    world.create("ledger", json!({ "store": { "enabled": true } }));
    world.pass(5).await;
    world.server.run_pods(|_| false);
    world.nodes.say(2, 1, 10);
    world.pass(60).await;
    assert_eq!(
        world.condition("ledger", "Ready").0,
        "True",
        "the cluster starts"
    );

    // Leaders come and go: the second time, the same event is patched.
    for leader in [3, 4, 5] {
        world.nodes.say(leader, u64::from(leader), 20);
        world.pass(60).await;
    }
    // Another image: every pod is restarted.
    world.start_pods(|_| false);
    world.edit_spec("ledger", json!({ "image": "nodes:2" }));
    world.pass(120).await;
    assert_eq!(world.restarted().len(), 15, "5, 5, 2 and 3 pods");
    // A set of an operator that left the order to Kubernetes.
    world.server.edit(
        "statefulsets",
        NAMESPACE,
        "ledger-learner",
        json!({ "spec": { "updateStrategy": { "type": "RollingUpdate" } } }),
    );
    world.pass(60).await;
    // The stores are no longer wanted: they are deleted.
    world.edit_spec("ledger", json!({ "store": { "enabled": false } }));
    world.pass(60).await;
    assert!(
        world
            .server
            .object("statefulsets", NAMESPACE, "ledger-store")
            .is_none()
    );
    // The learners' volumes grow, behind NetworkPolicies and a PodMonitor that come and go.
    let larger = json!({ "learner": { "storage": { "size": "9Gi" } } });
    world.edit_spec("ledger", larger);
    for enabled in [true, false] {
        let enabled = json!({ "enabled": enabled });
        let switch = json!({ "networkPolicy": enabled, "podMonitor": enabled });
        world.edit_spec("ledger", switch);
        world.pass(60).await;
    }
    // A quota: why there are no pods stands in the events of their sets.
    world.server.forbid_pods(Some("exceeded quota: pods=5"));
    world.server.delete("pods", NAMESPACE, "ledger-learner-1");
    world.pass(60).await;
    world.server.forbid_pods(None);
    world.pass(60).await;
    // Specs that make no sense, and one that is no spec.
    world.edit_spec("ledger", json!({ "learner": { "replicas": 0 } }));
    world.pass(60).await;
    assert_eq!(
        world.condition("ledger", "Stalled").0,
        "True",
        "an invalid spec stalls"
    );
    world.edit_spec("ledger", json!({ "learner": "many" }));
    world.pass(60).await;
    world.server.used()
}
