//! The ceiling: the proposer's HTTP server, which reads and checks a request as the proposer does and
//! answers it at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{StatusCode, header};
use node::problem::{Problem, Raw, finish};
use node::serve;
use node::wire::{OutcomeView, ProposeBody};
use testkit::cluster::ports;

/// A server in its own process.
pub(crate) struct Noop {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Noop {
    pub(crate) fn start() -> Noop {
        let port = ports::block(1);
        let program = std::env::current_exe().expect("a program knows its path");
        let child = Command::new(program)
            .args(["noop", &port.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .expect("this program starts");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the no-op server is not there");
            thread::sleep(Duration::from_millis(10));
        }
        Noop { child, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Noop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until it is killed.
pub(crate) fn serve(port: u16) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = serve::bind(port).expect("a free port");
        let app = finish(Router::new().route("/propose", post(propose)));
        let forever = std::future::pending();
        let options = serve::Options::default();
        serve::serve(listener, app, forever, options)
            .await
            .expect("it serves");
    });
}

async fn propose(Raw(body): Raw) -> Result<Response, Problem> {
    let request: ProposeBody<'_> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request("body", error.to_string()))?;
    let value = request
        .to_value()
        .map_err(|bad| Problem::bad_request(bad.field, bad.expected))?;
    let answer = OutcomeView {
        instance_id: Some(value.len() as u64),
        version: Some(1),
        ..OutcomeView::bare("COMMITTED", None)
    };
    let answer = serde_json::to_vec(&answer).unwrap_or_default();
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    Ok((StatusCode::OK, content_type, answer).into_response())
}
