//! A client as it should be: one request at a time, each under a name of its own, sent again under
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
    /// `WRITE` or `DELETE`.
    pub operation: &'a str,
    /// On what.
    pub resource: &'a str,
    /// What to write.
    pub data: Json,
    /// Compare and set.
    pub if_version: Option<u64>,
}

/// A client.
pub struct Client {
    /// Its `clientId`.
    pub id: String,
    /// Answers by status; 0 stands for none at all, although the request may have been taken.
    pub answers: BTreeMap<u16, u64>,
    /// Tries at a place where nothing listened.
    pub refused: u64,
    /// Answers that no client should ever get, with the request's name.
    pub unexpected: Vec<String>,
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
            answers: BTreeMap::new(),
            refused: 0,
            unexpected: Vec::new(),
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
        let body = body.to_string().into_bytes();
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(outcome) = self.try_once(&body) {
                return outcome;
            }
            self.target = (self.target + 1) % self.targets.len();
            thread::sleep(PAUSE);
        }
        Outcome::Unknown
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

    fn try_once(&mut self, body: &[u8]) -> Option<Outcome> {
        let url = format!("{}/propose?wait=true", self.targets[self.target]);
        let answer = http::post(&self.agent, &url, body.to_vec());
        if let Err(ureq::Error::Io(error)) = &answer
            && error.kind() == ErrorKind::ConnectionRefused
        {
            self.refused += 1;
            return None;
        }
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        *self.answers.entry(status).or_default() += 1;
        let answer = answer.ok()?;
        match status {
            200 => {
                let outcome = outcome(&answer.json());
                if outcome.is_none() {
                    self.note(&answer);
                }
                outcome
            }
            // Not now; and: unknown, ask again.
            503 | 504 => None,
            _ => {
                self.note(&answer);
                Some(Outcome::Unknown)
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
