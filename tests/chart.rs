//! The operator's chart, rendered by the real helm, against the code that it deploys; and the image's
//! Dockerfile against both.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use clap::Parser;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use operator::config::{Cli, Command};
use operator::crd::PaxosCluster;
use operator::names::OPERATOR_LABELS;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::kube::Permission;
use tests::kube::scenarios::every_permission;
use tests::tools::{root, run, said, tool};

const DEFAULT_UID: i64 = 65532;

fn chart() -> PathBuf {
    root().join("charts/paxos-operator")
}

fn helm(arguments: &[&str]) -> Output {
    run(std::process::Command::new(tool("helm")).args(arguments))
}

/// Like the API server's, a YAML without twofold keys.
fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn template(release: &str, values: &Value) -> Result<Vec<Value>, String> {
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    fs::write(file.path(), values.to_string()).expect("the scratch file can be written");
    let values = file.path().to_str().expect("a path in UTF-8");
    let chart = chart();
    let chart = chart.to_str().expect("a path in UTF-8");
    let output = helm(&[
        "template",
        release,
        chart,
        "--namespace",
        "paxos-system",
        "--values",
        values,
    ]);
    if !output.status.success() {
        return Err(said(&output));
    }
    let text = String::from_utf8(output.stdout).expect("YAML in UTF-8");
    let documents = text
        .split("\n---\n")
        .map(|document| document.trim_start_matches("---\n"));
    Ok(documents
        .map(yaml::<Value>)
        .filter(|object| !object.is_null())
        .collect())
}

fn render(values: Value) -> Vec<Value> {
    template("paxos-operator", &values).unwrap_or_else(|error| panic!("{values}: {error}"))
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn deployment(objects: &[Value]) -> &Value {
    named(objects, "Deployment", "paxos-operator")
}

#[test]
fn linting_finds_nothing() {
    let chart = chart();
    let full = chart.join("ci/full-values.yaml");
    let (chart, full) = (chart.to_str().unwrap(), full.to_str().unwrap());
    for more in [&[][..], &["--values", full]] {
        let output = helm(&[&["lint", "--strict", "--quiet", chart][..], more].concat());
        assert!(output.status.success(), "{}", said(&output));
    }
}

fn permissions(role: &Value) -> BTreeSet<Permission> {
    let mut permissions = BTreeSet::new();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    for rule in list(&role["rules"]) {
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    permissions.insert((text(&group), text(&resource), text(&verb)));
                }
            }
        }
    }
    permissions
}

#[tokio::test(start_paused = true)]
async fn the_operator_may_do_what_it_does_and_no_more() {
    let objects = render(json!({}));
    let mut granted = permissions(named(&objects, "ClusterRole", "paxos-operator"));
    granted.extend(permissions(named(
        &objects,
        "Role",
        "paxos-operator-leader",
    )));
    // Asked for by an admission plugin and not by a call.
    let for_owners = ["clustersync.io", "paxosclusters/finalizers", "update"].map(str::to_owned);
    assert!(granted.remove(&for_owners.into()), "{granted:?}");
    assert_eq!(granted, every_permission().await);

    let binding = named(&objects, "ClusterRoleBinding", "paxos-operator");
    assert_eq!(binding["roleRef"]["name"], "paxos-operator");
    let pod = &deployment(&objects)["spec"]["template"]["spec"];
    assert_eq!(binding["subjects"][0]["name"], pod["serviceAccountName"]);
    assert_eq!(binding["subjects"][0]["namespace"], "paxos-system");
}

#[test]
fn an_operator_of_some_namespaces_may_do_nothing_elsewhere() {
    let all = render(json!({}));
    let some = render(json!({ "watchNamespaces": ["shop", "bank"] }));
    let everywhere = permissions(named(&all, "ClusterRole", "paxos-operator"));
    let has = |kind: &str| {
        some.iter()
            .filter(|object| {
                object["kind"] == kind && object["metadata"]["name"] == "paxos-operator"
            })
            .collect::<Vec<_>>()
    };
    assert!(has("ClusterRole").is_empty() && has("ClusterRoleBinding").is_empty());
    let namespaces = |kind: &str| {
        has(kind)
            .iter()
            .map(|object| object["metadata"]["namespace"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(namespaces("Role"), ["shop", "bank"]);
    assert_eq!(namespaces("RoleBinding"), ["shop", "bank"]);
    assert_eq!(permissions(has("Role")[0]), everywhere);
    let arguments = &deployment(&some)["spec"]["template"]["spec"]["containers"][0]["args"];
    let arguments = arguments.as_array().expect("arguments");
    assert!(arguments.contains(&json!("--watch-namespaces=shop,bank")));
}

#[test]
fn the_operator_understands_its_arguments() {
    for values in [
        json!({}),
        yaml(&read("charts/paxos-operator/ci/full-values.yaml")),
    ] {
        let objects = render(values);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
        let container =
            &deployment.expect("a Deployment")["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().expect("arguments").iter();
        let arguments = arguments.map(|argument| argument.as_str().expect("a text"));
        let cli = Cli::try_parse_from(["paxos-operator"].into_iter().chain(arguments));
        let Command::Run(run) = cli.unwrap_or_else(|error| panic!("{error}")).command else {
            panic!("it does not run");
        };
        let image = container["image"].as_str().expect("an image");
        let expected = match run.leader_elect {
            true => (image, "paxos-operator", Some("paxos-system")),
            false => (
                "registry.example/mirror/nodes:0.0.1",
                "paxos-operator",
                None,
            ),
        };
        let told = (
            run.default_image.as_str(),
            run.lease_name.as_str(),
            run.lease_namespace.as_deref(),
        );
        assert_eq!(told, expected);
    }
}

#[test]
fn people_get_the_verbs_of_the_built_in_roles() {
    let objects = render(json!({}));
    let verbs = |name: &str| -> BTreeSet<String> {
        let granted = permissions(named(&objects, "ClusterRole", name));
        granted
            .into_iter()
            .filter(|(_, resource, _)| resource == "paxosclusters")
            .map(|(_, _, verb)| verb)
            .collect()
    };
    assert_eq!(
        Vec::from_iter(verbs("paxos-operator-viewer")),
        ["get", "list", "watch"]
    );
    assert_eq!(
        Vec::from_iter(verbs("paxos-operator-editor")),
        ["create", "delete", "deletecollection", "patch", "update"]
    );
}

#[test]
fn the_crd_is_the_generated_one_and_stays_unless_told_otherwise() {
    assert!(
        read("charts/paxos-operator/files/paxosclusters.yaml") == read("crds/paxosclusters.yaml"),
        "the chart's copy of the CRD is old: `make crds` renews it"
    );
    // As Kubernetes reads it: Helm writes 1.0 as 1.
    let typed = |crd: &Value| -> CustomResourceDefinition {
        serde_json::from_value(crd.clone()).expect("a CustomResourceDefinition")
    };
    let generated: Value = yaml(&read("crds/paxosclusters.yaml"));
    let crd_of = |values: Value| {
        let objects = render(values);
        objects
            .into_iter()
            .find(|object| object["kind"] == "CustomResourceDefinition")
    };
    let crd = crd_of(json!({})).expect("it is installed");
    assert!(typed(&crd).spec == typed(&generated).spec, "{crd}");
    assert_eq!(crd["metadata"]["name"], generated["metadata"]["name"]);
    assert_eq!(
        crd["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
    let crd = crd_of(json!({"crds": {"keep": false}})).expect("it is installed");
    assert_eq!(crd["metadata"]["annotations"], Value::Null);
    assert_eq!(crd_of(json!({"crds": {"install": false}})), None);
}

/// The values with a description, in the order of values.yaml: path, default, description.
fn documented_values() -> Vec<(String, Value, String)> {
    let text = read("charts/paxos-operator/values.yaml");
    let values: Value = yaml(&text);
    let mut documented = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut description = None;
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(comment) = content.strip_prefix("# -- ") {
            description = Some(comment.to_owned());
            continue;
        }
        let Some((key, _)) = content
            .split_once(':')
            .filter(|_| !content.starts_with(['#', '-']))
        else {
            continue;
        };
        path.truncate((line.len() - content.len()) / 2);
        path.push(key);
        if let Some(description) = description.take() {
            let default = values
                .pointer(&format!("/{}", path.join("/")))
                .expect("it is there");
            documented.push((path.join("."), default.clone(), description));
        }
    }
    documented
}

#[test]
fn the_readme_tells_every_value() {
    let table: String = documented_values()
        .iter()
        .map(|(path, default, description)| format!("| `{path}` | `{default}` | {description} |\n"))
        .collect();
    let path = chart().join("README.md");
    let readme = fs::read_to_string(&path).expect("the chart has a README");
    let (above, old) = readme
        .split_once("|---|---|---|\n")
        .expect("a table of values");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{above}|---|---|---|\n{table}")).expect("it can be written");
    } else {
        assert!(
            old == table,
            "the table of values is old; UPDATE=1 rewrites it"
        );
    }
}

#[test]
fn every_value_has_an_effect_and_a_place_in_the_schema() {
    let full: Value = yaml(&read("charts/paxos-operator/ci/full-values.yaml"));
    let schema: Value = serde_json::from_str(&read("charts/paxos-operator/values.schema.json"))
        .expect("the schema is JSON");
    let defaults = render(json!({}));
    for (path, default, _) in documented_values() {
        let steps: Vec<&str> = path.split('.').collect();
        let other = full.pointer(&format!("/{}", steps.join("/")));
        let other = other.unwrap_or_else(|| panic!("ci/full-values.yaml has no {path}"));
        assert_ne!(
            *other, default,
            "ci/full-values.yaml has the default of {path}"
        );
        // Has one only where its neighbour is on.
        if path == "networkPolicy.from" {
            let policy =
                |from: &Value| json!({ "networkPolicy": { "enabled": true, "from": from } });
            assert_ne!(render(policy(other)), render(policy(&default)));
            continue;
        }
        // Neither is refused for want of the other.
        if ["replicas", "leaderElection.enabled"].contains(&path.as_str()) {
            let both = json!({ "replicas": 1, "leaderElection": { "enabled": false } });
            assert_ne!(render(both), render(json!({ "replicas": 1 })));
            assert_ne!(render(json!({ "replicas": 1 })), defaults);
            continue;
        }
        let only = |steps: &[&str], value: Value| {
            let steps = steps.iter().rev();
            steps.fold(value, |value, key| json!({ *key: value }))
        };
        match steps[..] {
            // Without effect unless its object is asked for.
            ["monitoring", object, field] if field != "enabled" => {
                let asked = json!({ "enabled": true });
                let asked_so = json!({ "enabled": true, field: other });
                let at = ["monitoring", object];
                let (without, with) = (only(&at, asked), only(&at, asked_so));
                assert_ne!(render(with), render(without), "{path} has no effect");
            }
            _ => {
                let only_it = only(&steps, other.clone());
                assert_ne!(render(only_it), defaults, "{path} has no effect");
            }
        }
        let pointer = format!("/properties/{}", steps.join("/properties/"));
        assert!(
            schema.pointer(&pointer).is_some(),
            "{path} is not in the schema"
        );
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (values, field) in [
        (json!({"replicas": 0}), "replicas"),
        (json!({"watchNamespaces": ["Shop"]}), "watchNamespaces.0"),
        (json!({"image": {"tag": 1.5}}), "image.tag"),
        (json!({"image": {"repository": ""}}), "image.repository"),
        (json!({"image": {"digest": "0123"}}), "image.digest"),
        (
            json!({"image": {"pullPolicy": "Sometimes"}}),
            "image.pullPolicy",
        ),
        (
            json!({"imagePullSecrets": ["registry"]}),
            "imagePullSecrets.0",
        ),
        (json!({"crds": {"enabled": true}}), "enabled"),
        (json!({"log": {"format": "xml"}}), "log.format"),
        (json!({"podLabels": {"shard": 1}}), "podLabels.shard"),
        (
            json!({"commonLabels": {"app.kubernetes.io/name": "mine"}}),
            "app.kubernetes.io.name",
        ),
        (
            json!({"networkPolicy": {"from": [{"podSelektor": {}}]}}),
            "networkPolicy.from.0",
        ),
        (
            json!({"extraVolumes": [{"emptyDir": {}}]}),
            "extraVolumes.0",
        ),
        (
            json!({"metrics": {"service": {"port": 0}}}),
            "metrics.service.port",
        ),
    ] {
        // Helm 3 writes a path with dots, Helm 4 with slashes.
        let refusal = template("paxos-operator", &values)
            .expect_err(field)
            .replace('/', ".");
        assert!(refusal.contains(field), "{values}: {refusal}");
    }
}

/// Whether Kubernetes knows every field: what it does not know is lost on the way through its types.
fn assert_known<K: DeserializeOwned + Serialize>(object: &Value) {
    let typed: K =
        serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object}"));
    let known = serde_json::to_value(typed).expect("it is JSON");
    assert_eq!(known, *object);
}

#[test]
fn every_object_has_only_fields_that_kubernetes_knows() {
    let mut full: Value = yaml(&read("charts/paxos-operator/ci/full-values.yaml"));
    for on in [
        "/rbac/create",
        "/serviceAccount/create",
        "/metrics/service/enabled",
    ] {
        *full.pointer_mut(on).expect(on) = json!(true);
    }
    for object in render(json!({})).iter().chain(&render(full)) {
        match object["kind"].as_str().expect("a kind") {
            "ClusterRole" => assert_known::<ClusterRole>(object),
            "ConfigMap" => assert_known::<ConfigMap>(object),
            // Those of the Prometheus operator, looked at on their own.
            "PodMonitor" | "ServiceMonitor" | "PrometheusRule" => {
                assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1");
            }
            "ClusterRoleBinding" => assert_known::<ClusterRoleBinding>(object),
            "Role" => assert_known::<Role>(object),
            "RoleBinding" => assert_known::<RoleBinding>(object),
            // Its schema is checked on its own; the type writes an empty status.
            "CustomResourceDefinition" => {
                serde_json::from_value::<CustomResourceDefinition>(object.clone()).expect("a CRD");
            }
            "Deployment" => assert_known::<Deployment>(object),
            "NetworkPolicy" => assert_known::<NetworkPolicy>(object),
            "PaxosCluster" => assert_known::<PaxosCluster>(object),
            "PodDisruptionBudget" => assert_known::<PodDisruptionBudget>(object),
            "Pod" => assert_known::<Pod>(object),
            "Service" => assert_known::<Service>(object),
            "ServiceAccount" => assert_known::<ServiceAccount>(object),
            other => panic!("this test does not know {other}"),
        }
    }
}

#[test]
fn pods_satisfy_the_restricted_pod_security_standard() {
    let objects = render(json!({}));
    let operator = &deployment(&objects)["spec"]["template"]["spec"];
    let test = &named(&objects, "Pod", "paxos-operator-test")["spec"];
    for pod in [operator, test] {
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["runAsUser"], DEFAULT_UID);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    }
    assert_eq!(operator["automountServiceAccountToken"], true);
    assert_eq!(test["automountServiceAccountToken"], false);
}

#[test]
fn two_operators_agree_on_one_and_services_find_them_alone() {
    let objects = render(json!({ "podLabels": { "app.kubernetes.io/name": "mine" } }));
    let deployment = deployment(&objects);
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["strategy"]["type"], "RollingUpdate");
    let alone = json!({ "leaderElection": { "enabled": false } });
    let refusal = template("paxos-operator", &alone).expect_err("two undo each other's work");
    assert!(refusal.contains("leaderElection.enabled"), "{refusal}");
    let alone = render(json!({ "replicas": 1, "leaderElection": { "enabled": false } }));
    let strategy = &self::deployment(&alone)["spec"]["strategy"];
    assert_eq!(strategy["type"], "Recreate");
    let service = named(&objects, "Service", "paxos-operator");
    let selected = |labels: &Value| {
        let selector = service["spec"]["selector"].as_object().expect("a selector");
        selector.iter().all(|(key, value)| labels[key] == *value)
    };
    let template = &deployment["spec"]["template"];
    assert!(selected(&template["metadata"]["labels"]), "{service}");
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"]
    );
    for (label, value) in OPERATOR_LABELS {
        // By these, clusters' NetworkPolicies let it in.
        assert_eq!(template["metadata"]["labels"][label], value);
    }
    let budget = named(&objects, "PodDisruptionBudget", "paxos-operator");
    assert_eq!(
        budget["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"]
    );
    let test = named(&objects, "Pod", "paxos-operator-test");
    assert!(!selected(&test["metadata"]["labels"]), "{service}");
    let ports = &template["spec"]["containers"][0]["ports"];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], ports[0]["name"]);
}

#[test]
fn a_digest_decides_and_a_tag_overrides_the_version() {
    let image_with = |image: Value| {
        let objects = render(json!({ "image": image }));
        let pod = &deployment(&objects)["spec"]["template"]["spec"];
        pod["containers"][0]["image"]
            .as_str()
            .expect("an image")
            .to_owned()
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    assert_eq!(
        image_with(json!({})),
        operator::cluster::DEFAULT_IMAGE,
        "the operator's own version is the clusters' default"
    );
    assert_eq!(
        image_with(json!({"repository": "r/i", "tag": "t"})),
        "r/i:t"
    );
    assert_eq!(
        image_with(json!({"repository": "r/i", "tag": "t", "digest": digest})),
        format!("r/i@{digest}")
    );
}

#[test]
fn helm_test_writes_to_a_cluster_of_its_own() {
    for values in [json!({}), json!({ "watchNamespaces": ["shop"] })] {
        let release = "9".repeat(53);
        let objects = template(&release, &values).expect("it renders");
        let cluster = objects
            .iter()
            .find(|object| object["kind"] == "PaxosCluster");
        let cluster: PaxosCluster = serde_json::from_value(cluster.expect("one").clone()).unwrap();
        let made = operator::render(&cluster).expect("the operator takes it");
        for set in &made.stateful_sets {
            let spec = set.spec.as_ref().expect("a spec");
            let retention = spec.persistent_volume_claim_retention_policy.as_ref();
            let retention = retention.and_then(|policy| policy.when_deleted.as_deref());
            assert_eq!(retention, Some("Delete"), "it leaves nothing behind");
        }
        let pod = objects
            .iter()
            .find(|object| object["kind"] == "Pod")
            .expect("one");
        let arguments = pod["spec"]["containers"][0]["args"]
            .as_array()
            .expect("arguments");
        let arguments = arguments
            .iter()
            .map(|argument| argument.as_str().expect("a text"));
        let cli = Cli::try_parse_from(["paxos-operator"].into_iter().chain(arguments));
        let Command::Check(check) = cli.unwrap_or_else(|error| panic!("{error}")).command else {
            panic!("it checks nothing");
        };
        let url = |service: &str| {
            let namespace = cluster.metadata.namespace.as_deref().expect("a namespace");
            let service = made
                .services
                .iter()
                .find(|made| made.metadata.name.as_deref() == Some(service));
            let service = service.and_then(|service| service.metadata.name.as_deref());
            format!(
                "http://{}.{namespace}.svc:8080",
                service.expect("such a Service")
            )
        };
        let name = cluster.metadata.name.as_deref().expect("a name");
        assert_eq!(check.proposers, url(name));
        assert_eq!(check.readers, url(&format!("{name}-reader")));
    }
}

/// What Kubernetes lets nobody change.
fn fixed(object: &Value) -> Value {
    match object["kind"].as_str().expect("a kind") {
        "Deployment" => object["spec"]["selector"].clone(),
        "ClusterRoleBinding" | "RoleBinding" => object["roleRef"].clone(),
        "CustomResourceDefinition" => {
            json!([
                object["spec"]["group"],
                object["spec"]["scope"],
                object["spec"]["names"]
            ])
        }
        _ => Value::Null,
    }
}

/// Every field that there was is there still, of the same type, and none is asked for that was not.
fn assert_accepts(old: &Value, new: &Value, path: &str) {
    assert_eq!(old["type"], new["type"], "{path}");
    let required = |schema: &Value| schema["required"].as_array().cloned().unwrap_or_default();
    for field in required(new) {
        assert!(required(old).contains(&field), "{path} now needs {field}");
    }
    for (field, old) in old["properties"].as_object().into_iter().flatten() {
        let new = &new["properties"][field];
        assert!(!new.is_null(), "{path}.{field} is gone");
        assert_accepts(old, new, &format!("{path}.{field}"));
    }
    if !old["items"].is_null() {
        assert_accepts(&old["items"], &new["items"], path);
    }
}

#[test]
fn a_release_of_the_previous_version_is_upgraded() {
    let previous: Vec<Value> = read("tests/golden/chart-0.1.0.yaml")
        .split("\n---\n")
        .map(yaml::<Value>)
        .collect();
    assert!(previous.len() >= 8);
    let now = render(json!({}));
    for old in &previous {
        let (kind, name) = (&old["kind"], &old["metadata"]["name"]);
        let new = named(&now, kind.as_str().unwrap(), name.as_str().unwrap());
        assert_eq!(fixed(old), fixed(new), "{kind} {name}");
        assert_eq!(old["metadata"]["namespace"], new["metadata"]["namespace"]);
        if kind == "CustomResourceDefinition" {
            let schema =
                |crd: &Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            assert_eq!(
                old["spec"]["versions"][0]["name"],
                new["spec"]["versions"][0]["name"]
            );
            assert_accepts(&schema(old), &schema(new), "");
        }
    }
    // Whatever values it was installed with.
    render(yaml(&read("tests/golden/chart-0.1.0.values.yaml")));
}

#[test]
fn artifact_hub_is_told_the_truth() {
    let chart: Value = yaml(&read("charts/paxos-operator/Chart.yaml"));
    let told = |annotation: &str| -> Value {
        let text = &chart["annotations"][format!("artifacthub.io/{annotation}")];
        yaml(text.as_str().expect(annotation))
    };
    assert_eq!(told("images")[0]["image"], operator::cluster::DEFAULT_IMAGE);
    let example: PaxosCluster = serde_json::from_value(told("crdsExamples")[0].clone()).unwrap();
    operator::render(&example).expect("the example is valid");
    let crd: Value = yaml(&read("crds/paxosclusters.yaml"));
    let listed = &told("crds")[0];
    assert_eq!(listed["name"], crd["metadata"]["name"]);
    assert_eq!(listed["kind"], crd["spec"]["names"]["kind"]);
    assert_eq!(listed["version"], crd["spec"]["versions"][0]["name"]);
    for change in told("changes").as_array().expect("a list") {
        let kinds = [
            "added",
            "changed",
            "deprecated",
            "removed",
            "fixed",
            "security",
        ];
        assert!(kinds.iter().any(|kind| change["kind"] == *kind), "{change}");
    }
}

#[test]
fn names_fit_whatever_the_release_is_called() {
    let release = "r".repeat(53);
    for values in [json!({}), json!({ "nameOverride": "n".repeat(55) })] {
        for object in template(&release, &values).expect("it renders") {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().expect("a name");
            let limit = if object["kind"] == "ClusterRole" {
                253
            } else {
                63
            };
            assert!(name.len() <= limit, "{} {name}", object["kind"]);
            for (label, value) in metadata["labels"].as_object().into_iter().flatten() {
                let value = value.as_str().expect("a label's value is a text");
                assert!(value.len() <= 63, "{label}: {value}");
            }
        }
    }
}

fn monitoring(values: Value) -> Vec<Value> {
    let of_it = [
        "PodMonitor",
        "ServiceMonitor",
        "PrometheusRule",
        "ConfigMap",
    ];
    let mut objects = render(json!({ "monitoring": values }));
    objects.retain(|object| of_it.contains(&object["kind"].as_str().expect("a kind")));
    objects
}

/// Whether a selector takes these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().expect("labels");
    let mut there = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    wanted.iter().all(|(key, value)| labels[key] == *value)
        && there
            .all(|e| e["operator"] == "Exists" && labels[e["key"].as_str().unwrap()].is_string())
}

#[test]
fn monitors_find_every_node_and_the_operator_once_and_only_if_asked() {
    assert!(monitoring(json!({})).is_empty());
    let asked = json!({ "enabled": true, "labels": { "release": "prometheus" } });
    let objects = monitoring(json!({ "podMonitor": asked }));
    let of_nodes = named(&objects, "PodMonitor", "paxos-operator-nodes");
    let of_operator = named(&objects, "PodMonitor", "paxos-operator");
    assert_eq!(of_nodes["metadata"]["labels"]["release"], "prometheus");
    let sample = yaml(&read("crds/samples/store.yaml"));
    for set in operator::render(&sample)
        .expect("it is valid")
        .stateful_sets
    {
        let pod = set.spec.expect("a spec").template;
        let labels = json!(pod.metadata.expect("labels").labels);
        assert!(selects(&of_nodes["spec"]["selector"], &labels), "{labels}");
        assert!(
            !selects(&of_operator["spec"]["selector"], &labels),
            "{labels}"
        );
        let container = &pod.spec.expect("a pod").containers[0];
        let port = container.ports.as_ref().expect("ports")[0].name.as_deref();
        let scraped = &of_nodes["spec"]["podMetricsEndpoints"][0]["port"];
        assert_eq!(scraped.as_str(), port);
    }
    let all = render(json!({}));
    let labels = &deployment(&all)["spec"]["template"]["metadata"]["labels"];
    assert!(selects(&of_operator["spec"]["selector"], labels));
    assert!(!selects(&of_nodes["spec"]["selector"], labels));

    // By its Service instead, not both.
    let objects = monitoring(json!({ "podMonitor": asked, "serviceMonitor": asked }));
    let names: Vec<&Value> = objects.iter().map(|o| &o["metadata"]["name"]).collect();
    assert_eq!(names, ["paxos-operator-nodes", "paxos-operator"]);
    let of_service = named(&objects, "ServiceMonitor", "paxos-operator");
    let service = named(&all, "Service", "paxos-operator");
    assert!(selects(
        &of_service["spec"]["selector"],
        &service["metadata"]["labels"]
    ));
    let scraped = &of_service["spec"]["endpoints"][0]["port"];
    assert_eq!(*scraped, service["spec"]["ports"][0]["name"]);
}

#[test]
fn rules_and_dashboards_arrive_as_they_are_in_their_files() {
    let url = "https://runbooks.example/paxos";
    let objects = monitoring(json!({
        "prometheusRule": { "enabled": true, "runbookUrl": url },
        "grafanaDashboards": { "enabled": true, "namespace": "grafana" },
    }));
    let rules = named(&objects, "PrometheusRule", "paxos-operator");
    let mut groups = Vec::new();
    for file in ["cluster", "operator"] {
        let text = read(&format!("charts/paxos-operator/rules/{file}.yaml"));
        let default = "https://github.com/clustersync/cluster-sync/blob/main/docs/runbooks.md";
        let file: Value = yaml(&text.replace(default, url));
        groups.extend(file["groups"].as_array().expect("groups").clone());
    }
    assert_eq!(rules["spec"]["groups"], json!(groups));
    let boards = named(&objects, "ConfigMap", "paxos-operator-boards");
    assert_eq!(boards["metadata"]["namespace"], "grafana");
    assert_eq!(boards["metadata"]["labels"]["grafana_dashboard"], "1");
    for file in ["cluster", "operator"] {
        let file = format!("{file}.json");
        let arrived: Value = serde_json::from_str(boards["data"][&file].as_str().expect("JSON"))
            .expect("the ConfigMap holds JSON");
        let text = read(&format!("charts/paxos-operator/dashboards/{file}"));
        assert_eq!(arrived, serde_json::from_str::<Value>(&text).expect("JSON"));
    }
}

#[test]
fn the_image_holds_what_pods_run() {
    let dockerfile = read("Dockerfile");
    let has = |line: &str| assert!(dockerfile.contains(line), "the Dockerfile lacks {line}");
    has(&format!("\nUSER {DEFAULT_UID}:{DEFAULT_UID}\n"));
    has("COPY --from=build /out/ /usr/local/bin/\n");
    has("--package proposer --package paxos-operator");
    has("ENTRYPOINT [\"/usr/local/bin/paxos-operator\"]");
    for sample in ["small", "full"] {
        let sample = yaml(&read(&format!("crds/samples/{sample}.yaml")));
        for set in operator::render(&sample)
            .expect("the sample is valid")
            .stateful_sets
        {
            let pod = set.spec.and_then(|spec| spec.template.spec).expect("a pod");
            let user = pod.security_context.and_then(|context| context.run_as_user);
            assert_eq!(
                user,
                Some(DEFAULT_UID),
                "the image's user owns what it may write"
            );
            let command = pod.containers[0].command.clone().expect("a command");
            assert_eq!(command, ["/usr/local/bin/proposer"]);
        }
    }
    let chart: Value = yaml(&read("charts/paxos-operator/Chart.yaml"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
