//! A client as it should be: one request at a time, each under its own name, sent again under
//! that name to the next proposer until its outcome is known.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use ureq::Agent;

use super::http;

/// How long one try may take: longer than the server's own limit, so that the server speaks first.
const TRY_WITHIN: Duration = Duration::from_secs(7);
const PAUSE: Duration = Duration::from_millis(10);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Committed {
        /// Where.
        instance: u64,
        /// The resource's version.
        version: u64,
    },
    /// `ifVersion` did not hold.
    NotCommitted {
        /// Where that was decided.
        instance: u64,
        /// The version that the resource had.
        version: u64,
    },
    /// Not known in time.
    Unknown,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Proposal<'a> {
    /// `WRITE`, `DELETE` or `READ`.
    pub operation: &'a str,
    /// On what.
    pub resource: &'a str,
    /// What to write.
    pub data: Json,
    /// Compare and set.
    pub if_version: Option<u64>,
}

/// What one try came to.
enum Tried {
    Answered(Json),
    Again,
    /// There is no point in trying again.
    Refused,
}

/// A client.
pub struct Client {
    /// Its `clientId`.
    pub id: String,
    /// How long a proposer may take to know an outcome, at most 5 s.
    pub try_within: Duration,
    /// Answers by status; 0 stands for none at all, although the request may have been taken.
    pub answers: BTreeMap<u16, u64>,
    /// Tries at a place where nothing listened.
    pub refused: u64,
    /// Answers that no client should ever get, with the request's name.
    pub unexpected: Vec<String>,
    /// Whether its requests carry `sequence` beside `requestId`.
    pub sends_sequence: bool,
    agent: Agent,
    targets: Vec<String>,
    target: usize,
    requests: u64,
}

impl Client {
    /// A client of these proposers; the first is the one it starts with.
    pub fn new(id: impl Into<String>, targets: Vec<String>) -> Client {
        Client {
            id: id.into(),
            try_within: Duration::from_secs(5),
            answers: BTreeMap::new(),
            refused: 0,
            unexpected: Vec::new(),
            sends_sequence: false,
            agent: http::agent(TRY_WITHIN),
            targets,
            target: 0,
            requests: 0,
        }
    }

    /// The name of the request that [`Self::propose`] sent last.
    pub fn last_request(&self) -> String {
        format!("r{}", self.requests)
    }

    /// Proposes, again and again until the outcome is known or the time is over.
    pub fn propose(&mut self, proposal: &Proposal<'_>, within: Duration) -> Outcome {
        let answer = self.ask(proposal, within);
        let outcome = answer.and_then(|answer| outcome(&answer));
        outcome.unwrap_or(Outcome::Unknown)
    }

    /// Reads in the log, as persistently: the version, 0 for no such resource, and the data. `None`
    /// when the time is over.
    pub fn read(&mut self, resource: &str, within: Duration) -> Option<(u64, Json)> {
        let proposal = Proposal {
            operation: "READ",
            resource,
            data: Json::Null,
            if_version: None,
        };
        let mut answer = self.ask(&proposal, within)?;
        let version = answer["version"].as_u64()?;
        Some((version, answer["data"].take()))
    }

    /// The answer that says what became of it.
    fn ask(&mut self, proposal: &Proposal<'_>, within: Duration) -> Option<Json> {
        self.requests += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut body = json!({
            "clientId": self.id,
            "requestId": self.last_request(),
            "timestamp": now.map_or(0, |now| now.as_millis() as u64),
            "operation": proposal.operation,
            "resource": proposal.resource,
            "data": proposal.data,
        });
        if let Some(version) = proposal.if_version {
            body["ifVersion"] = version.into();
        }
        if self.sends_sequence {
            body["sequence"] = self.requests.into();
        }
        let body = body.to_string().into_bytes();
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            match self.try_once(&body, left.min(self.try_within)) {
                Tried::Answered(answer) => return Some(answer),
                Tried::Refused => return None,
                Tried::Again => {}
            }
            self.target = (self.target + 1) % self.targets.len();
            thread::sleep(PAUSE);
        }
    }

    /// Writes a value and waits until that is certain.
    ///
    /// # Panics
    /// When it is not within 30 seconds.
    pub fn write(&mut self, resource: &str, data: Json) -> (u64, u64) {
        let proposal = Proposal {
            operation: "WRITE",
            resource,
            data,
            if_version: None,
        };
        match self.propose(&proposal, Duration::from_secs(30)) {
            Outcome::Committed { instance, version } => (instance, version),
            other => panic!(
                "{} to {resource}: {other:?}, {:?} {:?}",
                self.id, self.answers, self.unexpected
            ),
        }
    }

    fn try_once(&mut self, body: &[u8], within: Duration) -> Tried {
        let url = &self.targets[self.target];
        let millis = within.as_millis().max(1);
        let url = format!("{url}/propose?wait=true&timeoutMs={millis}");
        let answer = http::post(&self.agent, &url, body.to_vec());
        if let Err(ureq::Error::Io(error)) = &answer
            && error.kind() == ErrorKind::ConnectionRefused
        {
            self.refused += 1;
            return Tried::Again;
        }
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        *self.answers.entry(status).or_default() += 1;
        let Ok(answer) = answer else {
            return Tried::Again;
        };
        match status {
            200 if outcome(&answer.json()).is_some() => Tried::Answered(answer.json()),
            // Not now; and: unknown, ask again.
            503 | 504 => Tried::Again,
            _ => {
                self.note(&answer);
                Tried::Refused
            }
        }
    }

    fn note(&mut self, answer: &http::Answer) {
        let text = format!(
            "{} {}: {} {}",
            self.id,
            self.last_request(),
            answer.status,
            answer.text()
        );
        self.unexpected.push(text);
    }
}

fn outcome(answer: &Json) -> Option<Outcome> {
    let instance = answer["instanceId"].as_u64()?;
    let version = answer["version"].as_u64()?;
    match answer["status"].as_str()? {
        "COMMITTED" => Some(Outcome::Committed { instance, version }),
        "NOT_COMMITTED" => Some(Outcome::NotCommitted { instance, version }),
        _ => None,
    }
}
