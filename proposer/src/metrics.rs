//! What `/metrics` shows. Names follow Prometheus' conventions: base units, `_total` on counters,
//! labels with few values. A role has the metrics that mean something for it, each from the start.

mod make;
mod peers;

use std::path::PathBuf;
use std::time::Duration;

use api::env::{Config, Role};
use paxos::machine::Ledger;
use paxos::message::{Reply, Request};
use paxos::standing::Refusal;
use paxos::verify::Verdict;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::bounds::{CUT, Shown};
use make::Maker;

pub use make::Described;
pub(crate) use peers::{PeerMetrics, Reason, count_message};

/// What all names begin with, but for those of the process.
const PREFIX: &str = "paxos";
/// The bounds of durations, in seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The bounds of a batch's size.
const VALUES: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];
const REQUESTS: [&str; 6] = ["probe", "prepare", "accept", "renew", "fetch", "enlist"];
const REPLIES: [&str; 12] = [
    "probed",
    "promise",
    "accepted",
    "renewed",
    "nack",
    "fetched",
    "truncated",
    "not_voting",
    "witnessed",
    "refused",
    "no_room",
    "accepted_tight",
];

/// The node's metrics. One value per process.
pub struct Metrics {
    registry: Registry,
    /// Those of the process, under the names that users know.
    process: Registry,
    described: Vec<Described>,
    data_dir: PathBuf,
    /// 1 while this proposer leads.
    pub is_leader: IntGauge,
    /// 1 while a leader is known.
    pub has_leader: IntGauge,
    /// The leader's term.
    pub term: IntGauge,
    /// Leaders seen since the start.
    pub leader_changes: IntCounter,
    /// The acceptors that this proposer knows.
    pub acceptors: IntGauge,
    /// Proposals by what became of them.
    pub proposals: IntCounterVec,
    /// Requests that wait or are under way.
    pub pending: IntGauge,
    /// Requests refused because too many wait.
    pub rejected: IntCounter,
    /// Messages that wait for the role's loop.
    pub queue: IntGauge,
    /// From the arrival of a request at the leader to its choice.
    pub choose_duration: Histogram,
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
    /// The first slot that the log still has.
    pub first_slot: IntGauge,
    /// How many instances each learner is behind; on the leader.
    pub learner_lag: IntGaugeVec,
    /// For how long each learner has been behind; on the leader.
    pub learner_lag_seconds: IntGaugeVec,
    /// How many instances each store is behind, as this learner sees it.
    pub store_lag: IntGaugeVec,
    sessions: IntGauge,
    session_clients: IntGauge,
    session_bytes: IntGauge,
    session_limit: IntGauge,
    state_bytes: IntGauge,
    state_quota: IntGauge,
    log_time: IntGauge,
    /// Resources that there are.
    pub resources: IntGauge,
    /// 1 when applying has stopped for good.
    pub halted: IntGauge,
    /// 1 when what this node has contradicts what others say; see [`crate::driver::halt`].
    pub contradicted: IntGauge,
    /// How often this proposer stepped down as a node had applied more than it had given out.
    pub step_downs: IntCounter,
    /// Messages about another value than was applied, which the acceptors do not have.
    pub learns_refused: IntCounter,
    /// Comparisons with the acceptors' votes by what they showed.
    pub vote_checks: IntCounterVec,
    /// 1 while no node has what this learner needs.
    pub data_lost: IntGauge,
    /// Comparisons with other learners by what they showed.
    pub audits: IntCounterVec,
    /// The last slot at which another learner had applied the same.
    pub audited_slot: IntGauge,
    /// 1 while another learner has applied something else.
    pub agreement_violated: IntGauge,
    /// Bytes of the log's files.
    pub wal_size: IntGauge,
    /// Bytes of votes that an acceptor has not forgotten.
    pub votes_kept: IntGauge,
    /// Bytes of values that it has in memory.
    pub votes_held: IntGauge,
    /// Bytes of memory for the places of all others.
    pub votes_index: IntGauge,
    /// 1 while nothing is taken that makes the data grow.
    pub volume_refuses: IntGauge,
    /// How long writing a snapshot takes.
    pub snapshot_write_duration: Histogram,
    /// Bytes of the newest snapshot.
    pub snapshot_size: IntGauge,
    /// Snapshots taken over from a learner.
    pub snapshots_installed: IntCounter,
    /// Notifications to clients by what became of them.
    pub notifications: IntCounterVec,
    /// HTTP requests.
    pub http: HistogramVec,
    /// Connections and the memory of requests and answers.
    pub bounds: Shown,
    wal_sync_duration: Histogram,
    wal_written: IntCounter,
    store_commit_duration: Histogram,
    proposer_requests: IntCounterVec,
    proposer_replies: IntCounterVec,
    acceptor_requests: IntCounterVec,
    acceptor_replies: IntCounterVec,
    /// See [`Metrics::acceptor_stands`].
    acceptor_voting: IntGaugeVec,
    volume_size: IntGauge,
    volume_free: IntGauge,
}

impl Metrics {
    /// Registers those of a role.
    ///
    /// # Errors
    /// When two have one name, which is a mistake in this file.
    pub fn new(config: &Config) -> prometheus::Result<Metrics> {
        const ALL: &[Role] = &Role::ALL;
        const PROPOSER: &[Role] = &[Role::Proposer];
        const ACCEPTOR: &[Role] = &[Role::Acceptor];
        const LEARNER: &[Role] = &[Role::Learner];
        const STORE: &[Role] = &[Role::Store];
        const APPLY: &[Role] = &[Role::Learner, Role::Store];
        const LOG: &[Role] = &[Role::Acceptor, Role::Learner];
        const GROWS: &[Role] = &[Role::Acceptor, Role::Learner, Role::Store];
        const BUSY: &[Role] = &[Role::Proposer, Role::Acceptor, Role::Learner];
        let mut m = Maker::new(config.role)?;
        let peers = &*peers::PEERS;
        m.add(ALL, "histogram", peers.round_trip.clone())?;
        m.add(ALL, "counter", peers.failures.clone())?;
        m.add(ALL, "gauge", peers.breaker_open.clone())?;
        m.add(ALL, "counter", peers.messages.clone())?;
        let build = Opts::new("build_info", "1, labelled with this program's version.");
        let build = IntGaugeVec::new(build, &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        m.add(ALL, "gauge", build)?;
        let outcomes = [
            "accepted",
            "committed",
            "not_committed",
            "reused",
            "not_read",
            "too_old",
            "full",
            "quota",
            "unknown",
            "no_leader",
            "not_proposed",
            "no_room",
        ];
        let standing = Opts::new(
            "acceptor_voting",
            "1 for how an acceptor stands: voting, joining (until the others have seen its disk), or why it must not vote.",
        );
        let standing = IntGaugeVec::new(standing, &["standing"])?;
        let metrics = Metrics {
            is_leader: m.gauge(PROPOSER, "is_leader", "1 while this proposer leads.")?,
            has_leader: m.gauge(PROPOSER, "has_leader", "1 while this proposer knows a leader.")?,
            term: m.gauge(PROPOSER, "term", "Term of the leader that this proposer knows.")?,
            leader_changes: m.counter(PROPOSER, "leader_changes_total", "Leaders seen.")?,
            acceptors: m.gauge(PROPOSER, "acceptors", "Acceptors that the cluster has.")?,
            proposals: m.counters(
                PROPOSER,
                "proposals_total",
                "Clients' requests, by outcome; counted where they arrived.",
                ("outcome", &outcomes),
            )?,
            pending: m.gauge(
                PROPOSER,
                "proposals_pending",
                "Clients' requests waiting or under way.",
            )?,
            rejected: m.counter(
                BUSY,
                "rejected_requests_total",
                "Requests refused because too many wait.",
            )?,
            queue: m.gauge(LOG, "queue_messages", "Messages that wait for the role's loop.")?,
            choose_duration: m.histogram(
                PROPOSER,
                "choose_duration_seconds",
                "From a request's arrival at the leader until it is chosen.",
                &SECONDS,
            )?,
            commit_duration: m.histogram(
                PROPOSER,
                "commit_duration_seconds",
                "From a request's arrival to its outcome: chosen and applied.",
                &SECONDS,
            )?,
            batch_size: m.histogram(PROPOSER, "batch_values", "Values proposed at once.", &VALUES)?,
            last_slot: m.gauge(
                &[Role::Proposer, Role::Acceptor],
                "last_instance",
                "Last instance given out or voted in.",
            )?,
            committed_slot: m.gauge(ALL, "committed_instance", "Last instance known chosen.")?,
            applied_slot: m.gauge(APPLY, "applied_instance", "Last instance applied.")?,
            first_slot: m.gauge(
                LOG,
                "log_first_instance",
                "First instance that the log still has, or will have next.",
            )?,
            learner_lag: m.gauges(
                PROPOSER,
                "learner_lag_instances",
                "Instances that a learner is behind, as the leader sees it; 0 elsewhere.",
                "learner",
            )?,
            learner_lag_seconds: m.gauges(
                PROPOSER,
                "learner_lag_seconds",
                "How long ago the first instance was chosen that a learner has not applied, as the leader sees it; 0 elsewhere.",
                "learner",
            )?,
            store_lag: m.gauges(
                LEARNER,
                "store_lag_instances",
                "Instances that a store is behind, as this learner sees it.",
                "store",
            )?,
            sessions: m.gauge(
                APPLY,
                "sessions",
                "Requests whose outcome is remembered, so that a retry has no second effect.",
            )?,
            session_clients: m.gauge(
                APPLY,
                "session_clients",
                "Clients of which something is remembered.",
            )?,
            session_bytes: m.gauge(
                APPLY,
                "session_memory_bytes",
                "What remembering requests takes, as counted against session_memory_limit_bytes.",
            )?,
            session_limit: m.gauge(
                APPLY,
                "session_memory_limit_bytes",
                "What it may take, by the leader's RETRY_MEMORY_BYTES; 0 before a leader has said so.",
            )?,
            state_bytes: m.gauge(
                APPLY,
                "state_bytes",
                "What names and data of all resources take, as counted against state_quota_bytes.",
            )?,
            state_quota: m.gauge(
                APPLY,
                "state_quota_bytes",
                "What they may take, by the leader's STATE_QUOTA_BYTES; 0 before a leader has said so.",
            )?,
            log_time: m.gauge(
                APPLY,
                "log_time_seconds",
                "Log time: how long leaders have let pass since the first stamp, while there was traffic.",
            )?,
            resources: m.gauge(LEARNER, "resources", "Resources that there are.")?,
            halted: m.gauge(APPLY, "halted", "1 when this node has stopped applying for good.")?,
            contradicted: m.gauge(
                &[Role::Proposer, Role::Learner, Role::Store],
                "contradicted",
                "1 while what this node knows contradicts what others say: acceptors or learners were set back in time, or it received what was never chosen.",
            )?,
            step_downs: m.counter(
                PROPOSER,
                "leader_behind_total",
                "Times that this proposer stopped leading, as a node had applied more than it had given out.",
            )?,
            learns_refused: m.counter(
                LEARNER,
                "learns_refused_total",
                "Messages that told another value than was applied, and that no quorum of acceptors confirmed.",
            )?,
            vote_checks: m.counters(
                LEARNER,
                "vote_checks_total",
                "Comparisons of what was applied with the votes of a quorum of acceptors, by result; forgotten: they no longer have the instance.",
                ("result", &Verdict::NAMES),
            )?,
            data_lost: m.gauge(
                LEARNER,
                "data_lost",
                "1 while no acceptor, learner or store has the instances that this learner needs next.",
            )?,
            audits: m.counters(
                LEARNER,
                "audits_total",
                "Comparisons with other learners of what was applied up to an instance, by result; unknown: the other could not be asked.",
                ("result", &["equal", "different", "unknown"]),
            )?,
            audited_slot: m.gauge(
                LEARNER,
                "audited_instance",
                "Last instance up to which another learner has applied the same.",
            )?,
            agreement_violated: m.gauge(
                LEARNER,
                "agreement_violated",
                "1 while another learner has applied something else than this one.",
            )?,
            wal_size: m.gauge(LOG, "wal_size_bytes", "Size of the log's files.")?,
            votes_kept: m.gauge(
                ACCEPTOR,
                "votes_kept_bytes",
                "Size of the votes in the log that are not forgotten yet.",
            )?,
            votes_held: m.gauge(
                ACCEPTOR,
                "votes_held_bytes",
                "Memory for the newest values; the log has the others.",
            )?,
            votes_index: m.gauge(
                ACCEPTOR,
                "votes_index_bytes",
                "Memory for the places of votes in the log.",
            )?,
            volume_refuses: m.gauge(
                GROWS,
                "volume_refuses",
                "1 while the node takes nothing that makes its data grow, as its volume is almost full or its log has its share of it.",
            )?,
            snapshot_write_duration: m.histogram(
                LEARNER,
                "snapshot_write_duration_seconds",
                "Time in which a snapshot is written and synced.",
                &SECONDS,
            )?,
            snapshot_size: m.gauge(LEARNER, "snapshot_size_bytes", "Size of the newest snapshot.")?,
            snapshots_installed: m.counter(
                APPLY,
                "snapshots_installed_total",
                "Snapshots taken over from a learner.",
            )?,
            notifications: m.counters(
                LEARNER,
                "notifications_total",
                "Notifications to clients, by outcome.",
                ("outcome", &["sent", "failed", "dropped"]),
            )?,
            http: m.histograms(
                ALL,
                "http_request_duration_seconds",
                "HTTP requests, by method, route and status code.",
                &["method", "route", "code"],
            )?,
            bounds: Shown {
                connections: m.gauge(ALL, "connections", "Open connections of clients and peers.")?,
                cut: m.counters(
                    ALL,
                    "connections_cut_total",
                    "Connections closed so that others find a place, or memory for their requests; full: turned away.",
                    ("why", &CUT),
                )?,
                buffered: m.gauges(
                    ALL,
                    "buffered_bytes",
                    "Memory of requests that are read and of answers that are not taken yet, by kind.",
                    "kind",
                )?,
            },
            wal_sync_duration: m.histogram(
                LOG,
                "wal_fsync_duration_seconds",
                "Time of one write and fdatasync of the log.",
                &SECONDS,
            )?,
            wal_written: m.counter(LOG, "wal_written_bytes_total", "Bytes written to the log.")?,
            store_commit_duration: m.histogram(
                STORE,
                "store_commit_duration_seconds",
                "Time in which a store applies and durably commits a batch.",
                &SECONDS,
            )?,
            proposer_requests: m.counters(
                PROPOSER,
                "proposer_requests_total",
                "Messages to acceptors, by kind.",
                ("kind", &REQUESTS),
            )?,
            proposer_replies: m.counters(
                PROPOSER,
                "proposer_replies_total",
                "Acceptors' answers, by kind; a nack rejects a prepare or an accept.",
                ("kind", &REPLIES),
            )?,
            acceptor_requests: m.counters(
                ACCEPTOR,
                "acceptor_requests_total",
                "Requests to this acceptor, by kind.",
                ("kind", &REQUESTS),
            )?,
            acceptor_replies: m.counters(
                ACCEPTOR,
                "acceptor_replies_total",
                "Answers of this acceptor, by kind.",
                ("kind", &REPLIES),
            )?,
            acceptor_voting: m.add(ACCEPTOR, "gauge", standing)?,
            volume_size: m.gauge(
                ALL,
                "volume_size_bytes",
                "Size of the file system that holds the node's data.",
            )?,
            volume_free: m.gauge(
                ALL,
                "volume_free_bytes",
                "Space left for the node in the file system that holds its data.",
            )?,
            registry: m.registry.clone(),
            process: process(config.role)?,
            described: m.made,
            data_dir: config.data_dir.clone(),
        };
        metrics.acceptor_stands("joining");
        Ok(metrics)
    }

    /// Each metric of this role but those of the process, in the order of their names.
    pub fn described(&self) -> Vec<Described> {
        let mut described = self.described.clone();
        described.sort();
        described
    }

    /// The text exposition format. Asks the file system, which may take its time.
    pub fn text(&self) -> Vec<u8> {
        if let Ok(volume) = rustix::fs::statvfs(&self.data_dir) {
            let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(volume.f_frsize));
            self.volume_size
                .set(bytes(volume.f_blocks).unwrap_or(i64::MAX));
            self.volume_free
                .set(bytes(volume.f_bavail).unwrap_or(i64::MAX));
        }
        let mut families = self.registry.gather();
        families.extend(self.process.gather());
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name.
        let _ = TextEncoder::new().encode(&families, &mut text);
        text
    }

    /// What a learner or store has applied.
    pub(crate) fn show_ledger(&self, ledger: &Ledger) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.sessions.set(ledger.session_count() as i64);
        self.session_clients.set(ledger.client_count() as i64);
        self.session_bytes.set(gauge(ledger.session_bytes()));
        self.state_bytes.set(gauge(ledger.state_bytes()));
        self.log_time.set(gauge(ledger.time_ms() / 1000));
        let terms = ledger.terms();
        self.session_limit
            .set(terms.map_or(0, |t| gauge(t.retry_memory)));
        self.state_quota.set(terms.map_or(0, |t| gauge(t.quota)));
    }

    pub(crate) fn wal_synced(&self, took: Duration, bytes: u64) {
        self.wal_sync_duration.observe(took.as_secs_f64());
        self.wal_written.inc_by(bytes);
    }

    pub(crate) fn store_committed(&self, took: Duration) {
        self.store_commit_duration.observe(took.as_secs_f64());
    }

    /// Counts requests of that kind.
    pub(crate) fn acceptor_requests(&self, request: &Request) -> IntCounter {
        self.acceptor_requests
            .with_label_values(&[request_kind(request)])
    }

    /// A proposer sends a request to this many acceptors.
    pub(crate) fn proposer_sends(&self, request: &Request, acceptors: usize) {
        self.proposer_requests
            .with_label_values(&[request_kind(request)])
            .inc_by(acceptors as u64);
    }

    pub(crate) fn proposer_gets(&self, reply: &Reply) {
        self.proposer_replies
            .with_label_values(&[reply_kind(reply)])
            .inc();
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
        self.acceptor_replies
            .with_label_values(&[reply_kind(reply)])
            .inc();
    }
}

fn request_kind(request: &Request) -> &'static str {
    let kind = match request {
        Request::Probe => 0,
        Request::Prepare { .. } => 1,
        Request::Accept { .. } => 2,
        Request::Renew { .. } => 3,
        Request::Fetch { .. } => 4,
        Request::Enlist { .. } => 5,
    };
    REQUESTS[kind]
}

fn reply_kind(reply: &Reply) -> &'static str {
    let kind = match reply {
        Reply::Probed { .. } => 0,
        Reply::Promise { .. } => 1,
        Reply::Accepted { .. } => 2,
        Reply::Renewed { .. } => 3,
        Reply::Nack { .. } => 4,
        Reply::Fetched { .. } => 5,
        Reply::Truncated { .. } => 6,
        Reply::NotVoting => 7,
        Reply::Witnessed { .. } => 8,
        Reply::Refused { .. } => 9,
        Reply::NoRoom { .. } => 10,
        Reply::AcceptedTight { .. } => 11,
    };
    REPLIES[kind]
}

fn process(role: Role) -> prometheus::Result<Registry> {
    let labels = [("role".to_owned(), role.name().to_owned())].into();
    let registry = Registry::new_custom(None, Some(labels))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}
