//! The scaler's wall clock jumps forward and back by an hour. Needs libfaketime (`apt-get install libfaketime`).

use crate::control_plane::{ControlPlane, eventually, say};
use crate::dispatcher::Dispatcher;
use crate::history;
use crate::program::{Scaler, command};
use crate::prometheus::{Prometheus, SKIPPED};
use crate::scene::{LOAD, MORE_LOAD, REPLICAS, Scene};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use scaler::leader::election;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Offset of the scaler's clock from the true time, in seconds.
const FORTH: i64 = 3600;
const BACK: i64 = -3600;

/// A load that needs all of the eight replicas, in requests per second.
const MOST_LOAD: f64 = 75.0;

/// The source of the scaler's figures.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Dispatchers,
    Prometheus,
}

/// The path of libfaketime where Debian installs it, for any architecture; `None` if it is missing.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

/// Moves the scaler's clock to `seconds` from the true time.
fn set(clock: &Path, seconds: i64) {
    let new = clock.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}")).expect("writable");
    std::fs::rename(&new, clock).expect("in the same folder");
}

pub(crate) async fn the_clock_jumps(control_plane: Arc<ControlPlane>, source: Source) {
    let Some(library) = library() else {
        return say("skipped: there is no libfaketime; to have it: apt-get install libfaketime");
    };
    let scene = Scene::new(&control_plane, &format!("clock-{source:?}").to_lowercase()).await;
    let dispatcher = Dispatcher::start(LOAD);
    let prometheus = match source {
        Source::Dispatchers => None,
        Source::Prometheus => match Prometheus::start(&scene.folder("prometheus"), &[dispatcher.address]).await {
            Some(prometheus) => Some(prometheus),
            None => return say(SKIPPED),
        },
    };
    let from = match &prometheus {
        Some(prometheus) => history::flags(prometheus).to_vec(),
        None => vec![format!("--dispatcher={}", dispatcher.address)],
    };
    // The scaler verifies the API server's certificate, so that a wrong clock could make the certificate invalid.
    let authority = control_plane.authority();
    if authority.is_none() {
        say("skipped: the API server's certificate is not known, and not checked against a clock that jumps");
    }
    let kubeconfig = scene.kubeconfig(|kubeconfig| {
        let cluster = kubeconfig.clusters[0].cluster.as_mut().expect("a cluster");
        if let Some(authority) = authority {
            cluster.insecure_skip_tls_verify = None;
            cluster.certificate_authority = Some(authority.display().to_string());
        }
    });
    let clock = scene.folder("clock").join("time");
    set(&clock, 0);
    let mut scaler = Scaler::run(
        command(&scene.flags(&[&from[..], &["--identity=jumping".into()]].concat()))
            .env("KUBECONFIG", &kubeconfig)
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1"),
    )
    .await;
    scaler.until_steady().await;
    let before = scaler.latest().await["at_seconds"].as_f64().expect("a time");
    // A second scaler, which would take over if the first scaler's lease seemed to have expired.
    let rival = Scaler::start(&kubeconfig, &scene.flags(&[&from[..], &["--identity=rival".into()]].concat())).await;

    for (seconds, needed, load) in [(FORTH, REPLICAS, MORE_LOAD), (BACK, 6, MOST_LOAD)] {
        let began = Instant::now();
        set(&clock, seconds);
        until_renewed(&scene, seconds).await;
        // A false expiry of the lease would show within this time.
        tokio::time::sleep(election::LEASE + election::RETRY).await;
        let during = scene.asked_since(began);
        assert!(during.iter().all(|replicas| *replicas >= needed), "{seconds:+} s: {during:?}");
        dispatcher.load(load);
        scene.until_asked(&scaler, "more, whatever time it is", |replicas| replicas >= needed + 2).await;
    }
    assert!(scaler.ask(&["status"]).await.contains("leads     yes"));
    assert!(rival.ask(&["status"]).await.contains("leads     no"));
    assert!(scaler.metric("scaler_observation_age_seconds", &[]).await < 5.0);
    for decision in scaler.decisions().await {
        let is_later = decision["at_seconds"].as_f64() > Some(before);
        let is_whole = !["no_observation", "refused"].contains(&decision["reason"].as_str().expect("a reason"));
        assert!(is_whole || !is_later, "{decision}");
    }
    scaler.is_well();
    let said = scaler.latest().await["explanation"].take();
    say(&format!("clock, figures of {source:?}: {said}; {:?}", scene.asked()));
}

/// Waits until the lease carries a renewal time that is `seconds` off, which proves that the scaler's clock has jumped.
async fn until_renewed(scene: &Scene, seconds: i64) {
    let leases = Api::<Lease>::namespaced(scene.client.clone(), &scene.namespace);
    eventually(&format!("a lease of {seconds:+} s"), async || {
        let renewed = leases.get("roundhouse-scaler-replica").await.expect("it is held").spec?.renew_time?.0;
        let off = renewed.as_second() - Timestamp::now().as_second();
        ((off - seconds).abs() < 60).then_some(())
    })
    .await;
}
