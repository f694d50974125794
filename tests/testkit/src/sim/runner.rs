//! Runs seeds, and says how to run the one that failed again.

use std::fmt;
use std::ops::AddAssign;
use std::panic::{self, AssertUnwindSafe};

use super::{Config, Sim};

/// What a run did, so that one in which nothing happened does not pass for a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Slots chosen.
    pub chosen: u64,
    /// Reads allowed.
    pub reads: u64,
    /// Processes that ended.
    pub crashes: u64,
    /// Starts of an acceptor that found a flipped bit.
    pub damaged: u64,
    /// Starts of an acceptor that found records of a write that had gone wrong.
    pub half_written: u64,
    /// Times an acceptor forgot votes.
    pub trims: u64,
    /// Snapshots of one learner that another took over.
    pub installed: u64,
    /// Messages of another version refused.
    pub refused: u64,
    /// Acceptors that lost their disks.
    pub lost_disks: u64,
    /// Starts that a witness refused.
    pub unmasked: u64,
    /// Outcomes told to clients.
    pub told: u64,
    /// Outcomes that no learner could tell any more.
    pub untold: u64,
    /// What READs found that did not fit an answer, and was fetched.
    pub withheld: u64,
    /// Values that were sent on to a leader.
    pub forwarded: u64,
    /// Values of which clients were told that they have no effect.
    pub without_effect: u64,
    /// Proposers that were asked to take over as the leader left or reached no learner, and that did.
    pub handed_over: u64,
    /// See `handed_over`.
    pub succeeded: u64,
    /// Messages about another value than was applied that a learner refused.
    pub words_refused: u64,
    /// Worlds in which all acceptors were set back.
    pub set_back: u64,
    /// Times that somebody noticed it.
    pub noticed: u64,
    /// Answers given at once beside a write under way.
    pub at_once: u64,
    /// Answers for which an acceptor read its log.
    pub read_from_logs: u64,
    /// Requests refused because too many waited.
    pub busy: u64,
    /// Votes refused by a full disk.
    pub no_room: u64,
    /// Times that all learners lost their disks, and states that learners took over from stores.
    pub learners_lost: u64,
    /// See `learners_lost`.
    pub from_stores: u64,
    /// Values told that could not be read.
    pub unread: u64,
    /// Processes that ended because of their list of acceptors, or did not start.
    pub refused_lists: u64,
}

/// A seed that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its world.
    pub config: Config,
    /// Events before healing.
    pub events: u64,
    /// The rule.
    pub rule: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            config,
            events,
            rule,
        } = self;
        writeln!(f, "seed {} broke a rule: {rule}", config.seed)?;
        writeln!(f, "{config:#?}")?;
        write!(
            f,
            "replay: cargo run -p testkit --bin sim -- --seed {} --events {events}",
            config.seed
        )
    }
}

/// Runs one world for `events` events, heals it, and requires progress. Panics with the broken rule.
pub fn run(config: &Config, events: u64, trace: bool) -> Summary {
    let mut sim = Sim::new(config);
    sim.trace = trace;
    let mut done = 0;
    while done < events && sim.step() {
        done += 1;
        if done == events / 2 {
            sim.copy_all_disks();
        }
    }
    match config.set_back && sim.set_all_back() {
        true => sim.notice(),
        false => sim.heal(),
    }
    sim.summary
}

/// The same, for a seed, with the broken rule as a value. The caller silences the panic hook.
pub fn try_seed(seed: u64, events: u64) -> Result<Summary, Box<Failure>> {
    let config = Config::of(seed);
    panic::catch_unwind(AssertUnwindSafe(|| run(&config, events, false))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let rule = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Box::new(Failure {
            config,
            events,
            rule,
        })
    })
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.events += other.events;
        self.chosen += other.chosen;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.damaged += other.damaged;
        self.half_written += other.half_written;
        self.trims += other.trims;
        self.installed += other.installed;
        self.refused += other.refused;
        self.lost_disks += other.lost_disks;
        self.unmasked += other.unmasked;
        self.told += other.told;
        self.untold += other.untold;
        self.withheld += other.withheld;
        self.forwarded += other.forwarded;
        self.without_effect += other.without_effect;
        self.handed_over += other.handed_over;
        self.succeeded += other.succeeded;
        self.words_refused += other.words_refused;
        self.set_back += other.set_back;
        self.noticed += other.noticed;
        self.at_once += other.at_once;
        self.read_from_logs += other.read_from_logs;
        self.busy += other.busy;
        self.no_room += other.no_room;
        self.unread += other.unread;
        self.learners_lost += other.learners_lost;
        self.from_stores += other.from_stores;
        self.refused_lists += other.refused_lists;
    }
}
