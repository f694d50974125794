//! What the API server and the StatefulSet controller do to the kinds that the operator makes.

use serde_json::{Value, json};

use super::ApiServer;
use super::store::{Answer, refuse};

/// Whether the API server counts the changes of a kind's spec.
pub(super) fn has_generation(plural: &str) -> bool {
    ["paxosclusters", "statefulsets", "poddisruptionbudgets"].contains(&plural)
}

/// Some of the values that the API server fills in or rewrites, so that whoever compares what it sent
/// with what is stored sees the differences that it will see in earnest.
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
    let Some(live) = live.filter(|_| object["kind"] == "StatefulSet") else {
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

impl ApiServer {
    /// Plays the StatefulSet controller and the kubelet: every set gets its pods, of which all are
    /// ready but those for which `fails(pod's name)`. Pod `c-R-k` gets an address that ends in k.
    pub fn run_pods(&self, fails: impl Fn(&str) -> bool) {
        for set in self.objects("statefulsets") {
            let replicas = set["spec"]["replicas"]
                .as_i64()
                .expect("a set has replicas");
            let first = set["spec"]["ordinals"]["start"].as_i64().unwrap_or(0);
            let name = set["metadata"]["name"].as_str().expect("a set has a name");
            let namespace = set["metadata"]["namespace"]
                .as_str()
                .expect("a set has a namespace");
            let pods: Vec<(i64, String)> = (first..first + replicas)
                .map(|k| (k, format!("{name}-{k}")))
                .collect();
            for pod in self.objects("pods") {
                let owner = &pod["metadata"]["ownerReferences"][0]["uid"];
                let pod_name = pod["metadata"]["name"].as_str().expect("a pod has a name");
                if *owner == set["metadata"]["uid"] && pods.iter().all(|(_, p)| p != pod_name) {
                    self.delete("pods", namespace, pod_name);
                }
            }
            for (index, pod) in &pods {
                self.run_pod(&set, namespace, pod, *index);
            }
            let ready = pods.iter().filter(|(_, pod)| !fails(pod)).count();
            self.edit_status(
                "statefulsets",
                namespace,
                name,
                json!({
                    "observedGeneration": set["metadata"]["generation"],
                    "replicas": replicas,
                    "updatedReplicas": replicas,
                    "readyReplicas": ready,
                    "availableReplicas": ready,
                }),
            );
        }
    }

    fn run_pod(&self, set: &Value, namespace: &str, name: &str, index: i64) {
        if self.object("pods", namespace, name).is_some() {
            return;
        }
        let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
        labels["apps.kubernetes.io/pod-index"] = json!(index.to_string());
        self.create(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1",
                    "kind": "StatefulSet",
                    "name": set["metadata"]["name"],
                    "uid": set["metadata"]["uid"],
                    "controller": true,
                }],
            },
        }));
        let address = format!("10.1.0.{index}");
        self.edit_status("pods", namespace, name, json!({ "podIP": address }));
    }
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
