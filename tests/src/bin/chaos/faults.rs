//! What happens to the processes.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use proposer::config::Role;
use rustix::process::Signal;
use tests::cluster::{Cluster, Name, READY_WITHIN};
use tests::sim::Rng;

/// Which faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// kill -9 of one process at a time.
    Kill,
    /// Everything.
    All,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill",
            Kind::All => "all",
        })
    }
}

/// One fault.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// kill -9 of all of these at once.
    Kill(Vec<Name>),
    /// SIGTERM.
    Terminate(Name),
    /// SIGSTOP, and SIGCONT after so long.
    Pause(Vec<Name>, Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[Name]| {
            let names = names.iter().map(|(role, id)| format!("{role}-{id}"));
            names.collect::<Vec<_>>().join(" ")
        };
        match self {
            Fault::Kill(names) => write!(f, "kill {}", list(names)),
            Fault::Terminate(name) => write!(f, "terminate {}", list(&[*name])),
            Fault::Pause(names, time) => write!(f, "pause {} for {time:?}", list(names)),
        }
    }
}

impl Fault {
    /// The next one. Leaders get more than their share: they have the most to lose.
    pub(crate) fn choose(kind: Kind, cluster: &Cluster, rng: &mut Rng) -> Fault {
        let names = cluster.names();
        let one = |rng: &mut Rng| match cluster.leader() {
            Some(leader) if rng.chance(250) => leader,
            _ => names[rng.below(names.len() as u64) as usize],
        };
        let several = |rng: &mut Rng, most: u64| {
            let mut names = names.clone();
            let count = rng.between(2, most) as usize;
            while names.len() > count {
                names.swap_remove(rng.below(names.len() as u64) as usize);
            }
            names
        };
        if kind == Kind::Kill {
            return Fault::Kill(vec![one(rng)]);
        }
        match rng.below(100) {
            0..40 => Fault::Kill(vec![one(rng)]),
            40..58 => Fault::Kill(several(rng, 6)),
            58..62 => Fault::Kill(names),
            62..72 => Fault::Terminate(one(rng)),
            roll => {
                let names = match roll {
                    72..90 => vec![one(rng)],
                    _ => several(rng, 4),
                };
                Fault::Pause(names, Duration::from_millis(rng.between(50, 2500)))
            }
        }
    }

    /// For the summary.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        match self {
            Fault::Kill(names) => [("kill -9", names.len() as u64)].into(),
            Fault::Terminate(_) => [("SIGTERM", 1)].into(),
            Fault::Pause(names, _) => [("SIGSTOP", names.len() as u64)].into(),
        }
    }

    /// Does it, undoes it, and returns how long the processes took to take part again.
    pub(crate) fn inject(&self, cluster: &mut Cluster, rng: &mut Rng) -> Duration {
        let down = Duration::from_millis(rng.between(0, 500));
        match self {
            Fault::Kill(names) => {
                cluster.kill(names);
                thread::sleep(down);
                cluster.restart(names);
                wait_until_back(cluster, names)
            }
            Fault::Terminate(name) => {
                cluster.node(*name).signal(Signal::TERM);
                let status = cluster.node_mut(*name).wait(Duration::from_secs(5));
                assert!(status.success(), "{name:?} ended with {status} on SIGTERM");
                thread::sleep(down);
                cluster.restart(&[*name]);
                wait_until_back(cluster, &[*name])
            }
            Fault::Pause(names, time) => {
                for name in names {
                    cluster.node(*name).signal(Signal::STOP);
                }
                thread::sleep(*time);
                for name in names {
                    cluster.node(*name).signal(Signal::CONT);
                }
                wait_until_back(cluster, names)
            }
        }
    }
}

/// Ready is not enough: each must have got what was chosen since.
fn wait_until_back(cluster: &Cluster, names: &[Name]) -> Duration {
    let started = Instant::now();
    let committed = cluster.wait_for("a proposer knows a leader", READY_WITHIN, || {
        let proposers = cluster.of_role(Role::Proposer).into_iter();
        let ready = proposers.filter(|name| cluster.node(*name).is_ready());
        ready
            .filter_map(|name| cluster.node(name).number("committed_instance_id"))
            .max()
    });
    for name in names {
        let field = match name.0 {
            Role::Acceptor => "last_instance_id",
            Role::Learner => "applied_instance_id",
            _ => "committed_instance_id",
        };
        let what = format!("{name:?} is back and has got past {committed}");
        cluster.wait_for(&what, READY_WITHIN, || {
            let node = cluster.node(*name);
            (node.is_ready() && node.number(field)? > committed).then_some(())
        });
    }
    started.elapsed()
}
