//! How patches change objects: merge patches, and server-side apply with its lists that merge by key.

use serde_json::{Map, Value};

/// RFC 7386: objects merge, `null` removes, everything else replaces.
pub(super) fn merge(live: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    let live = live.as_object_mut().expect("made one above");
    for (field, patch) in patch {
        if patch.is_null() {
            live.remove(field);
        } else {
            merge(live.entry(field).or_insert(Value::Null), patch);
        }
    }
}

/// Makes `live` have everything in `config`, and nothing that only `last` had: the same manager's
/// configuration before this one.
pub(super) fn apply(live: &mut Value, last: &Value, config: &Value, field: &str) {
    match (&mut *live, config) {
        (Value::Object(live), Value::Object(config)) => {
            let empty = Map::new();
            let last = last.as_object().unwrap_or(&empty);
            live.retain(|field, _| config.contains_key(field) || !last.contains_key(field));
            for (field, config) in config {
                let last = last.get(field).unwrap_or(&Value::Null);
                apply(
                    live.entry(field).or_insert(Value::Null),
                    last,
                    config,
                    field,
                );
            }
        }
        (Value::Array(live), Value::Array(config)) if !keys(field).is_empty() => {
            let same = |a: &Value, b: &Value| keys(field).iter().all(|key| a[*key] == b[*key]);
            let find = |list: &[Value], item: &Value| list.iter().find(|i| same(i, item)).cloned();
            let last = last.as_array().cloned().unwrap_or_default();
            live.retain(|item| find(config, item).is_some() || find(&last, item).is_none());
            for item in config {
                let last = find(&last, item).unwrap_or_default();
                match live.iter_mut().find(|i| same(i, item)) {
                    Some(live) => apply(live, &last, item, ""),
                    None => live.push(item.clone()),
                }
            }
        }
        _ => *live = config.clone(),
    }
}

/// The fields that identify an item of a list; none for lists that are replaced as a whole.
fn keys(list: &str) -> &'static [&'static str] {
    match list {
        "containers" | "env" | "imagePullSecrets" => &["name"],
        "ports" => &["port", "containerPort", "protocol"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        _ => &[],
    }
}

/// Takes away every field that is null.
pub(super) fn drop_nulls(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn applying_removes_what_the_same_manager_no_longer_wants_and_nothing_else() {
        let mut live = json!({
            "labels": {"mine": "1", "gone": "1", "theirs": "1"},
            "env": [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "THEIRS"}],
            "command": ["a", "b"],
        });
        let last = json!({
            "labels": {"mine": "1", "gone": "1"},
            "env": [{"name": "A", "value": "1"}, {"name": "B"}],
        });
        let config = json!({
            "labels": {"mine": "2"},
            "env": [{"name": "A", "valueFrom": {}}, {"name": "C"}],
            "command": ["c"],
        });
        apply(&mut live, &last, &config, "");
        let expected = json!({
            "labels": {"mine": "2", "theirs": "1"},
            "env": [{"name": "A", "valueFrom": {}}, {"name": "THEIRS"}, {"name": "C"}],
            "command": ["c"],
        });
        assert_eq!(live, expected);
    }

    #[test]
    fn a_merge_patch_removes_with_null() {
        let mut live = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
        merge(
            &mut live,
            &json!({"a": {"b": null}, "d": [3], "e": {"f": null}}),
        );
        assert_eq!(live, json!({"a": {"c": 2}, "d": [3], "e": {}}));
    }
}
