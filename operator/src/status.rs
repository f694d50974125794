//! What users see: `PaxosClusterStatus`, by the rules of kstatus, and the events that report a
//! change. Pure.

mod conditions;
mod events;
mod situation;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::cluster::Cluster;
use crate::crd::PaxosClusterStatus;
use crate::desired::{Applied, Objects};
use crate::invalid::Invalid;
use crate::names;
use crate::observe::Observed;
use crate::roll::Decision;

pub use crate::before::Before;
pub use crate::reasons::*;
use conditions::Conditions;
pub use events::{events, other_operator, restarted};
use situation::Situation;

/// The status of a cluster whose objects are as desired.
pub fn status(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &Observed,
    applied: &Objects<Applied>,
    roll: &Decision,
) -> PaxosClusterStatus {
    let situation = Situation::new(before, cluster, observed, &applied.stateful_sets, roll);
    situation.tell(before, situation.ready(), situation.progressing())
}

/// The status of a cluster some of whose objects were refused. What runs is reported as it is.
pub fn refused(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &Observed,
    message: &str,
) -> PaxosClusterStatus {
    let sets = &observed.stateful_sets;
    let situation = Situation::new(before, cluster, observed, sets, &Decision::Done);
    let verdict = ("False", APPLY_FAILED, message.to_owned());
    situation.tell(before, verdict.clone(), verdict)
}

/// The status of a cluster to which nothing is done for now. It speaks of the spec that was applied
/// last, so that tools see that a newer one waits.
pub fn paused(before: Before<'_>, cluster: &Cluster, observed: &Observed) -> PaxosClusterStatus {
    let before = Before {
        generation: before.status.observed_generation,
        ..before
    };
    let sets = &observed.stateful_sets;
    let situation = Situation::new(before, cluster, observed, sets, &Decision::Done);
    let why = format!(
        "nothing is applied or restarted while annotation {} is true",
        names::PAUSED_ANNOTATION
    );
    let ready = match situation.starting {
        true => ("False", PAUSED, why.clone()),
        false => situation.ready(),
    };
    let status = situation.tell(before, ready, ("False", PAUSED, why.clone()));
    also(before, status, "Paused", (PAUSED, why))
}

/// The status of a cluster whose spec makes no sense, and which is kept up by the last one that did.
pub fn kept_up(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &Observed,
    applied: &Objects<Applied>,
    roll: &Decision,
    invalid: &Invalid,
) -> PaxosClusterStatus {
    let situation = Situation::new(before, cluster, observed, &applied.stateful_sets, roll);
    let message = format!("{invalid}; until then the last spec that made sense is kept up");
    let verdict = ("False", INVALID_SPEC, message.clone());
    let status = situation.tell(before, verdict.clone(), verdict);
    also(before, status, "Stalled", (INVALID_SPEC, message))
}

/// A status with one more condition, which is there only while it is true.
fn also(
    before: Before<'_>,
    mut status: PaxosClusterStatus,
    type_: &str,
    (reason, message): (&'static str, String),
) -> PaxosClusterStatus {
    let mut conditions = Conditions::new(before);
    conditions.set(type_, ("True", reason, message));
    status.conditions.extend(conditions.list);
    status
}

/// The status of a spec that makes no sense. What runs continues as it was; nothing will change until
/// the spec does.
pub fn invalid(before: Before<'_>, invalid: &Invalid) -> PaxosClusterStatus {
    let message = invalid.to_string();
    let reason = match invalid.volumes {
        true => OTHER_COUNT,
        false => INVALID_SPEC,
    };
    let mut conditions = Conditions::new(before);
    conditions.set("Ready", ("False", reason, message.clone()));
    conditions.keep(
        "Available",
        ("Unknown", reason, "nothing was started".to_owned()),
    );
    conditions.set("Progressing", ("False", reason, message.clone()));
    conditions.keep(
        "Degraded",
        ("False", reason, "nothing was started".to_owned()),
    );
    conditions.set("Stalled", ("True", reason, message));
    PaxosClusterStatus {
        observed_generation: before.generation,
        conditions: conditions.list,
        ..before.status.clone()
    }
}

/// The status of a cluster whose objects could not be read or written. It is tried again.
pub fn failed(before: Before<'_>, message: &str) -> PaxosClusterStatus {
    let mut conditions = Conditions::new(before);
    conditions.set("Ready", ("False", APPLY_FAILED, message.to_owned()));
    conditions.keep(
        "Available",
        ("Unknown", APPLY_FAILED, "not looked at yet".to_owned()),
    );
    conditions.set("Progressing", ("False", APPLY_FAILED, message.to_owned()));
    conditions.keep(
        "Degraded",
        ("False", APPLY_FAILED, "not looked at yet".to_owned()),
    );
    PaxosClusterStatus {
        observed_generation: before.generation,
        conditions: conditions.list,
        ..before.status.clone()
    }
}

/// Whether two statuses tell the same of each node and speak of the same spec. The words for it may have
/// changed, such as when a start became late: that brings no pod.
pub fn same_nodes(a: &PaxosClusterStatus, b: &PaxosClusterStatus) -> bool {
    (a.observed_generation, &a.members) == (b.observed_generation, &b.members)
}

/// Whether two statuses differ in what was measured only: that may be written later.
pub fn same_but_for_counters(a: &PaxosClusterStatus, b: &PaxosClusterStatus) -> bool {
    let without = |status: &PaxosClusterStatus| PaxosClusterStatus {
        committed_instance: None,
        term: None,
        leader_id: None,
        ..status.clone()
    };
    without(a) == without(b)
}

impl PaxosClusterStatus {
    /// The condition of that type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether pods are being replaced.
    pub fn rolls(&self) -> bool {
        let progressing = self.condition("Progressing");
        progressing.is_some_and(|it| it.reason == ROLLING_OUT)
    }

    /// Whether there are to be no pods, and none is left.
    pub fn is_stopped(&self) -> bool {
        let progressing = self.condition("Progressing");
        progressing.is_some_and(|it| it.reason == STOPPED)
    }

    /// Whether volumes stand against the spec.
    pub fn is_by_volumes(&self) -> bool {
        let stalled = self.condition("Stalled");
        stalled.is_some_and(|it| it.reason == OTHER_COUNT)
    }

    /// Whether that condition is `True`.
    pub fn is(&self, type_: &str) -> bool {
        self.condition(type_)
            .is_some_and(|condition| condition.status == "True")
    }
}

#[cfg(test)]
mod tests;
