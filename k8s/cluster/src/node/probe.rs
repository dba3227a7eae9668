//! Probes: whether a container has started, can take requests, and is alive.

use service::fetch;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

/// A probe by HTTP GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpProbe {
    /// The path of the request.
    pub path: String,
    /// The port of the request.
    pub port: u16,
    /// Time from the start of the container to the first request.
    pub delay: Duration,
    /// Time between two requests.
    pub period: Duration,
    /// Time that an answer may take.
    pub timeout: Duration,
    /// Failures in a row after which the probe has failed.
    pub failure_threshold: u32,
    /// Successes in a row after which the probe has succeeded.
    pub success_threshold: u32,
}

/// The probes of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ContainerProbes {
    /// Whether the container has started. Until then there are no other probes.
    pub startup: Option<HttpProbe>,
    /// Whether the container can take requests.
    pub readiness: Option<HttpProbe>,
    /// Whether the container is alive.
    pub liveness: Option<HttpProbe>,
}

/// The purpose of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    /// See [`ContainerProbes::startup`].
    Startup,
    /// See [`ContainerProbes::readiness`].
    Readiness,
    /// See [`ContainerProbes::liveness`].
    Liveness,
}

/// PURE: the latest answers that were alike.
#[derive(Debug, Default)]
pub(super) struct Streak {
    is_success: bool,
    length: u32,
}

impl Streak {
    /// Adds an answer. Returns the result of the probe, if the streak has reached its threshold.
    pub(super) fn add(&mut self, probe: &HttpProbe, is_success: bool) -> Option<bool> {
        self.length = if self.is_success == is_success { self.length.saturating_add(1) } else { 1 };
        self.is_success = is_success;
        let threshold = if is_success { probe.success_threshold } else { probe.failure_threshold };
        (self.length >= threshold).then_some(is_success)
    }
}

/// Sends the probes of one run of a container.
pub(super) struct Prober {
    address: Ipv4Addr,
    probes: Vec<ScheduledProbe>,
    has_started: bool,
}

struct ScheduledProbe {
    kind: ProbeKind,
    probe: HttpProbe,
    due: Instant,
    streak: Streak,
}

impl Prober {
    /// The probes of a container at `address` that has just been started.
    pub(super) fn new(probes: &ContainerProbes, address: Ipv4Addr) -> Self {
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

    /// Whether the startup probe has succeeded, or there is none.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    /// Sends probes when they are due, until one has a result: its kind, and whether it has succeeded.
    ///
    /// # Cancel safety
    /// A probe whose answer was not awaited is sent again.
    pub(super) async fn next(&mut self) -> (ProbeKind, bool) {
        loop {
            let is_active = |kind: ProbeKind| (kind == ProbeKind::Startup) != self.has_started;
            let active = self.probes.iter_mut().filter(|probe| is_active(probe.kind));
            let Some(next) = active.min_by_key(|probe| probe.due) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(next.due).await;
            let address = format!("{}:{}", self.address, next.probe.port);
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
    fn a_probe_has_a_result_after_enough_equal_answers_in_a_row() {
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
