//! Two builds of the node in turn, for the ratio that a change is worth.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proposer::config::Role;
use tests::cluster::Cluster;

use super::client::Protocol;
use super::load::{self, Load};
use super::ours;
use super::system::{Reads, System, Work, Writes};
use super::table::{MANY_KEYS, Spread};
use super::usage::Usage;

const SIZE: usize = 256;
/// That are read.
const KEYS: u64 = 1000;

pub(crate) struct Compare {
    /// The old one and the new one.
    pub(crate) builds: [PathBuf; 2],
    pub(crate) rounds: usize,
    pub(crate) lasting: Duration,
    pub(crate) connections: Vec<usize>,
    pub(crate) batch: u64,
    pub(crate) reads: bool,
}

/// MiB of the largest process of each role, with 100,000 keys of 256 bytes in each build.
pub(crate) fn memory(builds: &[PathBuf]) {
    const ROLES: [Role; 3] = [Role::Proposer, Role::Acceptor, Role::Learner];
    for build in builds {
        let cluster = start(build);
        let leader = ours::address(&cluster, cluster.wait_for_leader());
        let writes = Arc::new(Writes::new(System::Ours, SIZE, 64, 0));
        load::fill(&[leader], Protocol::Http, writes, MANY_KEYS);
        let most = |role: &Role| {
            let pids = ours::pids_of(&cluster, *role);
            format!("{role} {:.1} MiB", Usage::of(&pids).max_mib())
        };
        let roles: Vec<String> = ROLES.iter().map(most).collect();
        println!("{}: {}", build.display(), roles.join(", "));
    }
}

fn start(build: &Path) -> Cluster {
    let mut cluster = Cluster::prepare(5, 5, 2);
    for name in cluster.names() {
        cluster.node_mut(name).program = Some(build.to_owned());
    }
    cluster.start_all();
    cluster
}

/// Operations per second, median latency in microseconds, and microseconds of processor time.
type Figures = [f64; 3];

impl Compare {
    pub(crate) fn run(&self) {
        let mut all: Vec<Vec<[Figures; 2]>> = vec![Vec::new(); self.connections.len()];
        for round in 0..self.rounds {
            // Who comes second finds the machine as the first has left it.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            let mut seen = [Vec::new(), Vec::new()];
            for which in order {
                seen[which] = self.one(&self.builds[which]);
            }
            for (i, of) in all.iter_mut().enumerate() {
                of.push([seen[0][i], seen[1][i]]);
            }
        }
        println!("new ÷ old, median (least to most), and the medians of both");
        for (connections, rounds) in self.connections.iter().zip(&all) {
            for (at, what) in ["per second", "p50", "CPU"].into_iter().enumerate() {
                let ratio = Spread::of(rounds.iter().map(|[old, new]| new[at] / old[at]));
                let of = |which: usize| Spread::of(rounds.iter().map(|r| r[which][at])).median();
                let (old, new) = (of(0), of(1));
                println!("{connections:>5} connections, {what}: {ratio}  {old:.1} → {new:.1}");
            }
        }
    }

    fn one(&self, build: &Path) -> Vec<Figures> {
        let cluster = start(build);
        let leader = ours::address(&cluster, cluster.wait_for_leader());
        let mut figures = Vec::new();
        for (i, connections) in self.connections.iter().enumerate() {
            let first = i as u64 * 100_000_000;
            let writes = Arc::new(Writes::new(System::Ours, SIZE, self.batch, first));
            let (servers, work): (_, Arc<dyn Work>) = match self.reads {
                false => (vec![leader], writes),
                true => {
                    load::fill(&[leader], Protocol::Http, writes, KEYS);
                    let reads = Reads::new(System::Ours, SIZE, first, KEYS);
                    (ours::addresses(&cluster, Role::Learner), Arc::new(reads))
                }
            };
            let seen = load::run(&Load {
                servers,
                protocol: Protocol::Http,
                work,
                connections: *connections,
                lasting: self.lasting,
                rate: None,
                pause: load::PAUSE,
                pids: ours::pids(&cluster),
            });
            for (why, count) in &seen.failures {
                eprintln!("{count} × {why}");
            }
            eprintln!(
                "{} {connections} connections: {:.0}/s, p50 {:.2} ms, slowest {:.1} ms",
                build.display(),
                seen.per_second(),
                seen.percentile(50.0) / 1e3,
                seen.percentile(100.0) / 1e3
            );
            figures.push([seen.per_second(), seen.percentile(50.0), seen.cpu()]);
        }
        figures
    }
}
