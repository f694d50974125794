//! The operator's chart, rendered by the real helm, against the code that it deploys; and the image's
//! Dockerfile against both.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use clap::Parser;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use operator::config::{Cli, Command};
use operator::crd::PaxosCluster;
use operator::names::{CLUSTER_LABEL, MANAGED_BY_LABEL, MANAGER, OPERATOR_LABELS};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::kube::Permission;
use testkit::kube::scenarios::every_permission;
use testkit::tools::{root, run, said, tool};

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
    let [full, openshift] =
        ["full", "openshift"].map(|name| chart.join(format!("ci/{name}-values.yaml")));
    let chart = chart.to_str().unwrap();
    let (full, openshift) = (full.to_str().unwrap(), openshift.to_str().unwrap());
    for more in [&[][..], &["--values", full], &["--values", openshift]] {
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
    // Called for nodes that are reached in no other way: `ask` tests that.
    let through_the_server = ["", "pods/proxy", "get"].map(str::to_owned);
    assert!(granted.remove(&through_the_server.into()), "{granted:?}");
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
        // Refused beside a ServiceMonitor, which that file has.
        if path == "metrics.service.enabled" {
            assert_ne!(
                render(json!({ "metrics": { "service": { "enabled": false } } })),
                defaults
            );
            continue;
        }
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
        if path == "guardPolicy.exceptUsers" {
            let policy =
                |users: &Value| json!({ "guardPolicy": { "enabled": true, "exceptUsers": users } });
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
        (
            json!({"metrics": {"service": {"labels": {"shard": 1}}}}),
            "metrics.service.labels.shard",
        ),
        (
            json!({"metrics": {"service": {"ipFamilies": ["IPv5"]}}}),
            "metrics.service.ipFamilies.0",
        ),
        (
            json!({"metrics": {"service": {"ipFamilyPolicy": "Dual"}}}),
            "metrics.service.ipFamilyPolicy",
        ),
        (
            json!({"leaderElection": {"leaseDurationSeconds": "15s"}}),
            "leaderElection.leaseDurationSeconds",
        ),
        // Two would work at once.
        (
            json!({"leaderElection": {"leaseDurationSeconds": 10}}),
            "leaseDurationSeconds",
        ),
        (
            json!({"leaderElection": {"retryPeriodSeconds": 10}}),
            "retryPeriodSeconds",
        ),
        (json!({"maxRollouts": -1}), "maxRollouts"),
        (json!({"maxRollouts": "1"}), "maxRollouts"),
        (json!({"clusterDefaults": {"image": "nodes:1"}}), "image"),
        (
            json!({"clusterDefaults": {"imagePullSecrets": ["registry"]}}),
            "clusterDefaults.imagePullSecrets.0",
        ),
        (
            json!({"clusterDefaults": {"storageClassName": 1}}),
            "clusterDefaults.storageClassName",
        ),
        (
            json!({"clusterDefaults": {"tolerations": [1]}}),
            "clusterDefaults.tolerations.0",
        ),
        (
            json!({"clusterDefaults": {"nodeSelector": {"ssd": true}}}),
            "clusterDefaults.nodeSelector.ssd",
        ),
        (
            json!({"clusterDefaults": {"podSecurityContext": "restricted"}}),
            "clusterDefaults.podSecurityContext",
        ),
        (
            json!({"clusterDefaults": {"securityContext": []}}),
            "clusterDefaults.securityContext",
        ),
        (
            json!({"clusterDefaults": {"labels": {"cost-centre": 4711}}}),
            "clusterDefaults.labels.cost-centre",
        ),
        (
            json!({"clusterDefaults": {"annotations": {"note": false}}}),
            "clusterDefaults.annotations.note",
        ),
        (
            json!({"livenessProbe": {"httpGet": {"path": "/"}}}),
            "httpGet",
        ),
        (
            json!({"readinessProbe": {"periodSeconds": "5s"}}),
            "readinessProbe.periodSeconds",
        ),
        (
            json!({"initContainers": [{"image": "wait:1"}]}),
            "initContainers.0",
        ),
        (
            json!({"extraContainers": [{"image": "proxy:1"}]}),
            "extraContainers.0",
        ),
        (json!({"revisionHistoryLimit": -1}), "revisionHistoryLimit"),
        (json!({"runtimeClassName": 1}), "runtimeClassName"),
        (json!({"dnsPolicy": "Host"}), "dnsPolicy"),
        (json!({"dnsConfig": {"ndots": 1}}), "ndots"),
        (json!({"hostNetwork": "true"}), "hostNetwork"),
        (json!({"hostUsers": "false"}), "hostUsers"),
        (
            json!({"podDisruptionBudget": {"maxUnavailable": "half"}}),
            "podDisruptionBudget.maxUnavailable",
        ),
        (
            json!({"podDisruptionBudget": {"minAvailable": -1}}),
            "podDisruptionBudget.minAvailable",
        ),
        (
            json!({"guardPolicy": {"exceptUsers": [1]}}),
            "guardPolicy.exceptUsers.0",
        ),
        (json!({"flowSchema": {"enabled": 1}}), "flowSchema.enabled"),
        (
            json!({"extraObjects": [{"kind": "ConfigMap"}]}),
            "extraObjects.0",
        ),
        // It finds nothing without a Service.
        (
            json!({
                "metrics": {"service": {"enabled": false}},
                "monitoring": {"serviceMonitor": {"enabled": true}},
            }),
            "metrics.service.enabled",
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
        "/leaderElection/enabled",
        "/podDisruptionBudget/enabled",
    ] {
        *full.pointer_mut(on).expect(on) = json!(true);
    }
    full["replicas"] = json!(2);
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
            "FlowSchema" => assert_known::<FlowSchema>(object),
            "NetworkPolicy" => assert_known::<NetworkPolicy>(object),
            "PaxosCluster" => assert_known::<PaxosCluster>(object),
            "PodDisruptionBudget" => assert_known::<PodDisruptionBudget>(object),
            "Pod" => assert_known::<Pod>(object),
            "Service" => assert_known::<Service>(object),
            "ServiceAccount" => assert_known::<ServiceAccount>(object),
            "ValidatingAdmissionPolicy" => assert_known::<ValidatingAdmissionPolicy>(object),
            "ValidatingAdmissionPolicyBinding" => {
                assert_known::<ValidatingAdmissionPolicyBinding>(object);
            }
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

/// The operator's pod and its container.
fn operator_pod(values: Value) -> (Value, Value) {
    let pod = deployment(&render(values))["spec"]["template"]["spec"].clone();
    let container = pod["containers"][0].clone();
    (pod, container)
}

#[test]
fn the_pod_is_as_told_and_says_nothing_where_nothing_is_told() {
    let (pod, container) = operator_pod(json!({}));
    for field in [
        "dnsConfig",
        "dnsPolicy",
        "hostNetwork",
        "hostUsers",
        "initContainers",
        "runtimeClassName",
    ] {
        assert_eq!(pod[field], Value::Null, "{field}");
    }
    assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1));
    assert_eq!(container["livenessProbe"]["periodSeconds"], 10);
    assert_eq!(container["readinessProbe"]["periodSeconds"], 2);
    let kept = |values: Value| deployment(&render(values))["spec"]["revisionHistoryLimit"].clone();
    assert_eq!(kept(json!({})), 3);
    assert_eq!(kept(json!({ "revisionHistoryLimit": 0 })), 0);

    let (pod, container) = operator_pod(json!({
        "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }] },
        "extraContainers": [{ "name": "proxy", "image": "proxy:1" }],
        "hostUsers": false,
        "initContainers": [{ "name": "wait", "image": "wait:1" }],
        "livenessProbe": { "failureThreshold": 9 },
        "readinessProbe": { "timeoutSeconds": 7 },
        "runtimeClassName": "gvisor",
    }));
    assert_eq!(pod["dnsConfig"]["options"][0]["name"], "ndots");
    assert_eq!(pod["hostUsers"], false);
    assert_eq!(pod["initContainers"][0]["name"], "wait");
    assert_eq!(pod["runtimeClassName"], "gvisor");
    // The operator stays the first, by which it is recognised.
    assert_eq!(container["name"], "operator");
    assert_eq!(pod["containers"][1]["name"], "proxy");
    // What is not told stays, and what is asked is not for choice.
    let probe = |path: &str, more: Value| {
        let mut probe = json!({ "httpGet": { "path": path, "port": "http" } });
        let fields = more.as_object().expect("fields").clone();
        probe.as_object_mut().expect("fields").extend(fields);
        probe
    };
    let liveness = json!({ "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 9 });
    assert_eq!(container["livenessProbe"], probe("/healthz", liveness));
    let readiness = json!({ "periodSeconds": 2, "timeoutSeconds": 7 });
    assert_eq!(container["readinessProbe"], probe("/readyz", readiness));
}

#[test]
fn on_its_hosts_network_the_operator_still_asks_the_clusters_dns() {
    let policy = |values: Value| operator_pod(values).0["dnsPolicy"].clone();
    let (pod, _) = operator_pod(json!({ "hostNetwork": true }));
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");
    let both = json!({ "hostNetwork": true, "dnsPolicy": "Default" });
    assert_eq!(policy(both), "Default");
    assert_eq!(policy(json!({ "dnsPolicy": "None" })), "None");
}

/// The arguments that begin so.
fn arguments(values: Value, prefix: &str) -> Vec<String> {
    let (_, container) = operator_pod(values);
    let arguments = container["args"].as_array().expect("arguments").iter();
    let arguments = arguments.map(|argument| argument.as_str().expect("a text").to_owned());
    arguments
        .filter(|argument| argument.starts_with(prefix))
        .collect()
}

#[test]
fn flags_are_given_where_they_differ_from_the_operators_own() {
    let given = |values: Value| {
        let lease = arguments(values.clone(), "--lease-");
        let lease = lease.into_iter().filter(|flag| flag.contains("-s="));
        let mut given: Vec<String> = lease.collect();
        given.extend(arguments(values, "--max-rollouts"));
        given
    };
    assert!(given(json!({})).is_empty());
    assert_eq!(given(json!({ "maxRollouts": 0 })), ["--max-rollouts=0"]);
    assert_eq!(given(json!({ "maxRollouts": 7 })), ["--max-rollouts=7"]);
    let times = |lease: u32, deadline: u32, retry: u32| {
        json!({ "leaderElection": {
            "leaseDurationSeconds": lease,
            "renewDeadlineSeconds": deadline,
            "retryPeriodSeconds": retry,
        } })
    };
    assert_eq!(given(times(60, 10, 2)), ["--lease-duration-s=60"]);
    assert_eq!(given(times(15, 12, 2)), ["--lease-renew-deadline-s=12"]);
    assert_eq!(
        given(times(60, 40, 5)),
        [
            "--lease-duration-s=60",
            "--lease-renew-deadline-s=40",
            "--lease-retry-period-s=5"
        ]
    );
    // Without an election they have no use.
    let mut alone = times(60, 40, 5);
    alone["replicas"] = json!(1);
    alone["leaderElection"]["enabled"] = json!(false);
    assert!(given(alone).is_empty());
}

/// What clusters get whose spec says nothing, as passed to the operator.
fn cluster_defaults(values: Value) -> Option<Value> {
    let (_, container) = operator_pod(values);
    let mut env = container["env"].as_array().expect("variables").iter();
    let told = env.find(|variable| variable["name"] == "CLUSTER_DEFAULTS")?;
    let told = told["value"].as_str().expect("a text");
    assert!(!told.contains('\n'), "{told}");
    Some(serde_json::from_str(told).expect("it is JSON"))
}

#[test]
fn clusters_get_the_defaults_that_are_set_and_no_others() {
    let told = |defaults: Value| cluster_defaults(json!({ "clusterDefaults": defaults }));
    assert_eq!(cluster_defaults(json!({})), None);
    // Empty is not set, but for a security context: there the platform decides.
    for nothing in [
        json!({ "podSecurityContext": null, "securityContext": null }),
        json!({ "imagePullSecrets": [], "storageClassName": "", "tolerations": [] }),
        json!({ "nodeSelector": {}, "labels": {}, "annotations": {} }),
    ] {
        assert_eq!(told(nothing.clone()), None, "{nothing}");
    }
    for one in [
        json!({ "podSecurityContext": {} }),
        json!({ "securityContext": {} }),
        json!({ "podSecurityContext": { "runAsUser": 1_000_680_000, "fsGroup": 1_000_680_000 } }),
        json!({ "labels": { "quoted": "\"<&>'" } }),
        json!({ "storageClassName": "fast" }),
    ] {
        assert_eq!(told(one.clone()), Some(one));
    }
    let full: Value = yaml(&read("charts/paxos-operator/ci/full-values.yaml"));
    let all = full["clusterDefaults"].clone();
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(8));
    operator::defaults::Defaults::parse(&all.to_string()).expect("the operator takes them");
    assert_eq!(told(all.clone()), Some(all));
}

#[test]
fn on_openshift_no_pod_names_a_user() {
    let values: Value = yaml(&read("charts/paxos-operator/ci/openshift-values.yaml"));
    let objects = render(values.clone());
    let wanted = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    let operator = &deployment(&objects)["spec"]["template"]["spec"];
    let test = &named(&objects, "Pod", "paxos-operator-test")["spec"];
    for pod in [operator, test] {
        assert_eq!(pod["securityContext"], wanted);
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(context["runAsUser"], Value::Null);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    }
    let defaults = json!({ "podSecurityContext": wanted });
    assert_eq!(cluster_defaults(values), Some(defaults));
    // The cluster of `helm test` says nothing, so it gets that default.
    let cluster = objects
        .iter()
        .find(|object| object["kind"] == "PaxosCluster");
    let cluster = cluster.expect("one").to_string();
    assert!(!cluster.contains("ecurityContext"), "{cluster}");
}

#[test]
fn a_budget_leaves_as_many_as_told() {
    let budget = |values: Value| {
        let objects = render(json!({ "podDisruptionBudget": values }));
        let spec = &named(&objects, "PodDisruptionBudget", "paxos-operator")["spec"];
        (spec["maxUnavailable"].clone(), spec["minAvailable"].clone())
    };
    assert_eq!(budget(json!({})), (json!(1), Value::Null));
    let half = json!({ "maxUnavailable": "50%" });
    assert_eq!(budget(half), (json!("50%"), Value::Null));
    assert_eq!(budget(json!({ "maxUnavailable": 0 })).0, 0);
    // Kubernetes takes one of the two.
    for least in [json!(0), json!(1), json!("50%")] {
        let told = budget(json!({ "minAvailable": least }));
        assert_eq!(told, (Value::Null, least));
    }
}

#[test]
fn the_service_has_labels_and_families_of_its_own() {
    let objects = render(json!({ "metrics": { "service": {
        "labels": { "scraped": "yes", "app.kubernetes.io/name": "mine" },
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
    } } }));
    let service = named(&objects, "Service", "paxos-operator");
    assert_eq!(service["metadata"]["labels"]["scraped"], "yes");
    let name = &service["metadata"]["labels"]["app.kubernetes.io/name"];
    assert_eq!(*name, "paxos-operator", "by this one a monitor finds it");
    assert_eq!(service["spec"]["ipFamilyPolicy"], "PreferDualStack");
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    let objects = render(json!({}));
    let service = named(&objects, "Service", "paxos-operator");
    assert_eq!(service["spec"]["ipFamilyPolicy"], Value::Null);
    assert_eq!(service["spec"]["ipFamilies"], Value::Null);
}

#[test]
fn extra_objects_are_templates() {
    let config = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name },
            "data": { "account": "{{ include \"paxos-operator.serviceAccountName\" . }}" },
        })
    };
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: in-{{ .Release.Namespace }}\n";
    let name = "{{ .Release.Name }}-map";
    let objects = render(json!({ "extraObjects": [config(name), text] }));
    let map = named(&objects, "ConfigMap", "paxos-operator-map");
    assert_eq!(map["data"]["account"], "paxos-operator");
    named(&objects, "ConfigMap", "in-paxos-system");
    assert_eq!(objects.len(), render(json!({})).len() + 2);
}

/// Values with an account of each kind, and its name.
fn accounts() -> [(Value, &'static str); 3] {
    [
        (json!({}), "paxos-operator"),
        (
            json!({ "serviceAccount": { "name": "someone" } }),
            "someone",
        ),
        (json!({ "serviceAccount": { "create": false } }), "default"),
    ]
}

#[test]
fn the_guard_lets_the_operator_through_and_those_who_are_named() {
    let kinds = [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    let defaults = render(json!({}));
    assert!(
        !defaults
            .iter()
            .any(|object| kinds.contains(&object["kind"].as_str().expect("a kind"))),
        "nobody asked for it"
    );
    for (mut values, account) in accounts() {
        values["guardPolicy"] =
            json!({ "enabled": true, "exceptUsers": ["it's \"velero\"", "jane"] });
        values["watchNamespaces"] = json!(["shop", "bank"]);
        let objects = render(values);
        let policy = &named(&objects, kinds[0], "paxos-operator-guard")["spec"];
        assert_eq!(policy["failurePolicy"], "Fail");
        let condition = |name: &str| {
            let mut conditions = policy["matchConditions"].as_array().expect("a list").iter();
            let condition = conditions.find(|condition| condition["name"] == name);
            let expression = condition.expect(name)["expression"].as_str();
            expression.expect("an expression").to_owned()
        };
        let excepted =
            format!(r#"["system:serviceaccount:paxos-system:{account}","it's \"velero\"","jane"]"#);
        let others = condition("not-the-operator");
        assert!(others.contains(&excepted), "{others}");
        // As the sets are labelled, and as their pods are selected.
        let sets = condition("set-of-a-cluster");
        for part in [MANAGED_BY_LABEL, MANAGER, &format!("{CLUSTER_LABEL}=")] {
            assert!(sets.contains(&format!("\"{part}\"")), "{part}: {sets}");
        }
        let binding = &named(&objects, kinds[1], "paxos-operator-guard")["spec"];
        assert_eq!(binding["policyName"], "paxos-operator-guard");
        assert_eq!(binding["validationActions"], json!(["Deny"]));
        let selector = &binding["matchResources"]["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(selector["key"], "kubernetes.io/metadata.name");
        assert_eq!(selector["values"], json!(["shop", "bank"]));
    }
    let everywhere = render(json!({ "guardPolicy": { "enabled": true } }));
    let binding = named(&everywhere, kinds[1], "paxos-operator-guard");
    assert_eq!(binding["spec"]["matchResources"], Value::Null);
    let sample = yaml(&read("crds/samples/store.yaml"));
    for set in operator::render(&sample)
        .expect("it is valid")
        .stateful_sets
    {
        let labels = set.metadata.labels.expect("labels");
        assert_eq!(labels[MANAGED_BY_LABEL], MANAGER);
        let selector = set.spec.expect("a spec").selector.match_labels;
        assert!(selector.expect("labels").contains_key(CLUSTER_LABEL));
    }
}

#[test]
fn the_api_server_sets_the_operators_lease_apart() {
    let flow = |values: Value| {
        let objects = render(values);
        objects
            .into_iter()
            .find(|object| object["kind"] == "FlowSchema")
    };
    assert_eq!(flow(json!({})), None);
    let alone = json!({
        "flowSchema": { "enabled": true },
        "leaderElection": { "enabled": false },
        "replicas": 1,
    });
    assert_eq!(flow(alone), None, "there is no lease");
    for (mut values, account) in accounts() {
        values["flowSchema"] = json!({ "enabled": true });
        let objects = render(values.clone());
        let spec = flow(values).expect("one")["spec"].clone();
        assert_eq!(
            spec["priorityLevelConfiguration"]["name"],
            "leader-election"
        );
        let rule = &spec["rules"][0];
        let subject = json!({ "name": account, "namespace": "paxos-system" });
        assert_eq!(rule["subjects"][0]["serviceAccount"], subject);
        let pod = &deployment(&objects)["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], account);
        // All that it may do with leases, and nothing else.
        let role = named(&objects, "Role", "paxos-operator-leader");
        let verbs = |rules: &[Permission]| -> BTreeSet<String> {
            rules.iter().map(|(_, _, verb)| verb.clone()).collect()
        };
        let granted = Vec::from_iter(permissions(role));
        let apart = Vec::from_iter(permissions(&json!({ "rules": rule["resourceRules"] })));
        assert_eq!(verbs(&apart), verbs(&granted));
        assert!(
            apart
                .iter()
                .all(|(group, kind, _)| group == "coordination.k8s.io" && kind == "leases")
        );
        assert_eq!(
            rule["resourceRules"][0]["namespaces"],
            json!(["paxos-system"])
        );
    }
}

#[test]
fn everything_names_the_same_versions_of_kubernetes() {
    let chart: Value = yaml(&read("charts/paxos-operator/Chart.yaml"));
    let least = chart["kubeVersion"].as_str().expect("versions");
    let least = least
        .strip_prefix(">=")
        .and_then(|least| least.strip_suffix(".0-0"));
    let told = format!("Kubernetes {} or later", least.expect("a minor version"));
    for file in ["README.md", "charts/paxos-operator/README.md"] {
        assert!(read(file).contains(&told), "{file} does not say {told}");
    }
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
                object["spec"]["names"]["kind"],
                object["spec"]["names"]["plural"]
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
    // The builder's own platform compiles for any other.
    has("FROM --platform=$BUILDPLATFORM ");
    has("\nARG TARGETARCH\n");
    for arch in ["amd64", "arm64"] {
        has(&format!("      {arch}) "));
    }
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
