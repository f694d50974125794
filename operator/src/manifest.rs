//! A file with a PaxosCluster, for `render` and `local`. What `kubectl apply` would refuse is refused
//! here too: another kind, and fields that a PaxosCluster does not have, which would else be lost
//! together with what somebody meant by them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResourceExt, Resource};
use serde_json::Value;

use crate::crd::PaxosCluster;
use crate::strict;

/// Why a text is no PaxosCluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No YAML, more than one document, or a field of another type.
    #[error("{0}")]
    Syntax(String),
    /// Something other than a PaxosCluster.
    #[error("{field}: {held}, must be {expected}")]
    OtherObject {
        /// `kind` or `apiVersion`.
        field: &'static str,
        /// What is there.
        held: String,
        /// What it must be.
        expected: String,
    },
    /// Fields that do not exist.
    #[error("{}: no such field in a PaxosCluster: correct the name, `kubectl explain paxos.spec` and `paxos-operator crd` list them all", .0.join(", "))]
    UnknownFields(Vec<String>),
    /// Metadata that is not valid.
    #[error(transparent)]
    Metadata(#[from] crate::invalid::Invalid),
}

/// Reads the one PaxosCluster of a YAML or JSON text.
pub fn parse(text: &str) -> Result<PaxosCluster, Error> {
    let syntax = |error: serde_saphyr::Error| Error::Syntax(error.to_string());
    let value: Value = serde_saphyr::from_str(text).map_err(syntax)?;
    let kind = PaxosCluster::kind(&()).into_owned();
    let api_version = PaxosCluster::api_version(&()).into_owned();
    for (field, expected) in [("kind", kind), ("apiVersion", api_version)] {
        let held = match &value[field] {
            Value::String(held) if *held == expected => continue,
            Value::Null => "is missing".to_owned(),
            held => format!("is {held}"),
        };
        return Err(Error::OtherObject {
            field,
            held,
            expected,
        });
    }
    let unknown = unknown_fields(&value);
    if !unknown.is_empty() {
        return Err(Error::UnknownFields(unknown));
    }
    // From the text once more, as its errors name line and column.
    let cluster = serde_saphyr::from_str(text).map_err(syntax)?;
    strict::parse::<ObjectMeta>("metadata", &value["metadata"], "metadata of an object")?;
    Ok(cluster)
}

/// The paths of all fields that the CRD's schema does not have.
fn unknown_fields(object: &Value) -> Vec<String> {
    let crd = serde_json::to_value(PaxosCluster::crd()).unwrap_or_default();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match field.as_str() {
            // Every object has these; the schema leaves them out.
            "apiVersion" | "kind" | "metadata" => {}
            _ => match schema["properties"].get(field) {
                Some(schema) => compare(schema, value, field, &mut found),
                None => found.push(field.clone()),
            },
        }
    }
    found
}

fn compare(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let free = schema["x-kubernetes-preserve-unknown-fields"] == true
                || schema["additionalProperties"] == true;
            let of_any_name = Some(&schema["additionalProperties"]).filter(|it| it.is_object());
            for (field, value) in fields {
                let path = format!("{path}.{field}");
                match schema["properties"].get(field).or(of_any_name) {
                    Some(schema) => compare(schema, value, &path, found),
                    None if free => {}
                    None => found.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                compare(&schema["items"], item, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = include_str!("../../crds/samples/small.yaml");

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_samples_are_taken() {
        for text in [
            SMALL,
            include_str!("../../crds/samples/full.yaml"),
            include_str!("../../crds/samples/store.yaml"),
        ] {
            parse(text).unwrap();
        }
    }

    #[test]
    fn what_a_spec_may_hold_is_no_unknown_field() {
        let more = "
  debug: false
  image: null
  store: {enabled: false, replicas: 3, storage: {size: 1Gi, retention: {whenDeleted: Retain}}}
  learner:
    replicas: 2
    tolerations: [{key: a, operator: Exists}]
    affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
    podTemplate: {spec: {hostAliases: [{ip: 127.0.0.1, hostnames: [a]}], anything: {goes: here}}}
    resources: {limits: {memory: 1Gi, example.com/card: 1}}
    extraEnv: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]
    podLabels: {team: a}
    nodeSelector: {disk: ssd}
";
        let head = "apiVersion: clustersync.io/v1alpha1\nkind: PaxosCluster\n\
                    metadata: {name: a, namespace: b, labels: {}, annotations: {c: d}, creationTimestamp: null}\nspec:";
        parse(&format!("{head}{more}")).unwrap();
    }

    #[test]
    fn another_kind_is_refused_by_name() {
        for (from, to, expected) in [
            (
                "kind: PaxosCluster",
                "kind: StatefulSet",
                "kind: is \"StatefulSet\", must be PaxosCluster",
            ),
            (
                "kind: PaxosCluster",
                "kind: paxoscluster",
                "must be PaxosCluster",
            ),
            (
                "kind: PaxosCluster",
                "other: PaxosCluster",
                "kind: is missing",
            ),
            ("clustersync.io/v1alpha1", "v1", "apiVersion: is \"v1\""),
            (
                "clustersync.io/v1alpha1",
                "clustersync.io/v1",
                "must be clustersync.io/v1alpha1",
            ),
        ] {
            let said = refused(&SMALL.replace(from, to));
            assert!(said.contains(expected), "{said}");
        }
        for text in ["[]", "3", "text"] {
            assert!(refused(text).contains("kind"), "{text}");
        }
    }

    #[test]
    fn every_unknown_field_is_named_with_its_path() {
        let text = "apiVersion: clustersync.io/v1alpha1\nkind: PaxosCluster\nmetadata: {name: a}\n\
                    statuz: {}\nspec:\n  Debug: true\n  learner: {replica: 2, storage: {sise: 1Gi}}\n  \
                    store: {enabled: true, enable: true}\n  networkPolicy: {enable: true}\n";
        let said = refused(text);
        for field in [
            "statuz",
            "spec.Debug",
            "spec.learner.replica",
            "spec.learner.storage.sise",
            "spec.store.enable",
            "spec.networkPolicy.enable",
        ] {
            assert!(said.contains(field), "{field}: {said}");
        }
        let said = refused(&SMALL.replace("metadata:", "metadata:\n  nama: b"));
        assert!(said.contains("metadata.nama"), "{said}");
    }

    #[test]
    fn one_file_holds_one_object() {
        let two = format!("{SMALL}\n---\n{SMALL}");
        parse(&two).unwrap_err();
        parse("").unwrap_err();
        parse("\t- : ::").unwrap_err();
        parse(&format!("---\n{SMALL}")).unwrap();
    }
}
