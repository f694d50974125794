//! The cluster's own traffic: a message goes out as one `POST`, and its answer comes back. Beside each answer a
//! node shows the newest version of the encoding that it reads; what goes to it from then on is in that one.

use api::env::Role;
use api::status::Status;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use paxos::codec::{self, Frame, NodeName, Version};
use paxos::ids::{ClusterId, NodeId};
use paxos::message::Message;
use paxos::outcome::Applied;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::addresses::Addresses;
use crate::identity::{Identity, OtherCluster};
use crate::metrics::count_message;
use crate::peers::{Breakers, CallError, Lane, Peer, PeerOptions, post};

/// The path at which a node takes the cluster's own traffic. It names the node, because an address
/// may come to belong to another pod: a vote asked of one acceptor must not be another's.
pub fn path(node: NodeName) -> String {
    format!("/paxos/{}/{}", node.role, node.id)
}

/// The content type of a frame.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Says that the sender takes every kind of outcome in the answer; the first release does not.
const OUTCOMES_HEADER: &str = "x-outcomes";
const OUTCOMES: HeaderValue = HeaderValue::from_static("2");

/// Puts outcomes that the sender of a request does not take into those that it does.
pub fn fit_outcomes(headers: &HeaderMap, outcomes: &mut [Option<Applied>]) {
    if headers.get(OUTCOMES_HEADER).is_none() {
        for outcome in outcomes {
            *outcome = outcome.take().and_then(Applied::for_older_peer);
        }
    }
}

/// Shows the newest version of the encoding that a node reads. Builds that read version 2 alone do not know it.
const WIRE_HEADER: HeaderName = HeaderName::from_static("x-wire");
/// [`Version::NEWEST`].
const NEWEST_SHOWN: HeaderValue = HeaderValue::from_static("3");

/// Shows it beside an answer.
pub(crate) fn show_version(headers: &mut HeaderMap) {
    headers.insert(WIRE_HEADER, NEWEST_SHOWN);
}

/// The version to write to a node that answers so; `None`: it may not be the node that answers.
fn shown_version(answer: &Response<Bytes>) -> Option<Version> {
    let shown = answer.headers().get(WIRE_HEADER);
    let shown = shown.and_then(|number| number.to_str().ok()?.parse().ok());
    let by_a_node = matches!(answer.status(), StatusCode::OK | StatusCode::BAD_REQUEST);
    let silent = by_a_node.then_some(Version::OLDEST);
    shown.map(Version::shown).or(silent)
}

/// The largest frame taken, in bytes: a batch of the largest values and then some.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// How long a node may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// One node of the cluster, as another one sees it.
#[derive(Clone)]
pub struct Link {
    /// Who it is.
    pub node: NodeName,
    /// Its connections.
    pub peer: Peer,
    me: Identity,
    path: PathAndQuery,
    /// The number of the version that it has shown last.
    version: Arc<AtomicU8>,
}

/// Why a message has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer came.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The peer refused the message.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// The answer is no message, or another node's.
    #[error("{0}")]
    Answer(#[from] codec::Error),
    /// Another node answered under this address.
    #[error("{0} answered under its address")]
    Stranger(NodeName),
    /// A node of another cluster answered.
    #[error("its answer is not for this node: {0}")]
    OtherCluster(#[from] OtherCluster),
    /// The answer is none to what was asked.
    #[error("its answer is none to what was asked")]
    NoReply,
    /// What is chosen elsewhere must not get here.
    #[error("the acceptors have not told yet which cluster this node is of")]
    NoCluster,
}

/// Links to every node of a role but this one, in order.
pub struct Links {
    role: Role,
    me: Identity,
    addresses: Addresses,
    links: Vec<Link>,
}

impl Links {
    /// To those that are listed now.
    pub fn new(addresses: &Addresses, me: &Identity, role: Role) -> Links {
        let mut links = Links {
            role,
            me: me.clone(),
            addresses: addresses.clone(),
            links: Vec::new(),
        };
        let list = addresses.now().of_role(role).to_vec();
        links.set(&list);
        links
    }

    /// To those that are listed now. A node that stays where it was keeps its connections.
    pub fn refresh(&mut self) {
        if let Some(lists) = self.addresses.changed() {
            self.set(lists.of_role(self.role));
        }
    }

    /// That to the node of this number, while it is listed.
    pub fn to(&self, id: NodeId) -> Option<&Link> {
        self.links.iter().find(|link| link.node.id == id)
    }

    fn set(&mut self, list: &[String]) {
        let link = |(index, address): (usize, &String)| {
            let (role, id) = (self.role, NodeId::at(index)?);
            let node = NodeName { role, id };
            if node == self.me.name() {
                return None;
            }
            let same = |link: &&Link| link.node == node && link.peer.address() == address;
            let known = self.links.iter().find(same).cloned();
            known.or_else(|| Link::new(node, address, &self.me))
        };
        self.links = list.iter().enumerate().filter_map(link).collect();
    }
}

impl Deref for Links {
    type Target = [Link];

    fn deref(&self) -> &[Link] {
        &self.links
    }
}

/// Names the cluster of the node that answers a [`Link::get`].
pub const CLUSTER_HEADER: &str = "x-cluster";

impl Link {
    fn new(node: NodeName, address: &str, me: &Identity) -> Option<Link> {
        Some(Link {
            node,
            me: me.clone(),
            peer: Peer::new(node.to_string(), address, PeerOptions::default()),
            path: path(node).parse().ok()?,
            version: Arc::new(AtomicU8::new(Version::OLDEST.number())),
        })
    }

    /// Sends an encoded [`Frame`] and returns the answer.
    pub async fn ask(
        &self,
        lane: Lane,
        frame: Bytes,
        timeout: Duration,
        breakers: Breakers,
    ) -> Result<Message, Error> {
        self.ask_hearing(lane, frame, timeout, breakers, || ())
            .await
    }

    /// The same, saying each time that some of the answer has come.
    pub async fn ask_hearing(
        &self,
        lane: Lane,
        frame: Bytes,
        timeout: Duration,
        breakers: Breakers,
        mut heard: impl FnMut(),
    ) -> Result<Message, Error> {
        let until = Instant::now() + timeout;
        let mut send = async |version: Version| {
            let request = self.request(version, &frame)?;
            count_message(version);
            let left = until.saturating_duration_since(Instant::now());
            let call = self
                .peer
                .call_hearing(lane, request, left, breakers, &mut heard);
            let response = call.await?;
            let shown = shown_version(&response).unwrap_or(version);
            self.version.store(shown.number(), Ordering::Relaxed);
            Ok::<_, Error>((response, shown))
        };
        let version = Version::shown(self.version.load(Ordering::Relaxed));
        let (mut response, shown) = send(version).await?;
        if response.status() == StatusCode::BAD_REQUEST && shown != version {
            // Another build's process is there than a moment ago. What it cannot read has no effect.
            (response, _) = send(shown).await?;
        }
        if response.status() != StatusCode::OK {
            return Err(Error::Status(response.status()));
        }
        let frame = Frame::decode(response.into_body())?;
        if frame.from != self.node {
            return Err(Error::Stranger(frame.from));
        }
        self.me.check(&frame)?;
        Ok(frame.message)
    }

    /// What the node says of itself; `None` when it does not answer, or another one does.
    pub async fn status(&self) -> Option<Status> {
        let request = Request::get("/status").body(Bytes::new()).ok()?;
        let answer = self
            .peer
            .call(Lane::Bulk, request, STATUS_WITHIN, Breakers::Respect)
            .await
            .ok()
            .filter(|answer| answer.status() == StatusCode::OK)?;
        let status: Status = serde_json::from_slice(answer.body()).ok()?;
        let is_it =
            status.role() == self.node.role && status.node().node_id == self.node.id.number();
        is_it.then_some(status)
    }

    fn request(&self, version: Version, frame: &Bytes) -> Result<Request<Bytes>, Error> {
        let frame = match version {
            Version::NEWEST => frame.clone(),
            older => Frame::translate(frame, older)?,
        };
        let mut request = post(self.path.clone(), CONTENT_TYPE, frame);
        if self.node.role != Role::Acceptor {
            request.headers_mut().insert(OUTCOMES_HEADER, OUTCOMES);
        }
        Ok(request)
    }

    /// Gets what lies below [`path`] at that node. What comes with a 200 is of this node's cluster.
    pub async fn get(&self, below: &str, timeout: Duration) -> Result<Response<Bytes>, Error> {
        let path = PathAndQuery::try_from(format!("{}{below}", self.path));
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = Uri::from(path.map_err(|_| Error::Status(StatusCode::NOT_FOUND))?);
        let answer = self
            .peer
            .call(Lane::Bulk, request, timeout, Breakers::Ignore)
            .await?;
        let theirs = answer.headers().get(CLUSTER_HEADER);
        let theirs = theirs.and_then(|cluster| ClusterId::parse(cluster.to_str().ok()?));
        self.me.cluster().ok_or(Error::NoCluster)?;
        if answer.status() == StatusCode::OK {
            self.me.check_cluster(theirs)?;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod largest;
#[cfg(test)]
mod versions;
