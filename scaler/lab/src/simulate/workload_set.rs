//! Two sets of workloads, apart from each other. The constants of laws are chosen on the one, and figures are reported
//! on the other: a law that is reported on the workloads that it was tuned on looks better than it is.

use clap::ValueEnum;
use workload::shape::Shape;

/// A set of workloads. With the default service time of 55 ms, their peaks need two to six replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WorkloadSet {
    /// The workloads on which the constants of the law slo were chosen
    Training,
    /// The workloads on which laws are compared; no constant was chosen on them
    HeldOut,
}

const TRAINING: [&str; 24] = [
    "spike:low=5,high=60,period=40,length=600",
    "spike:low=10,high=40,period=15,length=600",
    "square:low=6,high=40,period=40,length=600",
    "square:low=8,high=30,period=120,length=720",
    "square:low=5,high=50,period=240,length=960",
    "ramp:low=4,high=60,length=600",
    "sine:low=4,high=45,period=200,length=800",
    "sine:low=5,high=30,period=60,length=600",
    "sawtooth:low=4,high=50,period=100,length=600",
    "on-off:low=6,high=36,period=80,length=900",
    "on-off:low=2,high=80,period=30,length=900,seed=3",
    "markov:low=4,high=60,period=60,length=900",
    "markov:low=2,high=85,period=20,length=900,seed=5",
    "step:low=7,high=50,length=400",
    "gamma:low=0,high=40,cv=2,length=900",
    "gamma:low=5,high=45,cv=1,length=900",
    "flash:low=5,high=80,period=60,length=1200",
    "flash:low=2,high=60,period=150,length=1200,seed=4",
    "walk:low=2,high=80,period=120,length=1200",
    "walk:low=2,high=50,period=40,length=1200,seed=2",
    "constant:low=24,length=900",
    "constant:low=48,length=900",
    "sine:low=1,high=85,period=500,length=1500",
    "on-off:low=1,high=50,period=300,length=1800,seed=6",
];

const HELD_OUT: [&str; 12] = [
    "square:low=4,high=55,period=75,length=900",
    "square:low=9,high=36,period=180,length=900",
    "on-off:low=5,high=70,period=45,length=1200,seed=11",
    "on-off:low=3,high=45,period=160,length=1500,seed=12",
    "markov:low=3,high=75,period=40,length=1200,seed=13",
    "markov:low=6,high=55,period=120,length=1500,seed=14",
    "flash:low=4,high=75,period=90,length=1500,seed=15",
    "flash:low=8,high=50,period=40,length=1200,seed=16",
    "walk:low=3,high=70,period=80,length=1500,seed=17",
    "sine:low=3,high=65,period=130,length=1170",
    "sawtooth:low=5,high=65,period=70,length=1050",
    "gamma:low=0,high=16,cv=3,length=1200,seed=18",
];

impl WorkloadSet {
    /// The shapes of the set.
    pub fn shapes(self) -> impl Iterator<Item = Shape> {
        let texts = match self {
            Self::Training => TRAINING.as_slice(),
            Self::HeldOut => HELD_OUT.as_slice(),
        };
        texts.iter().map(|text| text.parse().expect("the shapes of the sets are valid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_sets_have_no_workload_in_common() {
        let texts = |set: WorkloadSet| set.shapes().map(|shape| shape.to_string()).collect::<BTreeSet<_>>();
        let (training, held_out) = (texts(WorkloadSet::Training), texts(WorkloadSet::HeldOut));
        assert_eq!((training.len(), held_out.len()), (TRAINING.len(), HELD_OUT.len()));
        assert!(training.is_disjoint(&held_out));
    }
}
