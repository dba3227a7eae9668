//! What a dispatcher knows of the others that share its replicas. Pure: time is an argument.

use admission::grants::Backlog;
use admission::optimism::Optimism;
use admission::peers::Peers;
use std::time::{Duration, Instant};

/// The least time between two exchanges of backlogs.
pub const EXCHANGE: Duration = Duration::from_millis(50);

/// The time after which the backlogs of others no longer count. While a replica tells them, they are [`EXCHANGE`] old at
/// most, so the replica is gone or out of reach then.
const BACKLOG_LASTS: Duration = Duration::from_millis(300);

/// A request that gets a slot within this time has only waited for the answer to a question, not for a slot. It is longer
/// than a round trip.
pub const ASKING: Duration = Duration::from_millis(5);

/// What a dispatcher knows of the others.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Whether requests are sent without a question.
    pub optimism: Optimism,
    /// The backlog of all other dispatchers, and the instant at which a replica told it; `None` before the first time.
    others: Option<(Backlog, Instant)>,
    /// The backlog that this dispatcher told last, and the instant of that; `None` before the first time.
    told: Option<(Backlog, Instant)>,
}

impl Sharing {
    /// Records the backlog of all others, as a replica has told it.
    pub fn record_others(&mut self, backlog: Backlog, now: Instant) {
        self.others = Some((backlog, now));
    }

    /// The backlog of all others; `None` if it is unknown.
    fn others(&self, now: Instant) -> Option<(Backlog, Instant)> {
        self.others.filter(|(_, at)| now.saturating_duration_since(*at) < BACKLOG_LASTS)
    }

    /// The requests at the other dispatchers, as admission sees them; `None` if they are unknown.
    pub fn peers(&self, now: Instant) -> Option<Peers> {
        let (Backlog { punctual, late }, at) = self.others(now)?;
        Some(Peers { punctual, late, age: now.saturating_duration_since(at) })
    }

    /// Whether punctual requests wait at other dispatchers, so that late ones wait for them.
    pub fn others_have_punctual(&self, now: Instant) -> bool {
        self.others(now).is_some_and(|(backlog, _)| backlog.punctual > 0)
    }

    /// The instant at which the `backlog` of this dispatcher should be told; `None` if no request waits at any dispatcher.
    /// Others learn at once that their late requests need wait no longer.
    pub fn exchange_at(&self, backlog: Backlog, now: Instant) -> Option<Instant> {
        let others = self.others(now).map_or(Backlog::default(), |(backlog, _)| backlog);
        let Some((told, at)) = self.told else { return (backlog.sum() > 0).then_some(now) };
        if backlog.sum() + others.sum() + told.sum() == 0 {
            return None;
        }
        let frees_late = told.punctual > 0 && backlog.punctual == 0 && others.late > 0;
        Some(if frees_late { now } else { at + EXCHANGE })
    }

    /// Records that the `backlog` of this dispatcher was told.
    pub fn record_told(&mut self, backlog: Backlog, now: Instant) {
        self.told = Some((backlog, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn backlog(punctual: usize, late: usize) -> Backlog {
        Backlog { punctual, late }
    }

    #[test]
    fn backlogs_are_told_every_50_ms_while_requests_wait_anywhere() {
        let (mut sharing, now) = (Sharing::default(), Instant::now());
        assert_eq!(sharing.exchange_at(backlog(0, 0), now), None);
        assert_eq!(sharing.exchange_at(backlog(1, 0), now), Some(now));
        sharing.record_told(backlog(1, 0), now);
        assert_eq!(sharing.exchange_at(backlog(9, 0), now), Some(now + EXCHANGE));
        assert_eq!(sharing.exchange_at(backlog(0, 0), now), Some(now + EXCHANGE), "the others should learn it");
        sharing.record_told(backlog(0, 0), now);
        assert_eq!(sharing.exchange_at(backlog(0, 0), now), None);
        sharing.record_others(backlog(0, 2), now);
        assert_eq!(sharing.exchange_at(backlog(0, 0), now), Some(now + EXCHANGE), "requests wait elsewhere");
        assert_eq!(sharing.exchange_at(backlog(0, 0), now + MS(300)), None, "what was told long ago does not count");
    }

    #[test]
    fn late_requests_of_others_do_not_wait_for_the_next_exchange() {
        let (mut sharing, now) = (Sharing::default(), Instant::now());
        sharing.record_told(backlog(3, 0), now);
        sharing.record_others(backlog(0, 2), now);
        assert_eq!(sharing.exchange_at(backlog(0, 1), now + MS(7)), Some(now + MS(7)));
        assert_eq!(sharing.exchange_at(backlog(1, 1), now + MS(7)), Some(now + EXCHANGE));
    }

    #[test]
    fn the_requests_of_others_count_for_a_while() {
        let (mut sharing, now) = (Sharing::default(), Instant::now());
        assert_eq!(sharing.peers(now), None);
        sharing.record_others(backlog(2, 1), now);
        assert_eq!(sharing.peers(now + MS(30)), Some(Peers { punctual: 2, late: 1, age: MS(30) }));
        assert!(sharing.others_have_punctual(now + MS(299)));
        assert!(!sharing.others_have_punctual(now + MS(300)));
        assert_eq!(sharing.peers(now + MS(300)), None);
    }
}
