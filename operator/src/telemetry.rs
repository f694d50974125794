//! Logs, metrics and probes: `/healthz`, `/readyz` and `/metrics`.

mod metrics;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

pub use metrics::Metrics;

/// An operator whose calls came to nothing for so long is not ready. A connection that is dead is noticed
/// within 25 s.
const DEAF: Duration = Duration::from_secs(15);

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

/// The operator's own HTTP routes.
pub fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(text))
        .with_state(metrics)
}

async fn readyz(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    if metrics.unheard_for() >= DEAF {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server does not answer\n",
        );
    }
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
