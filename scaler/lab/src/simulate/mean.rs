//! The means of the figures of each law over all workloads of a comparison.

use super::comparison::{ComparisonRow, WorkloadComparison};
use serde::Serialize;

/// The figures of one law over all workloads. A figure is `None` if it is not known for every workload. The field names
/// are part of the JSON that `--json` writes.
#[derive(Debug, PartialEq, Serialize)]
pub struct MeanRow {
    /// The law as in `--policy`.
    pub law: String,
    /// The mean over the workloads of the share of all offered requests that were answered within the objective.
    pub attainment: Option<f64>,
    /// The lowest attainment with any seed on any workload.
    pub worst_attainment: Option<f64>,
    /// The mean over the workloads of the replica-seconds ÷ the replica-seconds of the oracle.
    pub times_oracle: Option<f64>,
    /// The mean over the workloads of the number of changes of the desired replicas.
    pub changes: Option<f64>,
}

/// The means of each law, in the order of `--policy`. Empty if there are fewer than two workloads.
pub fn of(workloads: &[WorkloadComparison]) -> Vec<MeanRow> {
    let [first, _, ..] = workloads else { return Vec::new() };
    let row = |(index, law): (usize, &ComparisonRow)| {
        let figures = |figure: fn(&ComparisonRow) -> Option<f64>| -> Option<Vec<f64>> {
            workloads.iter().map(|workload| figure(&workload.laws[index])).collect()
        };
        let mean = |figure| figures(figure).map(|values| values.iter().sum::<f64>() / values.len() as f64);
        MeanRow {
            law: law.law.clone(),
            attainment: mean(|row| row.attainment),
            worst_attainment: figures(|row| row.worst_attainment).map(|values| values.into_iter().fold(1.0, f64::min)),
            times_oracle: mean(|row| row.times_oracle),
            changes: mean(|row| row.changes),
        }
    };
    first.laws.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_attainment_is_the_lowest_of_all_workloads_and_other_figures_are_means() {
        let workload = |attainment: f64, times_oracle, changes: f64| WorkloadComparison {
            workload: String::new(),
            notes: Vec::new(),
            oracle: None,
            recorded: None,
            laws: vec![ComparisonRow {
                law: "slo".into(),
                attainment: Some(attainment),
                worst_attainment: Some(attainment - 0.25),
                times_oracle,
                changes: Some(changes),
                ..ComparisonRow::default()
            }],
        };
        assert_eq!(of(&[workload(1.0, Some(1.0), 2.0)]), []);
        let found = of(&[workload(1.0, Some(1.0), 2.0), workload(0.5, Some(2.0), 4.0)]);
        let expected = MeanRow {
            law: "slo".into(),
            attainment: Some(0.75),
            worst_attainment: Some(0.25),
            times_oracle: Some(1.5),
            changes: Some(3.0),
        };
        assert_eq!(found, [expected]);
        let found = of(&[workload(1.0, Some(1.0), 2.0), workload(0.5, None, 4.0)]);
        assert_eq!(found[0].times_oracle, None, "the ratio is not known for every workload");
    }
}
