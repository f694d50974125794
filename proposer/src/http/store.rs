//! The store's routes: reads.

use axum::Router;
use utoipa::OpenApi;

use super::resources::{self, PageQuery, Reads};
use super::{Node, RoleState, router};
use crate::database::{Database, Error};
use crate::driver::barrier::Barrier;
use crate::driver::end_on_disk_error;
use crate::driver::store::Handle;
use crate::paxos::machine::{Page, Resource};
use crate::wire::answers::{NodeStatus, StoreStatus};

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
    let store = Store {
        node,
        handle,
        barrier,
    };
    router(resources::routes(), store)
}

impl RoleState for Store {
    fn node(&self) -> &Node {
        &self.node
    }

    type Status = StoreStatus;

    fn status(&self, node: NodeStatus) -> StoreStatus {
        let applied = *self.handle.applied().borrow();
        let halted = self.handle.halted();
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
            state: match (&halted, self.handle.is_caught_up()) {
                (Some(_), _) => "halted",
                (None, true) => "following",
                (None, false) => "catching-up",
            },
            halted,
        }
    }

    fn not_ready(&self) -> Option<String> {
        match (self.handle.halted(), self.handle.is_caught_up()) {
            (Some(why), _) => Some(format!("applying has stopped: {why}")),
            (None, false) => Some("still catching up with the learners".to_owned()),
            (None, true) => None,
        }
    }
}

impl Reads for Store {
    fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    fn halted(&self) -> Option<String> {
        self.handle.halted()
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
