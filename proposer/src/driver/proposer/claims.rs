//! What a proposer must not forget: the rounds it has claimed. The rest of its state on disk is for people.

use std::sync::PoisonError;
use std::time::Duration;

use paxos::ids::Ballot;
use tokio::time::Instant;

use super::Run;
use crate::driver::end_on_disk_error;
use crate::state_file::{self, State, StateFile};

/// How often the state is copied to a checkpoint, if it changed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// The state file. A save that waited while a ballot was claimed does not take the claim back.
pub(super) struct Keeper {
    pub(super) file: StateFile,
    pub(super) claimed: u64,
}

impl Keeper {
    pub(super) fn claim(&mut self, state: State) -> Result<(), state_file::Error> {
        self.claimed = self.claimed.max(state.proposal_counter);
        self.file.claim(&State {
            proposal_counter: self.claimed,
            ..state
        })
    }

    pub(super) fn save(&mut self, state: State) -> Result<(), state_file::Error> {
        let proposal_counter = self.claimed.max(state.proposal_counter);
        self.file.save(&State {
            proposal_counter,
            ..state
        })
    }
}

impl Run {
    pub(super) fn state(&self) -> State {
        let leader = self.core.leader();
        State {
            proposal_counter: self.core.counter(),
            last_instance_id: self.core.last().0,
            current_leader: leader.and_then(Ballot::node),
            current_term: leader.map_or(0, Ballot::counter),
        }
    }

    /// Saves a new leader soon and everything now and then, off the loop: only claims must wait for
    /// the disk.
    pub(super) fn save(&mut self, now: Instant) {
        let state = self.state();
        let new_leader = state.current_leader != self.saved.current_leader
            || state.current_term != self.saved.current_term;
        let checkpoint =
            state != self.checkpointed.0 && now - self.checkpointed.1 >= CHECKPOINT_INTERVAL;
        if !(new_leader || checkpoint) {
            return;
        }
        self.saved = state;
        if checkpoint {
            self.checkpointed = (state, now);
        }
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let saved = if checkpoint {
                file.claim(state)
            } else {
                file.save(state)
            };
            if let Err(error) = saved {
                end_on_disk_error(&error);
            }
        });
    }
}
