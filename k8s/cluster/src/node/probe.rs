//! Whether a container has started, can take work, and lives, by asking it.

use service::fetch;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

/// One question, and how often the same answer counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    /// Asked for.
    pub path: String,
    /// On this port.
    pub port: u16,
    /// Before the first time.
    pub delay: Duration,
    /// Between two times.
    pub period: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// That many failures in a row are one.
    pub failures: u32,
    /// And that many successes.
    pub successes: u32,
}

/// All of a container's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Probes {
    /// Whether it has started; until then the others are not asked.
    pub startup: Option<Probe>,
    /// Whether it can take work.
    pub readiness: Option<Probe>,
    /// Whether it lives.
    pub liveness: Option<Probe>,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// See [`Probes::startup`].
    Startup,
    /// See [`Probes::readiness`].
    Readiness,
    /// See [`Probes::liveness`].
    Liveness,
}

/// PURE: answers in a row.
#[derive(Debug, Default)]
pub(super) struct Row {
    latest: bool,
    length: u32,
}

impl Row {
    /// One more; what it shows, if it is enough to show anything.
    pub(super) fn add(&mut self, probe: &Probe, success: bool) -> Option<bool> {
        self.length = if self.latest == success { self.length.saturating_add(1) } else { 1 };
        self.latest = success;
        let needed = if success { probe.successes } else { probe.failures };
        (self.length >= needed).then_some(success)
    }
}

/// The probes of one run of a container.
pub(super) struct Asking {
    address: Ipv4Addr,
    asked: Vec<Asked>,
    has_started: bool,
}

struct Asked {
    kind: Kind,
    probe: Probe,
    due: Instant,
    row: Row,
}

impl Asking {
    /// Of a container that has just been started.
    pub(super) fn new(probes: &Probes, address: Ipv4Addr) -> Self {
        let all = [
            (Kind::Startup, &probes.startup),
            (Kind::Readiness, &probes.readiness),
            (Kind::Liveness, &probes.liveness),
        ];
        let asked = all.into_iter().filter_map(|(kind, probe)| {
            let probe = probe.clone()?;
            Some(Asked { kind, due: Instant::now() + probe.delay, probe, row: Row::default() })
        });
        Self { address, asked: asked.collect(), has_started: probes.startup.is_none() }
    }

    /// Whether it has started, as far as is known.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    /// Waits until the next probe is due and asks. What the answers come to, once they come to something.
    ///
    /// # Cancel safety
    /// A question that was not answered is asked again.
    pub(super) async fn next(&mut self) -> (Kind, bool) {
        loop {
            let wanted = |kind: Kind| (kind == Kind::Startup) != self.has_started;
            let Some(next) = self.asked.iter_mut().filter(|asked| wanted(asked.kind)).min_by_key(|asked| asked.due)
            else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(next.due).await;
            let address = format!("{}:{}", self.address, next.probe.port);
            let answer = fetch::get(&address, &next.probe.path, next.probe.timeout).await;
            let success = answer.is_ok_and(|(status, _)| status.is_success() || status.is_redirection());
            next.due = Instant::now() + next.probe.period;
            if let Some(shown) = next.row.add(&next.probe, success) {
                self.has_started |= next.kind == Kind::Startup && shown;
                return (next.kind, shown);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_in_a_row_show_something() {
        let second = Duration::from_secs(1);
        let probe = Probe {
            path: "/".into(),
            port: 1,
            delay: second,
            period: second,
            timeout: second,
            failures: 3,
            successes: 2,
        };
        let mut row = Row::default();
        let shown: Vec<Option<bool>> = [false, false, true, false, false, false, false, true, true, true]
            .into_iter()
            .map(|success| row.add(&probe, success))
            .collect();
        let (no, yes) = (Some(false), Some(true));
        assert_eq!(shown, [None, None, None, None, None, no, no, None, yes, yes]);
    }
}
