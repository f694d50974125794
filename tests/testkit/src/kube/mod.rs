//! An API server in memory, as the service behind a [`kube::Client`]: list, watch (bookmarks, resource
//! versions, 410), replacement, server-side apply, merge patch, `/status`, generations, conflicts, finalizers and
//! owner references. It remembers every call, fails on demand, and can play the StatefulSet
//! controller. What it does not know, it refuses loudly.

mod fields;
pub mod http;
mod nodes;
mod route;
pub mod scenarios;
mod schema;
mod store;
mod workloads;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use kube::CustomResourceExt;
use operator::crd::PaxosCluster;
use serde_json::Value;

pub use nodes::Nodes;
use store::Store;
pub use workloads::{OFFLINE, RIGID, STUCK};

/// What lies between a client and the server. Clones are the same line.
#[derive(Clone, Default)]
pub struct Line(Arc<AtomicBool>);

impl Line {
    /// From now on, calls over it are answered by nothing at all.
    pub fn cut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_cut(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One API server. Clones are the same server.
#[derive(Clone, Default)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    store: Store,
    calls: Vec<Call>,
    faults: Vec<Planned>,
    /// How many writes still get through; `None`: all.
    writes_left: Option<usize>,
    /// Namespaces in which nothing is allowed.
    closed: BTreeSet<String>,
    /// Why no pod may be made.
    no_pods: Option<String>,
    /// With what every creation is refused: fields of a `Status`.
    no_creations: Option<Value>,
}

/// A permission as RBAC has it: API group, resource (with `/subresource`), verb.
pub type Permission = (String, String, String);

/// A request that the server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The API group; empty for core.
    pub group: String,
    /// The plural, with `/status` for that subresource.
    pub resource: String,
    /// Where; `None`: in all namespaces at once.
    pub namespace: Option<String>,
    /// The object; empty for lists, watches and creations.
    pub name: String,
    /// Whether the object did not exist and the patch made it: RBAC asks for `create` as well.
    pub created: bool,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It is refused with this status and not done.
    Refuse(u16),
    /// It is done, but the answer is this status.
    LoseAnswer(u16),
    /// The connection breaks before it is done.
    Reset,
}

struct Planned {
    verb: String,
    resource: String,
    /// How many matching calls go through before.
    after: usize,
    fault: Fault,
}

impl ApiServer {
    /// A server without objects.
    pub fn new() -> ApiServer {
        ApiServer::default()
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        self.client_over(&Line::default())
    }

    /// A client that reaches this server over that line.
    pub fn client_over(&self, line: &Line) -> kube::Client {
        let service = http::Service {
            server: self.clone(),
            line: line.clone(),
        };
        kube::Client::new(service, "default")
    }

    /// The server as what answers requests, to be put behind a listener.
    pub fn service(&self) -> http::Service {
        http::Service {
            server: self.clone(),
            line: Line::default(),
        }
    }

    /// Makes the `nth` (from 1) next call of that verb and resource fail, once.
    pub fn fail(&self, verb: &str, resource: &str, nth: usize, fault: Fault) {
        assert!(nth > 0, "calls are counted from 1");
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        self.state().faults.push(Planned {
            verb,
            resource,
            after: nth - 1,
            fault,
        });
    }

    /// Whether faults are planned that no call has met.
    pub fn has_unmet_faults(&self) -> bool {
        !self.state().faults.is_empty()
    }

    /// Lets this many writes of clients through; after them no call reaches the server, as if the process
    /// that makes them were gone.
    pub fn cut_off_after_writes(&self, writes: usize) {
        self.state().writes_left = Some(writes);
    }

    /// Lets all calls through again.
    pub fn reconnect(&self) {
        self.state().writes_left = None;
    }

    /// From now on everything in a namespace is forbidden, as when its Role went with it.
    pub fn close(&self, namespace: &str) {
        let mut state = self.state();
        state.closed.insert(namespace.to_owned());
        state.store.drop_watches_of(namespace);
    }

    /// From now on it is allowed again.
    pub fn open(&self, namespace: &str) {
        self.state().closed.remove(namespace);
    }

    /// From now on no pod can be made, as by a quota, and the sets' events say why; `None`: they can.
    pub fn forbid_pods(&self, why: Option<&str>) {
        let mut state = self.state();
        state.no_pods = why.map(str::to_owned);
        state.store.touch();
    }

    /// From now on clients' creations are forbidden with these further fields of the answer, as in a
    /// namespace that is being deleted.
    pub fn refuse_creations(&self, with: Value) {
        self.state().no_creations = Some(with);
    }

    /// From now on admission changes every StatefulSet that is written.
    pub fn rewrite_sets(&self, rewrite: impl Fn(&mut Value) + Send + 'static) {
        self.state().store.rewrite = Some(Box::new(rewrite));
    }

    /// Deletes an object and leaves what it owns, as `kubectl delete --cascade=orphan` does.
    pub fn orphan(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state
            .store
            .orphan(store::key(kind, namespace, name), None)
            .expect("the object can be deleted");
        state.store.collect_garbage();
    }

    /// Makes or changes an object as `kubectl apply` does without `--server-side`: a null says that a
    /// field is to go, and is never stored.
    pub fn apply_client_side(&self, kind: &str, mut object: Value) {
        let name = object["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .expect("one")
            .to_owned();
        if self.object(kind, &namespace, &name).is_some() {
            return self.edit(kind, &namespace, &name, object);
        }
        fields::drop_nulls(&mut object);
        self.create(object);
    }

    /// What the scale subresource of a PaxosCluster says; why it says nothing.
    pub fn scale(&self, namespace: &str, name: &str) -> Result<i64, String> {
        let object = self
            .object("paxosclusters", namespace, name)
            .expect("it exists");
        let crd = serde_json::to_value(PaxosCluster::crd()).expect("a definition is JSON");
        let scale = &crd["spec"]["versions"][0]["subresources"]["scale"];
        let path = scale["specReplicasPath"].as_str().expect("a path");
        let value = object
            .pointer(&path.replace('.', "/"))
            .and_then(Value::as_i64);
        value.ok_or_else(|| format!("the spec replicas field {path:?} does not exist"))
    }

    /// Ends every watch, as a restarting server does.
    pub fn drop_watches(&self) {
        self.state().store.drop_watches();
    }

    /// Forgets all history and ends every watch: continuing from an old version is 410 Gone.
    pub fn compact(&self) {
        self.state().store.compact();
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The calls since the last time, oldest first.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// What all calls so far needed of RBAC.
    pub fn used(&self) -> BTreeSet<Permission> {
        let state = self.state();
        let permission =
            |call: &Call, verb: &str| (call.group.clone(), call.resource.clone(), verb.to_owned());
        let mut used: BTreeSet<_> = state
            .calls
            .iter()
            .map(|call| permission(call, &call.verb))
            .collect();
        let created = state.calls.iter().filter(|call| call.created);
        used.extend(created.map(|call| permission(call, "create")));
        used
    }

    /// An object as it is stored; `None` when there is none. `kind` is the plural.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().store.get(kind, namespace, name).cloned()
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let name = |object: &Value| {
            object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        self.state().store.all(kind).map(name).collect()
    }

    /// Every object of a kind, by namespace and name.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        self.state().store.all(kind).cloned().collect()
    }

    /// Makes an object, as another client would.
    pub fn create(&self, object: Value) {
        self.state()
            .store
            .create(object)
            .expect("the fixture can be made");
    }

    /// Changes an object as another client would: a merge patch by `kubectl`.
    pub fn edit(&self, kind: &str, namespace: &str, name: &str, patch: Value) {
        self.state()
            .store
            .merge(store::key(kind, namespace, name), &patch, false)
            .expect("the object can be edited");
    }

    /// Changes an object's status, as another controller would.
    pub fn edit_status(&self, kind: &str, namespace: &str, name: &str, status: Value) {
        let patch = serde_json::json!({ "status": status });
        self.state()
            .store
            .merge(store::key(kind, namespace, name), &patch, true)
            .expect("the status can be edited");
    }

    /// Deletes an object and what it owns, as another client would.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.state()
            .store
            .delete(store::key(kind, namespace, name), None)
            .expect("the object can be deleted");
    }

    /// Changes with every change of an object.
    pub fn version(&self) -> u64 {
        self.state().store.version()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics inside the server")
    }
}

impl Call {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}
