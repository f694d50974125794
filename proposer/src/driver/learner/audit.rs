//! The agreement audit: learners of one log must have applied the same, so each asks the others for
//! their checkpoints and compares. One that no more learners agree with than differ from stops: what
//! it answers may be wrong. With two learners that is either of them.

use std::collections::BTreeMap;
use std::time::Duration;

use api::env::Role;
use api::status::{Halt, HaltReason};
use futures::future::join_all;
use http::StatusCode;
use paxos::audit::{Checkpoint, FORMAT};
use paxos::ids::{NodeId, Slot};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info};

use super::handle::{Ask, Handle};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::{Link, Links};

/// The pause between two rounds of questions.
const EVERY: Duration = Duration::from_secs(1);
/// How long a learner may take to answer.
const WITHIN: Duration = Duration::from_secs(1);
/// Checkpoints in one answer.
pub(super) const AT_ONCE: usize = 64;

/// Checkpoints, as learners send them to each other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Digests {
    format: u32,
    checkpoints: Vec<Sent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    instance: u64,
    state: String,
    values: Option<String>,
}

impl Digests {
    /// Of these.
    pub(crate) fn of(checkpoints: &[Checkpoint]) -> Digests {
        let hex = |digest: u128| format!("{digest:032x}");
        let sent = checkpoints.iter().map(|checkpoint| Sent {
            instance: checkpoint.slot.0,
            state: hex(checkpoint.state),
            values: checkpoint.values.map(hex),
        });
        Digests {
            format: FORMAT,
            checkpoints: sent.collect(),
        }
    }

    /// The checkpoints; `None` if this version cannot compare them.
    fn checkpoints(&self) -> Option<Vec<Checkpoint>> {
        let number = |hex: &String| u128::from_str_radix(hex, 16).ok();
        let read = |sent: &Sent| {
            Some(Checkpoint {
                slot: Slot(sent.instance),
                state: number(&sent.state)?,
                values: match &sent.values {
                    Some(hex) => Some(number(hex)?),
                    None => None,
                },
            })
        };
        if self.format != FORMAT {
            return None;
        }
        self.checkpoints.iter().map(read).collect()
    }
}

/// What is known of another learner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Other {
    /// The next slot to compare.
    next: Slot,
    /// Where it had the same last.
    equal: Option<Slot>,
    /// Where it has something else.
    differs: Option<Slot>,
}

impl Other {
    /// Compares, as far as this learner has come, and up to the first difference.
    fn compare(&mut self, theirs: &[Checkpoint], mine: impl Fn(Slot) -> Mine) {
        self.differs = None;
        let first = self.next;
        for theirs in theirs.iter().filter(|theirs| theirs.slot >= first) {
            match mine(theirs.slot) {
                Mine::NotYet => return,
                Mine::Unknown => {}
                Mine::Known(mine) if mine.agrees(theirs) => self.equal = Some(theirs.slot),
                Mine::Known(_) => {
                    // Looked at again, until the other has been repaired.
                    self.differs = Some(theirs.slot);
                    self.next = theirs.slot;
                    return;
                }
            }
            self.next = theirs.slot.next();
        }
    }
}

/// This learner's own checkpoint.
enum Mine {
    NotYet,
    Unknown,
    Known(Checkpoint),
}

/// Whether a learner must stop: no more agree with it, itself included, than differ from it.
fn must_stop(others: &BTreeMap<NodeId, Other>) -> bool {
    let differ = others
        .values()
        .filter(|other| other.differs.is_some())
        .count();
    let agree = others
        .values()
        .filter(|other| other.differs.is_none() && other.equal.is_some())
        .count();
    differ > agree
}

/// Asks without end. Call within a Tokio runtime.
pub(super) fn start(addresses: &Addresses, identity: &Identity, learner: Handle) {
    let mut links = Links::new(addresses, identity, Role::Learner);
    tokio::spawn(async move {
        let mut others: BTreeMap<NodeId, Other> = BTreeMap::new();
        loop {
            tokio::time::sleep(EVERY).await;
            links.refresh();
            others.retain(|id, _| links.iter().any(|link| link.node.id == *id));
            round(&links, &learner, &mut others).await;
        }
    });
}

async fn round(links: &[Link], learner: &Handle, others: &mut BTreeMap<NodeId, Other>) {
    let metrics = &learner.metrics;
    let next = |link: &Link| {
        others
            .get(&link.node.id)
            .map_or(Slot::ZERO, |other| other.next)
    };
    let answers = join_all(links.iter().map(|link| ask(link, next(link)))).await;
    for (link, answer) in links.iter().zip(answers) {
        let before = others.entry(link.node.id).or_default();
        let Some(theirs) = answer else {
            metrics.audits.with_label_values(&["unknown"]).inc();
            continue;
        };
        let mut other = *before;
        other.compare(&theirs, |slot| {
            let state = learner.state();
            match state.trail.at(slot) {
                Some(mine) => Mine::Known(*mine),
                None if slot > state.machine.applied() => Mine::NotYet,
                None => Mine::Unknown,
            }
        });
        if other.equal > before.equal {
            metrics.audits.with_label_values(&["equal"]).inc();
        }
        match (before.differs, other.differs) {
            (None, Some(slot)) => {
                metrics.audits.with_label_values(&["different"]).inc();
                error!(
                    learner = %link.node,
                    instance = slot.0,
                    "agreement is violated: another learner has applied something else"
                );
            }
            (Some(_), None) => {
                info!(learner = %link.node, "it has applied the same again");
            }
            _ => {}
        }
        *before = other;
    }
    let equal = others.values().filter_map(|other| other.equal).max();
    metrics.audited_slot.set(equal.unwrap_or_default().0 as i64);
    let differs = others
        .iter()
        .find_map(|(id, other)| Some((id, other.differs?)));
    metrics.agreement_violated.set(differs.is_some().into());
    if let Some((id, slot)) = differs
        && must_stop(others)
        && learner.halted().is_none()
    {
        let why = format!(
            "agreement is violated: learner {id} has applied something else up to instance {slot}. \
             Find out which of the two is wrong, and give that one an empty volume"
        );
        let reason = HaltReason::Disagrees;
        learner.post_ask(Ask::Halt(Halt { reason, why })).await;
    }
}

/// The checkpoints of another learner; `None` when it does not answer, or is of an older version.
async fn ask(link: &Link, from: Slot) -> Option<Vec<Checkpoint>> {
    let answer = match link.get(&format!("/digests?from={from}"), WITHIN).await {
        Ok(answer) if answer.status() == StatusCode::OK => answer,
        Ok(_) => return None,
        Err(error) => {
            debug!(learner = %link.node, %error, "cannot be compared with");
            return None;
        }
    };
    let digests: Digests = serde_json::from_slice(answer.body()).ok()?;
    digests.checkpoints()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(slot: u64, state: u128) -> Checkpoint {
        Checkpoint {
            slot: Slot(slot),
            state,
            values: None,
        }
    }

    #[test]
    fn checkpoints_survive_the_way_and_those_of_another_format_are_not_compared() {
        let sent = [
            checkpoint(1000, u128::MAX),
            Checkpoint {
                values: Some(7),
                ..checkpoint(2000, 1)
            },
        ];
        let mut digests = Digests::of(&sent);
        assert_eq!(digests.checkpoints().as_deref(), Some(&sent[..]));
        digests.format += 1;
        assert_eq!(digests.checkpoints(), None);
    }

    #[test]
    fn a_comparison_goes_as_far_as_both_have_come_and_stays_at_a_difference() {
        let theirs = [1000, 2000, 3000, 4000].map(|slot| checkpoint(slot, 5));
        let mine = |wrong: u64| {
            move |slot: Slot| match slot.0 {
                1000 => Mine::Unknown,
                4000 => Mine::NotYet,
                slot => Mine::Known(checkpoint(slot, if slot == wrong { 6 } else { 5 })),
            }
        };
        let mut other = Other::default();
        other.compare(&theirs, mine(0));
        let level = Other {
            next: Slot(3001),
            equal: Some(Slot(3000)),
            differs: None,
        };
        assert_eq!(other, level);
        let mut other = Other::default();
        other.compare(&theirs, mine(2000));
        assert_eq!((other.next, other.differs), (Slot(2000), Some(Slot(2000))));
        other.compare(&theirs, mine(2000));
        assert_eq!(other.differs, Some(Slot(2000)));
        other.compare(&theirs, mine(0));
        assert_eq!(other, level);
    }

    #[test]
    fn a_learner_stops_unless_more_agree_than_differ() {
        let others = |states: &[Option<bool>]| {
            let other = |state: &Option<bool>| Other {
                next: Slot(1),
                equal: (*state == Some(true)).then_some(Slot(1)),
                differs: (*state == Some(false)).then_some(Slot(1)),
            };
            NodeId::first(9).zip(states.iter().map(other)).collect()
        };
        for (states, stops) in [
            (&[][..], false),
            (&[Some(true)], false),
            (&[Some(false)], true),
            (&[Some(false), None], true),
            (&[Some(false), Some(true)], false),
            (&[Some(false), Some(false), Some(true)], true),
        ] {
            assert_eq!(must_stop(&others(states)), stops, "{states:?}");
        }
    }
}
