//! The network: which node reaches which, and when a message arrives, if it does.

use super::config::Config;
use super::rng::Rng;

/// No message takes longer, in milliseconds: whoever waited for it has given up.
const SLOWEST: u64 = 5_000;

/// Links between nodes, which are numbers from 0 on.
#[derive(Debug)]
pub(super) struct Network {
    cut: Vec<Vec<bool>>,
    /// How many times longer than others' each node's messages take, out and in.
    slow: Vec<(u64, u64)>,
    latency: (u64, u64),
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
            laggards: config.laggards,
            loss: config.loss,
            duplicates: config.duplicates,
        }
    }

    /// How long each copy of a message takes; none if it is lost.
    pub(super) fn delays(
        &self,
        from: usize,
        to: usize,
        rng: &mut Rng,
    ) -> impl Iterator<Item = u64> + use<> {
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
            delay.min(SLOWEST)
        };
        [delay(), delay()].into_iter().take(copies)
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

    /// What a node sends, and what it is sent, takes so many times longer.
    pub(super) fn slow(&mut self, node: usize, out: u64, in_: u64) {
        self.slow[node] = (out, in_);
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
        (self.loss, self.duplicates, self.laggards) = (0, 0, 0);
    }
}
