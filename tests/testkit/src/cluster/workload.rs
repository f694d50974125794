//! Clients that write, delete and read all the time, and remember everything.

mod seen;
mod user;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use api::env::Role;
use serde_json::json;

use super::Cluster;
use super::client::Client;
use user::{Urls, User};

pub use seen::{Acknowledged, Count, Counts, Kind, Seen};

/// How much load, and of which kinds.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Clients. Each writes, deletes and reads through proposers, and reads at learners and stores.
    pub clients: u32,
    /// This many of a thousand operations read.
    pub reads: u32,
    /// This many of a thousand requests to proposers are given up after some milliseconds, so that
    /// nobody ever knows.
    pub given_up: u32,
    /// Whether reads at learners and stores ask for what is there, however old, instead of a
    /// linearizable answer.
    pub local: bool,
    /// Resources in use at a time.
    pub keys: u64,
    /// The longest pause between two operations of a client, in milliseconds.
    pub pause_ms: u64,
    /// Of all randomness; also makes the clients' names unlike those of another load.
    pub seed: u64,
}

impl Load {
    /// This many clients that write without a pause and are never in doubt for good.
    pub const fn of_writes(clients: u32) -> Load {
        Load {
            clients,
            reads: 0,
            given_up: 0,
            local: false,
            keys: 16,
            pause_ms: 0,
            seed: 1,
        }
    }
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
    /// Starts the clients.
    pub fn start(cluster: &Cluster, load: Load) -> Workload {
        let shared = Arc::new(Shared {
            load,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            round: AtomicU64::new(0),
            committed: AtomicU64::new(0),
        });
        let urls = Urls::of(cluster);
        let threads = (0..load.clients).map(|id| {
            let (shared, urls) = (shared.clone(), urls.clone());
            thread::spawn(move || User::new(&shared, id, urls).run())
        });
        let threads = threads.collect();
        Workload { shared, threads }
    }

    /// From now on clients use fresh resources: the check of a history takes the longer the more
    /// operations one resource has.
    pub fn next_round(&self) {
        self.shared.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes and deletes committed so far.
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
            all.merge(thread.join().expect("a client does not panic"));
        }
        all.commits.sort_unstable();
        all
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn key(&self, number: u64) -> String {
        let round = self.round.load(Ordering::Relaxed);
        format!("load-{}/round-{round}/key-{number}", self.load.seed)
    }

    fn count_commit(&self) {
        self.committed.fetch_add(1, Ordering::Relaxed);
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
