//! What a proposer must not forget: `proposer_X_state.json`, and copies of it in `checkpoints/`.
//!
//! The acceptors' log decides what was chosen. A proposer needs only one thing from its own disk: a
//! ballot it has used once it must never use again. So [`StateFile::claim`] writes a checkpoint
//! before the state, and no checkpoint newer than all others is older than a claim.
//!
//! Files are replaced, never changed in place: a new file, synced, renamed over the old one, and the
//! folder synced. A state file that cannot be read is renamed to `….corrupt-<n>` and stays.

use std::path::Path;

use paxos::ids::NodeId;
use serde_json::Value;

pub use crate::json_file::Error;
use crate::json_file::{self, Fields, Loaded, io_error};
use crate::media::{FileMedia, Media};

#[cfg(test)]
mod tests;

/// The format this program writes, and the newest one it reads.
const FORMAT: u64 = 1;
/// How many checkpoints stay.
const CHECKPOINTS: usize = 5;
/// The folder of the checkpoints, in the data folder.
const CHECKPOINTS_DIR: &str = "checkpoints";

/// A proposer's durable state. The default is that of a proposer that never ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The round of the last ballot claimed; 0 for none.
    pub proposal_counter: u64,
    /// The last slot this proposer knew of.
    pub last_instance_id: u64,
    /// The leader it last followed.
    pub current_leader: Option<NodeId>,
    /// The term of that leader; 0 for none.
    pub current_term: u64,
}

/// Where the state of an opened [`StateFile`] came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was nothing: a new proposer.
    Fresh,
    /// From the state file.
    Loaded,
    /// The state file is missing or unreadable; this is the newest readable checkpoint.
    FromCheckpoint {
        /// Where unreadable state files are now.
        set_aside: Vec<String>,
        /// Newer checkpoints that cannot be read. If there is one, a ballot may have been claimed
        /// that this state does not know.
        unreadable: Vec<String>,
    },
    /// There was a state, and neither it nor a checkpoint can be read.
    Lost {
        /// Where unreadable state files are now.
        set_aside: Vec<String>,
    },
}

impl Opened {
    /// Whether every ballot ever claimed is at most `proposal_counter`. If not, the proposer must
    /// learn from a majority of acceptors how far ballots have come before it saves or claims.
    pub fn knows_every_claim(&self) -> bool {
        match self {
            Opened::Fresh | Opened::Loaded => true,
            Opened::FromCheckpoint { unreadable, .. } => unreadable.is_empty(),
            Opened::Lost { .. } => false,
        }
    }
}

/// The files of one proposer. One process, one thread.
pub struct StateFile<M: Media = FileMedia> {
    root: M,
    checkpoints: M,
    id: NodeId,
    next_checkpoint: u64,
    poisoned: bool,
}

impl StateFile {
    /// Opens the state of a proposer in its data folder, `root`, whose path is `dir`.
    pub fn open(
        root: &FileMedia,
        dir: &Path,
        id: NodeId,
    ) -> Result<(StateFile, State, Opened), Error> {
        let checkpoints = FileMedia::open(dir.join(CHECKPOINTS_DIR)).map_err(Error::Open)?;
        StateFile::open_on(root.clone(), checkpoints, id)
    }
}

impl<M: Media> StateFile<M> {
    /// As [`StateFile::open`], on the two folders given. Writes no state: as long as nothing was
    /// saved, opening again gives the same answer.
    pub fn open_on(
        root: M,
        checkpoints: M,
        id: NodeId,
    ) -> Result<(StateFile<M>, State, Opened), Error> {
        // What an earlier process renamed may be in the cache only.
        for folder in [&root, &checkpoints] {
            folder
                .sync_dir()
                .map_err(|source| io_error(folder, "sync the folder of", "", source))?;
        }
        let mut file = StateFile {
            root,
            checkpoints,
            id,
            next_checkpoint: 1,
            poisoned: false,
        };
        let (best, unreadable) = file.best_checkpoint()?;
        let name = file.name();
        let mut set_aside = file.set_aside()?;
        match load(&file.root, &name)? {
            Loaded::Read(mut state) => {
                // A checkpoint ahead of the state is a claim that was cut off, or the state is an
                // older copy. Skipping a ballot costs nothing.
                let claimed = best.map_or(0, |best| best.proposal_counter);
                state.proposal_counter = state.proposal_counter.max(claimed);
                return Ok((file, state, Opened::Loaded));
            }
            Loaded::Unreadable => {
                let aside = (1..)
                    .map(|n| format!("{name}.corrupt-{n}"))
                    .find(|aside| !set_aside.contains(aside))
                    .unwrap_or_default();
                let moved = file.root.rename(&name, &aside);
                moved.map_err(|source| io_error(&file.root, "rename", &name, source))?;
                let synced = file.root.sync_dir();
                synced
                    .map_err(|source| io_error(&file.root, "sync the folder of", &name, source))?;
                set_aside.push(aside);
            }
            Loaded::Absent => {}
        }
        let (state, opened) = match best {
            Some(state) => {
                let opened = Opened::FromCheckpoint {
                    set_aside,
                    unreadable,
                };
                (state, opened)
            }
            None if set_aside.is_empty() && unreadable.is_empty() => {
                (State::default(), Opened::Fresh)
            }
            None => (State::default(), Opened::Lost { set_aside }),
        };
        Ok((file, state, opened))
    }

    /// Replaces the state, durably. For everything but a new ballot.
    pub fn save(&mut self, state: &State) -> Result<(), Error> {
        let name = self.name();
        self.once(|file| replace(&file.root, &name, state))
    }

    /// Claims the ballot of `proposal_counter`: a checkpoint, then the state. Only when this has
    /// returned may the ballot be used.
    pub fn claim(&mut self, state: &State) -> Result<(), Error> {
        self.checkpoint(state)?;
        self.save(state)
    }

    /// Writes a checkpoint, durably, and removes all but the newest five.
    pub fn checkpoint(&mut self, state: &State) -> Result<(), Error> {
        self.once(|file| {
            let number = file.next_checkpoint;
            file.next_checkpoint += 1;
            replace(&file.checkpoints, &file.checkpoint_name(number), state)?;
            let numbers = file.checkpoint_numbers()?;
            for number in numbers.iter().rev().skip(CHECKPOINTS) {
                let name = file.checkpoint_name(*number);
                let removed = file.checkpoints.remove(&name);
                removed.map_err(|source| io_error(&file.checkpoints, "remove", &name, source))?;
            }
            Ok(())
        })
    }

    /// After an error it is unknown what is on the disk, so nothing more is written.
    fn once(&mut self, run: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        self.poisoned = true;
        run(self)?;
        self.poisoned = false;
        Ok(())
    }

    /// The newest checkpoint that can be read, and the names of newer ones that cannot.
    fn best_checkpoint(&mut self) -> Result<(Option<State>, Vec<String>), Error> {
        let numbers = self.checkpoint_numbers()?;
        self.next_checkpoint = numbers.last().map_or(1, |last| last.saturating_add(1));
        let mut unreadable = Vec::new();
        for number in numbers.iter().rev() {
            let name = self.checkpoint_name(*number);
            match load(&self.checkpoints, &name)? {
                Loaded::Read(state) => return Ok((Some(state), unreadable)),
                Loaded::Unreadable | Loaded::Absent => unreadable.push(name),
            }
        }
        Ok((None, unreadable))
    }

    /// In ascending order.
    fn checkpoint_numbers(&self) -> Result<Vec<u64>, Error> {
        let names = self.checkpoints.list();
        let names = names.map_err(|source| io_error(&self.checkpoints, "list", "", source))?;
        let prefix = format!("proposer_{}_cp_", self.id);
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| {
                name.strip_prefix(&prefix)?
                    .strip_suffix(".json")?
                    .parse()
                    .ok()
            })
            .filter(|number| names.contains(&self.checkpoint_name(*number)))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// State files that were set aside, now or before.
    fn set_aside(&self) -> Result<Vec<String>, Error> {
        let names = self.root.list();
        let mut names = names.map_err(|source| io_error(&self.root, "list", "", source))?;
        let prefix = format!("{}.corrupt-", self.name());
        names.retain(|name| name.starts_with(&prefix));
        Ok(names)
    }

    fn name(&self) -> String {
        format!("proposer_{}_state.json", self.id)
    }

    fn checkpoint_name(&self, number: u64) -> String {
        format!("proposer_{}_cp_{number}.json", self.id)
    }
}

fn load(folder: &impl Media, name: &str) -> Result<Loaded<State>, Error> {
    json_file::load(folder, name, FORMAT, decode)
}

fn replace(folder: &impl Media, name: &str, state: &State) -> Result<(), Error> {
    let fields = Fields::from([
        ("format".to_owned(), FORMAT.into()),
        ("proposal_counter".to_owned(), state.proposal_counter.into()),
        ("last_instance_id".to_owned(), state.last_instance_id.into()),
        (
            "current_leader".to_owned(),
            state.current_leader.map(NodeId::number).into(),
        ),
        ("current_term".to_owned(), state.current_term.into()),
    ]);
    json_file::replace(folder, name, fields)
}

fn decode(fields: &Fields) -> Option<State> {
    let number = |name: &str| fields.get(name)?.as_u64();
    let current_leader = match fields.get("current_leader")? {
        Value::Null => None,
        leader => {
            let leader = leader.as_u64().and_then(|leader| u8::try_from(leader).ok());
            Some(leader.and_then(NodeId::new)?)
        }
    };
    Some(State {
        proposal_counter: number("proposal_counter")?,
        last_instance_id: number("last_instance_id")?,
        current_leader,
        current_term: number("current_term")?,
    })
}
