//! What goes wrong around a scaler, end to end: the program itself, a real control plane, and dispatchers that
//! misbehave on command. Whatever it is, nothing is scaled down for it, the scaler says what is wrong, and goes on
//! when it is over.
//!
//! Faults have to last until everything has run out that keeps replicas for a while. So scenes that take their time run
//! at the same time, within few tests.

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

/// Longer than replicas are kept by the law, and than nothing is taken away after the start or an outage.
const FAULT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_the_cluster_nothing_scales_down() {
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
async fn whatever_time_it_is_and_however_old_figures_are_nothing_scales_down() {
    let Some(control_plane) = control_plane() else { return };
    let it = || control_plane.clone();
    let mut scenes: Vec<LocalBoxFuture<'static, ()>> =
        history::Fault::ALL.map(|fault| history::the_source_is_out(it(), fault).boxed_local()).into();
    let clocks = [clock::Source::Dispatchers, clock::Source::Prometheus];
    scenes.extend(clocks.map(|source| clock::the_clock_jumps(it(), source).boxed_local()));
    together(scenes).await;
}

/// Plays scenes at the same time, all of them to their ends even if some fail.
async fn together(scenes: impl IntoIterator<Item = impl Future<Output = ()> + 'static>) {
    let play = async {
        let mut playing = JoinSet::new();
        for scene in scenes {
            playing.spawn_local(scene);
        }
        let mut failed = 0;
        while let Some(ended) = playing.join_next().await {
            // Its own words have been printed.
            failed += usize::from(ended.is_err());
        }
        assert_eq!(failed, 0, "scenes failed; their messages are above");
    };
    LocalSet::new().run_until(play).await;
}
