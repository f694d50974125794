//! The store's routes: reads.

use std::sync::Arc;

use api::status::{NodeStatus, StoreStatus};
use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::response::Response;
use axum::routing::get;
use paxos::ids::Slot;
use paxos::machine::{Page, Resource};
use utoipa::OpenApi;

use super::resources::{self, PageQuery, Reads};
use super::snapshots::{SnapshotQuery, name_cluster};
use super::{Node, RoleState, router};
use crate::database::{Database, Error};
use crate::driver::barrier::Barrier;
use crate::driver::end_on_disk_error;
use crate::driver::store::Handle;
use crate::link;
use crate::problem::{Params, Problem};

/// What a store answers.
#[derive(OpenApi)]
#[openapi(
    paths(resources::resource, resources::resources),
    components(schemas(StoreStatus))
)]
pub(crate) struct Api;

struct Store {
    node: Node,
    handle: Handle,
    barrier: Barrier,
}

/// All of the store's routes.
pub fn routes(node: Node, handle: Handle, barrier: Barrier) -> Router {
    let path = link::path(node.name());
    let named = middleware::map_response_with_state(node.clone(), name_cluster);
    let own = Router::new()
        .route(&format!("{path}/snapshot"), get(snapshot))
        .layer(named);
    let store = Store {
        node,
        handle,
        barrier,
    };
    router(resources::routes().merge(own), store)
}

/// A piece of a snapshot, for a learner.
async fn snapshot(
    State(state): State<Arc<Store>>,
    Params(query): Params<SnapshotQuery>,
) -> Result<Response, Problem> {
    query
        .answer(move |slot, offset| state.handle.snapshot(slot, offset))
        .await
}

impl RoleState for Store {
    fn node(&self) -> &Node {
        &self.node
    }

    type Status = StoreStatus;

    fn status(&self, node: NodeStatus) -> StoreStatus {
        let applied = *self.handle.applied().borrow();
        let halt = self.handle.halt();
        StoreStatus {
            node,
            is_leader: false,
            leader_id: None,
            last_instance_id: applied.0,
            committed_instance_id: self.handle.committed().0,
            applied_instance_id: applied.0,
            durable_instance_id: applied.0,
            follows_learner: self.handle.follows(),
            resources: self.handle.database().resource_count().ok(),
            sessions: self.handle.session_count(),
            state: match (&halt, self.handle.is_caught_up()) {
                (Some(_), _) => "halted".into(),
                (None, true) => "following".into(),
                (None, false) => "catching-up".into(),
            },
            halt_reason: halt.as_ref().map(|halt| halt.reason),
            halted: halt.map(|halt| halt.why),
        }
    }

    fn not_ready(&self) -> Option<String> {
        if let Some(why) = self.handle.halted() {
            return Some(format!("applying has stopped: {why}"));
        }
        if self.handle.is_caught_up() {
            return None;
        }
        let trouble = self.handle.trouble();
        Some(trouble.unwrap_or_else(|| "still catching up with the learners".to_owned()))
    }
}

impl Reads for Store {
    fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    fn halted(&self) -> Option<String> {
        self.handle.halted()
    }

    fn doubt(&self) -> Option<String> {
        self.handle.trouble()
    }

    fn is_level(&self) -> bool {
        self.handle.is_caught_up()
    }

    fn is_behind(&self) -> bool {
        let applied = *self.handle.applied().borrow();
        applied == Slot::ZERO || applied < self.handle.committed()
    }

    async fn resource(&self, name: String) -> Option<Resource> {
        self.read(move |database| database.resource(&name)).await
    }

    async fn page(&self, query: PageQuery) -> Page {
        let limits = query.limits();
        self.read(move |database| database.page(&query.prefix, query.after.as_deref(), limits))
            .await
    }
}

impl Store {
    /// Reads where waiting for the disk holds nobody else up. Damage ends the process, as the next
    /// start looks at all of the database and says what is wrong.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> T {
        let database = self.handle.database().clone();
        match tokio::task::spawn_blocking(move || read(&database)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => end_on_disk_error(&error),
            Err(error) => end_on_disk_error(&error),
        }
    }
}
