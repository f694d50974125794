//! What the calls to peers come to, by peer. One process is one node and makes its peers in many
//! places, some twice, so these metrics are the process' own.

use std::sync::LazyLock;
use std::time::Duration;

use paxos::codec::Version;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

pub(super) struct Peers {
    pub(super) round_trip: HistogramVec,
    pub(super) failures: IntCounterVec,
    pub(super) breaker_open: IntGaugeVec,
    pub(super) messages: IntCounterVec,
}

pub(super) static PEERS: LazyLock<Peers> = LazyLock::new(|| {
    let named_well = "the names are constants";
    let round_trip = HistogramOpts::new(
        "peer_round_trip_seconds",
        "From sending a message to a peer to the end of its answer.",
    );
    let failures = Opts::new(
        "peer_failures_total",
        "Messages without an answer, by peer and reason: connect, timeout, broken, or not sent because \
         of backoff, breaker or busy.",
    );
    let open = Opts::new(
        "peer_breaker_open",
        "Circuit breakers that are open towards a peer: 0 when calls go through.",
    );
    let messages = Opts::new(
        "peer_messages_total",
        "Messages sent to peers, by the version of their encoding: the older one only while a peer is of an \
         older build, and at first.",
    );
    let round_trip = round_trip.buckets(super::SECONDS.to_vec());
    Peers {
        round_trip: HistogramVec::new(round_trip, &["peer"]).expect(named_well),
        failures: IntCounterVec::new(failures, &["peer", "reason"]).expect(named_well),
        breaker_open: IntGaugeVec::new(open, &["peer"]).expect(named_well),
        messages: IntCounterVec::new(messages, &["version"]).expect(named_well),
    }
});

/// Counts a message that is sent in that version.
pub(crate) fn count_message(version: Version) {
    static BY_VERSION: LazyLock<[IntCounter; Version::ALL.len()]> = LazyLock::new(|| {
        let of = |version: Version| version.number().to_string();
        Version::ALL.map(|version| PEERS.messages.with_label_values(&[of(version)]))
    });
    let at = Version::ALL.iter().position(|it| *it == version);
    at.into_iter().for_each(|at| BY_VERSION[at].inc());
}

/// Why a message had no answer.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    Connect,
    Timeout,
    Broken,
    Backoff,
    Breaker,
    Busy,
}

/// In the order of [`Reason`].
const REASONS: [&str; 6] = ["connect", "timeout", "broken", "backoff", "breaker", "busy"];

/// The metrics of one peer.
pub(crate) struct PeerMetrics {
    round_trip: Histogram,
    failures: [IntCounter; REASONS.len()],
    pub(crate) breaker_open: IntGauge,
}

impl PeerMetrics {
    pub(crate) fn new(peer: &str) -> PeerMetrics {
        let failures = |reason| PEERS.failures.with_label_values(&[peer, reason]);
        PeerMetrics {
            round_trip: PEERS.round_trip.with_label_values(&[peer]),
            failures: REASONS.map(failures),
            breaker_open: PEERS.breaker_open.with_label_values(&[peer]),
        }
    }

    pub(crate) fn answered(&self, took: Duration) {
        self.round_trip.observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, reason: Reason) {
        self.failures[reason as usize].inc();
    }
}
