//! The defaults that the API server writes into PaxosClusters, by the schema that the operator ships.

use std::sync::OnceLock;

use kube::CustomResourceExt;
use operator::crd::PaxosCluster;
use serde_json::Value;

/// Writes them into a PaxosCluster; leaves all other kinds.
pub(super) fn default(object: &mut Value) {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    if object["kind"] != "PaxosCluster" {
        return;
    }
    let schema = SCHEMA.get_or_init(|| {
        let crd = serde_json::to_value(PaxosCluster::crd()).expect("a definition is JSON");
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    });
    fill(object, schema);
}

/// A null where a default is, is as good as nothing; one elsewhere stays.
fn fill(object: &mut Value, schema: &Value) {
    let (Some(fields), Some(properties)) =
        (object.as_object_mut(), schema["properties"].as_object())
    else {
        return;
    };
    for (name, schema) in properties {
        let default = &schema["default"];
        if !default.is_null() && fields.get(name).is_none_or(Value::is_null) {
            fields.insert(name.clone(), default.clone());
        }
        if let Some(field) = fields.get_mut(name) {
            fill(field, schema);
        }
    }
}
