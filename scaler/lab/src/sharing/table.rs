//! The table of a comparison of protocols, and the worst figures of each protocol over all cases.

use super::case::Load;
use super::outcome::Outcome;
use super::protocol::Protocol;

/// The headings of the columns of [`row`].
pub(super) const HEADINGS: &str = "protocol   dispatchers  in time   lost pts  goodput    idle  beyond 1   stuck    busy  \
                                   Retry-After    504   died  messages";

/// The figures of one protocol in one case. `one` are those of a single dispatcher.
pub(super) fn row(protocol: Protocol, dispatchers: u16, it: &Outcome, one: &Outcome) -> String {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    format!(
        "{:10} {dispatchers:11} {:>9} {:>9.2} {:>8.1} % {:>7} {:>9} {:>7} {:>7} {:>12} {:>7} {:>5} {:>9.1}",
        protocol.name(),
        percent(it.attainment()),
        100.0 * (one.attainment() - it.attainment()),
        100.0 * goodput(it, one),
        percent(it.idle_share()),
        percent(it.idle_share() - one.idle_share()),
        percent(it.stuck_share()),
        percent(it.busy_share()),
        it.retry_after_ratio().map_or("–".into(), |ratio| format!("× {ratio:.2}")),
        percent(it.expired_share()),
        it.lost,
        it.messages_per_attempt(),
    )
}

/// Requests in time ÷ those of a single dispatcher.
fn goodput(it: &Outcome, one: &Outcome) -> f64 {
    it.in_time as f64 / one.in_time.max(1) as f64
}

/// The worst figures of a protocol with a number of dispatchers over all cases. All but the ratios of `Retry-After` are
/// differences to a single dispatcher.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worst {
    protocol: Protocol,
    dispatchers: u16,
    lost: f64,
    idle: f64,
    busy: f64,
    retry_after: Option<(f64, f64)>,
    goodput: f64,
    expired: f64,
}

impl Worst {
    pub(super) fn new(protocol: Protocol, dispatchers: u16) -> Self {
        let none = f64::NEG_INFINITY;
        Self {
            protocol,
            dispatchers,
            lost: none,
            idle: none,
            busy: none,
            retry_after: None,
            goodput: 1.0,
            expired: none,
        }
    }

    /// Records the figures of a case.
    pub(super) fn record(&mut self, load: Load, it: &Outcome, one: &Outcome) {
        self.idle = self.idle.max(it.idle_share() - one.idle_share());
        self.busy = self.busy.max(it.busy_share());
        if let Some(ratio) = it.retry_after_ratio() {
            let (least, most) = self.retry_after.unwrap_or((ratio, ratio));
            self.retry_after = Some((least.min(ratio), most.max(ratio)));
        }
        if load == Load::Overload {
            self.goodput = self.goodput.min(goodput(it, one));
            self.expired = self.expired.max(it.expired_share() - one.expired_share());
        } else {
            self.lost = self.lost.max(one.attainment() - it.attainment());
        }
    }

    /// The headings of the columns of [`Worst::row`], with the bars.
    pub(super) const HEADINGS: &str = "protocol   dispatchers  lost pts  idle beyond 1    busy    Retry-After   goodput  504 beyond 1\n\
                                       bar                       ≤ 0.10       ≤ 0.50 %  ≤ 2.0 %  × 0.50 – 1.50  ≥ 95.0 %      ≤ 0.50 %";

    pub(super) fn row(&self) -> String {
        let retry_after = |(least, most)| format!("× {least:.2} – {most:.2}");
        format!(
            "{:10} {:11} {:>9.2} {:>12.2} % {:>6.2} % {:>14} {:>7.1} % {:>11.2} %",
            self.protocol.name(),
            self.dispatchers,
            100.0 * self.lost,
            100.0 * self.idle,
            100.0 * self.busy,
            self.retry_after.map_or("–".into(), retry_after),
            100.0 * self.goodput,
            100.0 * self.expired,
        )
    }
}
