//! What is at an address. An answer counts only from a node of the role that was asked for: a proposer
//! in the list of learners knows of no resource at all, which must not look like an absent one.

use std::fmt;
use std::time::Duration;

use api::status::Status;
use paxos::ids::Role;

use super::args::Server;
use super::http::{Answer, Http};

/// The roles that take requests.
pub(super) const WRITERS: &[Role] = &[Role::Proposer];
/// The roles that answer reads.
pub(super) const READERS: &[Role] = &[Role::Learner, Role::Store];

/// What answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A node.
    Node(Role),
    /// Something that is not a node.
    Stranger,
    /// Nobody, at present.
    Silent(String),
}

/// Asks it.
pub(super) async fn who(http: &Http, server: &Server, within: Duration) -> Who {
    match http.get(server, "/status", within).await {
        Err(error) => Who::Silent(error.why),
        Ok(answer) if answer.status.is_server_error() => Who::Silent(answer.detail()),
        Ok(answer) => {
            let status = serde_json::from_slice(&answer.body).ok();
            status.map_or(Who::Stranger, |status: Status| Who::Node(status.role()))
        }
    }
}

/// Why an address is of no use to a command, whatever happens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misplaced(String);

impl Misplaced {
    /// `None` when the address may be of use: it has a node of such a role, or is silent at present.
    pub(super) fn new(
        server: &Server,
        who: &Who,
        wanted: &[Role],
        answer: &Answer,
    ) -> Option<Misplaced> {
        match who {
            Who::Node(role) if wanted.contains(role) => None,
            Who::Silent(_) => None,
            Who::Node(role) => Some(Misplaced(format!(
                "{server} is {}, not {}",
                with_article(*role),
                names(wanted)
            ))),
            Who::Stranger => Some(Misplaced(format!(
                "{server} does not answer as a node of Cluster Sync: {}",
                answer.detail()
            ))),
        }
    }
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn with_article(role: Role) -> String {
    match role {
        Role::Acceptor => format!("an {role}"),
        _ => format!("a {role}"),
    }
}

/// As in "a learner or store".
fn names(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    format!("a {}", names.join(" or "))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn an_address_of_another_role_is_named() {
        let server: Server = "h:1".parse().unwrap();
        let answer = Answer::new(StatusCode::NOT_FOUND, bytes::Bytes::new());
        let said =
            |who, wanted| Misplaced::new(&server, &who, wanted, &answer).map(|m| m.to_string());
        assert_eq!(
            said(Who::Node(Role::Acceptor), READERS).unwrap(),
            "h:1 is an acceptor, not a learner or store"
        );
        assert_eq!(
            said(Who::Node(Role::Learner), WRITERS).unwrap(),
            "h:1 is a learner, not a proposer"
        );
        let stranger = said(Who::Stranger, READERS).unwrap();
        assert!(stranger.contains("answered 404 Not Found"), "{stranger}");
        assert_eq!(said(Who::Node(Role::Store), READERS), None);
        assert_eq!(said(Who::Silent("why".to_owned()), READERS), None);
    }
}
