//! Whether a leader stays one: clients write as fast as they can, and nothing fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use testkit::cluster::client::{Client, Outcome, Proposal};
use testkit::cluster::{Cluster, http};

/// The metric that counts them.
const LEADER_CHANGES: &str = "paxos_leader_changes_total{";
const KEYS: u64 = 1000;
const DATA_BYTES: usize = 256;
/// How long a client tries before its write counts as failed.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What one client saw.
#[derive(Default)]
struct Seen {
    commits: u64,
    failed: u64,
    slowest: Duration,
}

/// Whether the leader at the end is the one at the start, in the same term.
pub(crate) fn run(time: Duration, writers: u32) -> bool {
    let cluster = Cluster::start(5, 5, 2);
    cluster.wait_for_leader();
    let (terms, changes) = (terms(&cluster), leader_changes(&cluster));
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let seen: Vec<Seen> = thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|id| {
                let (cluster, stop) = (&cluster, &stop);
                scope.spawn(move || write(cluster, id, stop))
            })
            .collect();
        while started.elapsed() < time {
            thread::sleep(Duration::from_secs(1).min(time));
        }
        stop.store(true, Ordering::Relaxed);
        let join = |writer: thread::ScopedJoinHandle<'_, Seen>| writer.join();
        let seen = writers.into_iter().map(join);
        seen.collect::<Result<_, _>>()
            .expect("a writer does not panic")
    });
    let took = started.elapsed();
    let commits: u64 = seen.iter().map(|seen| seen.commits).sum();
    let failed: u64 = seen.iter().map(|seen| seen.failed).sum();
    let slowest = seen.iter().map(|seen| seen.slowest).max();
    println!(
        "{writers} writers for {took:.0?}: {commits} commits, {:.0} a second, the slowest took {:.0?}; {failed} failed",
        commits as f64 / took.as_secs_f64(),
        slowest.unwrap_or_default()
    );
    let (terms_after, changes_after) = (self::terms(&cluster), leader_changes(&cluster));
    println!("terms, proposer by proposer: {terms:?}, then {terms_after:?}");
    println!("leader changes seen: {changes:?}, then {changes_after:?}");
    let calm = terms == terms_after && changes == changes_after && failed == 0 && commits > 0;
    println!(
        "{}",
        if calm {
            "the leader stayed"
        } else {
            "VIOLATION: the leader changed, or a write failed"
        }
    );
    calm
}

fn write(cluster: &Cluster, id: u32, stop: &AtomicBool) -> Seen {
    let mut urls = cluster.urls(Role::Proposer);
    let count = urls.len();
    urls.rotate_left(id as usize % count);
    let mut client = Client::new(format!("calm-{id}"), urls);
    let mut seen = Seen::default();
    let data = "x".repeat(DATA_BYTES);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let resource = format!("key-{}", (u64::from(id) * 131 + n) % KEYS);
        let proposal = Proposal {
            operation: "WRITE",
            resource: &resource,
            data: data.clone().into(),
            if_version: None,
        };
        let started = Instant::now();
        match client.propose(&proposal, GIVE_UP) {
            Outcome::Committed { .. } => seen.commits += 1,
            _ => seen.failed += 1,
        }
        seen.slowest = seen.slowest.max(started.elapsed());
    }
    seen
}

fn terms(cluster: &Cluster) -> Vec<Option<u64>> {
    let names = cluster.of_role(Role::Proposer).into_iter();
    names
        .map(|name| cluster.node(name).number("term"))
        .collect()
}

/// The counter of each proposer.
fn leader_changes(cluster: &Cluster) -> Vec<Option<u64>> {
    let count = |url: String| {
        let answer = http::get(&format!("{url}/metrics")).ok()?;
        let text = answer.text();
        let line = text.lines().find(|line| line.starts_with(LEADER_CHANGES))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    cluster
        .urls(Role::Proposer)
        .into_iter()
        .map(count)
        .collect()
}
