//! Conditions, which keep the time of their last change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Before;
use crate::reasons::STARTING;

/// What a condition says: status, reason, message.
pub(super) type Verdict = (&'static str, &'static str, String);

pub(super) struct Conditions<'a> {
    before: Before<'a>,
    pub(super) list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(before: Before<'a>) -> Conditions<'a> {
        Conditions {
            before,
            list: Vec::new(),
        }
    }

    pub(super) fn set(&mut self, type_: &str, (status, reason, message): Verdict) {
        let since = match self.before.status.condition(type_) {
            // A start has its own time: it may come after a stop, or with another spec.
            Some(was)
                if was.status == status && (reason != STARTING || self.is_the_same_start(was)) =>
            {
                was.last_transition_time.clone()
            }
            _ => self.before.now.clone(),
        };
        self.list.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: self.before.generation,
            last_transition_time: since,
        });
    }

    fn is_the_same_start(&self, was: &Condition) -> bool {
        was.reason == STARTING && was.observed_generation == self.before.generation
    }

    /// As it was, or else what is given.
    pub(super) fn keep(&mut self, type_: &str, otherwise: Verdict) {
        match self.before.status.condition(type_) {
            Some(was) => self.list.push(was.clone()),
            None => self.set(type_, otherwise),
        }
    }
}
