//! kubectl and helm, and requests through the API server's proxy.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::Value;
use testkit::tools::{root, run, said, tool};

/// A pod that goes may take its network along without a word on its connections.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the API server or a node behind it answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON; null when it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Runs kubectl and returns what it printed. Panics with its complaint when it fails.
pub(crate) fn kubectl(arguments: &[&str]) -> String {
    printed(
        run(Command::new(tool("kubectl")).args(arguments)),
        arguments,
    )
}

/// Runs helm and returns what it printed. Panics with its complaint when it fails.
pub(crate) fn helm(arguments: &[&str]) -> String {
    printed(run(Command::new(tool("helm")).args(arguments)), arguments)
}

fn printed(output: std::process::Output, arguments: &[&str]) -> String {
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `kubectl apply -f -`.
pub(crate) fn apply(object: &Value) {
    let mut kubectl = Command::new(tool("kubectl"))
        .args(["apply", "-f", "-"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl starts");
    let mut input = kubectl.stdin.take().expect("a pipe");
    input
        .write_all(object.to_string().as_bytes())
        .expect("kubectl reads");
    drop(input);
    let status = kubectl.wait().expect("kubectl ends");
    assert!(status.success(), "{object} was not applied");
}

/// `kubectl get … -o json`.
pub(crate) fn get(arguments: &[&str]) -> Value {
    let text = kubectl(&[&["get", "-o", "json"][..], arguments].concat());
    serde_json::from_str(&text).expect("kubectl prints JSON")
}

/// Waits until `probe` finds something. Panics with `what` after `limit`.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Sends a request to a Service or pod through the API server's proxy. `target` is as in
/// `services/small:http` or `pods/small-learner-1:8080`. Fails when the API server cannot be reached.
pub(crate) async fn request(
    client: &kube::Client,
    namespace: &str,
    target: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, String> {
    let uri = format!("/api/v1/namespaces/{namespace}/{target}/proxy{path}");
    let request = match body {
        None => http::Request::get(uri).body(Vec::new()),
        Some(body) => http::Request::post(uri)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes()),
    };
    let request = request.expect("a well-formed request").map(Into::into);
    let exchange = async {
        let response = client.send(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, body })
    };
    tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
