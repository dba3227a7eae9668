//! The conclusion of a comparison in one sentence: the cheapest of the valid groups that reached the goal. Pure.

use super::RunGroup;
use crate::figure::Figure;

/// What the conclusion is drawn from.
pub(super) struct Conclusion<'a> {
    /// Percentage of requests that must be answered within the objective.
    pub(super) goal: f64,
    /// The objective in milliseconds.
    pub(super) objective_ms: f64,
    /// The groups whose runs are all valid, in the order of the command line.
    pub(super) groups: Vec<&'a RunGroup>,
}

impl Conclusion<'_> {
    /// The cheapest group that reached the goal. If none reached it, or no cost is known, the one with the highest
    /// attainment.
    pub(super) fn sentence(&self) -> String {
        // `max_by` returns the last of several equal groups. The order is reversed, so that the first is returned.
        let by_attainment = |a: &&&RunGroup, b: &&&RunGroup| a.attainment().total_cmp(&b.attainment());
        let Some(best) = self.groups.iter().rev().max_by(by_attainment) else {
            return "There is no conclusion: no run is complete and was sent on time.".to_owned();
        };
        let reached = self.groups.iter().filter(|group| self.reaches_goal(group));
        let mut by_cost: Vec<(f64, &RunGroup)> =
            reached.filter_map(|group| Some((group.replica_seconds()?, *group))).collect();
        by_cost.sort_by(|a, b| a.0.total_cmp(&b.0));
        match by_cost[..] {
            [] => self.without_costs(best),
            [cheapest, ..] => {
                format!("{}{}.", self.by_cost(cheapest, by_cost.get(1).copied()), self.missed_goal())
            }
        }
    }

    fn reaches_goal(&self, group: &RunGroup) -> bool {
        group.attainment() >= self.goal
    }

    /// The conclusion if no group reached the goal, or if no group that reached it has a known cost.
    fn without_costs(&self, best: &RunGroup) -> String {
        let (none, verb) = if self.reaches_goal(best) {
            (String::new(), "did best")
        } else {
            (format!("No run answered {} % within {:.0} ms; ", self.goal, self.objective_ms), "came closest")
        };
        let cost = best.replica_seconds().map_or(String::new(), |cost| format!(", for {cost:.0} replica-seconds"));
        format!("{none}{} {verb} with {:.2} %{cost}.", best.name, best.attainment())
    }

    /// The first part of the conclusion: the cheapest group that reached the goal, and the next cheapest. Each comes with
    /// its replica-seconds.
    fn by_cost(&self, (cost, cheapest): (f64, &RunGroup), next: Option<(f64, &RunGroup)>) -> String {
        let Self { goal, objective_ms, .. } = self;
        let (name, attainment) = (&cheapest.name, cheapest.attainment());
        let interval = cheapest.estimate(Figure::Attainment).and_then(|estimate| estimate.interval);
        let mut sentence = match interval {
            None => format!(
                "{name} was the cheapest run that answered {goal} % within {objective_ms:.0} ms: {attainment:.2} %"
            ),
            Some(interval) if interval.low >= *goal => {
                format!("{name} is the cheapest that answered {goal} % within {objective_ms:.0} ms: {attainment:.2} %")
            }
            Some(interval) => format!(
                "{name} is the cheapest that answered {goal} % within {objective_ms:.0} ms on average: {attainment:.2} %, \
                 of which the 95 % interval from {:.2} to {:.2} % includes less,",
                interval.low, interval.high
            ),
        };
        sentence.push_str(&format!(" for {cost:.0} replica-seconds"));
        if let Some((next_cost, group)) = next {
            let more = 100.0 * (next_cost / cost - 1.0);
            sentence.push_str(&format!("; {} needed {next_cost:.0}, {more:.0} % more", group.name));
        }
        sentence
    }

    /// The last part of the conclusion: the groups that missed the goal. Empty if there are none.
    fn missed_goal(&self) -> String {
        let mut missed: Vec<&RunGroup> =
            self.groups.iter().copied().filter(|group| !self.reaches_goal(group)).collect();
        missed.sort_by(|a, b| b.attainment().total_cmp(&a.attainment()));
        match missed[..] {
            [] => String::new(),
            [group] => format!("; {} missed the goal with {:.2} %", group.name, group.attainment()),
            [best, ..] => format!(
                "; {} missed the goal, the best of them {} with {:.2} %",
                missed.len(),
                best.name,
                best.attainment()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::{repeated, run};

    fn sentence(goal: f64, groups: &[RunGroup]) -> String {
        Conclusion { goal, objective_ms: 500.0, groups: groups.iter().collect() }.sentence()
    }

    #[test]
    fn the_conclusion_names_the_cheapest_run_that_reached_the_goal() {
        let all =
            [run("slo", 0.9962, Some(100.0)), run("cpu-50", 0.9970, Some(150.0)), run("cpu-90", 0.92, Some(90.0))];
        assert_eq!(
            sentence(99.0, &all),
            "slo was the cheapest run that answered 99 % within 500 ms: 99.62 % for 100 replica-seconds; cpu-50 needed \
             150, 50 % more; cpu-90 missed the goal with 92.00 %."
        );
        assert_eq!(
            sentence(99.0, &[run("a", 0.5, None), run("b", 0.995, Some(9.0)), run("c", 0.7, Some(1.0))]),
            "b was the cheapest run that answered 99 % within 500 ms: 99.50 % for 9 replica-seconds; 2 missed the goal, \
             the best of them c with 70.00 %."
        );
        assert_eq!(
            sentence(99.0, &[run("a", 0.5, Some(10.0)), run("b", 0.6, None)]),
            "No run answered 99 % within 500 ms; b came closest with 60.00 %."
        );
        assert_eq!(sentence(99.0, &[run("a", 0.999, None)]), "a did best with 99.90 %.");
        assert!(sentence(99.0, &[]).starts_with("There is no conclusion"));
    }

    #[test]
    fn several_runs_have_reached_a_goal_only_if_their_interval_has() {
        let slo = repeated("slo", &[(0.995, 100.0), (0.996, 120.0), (0.997, 90.0), (0.996, 90.0)]);
        assert_eq!(
            sentence(97.0, std::slice::from_ref(&slo)),
            "slo is the cheapest that answered 97 % within 500 ms: 99.60 % for 100 replica-seconds."
        );
        let text = sentence(99.5, &[slo]);
        assert!(
            text.starts_with(
                "slo is the cheapest that answered 99.5 % within 500 ms on average: 99.60 %, of which the 95 %"
            ),
            "{text}"
        );
        assert!(text.contains("includes less, for 100 replica-seconds"), "{text}");
    }
}
