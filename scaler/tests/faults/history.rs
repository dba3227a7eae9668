//! Faults of a Prometheus that is the source of figures: it no longer scrapes, no longer answers, or is killed.

use crate::FAULT;
use crate::control_plane::{ControlPlane, say};
use crate::dispatcher::{Dispatcher, Manner};
use crate::program::Scaler;
use crate::prometheus::{Prometheus, SKIPPED};
use crate::scene::{LOAD, MORE_LOAD, Scene};
use std::sync::Arc;
use std::time::Instant;

/// The fault of Prometheus.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The dispatcher refuses connections, so Prometheus cannot scrape it.
    Down,
    /// The dispatcher is removed from Prometheus's configuration.
    Forgotten,
    /// Prometheus is stopped by SIGSTOP and does not answer.
    Stopped,
    /// Prometheus is killed.
    Killed,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [Self::Down, Self::Forgotten, Self::Stopped, Self::Killed];

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Down => {
                &["the figures of {instance=", "s old, over the limit of 4 s", "does Prometheus still reach it?"]
            }
            Self::Forgotten => &["Prometheus has no series for", "check its targets"],
            Self::Stopped => &["did not answer within 2s", "is it overloaded"],
            Self::Killed => &["Connection refused", "is that Prometheus running?"],
        }
    }
}

/// The flags that make Prometheus the source, with a short limit for the age of figures.
pub(crate) fn flags(prometheus: &Prometheus) -> [String; 2] {
    [format!("--prometheus=http://{}", prometheus.address), "--prometheus-stale-after=4s".into()]
}

pub(crate) async fn the_source_is_out(control_plane: Arc<ControlPlane>, fault: Fault) {
    let scene = Scene::new(&control_plane, &format!("prometheus-{fault:?}").to_lowercase()).await;
    let dispatcher = Dispatcher::start(LOAD);
    let Some(mut prometheus) = Prometheus::start(&scene.folder("prometheus"), &[dispatcher.address]).await else {
        return say(SKIPPED);
    };
    let mut scaler = Scaler::start(&scene.kubeconfig(|_| {}), &scene.flags(&flags(&prometheus))).await;
    scaler.until_steady().await;
    let began = Instant::now();
    match fault {
        Fault::Down => dispatcher.behave(Manner::Refuses),
        Fault::Forgotten => prometheus.scrape(&[]).await,
        Fault::Stopped => prometheus.signal("STOP").await,
        Fault::Killed => prometheus.kill().await,
    }
    let said = scaler.until_said(fault.words()).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    let during = scene.asked_since(began);
    for text in [scaler.ask(&["status"]).await, scaler.ask(&["explain", "--all", "--last", "1000"]).await] {
        assert!(fault.words().iter().all(|word| text.contains(word)), "{text}");
    }
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    assert!(age >= FAULT.as_secs_f64() - 5.0, "{fault:?}: {age}");
    assert!(scaler.metric("scaler_decisions_total", &["action=\"hold\"", "reason=\"no_observation\""]).await >= 5.0);
    assert_eq!(during, [4], "{fault:?}");

    dispatcher.load(MORE_LOAD);
    match fault {
        Fault::Down => dispatcher.behave(Manner::Well),
        Fault::Forgotten => prometheus.scrape(&[dispatcher.address]).await,
        Fault::Stopped => prometheus.signal("CONT").await,
        Fault::Killed => prometheus.restart().await,
    }
    scene.until_asked(&scaler, "more, when all is well again", |replicas| replicas >= 6).await;
    scene.never_went_down();
    scaler.is_well();
    say(&format!("prometheus {fault:?}: {said}; {during:?}"));
}
