//! What recording metrics costs: how many recordings a committed write takes in a real cluster under
//! load, times what one takes, as a share of the processor time that a write takes there. All in one
//! run, so that a slow machine slows both.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use node::metrics::Metrics;
use paxos::ids::NodeId;
use serde_json::json;
use testkit::cluster::{Cluster, http};

const WRITERS: u64 = 32;
const LASTING: Duration = Duration::from_secs(20);
const ROUNDS: u32 = 1_000_000;

/// The sum of some metrics over all nodes, and of the processor time in seconds.
fn totals(cluster: &Cluster) -> (BTreeMap<bool, f64>, f64) {
    let (mut recordings, mut cpu) = (BTreeMap::new(), 0.0);
    for name in cluster.names() {
        let text = http::get(&format!("{}/metrics", cluster.node(name).url()));
        let text = text.expect("the node answers").text();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let metric = series.split('{').next().unwrap_or_default();
            let value: f64 = value.parse().unwrap_or(0.0);
            if metric == "process_cpu_seconds_total" {
                cpu += value;
            } else if metric.ends_with("_count") || metric.ends_with("_total") {
                // Counted in bytes, by one call for many.
                if metric != "paxos_wal_written_bytes_total" {
                    // By labels that are looked up each time, or not.
                    let labelled = metric.starts_with("paxos_http") || metric.contains("_repl");
                    *recordings.entry(labelled).or_default() += value;
                }
            }
        }
    }
    (recordings, cpu)
}

/// Nanoseconds of one call.
fn cost(mut call: impl FnMut(f64)) -> f64 {
    let started = Instant::now();
    for round in 0..ROUNDS {
        call(black_box(f64::from(round % 100) / 1000.0));
    }
    started.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
}

fn main() {
    let cluster = Cluster::start(5, 5, 2);
    let urls = cluster.urls(Role::Proposer);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (before, after) = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let url = format!("{}/propose?wait=true", urls[writer as usize % urls.len()]);
            let (stop, committed) = (&stop, &committed);
            scope.spawn(move || {
                let agent = http::agent(Duration::from_secs(5));
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let request = json!({
                        "clientId": format!("cost-{writer}"), "requestId": number.to_string(),
                        "timestamp": number, "operation": "WRITE",
                        "resource": format!("cost/{}", number % 100), "data": "x".repeat(256),
                    });
                    let answer = http::post(&agent, &url, request.to_string().into_bytes());
                    if answer.is_ok_and(|answer| answer.status == 200) {
                        committed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(3));
        let before = (totals(&cluster), committed.load(Ordering::Relaxed));
        thread::sleep(LASTING);
        let after = (totals(&cluster), committed.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        (before, after)
    });
    let writes = (after.1 - before.1) as f64;
    let per_write = |labelled: bool| {
        let of = |totals: &BTreeMap<bool, f64>| totals.get(&labelled).copied().unwrap_or(0.0);
        (of(&after.0.0) - of(&before.0.0)) / writes
    };
    let cpu_ns = (after.0.1 - before.0.1) * 1e9 / writes;

    let config = Config::new(Role::Proposer, NodeId::new(1).expect("ids start at 1"));
    let metrics = Metrics::new(&config).expect("named once");
    let plain = cost(|value| metrics.commit_duration.observe(value));
    let labelled = cost(|value| {
        let http = metrics.http.with_label_values(&["POST", "/propose", "200"]);
        http.observe(value);
    });
    let recording = per_write(false) * plain + per_write(true) * labelled;
    println!("{:.0} writes/s", writes / LASTING.as_secs_f64());
    println!(
        "processor time of a write   {:8.1} µs, of all nodes",
        cpu_ns / 1e3
    );
    println!(
        "plain recordings            {:8.1} a write, {plain:.0} ns each",
        per_write(false)
    );
    println!(
        "recordings by label         {:8.1} a write, {labelled:.0} ns each",
        per_write(true)
    );
    println!(
        "cost of recording           {:8.2} %",
        100.0 * recording / cpu_ns
    );
}
