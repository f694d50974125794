//! Makes metrics, registers those that a role has, and remembers them for the documentation.

use api::env::Role;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result,
};

/// A metric, as the documentation shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// Its full name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels, but for those that every metric has.
    pub labels: Vec<String>,
    /// What it means.
    pub help: String,
}

pub(super) struct Maker {
    role: Role,
    pub(super) registry: Registry,
    pub(super) made: Vec<Described>,
}

impl Maker {
    pub(super) fn new(role: Role) -> Result<Maker> {
        let labels = [("role".to_owned(), role.name().to_owned())].into();
        Ok(Maker {
            role,
            registry: Registry::new_custom(Some(super::PREFIX.into()), Some(labels))?,
            made: Vec::new(),
        })
    }

    /// Registers a metric if this role is among `roles`. It can be set in any case.
    pub(super) fn add<C: Collector + Clone + 'static>(
        &mut self,
        roles: &[Role],
        kind: &'static str,
        metric: C,
    ) -> Result<C> {
        if roles.contains(&self.role) {
            let described = metric.desc().into_iter().map(|desc| Described {
                name: format!("{}_{}", super::PREFIX, desc.fq_name),
                kind,
                labels: desc.variable_labels.clone(),
                help: desc.help.clone(),
            });
            self.made.extend(described);
            self.registry.register(Box::new(metric.clone()))?;
        }
        Ok(metric)
    }

    pub(super) fn gauge(&mut self, roles: &[Role], name: &str, help: &str) -> Result<IntGauge> {
        let gauge = IntGauge::new(name, help)?;
        self.add(roles, "gauge", gauge)
    }

    pub(super) fn gauges(
        &mut self,
        roles: &[Role],
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<IntGaugeVec> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &[label])?;
        self.add(roles, "gauge", gauges)
    }

    pub(super) fn counter(&mut self, roles: &[Role], name: &str, help: &str) -> Result<IntCounter> {
        let counter = IntCounter::new(name, help)?;
        self.add(roles, "counter", counter)
    }

    /// One counter for each of these values of a label, from the start.
    pub(super) fn counters(
        &mut self,
        roles: &[Role],
        name: &str,
        help: &str,
        (label, values): (&str, &[&str]),
    ) -> Result<IntCounterVec> {
        let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
        for value in values {
            counters.with_label_values(&[value]);
        }
        self.add(roles, "counter", counters)
    }

    pub(super) fn histogram(
        &mut self,
        roles: &[Role],
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(roles, "histogram", Histogram::with_opts(opts)?)
    }

    pub(super) fn histograms(
        &mut self,
        roles: &[Role],
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(super::SECONDS.to_vec());
        self.add(roles, "histogram", HistogramVec::new(opts, labels)?)
    }
}
