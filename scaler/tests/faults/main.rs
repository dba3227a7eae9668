//! Faults around the scaler, end to end: the scaler's program, a real control plane, and stub dispatchers that
//! fail on command. No fault may scale anything down. The scaler must report each fault, and must scale again after
//! the fault has ended.
//!
//! A fault has to last longer than every delay that holds replicas. The scenes therefore take long, and run
//! concurrently within a few tests.

#[path = "../common/control_plane.rs"]
mod control_plane;
#[path = "../prometheus/server.rs"]
mod prometheus;

mod clock;
mod cluster;
mod dispatcher;
mod history;
mod live;
mod metrics;
mod program;
mod rivals;
mod scene;

use control_plane::control_plane;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};

/// Length of a fault: longer than the law keeps replicas, and than the pause of scaling down after a start or outage.
const FAULT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_cluster_never_scale_down() {
    let Some(control_plane) = control_plane() else { return };
    let it = || control_plane.clone();
    together([
        cluster::the_api_server_is_away(it()).boxed_local(),
        cluster::the_target_is_deleted(it()).boxed_local(),
        cluster::a_quota_is_exceeded(it()).boxed_local(),
        cluster::the_scaler_may_not_scale(it()).boxed_local(),
        rivals::one_leads_and_the_other_takes_over(it()).boxed_local(),
        rivals::a_list_has_one_scaler().boxed_local(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps_and_outages_of_prometheus_never_scale_down() {
    let Some(control_plane) = control_plane() else { return };
    let it = || control_plane.clone();
    let mut scenes: Vec<LocalBoxFuture<'static, ()>> =
        history::Fault::ALL.map(|fault| history::the_source_is_out(it(), fault).boxed_local()).into();
    let clocks = [clock::Source::Dispatchers, clock::Source::Prometheus];
    scenes.extend(clocks.map(|source| clock::the_clock_jumps(it(), source).boxed_local()));
    together(scenes).await;
}

/// Runs the scenes concurrently. Each runs to its end, even if others fail.
async fn together(scenes: impl IntoIterator<Item = impl Future<Output = ()> + 'static>) {
    let play = async {
        let mut playing = JoinSet::new();
        for scene in scenes {
            playing.spawn_local(scene);
        }
        let mut failed = 0;
        while let Some(ended) = playing.join_next().await {
            // The panic message of the scene has been printed already.
            failed += usize::from(ended.is_err());
        }
        assert_eq!(failed, 0, "scenes failed; their messages are above");
    };
    LocalSet::new().run_until(play).await;
}
