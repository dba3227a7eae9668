//! The checks of Roundhouse on a Kubernetes cluster.

mod ceiling;
mod connections;
mod controllers;
mod external_metrics;
mod faults;
mod fixture;
mod model;
mod privileges;
mod scaling;
mod settings;
mod strangers;

pub use fixture::{Fixture, MAX_REPLICAS, ROLLOUT_TIMEOUT, measure_throughput};

use crate::access::ClusterOrigin;
use anyhow::{Result, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

/// A load for which one replica is enough on any machine, as a multiple of the throughput of one replica. On a slow
/// machine, a request takes a fifth of the objective, and a load of 0.3 needs two replicas.
const LIGHT_LOAD: f64 = 0.1;

/// A check of Roundhouse on a cluster. The checks run in this order: those that start with one replica come after the
/// start of a scaler. A scaler that remembers several rises of the load takes minutes to come down to one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// Each ServiceAccount may do what its program needs, and nothing else
    Privileges,
    /// For each pair of pods, the NetworkPolicies permit what must be permitted, and nothing else
    Connections,
    /// A setting of the operator holds for all programs, and applying the manifests again does not undo it
    Settings,
    /// An HPA scales up and down by the scaler's recommendation, which it gets through the API server
    ExternalMetrics,
    /// 30 s without the API server fail no request and lose no pod; then scaling goes on
    NoApiServer,
    /// `kubectl rollout restart` of the replicas under load fails no request
    RollingRestart,
    /// `kubectl rollout restart` of the dispatchers under load fails no request
    RollingDispatchers,
    /// Killing a replica's process, and deleting a replica's pod without grace, fails no request
    KilledPod,
    /// On a node with room for two replicas, the scaler stops at two and gives the reason; it uses room that is added
    Ceiling,
    /// A burst scales from one replica to at least three and back to one; no request fails
    Burst,
    /// After the leading scaler was killed, another scaler leads and scales
    KilledLeader,
    /// A model that comes from a volume, an image or a URL answers a request
    Model,
}

/// The kind of cluster that a check needs.
enum ClusterRequirement {
    /// The check changes objects in its namespace only.
    AnyCluster,
    /// The check changes the control plane or the node. It runs only on a cluster that this program has started.
    LocalCluster {
        /// What the check changes, as a sentence whose subject is "it".
        reason: &'static str,
    },
}

/// How a check ended.
enum CheckOutcome {
    /// The check passed. The text has the measured figures.
    Passed(String),
    /// The check failed. The text has the error.
    Failed(String),
    /// The check cannot run on this cluster. The text has the reason.
    Skipped(&'static str),
}

/// Runs `checks` one after another, even if one fails, and prints a line for each.
///
/// # Errors
/// If a check failed.
pub async fn run(fixture: &mut Fixture, checks: &[Check]) -> Result<()> {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for check in checks {
        let name = check.name();
        let spinner = ProgressBar::new_spinner().with_message(name.clone());
        spinner.enable_steady_tick(Duration::from_millis(100));
        let start = Instant::now();
        let outcome = check.outcome(fixture).await;
        spinner.finish_and_clear();
        let (word, text) = match &outcome {
            CheckOutcome::Passed(figures) => ("ok", figures.as_str()),
            CheckOutcome::Failed(error) => ("FAILED", error.as_str()),
            CheckOutcome::Skipped(reason) => ("skipped", *reason),
        };
        println!("{word:<7} {name:<20} {:>4} s  {text}", start.elapsed().as_secs());
        match outcome {
            CheckOutcome::Passed(_) => passed += 1,
            CheckOutcome::Failed(_) => failed += 1,
            CheckOutcome::Skipped(_) => skipped += 1,
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    let folder = fixture.cluster.folder.display();
    let logs = fixture.cluster.where_logs_are();
    ensure!(failed == 0, "{failed} of {} checks failed; reports are in {folder}. {logs}", checks.len());
    Ok(())
}

impl Check {
    /// The name by which `--only` selects the check.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Runs the check, unless the cluster does not fulfil its requirement.
    async fn outcome(self, fixture: &mut Fixture) -> CheckOutcome {
        if let (ClusterRequirement::LocalCluster { reason }, ClusterOrigin::Existing(_)) =
            (self.requirement(), &fixture.cluster.origin)
        {
            return CheckOutcome::Skipped(reason);
        }
        match self.run(fixture).await {
            Ok(figures) => CheckOutcome::Passed(figures),
            Err(error) => CheckOutcome::Failed(format!("{error:#}")),
        }
    }

    fn requirement(self) -> ClusterRequirement {
        let reason = match self {
            Self::Privileges | Self::Burst | Self::RollingRestart | Self::RollingDispatchers | Self::KilledLeader => {
                return ClusterRequirement::AnyCluster;
            }
            Self::Connections => "it tries connections from inside pods, so it runs only without --kubeconfig",
            Self::Settings => "it asks pods for their settings, so it runs only without --kubeconfig",
            Self::ExternalMetrics => {
                "it registers external.metrics.k8s.io, which another program may serve, so it runs only without \
                 --kubeconfig"
            }
            Self::Model => "it puts a model on the node, so it runs only without --kubeconfig",
            Self::KilledPod => "it kills a process on the node, so it runs only without --kubeconfig",
            Self::NoApiServer => "it kills the API server, so it runs only without --kubeconfig",
            Self::Ceiling => "it changes the cores of the node, so it runs only without --kubeconfig",
        };
        ClusterRequirement::LocalCluster { reason }
    }

    /// Runs the check. Returns the measured figures.
    async fn run(self, fixture: &mut Fixture) -> Result<String> {
        match self {
            Self::Privileges => privileges::check(&fixture.cluster.kubectl).await,
            Self::Connections => connections::check(fixture).await,
            Self::Settings => settings::check(fixture).await,
            Self::ExternalMetrics => external_metrics::check(fixture).await,
            Self::Model => model::check(fixture).await,
            Self::Burst => scaling::check_burst(fixture).await,
            Self::RollingRestart => faults::check_rolling_restart(fixture, "replica").await,
            Self::RollingDispatchers => faults::check_rolling_restart(fixture, "dispatcher").await,
            Self::KilledPod => faults::check_killed_pod(fixture).await,
            Self::KilledLeader => faults::check_killed_leader(fixture).await,
            Self::NoApiServer => faults::check_no_api_server(fixture).await,
            Self::Ceiling => ceiling::check(fixture).await,
        }
    }
}
