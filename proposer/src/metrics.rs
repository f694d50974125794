//! What `/metrics` shows. Names follow Prometheus' conventions: base units, `_total` on counters,
//! labels with few values.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::paxos::message::{Reply, Request};
use crate::paxos::standing::Refusal;

/// The node's metrics. One value per process.
pub struct Metrics {
    registry: Registry,
    /// 1 while this proposer leads.
    pub is_leader: IntGauge,
    /// 1 while a leader is known.
    pub has_leader: IntGauge,
    /// The leader's term.
    pub term: IntGauge,
    /// Leaders seen since the start.
    pub leader_changes: IntCounter,
    /// Proposals by what became of them.
    pub proposals: IntCounterVec,
    /// Requests that wait or are under way.
    pub pending: IntGauge,
    /// From the arrival of a request to its outcome.
    pub commit_duration: Histogram,
    /// Values in one Accept.
    pub batch_size: Histogram,
    /// The last slot given out, voted in or seen.
    pub last_slot: IntGauge,
    /// Every slot up to here is chosen.
    pub committed_slot: IntGauge,
    /// Every slot up to here is applied.
    pub applied_slot: IntGauge,
    /// How many instances each learner is behind; on the leader.
    pub learner_lag: IntGaugeVec,
    /// Bytes of the log's files.
    pub wal_size: IntGauge,
    /// Notifications to clients by what became of them.
    pub notifications: IntCounterVec,
    /// HTTP requests.
    pub http: HistogramVec,
    /// How many instances each store is behind, as this learner sees it.
    pub store_lag: IntGaugeVec,
    wal_sync_duration: Histogram,
    wal_written: IntCounter,
    store_commit_duration: Histogram,
    acceptor_requests: IntCounterVec,
    acceptor_replies: IntCounterVec,
    /// See [`Metrics::acceptor_stands`].
    acceptor_voting: IntGaugeVec,
}

const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

impl Metrics {
    /// Registers them all.
    ///
    /// # Errors
    /// When two have one name, which is a mistake in this file.
    pub fn new(role: &str) -> prometheus::Result<Metrics> {
        let labels = [("role".to_owned(), role.to_owned())].into();
        let registry = Registry::new_custom(Some("paxos".into()), Some(labels))?;
        let r = &registry;
        let metrics = Metrics {
            is_leader: gauge(r, "is_leader", "1 while this proposer leads.")?,
            has_leader: gauge(r, "has_leader", "1 while this node knows a leader.")?,
            term: gauge(r, "term", "Term of the leader that this node knows.")?,
            leader_changes: counter(r, "leader_changes_total", "Leaders seen.")?,
            proposals: counters(r, "proposals_total", "Proposals, by outcome.", "outcome")?,
            pending: gauge(r, "proposals_pending", "Requests waiting or under way.")?,
            commit_duration: histogram(
                r,
                "commit_duration_seconds",
                "From a request's arrival to its applied outcome.",
                &SECONDS,
            )?,
            batch_size: histogram(
                r,
                "batch_values",
                "Values proposed at once.",
                &[
                    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
                ],
            )?,
            last_slot: gauge(r, "last_instance", "Last instance given out or voted in.")?,
            committed_slot: gauge(r, "committed_instance", "Last instance known chosen.")?,
            applied_slot: gauge(r, "applied_instance", "Last instance applied.")?,
            learner_lag: gauges(
                r,
                "learner_lag_instances",
                "Instances that a learner is behind, as the leader sees it.",
                "learner",
            )?,
            store_lag: gauges(
                r,
                "store_lag_instances",
                "Instances that a store is behind, as this learner sees it.",
                "store",
            )?,
            notifications: counters(
                r,
                "notifications_total",
                "Notifications to clients, by outcome.",
                "outcome",
            )?,
            wal_size: gauge(r, "wal_size_bytes", "Size of the log's files.")?,
            http: {
                let opts = HistogramOpts::new(
                    "http_request_duration_seconds",
                    "HTTP requests, by method, route and status code.",
                )
                .buckets(SECONDS.to_vec());
                let http = HistogramVec::new(opts, &["method", "route", "code"])?;
                registry.register(Box::new(http.clone()))?;
                http
            },
            wal_sync_duration: histogram(
                r,
                "wal_fsync_duration_seconds",
                "Time of one write and fdatasync of the log.",
                &SECONDS,
            )?,
            wal_written: counter(r, "wal_written_bytes_total", "Bytes written to the log.")?,
            store_commit_duration: histogram(
                r,
                "store_commit_duration_seconds",
                "Time in which a store applies and durably commits a batch.",
                &SECONDS,
            )?,
            acceptor_requests: counters(
                r,
                "acceptor_requests_total",
                "Requests to this acceptor, by kind.",
                "kind",
            )?,
            acceptor_voting: {
                let opts = Opts::new(
                    "acceptor_voting",
                    "1 for how an acceptor stands: voting, joining (until the others have seen its disk), or why it must not vote.",
                );
                let gauges = IntGaugeVec::new(opts, &["standing"])?;
                r.register(Box::new(gauges.clone()))?;
                gauges
            },
            acceptor_replies: counters(
                r,
                "acceptor_replies_total",
                "Answers of this acceptor, by kind.",
                "kind",
            )?,
            registry: registry.clone(),
        };
        let build = Opts::new("build_info", "1, labelled with this program's version.");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?;
        build.set(1);
        registry.register(Box::new(build))?;
        Ok(metrics)
    }

    /// The text exposition format.
    pub fn text(&self) -> Vec<u8> {
        let mut families = self.registry.gather();
        // The crate's own registry holds the process' metrics, with the names users know.
        families.extend(prometheus::gather());
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name.
        let _ = TextEncoder::new().encode(&families, &mut text);
        text
    }

    pub(crate) fn wal_synced(&self, took: Duration, bytes: u64) {
        self.wal_sync_duration.observe(took.as_secs_f64());
        self.wal_written.inc_by(bytes);
    }

    pub(crate) fn store_committed(&self, took: Duration) {
        self.store_commit_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn acceptor_request(&self, request: &Request) {
        let kind = match request {
            Request::Probe => "probe",
            Request::Prepare { .. } => "prepare",
            Request::Accept { .. } => "accept",
            Request::Renew { .. } => "renew",
            Request::Fetch { .. } => "fetch",
            Request::Enlist { .. } => "enlist",
        };
        self.acceptor_requests.with_label_values(&[kind]).inc();
    }

    /// Shows an acceptor's standing, one of [`Refusal::NAMES`], `voting` and `joining`.
    pub(crate) fn acceptor_stands(&self, standing: &str) {
        for name in ["voting", "joining"].into_iter().chain(Refusal::NAMES) {
            self.acceptor_voting
                .with_label_values(&[name])
                .set((name == standing).into());
        }
    }

    pub(crate) fn acceptor_reply(&self, reply: &Reply) {
        let kind = match reply {
            Reply::Probed { .. } => "probed",
            Reply::Promise { .. } => "promise",
            Reply::Accepted { .. } => "accepted",
            Reply::Renewed { .. } => "renewed",
            Reply::Nack { .. } => "nack",
            Reply::Fetched { .. } => "fetched",
            Reply::Truncated { .. } => "truncated",
            Reply::NotVoting => "not_voting",
            Reply::Witnessed { .. } => "witnessed",
            Reply::Refused { .. } => "refused",
        };
        self.acceptor_replies.with_label_values(&[kind]).inc();
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntGaugeVec> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let histogram = Histogram::with_opts(opts)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}
