//! The cluster and what is being done to it: faults begin and end, processes that a full disk ended
//! are started again as Kubernetes would, and everything must come back by itself afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use rustix::process::Signal;
use testkit::cluster::{Cluster, Name, Volume};

use crate::plan::{Class, Fault};

/// What the contract gives a process that is asked to end, and then some for the machine.
const END_WITHIN: Duration = Duration::from_secs(8);
/// The pause before a process that ended is started again.
const BACK_OFF: Duration = Duration::from_millis(300);
/// When there is no more point in waiting.
const GIVE_UP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// The pause between two stalls of a slow disk.
const DISK_FREE: Duration = Duration::from_millis(10);

pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    /// Processes that ended because there was no room on their disks.
    pub(crate) ended_on_full_disk: u64,
    /// What must not happen.
    pub(crate) violations: Vec<String>,
    /// Not running, because a fault says so.
    held: BTreeSet<Name>,
    /// May end by themselves until they are back.
    full: BTreeSet<Name>,
    /// When to start what has ended.
    again: BTreeMap<Name, Instant>,
    stalls: Vec<Child>,
    /// Has lost its disk.
    lost: Option<Name>,
}

impl Scene {
    pub(crate) fn new(cluster: Cluster) -> Scene {
        Scene {
            cluster,
            ended_on_full_disk: 0,
            violations: Vec::new(),
            held: BTreeSet::new(),
            full: BTreeSet::new(),
            again: BTreeMap::new(),
            stalls: Vec::new(),
            lost: None,
        }
    }

    /// Lets faults happen for so long, ends them and returns how long it took until all processes
    /// took part again.
    pub(crate) fn play(
        &mut self,
        faults: &[Fault<Name>],
        lasts: Duration,
    ) -> Result<Duration, String> {
        for fault in faults {
            self.begin(fault, lasts);
        }
        if let Some(network) = self.cluster.network() {
            network.apply();
        }
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            self.watch();
            thread::sleep(POLL);
        }
        if let Some(network) = self.cluster.network() {
            network.heal();
            network.apply();
        }
        for mut stall in self.stalls.drain(..) {
            let thawed = stall.wait().is_ok_and(|status| status.success());
            assert!(
                thawed,
                "a file system could not be frozen, or not be thawed"
            );
        }
        for fault in faults {
            self.end(fault);
        }
        self.recover()
    }

    /// An acceptor comes back with an empty disk.
    fn wipe(&mut self, acceptor: Name) {
        self.cluster.kill(&[acceptor]);
        for entry in fs::read_dir(&self.cluster.node(acceptor).config.data_dir)
            .expect("an acceptor has a folder")
            .flatten()
        {
            let (path, is_dir) = (entry.path(), entry.file_type().is_ok_and(|t| t.is_dir()));
            let removed = match is_dir {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
            removed.expect("a folder can be emptied");
        }
        self.cluster.restart(&[acceptor]);
        self.lost = Some(acceptor);
        let what = "the acceptor says that it has lost its disk";
        self.cluster.wait_for(what, GIVE_UP, || {
            let status = self.cluster.node(acceptor).status()?;
            (status["state"] == "amnesia").then_some(())
        });
    }

    /// What the acceptor without its disk does that it must not.
    pub(crate) fn judge_lost(&mut self) {
        let Some(lost) = self.lost else { return };
        let node = self.cluster.node(lost);
        let status = node.status().unwrap_or_default();
        let says_why = status["state"] == "amnesia" && status["refusal"].is_string();
        let voted = status["last_instance_id"] != 0 || status["highest_promised"] != 0;
        if node.is_ready() || !says_why || voted {
            let text = format!("{lost:?} has lost its disk and says {status}");
            self.violations.push(text);
        }
    }

    fn begin(&mut self, fault: &Fault<Name>, lasts: Duration) {
        let (victims, amount) = (&fault.victims, fault.amount.unsigned_abs());
        match fault.class {
            Class::Kill => {
                let running = self.running(victims);
                self.cluster.kill(&running);
                self.held.extend(running);
            }
            Class::Terminate => {
                for name in self.running(victims) {
                    self.cluster.node(name).signal(Signal::TERM);
                    let status = self.cluster.node_mut(name).wait(END_WITHIN);
                    if !status.success() {
                        let text = format!("{name:?} ended with {status} on SIGTERM");
                        self.violations.push(text);
                    }
                    self.held.insert(name);
                }
            }
            Class::Pause => self.signal(victims, Signal::STOP),
            Class::Split | Class::Partial | Class::Mute | Class::Deaf => {
                let cuts = cuts(fault, &self.cluster.names());
                let network = self.cluster.network().expect("nodes have networks");
                cuts.into_iter()
                    .for_each(|(from, to)| network.cut(from, to));
            }
            Class::Lossy | Class::SlowLink => {
                let network = self.cluster.network().expect("nodes have networks");
                for name in victims {
                    match fault.class {
                        Class::Lossy => network.lose(*name, amount),
                        _ => network.slow_down(*name, amount),
                    }
                }
            }
            Class::Clock => {
                for (i, name) in victims.iter().enumerate() {
                    let direction = if i % 2 == 0 { 1 } else { -1 };
                    let clock = self.cluster.clock(*name).expect("nodes have clocks");
                    clock.set(direction * fault.amount);
                }
            }
            Class::FullDisk => {
                self.full.extend(victims);
                for name in victims {
                    self.volume(*name).fill(amount);
                }
            }
            Class::StuckDisk => self.stall(victims, 1, lasts, Duration::ZERO),
            Class::SlowDisk => {
                let frozen = Duration::from_millis(amount);
                let times = lasts.as_millis() / (frozen + DISK_FREE).as_millis() + 1;
                self.stall(victims, times as u64, frozen, DISK_FREE);
            }
            Class::Wipe => victims.iter().for_each(|name| self.wipe(*name)),
        }
    }

    fn end(&mut self, fault: &Fault<Name>) {
        match fault.class {
            Class::Kill | Class::Terminate => {
                let victims = fault.victims.iter().filter(|name| self.held.remove(name));
                self.cluster.restart(&victims.copied().collect::<Vec<_>>());
            }
            Class::Pause => self.signal(&fault.victims, Signal::CONT),
            Class::FullDisk => fault
                .victims
                .iter()
                .for_each(|name| self.volume(*name).free()),
            // The network is healed as a whole, stalls end by themselves, and a clock stays wrong.
            _ => {}
        }
    }

    /// Waits until every process is ready and has got past what was committed when the faults ended.
    fn recover(&mut self) -> Result<Duration, String> {
        let started = Instant::now();
        let mut committed = None;
        let mut missing = self.cluster.names();
        missing.retain(|name| self.lost != Some(*name));
        while !missing.is_empty() {
            self.watch();
            committed = committed.or_else(|| committed_anywhere(&self.cluster));
            if let Some(committed) = committed {
                missing.retain(|name| !has_passed(&self.cluster, *name, committed));
            }
            if started.elapsed() > GIVE_UP {
                return Err(format!(
                    "not within {GIVE_UP:?}: {missing:?} get past {committed:?}\n{}",
                    self.cluster.tails()
                ));
            }
            thread::sleep(POLL);
        }
        self.full.clear();
        Ok(started.elapsed())
    }

    /// Starts what may have ended again, and notes what must not have.
    fn watch(&mut self) {
        for name in self.cluster.names() {
            if self.held.contains(&name) || self.cluster.node_mut(name).is_running() {
                continue;
            }
            match self.again.get(&name) {
                None => {
                    let status = self.cluster.node_mut(name).wait(Duration::ZERO);
                    if self.full.contains(&name) && status.code() == Some(1) {
                        self.ended_on_full_disk += 1;
                    } else {
                        let tail = self.cluster.node(name).tail();
                        let text = format!("{name:?} ended by itself with {status}:\n{tail}");
                        self.violations.push(text);
                    }
                    self.again.insert(name, Instant::now() + BACK_OFF);
                }
                Some(at) if *at <= Instant::now() => {
                    self.again.remove(&name);
                    self.cluster.restart(&[name]);
                }
                Some(_) => {}
            }
        }
    }

    fn running(&mut self, names: &[Name]) -> Vec<Name> {
        let mut running = names.to_vec();
        running.retain(|name| self.cluster.node_mut(*name).is_running());
        running
    }

    fn signal(&mut self, names: &[Name], signal: Signal) {
        for name in self.running(names) {
            self.cluster.node(name).signal(signal);
        }
    }

    fn stall(&mut self, names: &[Name], times: u64, frozen: Duration, free: Duration) {
        for name in names {
            let stall = self.volume(*name).stall(times, frozen, free);
            self.stalls.push(stall.expect("a shell starts"));
        }
    }

    fn volume(&self, name: Name) -> &Volume {
        self.cluster.volume(name).expect("nodes have volumes")
    }
}

/// From whom to whom nothing passes any more.
fn cuts(fault: &Fault<Name>, names: &[Name]) -> Vec<(Name, Name)> {
    let victims = &fault.victims;
    let both = |(a, b): (Name, Name)| [(a, b), (b, a)];
    let others = names.iter().filter(|name| !victims.contains(name));
    let across = others.flat_map(|other| victims.iter().map(|victim| (*victim, *other)));
    match fault.class {
        Class::Partial => fault.pairs.iter().copied().flat_map(both).collect(),
        Class::Mute => across.collect(),
        Class::Deaf => across.map(|(victim, other)| (other, victim)).collect(),
        _ => across.flat_map(both).collect(),
    }
}

fn committed_anywhere(cluster: &Cluster) -> Option<u64> {
    let proposers = cluster.of_role(Role::Proposer).into_iter();
    let ready = proposers.filter(|name| cluster.node(*name).is_ready());
    ready
        .filter_map(|name| cluster.node(name).number("committed_instance_id"))
        .max()
}

fn has_passed(cluster: &Cluster, name: Name, committed: u64) -> bool {
    let field = match name.0 {
        Role::Acceptor => "last_instance_id",
        Role::Learner | Role::Store => "applied_instance_id",
        Role::Proposer => "committed_instance_id",
    };
    let node = cluster.node(name);
    node.is_ready() && node.number(field) > Some(committed)
}
