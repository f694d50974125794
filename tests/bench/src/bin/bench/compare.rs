//! Two builds of the node in turn, for the ratio that a change is worth. Both clusters run all the time
//! and get short loads in turn: a machine that others use, too, is half as fast at one time as at
//! another, and only what is measured within a second of each other can be compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::env::Role;
use testkit::cluster::Cluster;

use super::client::Protocol;
use super::load::{self, Load};
use super::ours;
use super::system::{Reads, System, Work, Writes};
use super::table::{MANY_KEYS, Spread};
use super::usage::Usage;

const SIZE: usize = 256;
/// Of each turn: connections are opened again.
const WARM_UP: Duration = Duration::from_millis(100);
/// That are read.
const KEYS: u64 = 1000;

pub(crate) struct Compare {
    /// The old one and the new one.
    pub(crate) builds: [PathBuf; 2],
    /// Of new clusters.
    pub(crate) rounds: usize,
    /// Loads on each cluster.
    pub(crate) turns: usize,
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
        for round in 1..=self.rounds {
            let clusters = [0, 1].map(|which: usize| start(&self.builds[which]));
            for (i, connections) in self.connections.iter().enumerate() {
                let first = i as u64 * 100_000_000;
                let loads =
                    [0, 1].map(|which: usize| self.load(&clusters[which], first, *connections));
                // The first of each warms it up.
                for load in &loads {
                    one(&Load {
                        warm_up: load::WARM_UP,
                        ..load.clone()
                    });
                }
                let of: Vec<_> = (0..self.turns).map(|turn| pair(&loads, turn)).collect();
                let [old, new] = [0, 1].map(|which: usize| median(&of, which, 0));
                eprintln!("round {round}, {connections} connections: {old:.0}/s → {new:.0}/s");
                all[i].extend(of);
            }
        }
        println!("new ÷ old, median (least to most), and the medians of both");
        for (connections, pairs) in self.connections.iter().zip(&all) {
            for (at, what) in ["per second", "p50", "CPU"].into_iter().enumerate() {
                let ratio = Spread::of(pairs.iter().map(|[old, new]| new[at] / old[at]));
                let [old, new] = [0, 1].map(|which: usize| median(pairs, which, at));
                println!("{connections:>5} connections, {what}: {ratio}  {old:.1} → {new:.1}");
            }
        }
    }

    fn load(&self, cluster: &Cluster, first: u64, connections: usize) -> Load {
        let leader = ours::address(cluster, cluster.wait_for_leader());
        let writes = Arc::new(Writes::new(System::Ours, SIZE, self.batch, first));
        let (servers, work): (_, Arc<dyn Work>) = match self.reads {
            false => (vec![leader], writes),
            true => {
                load::fill(&[leader], Protocol::Http, writes, KEYS);
                let reads = Reads::new(System::Ours, SIZE, first, KEYS);
                (ours::addresses(cluster, Role::Learner), Arc::new(reads))
            }
        };
        Load {
            servers,
            protocol: Protocol::Http,
            work,
            connections,
            warm_up: WARM_UP,
            lasting: self.lasting,
            rate: None,
            pause: load::PAUSE,
            pids: ours::pids(cluster),
        }
    }
}

/// One short load on each, the old build's figures first. The second one finds the machine as the
/// first has left it, so they take turns at that.
fn pair(loads: &[Load; 2], turn: usize) -> [Figures; 2] {
    let mut seen = [[0.0; 3]; 2];
    for which in if turn.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
    } {
        seen[which] = one(&loads[which]);
    }
    seen
}

fn one(load: &Load) -> Figures {
    let seen = load::run(load);
    for (why, count) in &seen.failures {
        eprintln!("{count} × {why}");
    }
    [seen.per_second(), seen.percentile(50.0), seen.cpu()]
}

fn median(pairs: &[[Figures; 2]], which: usize, at: usize) -> f64 {
    Spread::of(pairs.iter().map(|pair| pair[which][at])).median()
}
