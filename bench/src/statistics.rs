//! Medians and quantiles of measured numbers.

/// The median: the middle value, or the mean of the two middle values. `None` if there are no values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[values.len() / 2]))
}

/// The median of the ratios `own / theirs`, one for each round. `None` if there are no rounds. A machine that is slow
/// during a round slows both sides, and hardly changes their ratio.
pub(crate) fn median_ratio(own: &[f64], theirs: &[f64]) -> Option<f64> {
    median(own.iter().zip(theirs).map(|(own, theirs)| own / theirs).collect())
}

/// The quantile `q`, 0 to 1, by the nearest rank: for 0.99 of 100 values, the 99th in ascending order. `None` if there
/// are no values. Sorts the values.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * q).ceil().max(1.0) as usize;
    values.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![9.0, 1.0], Some(5.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
            (vec![9.0, 1.0, 2.0, 4.0], Some(3.0)),
        ] {
            assert_eq!(median(values.clone()), expected, "{values:?}");
        }
    }

    #[test]
    fn each_ratio_is_of_one_round() {
        // The machine becomes slower from round to round. The ratio of the medians would be 0.6 in both cases.
        assert_eq!(median_ratio(&[10.0, 30.0, 80.0], &[20.0, 50.0, 100.0]), Some(0.6));
        assert_eq!(median_ratio(&[10.0, 30.0, 80.0], &[20.0, 100.0, 50.0]), Some(0.5));
    }

    #[test]
    fn a_quantile_is_the_value_of_the_nearest_rank() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (q, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)] {
            assert_eq!(quantile(&mut values, q), Some(expected), "{q}");
        }
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
