//! Brings another learner's snapshot here, piece by piece; a piece that is here is not asked again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use tracing::debug;

use crate::link::{Link, path};
use crate::paxos::ids::Slot;
use crate::peers::{Breakers, Lane};
use crate::snapshots::Snapshots;

/// Names the slot of a snapshot in an answer.
pub(crate) const SLOT_HEADER: &str = "x-snapshot-instance";
/// Names the length of the whole snapshot, bytes.
pub(crate) const LENGTH_HEADER: &str = "x-snapshot-length";
const TIMEOUT: Duration = Duration::from_secs(10);

/// The slot of a snapshot that is here completely and covers `floor`; `None` if nobody has one.
pub(super) async fn fetch(links: &[Link], snapshots: &Snapshots, floor: Slot) -> Option<Slot> {
    for link in links {
        match fetch_from(link, snapshots, floor).await {
            Ok(slot) => return Some(slot),
            Err(why) => debug!(learner = %link.node, why, "no snapshot"),
        }
    }
    None
}

async fn fetch_from(link: &Link, snapshots: &Snapshots, floor: Slot) -> Result<Slot, String> {
    let path = path(link.node);
    let (slot, ..) = ask(link, format!("{path}/snapshot?offset=0")).await?;
    if slot < floor {
        return Err(format!(
            "its newest is of instance {slot}, and {floor} is needed"
        ));
    }
    loop {
        let offset = snapshots.received(slot);
        let piece = format!("{path}/snapshot?instance={slot}&offset={offset}");
        let (_, bytes, length) = ask(link, piece).await?;
        if bytes.is_empty() {
            return match offset == length {
                true => Ok(slot),
                false => Err("it sent nothing of what is left".to_owned()),
            };
        }
        let (keeper, written) = (snapshots.clone(), bytes);
        let write = move || keeper.receive(slot, offset, &written);
        let received = tokio::task::spawn_blocking(write).await;
        let received = received.map_err(|error| error.to_string())?;
        received.map_err(|error| error.to_string())?;
    }
}

async fn ask(link: &Link, path: String) -> Result<(Slot, Bytes, u64), String> {
    let request = Request::get(path).body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = link
        .peer
        .call(Lane::Bulk, request, TIMEOUT, Breakers::Ignore);
    let answer = answer.await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let number = |headers: &HeaderMap, name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let headers = answer.headers();
    let slot = number(headers, SLOT_HEADER).ok_or("it named no instance")?;
    let length = number(headers, LENGTH_HEADER).ok_or("it named no length")?;
    Ok((Slot(slot), answer.into_body(), length))
}
