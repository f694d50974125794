//! Logs, metrics and probes: `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
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
    synced: AtomicBool,
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
        for metric in [
            Box::new(duration.clone()) as Box<dyn prometheus::core::Collector>,
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
        let synced = AtomicBool::new(false);
        Metrics {
            registry,
            reconciliations,
            errors,
            duration,
            writes,
            watch_errors,
            synced,
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

    /// The first list of PaxosClusters is in: the operator is ready.
    pub fn synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
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
    if metrics.synced.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the PaxosClusters were not listed yet\n",
        )
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
