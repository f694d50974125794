//! Kubernetes' own types in a spec. They are read strictly: a field that is misspelt would else be
//! lost, and with it what somebody meant by it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::invalid::Invalid;

/// Reads a value, all of it; `what` is what it should be, such as `a pod template`.
pub(crate) fn parse<T: DeserializeOwned + Serialize>(
    field: &str,
    value: &Value,
    what: &str,
) -> Result<T, Invalid> {
    let typed: T = serde_json::from_value(value.clone())
        .map_err(|error| Invalid::new(field, format!("is not {what}: {error}")))?;
    let known = serde_json::to_value(&typed).expect("an object of Kubernetes is JSON");
    match missing(&known, value) {
        Some(path) => Err(Invalid::new(
            format!("{field}{path}"),
            format!("is no field of {what}: correct its name"),
        )),
        None => Ok(typed),
    }
}

/// The first field that `all` has and `known` lacks.
fn missing(known: &Value, all: &Value) -> Option<String> {
    match (known, all) {
        (Value::Object(known), Value::Object(all)) => all.iter().find_map(|(field, all)| {
            let empty = all.as_object().is_some_and(Map::is_empty)
                || all.as_array().is_some_and(Vec::is_empty);
            match known.get(field) {
                Some(known) => missing(known, all).map(|path| format!(".{field}{path}")),
                None if empty || all.is_null() => None,
                None => Some(format!(".{field}")),
            }
        }),
        (Value::Array(known), Value::Array(all)) => {
            let mut pairs = known.iter().zip(all).enumerate();
            pairs.find_map(|(at, (known, all))| {
                missing(known, all).map(|path| format!("[{at}]{path}"))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_lost_is_named() {
        let read = |template: Value| {
            parse::<PodTemplateSpec>("at", &template, "a pod template").map_err(|e| e.to_string())
        };
        let good = json!({ "spec": { "containers": [{ "name": "a" }], "volumes": [] } });
        assert!(read(good).is_ok());
        let lost = json!({ "spec": { "containers": [{ "name": "a", "imge": "b" }] } });
        assert_eq!(
            read(lost).unwrap_err(),
            "at.spec.containers[0].imge: is no field of a pod template: correct its name"
        );
        let wrong = json!({ "spec": { "containers": "a" } });
        assert!(
            read(wrong)
                .unwrap_err()
                .starts_with("at: is not a pod template: invalid type")
        );
    }
}
