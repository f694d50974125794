//! The operator of Cluster Sync. One pipeline, in the order in which it runs:
//!
//! | module | in → out | touches the world |
//! |---|---|---|
//! | [`cluster`] | `PaxosCluster` → [`cluster::Cluster`], or which field is wrong and why | no |
//! | [`observe`](mod@observe) | cluster → [`observe::Observed`]: its objects and what its nodes say | reads |
//! | [`scale`] | cluster, observed → [`plan::Plan`]: how many nodes there are and are listed for now | no |
//! | [`desired`](mod@desired) | cluster, plan → `Objects<Desired>` | no |
//! | [`apply`](mod@apply) | desired, observed → `Objects<Applied>` | writes |
//! | [`roll`] | observed, applied → [`roll::Decision`]: which pod is restarted next, if any | no |
//! | [`status`](mod@status) | all of the above → `PaxosClusterStatus`, and the events that tell of a change | no |
//! | [`reconcile`](mod@reconcile) | runs these, after every change and every half minute | writes the status |
//!
//! [`crd`] is what users write, [`names`] what everything is called, [`config`] the flags,
//! [`telemetry`] logs, metrics and probes, [`lease`](mod@lease) which of several operators works. [`local`](mod@local) runs the desired objects on this
//! machine instead of applying them, [`manifest`] reads their file, and [`check`](mod@check) is a client that writes and reads.

pub mod apply;
pub mod ask;
pub mod before;
pub mod causes;
pub mod check;
pub mod client;
pub mod cluster;
mod compare;
pub mod config;
pub mod context;
pub mod controller;
mod counters;
pub mod crd;
pub mod defaults;
pub mod desired;
mod fields;
pub mod founded;
mod growth;
pub mod invalid;
pub mod lease;
pub mod local;
pub mod manifest;
pub mod names;
pub mod observe;
pub mod plan;
mod pods;
pub mod quantity;
pub mod reasons;
pub mod reconcile;
pub mod roll;
mod rollouts;
pub mod scale;
pub mod status;
mod strict;
pub mod telemetry;

pub use desired::render;
