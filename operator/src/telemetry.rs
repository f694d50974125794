//! Logs, metrics and probes: `/healthz`, `/readyz` and `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What the operator counts. Labels have few values: no names of objects, no error texts.
pub struct Metrics {
    registry: Registry,
    reconciliations: IntCounterVec,
    errors: IntCounterVec,
    duration: Histogram,
    writes: IntCounterVec,
    watch_errors: IntCounter,
    leader: IntGauge,
    phase: Mutex<Phase>,
}

/// How far an operator got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The API server does not list PaxosClusters.
    Waiting,
    /// Another operator works; this one is ready to.
    Standby,
    /// It works, and lists the PaxosClusters for the first time.
    Listing,
    /// It works.
    Working,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("named well");
            registry
                .register(Box::new(counter.clone()))
                .expect("registered once");
            counter
        };
        let reconciliations = counter(
            "paxos_operator_reconciliations_total",
            "Reconciliations by result: ok, invalid or error.",
            &["result"],
        );
        let errors = counter(
            "paxos_operator_reconcile_errors_total",
            "Failed reconciliations by reason.",
            &["reason"],
        );
        let writes = counter(
            "paxos_operator_writes_total",
            "Writes to the API server by resource and verb.",
            &["resource", "verb"],
        );
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "paxos_operator_reconcile_duration_seconds",
                "How long a reconciliation takes.",
            )
            .buckets(vec![
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0,
            ]),
        )
        .expect("named well");
        let watch_errors = IntCounter::new(
            "paxos_operator_watch_errors_total",
            "Watches that failed and were started again.",
        )
        .expect("named well");
        let build = IntGaugeVec::new(
            Opts::new(
                "paxos_operator_build_info",
                "Always 1; the label is the version.",
            ),
            &["version"],
        )
        .expect("named well");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let leader = IntGauge::new(
            "paxos_operator_leader",
            "Whether this operator works (1) or waits for another to end (0).",
        )
        .expect("named well");
        for metric in [
            Box::new(duration.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(leader.clone()),
            Box::new(watch_errors.clone()),
            Box::new(build),
        ] {
            registry.register(metric).expect("registered once");
        }
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .expect("registered once");
        for result in ["ok", "invalid", "error"] {
            reconciliations.with_label_values(&[result]);
        }
        Metrics {
            registry,
            reconciliations,
            errors,
            duration,
            writes,
            watch_errors,
            leader,
            phase: Mutex::new(Phase::Waiting),
        }
    }
}

impl Metrics {
    /// A reconciliation ended.
    pub fn reconciled(&self, result: &str, took: Duration) {
        self.reconciliations.with_label_values(&[result]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A reconciliation failed; `reason` is one of a fixed set.
    pub fn failed(&self, reason: &str) {
        self.errors.with_label_values(&[reason]).inc();
    }

    /// Something was written to the API server.
    pub fn wrote(&self, resource: &str, verb: &str) {
        self.writes.with_label_values(&[resource, verb]).inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
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
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory cannot fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// The operator's own HTTP routes.
pub fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(text))
        .with_state(metrics)
}

async fn readyz(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.phase() {
        Phase::Waiting => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server does not list PaxosClusters: is the CustomResourceDefinition installed?\n",
        ),
        Phase::Listing => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the PaxosClusters were not listed yet\n",
        ),
        Phase::Standby => (StatusCode::OK, "ok, on standby\n"),
        Phase::Working => (StatusCode::OK, "ok\n"),
    }
}

async fn text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
        metrics.text(),
    )
}

/// Sends logs to stdout; `RUST_LOG` says which, info and above if it says nothing.
pub fn start_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Text => logs.init(),
    }
}
