//! Load: closed, where each connection waits for its answer before it asks again, and open, where
//! requests are due at a steady rate and a late one counts from when it was due (Tene's "coordinated
//! omission").

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep_until};

use super::client::{Connection, Protocol};
use super::system::Work;
use super::usage::Usage;

/// Before anything is measured, commonly.
pub(crate) const WARM_UP: Duration = Duration::from_millis(700);
/// After a failure, commonly.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// What is asked of whom.
#[derive(Clone)]
pub(crate) struct Load {
    /// Connection i goes to the i-th of these, and round again.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) work: Arc<dyn Work>,
    pub(crate) connections: usize,
    /// Before anything is measured.
    pub(crate) warm_up: Duration,
    pub(crate) lasting: Duration,
    /// Requests per second of all connections together; `None`: as fast as answers come.
    pub(crate) rate: Option<f64>,
    /// How long a connection waits after a failure.
    pub(crate) pause: Duration,
    /// The processes whose use is measured.
    pub(crate) pids: Vec<u32>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Operations acknowledged: of a request that carries many, each counts.
    pub(crate) done: u64,
    /// Of requests, in microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) failures: BTreeMap<String, u64>,
    /// How long answers took that acknowledge nothing, in microseconds.
    pub(crate) refused: Histogram<u64>,
    pub(crate) seconds: f64,
    /// Of the servers meanwhile.
    pub(crate) usage: Usage,
}

impl Seen {
    pub(crate) fn per_second(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    /// Microseconds.
    pub(crate) fn percentile(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64
    }

    /// Processor time of the servers for one operation, in microseconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.done.max(1) as f64
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds that can be")
}

/// One thread: the client must not crowd out the servers.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs it on its own thread.
pub(crate) fn run(load: &Load) -> Seen {
    let load = load.clone();
    let run = move || runtime().block_on(drive(load));
    thread::spawn(run).join().expect("the load runs to its end")
}

struct Shared {
    load: Load,
    next: AtomicU64,
    from: Instant,
    until: Instant,
    seen: Mutex<Seen>,
}

async fn drive(load: Load) -> Seen {
    let connections = load.connections;
    let start = Instant::now();
    let shared = Arc::new(Shared {
        next: AtomicU64::new(0),
        from: start + load.warm_up,
        until: start + load.warm_up + load.lasting,
        seen: Mutex::new(Seen {
            done: 0,
            latency: histogram(),
            failures: BTreeMap::new(),
            refused: histogram(),
            seconds: load.lasting.as_secs_f64(),
            usage: Usage::default(),
        }),
        load,
    });
    let tasks: Vec<_> = (0..connections)
        .map(|number| tokio::spawn(connection(shared.clone(), number)))
        .collect();
    sleep_until(shared.from).await;
    let before = Usage::of(&shared.load.pids);
    sleep_until(shared.until).await;
    let usage = Usage::of(&shared.load.pids).since(&before);
    // What hangs is cut: it counts as neither done nor failed.
    let grace = Instant::now() + Duration::from_secs(2);
    for task in tasks {
        let abort = task.abort_handle();
        if tokio::time::timeout_at(grace, task).await.is_err() {
            abort.abort();
        }
    }
    let mut seen = shared.seen.lock().expect("no panic inside").clone();
    seen.usage = usage;
    seen
}

async fn connection(shared: Arc<Shared>, number: usize) {
    let Shared { load, .. } = &*shared;
    let server = load.servers[number % load.servers.len()];
    let mut open = None;
    // What was refused is asked again as it was, as every client does.
    let mut again = None;
    loop {
        let turn = shared.next.fetch_add(1, Ordering::Relaxed);
        let due = match load.rate {
            Some(rate) => shared.from - load.warm_up + Duration::from_secs_f64(turn as f64 / rate),
            None => Instant::now(),
        };
        if due >= shared.until || Instant::now() >= shared.until {
            return;
        }
        if load.rate.is_some() {
            sleep_until(due).await;
        }
        let call = again.take().unwrap_or_else(|| load.work.call());
        let result = async {
            let connection: &mut Connection = match &mut open {
                Some(connection) => connection,
                none => none.insert(Connection::open(server, load.protocol).await?),
            };
            connection.call(&call).await
        };
        let result = result.await;
        let now = Instant::now();
        let counts = now >= shared.from && now < shared.until;
        let failed = {
            let seen = &mut *shared.seen.lock().expect("no panic inside");
            let why = match result {
                Ok(body) => load.work.check(&body).err(),
                Err(error) => {
                    if !matches!(error, super::client::Failure::Refused(..)) {
                        open = None;
                    }
                    Some(error.to_string())
                }
            };
            match &why {
                None if counts => {
                    seen.done += load.work.operations();
                    let micros = now.saturating_duration_since(due).as_micros();
                    seen.latency.saturating_record((micros as u64).max(1));
                }
                Some(why) if counts => {
                    *seen.failures.entry(why.clone()).or_default() += 1;
                    let micros = now.saturating_duration_since(due).as_micros();
                    seen.refused.saturating_record((micros as u64).max(1));
                }
                _ => {}
            }
            why.is_some()
        };
        if failed {
            again = Some(call);
            if load.rate.is_none() {
                tokio::time::sleep(load.pause).await;
            }
        }
    }
}

/// Writes `keys` keys, each once, and waits until all are acknowledged.
pub(crate) fn fill(servers: &[SocketAddr], protocol: Protocol, work: Arc<dyn Work>, keys: u64) {
    const CONNECTIONS: u64 = 64;
    let requests = keys.div_ceil(work.operations());
    let fill = |server: SocketAddr, share: u64, work: Arc<dyn Work>| async move {
        let mut connection = Connection::open(server, protocol)
            .await
            .expect("it listens");
        for _ in 0..share {
            let answer = connection.call(&work.call()).await.expect("it is written");
            work.check(&answer).expect("it is written");
        }
    };
    runtime().block_on(async {
        let shares = (0..CONNECTIONS).map(|i| {
            let share = requests / CONNECTIONS + u64::from(i < requests % CONNECTIONS);
            tokio::spawn(fill(
                servers[i as usize % servers.len()],
                share,
                work.clone(),
            ))
        });
        for filled in shares.collect::<Vec<_>>() {
            filled.await.expect("all is written");
        }
    });
}
