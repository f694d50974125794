//! Every order of events in a few small clusters. `cargo run -p testkit --bin model` tries larger ones.

use stateright::{Checker, Model};
use testkit::model::CONFIGURATIONS;

#[test]
fn every_order_of_events_in_a_small_cluster_keeps_every_rule() {
    for configuration in CONFIGURATIONS
        .into_iter()
        .filter(|configuration| configuration.quick)
    {
        let checker = configuration.small.checker().threads(2).spawn_dfs().join();
        checker.assert_properties();
        let (name, states) = (configuration.name, checker.unique_state_count());
        assert_eq!(
            Some(states),
            configuration.states,
            "{name} has as many states as ever"
        );
    }
}
