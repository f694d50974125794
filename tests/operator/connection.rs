//! The operator's connection to the API server, over TLS and HTTP/2, through a wire that can go dead.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Config;
use kube::client::Body;
use operator::client::connect;
use operator::context::{Context, Options};
use operator::controller::operate;
use operator::telemetry::Metrics;
use serde_json::json;
use testkit::kube::{ApiServer, Nodes};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower::Service;

/// The server in memory behind TLS, as a real one is; how many connections it has had.
async fn serve(server: ApiServer) -> (SocketAddr, Arc<AtomicUsize>) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let answer = hyper::service::service_fn(
                    move |request: http::Request<hyper::body::Incoming>| {
                        let mut service = server.service();
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.unwrap().to_bytes();
                            let request =
                                http::Request::from_parts(head, Body::from(body.to_vec()));
                            Ok::<_, Infallible>(service.call(request).await.unwrap())
                        }
                    },
                );
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (address, connections)
}

/// Hands on what comes, until it is told that all connections that there are go dead: open, and silent.
async fn wire(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let deaths = Arc::new(AtomicUsize::new(0));
    let told = deaths.clone();
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let (told, born) = (told.clone(), told.load(Ordering::Relaxed));
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                let died = async {
                    while told.load(Ordering::Relaxed) == born {
                        sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut from, &mut to) => return,
                    () = died => {}
                }
                // Both ends stay open, and their kernels answer.
                sleep(Duration::from_secs(120)).await;
            });
        }
    });
    (address, deaths)
}

async fn served(server: &ApiServer, name: &str, within: Duration) -> Option<Duration> {
    let since = Instant::now();
    while since.elapsed() < within {
        if server.object("services", "shop", name).is_some() {
            return Some(since.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_behind_which_nothing_moves_is_given_up_and_no_change_is_missed() {
    let server = ApiServer::new();
    let (api, connections) = serve(server.clone()).await;
    let (address, deaths) = wire(api).await;
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    config.accept_invalid_certs = true;
    let metrics = Arc::new(Metrics::default());
    let client = connect(&config, &metrics).unwrap();
    let options = Options::default();
    let context = Context::new(client, Box::new(Nodes::default()), metrics.clone(), options);
    let operator = tokio::spawn(operate(Arc::new(context), None, std::future::pending()));

    let create = |name: &str| {
        server.create(json!({
            "apiVersion": "clustersync.io/v1alpha1",
            "kind": "PaxosCluster",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": {},
        }));
    };
    create("before");
    assert!(
        served(&server, "before", Duration::from_secs(20))
            .await
            .is_some()
    );
    let before = connections.load(Ordering::Relaxed);
    assert!(
        before <= 3,
        "calls and watches share a connection: {before}"
    );

    deaths.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(100)).await;
    create("after");
    let seen = served(&server, "after", Duration::from_secs(45)).await;
    assert!(seen.is_some(), "blind: {}", metrics.text());
    assert!(connections.load(Ordering::Relaxed) > before);
    assert!(metrics.text().contains("paxos_operator_api_reachable 1"));
    operator.abort();
}

#[tokio::test]
async fn an_api_server_that_is_gone_is_told() {
    let metrics = Arc::new(Metrics::default());
    // Nobody listens at a port that was just let go.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let config = Config::new(format!("http://{gone}").parse().unwrap());
    let client = connect(&config, &metrics).unwrap();
    client.apiserver_version().await.unwrap_err();
    assert!(metrics.text().contains("paxos_operator_api_reachable 0"));
    assert!(metrics.unheard_for() > Duration::ZERO);
}
