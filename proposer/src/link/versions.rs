//! Two builds whose newest versions of the encoding differ understand each other.

use std::sync::{Arc, Mutex};

use api::env::Config;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::TcpListener;

use super::*;

/// A peer of some build, and which versions came to it.
struct Build {
    /// The versions that it reads.
    reads: (u8, u8),
    /// Whether it shows its newest.
    shows: bool,
    heard: Vec<u8>,
}

type Shared = Arc<Mutex<Build>>;

async fn hear(State(build): State<Shared>, body: Bytes) -> Response {
    let mut build = build.lock().unwrap();
    let version = body[1];
    build.heard.push(version);
    let mut response = if (build.reads.0..=build.reads.1).contains(&version) {
        let frame = Frame::decode(body).unwrap();
        let answer = Frame {
            from: acceptor(),
            ..frame
        };
        answer.encode().into_response()
    } else {
        StatusCode::BAD_REQUEST.into_response()
    };
    if build.shows {
        let newest = u16::from(build.reads.1);
        let headers = response.headers_mut();
        headers.insert(WIRE_HEADER, HeaderValue::from(newest));
    }
    response
}

fn acceptor() -> NodeName {
    NodeName {
        role: Role::Acceptor,
        id: NodeId::new(1).unwrap(),
    }
}

#[test]
fn a_node_shows_its_newest_version() {
    let mut headers = HeaderMap::new();
    show_version(&mut headers);
    let shown = headers[WIRE_HEADER].to_str().unwrap();
    assert_eq!(shown.parse(), Ok(Version::NEWEST.number()));
}

/// As from a proxy, or while the node has no place for it: that says nothing about the node.
#[test]
fn an_answer_without_the_header_counts_from_a_node_only() {
    let answer = |status: u16, shown: Option<&'static str>| {
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        let shown = shown.map(HeaderValue::from_static);
        shown.and_then(|shown| answer.headers_mut().insert(WIRE_HEADER, shown));
        shown_version(&answer)
    };
    assert_eq!(answer(200, None), Some(Version::OLDEST));
    assert_eq!(answer(400, None), Some(Version::OLDEST));
    assert_eq!(answer(503, None), None);
    assert_eq!(answer(502, None), None);
    assert_eq!(answer(503, Some("3")), Some(Version::V3));
    assert_eq!(answer(200, Some("4")), Some(Version::V3));
    assert_eq!(answer(200, Some("three")), Some(Version::OLDEST));
}

#[tokio::test]
async fn peers_are_spoken_to_in_the_newest_version_that_they_show_through_upgrades_and_back() {
    let build: Shared = Arc::new(Mutex::new(Build {
        reads: (2, 2),
        shows: false,
        heard: Vec::new(),
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let path = path(acceptor());
    let router = Router::new().route(&path, post(hear));
    let serve = axum::serve(listener, router.with_state(build.clone()));
    tokio::spawn(serve.into_future());

    let dir = tempfile::tempdir().unwrap();
    let me = Identity::open(&Config {
        data_dir: dir.path().to_owned(),
        ..Config::new(Role::Proposer, NodeId::new(1).unwrap())
    })
    .unwrap();
    let link = Link::new(acceptor(), &address, &me).unwrap();
    let ask = async || {
        let frame = me.frame(Message::Done);
        let answer = link.ask(
            Lane::Control,
            frame,
            Duration::from_secs(10),
            Breakers::Ignore,
        );
        assert_eq!(answer.await.unwrap(), Message::Done);
        std::mem::take(&mut build.lock().unwrap().heard)
    };

    assert_eq!(ask().await, [2], "nothing is known of it");
    assert_eq!(ask().await, [2], "it shows nothing");
    // It is upgraded.
    (build.lock().unwrap().reads, build.lock().unwrap().shows) = ((2, 3), true);
    assert_eq!(ask().await, [2]);
    assert_eq!(ask().await, [3]);
    // And rolled back: what it cannot read is sent again at once.
    (build.lock().unwrap().reads, build.lock().unwrap().shows) = ((2, 2), false);
    assert_eq!(ask().await, [3, 2]);
    assert_eq!(ask().await, [2]);
    // A build after this one reads no version 2 any more.
    (build.lock().unwrap().reads, build.lock().unwrap().shows) = ((3, 4), true);
    assert_eq!(ask().await, [2, 3]);
    assert_eq!(ask().await, [3]);
    // What nobody reads is refused after two messages, not sent without end.
    (build.lock().unwrap().reads, build.lock().unwrap().shows) = ((4, 5), true);
    let refused = link
        .ask(
            Lane::Control,
            me.frame(Message::Done),
            Duration::from_secs(10),
            Breakers::Ignore,
        )
        .await;
    assert!(
        matches!(refused, Err(Error::Status(StatusCode::BAD_REQUEST))),
        "{refused:?}"
    );
    assert!(build.lock().unwrap().heard.len() <= 2);
}
