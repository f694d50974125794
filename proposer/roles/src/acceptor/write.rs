//! A write to the log and the answers that depend on it. They are out of reach until the write is durable
//! and the core knows it.

use paxos::acceptor::Record;
use paxos::output::{Output, Written};
use paxos::votes::{Answer, Place};

use super::View;

/// Records, and the answers that they allow.
#[derive(Debug)]
#[must_use = "nobody is answered before it is durable"]
pub struct Write<A> {
    askers: Vec<A>,
    output: Sealed,
}

#[derive(Debug)]
enum Sealed {
    Answers(Output<Record, Vec<Answer>>),
    Standing(Output<Record, ()>),
}

/// A write that is durable, for [`Event::Written`].
///
/// [`Event::Written`]: super::Event::Written
#[derive(Debug)]
#[must_use = "the core has to know what is durable"]
pub struct Persisted<A> {
    proof: Written,
    places: Vec<Place>,
    trims: bool,
    answers: Vec<(A, Answer)>,
}

/// What follows from a write.
#[derive(Debug)]
pub struct Finished<A> {
    /// The log's files may begin here.
    pub trim: Option<Trim>,
    /// To whom which answer goes, in the order in which they asked.
    pub answers: Vec<(A, Answer)>,
    /// How things stand.
    pub view: View,
}

/// Files of the log are no longer needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Those that end before this place; `None`: all that has been written.
    pub before: Option<Place>,
}

impl<A> Write<A> {
    pub(super) fn of_answers(askers: Vec<A>, outputs: Vec<Output<Record, Answer>>) -> Write<A> {
        Write {
            askers,
            output: Sealed::Answers(Output::group(outputs)),
        }
    }

    pub(super) fn of_the_standing(output: Output<Record, ()>) -> Write<A> {
        Write {
            askers: Vec::new(),
            output: Sealed::Standing(output),
        }
    }

    /// How many requests it answers.
    pub fn requests(&self) -> usize {
        self.askers.len()
    }

    /// Whether anything has to be written.
    pub fn has_records(&self) -> bool {
        match &self.output {
            Sealed::Answers(output) => output.has_records(),
            Sealed::Standing(output) => output.has_records(),
        }
    }

    /// Hands the records, if there are any, to `write`, which makes them durable and says where those of
    /// votes lie.
    ///
    /// # Errors
    /// When `write` fails: nobody is answered, and the process must end.
    pub fn persist<X>(
        self,
        write: impl FnOnce(&[Record]) -> Result<Vec<Place>, X>,
    ) -> Result<Persisted<A>, X> {
        let (mut places, mut trims) = (Vec::new(), false);
        let write = |records: &[Record]| {
            let is_trim = |record: &Record| matches!(record, Record::Trimmed { .. });
            trims = records.iter().any(is_trim);
            places = write(records)?;
            Ok(())
        };
        let (answers, proof) = match self.output {
            Sealed::Answers(output) => output.persist_proven(write)?,
            Sealed::Standing(output) => {
                let ((), proof) = output.persist_proven(write)?;
                (Vec::new(), proof)
            }
        };
        Ok(Persisted {
            proof,
            places,
            trims,
            answers: self.askers.into_iter().zip(answers).collect(),
        })
    }
}

impl<A> Persisted<A> {
    pub(super) fn open(self) -> (Written, Vec<Place>, bool, Vec<(A, Answer)>) {
        (self.proof, self.places, self.trims, self.answers)
    }
}
