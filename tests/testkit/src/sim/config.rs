//! What one seed's world looks like: sizes, speeds, and which faults strike how often. Each seed
//! draws its own ("swarm testing"): a fault that is absent leaves room for others to go deep.

use paxos::acceptor::{AnswerLimits, TrimPolicy};
use paxos::proposer::Settings;
use paxos::recent::{ANSWER_BYTES, Bounds, RECALLED_BYTES};
use paxos::stamp::Terms;
use roles::acceptor::Bounds as AcceptorBounds;

use super::rng::Rng;
use super::wire::Dialect;

/// Changes whenever the same seed would mean another run; noted beside each seed of the corpus.
pub const VERSION: u32 = 28;

/// One simulated world. All times are milliseconds of simulated time.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything else comes from.
    pub seed: u64,
    /// How many proposers.
    pub proposers: u8,
    /// Whether another process uses the first proposer's identity.
    pub twin: bool,
    /// How many acceptors.
    pub acceptors: u8,
    /// How many learners.
    pub learners: u8,
    /// The proposers' limits, far smaller than in production.
    pub settings: Settings,
    /// How many of a thousand times a proposer's tick comes with word that an acceptor is late.
    pub unanswered: u32,
    /// The acceptors' pages.
    pub answers: AnswerLimits,
    /// When the acceptors forget.
    pub trimming: TrimPolicy,
    /// How much waits at an acceptor, and how much shares a write.
    pub bounds: AcceptorBounds,
    /// Bytes of values that acceptors keep in memory once they are on disk.
    pub held_bytes: usize,
    /// Whether a learner is away until all is healed.
    pub learner_away: bool,
    /// The learners' window.
    pub ahead_slots: u64,
    /// Bytes in it.
    pub ahead_bytes: usize,
    /// Bytes in a record of a learner's log.
    pub record_bytes: usize,
    /// What learners remember of what they applied.
    pub recent: Bounds,
    /// Bytes of outcomes in one answer, and in one of those that were withheld.
    pub outcome_bytes: (usize, usize),
    /// Of so many values one is a READ; 0: none.
    pub reads_in_log: u64,
    /// How long a client says nothing new, or all of them work, in milliseconds; 0: none ever rests.
    pub rests: u64,
    /// The round all proposers have claimed before the start.
    pub first_round: u64,
    /// How many of a thousand programs speak another version of the encoding.
    pub mixed: u32,
    /// Which.
    pub other_dialect: Dialect,
    /// A message takes this long, at least and commonly at most.
    pub latency: (u64, u64),
    /// Each link carries so many bytes a millisecond each way; 0 for any number.
    pub bandwidth: u64,
    /// How many of a thousand messages take up to a hundred times as long.
    pub laggards: u32,
    /// How many of a thousand messages are lost.
    pub loss: u32,
    /// How many of a thousand messages arrive twice.
    pub duplicates: u32,
    /// A write to an acceptor's disk takes this long.
    pub sync: (u64, u64),
    /// The acceptors' logs begin a new file after so many bytes.
    pub segment_bytes: u64,
    /// How many of a thousand acceptors find a bit of their disk flipped when they start.
    pub flips: u32,
    /// Between two proposals.
    pub propose_every: u64,
    /// Values in one proposal, at most.
    pub burst: u64,
    /// How many of a thousand values are sent again by their client.
    pub retries: u32,
    /// How many of a thousand proposals are floods of other clients, and of how many such clients.
    pub floods: u32,
    /// Their number.
    pub flooders: u64,
    /// What leaders settle: how long requests are remembered, and in how many bytes; the quota.
    pub terms: Terms,
    /// A value's length in bytes, at most.
    pub value_bytes: u64,
    /// Slots given out and not applied, at most.
    pub open_slots: u64,
    /// Between two reads.
    pub read_every: u64,
    /// Bytes that learners apply before they make them durable at once, and not a little later.
    pub sync_bytes: usize,
    /// Whether all begin with a program that does not write down how many founded the cluster.
    pub earlier: bool,
    /// Bytes of log between two snapshots of a learner, and at least so many times a snapshot's size.
    pub snapshot_every_bytes: u64,
    /// See `snapshot_every_bytes`.
    pub snapshot_multiple: u64,
    /// Bytes of a snapshot that one answer to another learner carries.
    pub piece_bytes: u64,
    /// Between two faults.
    pub fault_every: u64,
    /// How long a process stays down or stopped, at most.
    pub down: u64,
    /// How many of a thousand restarted proposers have lost their claim.
    pub lost_claims: u32,
    /// How often each fault is chosen among the others.
    pub faults: Vec<(Fault, u64)>,
    /// How many of a thousand of a learner's ticks come with word of another value than it has applied,
    /// or of one that cannot be read.
    pub false_words: u32,
    /// Whether learners compare samples of what they applied with the acceptors' votes.
    pub samples: bool,
    /// Whether at the end all acceptors are set back to what they had in the middle.
    pub set_back: bool,
    /// Whether disks that take longer than an election timeout stay so when all else is healed.
    pub slow_for_good: bool,
    /// How many stores follow the learners.
    pub stores: u8,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process ends and starts again later.
    Crash,
    /// All processes of a role, or all of the cluster's, end at the same moment.
    Blackout,
    /// A process ends during its next write, of which a part may be on disk.
    TornWrite,
    /// The next write fails; the process ends.
    FailedSync,
    /// A process stops and later goes on, unaware.
    Pause,
    /// The network splits in two.
    Split,
    /// One half hears the other, but not the other way round.
    OneWay,
    /// Some links break in one direction.
    Links,
    /// Every link works again.
    Mend,
    /// One node's messages take very long.
    Slow,
    /// A clock jumps: a timer fires too early.
    Jump,
    /// A proposer is told to take over.
    TakeOver,
    /// A proposer's process is asked to leave, mostly the leader's.
    HandOver,
    /// The leader loses all its links to learners.
    CutFromLearners,
    /// A proposer or a store leaves the lists of addresses, or all that left come back.
    Relist,
    /// The leader hears everything late while another one takes over.
    Overtake,
    /// A leader ends when its newest values have reached some acceptors and not others.
    HalfProposed,
    /// A process starts again with the program of another version, or of the same.
    Upgrade,
    /// A process starts again with a list of acceptors of another length, or all of them do.
    OtherList,
    /// A learner starts again with an empty disk.
    WipeLearner,
    /// All learners start again with empty disks, and a store has everything.
    LoseLearners,
    /// A copy of an acceptor's disk is made.
    CopyDisk,
    /// An acceptor starts again with an empty disk.
    WipeDisk,
    /// An acceptor starts again with an older copy of its disk.
    SetBackDisk,
    /// An acceptor starts again with the disk of another one.
    ExchangeDisk,
    /// An acceptor's disk has no room for new votes, or for none at all.
    FillDisk,
    /// Every disk has room again.
    EnlargeDisks,
}

const FAULTS: [Fault; 27] = [
    Fault::Crash,
    Fault::Blackout,
    Fault::TornWrite,
    Fault::FailedSync,
    Fault::Pause,
    Fault::Split,
    Fault::OneWay,
    Fault::Links,
    Fault::Mend,
    Fault::Slow,
    Fault::Jump,
    Fault::TakeOver,
    Fault::HandOver,
    Fault::CutFromLearners,
    Fault::Relist,
    Fault::Overtake,
    Fault::HalfProposed,
    Fault::Upgrade,
    Fault::OtherList,
    Fault::WipeLearner,
    Fault::LoseLearners,
    Fault::CopyDisk,
    Fault::WipeDisk,
    Fault::SetBackDisk,
    Fault::ExchangeDisk,
    Fault::FillDisk,
    Fault::EnlargeDisks,
];

impl Config {
    /// The world of a seed.
    pub fn of(seed: u64) -> Config {
        let mut rng = Rng::new(seed ^ 0x636f_6e66_6967);
        let r = &mut rng;
        let maybe = |r: &mut Rng, most: u64| {
            if r.chance(500) {
                r.below(most) as u32
            } else {
                0
            }
        };
        let fast = r.between(1, 3);
        let proposers = pick(r, &[1, 2, 2, 3, 3, 3, 5]);
        let settings = Settings {
            batches_in_flight: r.between(1, 4) as usize,
            batch_values: r.between(1, 8) as usize,
            batch_bytes: r.between(16, 512) as usize,
            patience_ticks: pick(r, &[3, 8, 60]),
            thrifty: r.chance(700),
        };
        let recent = Bounds {
            entries: pick(r, &[1, 8, 65_536]),
            bytes: pick(r, &[100, 2_000, 2 << 20]),
            found_bytes: pick(r, &[0, 500, 8 << 20]),
        };
        let answers = AnswerLimits {
            bytes: pick(r, &[64, 512, 2 << 20]),
            promise_bytes: pick(r, &[64, 512, 2 << 20]),
            votes: pick(r, &[1, 3, 16_384]),
        };
        let config = Config {
            seed,
            proposers,
            twin: r.chance(150),
            acceptors: pick(r, &[1, 2, 3, 3, 3, 3, 4, 5, 5]),
            learners: pick(r, &[1, 2, 3, 3, 3, 4]),
            settings,
            unanswered: pick(r, &[0, 100, 900]),
            answers,
            trimming: TrimPolicy {
                tail: pick(r, &[0, 0, 4, 50, 16_384]),
                stride: pick(r, &[1, 8, 40]),
                tail_bytes: pick(r, &[0, 500, 10_000, 64 << 20]),
                stride_bytes: pick(r, &[1, 1_000, 16 << 20]),
            },
            bounds: AcceptorBounds::default(),
            held_bytes: pick(r, &[0, 0, 1_000, 10_000, 32 << 20]),
            learner_away: r.chance(100),
            ahead_slots: pick(r, &[1, 8, 32_768]),
            ahead_bytes: pick(r, &[1, 500, 32 << 20]),
            record_bytes: pick(r, &[1, 200, 1 << 20]),
            recent,
            outcome_bytes: pick(
                r,
                &[
                    (1_000, 50),
                    (1_000, 50),
                    (2_000, 400),
                    (ANSWER_BYTES, RECALLED_BYTES),
                ],
            ),
            reads_in_log: pick(r, &[0, 2, 3, 10]),
            first_round: pick(r, &[0, 0, 0, 1 << 20, (1 << 32) - (1 << 24)]),
            mixed: pick(r, &[0, 0, 0, 0, 300, 500]),
            other_dialect: pick(r, &[Dialect::Older, Dialect::Newer, Dialect::Longer]),
            latency: (fast, fast + pick(r, &[0, 2, 10, 40])),
            bandwidth: pick(r, &[0, 0, 0, 200, 20]),
            laggards: pick(r, &[0, 0, 20, 200]),
            loss: maybe(r, 200),
            duplicates: maybe(r, 200),
            // At times longer than an election timeout.
            sync: pick(r, &[(0, 0), (0, 1), (0, 5), (0, 30), (0, 30), (500, 1_500)]),
            segment_bytes: pick(r, &[100, 2_000, 1 << 20]),
            flips: maybe(r, 1000),
            propose_every: r.between(5, 60),
            burst: r.between(1, 12),
            retries: maybe(r, 300),
            floods: pick(r, &[0, 0, 100, 500]),
            flooders: pick(r, &[1, 3, 40]),
            terms: Terms {
                retry_window_ms: pick(r, &[1000, 1000, 5000, 60_000]),
                retry_memory: pick(r, &[16 << 10, 32 << 10, 1 << 20, 128 << 20]),
                quota: pick(r, &[600, 1500, u64::MAX, u64::MAX]),
            },
            value_bytes: pick(r, &[0, 40, 300, 300, 300, 300, 300, 1 << 20]),
            open_slots: r.between(8, 128),
            read_every: r.between(5, 100),
            sync_bytes: pick(r, &[1, 500, 1 << 20]),
            earlier: r.chance(300),
            snapshot_every_bytes: pick(r, &[1, 1_000, 6_000, 40_000]),
            snapshot_multiple: 0,
            piece_bytes: pick(r, &[100, 2_000, 1 << 20]),
            fault_every: pick(r, &[30, 100, 300, 1000]),
            down: pick(r, &[100, 600, 3000]),
            lost_claims: maybe(r, 1000),
            faults: faults(r),
            false_words: pick(r, &[0, 0, 20, 200]),
            samples: true,
            set_back: r.chance(150),
            slow_for_good: r.chance(300),
            stores: pick(r, &[0, 0, 1, 2]),
            rests: 0,
        };
        // Drawn from what is there already, so that the rest of a seed's world stays as it was.
        let rests = [0, 0, 2_000, 10_000][(config.propose_every + config.burst) as usize % 4];
        // Disks that stay slow need large groups to keep up.
        let bounds = match config.slow_for_good {
            true => AcceptorBounds::default(),
            false => few_at_once((config.propose_every + config.read_every) as usize),
        };
        let snapshot_multiple = [0, 0, 2][config.open_slots as usize % 3];
        let config = Config {
            rests,
            bounds,
            snapshot_multiple,
            ..config
        };
        // Who had all when the acceptors were set back is for the learners to say there.
        match config.set_back {
            true => Config {
                stores: 0,
                ..config
            },
            false => config,
        }
    }
}

/// How much waits at an acceptor, and how much shares a write, in the worlds of one kind. Enough for a
/// healthy cluster: what is chosen is not sent again to an acceptor that had no room for it.
fn few_at_once(kind: usize) -> AcceptorBounds {
    let most = AcceptorBounds::default();
    let (group, group_bytes) = [
        (most.group, most.group_bytes),
        (most.group, most.group_bytes),
        (1, most.group_bytes),
        (most.group, 200),
    ][kind % 4];
    let (queue, queue_bytes) = [
        (most.queue, most.queue_bytes),
        (64, most.queue_bytes),
        (most.queue, 20_000),
    ][kind % 3];
    AcceptorBounds {
        queue,
        queue_bytes,
        group,
        group_bytes,
    }
}

fn faults(rng: &mut Rng) -> Vec<(Fault, u64)> {
    let mut some = FAULTS.to_vec();
    some.retain(|_| rng.chance(500));
    some.into_iter()
        .map(|fault| (fault, rng.between(1, 10)))
        .collect()
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}
