//! Reads variables one by one, and notes what is wrong with each.

use std::path::Path;
use std::time::Duration;

use paxos::ids::Role;

use super::lists::{EXPECTED_LIST, addresses, list, read};
use super::{Invalid, Target};

pub(super) struct Reader<L> {
    pub(super) lookup: L,
    pub(super) invalid: Vec<Invalid>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// `None`: not set. `Some(None)`: set to something bad, which is noted.
    pub(super) fn read<T>(
        &mut self,
        variable: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        let held = (self.lookup)(variable).filter(|held| !held.is_empty())?;
        let parsed = parse(held.trim());
        if parsed.is_none() {
            let expected = expected.to_owned();
            self.invalid.push(Invalid {
                variable,
                held: Some(held),
                expected,
            });
        }
        Some(parsed)
    }

    pub(super) fn boolean(&mut self, variable: &'static str) -> Option<bool> {
        self.read(variable, "true or false", |v| {
            v.to_ascii_lowercase().parse().ok()
        })
        .unwrap_or(Some(false))
    }

    /// A list of addresses, as [`Reader::read`].
    pub(super) fn list(&mut self, variable: &'static str) -> Option<Option<Vec<String>>> {
        let held = (self.lookup)(variable).filter(|held| !held.is_empty())?;
        match addresses(&held) {
            Ok(list) => Some(Some(list)),
            Err(wrong) => {
                self.invalid.push(Invalid {
                    variable,
                    held: Some(held),
                    expected: format!("{EXPECTED_LIST}; {wrong}"),
                });
                Some(None)
            }
        }
    }

    /// The list in a file of the folder, in place of one of `count` addresses. `None`: there is none.
    /// `Some(None)`: it is bad, which is noted.
    pub(super) fn file(
        &mut self,
        dir: &Path,
        role: Role,
        count: Option<usize>,
    ) -> Option<Option<Vec<String>>> {
        let variable = role.list_variable();
        let (variable, held, expected) = match read(dir, role) {
            Ok(text) => {
                let text = text?;
                let expected = match list(role, &text) {
                    Ok(list) if role != Role::Acceptor || count.is_none_or(|n| n == list.len()) => {
                        return Some(Some(list));
                    }
                    Ok(_) => {
                        "as many addresses as the variable has, as that number is fixed".to_owned()
                    }
                    Err(wrong) => format!("{EXPECTED_LIST}; {wrong}"),
                };
                (
                    variable,
                    text,
                    format!("{expected}, in the file of MEMBERS_DIR"),
                )
            }
            Err(error) => {
                let expected = format!("a folder whose files can be read; {variable}: {error}");
                ("MEMBERS_DIR", dir.display().to_string(), expected)
            }
        };
        self.invalid.push(Invalid {
            variable,
            held: Some(held),
            expected,
        });
        Some(None)
    }

    pub(super) fn missing(&mut self, variable: &'static str, expected: &str) {
        self.invalid.push(Invalid {
            variable,
            held: None,
            expected: expected.to_owned(),
        });
    }
}

pub(super) trait OrMissing<T> {
    fn or_missing<L: Fn(&str) -> Option<String>>(
        self,
        reader: &mut Reader<L>,
        variable: &'static str,
        expected: &str,
    ) -> Option<T>;
}

impl<T> OrMissing<T> for Option<Option<T>> {
    fn or_missing<L: Fn(&str) -> Option<String>>(
        self,
        reader: &mut Reader<L>,
        variable: &'static str,
        expected: &str,
    ) -> Option<T> {
        if self.is_none() {
            reader.missing(variable, expected);
        }
        self.flatten()
    }
}

pub(super) fn millis(value: &str, min: u64) -> Option<Duration> {
    let max = if min < 20 { 60_000 } else { 600_000 };
    value
        .parse()
        .ok()
        .filter(|ms| (min..=max).contains(ms))
        .map(Duration::from_millis)
}

pub(super) fn targets(list: &str) -> Option<Vec<Target>> {
    let parsed: Option<Vec<Target>> = list.split(',').map(|t| Target::parse(t.trim())).collect();
    parsed.filter(|targets| targets.len() <= 255)
}
