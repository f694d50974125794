//! The way to the API server. A connection whose other end is gone, or behind which nothing moves any
//! more, is noticed by HTTP/2 pings and closed, and with it every watch: each starts again on a
//! connection that works. TCP alone would wait while anything acknowledges its packets.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::FixedServerNameResolver;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use crate::telemetry::Metrics;

/// How long a connection may be silent before it is asked whether it lives.
const PING_AFTER: Duration = Duration::from_secs(15);
/// How long it may take to answer that. With the former, a dead connection is closed after 25 s.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call about the lease may take.
const LEASE_TIMEOUT: Duration = Duration::from_secs(3);
/// For API servers without HTTP/2: what was sent and not acknowledged for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A client of the API server; `metrics` hears whether it answers. Nothing is tried again here: what
/// failed is tried again as a whole, with a delay that grows.
pub fn connect(config: &Config, metrics: &Arc<Metrics>) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // Only kube's own builder knows proxies, or says that this build does not.
        return Client::try_from(config.clone());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(PING_AFTER));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        // What is no name fails at each connection, and says so.
        if let Ok(name) = name.clone().try_into() {
            tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
    }
    let connection: legacy::Client<_, Body> = legacy::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_AFTER)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(tls.enable_all_versions().wrap_connector(tcp));
    let metrics = metrics.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_result(move |answer: Result<_, legacy::Error>| {
            metrics.heard(answer.is_ok());
            answer.map_err(BoxError::from)
        })
        .service(connection);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// A client for the lease: what is not answered in time is asked again on another connection, since a
/// holder has no time to find out what is wrong with this one.
pub fn connect_for_lease(config: &Config) -> kube::Result<Client> {
    let mut config = config.clone();
    config.default_retry = false;
    config.connect_timeout = Some(LEASE_TIMEOUT);
    config.read_timeout = Some(LEASE_TIMEOUT);
    Client::try_from(config)
}
