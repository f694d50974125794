//! The network: which node reaches which, and when a message arrives, if it does. Where links have a
//! bandwidth, messages wait for those before them; short ones share it with long ones, as they do on
//! connections of their own.

use super::config::Config;
use super::rng::Rng;

/// No message takes longer, in milliseconds: the process that waited for it has given up.
const SLOWEST: u64 = 5_000;

/// Bytes that a message has beyond its frame: the head of a request.
const HEAD: u64 = 100;
/// A shorter message does not wait behind longer ones.
const SHORT: u64 = 2_000;

/// Links between nodes, which are numbers from 0 on.
#[derive(Debug)]
pub(super) struct Network {
    cut: Vec<Vec<bool>>,
    /// How many times longer than others' each node's messages take, out and in.
    slow: Vec<(u64, u64)>,
    latency: (u64, u64),
    bandwidth: u64,
    /// When each link has carried what it was given, and how many bytes that were.
    busy_until: Vec<Vec<u64>>,
    carried: Vec<Vec<u64>>,
    laggards: u32,
    loss: u32,
    duplicates: u32,
}

impl Network {
    /// Every link works.
    pub(super) fn new(nodes: usize, config: &Config) -> Network {
        Network {
            cut: vec![vec![false; nodes]; nodes],
            slow: vec![(1, 1); nodes],
            latency: config.latency,
            bandwidth: config.bandwidth,
            busy_until: vec![vec![0; nodes]; nodes],
            carried: vec![vec![0; nodes]; nodes],
            laggards: config.laggards,
            loss: config.loss,
            duplicates: config.duplicates,
        }
    }

    /// How long each copy of a message takes; none if it is lost. The second time is how long the
    /// message is on its way in parts: from its first byte's arrival to its last one's.
    pub(super) fn delays(
        &mut self,
        (from, to): (usize, usize),
        bytes: usize,
        now: u64,
        rng: &mut Rng,
    ) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (waits, takes) = self.carry(from, to, bytes as u64 + HEAD, now);
        let copies = match (self.cut[from][to] || rng.chance(self.loss), self.duplicates) {
            (true, _) => 0,
            (false, 0) => 1,
            (false, duplicates) => 1 + usize::from(rng.chance(duplicates)),
        };
        let (low, high) = self.latency;
        let mut delay = || {
            let high = if rng.chance(self.laggards) {
                high * 100
            } else {
                high
            };
            let delay = rng.between(low, high) * self.slow[from].0.max(self.slow[to].1);
            (delay.min(SLOWEST) + waits + takes, takes)
        };
        [delay(), delay()].into_iter().take(copies)
    }

    /// How long a message waits for those before it, and then takes.
    fn carry(&mut self, from: usize, to: usize, bytes: u64, now: u64) -> (u64, u64) {
        self.carried[from][to] += bytes;
        let Some(takes) = bytes.checked_div(self.bandwidth) else {
            return (0, 0);
        };
        let busy = &mut self.busy_until[from][to];
        if bytes <= SHORT {
            // Half of the link is its own while the other half is busy.
            let shared = if *busy > now { 2 * takes } else { takes };
            return (0, shared);
        }
        let waits = busy.saturating_sub(now);
        *busy = now + waits + takes;
        (waits, takes)
    }

    /// How many bytes went from one node to another so far.
    pub(super) fn carried(&self, from: usize, to: usize) -> u64 {
        self.carried[from][to]
    }

    /// Whether what one node says reaches the other, and its answer comes back.
    pub(super) fn connects(&self, from: usize, to: usize) -> bool {
        !self.cut[from][to] && !self.cut[to][from]
    }

    /// Cuts the links from each node that `left` tells apart to each one that it does not, and the
    /// other way round if `both_ways`.
    pub(super) fn split(&mut self, left: &[bool], both_ways: bool) {
        for (from, row) in self.cut.iter_mut().enumerate() {
            for (to, cut) in row.iter_mut().enumerate() {
                *cut |= left[from] != left[to] && (both_ways || left[from]);
            }
        }
    }

    /// Which of a node's links are cut, to each other node.
    pub(super) fn links_from(&self, node: usize) -> &[bool] {
        &self.cut[node]
    }

    /// Cuts and mends them so.
    pub(super) fn set_links_from(&mut self, node: usize, cut: Vec<bool>) {
        self.cut[node] = cut;
    }

    /// Cuts one link in one direction.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cut[from][to] = true;
    }

    /// What a node sends, and what it is sent, takes this many times longer.
    pub(super) fn slow(&mut self, node: usize, out: u64, in_: u64) {
        self.slow[node] = (out, in_);
    }

    /// From now on each link carries this many bytes a millisecond.
    pub(super) fn set_bandwidth(&mut self, bandwidth: u64) {
        self.bandwidth = bandwidth;
    }

    /// From now on a message takes so long.
    pub(super) fn set_latency(&mut self, latency: u64) {
        self.latency = (latency, latency);
    }

    /// Every link works and no node is slow.
    pub(super) fn mend(&mut self) {
        self.cut.iter_mut().for_each(|row| row.fill(false));
        self.slow.fill((1, 1));
    }

    /// From now on nothing is lost, late or doubled.
    pub(super) fn heal(&mut self) {
        self.mend();
        self.latency = (1, 3);
        self.bandwidth = 0;
        (self.loss, self.duplicates, self.laggards) = (0, 0, 0);
    }
}
