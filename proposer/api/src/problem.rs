//! An error as HTTP carries it (RFC 9457).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The body of every answer from 400 on, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem<'a> {
    /// The status in words.
    pub title: Cow<'a, str>,
    /// The answer's status.
    #[cfg_attr(feature = "openapi", schema(minimum = 400, maximum = 599))]
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: Cow<'a, str>,
    /// The same in a word, where programs may act by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// What else programs need, each under its own name.
    #[serde(flatten, deserialize_with = "numbers")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub numbers: BTreeMap<Cow<'a, str>, u64>,
}

/// The members that are numbers; RFC 9457 lets a problem have others.
fn numbers<'de, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Cow<'a, str>, u64>, D::Error> {
    let members: BTreeMap<String, serde_json::Value> = BTreeMap::deserialize(deserializer)?;
    let numbers = members.into_iter().filter_map(|(name, member)| {
        let number = member.as_u64()?;
        Some((name.into(), number))
    });
    Ok(numbers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_read_back_and_strange_members_do_no_harm() {
        let problem = Problem {
            title: "Conflict".into(),
            status: 409,
            detail: "ifVersion: it is at 3".into(),
            reason: Some("conflict".into()),
            numbers: BTreeMap::from([("version".into(), 3)]),
        };
        let text = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem<'_>>(&text).unwrap(), problem);
        let more = text.replacen('{', "{\"type\":\"about:blank\",\"instance\":[1],", 1);
        assert_eq!(serde_json::from_str::<Problem<'_>>(&more).unwrap(), problem);
        assert!(serde_json::from_str::<Problem<'_>>("{\"status\":409}").is_err());
    }
}
