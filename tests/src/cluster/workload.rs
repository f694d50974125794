//! Clients that write and read all the time, and remember everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proposer::config::Role;
use serde_json::json;

use super::client::{Client, Outcome, Proposal};
use super::{Cluster, http};
use crate::history::{Call, History, Operation, Return};
use crate::sim::Rng;

/// How long a writer tries to learn what became of a request.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long a read may take: longer than the server's own limit.
const READ_WITHIN: Duration = Duration::from_secs(7);

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Clients that write through the proposers.
    pub writers: u32,
    /// Clients that read through the learners.
    pub readers: u32,
    /// Resources in use at a time.
    pub keys: u64,
    /// The longest pause between two operations of a client, in milliseconds.
    pub pause_ms: u64,
    /// Of all randomness; also makes the clients' names unlike those of another load.
    pub seed: u64,
}

/// An answer that a writer got.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The client.
    pub client: String,
    /// The request.
    pub request: String,
    /// The resource.
    pub key: String,
    /// What it was told.
    pub outcome: Outcome,
}

/// What all clients saw together.
#[derive(Default)]
pub struct Seen {
    /// Operations on each resource.
    pub history: History,
    /// The writers' answers.
    pub acknowledged: Vec<Acknowledged>,
    /// When a write was committed, in nanoseconds since the start.
    pub commits: Vec<u64>,
    /// Writers' answers by status; 0: none.
    pub answers: BTreeMap<u16, u64>,
    /// Writers' tries at a place where nothing listened.
    pub refused: u64,
    /// Readers' answers by status; 0: none.
    pub reads: BTreeMap<u16, u64>,
    /// Writes whose outcome stayed unknown.
    pub unknown: u64,
    /// What should not have happened.
    pub unexpected: Vec<String>,
}

/// The running clients.
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Seen>>,
}

struct Shared {
    load: Load,
    start: Instant,
    stop: AtomicBool,
    round: AtomicU64,
    committed: AtomicU64,
}

impl Workload {
    /// Starts the clients. Each begins with another proposer or learner.
    pub fn start(cluster: &Cluster, load: Load) -> Workload {
        let shared = Arc::new(Shared {
            load,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            round: AtomicU64::new(0),
            committed: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        for client in 0..load.writers {
            let (shared, mut urls) = (shared.clone(), cluster.urls(Role::Proposer));
            let count = urls.len();
            urls.rotate_left(client as usize % count);
            threads.push(thread::spawn(move || shared.write(client, urls)));
        }
        for client in 0..load.readers {
            let (shared, urls) = (shared.clone(), cluster.urls(Role::Learner));
            let client = load.writers + client;
            threads.push(thread::spawn(move || shared.read(client, &urls)));
        }
        Workload { shared, threads }
    }

    /// From now on clients use fresh resources: the check of a history takes the longer the more
    /// operations one resource has.
    pub fn next_round(&self) {
        self.shared.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes committed so far.
    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Nanoseconds since the start, as in [`Seen`].
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Ends the clients, each after the operation that it is at.
    ///
    /// # Panics
    /// When a client did.
    pub fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().expect("a client does not panic");
            for (key, operations) in seen.history.0 {
                all.history.0.entry(key).or_default().extend(operations);
            }
            all.acknowledged.extend(seen.acknowledged);
            all.commits.extend(seen.commits);
            for (status, count) in seen.answers {
                *all.answers.entry(status).or_default() += count;
            }
            all.refused += seen.refused;
            for (status, count) in seen.reads {
                *all.reads.entry(status).or_default() += count;
            }
            all.unknown += seen.unknown;
            all.unexpected.extend(seen.unexpected);
        }
        all.commits.sort_unstable();
        all
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn rng(&self, client: u32) -> Rng {
        Rng::new(self.load.seed.wrapping_add(u64::from(client) << 32))
    }

    fn key(&self, rng: &mut Rng) -> String {
        let round = self.round.load(Ordering::Relaxed);
        format!(
            "load-{}/round-{round}/key-{}",
            self.load.seed,
            rng.below(self.load.keys)
        )
    }

    fn pause(&self, rng: &mut Rng) {
        thread::sleep(Duration::from_millis(rng.between(0, self.load.pause_ms)));
    }

    fn write(&self, id: u32, urls: Vec<String>) -> Seen {
        let mut rng = self.rng(id);
        let mut client = Client::new(format!("writer-{}-{id}", self.load.seed), urls);
        let mut seen = Seen::default();
        let mut number = u64::from(id) << 32;
        // A guess at the version, so that compare-and-set wins now and then.
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        while !self.stop.load(Ordering::Relaxed) {
            self.pause(&mut rng);
            let key = self.key(&mut rng);
            number += 1;
            let delete = rng.chance(20);
            let cas = !delete && rng.chance(200);
            let if_version = cas.then(|| versions.get(&key).copied().unwrap_or(0));
            let proposal = Proposal {
                operation: if delete { "DELETE" } else { "WRITE" },
                resource: &key,
                data: number.into(),
                if_version,
            };
            let called = self.now();
            let outcome = client.propose(&proposal, GIVE_UP);
            let returned = self.now();
            let answer = match outcome {
                Outcome::Committed { version, .. } => {
                    seen.commits.push(returned);
                    self.committed.fetch_add(1, Ordering::Relaxed);
                    versions.insert(key.clone(), version);
                    Some(Return::Committed(version))
                }
                Outcome::NotCommitted { version, .. } => {
                    versions.insert(key.clone(), version);
                    Some(Return::NotCommitted(version))
                }
                Outcome::Unknown => {
                    seen.unknown += 1;
                    None
                }
            };
            let call = match delete {
                true => Call::Delete,
                false => Call::Write {
                    data: number,
                    if_version,
                },
            };
            let operation = Operation {
                client: id,
                called,
                call,
                returned: answer.map(|answer| (returned, answer)),
            };
            seen.history.push(&key, operation);
            seen.acknowledged.push(Acknowledged {
                client: client.id.clone(),
                request: client.last_request(),
                key,
                outcome,
            });
        }
        seen.answers = client.answers;
        seen.refused = client.refused;
        seen.unexpected = client.unexpected;
        seen
    }

    fn read(&self, id: u32, urls: &[String]) -> Seen {
        let mut rng = self.rng(id);
        let agent = http::agent(READ_WITHIN);
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::Relaxed) {
            self.pause(&mut rng);
            let key = self.key(&mut rng);
            let url = &urls[rng.below(urls.len() as u64) as usize];
            let request = ::http::Request::get(format!("{url}/resource/{key}"))
                .body(Vec::new())
                .expect("a good URL");
            let called = self.now();
            let answer = http::send(&agent, request);
            let returned = self.now();
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            *seen.reads.entry(status).or_default() += 1;
            let Ok(answer) = answer else { continue };
            let found = match status {
                200 => {
                    let body = answer.json();
                    body["version"]
                        .as_u64()
                        .zip(body["data"].as_u64())
                        .map(Some)
                }
                404 => Some(None),
                503 => continue,
                _ => None,
            };
            let Some(found) = found else {
                let text = format!("GET {key}: {status} {}", answer.text());
                seen.unexpected.push(text);
                continue;
            };
            let operation = Operation {
                client: id,
                called,
                call: Call::Read,
                returned: Some((returned, Return::Found(found))),
            };
            seen.history.push(&key, operation);
        }
        seen
    }
}

/// Writes through every proposer, and returns the last instance.
///
/// # Panics
/// When one of them does not take it within 30 seconds.
pub fn write_through_each(cluster: &Cluster, name: &str) -> u64 {
    let urls = cluster.urls(Role::Proposer).into_iter().enumerate();
    let writes = urls.map(|(i, url)| {
        let mut client = Client::new(format!("{name}-{i}"), vec![url]);
        client.write(&format!("{name}/{i}"), json!(i)).0
    });
    writes.max().unwrap_or(0)
}
