//! What a cluster has whose spec says nothing, for all clusters of an operator. Pure.

use std::collections::BTreeMap;

use api::env::Role;
use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::{PaxosCluster, RoleSpec};
use crate::fields::{check_contexts, extra, extra_labels};
use crate::invalid::Invalid;
use crate::{names, strict};

/// As in a PaxosCluster's spec. What one says there decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Defaults {
    /// The image of every node; `None`: the one released together with the operator.
    #[serde(skip)]
    pub image: Option<String>,
    /// Credentials for the image's registry.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The class of volumes that are still to be made; those that there are keep theirs.
    pub storage_class_name: Option<String>,
    /// Taints that every role tolerates.
    pub tolerations: Vec<Toleration>,
    /// Labels that a Kubernetes node must have to run any role.
    pub node_selector: BTreeMap<String, String>,
    /// The pods' security context.
    pub pod_security_context: Option<Value>,
    /// The nodes' containers' security context.
    pub security_context: Option<Value>,
    /// Labels of all that is made; a spec's are added to them.
    pub labels: BTreeMap<String, String>,
    /// Annotations of all that is made; a spec's are added to them.
    pub annotations: BTreeMap<String, String>,
}

impl Defaults {
    /// Reads them from JSON. Fails with the field that cannot be.
    pub fn parse(json: &str) -> Result<Defaults, Invalid> {
        let refuse = |problem: String| Invalid::new("CLUSTER_DEFAULTS", problem);
        let value: Value = serde_json::from_str(json).map_err(|error| refuse(error.to_string()))?;
        let defaults: Defaults = strict::parse("CLUSTER_DEFAULTS", &value, "defaults of clusters")?;
        check_contexts(
            "CLUSTER_DEFAULTS",
            defaults.pod_security_context.as_ref(),
            defaults.security_context.as_ref(),
        )?;
        let reserved = names::labels("", Some(Role::Learner));
        extra_labels("CLUSTER_DEFAULTS.labels", &defaults.labels, &reserved)?;
        let none = BTreeMap::new();
        extra("CLUSTER_DEFAULTS.annotations", &defaults.annotations, &none)?;
        Ok(defaults)
    }

    /// The object as if it said all this. The storage class is not among it: see
    /// [`crate::observe::Observed::with_classes`].
    pub(crate) fn complete(&self, mut object: PaxosCluster) -> PaxosCluster {
        let spec = &mut object.spec;
        spec.image = spec.image.take().or_else(|| self.image.clone());
        if spec.image_pull_secrets.is_empty() {
            spec.image_pull_secrets = self.image_pull_secrets.clone();
        }
        let roles = [
            &mut spec.proposer,
            &mut spec.acceptor,
            &mut spec.learner,
            &mut spec.store.role,
        ];
        for role in roles {
            self.complete_role(role);
        }
        let context = |own: &mut Option<Value>, default: &Option<Value>| {
            *own = own.take().or_else(|| default.clone());
        };
        context(&mut spec.pod_security_context, &self.pod_security_context);
        context(&mut spec.security_context, &self.security_context);
        let add = |own: &mut BTreeMap<String, String>, defaults: &BTreeMap<String, String>| {
            for (key, value) in defaults {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        };
        add(&mut spec.labels, &self.labels);
        add(&mut spec.annotations, &self.annotations);
        object
    }

    fn complete_role(&self, role: &mut RoleSpec) {
        if role.tolerations.is_empty() {
            role.tolerations = self.tolerations.clone();
        }
        if role.node_selector.is_empty() {
            role.node_selector = self.node_selector.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: Value) -> PaxosCluster {
        let object = json!({ "metadata": { "name": "ledger" }, "spec": spec });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_a_spec_says_decides_and_the_rest_is_the_operators() {
        let defaults = Defaults::parse(
            &json!({
                "imagePullSecrets": [{ "name": "mirror" }],
                "tolerations": [{ "key": "paxos", "operator": "Exists" }],
                "podSecurityContext": {},
                "labels": { "team": "data", "cost": "7" },
            })
            .to_string(),
        )
        .unwrap();
        let own = json!({
            "labels": { "team": "shop" },
            "acceptor": { "tolerations": [{ "key": "disks", "operator": "Exists" }] },
        });
        let spec = defaults.complete(object(own)).spec;
        assert_eq!(spec.image_pull_secrets[0].name, "mirror");
        assert_eq!(spec.learner.tolerations[0].key.as_deref(), Some("paxos"));
        assert_eq!(spec.acceptor.tolerations[0].key.as_deref(), Some("disks"));
        assert_eq!(spec.pod_security_context, Some(json!({})));
        assert_eq!(spec.labels["team"], "shop");
        assert_eq!(spec.labels["cost"], "7");
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (json, told) in [
            ("{", "CLUSTER_DEFAULTS"),
            (r#"{"lables":{}}"#, "lables"),
            (r#"{"podSecurityContext":{"runAsUsr":1}}"#, "runAsUsr"),
            (
                r#"{"labels":{"clustersync.io/role":"x"}}"#,
                "clustersync.io/role",
            ),
        ] {
            let error = Defaults::parse(json).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
