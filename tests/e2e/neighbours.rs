//! Other people's tools on the same Kubernetes: what scales, what forbids fixed users, what orphans.

use std::time::{Duration, Instant};

use serde_json::json;

use super::kubernetes::{apply, eventually, get, kubectl};
use super::losses::cluster;
use super::{NAMESPACE, remove, wait_until_whole};
use testkit::table::Table;

const WITHIN: Duration = Duration::from_secs(120);

/// `kubectl autoscale` and a HorizontalPodAutoscaler scale a cluster that says nothing of learners.
pub(super) async fn autoscale(image: &str, table: &mut Table) {
    let mut of = cluster("scaled", image, [1, 1, 2], json!({}));
    of["spec"]
        .as_object_mut()
        .expect("a spec")
        .remove("learner");
    apply(&of);
    wait_until_whole("scaled", 4).await;
    let started = Instant::now();
    kubectl(&[
        "scale",
        "paxos/scaled",
        "-n",
        NAMESPACE,
        "--current-replicas=2",
        "--replicas=3",
    ]);
    wait_until_whole("scaled", 5).await;
    table.row(
        "kubectl scale of a cluster without spec.learner, until Ready",
        started,
        "3 learners",
    );
    let started = Instant::now();
    kubectl(&[
        "autoscale",
        "paxos/scaled",
        "-n",
        NAMESPACE,
        "--min=4",
        "--max=5",
        "--cpu=50%",
    ]);
    let scaled = eventually("it is scaled", WITHIN, || {
        let scaler = get(&["hpa", "scaled", "-n", NAMESPACE]);
        let conditions = scaler["status"]["conditions"].as_array()?.clone();
        let able = conditions
            .iter()
            .any(|it| it["type"] == "AbleToScale" && it["status"] == "True");
        (able && scaler["status"]["desiredReplicas"] == 4)
            .then(|| conditions[0]["message"].to_string())
    })
    .await;
    wait_until_whole("scaled", 6).await;
    table.row(
        "kubectl autoscale with at least 4, until Ready",
        started,
        scaled,
    );
    kubectl(&["delete", "hpa", "scaled", "-n", NAMESPACE]);
    remove("scaled");
}

/// A policy that refuses fixed users and groups, as OpenShift's restricted security context does.
pub(super) async fn without_fixed_ids(image: &str, table: &mut Table) {
    const POLICY: &str = "cluster-sync-e2e-ids";
    let none = ["runAsUser", "runAsGroup", "fsGroup"]
        .map(|id| format!("!has(object.spec.securityContext.{id})"))
        .join(" && ");
    apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": POLICY },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
            }]},
            "matchConditions": [{
                "name": "ours", "expression": "'clustersync.io/cluster' in object.metadata.labels",
            }],
            "validations": [{
                "expression": format!("!has(object.spec.securityContext) || ({none})"),
                "message": "unable to validate against any security context constraint",
            }],
        },
    }));
    apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": POLICY },
        "spec": {
            "policyName": POLICY, "validationActions": ["Deny"],
            "matchResources": { "namespaceSelector": { "matchLabels": {
                "kubernetes.io/metadata.name": NAMESPACE,
            }}},
        },
    }));
    // A policy is in force a moment later.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let started = Instant::now();
    apply(&cluster("ids", image, [1, 1, 1], json!({})));
    let told = eventually("the refusal is reported", WITHIN, || {
        let object = get(&["paxos", "ids", "-n", NAMESPACE]);
        let conditions = object["status"]["conditions"].to_string();
        conditions
            .contains("security context constraint")
            .then_some(conditions.len())
    })
    .await;
    table.row(
        "fixed ids are refused, until the status says so",
        started,
        format!("{told} bytes"),
    );
    let started = Instant::now();
    // The platform would choose a user; here the image's own is no root.
    let context = json!({ "podSecurityContext": {
        "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" },
    }});
    apply(&cluster("ids", image, [1, 1, 1], context));
    wait_until_whole("ids", 3).await;
    table.row(
        "with spec.podSecurityContext, until Ready",
        started,
        "no fixed ids",
    );
    remove("ids");
    kubectl(&[
        "delete",
        "validatingadmissionpolicybinding,validatingadmissionpolicy",
        POLICY,
    ]);
}

/// A cluster whose object is deleted without what it owns, and applied again, is taken over as it runs.
pub(super) async fn orphans(image: &str, table: &mut Table) {
    let of = cluster("orphaned", image, [2, 3, 2], json!({}));
    apply(&of);
    wait_until_whole("orphaned", 7).await;
    let pods = || {
        let selector = "clustersync.io/cluster=orphaned";
        let pods = get(&["pods", "-l", selector, "-n", NAMESPACE])["items"].take();
        let pods = pods.as_array().cloned().unwrap_or_default();
        let mut uids: Vec<_> = pods
            .iter()
            .map(|pod| pod["metadata"]["uid"].to_string())
            .collect();
        uids.sort();
        uids
    };
    let before = pods();
    kubectl(&[
        "delete",
        "paxos",
        "orphaned",
        "-n",
        NAMESPACE,
        "--cascade=orphan",
    ]);
    let started = Instant::now();
    apply(&of);
    wait_until_whole("orphaned", 7).await;
    assert_eq!(pods(), before, "the same pods");
    let set = get(&["statefulset", "orphaned-acceptor", "-n", NAMESPACE]);
    assert_eq!(
        set["metadata"]["ownerReferences"][0]["kind"],
        "PaxosCluster"
    );
    table.row(
        "delete --cascade=orphan, apply again, until Ready",
        started,
        "no pod was restarted",
    );
    remove("orphaned");
}
