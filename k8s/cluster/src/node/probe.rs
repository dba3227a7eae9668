//! Sends the probes of a container: whether it has started, can take requests, and is alive.

use service::fetch;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// A probe that sends HTTP GET requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpProbe {
    /// The path of the requests.
    pub path: String,
    /// The port to which the requests are sent.
    pub port: u16,
    /// The time between the start of the container and the first request.
    pub delay: Duration,
    /// The time between two requests.
    pub period: Duration,
    /// The time after which a request without an answer has failed.
    pub timeout: Duration,
    /// The number of failures in a row after which the probe has failed.
    pub failure_threshold: u32,
    /// The number of successes in a row after which the probe has succeeded.
    pub success_threshold: u32,
}

/// The probes of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ContainerProbes {
    /// The probe that shows whether the container has started. No other probe is sent before it has succeeded.
    pub startup: Option<HttpProbe>,
    /// The probe that shows whether the container can take requests.
    pub readiness: Option<HttpProbe>,
    /// The probe that shows whether the container is alive.
    pub liveness: Option<HttpProbe>,
}

/// The purpose of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    /// The startup probe shows whether the container has started.
    Startup,
    /// The readiness probe shows whether the container can take requests.
    Readiness,
    /// The liveness probe shows whether the container is alive.
    Liveness,
}

/// The latest answers in a row that were all successes, or all failures. Pure.
#[derive(Debug, Default)]
pub(super) struct Streak {
    is_success: bool,
    /// The number of these answers.
    length: u32,
}

impl Streak {
    /// Adds an answer. Returns whether the probe has succeeded; `None` if the streak is shorter than the threshold.
    pub(super) fn add(&mut self, probe: &HttpProbe, is_success: bool) -> Option<bool> {
        self.length = if self.is_success == is_success { self.length.saturating_add(1) } else { 1 };
        self.is_success = is_success;
        let threshold = if is_success { probe.success_threshold } else { probe.failure_threshold };
        (self.length >= threshold).then_some(is_success)
    }
}

/// Sends the probes of one run of a container.
pub(super) struct Prober {
    address: IpAddr,
    probes: Vec<ScheduledProbe>,
    /// Whether the startup probe has succeeded, or the container has none.
    has_started: bool,
}

struct ScheduledProbe {
    kind: ProbeKind,
    probe: HttpProbe,
    due: Instant,
    streak: Streak,
}

impl Prober {
    /// A prober for a container at `address` that has just been started.
    pub(super) fn new(probes: &ContainerProbes, address: IpAddr) -> Self {
        let all = [
            (ProbeKind::Startup, &probes.startup),
            (ProbeKind::Readiness, &probes.readiness),
            (ProbeKind::Liveness, &probes.liveness),
        ];
        let scheduled = all.into_iter().filter_map(|(kind, probe)| {
            let probe = probe.clone()?;
            Some(ScheduledProbe { kind, due: Instant::now() + probe.delay, probe, streak: Streak::default() })
        });
        Self { address, probes: scheduled.collect(), has_started: probes.startup.is_none() }
    }

    /// Whether the startup probe has succeeded, or the container has none.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    /// Sends probes when they are due, until one has a result. Returns the kind of that probe, and whether it has
    /// succeeded.
    ///
    /// # Cancel safety
    /// If the future is dropped, a probe that was not answered yet is sent again by the next call.
    pub(super) async fn next(&mut self) -> (ProbeKind, bool) {
        loop {
            let is_active = |kind: ProbeKind| (kind == ProbeKind::Startup) != self.has_started;
            let active = self.probes.iter_mut().filter(|probe| is_active(probe.kind));
            let Some(next) = active.min_by_key(|probe| probe.due) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(next.due).await;
            let address = SocketAddr::from((self.address, next.probe.port)).to_string();
            let answer = fetch::get(&address, &next.probe.path, next.probe.timeout).await;
            let is_success = answer.is_ok_and(|(status, _)| status.is_success() || status.is_redirection());
            next.due = Instant::now() + next.probe.period;
            if let Some(result) = next.streak.add(&next.probe, is_success) {
                self.has_started |= next.kind == ProbeKind::Startup && result;
                return (next.kind, result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_a_result_when_its_streak_reaches_the_threshold() {
        let second = Duration::from_secs(1);
        let probe = HttpProbe {
            path: "/".into(),
            port: 1,
            delay: second,
            period: second,
            timeout: second,
            failure_threshold: 3,
            success_threshold: 2,
        };
        let mut streak = Streak::default();
        let results: Vec<Option<bool>> = [false, false, true, false, false, false, false, true, true, true]
            .into_iter()
            .map(|is_success| streak.add(&probe, is_success))
            .collect();
        let (failure, success) = (Some(false), Some(true));
        assert_eq!(results, [None, None, None, None, None, failure, failure, None, success, success]);
    }
}
