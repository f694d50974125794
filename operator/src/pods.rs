//! What a pod says of itself.

use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// Whether a pod serves: it is ready, and not on its way out.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let ready = condition(pod, "Ready").is_some_and(|condition| condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}
