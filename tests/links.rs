//! The simulator's worlds in which one thing happens: see `sim/worlds.rs`.

use testkit::sim::worlds;

#[test]
fn large_writes_use_slow_links_well_and_send_nothing_twice() {
    worlds::large_writes_use_slow_links_well_and_send_nothing_twice();
}

#[test]
fn writes_over_far_links_take_their_round_trips_and_no_more() {
    worlds::writes_over_far_links_take_their_round_trips_and_no_more();
}

#[test]
fn a_learner_that_is_far_behind_catches_up_as_fast_as_its_link_carries() {
    worlds::a_learner_that_is_far_behind_catches_up_as_fast_as_its_link_carries();
}

#[test]
fn a_leader_is_found_with_eight_megabytes_open_over_slow_links() {
    worlds::a_leader_is_found_with_eight_megabytes_open_over_slow_links();
}

#[test]
fn a_leader_that_reaches_no_learner_hands_over_to_a_proposer_that_does() {
    worlds::a_leader_that_reaches_no_learner_hands_over_to_a_proposer_that_does();
}

#[test]
fn a_leader_stays_where_no_proposer_reaches_a_learner() {
    worlds::a_leader_stays_where_no_proposer_reaches_a_learner();
}

#[test]
fn what_no_node_has_any_more_is_not_made_up_and_counts_again_when_a_disk_comes_back() {
    worlds::what_no_node_has_any_more_is_not_made_up_and_counts_again_when_a_disk_comes_back();
}

#[test]
fn old_requests_of_clients_that_rest_take_no_second_effect() {
    worlds::old_requests_of_clients_that_rest_take_no_second_effect();
}

#[test]
fn a_leader_is_found_where_a_sync_takes_longer_than_any_election_timeout() {
    worlds::a_leader_is_found_where_a_sync_takes_longer_than_any_election_timeout();
}

#[test]
fn every_world_is_run_here_and_for_the_canaries() {
    let here = include_str!("links.rs");
    for (name, _) in worlds::WORLDS {
        assert!(here.contains(&format!("worlds::{name}();")), "{name}");
    }
}

#[test]
fn a_leader_that_is_cut_off_with_one_acceptor_allows_no_read() {
    worlds::a_leader_that_is_cut_off_with_one_acceptor_allows_no_read();
}
