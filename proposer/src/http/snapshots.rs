//! Pieces of a node's state for another node: learners have them for learners and stores, stores for
//! learners that find what they need nowhere else.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderValue;
use paxos::ids::Slot;
use serde::Deserialize;

use super::{Node, reserve};
use crate::driver::learner::transfer::{LENGTH_HEADER, SLOT_HEADER};
use crate::link::CLUSTER_HEADER;
use crate::problem::Problem;
use crate::snapshots::Error;

/// The most that a piece has.
const PIECE_BYTES: usize = 1 << 20;

/// Which piece.
#[derive(Deserialize)]
pub(super) struct SnapshotQuery {
    instance: Option<u64>,
    offset: u64,
}

impl SnapshotQuery {
    /// The answer, with what `read` gives for a slot and an offset where waiting holds nobody up.
    pub(super) async fn answer(
        self,
        read: impl FnOnce(Option<Slot>, u64) -> Result<Option<(Slot, Bytes, u64)>, Error>
        + Send
        + 'static,
    ) -> Result<Response, Problem> {
        reserve(PIECE_BYTES).await?;
        let read = move || read(self.instance.map(Slot), self.offset);
        let (slot, bytes, length) = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return Err(Problem::not_found("there is no such snapshot")),
            Ok(Err(error)) => return Err(unreadable(&error)),
            Err(error) => return Err(unreadable(&error)),
        };
        let headers = [
            (SLOT_HEADER, slot.0.to_string()),
            (LENGTH_HEADER, length.to_string()),
        ];
        Ok((headers, bytes).into_response())
    }
}

/// Says which cluster an answer of the cluster's own is of.
pub(super) async fn name_cluster(State(node): State<Node>, mut response: Response) -> Response {
    let cluster = node.identity.cluster().map(|cluster| cluster.to_string());
    if let Some(Ok(cluster)) = cluster.map(|cluster| HeaderValue::from_str(&cluster)) {
        response.headers_mut().insert(CLUSTER_HEADER, cluster);
    }
    response
}

fn unreadable(error: &dyn std::error::Error) -> Problem {
    Problem::unavailable(
        format!("the snapshot cannot be read: {error}"),
        Duration::from_secs(30),
    )
}
