//! The flags that name the source of readings.

use super::Source;
use super::dispatchers::Dispatchers;
use super::endpoints::Place;
use super::prometheus::{Prometheus, Queries};
use anyhow::{Result, bail, ensure};
use clap::Args;
use prometheus_api::{Base, Client};
use service::options::positive_duration;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The flags as they were given.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// A dispatcher whose metrics are read, HOST:PORT, or dns:NAME:PORT for one at each address of the name, such as a
    /// headless Service; may be repeated
    #[arg(
        long,
        env = "ROUNDHOUSE_DISPATCHER",
        value_name = "PLACE",
        default_value = "127.0.0.1:5052",
        value_delimiter = ',',
        conflicts_with = "prometheus"
    )]
    pub dispatcher: Vec<Place>,
    /// The Prometheus that is read instead
    #[command(flatten)]
    pub access: Access,
    /// Oldest figures that may change the replicas; three times Prometheus's scrape interval is advised
    #[arg(
        long,
        env = "ROUNDHOUSE_PROMETHEUS_STALE_AFTER",
        value_name = "TIME",
        default_value = "45s",
        value_parser = positive_duration,
        requires = "prometheus"
    )]
    pub prometheus_stale_after: Duration,
    /// Query that replaces the default one for all series of all dispatchers; it must keep the dispatcher's names
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_QUERY", value_name = "PROMQL", requires = "prometheus")]
    pub prometheus_query: Option<String>,
    /// Query that replaces the default one for the time of each dispatcher's newest sample, in seconds since 1970
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_AGE_QUERY", value_name = "PROMQL", requires = "prometheus")]
    pub prometheus_age_query: Option<String>,
    /// Query that replaces the default one for dispatchers that cannot be scraped, by instance and job
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_DOWN_QUERY", value_name = "PROMQL", requires = "prometheus")]
    pub prometheus_down_query: Option<String>,
}

/// The flags that name a Prometheus, and which of its series are read.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// Read the metrics from this Prometheus, by its address, such as `http://prometheus.monitoring:9090`; https trusts
    /// the system's authorities, or those in the PEM file that SSL_CERT_FILE names
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS", value_name = "URL")]
    pub prometheus: Option<Base>,
    /// A file with the bearer token for Prometheus; read again for each query
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_TOKEN_FILE", value_name = "FILE", requires = "prometheus")]
    pub prometheus_token_file: Option<PathBuf>,
    /// Which dispatchers, as matchers of labels: namespace="shop",job="dispatcher"
    #[arg(long, env = "ROUNDHOUSE_PROMETHEUS_SELECTOR", value_name = "MATCHERS", requires = "prometheus")]
    pub prometheus_selector: Option<String>,
}

impl Access {
    /// The client of the Prometheus, if one is named.
    ///
    /// # Errors
    /// When the token cannot be read, or the certificates for https.
    pub fn client(&self) -> Result<Option<Client>> {
        let client = |base: &Base| Client::new(base.clone(), self.prometheus_token_file.clone());
        Ok(self.prometheus.as_ref().map(client).transpose()?)
    }

    /// The matchers that belong between the braces of a query; empty for all dispatchers.
    ///
    /// # Errors
    /// When they hold braces themselves.
    pub fn selector(&self) -> Result<&str> {
        let selector = self.prometheus_selector.as_deref().unwrap_or_default();
        ensure!(
            !selector.contains(['{', '}']),
            "--prometheus-selector ({selector}) holds braces; give the matchers alone, such as job=\"dispatcher\""
        );
        Ok(selector)
    }
}

impl TryFrom<Flags> for Source {
    type Error = anyhow::Error;

    fn try_from(flags: Flags) -> Result<Self> {
        let selector = flags.access.selector()?;
        let Some(client) = flags.access.client()? else {
            let mut places = BTreeSet::new();
            if let Some(twice) = flags.dispatcher.into_iter().find_map(|place| places.replace(place)) {
                bail!("--dispatcher {twice} is given twice; name each dispatcher once");
            }
            return Ok(Self::Dispatchers(Dispatchers::new(places)));
        };
        let mut queries = Queries::of(selector);
        for (name, query, given) in [
            ("prometheus-query", &mut queries.figures, flags.prometheus_query),
            ("prometheus-age-query", &mut queries.ages, flags.prometheus_age_query),
            ("prometheus-down-query", &mut queries.down, flags.prometheus_down_query),
        ] {
            if let Some(given) = given {
                let advice = "leave it out for the query of the dispatcher's own metrics";
                ensure!(!given.trim().is_empty(), "--{name} is empty; {advice}");
                *query = given;
            }
        }
        Ok(Self::Prometheus(Prometheus::new(client, queries, flags.prometheus_stale_after).into()))
    }
}
