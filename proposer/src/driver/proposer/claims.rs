//! What a proposer must not forget: the rounds it has claimed. The rest of its state on disk is for people.

use std::sync::{Arc, Mutex, PoisonError};

use paxos::ids::Ballot;
use roles::proposer::{Claims, Saved};

use super::Run;
use crate::driver::end_on_disk_error;
use crate::state_file::{self, State, StateFile};

/// The state file. A save that waited while a ballot was claimed does not take the claim back.
pub(super) struct Keeper {
    pub(super) file: StateFile,
    pub(super) claimed: u64,
}

impl Keeper {
    fn claim(&mut self, state: State) -> Result<(), state_file::Error> {
        self.claimed = self.claimed.max(state.proposal_counter);
        self.file.claim(&State {
            proposal_counter: self.claimed,
            ..state
        })
    }

    fn save(&mut self, state: State) -> Result<(), state_file::Error> {
        let proposal_counter = self.claimed.max(state.proposal_counter);
        self.file.save(&State {
            proposal_counter,
            ..state
        })
    }
}

/// The same, as the role sees it.
pub(super) struct Disk(pub(super) Arc<Mutex<Keeper>>);

impl Claims for Disk {
    type Error = state_file::Error;

    fn claim(&mut self, saved: Saved) -> Result<(), state_file::Error> {
        let mut keeper = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.claim(state(saved))
    }
}

impl Run {
    /// Writes down what need not be there before anything else, off the thread: only claims must wait
    /// for the disk.
    pub(super) fn save(&self, saved: Saved, is_checkpoint: bool) {
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let done = match is_checkpoint {
                true => file.claim(state(saved)),
                false => file.save(state(saved)),
            };
            if let Err(error) = done {
                end_on_disk_error(&error);
            }
        });
    }
}

fn state(saved: Saved) -> State {
    let Saved {
        counter,
        last,
        leader,
    } = saved;
    State {
        proposal_counter: counter,
        last_instance_id: last.0,
        current_leader: leader.and_then(Ballot::node),
        current_term: leader.map_or(0, Ballot::counter),
    }
}
