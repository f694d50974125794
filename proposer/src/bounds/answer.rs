//! Answers count as long as they are in memory: until the client has taken them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::Kind;
use super::connection::{Connection, Held};

/// A piece of an answer with the share that it takes.
struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same bytes. Their share is free again when the last of them is written.
pub(super) fn counted(bytes: Bytes, mut held: Held) -> Bytes {
    held.send(bytes.len());
    Bytes::from_owner(Counted { bytes, _held: held })
}

/// An answer whose size is known, counted piece by piece as it goes to the socket.
pub(super) struct CountedBody {
    body: Body,
    connection: Arc<Connection>,
    /// For the first piece, which is nearly always the whole.
    held: Option<Held>,
}

impl CountedBody {
    pub(super) fn new(body: Body, connection: Arc<Connection>, held: Option<Held>) -> CountedBody {
        CountedBody {
            body,
            connection,
            held,
        }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let count = |bytes: Bytes| {
            let held = this.held.take().unwrap_or_else(|| {
                let share = this
                    .connection
                    .bounds
                    .budget(Kind::Answers)
                    .force(bytes.len());
                Held::new(&this.connection, Kind::Answers, share)
            });
            counted(bytes, held)
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(count))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
