//! Several laws for one target: the highest recommendation counts, as with an HPA of several metrics. While one of the laws
//! cannot tell, nothing is scaled down.
//!
//! Source: Kubernetes 1.36, pkg/controller/podautoscaler, horizontal.go, computeReplicasForMetrics.

use law::observation::Observation;
use law::table::{Law, Recommendation, WAITING};

/// Laws with the last recommendation of each.
#[derive(Debug)]
pub struct Highest {
    laws: Vec<(Box<dyn Law>, Recommendation)>,
}

impl Highest {
    /// Combines at least one law.
    pub fn new(laws: impl IntoIterator<Item = Box<dyn Law>>) -> Self {
        Self { laws: laws.into_iter().map(|law| (law, Recommendation::no_data())).collect() }
    }
}

impl Law for Highest {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        let mut is_due = false;
        for (law, last) in &mut self.laws {
            let recommendation = law.decide(seen);
            // Between two of its steps a law stands by its last one.
            if recommendation.reason != WAITING {
                *last = recommendation;
                is_due = true;
            }
        }
        let all = || self.laws.iter().map(|(_, last)| last);
        let Some(highest) = all().filter(|one| one.replicas.is_some()).max_by_key(|one| one.replicas) else {
            return all().next().cloned().unwrap_or_else(Recommendation::waiting);
        };
        if !is_due {
            return Recommendation::waiting();
        }
        let would_go_down = highest.replicas.is_some_and(|replicas| replicas < seen.replicas.desired);
        match all().find(|one| one.replicas.is_none()) {
            Some(unknown) if would_go_down => unknown.clone(),
            _ => highest.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    /// Recommends the same at each decision.
    #[derive(Debug)]
    struct Constant(Option<usize>);

    impl Law for Constant {
        fn decide(&mut self, _seen: &Observation) -> Recommendation {
            Recommendation::new(self.0, "constant", "")
        }
    }

    #[test]
    fn the_highest_recommendation_counts_unless_another_law_cannot_tell() {
        for (laws, replicas) in [
            (&[Some(10), Some(8)][..], Some(10)),
            (&[Some(2), Some(8)], Some(8)),
            (&[Some(1), Some(2)], Some(2)),
            (&[Some(2), None], None),
            (&[Some(10), None], Some(10)),
            (&[None], None),
        ] {
            let mut highest = Highest::new(laws.iter().map(|&fixed| Box::new(Constant(fixed)) as Box<dyn Law>));
            let replicas_now = Replicas { desired: 4, ready: 4, ..Replicas::default() };
            let seen = Observation { replicas: replicas_now, ..Observation::default() };
            assert_eq!(highest.decide(&seen).replicas, replicas, "{laws:?}");
        }
    }

    #[test]
    fn between_its_steps_a_law_stands_by_its_last_recommendation() {
        #[derive(Debug)]
        struct Once(bool);
        impl Law for Once {
            fn decide(&mut self, _seen: &Observation) -> Recommendation {
                if std::mem::replace(&mut self.0, true) {
                    Recommendation::waiting()
                } else {
                    Recommendation::new(Some(9), "once", "")
                }
            }
        }
        let laws: [Box<dyn Law>; 2] = [Box::new(Once(false)), Box::new(Constant(Some(5)))];
        let mut highest = Highest::new(laws);
        for _ in 0..3 {
            assert_eq!(highest.decide(&Observation::default()).replicas, Some(9));
        }
    }
}
