//! What tells pods of one template from those of another.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::compare::{digest, to_json};
use crate::names;

/// The variables that change with the scale. Running pods hear of that without a restart.
const ADDRESSES: [&str; 5] = [
    "ACCEPTORS",
    "PROPOSERS",
    "LEARNERS",
    "STORES",
    "USE_CLUSTER_STORE",
];

/// Writes into a StatefulSet's template the digest that distinguishes its pods from older ones.
pub(super) fn with_digest(mut set: StatefulSet) -> StatefulSet {
    if let Some(spec) = &mut set.spec {
        let digest = digest(&without_addresses(&spec.template));
        let metadata = spec.template.metadata.get_or_insert_default();
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(names::TEMPLATE_ANNOTATION.to_owned(), digest);
    }
    set
}

/// A template as pods of every scale have it.
pub(crate) fn without_addresses(template: &PodTemplateSpec) -> Value {
    let mut template = to_json(template);
    let containers = template["spec"]["containers"].as_array_mut();
    for container in containers.into_iter().flatten() {
        if let Some(env) = container["env"].as_array_mut() {
            env.retain(|variable| !is_address(variable));
        }
    }
    template
}

fn is_address(variable: &Value) -> bool {
    let name = variable["name"].as_str().unwrap_or_default();
    ADDRESSES.contains(&name)
}
