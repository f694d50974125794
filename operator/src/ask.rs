//! Asking nodes how they are, over HTTP: by their address, or where that is refused, as a mesh or a
//! NetworkPolicy does, by their name, or through the API server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::env::DEFAULT_PORT;
use api::problem::Problem;
use api::status::Status;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use kube::Client;
use node::connect;
use tokio::net::ToSocketAddrs;
use tokio::time::timeout;

/// A node that takes longer than this is taken for one that does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// For how long the way that worked is the first to be tried.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The API server connects on our behalf.
const PROXY_TIMEOUT: Duration = Duration::from_secs(2);
/// A `/status` is a few hundred bytes; more than this is not one.
pub(crate) const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// A node, and how it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where its pod is.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its pod's address.
    pub address: SocketAddr,
    /// Its name in the cluster's DNS, with the port.
    pub host: String,
    /// Whether the kubelet finds it ready: then it can be reached, from somewhere.
    pub ready: bool,
}

/// How to ask a node how it is.
pub trait AskNode: Send + Sync {
    /// `None` when it does not answer, or not in time, or not with a status.
    fn ask(&self, node: &Node) -> BoxFuture<'static, Option<Status>>;

    /// Why it is not ready, in its own words; `None` when it is, or does not answer.
    fn why_unready(&self, node: &Node) -> BoxFuture<'static, Option<String>>;
}

/// A way to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Straight to the pod's address.
    Address,
    /// By its name: the sidecar of a mesh knows it, and speaks TLS to it.
    Name,
    /// Through the API server.
    ApiServer,
}

/// In the order in which they are tried.
const WAYS: [Way; 3] = [Way::Address, Way::Name, Way::ApiServer];

/// Asks over HTTP, on its own connection.
#[derive(Clone)]
pub struct OverHttp {
    api: Client,
    /// The way that worked last, as its place in [`WAYS`], and since when it is not the first.
    works: Arc<Mutex<(usize, Instant)>>,
}

impl OverHttp {
    /// Asks through the API server of `api` whom it reaches in no other way.
    pub fn new(api: Client) -> OverHttp {
        OverHttp {
            api,
            works: Arc::new(Mutex::new((0, Instant::now()))),
        }
    }

    /// The way to try first: what worked last, but for a minute only. A node that was slow once is no
    /// network that is closed.
    fn first(&self) -> usize {
        let (works, since) = *self.works.lock().unwrap_or_else(PoisonError::into_inner);
        match since.elapsed() < REMEMBERED {
            true => works,
            false => 0,
        }
    }

    fn works(&self, at: usize) {
        let mut works = self.works.lock().unwrap_or_else(PoisonError::into_inner);
        if works.0 != at || works.1.elapsed() >= REMEMBERED {
            *works = (at, Instant::now());
        }
    }

    async fn get(&self, way: Way, node: &Node, path: &str) -> Result<(u16, Vec<u8>), Failure> {
        let limit = match way {
            Way::ApiServer => PROXY_TIMEOUT,
            Way::Address | Way::Name => ANSWER_TIMEOUT,
        };
        let answer = async {
            match way {
                Way::Address => get(node.address, &node.address.to_string(), path).await,
                Way::Name => get(&node.host, &node.host, path).await,
                Way::ApiServer => {
                    let Node { namespace, pod, .. } = node;
                    let url = format!(
                        "/api/v1/namespaces/{namespace}/pods/{pod}:{DEFAULT_PORT}/proxy{path}"
                    );
                    let request = http::Request::get(url).body(Vec::new().into())?;
                    let response = self.api.send(request).await?;
                    let code = response.status().as_u16();
                    let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES);
                    Ok((code, body.collect().await?.to_bytes().to_vec()))
                }
            }
        };
        timeout(limit, answer).await?
    }

    async fn status(&self, way: Way, node: &Node) -> Option<Status> {
        let answer = match self.get(way, node, "/status").await {
            Ok((200, body)) => serde_json::from_slice(&body).map_err(Failure::from),
            Ok((code, _)) => Err(format!("it answers with code {code}").into()),
            Err(error) => Err(error),
        };
        let pod = &node.pod;
        answer
            .inspect_err(|error| tracing::debug!(pod, %error, ?way, "the node did not answer"))
            .ok()
    }
}

impl AskNode for OverHttp {
    fn ask(&self, node: &Node) -> BoxFuture<'static, Option<Status>> {
        let (this, node) = (self.clone(), node.clone());
        async move {
            let first = this.first();
            // A node that is not ready may well not answer at all.
            let tried = if node.ready { WAYS.len() } else { 1 };
            for at in (0..tried).map(|next| (first + next) % WAYS.len()) {
                if let Some(answer) = this.status(WAYS[at], &node).await {
                    this.works(at);
                    return Some(answer);
                }
            }
            None
        }
        .boxed()
    }

    fn why_unready(&self, node: &Node) -> BoxFuture<'static, Option<String>> {
        let (this, node) = (self.clone(), node.clone());
        async move {
            let way = WAYS[this.first()];
            let (code, body) = this.get(way, &node, "/ready").await.ok()?;
            let problem: Problem<'_> = serde_json::from_slice(&body).ok()?;
            (code != 200).then(|| problem.detail.into_owned())
        }
        .boxed()
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn get(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
) -> Result<(u16, Vec<u8>), Failure> {
    let answer = connect::get(address, host, path, ANSWER_MAX_BYTES).await?;
    Ok((answer.status().as_u16(), answer.into_body().to_vec()))
}

#[cfg(test)]
mod tests {
    use api::status::{NodeStatus, ProposerStatus};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn node_that_says(response: impl Into<String>) -> Node {
        let response = response.into();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
        });
        Node {
            namespace: "shop".to_owned(),
            pod: "ledger-proposer-2".to_owned(),
            address,
            host: address.to_string(),
            ready: false,
        }
    }

    fn proposer(node_id: u8) -> Status {
        let node = NodeStatus {
            node_id,
            role: "proposer".into(),
            ..NodeStatus::default()
        };
        Status::Proposer(ProposerStatus {
            node,
            is_leader: true,
            term: 7,
            ..ProposerStatus::default()
        })
    }

    /// An API server that reaches every pod, and says so.
    fn api_server() -> Client {
        let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
            let path = "/api/v1/namespaces/shop/pods/ledger-proposer-2:8080/proxy/status";
            assert_eq!(request.uri().path(), path);
            let body = serde_json::to_vec(&proposer(9)).unwrap();
            let body = http_body_util::Full::new(bytes::Bytes::from(body));
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_status_is_read_and_what_is_none_is_no_answer() {
        let nodes = OverHttp::new(api_server());
        let answer = proposer(2);
        let body = serde_json::to_string(&answer).unwrap();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let node = node_that_says(format!("{head}{body}"));
        assert_eq!(nodes.ask(&node.await).await, Some(answer));
        for nonsense in [
            "HTTP/1.1 503 Unavailable\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope",
            "garbage\r\n\r\n",
        ] {
            let node = node_that_says(nonsense).await;
            assert_eq!(nodes.ask(&node).await, None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_ready_and_refuses_the_operator_is_asked_through_the_api_server() {
        let nodes = OverHttp::new(api_server());
        let mut node = node_that_says("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
        node.ready = true;
        let answer = nodes.ask(&node).await.unwrap();
        assert_eq!(answer, proposer(9));
        // From then on at once: this one would answer by its address.
        let body = serde_json::to_string(&proposer(1)).unwrap();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let node = Node {
            ready: false,
            ..node_that_says(format!("{head}{body}")).await
        };
        assert_eq!(nodes.ask(&node).await, Some(proposer(9)));
    }

    #[tokio::test]
    async fn a_node_says_itself_why_it_is_not_ready() {
        let nodes = OverHttp::new(api_server());
        let node = node_that_says(
            "HTTP/1.1 503 Unavailable\r\nconnection: close\r\n\r\n\
             {\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"acceptor 3 is missing\"}",
        );
        let why = nodes.why_unready(&node.await).await;
        assert_eq!(why.as_deref(), Some("acceptor 3 is missing"));
        let node = node_that_says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(nodes.why_unready(&node).await, None);
    }
}
