use serde_json::json;

use super::*;

const NAME: &str = "ledger-acceptor-1";
const SET: &str = "ledger-acceptor";

fn now() -> Time {
    Time(Timestamp::from_second(6000).unwrap())
}

/// A pod of acceptor 1 with this status.
fn pod(status: Value) -> Pod {
    let pod = json!({
        "metadata": {
            "name": NAME, "uid": "u1",
            "labels": { "clustersync.io/role": "acceptor" },
        },
        "spec": { "nodeName": "host-7", "containers": [{ "name": "node" }] },
        "status": status,
    });
    serde_json::from_value(pod).unwrap()
}

fn container(state: Value, last: Value) -> Value {
    json!({ "containerStatuses": [{
        "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": state, "lastState": last,
    }]})
}

fn told(status: Value) -> String {
    let told = why(NAME, SET, Some(&pod(status)), &Hearsay::default(), &now());
    told.unwrap_or_default()
}

#[test]
fn an_image_that_cannot_be_had_is_named() {
    let waiting = json!({ "waiting": {
        "reason": "ImagePullBackOff", "message": "Back-off pulling image \"x:nope\"",
    }});
    let mut status = container(waiting, json!({}));
    status["containerStatuses"][0]["image"] = json!("x:nope");
    let backs_off = "ImagePullBackOff: image \"x:nope\": Back-off pulling image \"x:nope\"";
    assert_eq!(told(status.clone()), backs_off);
    // What the kubelet says in turn is the same text.
    let mut says = |reason: &str, message: &str| {
        let waiting = json!({ "waiting": { "reason": reason, "message": message } });
        status["containerStatuses"][0]["state"] = waiting;
        told(status.clone())
    };
    let pulls = says("ErrImagePull", "no such host");
    assert_eq!(
        says("ImagePullBackOff", "Back-off: ErrImagePull: no such host"),
        pulls
    );
}

#[test]
fn a_crash_is_told_by_the_last_words_and_the_code() {
    let waiting = json!({ "waiting": {
        "reason": "CrashLoopBackOff",
        "message": "back-off 5m0s restarting failed container=node",
    }});
    let crash = |message: &str| {
        let last = json!({ "terminated": {
            "exitCode": 1, "reason": "Error", "message": message,
        }});
        told(container(waiting.clone(), last))
    };
    let plain = "2026-01-01T00:00:00Z listening\n\
                 2026-01-01T00:00:01Z cannot use the data folder /data: Permission denied\n";
    let expected = "it ended with exit code 1: cannot use the data folder /data: Permission denied";
    assert_eq!(crash(plain), expected);
    let fields =
        r#"{"timestamp":"2026-01-01T00:00:00Z","message":"cannot run","error":"disk full"}"#;
    assert_eq!(
        crash(fields),
        "it ended with exit code 1: cannot run: disk full"
    );
    assert_eq!(crash(""), "it ended with exit code 1 (Error)");
    let long = crash(&"x".repeat(2000));
    assert!(long.chars().count() < 500, "{}", long.len());
}

#[test]
fn want_of_memory_says_what_to_raise() {
    let last = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    assert!(told(container(waiting, last.clone())).contains("raise its memory limit"));
    // While it runs again as well, until it is ready.
    assert!(told(container(json!({ "running": {} }), last)).contains("OOMKilled"));
}

#[test]
fn a_pod_without_a_place_says_what_the_scheduler_and_its_claim_say() {
    let status = json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    }]});
    assert!(told(status.clone()).starts_with("it finds no Kubernetes node: 0/3 nodes"));
    let claim = format!("data-{NAME}");
    let missing = "ProvisioningFailed: storageclass.storage.k8s.io \"nope\" not found";
    let hearsay = Hearsay {
        warnings: [(claim, missing.to_owned())].into(),
        ..Hearsay::default()
    };
    let told = why(NAME, SET, Some(&pod(status)), &hearsay, &now()).unwrap();
    assert!(told.contains("\"nope\" not found"), "{told}");
}

#[test]
fn a_pod_that_was_never_made_says_what_its_set_says() {
    let exceeded = "FailedCreate: exceeded quota: pods=5".to_owned();
    let hearsay = Hearsay {
        warnings: [(SET.to_owned(), exceeded.clone())].into(),
        ..Hearsay::default()
    };
    assert_eq!(why(NAME, SET, None, &hearsay, &now()), Some(exceeded));
    assert_eq!(why(NAME, SET, None, &Hearsay::default(), &now()), None);
}

#[test]
fn a_volume_that_cannot_be_mounted_says_so() {
    let status = container(
        json!({ "waiting": { "reason": "ContainerCreating" } }),
        json!({}),
    );
    assert_eq!(told(status.clone()), "ContainerCreating");
    let failed = "FailedMount: MountVolume.SetUp failed".to_owned();
    let hearsay = Hearsay {
        warnings: [(NAME.to_owned(), failed.clone())].into(),
        ..Hearsay::default()
    };
    assert_eq!(
        why(NAME, SET, Some(&pod(status)), &hearsay, &now()),
        Some(failed)
    );
}

#[test]
fn a_lost_node_is_named_with_what_to_do() {
    let mut lost = pod(json!({}));
    lost.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(5990).unwrap()));
    let told = |pod: &Pod| why(NAME, SET, Some(pod), &Hearsay::default(), &now());
    assert_eq!(told(&lost), None, "it has its time");
    lost.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(5940).unwrap()));
    let why = told(&lost).unwrap();
    assert!(
        why.contains("host-7") && why.contains("out-of-service"),
        "{why}"
    );
    let unknown = pod(json!({ "conditions": [{
        "type": "Ready", "status": "False", "reason": "NodeNotReady",
    }]}));
    assert_eq!(
        told(&unknown).unwrap(),
        "Kubernetes node host-7 does not answer"
    );
}

#[test]
fn an_evicted_pod_and_one_without_its_label_say_so() {
    let evicted = json!({
        "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. ",
    });
    assert_eq!(
        told(evicted),
        "Evicted: The node was low on resource: memory."
    );
    let mut taken_out = pod(json!({}));
    taken_out.metadata.labels = None;
    let told = why(NAME, SET, Some(&taken_out), &Hearsay::default(), &now()).unwrap();
    assert!(
        told.contains("clustersync.io/role") && told.contains(SET),
        "{told}"
    );
}

#[test]
fn a_node_that_runs_says_itself_why_it_is_not_ready() {
    let running = container(json!({ "running": {} }), json!({}));
    let hearsay = Hearsay {
        unready: [(NAME.to_owned(), "acceptor 3 is missing".to_owned())].into(),
        ..Hearsay::default()
    };
    let told = why(NAME, SET, Some(&pod(running)), &hearsay, &now());
    assert_eq!(told.as_deref(), Some("acceptor 3 is missing"));
}

#[test]
fn a_sidecar_that_fails_is_named() {
    let status = json!({ "containerStatuses": [
        { "name": "proxy", "image": "", "imageID": "", "ready": false, "restartCount": 0,
          "state": { "terminated": { "exitCode": 2, "message": "no certificate" } } },
        { "name": "node", "image": "", "imageID": "", "ready": true, "restartCount": 0,
          "state": { "running": {} } },
    ]});
    assert_eq!(
        told(status),
        "container proxy ended with exit code 2: no certificate"
    );
}

#[test]
fn the_same_cause_is_told_once_and_many_are_cut_short() {
    let same = (1..=3).map(|pod| (format!("a-{pod}"), "no space".to_owned()));
    let other = [("b-1".to_owned(), "no image".to_owned())];
    let told = summary(same.chain(other)).unwrap();
    assert_eq!(told, "pods a-1, a-2, a-3: no space; pod b-1: no image");
    let many = (1..=9).map(|pod| (format!("a-{pod}"), format!("cause {pod}")));
    let told = summary(many).unwrap();
    assert!(told.ends_with("pod a-4: cause 4; and 5 more"), "{told}");
    assert_eq!(summary(std::iter::empty()), None);
}

fn event(second: i64, kind: &str, reason: &str) -> Event {
    let event = json!({
        "metadata": {}, "involvedObject": {},
        "type": kind, "reason": reason, "message": "because",
        "lastTimestamp": Time(Timestamp::from_second(second).unwrap()),
    });
    serde_json::from_value(event).unwrap()
}

#[test]
fn of_an_objects_events_the_last_one_counts() {
    let refused = event(10, "Warning", "FailedCreate");
    let warning = Some("FailedCreate: because".to_owned());
    assert_eq!(
        last_warning(&[event(5, "Normal", "Created"), refused.clone()]),
        warning
    );
    assert_eq!(
        last_warning(&[refused, event(20, "Normal", "SuccessfulCreate")]),
        None
    );
    assert_eq!(last_warning(&[]), None);
}

#[test]
fn events_are_read_of_what_stands_still_alone() {
    let set = |replicas: i32| {
        let set = json!({
            "metadata": { "name": SET, "uid": "s1" },
            "spec": { "replicas": 3, "selector": {}, "template": {} },
            "status": { "replicas": replicas },
        });
        serde_json::from_value::<StatefulSet>(set).unwrap()
    };
    let runs = pod(container(json!({ "running": {} }), json!({})));
    assert_eq!(to_ask(&[set(3)], &[runs], &[]), []);
    let creating = container(
        json!({ "waiting": { "reason": "ContainerCreating" } }),
        json!({}),
    );
    let asked = to_ask(&[set(2)], &[pod(creating)], &[]);
    let asked: Vec<_> = asked
        .iter()
        .map(|asked| (asked.kind, asked.name.as_str()))
        .collect();
    assert_eq!(asked, [("StatefulSet", SET), ("Pod", NAME)]);
}
