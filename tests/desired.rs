//! PaxosClusters in, objects out: `golden/NAME.in.yaml` becomes `golden/NAME.out.yaml`, as do the
//! samples. `UPDATE=1` writes what it becomes now; the difference is then for review.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use api::env::{Config, Role};
use kube::CustomResourceExt;
use kube::core::cel::Validator;
use operator::crd::PaxosCluster;
use operator::desired::to_document;
use operator::render;
use paxos::ids::Members;
use serde_json::{Value, json};
use testkit::tools::root;

fn parse(path: &Path) -> PaxosCluster {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn assert_golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, actual).expect("the golden file can be written");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what it becomes now; UPDATE=1 rewrites it",
        path.display()
    );
}

#[test]
fn fixtures_and_samples_become_what_they_became() {
    let golden = root().join("tests/golden");
    let mut inputs: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (folder, suffix) in [
        (golden.clone(), ".in.yaml"),
        (root().join("crds/samples"), ".yaml"),
    ] {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let file = entry.file_name().into_string().expect("a name in UTF-8");
            if let Some(name) = file.strip_suffix(suffix) {
                inputs.insert(name.to_owned(), entry.path());
            }
        }
    }
    assert!(inputs.len() >= 4, "{inputs:?}");
    for (name, path) in inputs {
        let objects = render(&parse(&path)).expect(&name);
        assert_golden(&golden.join(format!("{name}.out.yaml")), &objects.to_yaml());
    }
}

#[test]
fn the_crd_file_is_what_the_operator_prints() {
    assert_golden(
        &root().join("crds/paxosclusters.yaml"),
        &to_document(&PaxosCluster::crd()),
    );
    let size = to_document(&PaxosCluster::crd()).len();
    assert!(size < 64 * 1024, "the CRD has {size} bytes");
}

/// Every pod's environment as the kubelet would fill it in.
fn environments(object: &PaxosCluster) -> Vec<(String, BTreeMap<String, String>)> {
    let sets = render(object).expect("the fixture is valid").stateful_sets;
    let mut environments = Vec::new();
    for set in sets {
        let spec = set.spec.expect("a spec");
        let first = spec
            .ordinals
            .and_then(|ordinals| ordinals.start)
            .expect("a start");
        let container = spec.template.spec.expect("a pod").containers.remove(0);
        for ordinal in first..first + spec.replicas.expect("replicas") {
            let env = container.env.iter().flatten().map(|var| {
                let value = var.value.clone().unwrap_or_else(|| {
                    let source = var
                        .value_from
                        .as_ref()
                        .and_then(|from| from.field_ref.as_ref());
                    let path = &source.expect("a value or a field").field_path;
                    assert_eq!(path, "metadata.labels['apps.kubernetes.io/pod-index']");
                    ordinal.to_string()
                });
                (var.name.clone(), value)
            });
            let name = set.metadata.name.as_deref().expect("a name");
            environments.push((format!("{name}-{ordinal}"), env.collect()));
        }
    }
    environments
}

#[test]
fn every_pod_reads_back_the_configuration_that_was_meant_for_it() {
    let object = parse(&root().join("tests/golden/ledger.in.yaml"));
    let environments = environments(&object);
    assert_eq!(environments.len(), 3 + 3 + 2 + 4);
    for (pod, env) in environments {
        let config = Config::from_env(|name| env.get(name).cloned()).expect(&pod);
        assert_eq!(pod, format!("ledger-{}-{}", config.role, config.node_id));
        let knows_stores = matches!(config.role, Role::Learner | Role::Store);
        assert_eq!(config.use_cluster_store, knows_stores, "{pod}");
        assert!(config.debug, "{pod}");
        assert_eq!(config.heartbeat_interval.as_millis(), 100, "{pod}");
        if config.role != Role::Acceptor {
            let third = "ledger-proposer-3.ledger-proposer.shop.svc:8080";
            assert_eq!(config.proposers[2], third, "position k is node k");
        }
        if config.role == Role::Learner {
            assert_eq!(config.stores.len(), 4, "{pod}");
        }
    }
}

#[test]
fn switching_stores_on_restarts_nobody_but_the_learners() {
    let full = parse(&root().join("crds/samples/full.yaml"));
    let mut with_stores = full.clone();
    with_stores.spec.store.enabled = true;
    let before = render(&full).unwrap().stateful_sets;
    let after = render(&with_stores).unwrap().stateful_sets;
    assert_eq!((before.len(), after.len()), (3, 4));
    assert_eq!(before[..2], after[..2], "proposers and acceptors");
    for (pod, env) in environments(&with_stores) {
        if pod.starts_with("full-learner-") {
            assert_eq!(env["USE_CLUSTER_STORE"], "true");
            assert_eq!(env["STORES"].split(',').count(), 3);
        }
    }
}

#[test]
fn another_template_of_a_role_restarts_that_role_alone() {
    let plain = parse(&root().join("crds/samples/full.yaml"));
    let before = render(&plain).unwrap().stateful_sets;
    for (at, role) in ["proposer", "acceptor", "learner"].iter().enumerate() {
        for (field, value) in [
            ("podTemplate", json!({ "spec": { "hostNetwork": true } })),
            ("podLabels", json!({ "team": "payments" })),
            ("podAnnotations", json!({ "team": "payments" })),
            (
                "extraEnv",
                json!([{ "name": "RUST_BACKTRACE", "value": "1" }]),
            ),
            ("serviceAccountName", json!("someone")),
        ] {
            let mut changed = serde_json::to_value(&plain).unwrap();
            changed["spec"][role][field] = value;
            let changed: PaxosCluster = serde_json::from_value(changed).unwrap();
            let after = render(&changed).unwrap().stateful_sets;
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                assert_eq!(before != after, index == at, "{field} of {role}");
            }
        }
    }
}

#[test]
fn nobody_reaches_the_nodes_but_those_who_may() {
    let policies = |spec: Value| {
        let object = json!({ "metadata": { "name": "ledger" }, "spec": spec });
        let objects = render(&serde_json::from_value(object).unwrap()).unwrap();
        let policies = objects.network_policies.into_iter();
        let policies = policies.map(|policy| serde_json::to_value(policy).unwrap());
        policies.collect::<Vec<Value>>()
    };
    assert!(policies(json!({})).is_empty(), "nobody is cut off unasked");
    let peer = |name: &str| json!({ "podSelector": { "matchLabels": { "app": name } } });
    let spec = json!({ "networkPolicy": {
        "enabled": true, "clients": [peer("shop")], "metrics": [peer("scraper")],
    }, "store": { "enabled": true } });
    let all = policies(spec);
    assert_eq!(all.len(), 4, "one for each role");
    for policy in all {
        let (spec, from) = (&policy["spec"], &policy["spec"]["ingress"][0]["from"]);
        assert_eq!(spec["policyTypes"], json!(["Ingress"]));
        let role = &spec["podSelector"]["matchLabels"]["clustersync.io/role"];
        let from = from.as_array().unwrap();
        let own =
            json!({ "podSelector": { "matchLabels": { "clustersync.io/cluster": "ledger" } } });
        assert!(from.contains(&own) && from.contains(&peer("scraper")));
        assert_eq!(from.contains(&peer("shop")), role != "acceptor", "{role}");
    }
    let alone = policies(json!({ "networkPolicy": { "enabled": true } }));
    let operator = json!({ "namespaceSelector": {}, "podSelector": { "matchLabels": {
        "app.kubernetes.io/component": "operator", "app.kubernetes.io/part-of": "cluster-sync",
    } } });
    let from = &alone[0]["spec"]["ingress"][0]["from"];
    assert_eq!((from.as_array().unwrap().len(), &from[1]), (2, &operator));
}

#[test]
fn evictions_leave_a_quorum_of_any_number_of_acceptors() {
    for acceptors in 1..=255_u8 {
        let spec = format!(
            "{{metadata: {{name: ledger}}, spec: {{acceptor: {{replicas: {acceptors}}}}}}}"
        );
        let object: PaxosCluster = serde_saphyr::from_str(&spec).unwrap();
        let budgets = render(&object).unwrap().disruption_budgets;
        let budget = &budgets[1];
        assert_eq!(budget.metadata.name.as_deref(), Some("ledger-acceptor"));
        let spec = serde_json::to_value(budget.spec.as_ref().unwrap()).unwrap();
        let evicted = spec["maxUnavailable"].as_u64().unwrap() as usize;
        let members = Members::new(acceptors).unwrap();
        match members.tolerates() {
            // No eviction keeps a quorum; forbidding all would block every drain forever.
            0 => assert_eq!(evicted, 1),
            tolerated => assert_eq!(evicted, tolerated),
        }
        assert_eq!(spec["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    }
}

#[test]
fn pods_satisfy_the_restricted_pod_security_standard() {
    for sample in ["crds/samples/full.yaml", "tests/golden/ledger.in.yaml"] {
        for set in render(&parse(&root().join(sample))).unwrap().stateful_sets {
            let set: Value = serde_json::to_value(set).unwrap();
            let pod = &set["spec"]["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert!(pod["securityContext"]["runAsUser"].as_i64() > Some(10_000));
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"],
                "RuntimeDefault"
            );
            assert_eq!(pod["automountServiceAccountToken"], false);
            let mounted = pod["volumes"].as_array().into_iter().flatten();
            let kept = ["configMap", "emptyDir", "projected"];
            let host = |volume: &Value| kept.iter().all(|kind| volume[kind].is_null());
            assert!(mounted.filter(|volume| host(volume)).count() == 0, "{pod}");
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["readOnlyRootFilesystem"], true);
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
            }
        }
    }
}

#[test]
fn names_at_the_limit_fit_every_label_and_host_name() {
    let name = "l".repeat(operator::names::CLUSTER_NAME_MAX);
    let spec = format!(
        "{{metadata: {{name: {name}}}, spec: {{acceptor: {{replicas: 255}}, \
         store: {{enabled: true, replicas: 255}}}}}}"
    );
    let objects = render(&serde_saphyr::from_str(&spec).unwrap()).unwrap();
    for set in &objects.stateful_sets {
        let set = set.metadata.name.as_deref().unwrap();
        assert!(format!("{set}-255").len() <= 63, "the pod's host name");
        assert!(
            format!("{set}-0123456789").len() <= 63,
            "the revision's label"
        );
    }
    for service in &objects.services {
        assert!(service.metadata.name.as_deref().unwrap().len() <= 63);
    }
}

#[test]
fn the_lists_in_files_are_those_of_the_environment() {
    let mut object = parse(&root().join("tests/golden/ledger.in.yaml"));
    let lists = |object: &PaxosCluster| {
        let map = render(object).unwrap().config_maps.remove(0);
        assert_eq!(map.metadata.name.as_deref(), Some("ledger-members"));
        map.data.unwrap()
    };
    for (pod, env) in environments(&object) {
        for (name, list) in lists(&object) {
            let set = env.get(&name);
            assert!(set.is_none_or(|set| *set == list), "{pod} {name}");
        }
    }
    object.spec.store.enabled = false;
    assert_eq!(lists(&object)["STORES"], "");
}

#[test]
fn kubectl_scale_changes_the_learners() {
    let crd = serde_json::to_value(PaxosCluster::crd()).unwrap();
    let scale = &crd["spec"]["versions"][0]["subresources"]["scale"];
    assert_eq!(scale["specReplicasPath"], ".spec.learner.replicas");
    // Every path names a field that the schema has.
    for path in scale.as_object().unwrap().values() {
        let mut at = &schema();
        for field in path.as_str().unwrap().split('.').skip(1) {
            at = &at["properties"][field];
        }
        assert!(at.is_object(), "{path}");
    }
}

#[test]
fn the_learners_alone_are_told_whom_to_notify() {
    let mut object = parse(&root().join("crds/samples/small.yaml"));
    object.spec.notify_clients = vec!["Orders.shop".to_owned(), "10.0.0.9:8081".to_owned()];
    for (pod, env) in environments(&object) {
        let clients = env.get("NOTIFY_CLIENTS").map(String::as_str);
        let expected = pod
            .contains("-learner-")
            .then_some("orders.shop:80,10.0.0.9:8081");
        assert_eq!(clients, expected, "{pod}");
    }
}

#[test]
fn every_node_is_told_its_other_names_and_nobody_else_restarts_for_them() {
    let mut object = parse(&root().join("crds/samples/store.yaml"));
    for (pod, env) in environments(&object) {
        assert!(!env.contains_key("ALLOWED_HOSTS"), "{pod}");
        assert!(!env.contains_key("LISTEN"), "{pod}");
    }
    object.spec.hosts = vec!["Paxos.Example.com".to_owned(), "gateway".to_owned()];
    for (pod, env) in environments(&object) {
        let hosts = env.get("ALLOWED_HOSTS").map(String::as_str);
        assert_eq!(hosts, Some("paxos.example.com,gateway"), "{pod}");
    }
}

fn schema() -> Value {
    let crd = serde_json::to_value(PaxosCluster::crd()).expect("a CRD is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// What the API server would say to a change of spec, by the CRD's own rules.
fn rules(name: &str, old: Option<Value>, new: Value) -> Result<(), String> {
    let schema = &schema();
    let object = |spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
    Validator::new()
        .validate(schema, &object(new), old.map(object).as_ref())
        .map_err(|errors| errors.to_string())
}

#[test]
fn the_crds_own_rules_refuse_what_parse_refuses() {
    let five = json!({ "acceptor": { "replicas": 5 } });
    let three = json!({ "acceptor": { "replicas": 3 } });
    assert_eq!(rules("ledger", None, three.clone()), Ok(()));
    assert_eq!(
        rules("ledger", Some(json!({})), five.clone()),
        Ok(()),
        "5 is the default"
    );
    assert_eq!(
        rules("ledger", Some(five.clone()), json!({ "acceptor": {} })),
        Ok(())
    );
    for (old, new) in [
        (three.clone(), five),
        (json!({}), three.clone()),
        (three, json!({})),
    ] {
        let refusal = rules("ledger", Some(old), new).unwrap_err();
        assert!(
            refusal.contains("acceptor.replicas cannot change"),
            "{refusal}"
        );
    }

    let timing = |heartbeat, timeout| {
        rules(
            "ledger",
            None,
            json!({ "heartbeatIntervalMs": heartbeat, "electionTimeoutMs": timeout }),
        )
    };
    assert_eq!(timing(100, 400), Ok(()));
    assert!(timing(101, 400).is_err());
    assert!(rules("ledger", None, json!({ "heartbeatIntervalMs": 101 })).is_err());
    assert!(rules("ledger", None, json!({ "electionTimeoutMs": 199 })).is_err());

    assert_eq!(rules(&"l".repeat(43), None, json!({})), Ok(()));
    for name in [&"l".repeat(44), "a.b", "9lives", "a-"] {
        assert!(rules(name, None, json!({})).is_err(), "{name}");
    }

    let sized = |size: &str| json!({ "learner": { "storage": { "size": size } } });
    let (larger, back) = (sized("2Gi"), sized("1Gi"));
    assert_eq!(
        rules("ledger", Some(larger), back),
        Ok(()),
        "it may not have grown"
    );
    let stored = |storage: Value| json!({ "learner": { "storage": storage } });
    let class = |name: &str| stored(json!({ "storageClassName": name }));
    let modes = |modes: &[&str]| stored(json!({ "accessModes": modes }));
    let retention = stored(json!({ "retention": { "whenScaled": "Delete" } }));
    assert_eq!(rules("ledger", Some(retention), stored(json!({}))), Ok(()));
    assert_eq!(
        rules("ledger", Some(stored(json!({}))), modes(&["ReadWriteOnce"])),
        Ok(())
    );
    for (old, new, problem) in [
        (class("a"), class("b"), "storageClassName cannot change"),
        (
            stored(json!({})),
            class("b"),
            "storageClassName cannot change",
        ),
        (
            class(""),
            stored(json!({})),
            "storageClassName cannot change",
        ),
        (
            stored(json!({})),
            modes(&["ReadWriteMany"]),
            "accessModes cannot change",
        ),
    ] {
        let refusal = rules("ledger", Some(old.clone()), new.clone()).expect_err(problem);
        assert!(refusal.contains(problem), "{old} {new}: {refusal}");
    }
}

#[test]
fn the_crd_fits_the_annotation_of_kubectl_apply() {
    let crd = to_document(&PaxosCluster::crd());
    assert!(crd.len() < 64 * 1024, "{} bytes", crd.len());
}

#[test]
fn every_field_is_explained() {
    let schema = &schema()["properties"];
    let mut silent = Vec::new();
    for part in ["spec", "status"] {
        unexplained(&schema[part], part, &mut silent);
    }
    assert_eq!(silent, [""; 0]);
}

fn unexplained(schema: &Value, path: &str, silent: &mut Vec<String>) {
    if schema["description"].as_str().is_none_or(str::is_empty) {
        silent.push(path.to_owned());
    }
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        unexplained(schema, &format!("{path}.{field}"), silent);
    }
}
