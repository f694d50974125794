//! What the API server and the StatefulSet controller do to the kinds that the operator makes.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiServer;
use super::store::{Answer, Store, key, refuse};

/// Whether the API server counts the changes of a kind's spec.
pub(super) fn has_generation(plural: &str) -> bool {
    [
        "paxosclusters",
        "statefulsets",
        "poddisruptionbudgets",
        "networkpolicies",
    ]
    .contains(&plural)
}

/// Some of the values that the API server fills in or rewrites, so that code that compares what it sent
/// with what is stored sees the differences that it will see on a real cluster.
pub(super) fn default(object: &mut Value) {
    match object["kind"].as_str() {
        Some("StatefulSet") => {
            let pod = &mut object["spec"]["template"]["spec"];
            fill(
                pod,
                json!({
                    "restartPolicy": "Always",
                    "dnsPolicy": "ClusterFirst",
                    "schedulerName": "default-scheduler",
                }),
            );
            for container in pod["containers"].as_array_mut().into_iter().flatten() {
                fill(
                    container,
                    json!({
                        "imagePullPolicy": "IfNotPresent",
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                    }),
                );
                for amounts in ["requests", "limits"] {
                    let amounts = container["resources"][amounts].as_object_mut();
                    amounts
                        .into_iter()
                        .flatten()
                        .for_each(|(_, amount)| canonical(amount));
                }
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    if container[probe].is_object() {
                        fill(&mut container[probe], json!({ "successThreshold": 1 }));
                        fill(
                            &mut container[probe]["httpGet"],
                            json!({ "scheme": "HTTP" }),
                        );
                    }
                }
            }
            for claim in object["spec"]["volumeClaimTemplates"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                fill(claim, json!({ "status": { "phase": "Pending" } }));
                fill(&mut claim["spec"], json!({ "volumeMode": "Filesystem" }));
                canonical(&mut claim["spec"]["resources"]["requests"]["storage"]);
            }
            let strategy = &mut object["spec"]["updateStrategy"];
            fill(strategy, json!({ "type": "RollingUpdate" }));
            if strategy["type"] == "RollingUpdate" {
                fill(&mut strategy["rollingUpdate"], json!({ "partition": 0 }));
            }
            fill(
                &mut object["status"],
                json!({ "replicas": 0, "availableReplicas": 0 }),
            );
        }
        Some("Service") => fill(
            &mut object["spec"],
            json!({
                "clusterIP": "10.96.0.7",
                "type": "ClusterIP",
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
            }),
        ),
        _ => {}
    }
}

/// What the API server refuses.
pub(super) fn validate(live: Option<&Value>, object: &Value) -> Answer<()> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let controllers = owners
        .into_iter()
        .flatten()
        .filter(|owner| owner["controller"] == true);
    if controllers.count() > 1 {
        return refuse(
            422,
            "Invalid",
            "Only one reference can have Controller set to true",
        );
    }
    if let Some(live) = live.filter(|_| object["kind"] == "PersistentVolumeClaim") {
        return validate_claim(live, object);
    }
    if object["kind"] != "StatefulSet" {
        return Ok(());
    }
    let strategy = &object["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" && !strategy["rollingUpdate"].is_null() {
        return refuse(
            422,
            "Invalid",
            "spec.updateStrategy.rollingUpdate: Invalid value: only allowed for updateStrategy \
             'RollingUpdate'",
        );
    }
    let Some(live) = live else {
        return Ok(());
    };
    for field in [
        "serviceName",
        "selector",
        "podManagementPolicy",
        "volumeClaimTemplates",
    ] {
        if live["spec"][field] != object["spec"][field] {
            return refuse(
                422,
                "Invalid",
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', \
                 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
                 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }
    Ok(())
}

/// Whether a pod serves.
fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

impl Store {
    /// Marks a pod for its end, if it is the one that is meant and its budget allows that.
    pub(super) fn evict(&mut self, namespace: &str, name: &str, eviction: &Value) -> Answer<Value> {
        let Some(pod) = self.get("pods", namespace, name).cloned() else {
            return refuse(404, "NotFound", format!("pods \"{name}\" not found"));
        };
        let wanted = &eviction["deleteOptions"]["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != pod["metadata"]["uid"] {
            return refuse(409, "Conflict", "precondition failed: uid");
        }
        let selects = |budget: &Value, pod: &Value| {
            let labels = budget["spec"]["selector"]["matchLabels"].as_object();
            let (mut labels, of_pod) = (labels.into_iter().flatten(), &pod["metadata"]["labels"]);
            budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && labels.all(|(key, value)| of_pod[key] == *value)
        };
        let budgets: Vec<&Value> = self
            .all("poddisruptionbudgets")
            .filter(|budget| selects(budget, &pod))
            .collect();
        if budgets.len() > 1 {
            return refuse(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                 does not support.",
            );
        }
        // Unhealthy ones may always go: unhealthyPodEvictionPolicy is AlwaysAllow.
        if let [budget] = budgets[..]
            && is_ready(&pod)
        {
            let set = pod["metadata"]["ownerReferences"][0]["name"].as_str();
            let set = self.get("statefulsets", namespace, set.unwrap_or_default());
            let expected = set.and_then(|set| set["spec"]["replicas"].as_i64());
            let may_miss = budget["spec"]["maxUnavailable"].as_i64();
            let needed = expected.unwrap_or(0) - may_miss.unwrap_or(0);
            let healthy = self
                .all("pods")
                .filter(|pod| selects(budget, pod) && is_ready(pod));
            if (healthy.count() as i64) <= needed {
                return refuse(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                );
            }
        }
        let leaving = json!({ "metadata": {
            "deletionTimestamp": now(),
            "deletionGracePeriodSeconds": 30,
        }});
        self.merge(key("pods", namespace, name), &leaving, false)?;
        Ok(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201 }))
    }
}

/// A class that does not let its volumes grow.
pub const RIGID: &str = "rigid";
/// One that lets them, and never does it.
pub const STUCK: &str = "stuck";
/// One that does it only while no pod uses the volume.
pub const OFFLINE: &str = "offline";

/// Sizes of the fixtures are all in `Gi`.
fn validate_claim(live: &Value, object: &Value) -> Answer<()> {
    let size = |claim: &Value| {
        let size = claim["spec"]["resources"]["requests"]["storage"].as_str();
        let size = size.and_then(|size| size.strip_suffix("Gi"));
        size.expect("a size in Gi")
            .parse::<u32>()
            .expect("a size in Gi")
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if size(object) < size(live) {
        let message = format!("{name}: field can not be less than previous value");
        return refuse(422, "Invalid", message);
    }
    if size(object) > size(live) && object["spec"]["storageClassName"] == RIGID {
        let message = format!(
            "persistentvolumeclaims \"{name}\" is forbidden: only dynamically provisioned pvc can be \
             resized and the storageclass that provisions the pvc must support resize"
        );
        return refuse(403, "Forbidden", message);
    }
    Ok(())
}

impl ApiServer {
    /// Plays the StatefulSet controller and the kubelet until they have nothing left to do: every set
    /// has its pods, of which all are ready but those for which `fails(pod's name)`. Pod `c-R-k` gets an
    /// address that ends in k.
    pub fn run_pods(&self, fails: impl Fn(&str) -> bool) {
        let mut before = None;
        while before != Some(self.version()) {
            before = Some(self.version());
            self.step_pods(&fails);
        }
    }

    /// One step of theirs: pods on their way out end, missing ones are made, those made before become
    /// ready, and the sets' statuses tell.
    pub fn step_pods(&self, fails: &impl Fn(&str) -> bool) {
        for set in self.objects("statefulsets") {
            let replicas = set["spec"]["replicas"]
                .as_i64()
                .expect("a set has replicas");
            let first = set["spec"]["ordinals"]["start"].as_i64().unwrap_or(0);
            let name = set["metadata"]["name"].as_str().expect("a set has a name");
            let namespace = set["metadata"]["namespace"]
                .as_str()
                .expect("a set has a namespace");
            let wanted: Vec<String> = (first..first + replicas)
                .map(|k| format!("{name}-{k}"))
                .collect();
            for pod in self.pods_of(&set) {
                let pod_name = pod["metadata"]["name"].as_str().expect("a pod has a name");
                let leaves = !pod["metadata"]["deletionTimestamp"].is_null();
                let surplus = wanted.iter().all(|wanted| wanted != pod_name);
                if leaves || surplus {
                    self.delete("pods", namespace, pod_name);
                    if surplus && retention(&set, "whenScaled") == "Delete" {
                        let claim = format!("data-{pod_name}");
                        self.delete("persistentvolumeclaims", namespace, &claim);
                    }
                } else if is_ready(&pod) == fails(pod_name) {
                    self.set_ready(namespace, pod_name, !fails(pod_name));
                }
            }
            for (index, pod) in (first..).zip(&wanted) {
                self.claim(&set, namespace, pod);
                match self.object("pods", namespace, pod) {
                    None if self.is_refused(&set, namespace) => {}
                    None => self.start_pod(&set, namespace, pod, index),
                    // As do those that another set left, which this one adopts.
                    Some(orphan) if is_empty(&orphan["metadata"]["ownerReferences"]) => {
                        let adopted = json!({ "ownerReferences": owner_references(&set, true) });
                        self.edit("pods", namespace, pod, json!({ "metadata": adopted }));
                    }
                    Some(_) => {}
                }
            }
            let pods = self.pods_of(&set);
            let updated = |pod: &&Value| pod["metadata"]["labels"][REVISION] == revision(&set);
            let old = pods.iter().find(|pod| !updated(pod));
            if set["spec"]["updateStrategy"]["type"] == "RollingUpdate"
                && let Some(old) = old.filter(|_| pods.iter().all(is_ready))
            {
                self.delete("pods", namespace, old["metadata"]["name"].as_str().unwrap());
            }
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            self.edit_status(
                "statefulsets",
                namespace,
                name,
                json!({
                    "observedGeneration": set["metadata"]["generation"],
                    "replicas": pods.len(),
                    "updatedReplicas": pods.iter().filter(updated).count(),
                    "readyReplicas": ready,
                    "availableReplicas": ready,
                }),
            );
        }
    }

    /// Whether no pod may be made, which the set's events then tell.
    fn is_refused(&self, set: &Value, namespace: &str) -> bool {
        let Some(why) = self.state().no_pods.clone() else {
            return false;
        };
        let name = format!(
            "{}.refused",
            set["metadata"]["name"].as_str().unwrap_or("?")
        );
        if self.object("events", namespace, &name).is_none() {
            self.create(json!({
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": { "name": name, "namespace": namespace },
                "involvedObject": {
                    "kind": "StatefulSet",
                    "name": set["metadata"]["name"],
                    "uid": set["metadata"]["uid"],
                },
                "type": "Warning",
                "reason": "FailedCreate",
                "message": why,
                "lastTimestamp": now(),
            }));
        }
        true
    }

    fn claim(&self, set: &Value, namespace: &str, pod: &str) {
        let (plural, name) = ("persistentvolumeclaims", format!("data-{pod}"));
        let template = &set["spec"]["volumeClaimTemplates"][0];
        if self.object(plural, namespace, &name).is_none() {
            let mut labels = template["metadata"]["labels"].clone();
            super::fields::merge(&mut labels, &set["spec"]["selector"]["matchLabels"]);
            self.create(json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": labels,
                    "annotations": template["metadata"]["annotations"],
                },
                "spec": template["spec"],
            }));
            self.grow(namespace, &name);
        }
        let claim = self.object(plural, namespace, &name).expect("it was made");
        match claim["spec"]["storageClassName"].as_str() {
            Some(STUCK) => {}
            // What grows only while no pod uses it waits, and says so, since long ago.
            Some(OFFLINE) if self.object("pods", namespace, pod).is_some() => {
                let (has, wanted) = (
                    &claim["status"]["capacity"],
                    &claim["spec"]["resources"]["requests"],
                );
                if has != wanted {
                    let pending = json!({ "conditions": [{
                        "type": "FileSystemResizePending", "status": "True",
                        "lastTransitionTime": "2020-01-01T00:00:00Z",
                    }]});
                    self.edit_status(plural, namespace, &name, pending);
                }
            }
            _ => self.grow(namespace, &name),
        }
        let owners = match retention(set, "whenDeleted") == "Delete" {
            true => owner_references(set, false),
            false => Value::Null,
        };
        let owned = json!({ "metadata": { "ownerReferences": owners } });
        self.edit(plural, namespace, &name, owned);
    }

    /// The volume has what its claim asks for.
    fn grow(&self, namespace: &str, claim: &str) {
        let plural = "persistentvolumeclaims";
        let live = self.object(plural, namespace, claim).expect("it is there");
        let capacity = &live["spec"]["resources"]["requests"];
        let status = json!({ "phase": "Bound", "capacity": capacity, "conditions": null });
        self.edit_status(plural, namespace, claim, status);
    }

    fn pods_of(&self, set: &Value) -> Vec<Value> {
        let mut pods = self.objects("pods");
        pods.retain(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == set["metadata"]["uid"]);
        pods
    }

    /// A pod as its set's template says, not ready yet.
    fn start_pod(&self, set: &Value, namespace: &str, name: &str, index: i64) {
        let template = &set["spec"]["template"];
        let mut labels = template["metadata"]["labels"].clone();
        labels["apps.kubernetes.io/pod-index"] = json!(index.to_string());
        labels[REVISION] = json!(revision(set));
        let mut spec = template["spec"].clone();
        let tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
        let added = json!({ "key": "node.kubernetes.io/not-ready", "operator": "Exists" });
        spec["tolerations"] = tolerations.into_iter().chain([added]).collect();
        spec["nodeName"] = json!("node-a");
        self.create(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": template["metadata"]["annotations"],
                "ownerReferences": owner_references(set, true),
            },
            "spec": spec,
        }));
        let address = format!("10.1.0.{index}");
        let status = json!({ "podIP": address, "phase": "Running" });
        self.edit_status("pods", namespace, name, status);
        self.set_ready(namespace, name, false);
    }

    fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        let state = if ready { "running" } else { "waiting" };
        let status = json!({
            "conditions": [{
                "type": "Ready",
                "status": if ready { "True" } else { "False" },
                "lastTransitionTime": now(),
            }],
            "containerStatuses": [{
                "name": "node",
                "image": "",
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "state": { state: {} },
            }],
        });
        self.edit_status("pods", namespace, name, status);
    }
}

/// In whole seconds, as Kubernetes writes it.
fn now() -> String {
    let now = Timestamp::now().as_second();
    let now = Timestamp::from_second(now).expect("a time");
    now.to_string()
}

/// Kubernetes' label for the template that a pod was made from.
const REVISION: &str = "controller-revision-hash";

fn revision(set: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    set["spec"]["template"].to_string().hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn owner_references(set: &Value, controller: bool) -> Value {
    json!([{
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": set["metadata"]["name"],
        "uid": set["metadata"]["uid"],
        "controller": controller,
    }])
}

fn retention<'a>(set: &'a Value, when: &str) -> &'a Value {
    &set["spec"]["persistentVolumeClaimRetentionPolicy"][when]
}

fn fill(object: &mut Value, defaults: Value) {
    if object.is_null() {
        *object = json!({});
    }
    let Value::Object(defaults) = defaults else {
        return;
    };
    for (field, value) in defaults {
        let slot = &mut object[&field];
        if slot.is_null() {
            *slot = value;
        }
    }
}

/// The one rewriting that the fixtures provoke: whole numbers of thousandths lose their `m`.
fn canonical(amount: &mut Value) {
    let whole = amount
        .as_str()
        .and_then(|text| text.strip_suffix("000m"))
        .map(str::to_owned);
    if let Some(whole) = whole {
        *amount = json!(whole);
    }
}
