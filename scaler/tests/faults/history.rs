//! Faults of the Prometheus from which the scaler reads figures: it no longer scrapes, no longer answers, or is killed.

use crate::FAULT;
use crate::control_plane::{ControlPlane, report};
use crate::fake_dispatcher::{Behavior, FakeDispatcher};
use crate::program::Scaler;
use crate::prometheus::{Prometheus, SKIPPED};
use crate::test_deployment::{LOAD, MORE_LOAD, TestDeployment};
use std::sync::Arc;
use std::time::Instant;

/// A fault of Prometheus, or between it and the dispatcher.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PrometheusFault {
    /// The dispatcher refuses connections, so Prometheus cannot scrape it.
    Down,
    /// The dispatcher is removed from Prometheus's configuration.
    Forgotten,
    /// Prometheus is stopped by SIGSTOP and does not answer.
    Stopped,
    /// Prometheus is killed.
    Killed,
}

impl PrometheusFault {
    pub(crate) const ALL: [Self; 4] = [Self::Down, Self::Forgotten, Self::Stopped, Self::Killed];

    /// Words that the explanation must contain.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Down => &["the figures of {app=", "s old, over the limit of 4 s", "does Prometheus still reach it?"],
            Self::Forgotten => &["Prometheus has no series for", "check its targets"],
            Self::Stopped => &["did not answer within 2s", "is it overloaded"],
            Self::Killed => &["Connection refused", "is that Prometheus running?"],
        }
    }
}

/// The flags that make Prometheus the source of figures, with a short limit for their age.
pub(crate) fn flags(prometheus: &Prometheus) -> [String; 2] {
    [format!("--prometheus=http://{}", prometheus.address), "--prometheus-stale-after=4s".into()]
}

pub(crate) async fn the_source_is_out(control_plane: Arc<ControlPlane>, fault: PrometheusFault) {
    let deployment = TestDeployment::new(&control_plane, &format!("prometheus-{fault:?}").to_lowercase()).await;
    let dispatcher = FakeDispatcher::start(LOAD);
    let Some(mut prometheus) = Prometheus::start(&deployment.folder("prometheus"), &[dispatcher.address]).await else {
        return report(SKIPPED);
    };
    let mut scaler = Scaler::start(&deployment.kubeconfig(|_| {}), &deployment.flags(&flags(&prometheus))).await;
    scaler.wait_until_steady().await;
    let began = Instant::now();
    match fault {
        PrometheusFault::Down => dispatcher.set_behavior(Behavior::Refuses),
        PrometheusFault::Forgotten => prometheus.scrape(&[]).await,
        PrometheusFault::Stopped => prometheus.signal("STOP").await,
        PrometheusFault::Killed => prometheus.kill().await,
    }
    let explanation = scaler.wait_for_explanation(fault.words()).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    let during = deployment.replicas_since(began);
    for text in
        [scaler.run_command(&["status"]).await, scaler.run_command(&["explain", "--all", "--last", "1000"]).await]
    {
        assert!(fault.words().iter().all(|word| text.contains(word)), "{text}");
    }
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    assert!(age >= FAULT.as_secs_f64() - 5.0, "{fault:?}: the last observation is {age} s old");
    assert!(scaler.metric("scaler_decisions_total", &["action=\"hold\"", "reason=\"no_observation\""]).await >= 5.0);
    assert_eq!(during, [4], "{fault:?}");

    dispatcher.set_load(MORE_LOAD);
    match fault {
        PrometheusFault::Down => dispatcher.set_behavior(Behavior::Well),
        PrometheusFault::Forgotten => prometheus.scrape(&[dispatcher.address]).await,
        PrometheusFault::Stopped => prometheus.signal("CONT").await,
        PrometheusFault::Killed => prometheus.restart().await,
    }
    deployment.wait_for_replicas(&scaler, "six replicas after the fault", |replicas| replicas >= 6).await;
    deployment.assert_never_scaled_down();
    scaler.assert_healthy();
    report(&format!("prometheus {fault:?}: {explanation}; {during:?}"));
}
