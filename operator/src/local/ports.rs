//! Ports of this machine.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

use super::process::{Known, listener_on};
use super::{Error, Node};

/// A port that a node cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    port: u16,
    pod: String,
    by: Option<Known>,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Taken { port, pod, by } = self;
        match by {
            Some(by) => write!(f, "port {port} of {pod} is in use by {by}"),
            None => write!(
                f,
                "port {port} of {pod} is in use by a process that cannot be seen from here"
            ),
        }
    }
}

/// Ports that are in use, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllTaken(pub Vec<Taken>);

impl std::fmt::Display for AllTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let taken: Vec<String> = self.0.iter().map(Taken::to_string).collect();
        write!(f, "{}", taken.join("; "))
    }
}

/// Who has a node's port, if anybody.
pub(super) fn taken(node: &Node) -> Result<Option<Taken>, Error> {
    let port = node.config.port;
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(Some(Taken {
            port,
            pod: node.pod.clone(),
            by: listener_on(port),
        })),
        Err(error) => Err(Error::Io(
            format!("listen on port {port} for {}", node.pod),
            error,
        )),
    }
}

/// Fails with every port that is in use.
pub(super) fn all_free(nodes: &[Node]) -> Result<(), Error> {
    let mut all = Vec::new();
    for node in nodes {
        all.extend(taken(node)?);
    }
    match all.is_empty() {
        true => Ok(()),
        false => Err(Error::PortsInUse(AllTaken(all))),
    }
}
