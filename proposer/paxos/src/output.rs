//! What a step asks of the world, with the dangerous order in the type: the effects are out of
//! reach until the records are durable.

/// The records a step must not forget and the effects that depend on them.
#[must_use = "a step's effects are the protocol"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output<R, E> {
    records: Vec<R>,
    effects: E,
}

/// Proof that the records of an output are durable; nothing but [`Output::persist_proven`] gives one.
#[derive(Debug)]
pub struct Written(());

impl<R, E> Output<R, E> {
    pub(super) fn new(records: Vec<R>, effects: E) -> Output<R, E> {
        Output { records, effects }
    }

    /// The same with one more record, if `more` finds one due.
    pub(super) fn and(mut self, more: impl FnOnce(&[R]) -> Option<R>) -> Output<R, E> {
        let record = more(&self.records);
        self.records.extend(record);
        self
    }

    /// The only door to the effects: hands the records, if there are any, to `write`, which makes
    /// them durable. When it fails, nothing may be sent, and the node must end.
    pub fn persist<X>(self, write: impl FnOnce(&[R]) -> Result<(), X>) -> Result<E, X> {
        self.persist_proven(write).map(|(effects, _)| effects)
    }

    /// The same, with a proof for a core that wants to know what is durable.
    pub fn persist_proven<X>(
        self,
        write: impl FnOnce(&[R]) -> Result<(), X>,
    ) -> Result<(E, Written), X> {
        if !self.records.is_empty() {
            write(&self.records)?;
        }
        Ok((self.effects, Written(())))
    }

    /// Whether anything has to be written first.
    pub fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// The same with its effects as something else.
    pub(super) fn map<F>(self, effects: impl FnOnce(E) -> F) -> Output<R, F> {
        Output::new(self.records, effects(self.effects))
    }

    /// Several steps as one, so that one write makes all of their records durable (group commit).
    pub fn group(outputs: impl IntoIterator<Item = Output<R, E>>) -> Output<R, Vec<E>> {
        let mut group = Output::new(Vec::new(), Vec::new());
        for output in outputs {
            group.records.extend(output.records);
            group.effects.push(output.effects);
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_stay_hidden_when_the_write_fails() {
        let group = Output::group([Output::new(vec![1], 'a'), Output::new(vec![2, 3], 'b')]);
        assert_eq!(group.clone().persist(|_| Err("disk")), Err("disk"));
        let mut written = Vec::new();
        let effects = group.persist(|records| {
            written.extend_from_slice(records);
            Ok::<_, ()>(())
        });
        assert_eq!((effects, written), (Ok(vec!['a', 'b']), vec![1, 2, 3]));
    }

    #[test]
    fn nothing_is_written_when_there_is_nothing_to_remember() {
        let output: Output<u8, _> = Output::new(Vec::new(), 'a');
        assert_eq!(output.persist(|_| Err(())), Ok('a'));
    }
}
