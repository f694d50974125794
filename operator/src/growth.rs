//! How far volumes are that were asked to grow, by what their claims say. Pure.
//!
//! A class may never grow them, may refuse, or may grow them only while no pod uses them.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;

use crate::observe::requested;
use crate::quantity;

/// The kubelet grows a file system under a running pod within moments, where the class can do that.
const ONLINE: SignedDuration = SignedDuration::from_mins(2);
/// The volume is larger, its file system is not yet.
const PENDING: &str = "FileSystemResizePending";

/// Why the pod of this claim, made at that time, is to be restarted; `None` when it need not be.
pub(crate) fn waits_for_restart(
    claims: &[PersistentVolumeClaim],
    claim: &str,
    pod: Option<&Time>,
    now: &Time,
) -> Option<String> {
    let mut claims = claims.iter();
    let claim = claims.find(|it| it.metadata.name.as_deref() == Some(claim))?;
    let pending = conditions(claim).find(|it| it.type_ == PENDING && it.status == "True")?;
    let since = pending.last_transition_time.as_ref()?;
    // A pod that was made since has not helped, and the next would not.
    let older = pod.is_some_and(|made| made.0 <= since.0);
    let waits = now.0.duration_since(since.0) >= ONLINE && older;
    waits.then(|| "its volume grows only while no pod uses it".to_owned())
}

/// What is still to grow among the claims of these names; `None` when nothing is.
pub(crate) fn unfinished(claims: &[PersistentVolumeClaim], names: &[String]) -> Option<String> {
    let told = claims.iter().filter_map(|claim| {
        let name = claim
            .metadata
            .name
            .as_ref()
            .filter(|name| names.contains(name))?;
        let wanted = requested(claim)?;
        let status = claim.status.as_ref()?;
        let has = status.capacity.as_ref()?.get("storage")?;
        if quantity::nanos(&has.0) >= quantity::nanos(&wanted.0) {
            return None;
        }
        let statuses = status.allocated_resource_statuses.iter().flatten();
        let failed = statuses
            .map(|(_, status)| status.clone())
            .find(|it| it.ends_with("Infeasible"));
        let messages = conditions(claim).filter(|it| it.type_.contains("Resiz"));
        let messages = messages.filter_map(|it| it.message.clone().filter(|text| !text.is_empty()));
        let why = failed
            .into_iter()
            .chain(messages)
            .next()
            .unwrap_or_else(|| "its storage class has not grown it yet".to_owned());
        Some(format!(
            "PersistentVolumeClaim {name} has {} of {}: {why}",
            has.0, wanted.0
        ))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn conditions(
    claim: &PersistentVolumeClaim,
) -> impl Iterator<Item = &PersistentVolumeClaimCondition> {
    let status = claim.status.as_ref();
    status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn claim(status: serde_json::Value) -> Vec<PersistentVolumeClaim> {
        let claim = json!({
            "metadata": { "name": "data-ledger-acceptor-1" },
            "spec": { "resources": { "requests": { "storage": "2Gi" } } },
            "status": status,
        });
        vec![serde_json::from_value(claim).unwrap()]
    }

    fn at(minute: i64) -> Time {
        Time(Timestamp::from_second(minute * 60).unwrap())
    }

    #[test]
    fn a_volume_that_has_not_grown_is_told_with_what_its_class_says() {
        let names = ["data-ledger-acceptor-1".to_owned()];
        let told = |status| unfinished(&claim(status), &names);
        assert_eq!(told(json!({ "capacity": { "storage": "2Gi" } })), None);
        assert_eq!(
            told(json!({ "phase": "Pending" })),
            None,
            "it is not made yet"
        );
        let small = told(json!({ "capacity": { "storage": "1Gi" } })).unwrap();
        assert!(
            small.contains("data-ledger-acceptor-1 has 1Gi of 2Gi: its storage class"),
            "{small}"
        );
        let failed = told(json!({
            "capacity": { "storage": "1Gi" },
            "allocatedResourceStatuses": { "storage": "NodeResizeInfeasible" },
        }));
        assert!(failed.unwrap().ends_with(": NodeResizeInfeasible"));
        assert_eq!(
            unfinished(&claim(json!({ "capacity": { "storage": "1Gi" } })), &[]),
            None
        );
    }

    #[test]
    fn a_pod_whose_file_system_waits_for_long_is_restarted() {
        let pending = claim(json!({ "conditions": [{
            "type": "FileSystemResizePending", "status": "True",
            "lastTransitionTime": "1970-01-01T01:00:00Z",
        }]}));
        let name = "data-ledger-acceptor-1";
        let waits = |made, minute| waits_for_restart(&pending, name, Some(&at(made)), &at(minute));
        assert_eq!(waits(0, 61), None, "the kubelet may be at it");
        assert!(waits(0, 62).is_some());
        assert_eq!(
            waits(61, 70),
            None,
            "it was restarted, and that did not help"
        );
    }
}
