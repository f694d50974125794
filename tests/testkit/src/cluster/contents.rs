//! What learners and stores hold, and whether all of them hold the same.

use std::time::Duration;

use api::env::Role;
use serde_json::Value as Json;

use super::{Cluster, Name, http};

/// A store that was away must be level again within this time.
pub const LEVEL_WITHIN: Duration = Duration::from_secs(30);

impl Cluster {
    /// Every resource of a learner or store, as it has them, page by page.
    ///
    /// # Panics
    /// When it does not show them.
    pub fn everything(&self, name: Name) -> Vec<Json> {
        let url = self.node(name).url();
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/resources?limit=1000&consistency=local{after}");
            let answer = http::get(&format!("{url}{path}")).expect("a node shows what it has");
            assert_eq!(answer.status, 200, "{name:?}: {}", answer.text());
            let mut page = answer.json();
            let resources = page["resources"].as_array();
            all.extend(resources.expect("a page has resources").iter().cloned());
            match page["next"].take() {
                Json::String(next) => after = format!("&after={next}"),
                other => {
                    assert_eq!(other, Json::Null);
                    return all;
                }
            }
        }
    }

    /// Waits until all learners and stores have applied the same, and returns every resource, or
    /// which nodes have others than the first learner.
    ///
    /// # Panics
    /// When they have not within [`LEVEL_WITHIN`].
    pub fn everything_everywhere(&self) -> Result<Vec<Json>, String> {
        let applied = self.wait_until_learners_agree(1);
        let stores = self.of_role(Role::Store);
        self.wait_for("the stores are level", LEVEL_WITHIN, || {
            let level = |name: &Name| self.node(*name).number("applied_instance_id");
            stores
                .iter()
                .all(|name| level(name) == Some(applied))
                .then_some(())
        });
        let nodes = self.of_role(Role::Learner).into_iter().chain(stores);
        let mut held = nodes.map(|name| (name, self.everything(name)));
        let (first, all) = held.next().expect("a cluster has learners");
        let others = held.filter(|(_, resources)| *resources != all);
        let others: Vec<Name> = others.map(|(name, _)| name).collect();
        match others.is_empty() {
            true => Ok(all),
            false => Err(format!("{others:?} hold other resources than {first:?}")),
        }
    }
}
