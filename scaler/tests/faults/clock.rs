//! The scaler's wall clock jumps an hour forward and back. The tests need libfaketime (`apt-get install libfaketime`).

use crate::control_plane::{ControlPlane, report, wait_for};
use crate::fake_dispatcher::FakeDispatcher;
use crate::history;
use crate::program::{Scaler, command};
use crate::prometheus::{Prometheus, SKIPPED};
use crate::test_deployment::{LOAD, MORE_LOAD, REPLICAS, TestDeployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use scaler::leader::election;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// An hour, in seconds.
const HOUR: i64 = 3600;

/// A load that needs all of the eight replicas, in requests per second.
const MOST_LOAD: f64 = 75.0;

/// The source from which the scaler reads figures.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FigureSource {
    Dispatchers,
    Prometheus,
}

/// The path of libfaketime where Debian installs it, for any architecture; `None` if it is missing.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

/// Sets the scaler's clock `seconds` ahead of the true time, or behind if `seconds` is negative.
fn set(clock: &Path, seconds: i64) {
    let new = clock.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}")).expect("the folder is writable");
    std::fs::rename(&new, clock).expect("both paths are in one folder");
}

pub(crate) async fn the_clock_jumps(control_plane: Arc<ControlPlane>, source: FigureSource) {
    let Some(library) = library() else {
        return report("skipped: libfaketime is not installed; run apt-get install libfaketime");
    };
    let deployment = TestDeployment::new(&control_plane, &format!("clock-{source:?}").to_lowercase()).await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let prometheus = match source {
        FigureSource::Dispatchers => None,
        FigureSource::Prometheus => {
            match Prometheus::start(&deployment.folder("prometheus"), &[dispatcher.address]).await {
                Some(prometheus) => Some(prometheus),
                None => return report(SKIPPED),
            }
        }
    };
    let source_flags = match &prometheus {
        Some(prometheus) => history::flags(prometheus).to_vec(),
        None => vec![format!("--dispatcher={}", dispatcher.address)],
    };
    let flags = |identity: &str| deployment.flags(&[&source_flags[..], &[format!("--identity={identity}")]].concat());
    let kubeconfig = verifying_kubeconfig(&deployment);
    let clock = deployment.folder("clock").join("time");
    set(&clock, 0);
    let mut scaler = Scaler::spawn(
        command(&flags("jumping"))
            .env("KUBECONFIG", &kubeconfig)
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1"),
    )
    .await;
    scaler.wait_until_steady().await;
    let before = scaler.latest().await["at_seconds"].as_f64().expect("a decision has a time");
    // A second scaler would take over if the first scaler's lease seemed to have expired.
    let rival = Scaler::start(&kubeconfig, &flags("rival")).await;

    for (seconds, needed, load) in [(HOUR, REPLICAS, MORE_LOAD), (-HOUR, 6, MOST_LOAD)] {
        let began = Instant::now();
        set(&clock, seconds);
        wait_for_renewal(&deployment, seconds).await;
        // A lease that expired too early would be taken over within this time.
        tokio::time::sleep(election::LEASE + election::RETRY).await;
        let during = deployment.replicas_since(began);
        assert!(during.iter().all(|replicas| *replicas >= needed), "{seconds:+} s: {during:?}");
        dispatcher.set_load(load);
        deployment.wait_for_replicas(&scaler, "more replicas after the jump", |replicas| replicas >= needed + 2).await;
    }
    assert!(scaler.run_command(&["status"]).await.contains("leads     yes"));
    assert!(rival.run_command(&["status"]).await.contains("leads     no"));
    assert!(scaler.metric("scaler_observation_age_seconds", &[]).await < 5.0);
    assert_no_faults_since(&scaler, before).await;
    scaler.assert_healthy();
    let explanation = scaler.latest().await["explanation"].take();
    report(&format!("clock, figures of {source:?}: {explanation}; {:?}", deployment.replica_history()));
}

/// A kubeconfig with which the scaler verifies the API server's certificate, which a wrong clock could make invalid.
fn verifying_kubeconfig(deployment: &TestDeployment) -> PathBuf {
    let authority = deployment.control_plane.authority();
    if authority.is_none() {
        report("skipped: the API server's certificate is unknown, so it is not verified while the clock jumps");
    }
    deployment.kubeconfig(|kubeconfig| {
        let cluster = kubeconfig.clusters[0].cluster.as_mut().expect("the kubeconfig has a cluster");
        if let Some(authority) = authority {
            cluster.insecure_skip_tls_verify = None;
            cluster.certificate_authority = Some(authority.display().to_string());
        }
    })
}

/// Checks that every decision later than `before`, in seconds since the scaler's start, had an observation and was not
/// refused.
async fn assert_no_faults_since(scaler: &Scaler, before: f64) {
    for decision in scaler.decisions().await {
        let is_later = decision["at_seconds"].as_f64() > Some(before);
        let reason = decision["reason"].as_str().expect("a decision has a reason");
        assert!(!is_later || !["no_observation", "refused"].contains(&reason), "{decision}");
    }
}

/// Waits until the lease's renewal time is `seconds` ahead of the true time, so that the scaler's clock must have
/// jumped.
async fn wait_for_renewal(deployment: &TestDeployment, seconds: i64) {
    let leases = Api::<Lease>::namespaced(deployment.client.clone(), &deployment.namespace);
    wait_for(&format!("a lease that was renewed {seconds:+} s from the true time"), async || {
        let renewed = leases.get("roundhouse-scaler-replica").await.expect("the lease exists").spec?.renew_time?.0;
        let offset = renewed.as_second() - Timestamp::now().as_second();
        ((offset - seconds).abs() < 60).then_some(())
    })
    .await;
}
