//! Worlds in which one thing happens, in the simulator with production's limits. Most have links with
//! bandwidth, queues and round trips: what is sent is what is needed, and a slow link is slow, not dead.
//!
//! *Needed* is what the task takes at least: an Accept to each acceptor (all get what is chosen, in
//! the end), each value once to each learner, a quorum's votes to a learner that fetches, and a
//! quorum's promises to a candidate. Twice of that is the bound, for what is asked of all where a
//! quorum would do, and for heads and small messages; a fetch asks a quorum and has a quarter more.

use paxos::acceptor::TrimPolicy;
use paxos::ids::{Role, Slot};
use paxos::stamp::Terms;

use super::{Config, Sim};

/// All of them, by name.
pub const WORLDS: [(&str, fn()); 10] = [
    (
        "large_writes_use_slow_links_well_and_send_nothing_twice",
        large_writes_use_slow_links_well_and_send_nothing_twice,
    ),
    (
        "writes_over_far_links_take_their_round_trips_and_no_more",
        writes_over_far_links_take_their_round_trips_and_no_more,
    ),
    (
        "a_learner_that_is_far_behind_catches_up_as_fast_as_its_link_carries",
        a_learner_that_is_far_behind_catches_up_as_fast_as_its_link_carries,
    ),
    (
        "a_leader_is_found_with_eight_megabytes_open_over_slow_links",
        a_leader_is_found_with_eight_megabytes_open_over_slow_links,
    ),
    (
        "a_leader_that_reaches_no_learner_hands_over_to_a_proposer_that_does",
        a_leader_that_reaches_no_learner_hands_over_to_a_proposer_that_does,
    ),
    (
        "a_leader_stays_where_no_proposer_reaches_a_learner",
        a_leader_stays_where_no_proposer_reaches_a_learner,
    ),
    (
        "what_no_node_has_any_more_is_not_made_up_and_counts_again_when_a_disk_comes_back",
        what_no_node_has_any_more_is_not_made_up_and_counts_again_when_a_disk_comes_back,
    ),
    (
        "old_requests_of_clients_that_rest_take_no_second_effect",
        old_requests_of_clients_that_rest_take_no_second_effect,
    ),
    (
        "a_leader_is_found_where_a_sync_takes_longer_than_any_election_timeout",
        a_leader_is_found_where_a_sync_takes_longer_than_any_election_timeout,
    ),
    (
        "a_leader_that_is_cut_off_with_one_acceptor_allows_no_read",
        a_leader_that_is_cut_off_with_one_acceptor_allows_no_read,
    ),
];

const KB: usize = 1000;
const MB: u64 = 1_000_000;

/// A cluster that has a leader.
fn led(proposers: u8, latency: u64, bandwidth: u64) -> Sim {
    led_in(&Config::quiet(proposers, latency, bandwidth))
}

fn led_in(config: &Config) -> Sim {
    let mut sim = Sim::quiet(config);
    let found = sim.until(20_000, |sim| sim.leader().is_some());
    assert!(found.is_some(), "a leader with {config:?}");
    // It announces itself, and followers follow.
    sim.wait(1_000);
    sim
}

/// Runs `writers` writers, each of batches of eight values of 100 kB that it waits for; returns how
/// many bytes are chosen and applied in that time.
fn write(sim: &mut Sim, writers: u64, time: u64) -> u64 {
    let (before, end) = (sim.applied(0), sim.now() + time);
    while sim.now() < end {
        while sim.open_slots() + 8 <= 8 * writers {
            sim.offer_large(8, 100 * KB);
        }
        sim.wait(5);
    }
    (sim.applied(0).0 - before.0) * 100 * KB as u64
}

/// Lets all that is under way come to an end.
fn settle(sim: &mut Sim) {
    let settled = sim.until(60_000, |sim| {
        sim.open_slots() == 0 && sim.applied(1) == sim.chosen()
    });
    assert!(settled.is_some(), "what is under way ends");
    sim.wait(2_000);
}

/// Writers of large values get what the link carries, and the leader stays.
pub fn large_writes_use_slow_links_well_and_send_nothing_twice() {
    for (bandwidth, writers, seconds) in [(12_000, 4, 10), (4_000, 8, 20), (1_000, 2, 40)] {
        let mut sim = led(1, 1, bandwidth);
        let (_, term) = sim.leader().unwrap();
        let to = [Role::Acceptor, Role::Learner];
        let before = to.map(|role| sim.carried(Role::Proposer, role));
        let rate = write(&mut sim, writers, seconds * 1000) / (seconds * 1000);
        assert!(
            rate > bandwidth / 2,
            "{writers} writers get {rate} bytes a millisecond of {bandwidth}"
        );
        settle(&mut sim);
        let bytes = sim.chosen().0 * 100 * KB as u64;
        let sent = to.map(|role| sim.carried(Role::Proposer, role));
        let needed = [3 * bytes, 2 * bytes];
        for ((sent, before), needed) in sent.into_iter().zip(before).zip(needed) {
            assert!(
                sent - before <= 2 * needed,
                "{sent} bytes sent, {needed} needed"
            );
        }
        let leader = sim.leader().map(|(_, ballot)| ballot);
        assert_eq!(leader, Some(term), "large values depose nobody");
    }
}

/// At 300 ms there and back.
pub fn writes_over_far_links_take_their_round_trips_and_no_more() {
    // 300 ms there and back.
    let mut sim = led(3, 150, 0);
    let (_, term) = sim.leader().unwrap();
    let before = sim.carried(Role::Proposer, Role::Acceptor);
    let bytes = write(&mut sim, 4, 20_000);
    // A round trip to the acceptors and one way to the learners; the answer takes another.
    let rounds = bytes / (32 * 100 * KB as u64);
    assert!(
        (20_000 / 900..=20_000 / 300).contains(&rounds),
        "{rounds} rounds"
    );
    settle(&mut sim);
    let sent = sim.carried(Role::Proposer, Role::Acceptor) - before;
    let needed = 3 * sim.chosen().0 * 100 * KB as u64;
    assert!(sent <= 2 * needed, "{sent} bytes sent, {needed} needed");
    assert_eq!(sim.leader().map(|(_, ballot)| ballot), Some(term));
}

/// 20 MB behind, over slow links and far ones.
pub fn a_learner_that_is_far_behind_catches_up_as_fast_as_its_link_carries() {
    for (latency, bandwidth) in [(1, 12_000), (1, 5_000), (1, 1_000), (150, 0), (150, 12_000)] {
        let mut sim = led(1, 1, 0);
        sim.crash_one(Role::Learner, 1, 30_000);
        for _ in 0..25 {
            sim.offer_large(8, 100 * KB);
            sim.until(5_000, |sim| sim.open_slots() == 0)
                .expect("writes continue");
        }
        let before = sim.carried(Role::Acceptor, Role::Learner);
        sim.set_bandwidth(bandwidth);
        sim.set_latency(latency);
        let down = 30_000 - sim.now().min(30_000) + 1_500;
        sim.wait(down);
        // Both votes of a quorum come over links of their own.
        let on_the_way = (20 * MB).checked_div(bandwidth).unwrap_or(0);
        let pages = 11 * (2 * latency + 2);
        let most = 3_000 + 2 * (on_the_way + pages);
        let took = sim.until(most, |sim| sim.applied(1) == sim.chosen());
        assert!(
            took.is_some(),
            "{latency} ms, {bandwidth} bytes a ms: {most} ms are not enough"
        );
        let sent = sim.carried(Role::Acceptor, Role::Learner) - before;
        let needed = 2 * 20 * MB;
        assert!(sent <= needed * 5 / 4, "{sent} bytes sent, {needed} needed");
    }
}

/// The leader ends while much is voted for and nothing is known to be chosen.
pub fn a_leader_is_found_with_eight_megabytes_open_over_slow_links() {
    let wide = [20_000, 10_000, 5_000, 1_000].map(|bandwidth| (3, bandwidth, 8_000 * KB));
    // One value takes longer than a candidate waits for what does not come at all. Nobody competes: two
    // candidates would, as acceptors take one for lost that gets less than 128 KiB in a tick.
    let narrow = [(2, 100, 1_000 * KB)];
    for (proposers, bandwidth, open) in wide.into_iter().chain(narrow) {
        for bytes in [110 * KB, 1_000 * KB] {
            let mut sim = led(proposers, 1, 0);
            let (leader, _) = sim.leader().unwrap();
            // Voted for, and said to be chosen to nobody.
            sim.offer_large(open / bytes, bytes);
            sim.until(1_000, |sim| sim.has_votes(open / bytes))
                .expect("acceptors vote");
            sim.crash_one(Role::Proposer, leader, 600_000);
            sim.set_bandwidth(bandwidth);
            let before = sim.carried(Role::Acceptor, Role::Proposer);
            let carry = open as u64 / bandwidth;
            let most = 6_000 + 3 * carry;
            let took = sim.until(most, |sim| sim.leader().is_some());
            assert!(
                took.is_some(),
                "no leader in {most} ms at {bandwidth} bytes a ms with values of {bytes}"
            );
            let sent = sim.carried(Role::Acceptor, Role::Proposer) - before;
            let needed = 2 * open as u64;
            assert!(sent <= 2 * needed, "{sent} bytes sent, {needed} needed");
            settle(&mut sim);
        }
    }
}

/// And the new one stays.
pub fn a_leader_that_reaches_no_learner_hands_over_to_a_proposer_that_does() {
    for cut_off in 1..=2 {
        let mut sim = led(3, 1, 0);
        let (leader, _) = sim.leader().unwrap();
        let others = (0..3).filter(|p| *p != leader).take(cut_off - 1);
        for proposer in others.chain([leader]).collect::<Vec<_>>() {
            sim.cut_from_learners(proposer);
        }
        sim.offer_large(1, 10);
        let took = sim.until(5_000, |sim| {
            sim.leader().is_some_and(|(at, _)| at != leader)
        });
        assert!(took.is_some(), "{cut_off} of three are cut off");
        settle(&mut sim);
        let (_, ballot) = sim.leader().unwrap();
        sim.mend_links();
        sim.wait(20_000);
        assert_eq!(
            sim.leader().map(|(_, ballot)| ballot),
            Some(ballot),
            "it stays"
        );
    }
}

/// No leader is better than another then.
pub fn a_leader_stays_where_no_proposer_reaches_a_learner() {
    let mut sim = led(3, 1, 0);
    let (_, ballot) = sim.leader().unwrap();
    (0..3).for_each(|proposer| sim.cut_from_learners(proposer));
    sim.offer_large(1, 10);
    sim.wait(60_000);
    assert_eq!(sim.leader().map(|(_, ballot)| ballot), Some(ballot));
    sim.mend_links();
    settle(&mut sim);
    let mut sim = led(3, 1, 0);
    let (_, ballot) = sim.leader().unwrap();
    (0..2).for_each(|learner| sim.crash_one(Role::Learner, learner, 30_000));
    sim.offer_large(1, 10);
    sim.wait(25_000);
    assert_eq!(sim.leader().map(|(_, ballot)| ballot), Some(ballot));
    sim.wait(8_000);
    settle(&mut sim);
}

/// All learners lose their disks, there is no store, and the acceptors have forgotten the beginning.
pub fn what_no_node_has_any_more_is_not_made_up_and_counts_again_when_a_disk_comes_back() {
    for (which, bytes) in [(0, 100), (1, 100), (1, 20 * KB)] {
        let trimming = TrimPolicy {
            tail: 0,
            stride: 1,
            tail_bytes: 0,
            stride_bytes: 1,
        };
        let mut sim = led_in(&Config {
            trimming,
            ..Config::quiet(2, 1, 0)
        });
        for _ in 0..20 {
            sim.offer_large(8, bytes);
            settle(&mut sim);
        }
        let forgotten = sim.forgotten();
        assert!(forgotten >= Slot(100), "{forgotten}");
        let mut taken = sim.take_learners_disks(500);
        sim.wait(5_000);
        sim.offer_large(8, bytes);
        sim.wait(30_000);
        for learner in 0..2 {
            assert_eq!(sim.applied(learner), Slot::ZERO, "learner {learner}");
        }
        assert!(sim.open_slots() > 0, "nobody has applied what was offered");
        let now = sim.forgotten();
        assert!(now <= sim.chosen() && now.0 < forgotten.0 + 8, "{now}");

        sim.give_back(which, taken.swap_remove(which));
        settle(&mut sim);
        assert_eq!(sim.applied(0), sim.applied(1));
        assert!(sim.applied(0) > forgotten);
    }
}

/// Clients rest for longer than the retry window while others write, and requests of theirs from before
/// still arrive. What comes of each is for the checker's rule on effects.
pub fn old_requests_of_clients_that_rest_take_no_second_effect() {
    let mut sim = led_in(&Config {
        burst: 4,
        retries: 300,
        rests: 3_000,
        floods: 0,
        reads_in_log: 0,
        value_bytes: 10,
        terms: Terms {
            retry_window_ms: 1_000,
            retry_memory: 1 << 20,
            quota: u64::MAX,
        },
        ..Config::quiet(1, 1, 0)
    });
    for _ in 0..3_000 {
        sim.offer_some();
        sim.wait(10);
    }
    settle(&mut sim);
    assert!(sim.chosen() > Slot(3_000), "{:?}", sim.chosen());
    assert!(sim.resent() > 100, "{}", sim.resent());
}

/// A promise takes a second, and no election timeout is longer than 0.8 of one.
pub fn a_leader_is_found_where_a_sync_takes_longer_than_any_election_timeout() {
    let mut sim = led_in(&Config {
        sync: (1_000, 1_000),
        ..Config::quiet(3, 1, 0)
    });
    let (_, term) = sim.leader().unwrap();
    sim.offer_large(8, KB);
    settle(&mut sim);
    assert_eq!(sim.leader().map(|(_, ballot)| ballot), Some(term));
}

/// The others have elected another leader meanwhile. What it allows is for the checker's rule on reads.
pub fn a_leader_that_is_cut_off_with_one_acceptor_allows_no_read() {
    for acceptor in 0..3 {
        let mut sim = led(3, 1, 0);
        let (old, ballot) = sim.leader().unwrap();
        sim.cut_off(&[(Role::Proposer, old), (Role::Acceptor, acceptor)]);
        // As long as it takes itself for the leader, it is asked.
        for _ in 0..100 {
            sim.read_through(old);
            if sim.leader().is_some_and(|(_, newest)| newest > ballot) {
                sim.offer_large(1, 10);
            }
            sim.wait(50);
        }
        assert!(sim.leader().is_some_and(|(at, _)| at != old), "{acceptor}");
        assert!(sim.applied(0) > Slot(2), "{acceptor}: {:?}", sim.applied(0));
        sim.mend_links();
        settle(&mut sim);
    }
}
