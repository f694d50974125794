//! Whether an object of the API server is what is wanted of it. Pure.

use serde::Serialize;
use serde_json::Value;

use crate::quantity;

pub(crate) fn to_json<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("an object of the API server is JSON")
}

/// FNV-1a, so that it is the same in every release: another digest is another write.
pub(crate) fn digest(object: &Value) -> String {
    let hash = object
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// Lists that the API server merges by key: others may add to them, and applying would not remove what
/// they added.
const MERGED: [&str; 8] = [
    "containers",
    "env",
    "imagePullSecrets",
    "ownerReferences",
    "ports",
    "topologySpreadConstraints",
    "volumeMounts",
    "volumes",
];

/// Whether `live` has everything that is `wanted`. What it has beyond that was defaulted by the API
/// server or written by others. `key` is the field that holds the two.
pub(crate) fn covers(live: &Value, wanted: &Value, key: &str) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| match live.get(field) {
                Some(live) if ["requests", "limits"].contains(&key) => same_quantity(live, wanted),
                Some(live) => covers(live, wanted, field),
                None => is_empty(wanted),
            })
        }
        (Value::Array(live), Value::Array(wanted)) if MERGED.contains(&key) => wanted
            .iter()
            .all(|wanted| live.iter().any(|live| covers(live, wanted, ""))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| covers(live, wanted, ""))
        }
        _ => live == wanted,
    }
}

fn same_quantity(live: &Value, wanted: &Value) -> bool {
    let nanos = |amount: &Value| quantity::nanos(amount.as_str()?);
    live == wanted || nanos(live).is_some() && nanos(live) == nanos(wanted)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_rewritten_quantities_are_no_difference() {
        let wanted = json!({"spec": {"replicas": 3, "affinity": {}, "template": {"containers": [
            {"name": "node", "env": [{"name": "A", "value": "1"}],
             "resources": {"requests": {"cpu": "1000m", "memory": "1.5Gi"}}},
        ]}}});
        let live = json!({"spec": {"replicas": 3, "podManagementPolicy": "Parallel",
            "template": {"containers": [
                {"name": "sidecar"},
                {"name": "node", "imagePullPolicy": "Always",
                 "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}],
                 "resources": {"requests": {"cpu": "1", "memory": "1536Mi"}}},
            ]}}, "status": {"replicas": 3}});
        assert!(covers(&live, &wanted, ""));
    }

    #[test]
    fn a_changed_missing_or_added_value_is_a_difference() {
        let wanted =
            json!({"a": false, "command": ["x"], "env": [{"name": "A", "value": "1000m"}]});
        let without = |field: &str| {
            let mut live = wanted.clone();
            live.as_object_mut().unwrap().remove(field);
            live
        };
        assert!(covers(&wanted, &wanted, ""));
        assert!(!covers(&without("a"), &wanted, ""));
        assert!(!covers(&without("command"), &wanted, ""));
        let with = |field: &str, value: Value| {
            let mut live = wanted.clone();
            live[field] = value;
            live
        };
        assert!(!covers(&with("command", json!(["x", "y"])), &wanted, ""));
        assert!(!covers(&with("a", json!(true)), &wanted, ""));
        // Equal as quantities, but a variable is not a quantity.
        assert!(!covers(
            &with("env", json!([{"name": "A", "value": "1"}])),
            &wanted,
            ""
        ));
    }

    #[test]
    fn digests_are_those_of_the_published_function() {
        assert_eq!(
            digest(&json!("")),
            format!("{:016x}", {
                // FNV-1a of two quotation marks.
                let step = |hash: u64| (hash ^ 0x22).wrapping_mul(0x0100_0000_01b3);
                step(step(0xcbf2_9ce4_8422_2325))
            })
        );
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": 2})));
    }
}
