//! Plain HTTP/1.1 over kept connections.

use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, Request};
use serde_json::Value as Json;
use ureq::Agent;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {self:?}"))
    }

    /// The body as text, whatever it is.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// Separate connections, each call within `timeout`.
pub fn agent(timeout: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(timeout))
        .proxy(None)
        .build()
        .into()
}

/// Sends a request and reads the whole answer. An error means that there was none: the request may
/// have been acted upon.
pub fn send(agent: &Agent, request: Request<Vec<u8>>) -> Result<Answer, ureq::Error> {
    let (head, mut body) = agent.run(request)?.into_parts();
    let body = body.with_config().limit(1 << 32).read_to_vec()?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}

/// `POST` with a body.
pub fn post(agent: &Agent, url: &str, body: Vec<u8>) -> Result<Answer, ureq::Error> {
    send(agent, Request::post(url).body(body).expect("a good URL"))
}

/// `GET`, on connections that all callers share.
pub fn get(url: &str) -> Result<Answer, ureq::Error> {
    static AGENT: OnceLock<Agent> = OnceLock::new();
    let agent = AGENT.get_or_init(|| agent(Duration::from_secs(10)));
    let (head, mut body) = agent.get(url).call()?.into_parts();
    let body = body.with_config().limit(1 << 32).read_to_vec()?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}
