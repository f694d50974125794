//! What the operator counts. Labels have few values: no names of objects, no error texts.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::Store;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::Phase;
use crate::crd::CONDITIONS;
use crate::crd::Guarded;

/// How long a reconciliation may take, in seconds.
const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0,
];
const RESULTS: [&str; 3] = ["ok", "invalid", "error"];
const REASONS: [&str; 9] = [
    "observe",
    "not_ours",
    "not_grown",
    "not_defined",
    "apply",
    "evict",
    "status",
    "too_slow",
    "rival",
];
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
/// What [`mod@crate::apply`] writes, and the status.
const WRITTEN: [&str; 7] = [
    "configmaps",
    "networkpolicies",
    "paxosclusters/status",
    "poddisruptionbudgets",
    "podmonitors",
    "services",
    "statefulsets",
];

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    described: Vec<node::metrics::Described>,
    reconciliations: IntCounterVec,
    errors: IntCounterVec,
    api_errors: IntCounterVec,
    duration: HistogramVec,
    writes: IntCounterVec,
    watch_errors: IntCounter,
    leader: IntGauge,
    clusters: IntGaugeVec,
    namespaces: IntGaugeVec,
    reachable: IntGauge,
    stores: Mutex<BTreeMap<String, Store<Guarded>>>,
    phase: Mutex<Phase>,
    /// Since when no call was answered; `None`: the last one was.
    unanswered: Mutex<Option<Instant>>,
}

/// Registers metrics and remembers them for the documentation.
#[derive(Default)]
struct Maker {
    registry: Registry,
    made: Vec<node::metrics::Described>,
}

impl Maker {
    fn add<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        metric: prometheus::Result<C>,
    ) -> C {
        let metric = metric.expect("named well");
        let described = metric
            .desc()
            .into_iter()
            .map(|desc| node::metrics::Described {
                name: desc.fq_name.clone(),
                kind,
                labels: desc.variable_labels.clone(),
                help: desc.help.clone(),
            });
        self.made.extend(described);
        self.registry
            .register(Box::new(metric.clone()))
            .expect("registered once");
        metric
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add("counter", IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add("gauge", IntGaugeVec::new(Opts::new(name, help), labels))
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut m = Maker::default();
        let build = m.gauges(
            "paxos_operator_build_info",
            "1, labelled with this program's version.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let duration = HistogramOpts::new(
            "paxos_operator_reconcile_duration_seconds",
            "How long a reconciliation takes, by result.",
        );
        let duration = HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &["result"]);
        let watch_errors = IntCounter::new(
            "paxos_operator_watch_errors_total",
            "Watches that failed and were started again.",
        );
        let reachable = IntGauge::new(
            "paxos_operator_api_reachable",
            "1 while the API server answers, whatever it says, 0 since a call has failed without an answer.",
        );
        let leader = IntGauge::new(
            "paxos_operator_leader",
            "1 while this operator works, 0 while it waits for another to end.",
        );
        let metrics = Metrics {
            reconciliations: m.counters(
                "paxos_operator_reconciliations_total",
                "Reconciliations by result: ok, invalid or error.",
                &["result"],
            ),
            errors: m.counters(
                "paxos_operator_reconcile_errors_total",
                "Failed reconciliations by reason.",
                &["reason"],
            ),
            api_errors: m.counters(
                "paxos_operator_api_errors_total",
                "Failed calls to the API server by status code; none: it gave no answer.",
                &["code"],
            ),
            writes: m.counters(
                "paxos_operator_writes_total",
                "Writes to the API server by resource and verb.",
                &["resource", "verb"],
            ),
            clusters: m.gauges(
                "paxos_operator_clusters",
                "PaxosClusters by condition and its status; 0 for all while another operator works.",
                &["condition", "status"],
            ),
            namespaces: m.gauges(
                "paxos_operator_namespace_up",
                "1 while the PaxosClusters of a namespace that is looked after can be read, else 0; all: of every namespace.",
                &["namespace"],
            ),
            reachable: m.add("gauge", reachable),
            duration: m.add("histogram", duration),
            watch_errors: m.add("counter", watch_errors),
            leader: m.add("gauge", leader),
            registry: m.registry.clone(),
            described: m.made,
            stores: Mutex::default(),
            phase: Mutex::new(Phase::Waiting),
            unanswered: Mutex::default(),
        };
        metrics.reachable.set(1);
        let process = ProcessCollector::for_self();
        let registered = metrics.registry.register(Box::new(process));
        registered.expect("registered once");
        for result in RESULTS {
            metrics.reconciliations.with_label_values(&[result]);
            metrics.duration.with_label_values(&[result]);
        }
        for reason in REASONS {
            metrics.errors.with_label_values(&[reason]);
        }
        for resource in WRITTEN {
            metrics.writes.with_label_values(&[resource, "apply"]);
        }
        metrics.api_errors.with_label_values(&["none"]);
        metrics
    }
}

impl Metrics {
    /// Each metric but those of the process, in the order of their names.
    pub fn described(&self) -> Vec<node::metrics::Described> {
        let mut described = self.described.clone();
        described.sort();
        described
    }

    /// A reconciliation ended.
    pub fn reconciled(&self, result: &str, took: Duration) {
        self.reconciliations.with_label_values(&[result]).inc();
        let duration = self.duration.with_label_values(&[result]);
        duration.observe(took.as_secs_f64());
    }

    /// A reconciliation failed; `reason` is one of a fixed set.
    pub fn failed(&self, reason: &str) {
        self.errors.with_label_values(&[reason]).inc();
    }

    /// A call to the API server failed.
    pub fn call_failed(&self, error: &kube::Error) {
        let code = match error {
            kube::Error::Api(status) => status.code.to_string(),
            _ => "none".to_owned(),
        };
        self.api_errors.with_label_values(&[&code]).inc();
    }

    /// Something was written to the API server.
    pub fn wrote(&self, resource: &str, verb: &str) {
        self.writes.with_label_values(&[resource, verb]).inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// Shows the clusters of this namespace from now on.
    pub fn show_clusters(&self, namespace: &str, store: Store<Guarded>) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.insert(namespace.to_owned(), store);
    }

    /// Shows the clusters of this namespace no longer.
    pub fn hide_clusters(&self, namespace: &str) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.remove(namespace);
    }

    /// The PaxosClusters of a namespace can be read, or cannot.
    pub fn readable(&self, namespace: &str, is: bool) {
        self.namespaces
            .with_label_values(&[namespace])
            .set(i64::from(is));
    }

    /// A call to the API server was answered, or came to nothing.
    pub fn heard(&self, answered: bool) {
        self.reachable.set(i64::from(answered));
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unanswered = match answered {
            true => None,
            false => Some(unanswered.unwrap_or_else(Instant::now)),
        };
    }

    /// For how long the API server has answered nothing.
    pub fn unheard_for(&self) -> Duration {
        let unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unanswered.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The operator got so far.
    pub fn reached(&self, phase: Phase) {
        let works = matches!(phase, Phase::Listing | Phase::Working);
        self.leader.set(i64::from(works));
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// How far it got.
    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        self.count_clusters();
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory cannot fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }

    fn count_clusters(&self) {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let clusters: Vec<_> = stores.values().flat_map(Store::state).collect();
        let conditions = || {
            let clusters = clusters.iter().filter_map(|object| object.0.as_ref().ok());
            let statuses = clusters.filter_map(|cluster| cluster.status.as_ref());
            statuses.flat_map(|status| &status.conditions)
        };
        for condition in CONDITIONS {
            for status in STATUSES {
                let those = conditions().filter(|c| c.type_ == condition && c.status == status);
                let clusters = self.clusters.with_label_values(&[condition, status]);
                clusters.set(those.count() as i64);
            }
        }
    }
}
