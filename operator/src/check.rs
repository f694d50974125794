//! A write and a read through a cluster's Services, as any client would: what `helm test` runs.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use k8s_openapi::jiff::Timestamp;
use node::connect;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Check;

/// One request may take this long.
const REQUEST: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Both answers are small; more than this is something else.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes until that is committed, and reads until what was written is read. Returns what was done;
/// fails with what went wrong last when the time is over.
pub async fn check(options: &Check) -> Result<String, Failure> {
    let until = Instant::now() + Duration::from_secs(options.timeout_s);
    // The same request each time: it has one effect, however often it is sent.
    let now = Timestamp::now();
    let token = format!("{:x}", now.as_nanosecond());
    let resource = "paxos-operator-check";
    let write = json!({
        "clientId": resource,
        "requestId": token,
        "timestamp": now.as_millisecond(),
        "operation": "WRITE",
        "resource": resource,
        "data": token,
    });
    let propose = format!("{}/propose?wait=true", options.proposers);
    let read = format!("{}/resource/{resource}", options.readers);
    loop {
        let problem = match attempt(&propose, &read, &write).await {
            Ok(instance) => return Ok(format!("wrote instance {instance} and read it back")),
            Err(problem) => problem,
        };
        if Instant::now() >= until {
            return Err(format!("not within {} s: {problem}", options.timeout_s).into());
        }
        sleep(PAUSE).await;
    }
}

async fn attempt(propose: &str, read: &str, write: &Value) -> Result<Value, Failure> {
    let written = ask(Method::POST, propose, Some(write)).await?;
    if written["status"] != "COMMITTED" {
        return Err(format!("{propose} answers {written}").into());
    }
    let found = ask(Method::GET, read, None).await?;
    if found["data"] != write["data"] {
        return Err(format!("{read} answers {found}").into());
    }
    Ok(written["instanceId"].clone())
}

async fn ask(method: Method, url: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let failed = |error: Failure| -> Failure { format!("{url}: {error}").into() };
    match timeout(REQUEST, exchange(method, url, body)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed("no answer in time".into())),
    }
}

async fn exchange(method: Method, url: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let uri: Uri = url.parse()?;
    let host = uri.host().ok_or("it names no host")?;
    let port = uri.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = connect::exchange((host, port), request, ANSWER_MAX_BYTES).await?;
    let (status, body) = (answer.status(), answer.into_body());
    if status != StatusCode::OK {
        return Err(format!("{status} {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(serde_json::from_slice(&body)?)
}
