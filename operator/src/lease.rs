//! Of several operators one works at a time: the one that holds the `Lease`. It stops before another
//! may begin, by its own clock: no two clocks are compared.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::names;

/// What is agreed about a lease's time.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A lease that did not change for this long, as seen by a candidate, is free.
    pub duration: Duration,
    /// A holder that could not renew for this long stops, well before another takes over.
    pub give_up: Duration,
    /// How often the others look, and how soon a holder tries again. A lease that was let go is taken
    /// within this.
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            duration: Duration::from_secs(15),
            give_up: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl Times {
    /// Why these cannot be; `None` when they can.
    pub fn problem(&self) -> Option<&'static str> {
        if self.give_up >= self.duration {
            return Some(
                "--lease-renew-deadline-s must be less than --lease-duration-s: a holder stops before \
                 another may begin",
            );
        }
        (self.retry * 2 > self.give_up).then_some(
            "--lease-retry-period-s must be at most half of --lease-renew-deadline-s: a renewal that fails \
             must be tried again in time",
        )
    }

    /// How often a holder renews: twice before it gives up.
    fn renewal(&self) -> Duration {
        self.give_up / 2 - self.retry / 2
    }
}

/// One call to the API server may take this long.
const CALL: Duration = Duration::from_secs(3);

/// The lease that operators compete for.
#[derive(Clone)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    namespace: String,
    identity: String,
    times: Times,
}

/// The lease, held.
pub struct Held {
    election: Election,
    /// As written last; its resource version is the proof that nobody wrote since.
    lease: Lease,
    /// When the last renewal that succeeded was sent.
    renewed: Instant,
}

/// The lease is no longer held: the process that worked under it must stop.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another process holds it, or somebody deleted it.
    #[error("the lease {name} was taken over or deleted")]
    Taken {
        /// Its name.
        name: String,
    },
    /// It may run out any time now.
    #[error("the lease {name} could not be renewed for {} s", .after.as_secs())]
    NotRenewed {
        /// Its name.
        name: String,
        /// For how long.
        after: Duration,
    },
}

/// What is known of a lease that another holds.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Election {
    /// The election by the lease of that name. `identity` must be this process's alone.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Election {
        Election {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            times: Times::default(),
        }
    }

    /// The same with other times. All that compete for the lease must have the same.
    #[must_use]
    pub fn with_times(self, times: Times) -> Election {
        Election { times, ..self }
    }

    /// Waits until this process holds the lease, however long that takes.
    pub async fn win(self) -> Held {
        let mut seen = None;
        loop {
            let asked = Instant::now();
            match timeout(CALL, self.attempt(&mut seen)).await {
                Ok(Ok(Some(lease))) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leads");
                    return Held {
                        election: self,
                        lease,
                        renewed: asked,
                    };
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "looking at the lease"),
                Err(_) => tracing::warn!(lease = self.name, "no answer about the lease in time"),
            }
            sleep(self.times.retry).await;
        }
    }

    /// The lease, if it was free and is ours now.
    async fn attempt(&self, seen: &mut Option<Seen>) -> kube::Result<Option<Lease>> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = self.claim(None);
            return unless_conflict(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        // Ours already, when the answer to an earlier attempt was lost.
        let free = holder.is_empty() || holder == self.identity;
        if !free && !self.ran_out(&lease, &spec, seen) {
            return Ok(None);
        }
        tracing::info!(lease = self.name, holder, "the lease is free");
        let claim = Lease {
            metadata: lease.metadata,
            ..self.claim(Some(&spec))
        };
        let params = PostParams::default();
        unless_conflict(self.api.replace(&self.name, &params, &claim).await)
    }

    /// Whether the lease stayed the same for as long as its holder said it would not.
    fn ran_out(&self, lease: &Lease, spec: &LeaseSpec, seen: &mut Option<Seen>) -> bool {
        let version = lease.metadata.resource_version.clone();
        match seen {
            Some(seen) if seen.version == version => {
                // A holder that says nothing, or nonsense, has as long as we would.
                let seconds = spec
                    .lease_duration_seconds
                    .and_then(|told| u64::try_from(told).ok());
                let seconds = seconds.filter(|seconds| *seconds > 0);
                let duration = seconds.map_or(self.times.duration, Duration::from_secs);
                seen.since.elapsed() >= duration
            }
            _ => {
                let since = Instant::now();
                *seen = Some(Seen { version, since });
                false
            }
        }
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let transitions = before.map_or(0, |spec| spec.lease_transitions.unwrap_or(0) + 1);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some([(names::MANAGED_BY_LABEL.into(), names::MANAGER.into())].into()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(self.times.duration.as_secs() as i32),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..Default::default()
            }),
        }
    }
}

impl Held {
    /// Works for as long as the lease is held, then lets it go. Work under a lost lease is dropped.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> Result<T, Lost> {
        let done = tokio::select! {
            biased;
            lost = self.keep() => return Err(lost),
            done = work => done,
        };
        self.release().await;
        Ok(done)
    }

    /// Renews until it cannot.
    async fn keep(&mut self) -> Lost {
        let name = self.election.name.clone();
        let times = self.election.times;
        loop {
            let deadline = self.renewed + times.give_up;
            sleep_until((self.renewed + times.renewal()).min(deadline)).await;
            while Instant::now() < deadline {
                let asked = Instant::now();
                let limit = deadline.min(asked + CALL);
                match timeout_at(limit, self.renew()).await {
                    Ok(Ok(true)) => {
                        self.renewed = asked;
                        break;
                    }
                    Ok(Ok(false)) => return Lost::Taken { name },
                    Ok(Err(error)) => tracing::warn!(lease = name, %error, "renewing the lease"),
                    Err(_) => tracing::warn!(lease = name, "the lease was not renewed in time"),
                }
                sleep_until(deadline.min(asked + times.retry)).await;
            }
            if self.renewed + times.give_up <= Instant::now() {
                let after = times.give_up;
                return Lost::NotRenewed { name, after };
            }
        }
    }

    /// Whether the lease is still ours, and renewed.
    async fn renew(&mut self) -> kube::Result<bool> {
        let Election { api, name, .. } = &self.election;
        let mut lease = self.lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        loop {
            match api.replace(name, &PostParams::default(), &lease).await {
                Ok(written) => {
                    self.lease = written;
                    return Ok(true);
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                Err(error) => return Err(error),
            }
            // Somebody wrote: another holder, or we ourselves when the answer was lost.
            let live = api.get_opt(name).await?;
            match live.map(|live| (live.metadata, live.spec.unwrap_or_default())) {
                Some((metadata, spec))
                    if spec.holder_identity.as_ref() == Some(&self.election.identity) =>
                {
                    lease.metadata = metadata;
                }
                _ => return Ok(false),
            }
        }
    }

    /// Lets the lease go, so that another need not wait until it runs out.
    async fn release(mut self) {
        let spec = self.lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        let Election { api, name, .. } = &self.election;
        let params = PostParams::default();
        match timeout(CALL, api.replace(name, &params, &self.lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = name, "let the lease go"),
            Ok(Err(error)) => tracing::warn!(lease = name, %error, "the lease was not let go"),
            Err(_) => tracing::warn!(lease = name, "the lease was not let go in time"),
        }
    }
}

/// `None` when another was faster.
fn unless_conflict(written: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
