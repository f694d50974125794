//! One client: operation after operation, each of a random kind on a random resource, all of them
//! remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use api::env::Role;
use serde_json::Value as Json;
use ureq::Agent;

use super::{Acknowledged, Kind, Load, Seen, Shared};
use crate::cluster::client::{Client, Outcome, Proposal};
use crate::cluster::{Cluster, http};
use crate::history::{Call, Operation, Return, State};
use crate::sim::Rng;

/// How long a client tries to learn what became of a request.
const PATIENCE: Duration = Duration::from_secs(60);
/// And of one that it gives up, at most, in milliseconds: many are answered in that time.
const GIVEN_UP_MS: u64 = 30;
/// How long one node may take for an answer: mostly so short that a client soon goes to another one,
/// and now and then as long as the server's own limit.
const ANSWER_WITHIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

pub(super) struct User<'a> {
    shared: &'a Shared,
    id: u32,
    rng: Rng,
    client: Client,
    /// One for each of [`ANSWER_WITHIN`].
    agents: [Agent; 2],
    learners: Vec<String>,
    stores: Vec<String>,
    /// What was there when it last looked: so that conditions hold now and then.
    versions: BTreeMap<String, u64>,
    /// Data unlike those of any other write.
    next: u64,
    seen: Seen,
}

impl<'a> User<'a> {
    /// A client that begins with another proposer than the one before it.
    pub(super) fn new(shared: &'a Shared, id: u32, urls: Urls) -> User<'a> {
        let seed = shared.load.seed;
        let Urls {
            mut proposers,
            learners,
            stores,
        } = urls;
        let count = proposers.len();
        proposers.rotate_left(id as usize % count);
        let mut client = Client::new(format!("client-{seed}-{id}"), proposers);
        // Both ways of naming requests.
        client.sends_sequence = id.is_multiple_of(2);
        User {
            shared,
            id,
            rng: Rng::new(seed.wrapping_add(u64::from(id) << 32)),
            client,
            agents: ANSWER_WITHIN.map(http::agent),
            learners,
            stores,
            versions: BTreeMap::new(),
            next: u64::from(id) << 32,
            seen: Seen::default(),
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) -> Seen {
        let Load { keys, pause_ms, .. } = self.shared.load;
        while !self.shared.is_over() {
            std::thread::sleep(Duration::from_millis(self.rng.between(0, pause_ms)));
            let key = self.shared.key(self.rng.below(keys));
            match self.choose() {
                Kind::ReadInLog => self.read_in_log(&key),
                kind @ (Kind::ReadAtLearner | Kind::ReadAtStore) => self.read(kind, &key),
                kind => self.change(kind, &key),
            }
        }
        self.seen.answers = self.client.answers;
        self.seen.refused = self.client.refused;
        self.seen.unexpected.extend(self.client.unexpected);
        self.seen
    }

    fn choose(&mut self) -> Kind {
        let rng = &mut self.rng;
        if !rng.chance(self.shared.load.reads) {
            return match rng.below(10) {
                0 => Kind::Delete,
                1..5 => Kind::CompareAndSet,
                _ => Kind::Write,
            };
        }
        match rng.below(10) {
            0 | 1 => Kind::ReadInLog,
            2..6 if !self.stores.is_empty() => Kind::ReadAtStore,
            _ => Kind::ReadAtLearner,
        }
    }

    /// An index into [`ANSWER_WITHIN`].
    fn haste(&mut self) -> usize {
        usize::from(self.rng.chance(200))
    }

    /// How long the client is interested in its next request.
    fn patience(&mut self) -> Duration {
        self.client.try_within = ANSWER_WITHIN[self.haste()];
        match self.rng.chance(self.shared.load.given_up) {
            true => Duration::from_millis(self.rng.between(1, GIVEN_UP_MS)),
            false => PATIENCE,
        }
    }

    fn change(&mut self, kind: Kind, key: &str) {
        self.next += 1;
        let conditional = match kind {
            Kind::Delete => self.rng.chance(500),
            kind => kind == Kind::CompareAndSet,
        };
        let version = self.versions.get(key).copied().unwrap_or(0);
        let if_version = conditional.then_some(version);
        let (operation, call) = match kind {
            Kind::Delete => ("DELETE", Call::Delete { if_version }),
            _ => {
                let data = self.next;
                ("WRITE", Call::Write { data, if_version })
            }
        };
        let proposal = Proposal {
            operation,
            resource: key,
            data: self.next.into(),
            if_version,
        };
        let within = self.patience();
        let called = self.shared.now();
        let outcome = self.client.propose(&proposal, within);
        let answer = match outcome {
            Outcome::Committed { version, .. } => {
                self.seen.commits.push(self.shared.now());
                self.shared.count_commit();
                Some(Return::Committed(version))
            }
            Outcome::NotCommitted { version, .. } => Some(Return::NotCommitted(version)),
            Outcome::Unknown => None,
        };
        self.remember(kind, key, called, call, answer);
        self.seen.acknowledged.push(Acknowledged {
            client: self.client.id.clone(),
            request: self.client.last_request(),
            key: key.to_owned(),
            outcome,
        });
    }

    fn read_in_log(&mut self, key: &str) {
        let within = self.patience();
        let called = self.shared.now();
        let answer = match self.client.read(key, within) {
            None => None,
            Some((0, Json::Null)) => Some(None),
            Some((version, data)) => self.state(key, &version.into(), &data),
        };
        let answer = answer.map(Return::Found);
        self.remember(Kind::ReadInLog, key, called, Call::Read, answer);
    }

    fn read(&mut self, kind: Kind, key: &str) {
        let haste = self.haste();
        let urls = match kind {
            Kind::ReadAtStore => &self.stores,
            _ => &self.learners,
        };
        let url = &urls[self.rng.below(urls.len() as u64) as usize];
        let query = match self.shared.load.local {
            true => "?consistency=local",
            false => "",
        };
        let request = ::http::Request::get(format!("{url}/resource/{key}{query}"));
        let request = request.body(Vec::new()).expect("a good URL");
        let agent = &self.agents[haste];
        let called = self.shared.now();
        let answer = http::send(agent, request).ok();
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        *self.seen.reads.entry(status).or_default() += 1;
        let answer = answer.and_then(|answer| match status {
            200 => {
                let body = answer.json();
                self.state(key, &body["version"], &body["data"])
            }
            404 => Some(None),
            // No leader confirmed it in time.
            503 => None,
            _ => {
                let text = format!("GET {key}: {status} {}", answer.text());
                self.seen.unexpected.push(text);
                None
            }
        });
        self.remember(kind, key, called, Call::Read, answer.map(Return::Found));
    }

    /// The state that was read, if it is one that these clients can have written.
    fn state(&mut self, key: &str, version: &Json, data: &Json) -> Option<State> {
        let state = version.as_u64().zip(data.as_u64());
        if state.is_none() {
            let text = format!("{key} was read with version {version} and data {data}");
            self.seen.unexpected.push(text);
        }
        state.map(Some)
    }

    fn remember(&mut self, kind: Kind, key: &str, called: u64, call: Call, answer: Option<Return>) {
        let returned = answer.map(|answer| (self.shared.now(), answer));
        self.seen.counts.entry(kind).or_default().add(answer);
        let operation = Operation {
            client: self.id,
            called,
            call,
            returned,
        };
        self.seen.history.push(key, operation);
        let version = match (call, answer) {
            (_, None) => return,
            (Call::Delete { .. }, Some(Return::Committed(_))) => 0,
            (_, Some(Return::Committed(version) | Return::NotCommitted(version))) => version,
            (_, Some(Return::Found(state))) => state.map_or(0, |(version, _)| version),
        };
        self.versions.insert(key.to_owned(), version);
    }
}

/// Whom clients talk to.
#[derive(Clone)]
pub(super) struct Urls {
    proposers: Vec<String>,
    learners: Vec<String>,
    stores: Vec<String>,
}

impl Urls {
    pub(super) fn of(cluster: &Cluster) -> Urls {
        Urls {
            proposers: cluster.urls(Role::Proposer),
            learners: cluster.urls(Role::Learner),
            stores: cluster.urls(Role::Store),
        }
    }
}
