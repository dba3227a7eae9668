//! Whether a request would be answered in time if it were let in now. Pure: facts in, verdict out. The dispatcher asks
//! it, and so does the scaler's model of a dispatcher.

use std::time::Duration;

/// The part that a prediction may be wrong by: who would be answered only just in time counts as too late.
const UNCERTAINTY: f64 = 0.1;

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Requests that can still meet the objective; then the late ones, until their deadlines
    LateLast,
    /// Whoever came first
    Fifo,
}

/// What is known when a request arrives.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Requests waiting that can still meet the objective; under [`Order::Fifo`], all.
    pub punctual: usize,
    /// Requests waiting that cannot.
    pub late: usize,
    /// Whether a replica would take it at once.
    pub slot_is_free: bool,
    /// Slots of all replicas in rotation.
    pub capacity: usize,
    /// Mean time that a replica takes for a request; nothing before the first answer.
    pub service_time: Option<Duration>,
    /// The part of the capacity that is left for late requests, 0 to 1; see [`Spare`].
    pub spare: f64,
}

/// How long a request may take from now on.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To meet the objective.
    pub objective: Duration,
    /// To be answered at all.
    pub deadline: Duration,
}

/// Nothing if the request is to be let in; otherwise when to come back: as soon as one like it would be answered within
/// the objective, if nobody else came.
///
/// A place `n` from the head is reached after `n` departures, which replicas with `c` slots together make at the rate
/// `c / service_time` (Little's law). A request that will be late gets only what the punctual ones leave of that.
pub fn refuse(order: Order, facts: &Facts, patience: Patience) -> Option<Duration> {
    // With no replica it waits for one; before the first answer nothing is known. Both are bounded by the queue.
    let service_time = facts.service_time.filter(|_| facts.capacity > 0 && !facts.slot_is_free)?.as_secs_f64();
    let departure = service_time / facts.capacity as f64;
    let answered_by = |ahead: usize, share: f64| (ahead + 1) as f64 * departure / share + service_time;
    let everybody = facts.punctual + facts.late;
    let deadline = patience.deadline.as_secs_f64() * (1.0 - UNCERTAINTY);
    let is_in_time = match order {
        Order::Fifo => answered_by(everybody, 1.0) <= deadline,
        Order::LateLast => {
            let objective = patience.objective.as_secs_f64() * (1.0 - UNCERTAINTY);
            answered_by(facts.punctual, 1.0) <= objective.min(deadline)
                || answered_by(everybody, facts.spare) <= deadline
        }
    };
    let wanted = patience.objective.min(patience.deadline).as_secs_f64();
    (!is_in_time).then(|| Duration::from_secs_f64((answered_by(everybody, 1.0) - wanted).max(0.0)))
}

/// The part of the capacity that punctual requests leave, as it was lately: a mean over what the slots went to, with
/// weights that fade over time.
#[derive(Debug, Clone, Copy)]
pub struct Spare {
    share: f64,
    fades_in: Duration,
}

impl Spare {
    /// Everything is spare until something is known: a first burst is let in.
    pub fn new(fades_in: Duration) -> Self {
        Self { share: 1.0, fades_in }
    }

    /// A slot was given away, `since_last` after the last one: to a punctual request that had to wait for it, or to
    /// anybody else.
    pub fn given(&mut self, to_waiting_punctual: bool, since_last: Duration) {
        let spare = if to_waiting_punctual { 0.0 } else { 1.0 };
        if self.share == spare {
            return;
        }
        let weight = 1.0 - (-since_last.as_secs_f64() / self.fades_in.as_secs_f64()).exp();
        self.share += weight * (spare - self.share);
    }

    /// 0 to 1.
    pub fn share(&self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Two replicas that take 100 ms: 20 requests a second.
    const BUSY: Facts = Facts {
        punctual: 0,
        late: 0,
        slot_is_free: false,
        capacity: 2,
        service_time: Some(Duration::from_millis(100)),
        spare: 1.0,
    };

    #[test]
    fn backlog_over_service_rate_decides() {
        let patience = Patience { objective: MS(500), deadline: MS(5000) };
        let rows = [
            // (order, facts, milliseconds to wait, if refused)
            (Order::Fifo, Facts { punctual: 86, ..BUSY }, None), // 87 × 50 ms + 100 ms, of 4.5 s
            (Order::Fifo, Facts { punctual: 88, ..BUSY }, Some(4050)), // 89 × 50 ms + 100 ms, of which 500 may remain
            (Order::Fifo, Facts { punctual: 98, slot_is_free: true, ..BUSY }, None),
            (Order::Fifo, Facts { punctual: 98, service_time: None, ..BUSY }, None),
            (Order::Fifo, Facts { punctual: 98, capacity: 0, ..BUSY }, None),
            // Overload: nothing is left for late ones, so only those that will be punctual come in.
            (Order::LateLast, Facts { punctual: 5, late: 900, spare: 0.0, ..BUSY }, None), // 6 × 50 ms + 100 ms
            (Order::LateLast, Facts { punctual: 7, late: 0, spare: 0.0, ..BUSY }, Some(0)),
            // A burst: half of the capacity is left, so they come in as long as that serves them in time.
            (Order::LateLast, Facts { punctual: 8, late: 34, spare: 0.5, ..BUSY }, None), // 43 × 100 ms + 100 ms
            (Order::LateLast, Facts { punctual: 8, late: 36, spare: 0.5, ..BUSY }, Some(1850)),
        ];
        for (order, facts, expected) in rows {
            assert_eq!(refuse(order, &facts, patience), expected.map(MS), "{order:?} {facts:?}");
        }
    }

    #[test]
    fn an_impatient_client_is_refused_sooner() {
        let facts = Facts { punctual: 10, ..BUSY };
        let patience = |deadline| Patience { objective: MS(500), deadline: MS(deadline) };
        assert_eq!(refuse(Order::Fifo, &facts, patience(750)), None);
        assert_eq!(refuse(Order::Fifo, &facts, patience(600)), Some(MS(150)));
        let facts = Facts { punctual: 4, ..BUSY };
        assert_eq!(refuse(Order::LateLast, &facts, patience(300)), Some(MS(50)), "punctual, but after its deadline");
    }

    #[test]
    fn what_is_spare_fades() {
        let mut spare = Spare::new(MS(2500));
        for _ in 0..50 {
            spare.given(true, MS(50));
        }
        // exp(-2.5 s / 2.5 s)
        assert!((spare.share() - (-1.0_f64).exp()).abs() < 1e-9, "{spare:?}");
        spare.given(false, MS(60_000));
        assert!(spare.share() > 0.999);
    }
}
