//! Why a cluster is not there, read out of `kubectl describe paxos` alone.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::kubernetes::{apply, eventually, kubectl};
use super::losses::{cluster, offer};
use super::{NAMESPACE, remove, wait_until_whole};
use testkit::table::Table;

/// How long it may take until the cause stands in the status.
const WITHIN: Duration = Duration::from_secs(120);

/// Applies a cluster that cannot be, waits until its description names every one of these, and removes
/// it.
async fn told(table: &mut Table, cause: &str, object: &Value, words: &[&str]) {
    let name = object["metadata"]["name"].as_str().expect("a name");
    let started = Instant::now();
    apply(object);
    let told = eventually(cause, WITHIN, || description(name, words)).await;
    table.row(&format!("cause: {cause}"), started, told);
    remove(name);
}

/// The line of `kubectl describe` that has all the words, if there is one.
fn description(name: &str, words: &[&str]) -> Option<String> {
    let text = kubectl(&["describe", "paxos", name, "-n", NAMESPACE]);
    // What Kubernetes itself tells of other objects does not count.
    let own = text.split("\nEvents:").next().unwrap_or_default();
    let mut lines = own.lines().map(str::trim);
    let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
    found.map(|line| line.trim_start_matches("Message:").trim().to_owned())
}

fn small(name: &str, image: &str, more: Value) -> Value {
    cluster(name, image, [1, 1, 1], more)
}

/// A quota or a limit range of the namespace, for as long as it is needed.
async fn under(object: Value, table: &mut Table, cause: &str, of: &Value, words: &[&str]) {
    apply(&object);
    told(table, cause, of, words).await;
    let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
    let (kind, name) = (kind.as_str().unwrap(), name.as_str().unwrap());
    kubectl(&["delete", kind, name, "-n", NAMESPACE]);
}

/// Ten of them, one after the other.
pub(super) async fn ten(image: &str, table: &mut Table) {
    let storage = |class: &str| json!({ "storage": { "storageClassName": class, "size": "1Gi" } });
    let plain = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": { "name": "in-the-way", "namespace": NAMESPACE },
            "spec": spec,
        })
    };

    let of = small("cause-image", "example.invalid/nope:1", json!({}));
    told(
        table,
        "no such image",
        &of,
        &["Pull", "example.invalid/nope:1"],
    )
    .await;

    let quota = plain("ResourceQuota", json!({ "hard": { "pods": "0" } }));
    let of = small("cause-quota", image, json!({}));
    under(
        quota,
        table,
        "a quota",
        &of,
        &["FailedCreate", "exceeded quota"],
    )
    .await;

    let limits = json!({ "limits": [{ "type": "Container", "max": { "memory": "128Mi" } }] });
    let range = plain("LimitRange", limits);
    let of = small("cause-limits", image, json!({}));
    under(
        range,
        table,
        "a limit range",
        &of,
        &["maximum memory usage per Container"],
    )
    .await;

    let of = small(
        "cause-class",
        image,
        json!({ "acceptor": storage("no-such-class") }),
    );
    told(
        table,
        "no such class",
        &of,
        &["cause-class-acceptor-1", "no-such-class"],
    )
    .await;

    let nowhere = json!({ "learner": { "nodeSelector": { "disk": "none" } } });
    let of = small("cause-selector", image, nowhere);
    told(
        table,
        "no node fits",
        &of,
        &["cause-selector-learner-1", "nodes are available"],
    )
    .await;

    let command = json!({ "learner": { "podTemplate": { "spec": { "containers": [{
        "name": "node", "command": ["sleep"],
    }]}}}});
    let of = small("cause-command", image, command);
    told(
        table,
        "a wrong command",
        &of,
        &["cause-command-learner-1", "exit code"],
    )
    .await;

    folder_of_root(image, table).await;

    // A node itself gets by with less than any limit that Kubernetes would start it with.
    let greedy = json!({ "learner": {
        "resources": { "requests": { "memory": "32Mi" }, "limits": { "memory": "32Mi" } },
        "podTemplate": { "spec": { "containers": [{
            "name": "node", "command": ["tail", "/dev/zero"],
        }]}},
    }});
    let of = small("cause-oom", image, greedy);
    told(
        table,
        "too little memory",
        &of,
        &["cause-oom-learner-1", "OOMKilled"],
    )
    .await;

    let missing = json!({ "proposer": { "extraEnv": [{
        "name": "MORE", "valueFrom": { "secretKeyRef": { "name": "no-such-secret", "key": "k" } },
    }]}});
    let of = small("cause-secret", image, missing);
    told(
        table,
        "no such secret",
        &of,
        &["cause-secret-proposer-1", "no-such-secret"],
    )
    .await;

    others_disks(image, table).await;
}

/// The acceptors' volumes are another cluster's than the others': these say so at their end.
async fn others_disks(image: &str, table: &mut Table) {
    let of = small("cause-disks", image, json!({}));
    apply(&of);
    wait_until_whole("cause-disks", 3).await;
    let (claim, pod) = ("data-cause-disks-acceptor-1", "cause-disks-acceptor-1");
    kubectl(&["delete", "pvc", claim, "-n", NAMESPACE, "--wait=false"]);
    kubectl(&["delete", "pod", pod, "-n", NAMESPACE, "--wait=false"]);
    let started = Instant::now();
    let words = ["cause-disks-acceptor-1", "volumes lost or exchanged"];
    let told = eventually("it is shown", WITHIN, || description("cause-disks", &words)).await;
    table.row(
        "cause: the acceptors' disks are new, the others' are not",
        started,
        told,
    );
    remove("cause-disks");
}

/// A volume that only root may write to, as a folder of the node is. Needs NODE_DIR.
async fn folder_of_root(image: &str, table: &mut Table) {
    let Some(folder) = std::env::var_os("NODE_DIR").filter(|it| !it.is_empty()) else {
        println!(
            "e2e: a folder of root's: SKIPPED, set NODE_DIR to a folder of the node to run it"
        );
        return;
    };
    const NAME: &str = "cluster-sync-e2e-root";
    let path = Path::new(&folder).join(NAME);
    std::fs::create_dir_all(&path).expect("a folder in NODE_DIR");
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    offer(NAME, NAME, "1Gi", &path, "data-cause-folder-acceptor-1");
    let storage = json!({ "storage": { "storageClassName": NAME, "size": "1Gi" } });
    let of = small("cause-folder", image, json!({ "acceptor": storage }));
    told(
        table,
        "a folder of root's",
        &of,
        &["cause-folder-acceptor-1", "Permission denied"],
    )
    .await;
    kubectl(&["delete", "pv", NAME, "--wait=false"]);
    let _ = std::fs::remove_dir(path);
}
