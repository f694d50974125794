//! The API server in memory against a real one: the same calls, and the same answers. Needs KUBECONFIG;
//! the control plane alone will do. Without it the double's answers are checked against what is written
//! here, which is what the real one gave.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::api::{ApiResource, Preconditions};
use kube::{Client, CustomResourceExt};
use operator::crd::PaxosCluster;
use serde_json::{Value, json};
use testkit::kube::ApiServer;

const NAMESPACE: &str = "cluster-sync-honest";

/// What each step came to, by its name.
type Answers = BTreeMap<&'static str, String>;

fn code<T>(outcome: kube::Result<T>) -> String {
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(kube::Error::Api(status)) => status.code.to_string(),
        Err(error) => error.to_string(),
    }
}

fn apply(manager: &str) -> PatchParams {
    PatchParams::apply(manager).force()
}

fn set(size: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "one", "namespace": NAMESPACE, "labels": { "a": "1", "b": "2" } },
        "spec": {
            "replicas": 0, "serviceName": "one",
            "selector": { "matchLabels": { "app": "one" } },
            "updateStrategy": { "type": "OnDelete" },
            "template": {
                "metadata": { "labels": { "app": "one" } },
                "spec": { "containers": [{ "name": "node", "image": "x", "env": [
                    { "name": "A", "value": "1" }, { "name": "B", "value": "2" },
                ]}]},
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"],
                          "resources": { "requests": { "storage": size } } },
            }],
        },
    })
}

fn map(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "lists", "namespace": NAMESPACE },
        "data": data,
    })
}

/// Every step on one server.
async fn answers(client: Client) -> Answers {
    let mut said = Answers::new();
    sets(&client, &mut said).await;
    maps(&client, &mut said).await;
    clusters(&client, &mut said).await;
    pods(&client, &mut said).await;
    said
}

async fn sets(client: &Client, said: &mut Answers) {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), NAMESPACE);
    let made = sets
        .patch("one", &apply("us"), &Patch::Apply(set("1Gi")))
        .await
        .unwrap();
    let generation = |set: &StatefulSet| set.metadata.generation.unwrap_or_default();
    said.insert("generation of a new set", generation(&made).to_string());
    let same = sets
        .patch("one", &apply("us"), &Patch::Apply(set("1Gi")))
        .await
        .unwrap();
    let unchanged = same.metadata.resource_version == made.metadata.resource_version;
    said.insert(
        "applying the same again writes nothing",
        unchanged.to_string(),
    );

    let mut labels = set("1Gi");
    labels["metadata"]["labels"] = json!({ "a": "1" });
    let fewer = sets
        .patch("one", &apply("us"), &Patch::Apply(labels))
        .await
        .unwrap();
    let has = fewer.metadata.labels.unwrap_or_default();
    said.insert(
        "a label that is no longer applied",
        format!("{:?}", has.get("b")),
    );
    said.insert(
        "labels make no generation",
        fewer.metadata.generation.unwrap_or(0).to_string(),
    );

    let mut fewer_variables = set("1Gi");
    let env = &mut fewer_variables["spec"]["template"]["spec"]["containers"][0]["env"];
    *env = json!([{ "name": "A", "value": "1" }]);
    let left = sets
        .patch("one", &apply("us"), &Patch::Apply(fewer_variables))
        .await
        .unwrap();
    let containers = left.spec.unwrap().template.spec.unwrap().containers;
    let names: Vec<_> = containers[0]
        .env
        .iter()
        .flatten()
        .map(|it| it.name.clone())
        .collect();
    said.insert(
        "a variable that is no longer applied",
        names.contains(&"B".to_owned()).to_string(),
    );

    let larger = sets
        .patch("one", &apply("us"), &Patch::Apply(set("2Gi")))
        .await;
    said.insert("another claim template", code(larger));
    let mut rolling = set("1Gi");
    rolling["spec"]["updateStrategy"]["rollingUpdate"] = json!({ "partition": 0 });
    let both = sets
        .patch("one", &apply("us"), &Patch::Apply(rolling))
        .await;
    said.insert("rollingUpdate beside OnDelete", code(both));

    let other = json!({ "metadata": { "uid": "not-this-one", "labels": { "z": "1" } } });
    let patched = sets
        .patch("one", &PatchParams::default(), &Patch::Merge(&other))
        .await;
    said.insert("a patch of another uid", code(patched));
    let mut another = set("1Gi");
    another["metadata"]["uid"] = json!("not-this-one");
    let applied = sets
        .patch("one", &apply("us"), &Patch::Apply(another))
        .await;
    said.insert("an application of another uid", code(applied));
    let mut gone = set("1Gi");
    gone["metadata"]["uid"] = json!("not-this-one");
    gone["metadata"]["name"] = json!("gone");
    let applied = sets.patch("gone", &apply("us"), &Patch::Apply(gone)).await;
    said.insert("an application of what is gone", code(applied));
    let how = DeleteParams::default().preconditions(Preconditions {
        uid: Some("not-this-one".to_owned()),
        resource_version: None,
    });
    said.insert(
        "a deletion of another uid",
        code(sets.delete("one", &how).await),
    );
    let selected = sets
        .list(&ListParams::default().labels("a=1"))
        .await
        .unwrap();
    let none = sets
        .list(&ListParams::default().labels("a=1,b=3"))
        .await
        .unwrap();
    let counts = format!("{} {}", selected.items.len(), none.items.len());
    said.insert("selected by labels", counts);
    let status = json!({ "status": { "replicas": 7 }, "spec": { "replicas": 5 } });
    let told = sets
        .patch_status("one", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let of_spec = told.spec.and_then(|spec| spec.replicas);
    said.insert(
        "a patch of the status leaves the spec",
        format!("{of_spec:?}"),
    );
}

async fn maps(client: &Client, said: &mut Answers) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    said.insert("what is not there", code(maps.get("lists").await));
    maps.patch(
        "lists",
        &apply("us"),
        &Patch::Apply(map(json!({ "A": "1", "B": "2" }))),
    )
    .await
    .unwrap();
    maps.patch(
        "lists",
        &apply("them"),
        &Patch::Apply(map(json!({ "C": "3" }))),
    )
    .await
    .unwrap();
    let both = maps
        .patch(
            "lists",
            &apply("us"),
            &Patch::Apply(map(json!({ "A": "1" }))),
        )
        .await
        .unwrap();
    let keys: Vec<_> = both.data.unwrap_or_default().into_keys().collect();
    said.insert("each manager takes away its own", keys.join(","));
    let mut stale = maps.get("lists").await.unwrap();
    stale.metadata.resource_version = Some("1".to_owned());
    let replaced = maps.replace("lists", &PostParams::default(), &stale).await;
    said.insert("a replacement of an old version", code(replaced));
    let again = maps
        .create(
            &PostParams::default(),
            &serde_json::from_value(map(json!({}))).unwrap(),
        )
        .await;
    said.insert("a creation of what is there", code(again));
    let trial = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let merged = maps
        .patch(
            "lists",
            &trial,
            &Patch::Merge(&json!({ "data": { "D": "4" } })),
        )
        .await;
    said.insert("a patch on trial", code(merged));
    let data = maps.get("lists").await.unwrap().data.unwrap_or_default();
    said.insert(
        "a patch on trial changes nothing",
        data.contains_key("D").to_string(),
    );
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "one", "namespace": NAMESPACE },
        "spec": { "ports": [{ "port": 80 }] },
    });
    let made = services
        .patch("one", &apply("us"), &Patch::Apply(&service))
        .await
        .unwrap();
    said.insert(
        "a Service has a generation",
        made.metadata.generation.is_some().to_string(),
    );
}

async fn clusters(client: &Client, said: &mut Answers) {
    let kind = ApiResource::erase::<PaxosCluster>(&());
    let clusters: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    let object = json!({
        "apiVersion": "clustersync.io/v1alpha1", "kind": "PaxosCluster",
        "metadata": { "name": "ledger", "namespace": NAMESPACE },
        "spec": {},
    });
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let made = clusters
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    said.insert(
        "the default of learners",
        made.data["spec"]["learner"].to_string(),
    );
    let status = |value: Value| {
        json!({
            "apiVersion": "clustersync.io/v1alpha1", "kind": "PaxosCluster", "status": value,
        })
    };
    let whole = status(json!({ "term": 1, "committedInstance": 5, "leaderId": 2 }));
    clusters
        .patch_status("ledger", &apply("us"), &Patch::Apply(&whole))
        .await
        .unwrap();
    let counters = status(json!({ "term": 1, "committedInstance": 9 }));
    let told = clusters
        .patch_status("ledger", &apply("counters"), &Patch::Apply(&counters))
        .await
        .unwrap();
    said.insert(
        "counters leave the rest of the status",
        told.data["status"]["leaderId"].to_string(),
    );
    let next = status(json!({ "term": 2, "committedInstance": 11 }));
    let told = clusters
        .patch_status("ledger", &apply("us"), &Patch::Apply(&next))
        .await
        .unwrap();
    let told = &told.data["status"];
    said.insert(
        "and the rest still goes",
        format!("{} {}", told["committedInstance"], told["leaderId"]),
    );
    let generation = clusters.get("ledger").await.unwrap().metadata.generation;
    said.insert("a status makes no generation", format!("{generation:?}"));
    let spec = json!({ "spec": { "learner": null } });
    let reset = clusters
        .patch("ledger", &PatchParams::default(), &Patch::Merge(&spec))
        .await
        .unwrap();
    said.insert(
        "learners that are taken out",
        reset.data["spec"]["learner"].to_string(),
    );
}

async fn pods(client: &Client, said: &mut Answers) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "one", "namespace": NAMESPACE },
        "spec": { "containers": [{ "name": "node", "image": "x" }], "schedulerName": "nobody" },
    });
    pods.create(
        &PostParams::default(),
        &serde_json::from_value(pod).unwrap(),
    )
    .await
    .unwrap();
    let nudge = json!({ "metadata": { "annotations": { "clustersync.io/members": "1" } } });
    let nudged = pods
        .patch_status("one", &PatchParams::default(), &Patch::Merge(&nudge))
        .await
        .unwrap();
    let has = nudged.metadata.annotations.unwrap_or_default();
    said.insert(
        "an annotation by the status",
        format!("{:?}", has.get("clustersync.io/members")),
    );
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": { "name": "one", "namespace": NAMESPACE },
        "deleteOptions": { "preconditions": { "uid": "not-this-one" } },
    });
    let evicted: kube::Result<Value> = pods
        .create_subresource("eviction", "one", &PostParams::default(), &eviction)
        .await;
    said.insert("an eviction of another uid", code(evicted));
}

/// What a real server, Kubernetes 1.36, answered.
fn expected() -> Answers {
    [
        ("generation of a new set", "1"),
        ("applying the same again writes nothing", "true"),
        ("a label that is no longer applied", "None"),
        ("labels make no generation", "1"),
        ("a variable that is no longer applied", "false"),
        ("another claim template", "422"),
        ("rollingUpdate beside OnDelete", "422"),
        ("a patch of another uid", "422"),
        ("an application of another uid", "422"),
        ("an application of what is gone", "409"),
        ("a deletion of another uid", "409"),
        ("selected by labels", "1 0"),
        ("a patch of the status leaves the spec", "Some(0)"),
        ("what is not there", "404"),
        ("each manager takes away its own", "A,C"),
        ("a replacement of an old version", "409"),
        ("a creation of what is there", "409"),
        ("a patch on trial", "ok"),
        ("a patch on trial changes nothing", "false"),
        ("a Service has a generation", "false"),
        ("the default of learners", "{\"replicas\":2}"),
        ("counters leave the rest of the status", "2"),
        ("and the rest still goes", "11 null"),
        ("a status makes no generation", "Some(1)"),
        ("learners that are taken out", "{\"replicas\":2}"),
        ("an annotation by the status", "Some(\"1\")"),
        ("an eviction of another uid", "409"),
    ]
    .map(|(step, answer)| (step, answer.to_owned()))
    .into()
}

#[tokio::test]
async fn the_server_in_memory_answers_as_a_real_one_did() {
    assert_eq!(answers(ApiServer::new().client()).await, expected());
}

#[tokio::test]
async fn a_real_server_answers_as_is_written_here() {
    if std::env::var("KUBECONFIG").is_ok_and(|file| !file.is_empty()) {
        let client = Client::try_default()
            .await
            .expect("KUBECONFIG names a cluster");
        let crds: Api<DynamicObject> = Api::all_with(client.clone(), &crd_kind());
        let crd: DynamicObject =
            serde_json::from_value(serde_json::to_value(PaxosCluster::crd()).unwrap()).unwrap();
        let name = PaxosCluster::crd_name();
        crds.patch(name, &apply("honest"), &Patch::Apply(&crd))
            .await
            .expect("the definition");
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
        });
        namespaces
            .patch(NAMESPACE, &apply("honest"), &Patch::Apply(&namespace))
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let said = answers(client).await;
        let _ = namespaces.delete(NAMESPACE, &DeleteParams::default()).await;
        assert_eq!(said, expected());
    } else {
        println!("honest: SKIPPED, no real API server was asked: set KUBECONFIG");
    }
}

fn crd_kind() -> ApiResource {
    ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    }
}
