//! What must hold in every state, and what must come true in some.

use std::collections::BTreeMap;

use paxos::ids::{Ballot, Slot};
use paxos::message::{Reply, Value};
use stateright::Property;

use super::Small;
use super::state::{Envelope, State};

pub(super) fn properties(model: &Small) -> Vec<Property<Small>> {
    let mut properties = vec![
        Property::always("a slot is chosen once", chosen_once),
        Property::always("a ballot carries one value per slot", one_value_per_ballot),
        Property::always(
            "what is said to be committed is chosen",
            committed_is_chosen,
        ),
        Property::always("what is delivered is chosen", delivered_is_chosen),
        Property::always("no read is stale", no_read_is_stale),
        Property::always("learners have what acceptors forget", forgotten_is_kept),
        Property::always(
            "no acceptor votes without what it voted",
            no_lost_disk_votes,
        ),
        Property::sometimes("all values are chosen", all_values_are_chosen),
    ];
    // So that a model in which nothing happens does not pass.
    type Holds = fn(&Small, &State) -> bool;
    let sometimes: [(bool, &str, Holds); 7] = [
        (model.learner, "all values are delivered", all_is_delivered),
        (
            model.learner_ticks > 0,
            "a gap is fetched",
            a_gap_is_fetched,
        ),
        (
            model.reads > 0,
            "all reads are allowed",
            all_reads_are_allowed,
        ),
        (model.enlists, "all acceptors vote", all_acceptors_vote),
        (
            model.disks_lost > 0,
            "a lost disk is refused",
            a_lost_disk_is_refused,
        ),
        (model.trims, "an acceptor forgets", an_acceptor_forgets),
        (
            model.trims && model.learner_ticks > 0,
            "the learner installs a snapshot and learns on",
            learns_on_after_a_snapshot,
        ),
    ];
    properties.extend(
        sometimes
            .into_iter()
            .filter(|(applies, ..)| *applies)
            .map(|(_, name, holds)| Property::sometimes(name, holds)),
    );
    properties
}

fn chosen_once(_: &Small, state: &State) -> bool {
    state.chosen.values().all(|values| values.len() == 1)
}

fn one_value_per_ballot(_: &Small, state: &State) -> bool {
    let mut proposed: BTreeMap<(Ballot, Slot), &Value> = BTreeMap::new();
    state.accepts().all(|(ballot, first, values)| {
        let mut slots = (first.0..).map(Slot).zip(values);
        slots.all(|(slot, value)| *proposed.entry((ballot, slot)).or_insert(value) == value)
    })
}

fn committed_is_chosen(_: &Small, state: &State) -> bool {
    let proposers = state.proposers.iter().map(|node| node.core.committed());
    let acceptors = state
        .acceptors
        .iter()
        .map(|node| node.core.acceptor().committed());
    let learner = state.learner.iter().map(|node| node.core.committed());
    proposers
        .chain(acceptors)
        .chain(learner)
        .all(|committed| (1..=committed.0).all(|slot| state.chosen.contains_key(&Slot(slot))))
}

fn delivered_is_chosen(_: &Small, state: &State) -> bool {
    let is_chosen = |(slot, value): (u64, &Value)| {
        let chosen = state.chosen.get(&Slot(slot));
        chosen.is_some_and(|values| values.contains(value))
    };
    let delivered = state.learner.iter().flat_map(|node| &node.delivered);
    (1..).zip(delivered).all(is_chosen) && (1..).zip(&*state.kept).all(is_chosen)
}

fn no_read_is_stale(_: &Small, state: &State) -> bool {
    !state.stale
}

fn no_lost_disk_votes(_: &Small, state: &State) -> bool {
    let mut acceptors = state.acceptors.iter();
    acceptors.all(|node| !(node.is_lost && node.core.votes()))
}

fn forgotten_is_kept(_: &Small, state: &State) -> bool {
    let mut floors = state
        .acceptors
        .iter()
        .map(|node| node.core.acceptor().floor());
    floors.all(|floor| floor.0 <= state.kept.len() as u64)
}

fn all_values_are_chosen(model: &Small, state: &State) -> bool {
    is_everything(model, state.chosen.values().flatten())
}

fn all_is_delivered(model: &Small, state: &State) -> bool {
    let learner = state.learner.iter();
    is_everything(model, learner.flat_map(|node| &node.delivered))
}

fn is_everything<'a>(model: &Small, values: impl Iterator<Item = &'a Value>) -> bool {
    let clients = values.filter(|value| !value.is_noop()).count();
    clients == usize::from(model.proposers) * usize::from(model.values)
}

fn all_reads_are_allowed(model: &Small, state: &State) -> bool {
    state.allowed == model.reads && state.acknowledged > Slot::ZERO
}

fn a_gap_is_fetched(_: &Small, state: &State) -> bool {
    state.said.iter().any(|envelope| {
        matches!(&**envelope, Envelope::Fetched { reply: Reply::Fetched { votes, .. }, .. } if !votes.is_empty())
    })
}

fn an_acceptor_forgets(_: &Small, state: &State) -> bool {
    let mut floors = state
        .acceptors
        .iter()
        .map(|node| node.core.acceptor().floor());
    floors.any(|floor| floor > Slot::ZERO)
}

fn learns_on_after_a_snapshot(_: &Small, state: &State) -> bool {
    let mut learner = state.learner.iter();
    learner.any(|node| node.installed > Slot::ZERO && node.core.delivered() > node.installed)
}

fn all_acceptors_vote(_: &Small, state: &State) -> bool {
    state.acceptors.iter().all(|node| node.core.votes())
}

fn a_lost_disk_is_refused(_: &Small, state: &State) -> bool {
    let mut acceptors = state.acceptors.iter();
    acceptors.any(|node| node.is_lost && node.core.refusal().is_some())
}
