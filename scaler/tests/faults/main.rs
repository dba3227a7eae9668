//! Faults around the scaler, end to end: the scaler's program, a real control plane, and fake dispatchers that fail on
//! command. No fault may scale anything down. The scaler must report each fault, and must scale again after the fault
//! has ended.
//!
//! A fault has to last longer than every delay that holds replicas. The scenarios therefore take long, and run
//! concurrently within a few tests.

#[path = "../common/control_plane.rs"]
mod control_plane;
#[path = "../../readings/tests/prometheus/server.rs"]
mod prometheus;
#[path = "../common/script.rs"]
mod script;

mod clock;
mod cluster;
mod fake_dispatcher;
mod history;
mod keda;
mod metrics;
mod program;
mod real_dispatcher;
mod rivals;
mod test_deployment;

use control_plane::control_plane;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};

/// The length of a fault. It is longer than the law keeps replicas, and longer than scaling down pauses after a start
/// or an outage.
const FAULT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_cluster_never_scale_down() {
    let Some(control_plane) = control_plane() else { return };
    let shared = || control_plane.clone();
    run_concurrently([
        cluster::the_api_server_is_away(shared()).boxed_local(),
        cluster::the_target_is_deleted(shared()).boxed_local(),
        cluster::a_quota_is_exceeded(shared()).boxed_local(),
        cluster::the_scaler_may_not_scale(shared()).boxed_local(),
        rivals::one_leads_and_the_other_takes_over(shared()).boxed_local(),
        rivals::a_list_has_one_scaler().boxed_local(),
        keda::keda_is_advised_and_nothing_is_written(shared()).boxed_local(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps_and_outages_of_prometheus_never_scale_down() {
    let Some(control_plane) = control_plane() else { return };
    let shared = || control_plane.clone();
    let mut scenarios: Vec<LocalBoxFuture<'static, ()>> =
        history::PrometheusFault::ALL.map(|fault| history::the_source_is_out(shared(), fault).boxed_local()).into();
    let clocks = [clock::FigureSource::Dispatchers, clock::FigureSource::Prometheus];
    scenarios.extend(clocks.map(|source| clock::the_clock_jumps(shared(), source).boxed_local()));
    run_concurrently(scenarios).await;
}

/// Runs the scenarios concurrently. Each runs to its end, even if others fail.
async fn run_concurrently(scenarios: impl IntoIterator<Item = impl Future<Output = ()> + 'static>) {
    let all = async {
        let mut running = JoinSet::new();
        for scenario in scenarios {
            running.spawn_local(scenario);
        }
        let mut failed = 0;
        while let Some(ended) = running.join_next().await {
            // The scenario has printed its panic message already.
            failed += usize::from(ended.is_err());
        }
        assert_eq!(failed, 0, "the number of failed scenarios; their messages are above");
    };
    LocalSet::new().run_until(all).await;
}
