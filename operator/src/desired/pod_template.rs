//! The pods of a role as the operator makes them, and as the spec changes them. What the operator
//! relies on stays as it is: a spec that says otherwise is refused.

use std::collections::BTreeMap;

use api::env::Role;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use super::stateful_set;
use crate::cluster::{Cluster, Group};
use crate::fields::leaves_ours;
use crate::invalid::Invalid;
use crate::{names, strict};

/// The template of a role's pods. Fails with the field that cannot be.
pub(crate) fn pod_template(cluster: &Cluster, group: &Group) -> Result<PodTemplateSpec, Invalid> {
    let mut ours = stateful_set::own_template(cluster, group);
    let metadata = ours.metadata.get_or_insert_default();
    let labels = metadata.labels.get_or_insert_default();
    add(group.role, "podLabels", labels, &group.pod_labels)?;
    let annotations = metadata.annotations.get_or_insert_default();
    add(
        group.role,
        "podAnnotations",
        annotations,
        &group.pod_annotations,
    )?;
    // What is said of the pods decides over what is said of everything.
    for (key, value) in &cluster.labels {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    for (key, value) in &cluster.annotations {
        annotations
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    if annotations.is_empty() {
        metadata.annotations = None;
    }
    let pod = ours.spec.get_or_insert_default();
    let env = pod.containers[0].env.get_or_insert_default();
    for variable in &group.extra_env {
        if env.iter().any(|known| known.name == variable.name) {
            let field = format!("spec.{}.extraEnv", group.role);
            let problem = format!("sets {} once more: leave it out", variable.name);
            return Err(Invalid::new(field, problem));
        }
        env.push(variable.clone());
    }
    let Some(patch) = &group.pod_template else {
        return Ok(ours);
    };

    let json = |template: &PodTemplateSpec| {
        serde_json::to_value(template).expect("an object of ours is JSON")
    };
    let own = json(&stateful_set::own_template(cluster, group));
    let mut merged = json(&ours);
    merge(&mut merged, patch, "");
    let field = format!("spec.{}.podTemplate", group.role);
    if let Some(path) = broken(&own, &merged) {
        let problem = "changes what the operator relies on: leave it out";
        return Err(Invalid::new(format!("{field}{path}"), problem));
    }
    strict::parse(&field, &merged, "a pod template")
}

type Strings = BTreeMap<String, String>;

fn add(role: Role, field: &str, ours: &mut Strings, theirs: &Strings) -> Result<(), Invalid> {
    leaves_ours(&format!("spec.{role}.{field}"), theirs, ours)?;
    ours.extend(theirs.clone());
    Ok(())
}

/// What identifies an item of a list, as `kubectl` merges them; lists whose items lack it are replaced.
fn key(list: &str) -> &'static str {
    match list {
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "ports" => "containerPort",
        _ => "name",
    }
}

/// RFC 7386, but that lists of named items merge by name. `field` is where the two are.
fn merge(live: &mut Value, patch: &Value, field: &str) {
    match (&mut *live, patch) {
        (Value::Object(live), Value::Object(patch)) => {
            for (field, patch) in patch {
                if patch.is_null() {
                    live.remove(field);
                } else {
                    merge(live.entry(field).or_insert(Value::Null), patch, field);
                }
            }
        }
        (Value::Array(live), Value::Array(patch))
            if are_named(live, field) && are_named(patch, field) =>
        {
            for item in patch {
                let same = |other: &&mut Value| other[key(field)] == item[key(field)];
                match live.iter_mut().find(same) {
                    Some(live) => merge(live, item, ""),
                    None => live.push(without_nulls(item)),
                }
            }
        }
        _ => *live = without_nulls(patch),
    }
}

fn are_named(list: &[Value], field: &str) -> bool {
    list.iter().all(|item| !item[key(field)].is_null())
}

/// A null in a patch is an absence also where there is nothing to take away.
fn without_nulls(patch: &Value) -> Value {
    match patch {
        Value::Object(_) => {
            let mut object = Value::Object(Map::new());
            merge(&mut object, patch, "");
            object
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// The first thing that the operator relies on and that is no longer as it made it: labels and
/// annotations, by which pods are found; the node's container, with its environment, ports and mounts.
fn broken(own: &Value, merged: &Value) -> Option<String> {
    for field in ["labels", "annotations"] {
        for (name, value) in own["metadata"][field].as_object().into_iter().flatten() {
            if merged["metadata"][field][name] != *value {
                return Some(format!(".metadata.{field}[{name}]"));
            }
        }
    }
    let own_volumes = own["spec"]["volumes"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let volumes = &merged["spec"]["volumes"];
    for volume in own_volumes {
        let name = volume["name"].as_str().unwrap_or_default();
        if item(volumes, "name", &volume["name"]) != Some(volume) {
            return Some(format!(".spec.volumes[{name}]"));
        }
    }
    if item(volumes, "name", &names::DATA_VOLUME.into()).is_some() {
        return Some(format!(".spec.volumes[{}]", names::DATA_VOLUME));
    }
    let node = Value::from(names::CONTAINER);
    let containers = ".spec.containers";
    let own = item(&own["spec"]["containers"], "name", &node)?;
    let Some(merged) = item(&merged["spec"]["containers"], "name", &node) else {
        return Some(format!("{containers}[{}]", names::CONTAINER));
    };
    for list in ["env", "ports", "volumeMounts"] {
        for wanted in own[list].as_array().into_iter().flatten() {
            let key = key(list);
            if item(&merged[list], key, &wanted[key]) != Some(wanted) {
                let which = wanted[key]
                    .as_str()
                    .map_or_else(|| wanted[key].to_string(), str::to_owned);
                return Some(format!(
                    "{containers}[{}].{list}[{which}]",
                    names::CONTAINER
                ));
            }
        }
    }
    None
}

fn item<'a>(list: &'a Value, key: &str, value: &Value) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item[key] == *value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_of_named_items_merge_by_name_and_others_are_replaced() {
        let mut live = json!({
            "containers": [{ "name": "node", "image": "a", "env": [{ "name": "A", "value": "1" }] }],
            "tolerations": [{ "key": "a" }, { "key": "b" }],
            "nodeSelector": { "disk": "fast" },
        });
        let patch = json!({
            "containers": [
                { "name": "node", "image": "b", "env": [{ "name": "B" }] },
                { "name": "sidecar", "tty": null },
            ],
            "tolerations": [{ "key": "c" }],
            "nodeSelector": null,
            "dnsConfig": { "options": null },
        });
        merge(&mut live, &patch, "");
        let expected = json!({
            "containers": [
                { "name": "node", "image": "b", "env": [{ "name": "A", "value": "1" }, { "name": "B" }] },
                { "name": "sidecar" },
            ],
            "tolerations": [{ "key": "c" }],
            "dnsConfig": {},
        });
        assert_eq!(live, expected);
    }
}
