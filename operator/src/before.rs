//! What was reported before, by which conditions know whether they change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::PaxosClusterStatus;

/// What a status is written from besides what was observed.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The status that there is.
    pub status: &'a PaxosClusterStatus,
    /// The PaxosCluster's `metadata.generation`.
    pub generation: Option<i64>,
    /// When a condition that changes does so.
    pub now: &'a Time,
}
