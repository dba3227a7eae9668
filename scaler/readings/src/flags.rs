//! The flags that name the source of readings.

use super::ReadingSource;
use super::dispatchers::Dispatchers;
use super::endpoints::DispatcherFlag;
use super::prometheus::{Prometheus, Queries};
use anyhow::{Result, bail, ensure};
use clap::Args;
use prometheus_api::{BaseUrl, Client};
use service::options::positive_duration;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The unchecked flags that name the source of readings.
#[derive(Debug, Clone, Args)]
pub struct SourceFlags {
    /// Dispatcher whose metrics are read: HOST:PORT, or dns:NAME:PORT for a dispatcher at each address of the name,
    /// such as a headless Service; may be repeated
    #[arg(
        long,
        env = "ROUNDHOUSE_DISPATCHER",
        value_name = "PLACE",
        default_value = "127.0.0.1:5052",
        value_delimiter = ',',
        conflicts_with = "prometheus"
    )]
    pub dispatcher: Vec<DispatcherFlag>,
    /// Prometheus as the source, instead of the dispatchers
    #[command(flatten)]
    pub access: PrometheusFlags,
    /// Age above which figures cannot change the replicas; three scrape intervals of Prometheus are advised
    #[arg(
        long,
        env = "ROUNDHOUSE_PROMETHEUS_STALE_AFTER",
        value_name = "TIME",
        default_value = "45s",
        value_parser = positive_duration,
        requires = "prometheus"
    )]
    pub prometheus_stale_after: Duration,
    /// Query for all series of all dispatchers, instead of the default one; it must keep the names of the series
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_QUERY", value_name = "PROMQL", requires = "prometheus")]
    pub prometheus_query: Option<String>,
    /// Query for the time of each dispatcher's newest sample in seconds since 1970, instead of the default one
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_AGE_QUERY", value_name = "PROMQL", requires = "prometheus")]
    pub prometheus_age_query: Option<String>,
    /// Query for dispatchers that Prometheus cannot scrape, instead of the default one, which finds them by the labels
    /// instance and job of their figures; the labels of each element must be those of the figures or of the target
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_DOWN_QUERY", value_name = "PROMQL", requires = "prometheus")]
    pub prometheus_down_query: Option<String>,
}

/// The flags that name a Prometheus and select the dispatchers whose series are read.
#[derive(Debug, Clone, Args)]
pub struct PrometheusFlags {
    /// Address of a Prometheus from which the metrics are read, such as `http://prometheus.monitoring:9090`; https
    /// trusts the system's authorities, or those in the PEM file that SSL_CERT_FILE names
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS", value_name = "URL")]
    pub prometheus: Option<BaseUrl>,
    /// File with the bearer token for Prometheus; it is read again for each query
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_TOKEN_FILE", value_name = "FILE", requires = "prometheus")]
    pub prometheus_token_file: Option<PathBuf>,
    /// Label matchers that select the dispatchers, such as namespace="shop",job="dispatcher"; by default, all are read
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_SELECTOR", value_name = "MATCHERS", requires = "prometheus")]
    pub prometheus_selector: Option<String>,
}

impl PrometheusFlags {
    /// The client of the Prometheus; `None` if no Prometheus is named.
    ///
    /// # Errors
    /// If the token, or the certificates for https, cannot be read.
    pub fn client(&self) -> Result<Option<Client>> {
        let client = |base: &BaseUrl| Client::new(base.clone(), self.prometheus_token_file.clone());
        Ok(self.prometheus.as_ref().map(client).transpose()?)
    }

    /// The label matchers without braces; empty for all dispatchers.
    ///
    /// # Errors
    /// If the flag has braces.
    pub fn selector(&self) -> Result<&str> {
        let selector = self.prometheus_selector.as_deref().unwrap_or_default();
        ensure!(
            !selector.contains(['{', '}']),
            "--prometheus-selector ({selector}) has braces; give the matchers alone, such as job=\"dispatcher\""
        );
        Ok(selector)
    }
}

impl TryFrom<SourceFlags> for ReadingSource {
    type Error = anyhow::Error;

    fn try_from(flags: SourceFlags) -> Result<Self> {
        let selector = flags.access.selector()?;
        let Some(client) = flags.access.client()? else {
            let mut dispatchers = BTreeSet::new();
            if let Some(twice) = flags.dispatcher.into_iter().find_map(|dispatcher| dispatchers.replace(dispatcher)) {
                bail!("--dispatcher {twice} is given twice; name each dispatcher once");
            }
            return Ok(Self::Dispatchers(Dispatchers::new(dispatchers).into()));
        };
        let mut queries = Queries::of(selector);
        let given = [
            ("prometheus-query", flags.prometheus_query),
            ("prometheus-age-query", flags.prometheus_age_query),
            ("prometheus-down-query", flags.prometheus_down_query),
        ];
        for (name, query) in &given {
            let is_empty = query.as_ref().is_some_and(|query| query.trim().is_empty());
            ensure!(!is_empty, "--{name} is empty; leave it out to use the default query");
        }
        let [figures, ages, down] = given.map(|(_, query)| query);
        if let Some(figures) = figures {
            queries.set_figures(figures);
        }
        queries.ages = ages.unwrap_or(queries.ages);
        queries.down = down.unwrap_or(queries.down);
        Ok(Self::Prometheus(Prometheus::new(client, queries, flags.prometheus_stale_after).into()))
    }
}
