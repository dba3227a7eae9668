//! PURE: one dispatcher's counters at the points of a period → what arrived between them.
//!
//! As in the live ledger, what it had counted before its first point belongs to nobody, and one that starts again goes
//! on from zero. What was counted while nobody looked for long arrived nobody knows when, and is left out.

use super::record::{Figures, Points};
use law::histogram::increase;

/// So many starts, if they come at more than every eighth point, are no starts: several dispatchers answer in turns.
const RESTARTS: usize = 3;
const POINTS_PER_RESTART: usize = 8;

/// What arrived from one point to a later one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Number of the point.
    pub from: usize,
    /// The same.
    pub to: usize,
    /// Requests admitted and refused.
    pub arrivals: f64,
}

/// A time in which one process counted without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of its first point.
    pub first: usize,
    /// And of its last.
    pub last: usize,
    /// It started within the period: what it had counted by the first point belongs to the span.
    pub is_from_start: bool,
}

/// All that one dispatcher counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// In order.
    pub steps: Vec<Step>,
    /// In order; those in which nothing can have been counted are left out.
    pub spans: Vec<Span>,
    /// Of the arrivals, those that were refused.
    pub shed: f64,
    /// How often it started again.
    pub restarts: usize,
}

impl Account {
    /// Points that lie further apart than `patience` have a gap between them.
    pub fn of(points: &Points<Figures>, patience: usize) -> Self {
        let mut account = Self::default();
        let mut last: Option<(usize, f64, f64)> = None;
        let mut span: Option<Span> = None;
        for (&index, figures) in points {
            let Some(enqueued) = figures.enqueued else { continue };
            let (from, admitted, shed) = match last.replace((index, enqueued, figures.shed)) {
                Some((from, then_enqueued, then_shed)) if index - from <= patience => {
                    if enqueued < then_enqueued {
                        account.restarts += 1;
                        account.close(span.replace(Span { first: index, last: index, is_from_start: true }));
                    }
                    // Each by itself: what was refused before a start may be seen for a point longer.
                    (from, increase(then_enqueued, enqueued), increase(then_shed, figures.shed))
                }
                _ => {
                    account.close(span.replace(Span { first: index, last: index, is_from_start: false }));
                    continue;
                }
            };
            if let Some(span) = &mut span {
                span.last = index;
            }
            account.shed += shed;
            account.steps.push(Step { from, to: index, arrivals: admitted + shed });
        }
        account.close(span);
        account
    }

    fn close(&mut self, span: Option<Span>) {
        self.spans.extend(span.filter(|span| span.is_from_start || span.first < span.last));
    }

    /// Whether that many starts are the work of several dispatchers behind one address.
    pub fn is_restless(&self) -> bool {
        self.restarts >= RESTARTS && self.restarts * POINTS_PER_RESTART > self.steps.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (point, admitted, refused)
    fn account(points: &[(usize, f64, f64)]) -> Account {
        let figures = |&(index, enqueued, shed): &(usize, f64, f64)| {
            (index, Figures { enqueued: Some(enqueued), shed, ..Figures::default() })
        };
        Account::of(&points.iter().map(figures).collect(), 20)
    }

    fn steps(account: &Account) -> Vec<(usize, usize, f64)> {
        account.steps.iter().map(|step| (step.from, step.to, step.arrivals)).collect()
    }

    fn spans(account: &Account) -> Vec<(usize, usize, bool)> {
        account.spans.iter().map(|span| (span.first, span.last, span.is_from_start)).collect()
    }

    #[test]
    fn what_was_counted_before_belongs_to_nobody() {
        let found = account(&[(3, 1e6, 50.0), (4, 1e6 + 7.0, 50.0), (7, 1e6 + 9.0, 53.0)]);
        assert_eq!(steps(&found), [(3, 4, 7.0), (4, 7, 5.0)]);
        assert_eq!((spans(&found), found.shed, found.restarts), (vec![(3, 7, false)], 3.0, 0));
    }

    #[test]
    fn one_that_starts_again_goes_on_from_zero() {
        for again in [(2, 4.0, 0.0), (2, 2.0, 2.0)] {
            let found = account(&[(0, 90.0, 5.0), (1, 100.0, 5.0), again, (3, 600.0, 6.0)]);
            assert_eq!(steps(&found), [(0, 1, 10.0), (1, 2, 4.0), (2, 3, 602.0)]);
            assert_eq!((spans(&found), found.shed, found.restarts), (vec![(0, 1, false), (2, 3, true)], 6.0, 1));
        }
        // What was refused before is seen for a point longer.
        let found = account(&[(0, 90.0, 40.0), (1, 4.0, 40.0), (2, 5.0, 3.0)]);
        assert_eq!((steps(&found), found.shed, found.restarts), (vec![(0, 1, 4.0), (1, 2, 4.0)], 3.0, 1));
        let found = account(&[(0, 9.0, 0.0), (1, 4.0, 0.0), (2, 3.0, 0.0), (3, 3.0, 0.0)]);
        assert_eq!(steps(&found), [(0, 1, 4.0), (1, 2, 3.0), (2, 3, 0.0)]);
        assert_eq!((spans(&found), found.restarts), (vec![(1, 1, true), (2, 3, true)], 2));
    }

    #[test]
    fn what_was_counted_in_a_gap_is_left_out() {
        let found = account(&[(0, 5.0, 0.0), (20, 9.0, 0.0), (41, 99.0, 7.0), (42, 100.0, 7.0), (99, 3.0, 0.0)]);
        assert_eq!(steps(&found), [(0, 20, 4.0), (41, 42, 1.0)]);
        assert_eq!((spans(&found), found.shed, found.restarts), (vec![(0, 20, false), (41, 42, false)], 0.0, 0));
    }

    #[test]
    fn points_without_the_counter_are_no_points() {
        let mut points: Points<Figures> = Points::new();
        points.insert(0, Figures { enqueued: Some(1.0), ..Figures::default() });
        points.insert(1, Figures { shed: 3.0, ready: Some(2.0), ..Figures::default() });
        points.insert(2, Figures { enqueued: Some(4.0), shed: 3.0, ..Figures::default() });
        assert_eq!(steps(&Account::of(&points, 20)), [(0, 2, 6.0)]);
        assert_eq!(Account::of(&Points::new(), 20), Account::default());
    }

    #[test]
    fn dispatchers_that_answer_in_turns_are_found_out() {
        let turns: Vec<_> =
            (0..40_usize).map(|turn| (turn, if turn % 2 == 0 { 9000.0 } else { 100.0 } + turn as f64, 0.0)).collect();
        assert!(account(&turns).is_restless());
        let now_and_then: Vec<_> = (0..4000_usize).map(|point| (point, (point % 20) as f64, 0.0)).collect();
        let found = account(&now_and_then);
        assert_eq!((found.restarts, found.is_restless()), (199, false));
        assert!(!account(&[(0, 9.0, 0.0), (1, 2.0, 0.0), (2, 1.0, 0.0)]).is_restless());
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            /// However a dispatcher counts, starts again and is not seen: what its spans admitted is what its steps did.
            #[test]
            fn spans_hold_what_steps_hold(
                points in proptest::collection::btree_map(0..500_usize, (0..50_u32, 0..20_u32), 0..60),
            ) {
                let points: Vec<_> =
                    points.into_iter().map(|(at, (admitted, shed))| (at, f64::from(admitted), f64::from(shed))).collect();
                let found = account(&points);
                let counted = |index: usize| {
                    points.iter().find(|point| point.0 == index).expect("spans end at points").1
                };
                let in_spans = found.spans.iter().map(|span| {
                    counted(span.last) - if span.is_from_start { 0.0 } else { counted(span.first) }
                });
                let in_steps: f64 = found.steps.iter().map(|step| step.arrivals).sum();
                prop_assert_eq!(in_spans.sum::<f64>() + found.shed, in_steps);
                prop_assert!(found.steps.windows(2).all(|pair| pair[0].to <= pair[1].from));
                prop_assert!(found.steps.iter().all(|step| step.arrivals >= 0.0 && step.to - step.from <= 20));
            }
        }
    }
}
