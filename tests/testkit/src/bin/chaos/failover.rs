//! How long a cluster goes without a commit when it loses its leader.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use rustix::process::Signal;
use testkit::cluster::Cluster;
use testkit::cluster::client::Client;
use testkit::cluster::workload::{Load, Workload};
use testkit::sim::Rng;

/// The pause between two leaders' ends: the cluster is whole again and at rest.
const REST_MS: (u64, u64) = (300, 900);
const KEYS: u64 = 1000;

/// Kills the leader `times` times, then terminates it as often, and prints the gaps.
pub(crate) fn run(times: u64, clients: u32) {
    let mut cluster = Cluster::start(5, 5, 2);
    let mut rng = Rng::new(times);
    let load = Load {
        keys: KEYS,
        pause_ms: 5,
        ..Load::of_writes(clients)
    };
    let workload = Workload::start(&cluster, load);
    let mut gaps = Vec::new();
    for n in 0..times {
        let leader = cluster.wait_for_leader();
        let others = cluster.of_role(Role::Proposer).into_iter();
        let urls = others.filter(|name| *name != leader);
        let urls = urls.map(|name| cluster.node(name).url()).collect();
        let mut probe = Client::new(format!("probe-{n}"), urls);
        probe.write("probe", 0.into());
        let started = Instant::now();
        cluster.node(leader).signal(Signal::KILL);
        // Sent after the kill: an answer that was on its way does not count.
        probe.write("probe", n.into());
        gaps.push(started.elapsed());
        cluster.node_mut(leader).wait(Duration::from_secs(5));
        cluster.restart(&[leader]);
        rest(&cluster, &mut rng);
    }
    print("kill -9", gaps);
    let seen = workload.stop();
    println!(
        "  answers by status, 0 for a broken connection: {:?}; {} connections refused",
        seen.answers, seen.refused
    );
    terminate(&mut cluster, times, clients, &mut rng);
}

fn terminate(cluster: &mut Cluster, times: u64, clients: u32, rng: &mut Rng) {
    let load = Load {
        keys: KEYS,
        ..Load::of_writes(clients)
    };
    let mut gaps = Vec::new();
    let mut answers: BTreeMap<u16, u64> = BTreeMap::new();
    let mut refused = 0;
    let mut slowest_end = Duration::ZERO;
    for n in 0..times {
        let seed = 2 + n;
        let workload = Workload::start(cluster, Load { seed, ..load });
        thread::sleep(Duration::from_millis(200));
        let leader = cluster.wait_for_leader();
        let started = Instant::now();
        let from = workload.now();
        cluster.node(leader).signal(Signal::TERM);
        let status = cluster.node_mut(leader).wait(Duration::from_secs(10));
        assert!(status.success(), "{leader:?} ended with {status}");
        slowest_end = slowest_end.max(started.elapsed());
        thread::sleep(Duration::from_millis(200));
        let to = workload.now();
        let seen = workload.stop();
        refused += seen.refused;
        for (status, count) in seen.answers {
            *answers.entry(status).or_default() += count;
        }
        let during = seen
            .commits
            .iter()
            .copied()
            .filter(|at| (from..to).contains(at));
        let times: Vec<u64> = [from].into_iter().chain(during).chain([to]).collect();
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        gaps.push(Duration::from_nanos(longest.unwrap_or(0)));
        cluster.restart(&[leader]);
        rest(cluster, rng);
    }
    print("SIGTERM", gaps);
    println!(
        "  answers by status, 0 for a broken connection: {answers:?}; {refused} connections refused \
         where the process had been"
    );
    println!("  the slowest end took {slowest_end:.0?}");
}

fn rest(cluster: &Cluster, rng: &mut Rng) {
    cluster.wait_until_ready();
    thread::sleep(Duration::from_millis(rng.between(REST_MS.0, REST_MS.1)));
}

fn print(what: &str, mut gaps: Vec<Duration>) {
    gaps.sort_unstable();
    let at = |quantile: f64| gaps[((gaps.len() - 1) as f64 * quantile).round() as usize];
    println!(
        "{what} of the leader, {} times: next commit after {:.0?} (median), {:.0?} (p99), {:.0?} (most)",
        gaps.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
