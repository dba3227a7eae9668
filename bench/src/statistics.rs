//! Medians and quantiles of measured numbers.

/// The value in the middle; of an even number of values, the mean of the middle two. `None` without a value.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[values.len() / 2]))
}

/// The median of the ratios `own / theirs` of each round; `None` without a round. Both sides of a round run while the
/// machine is in the same state, so a slow round does not change its ratio.
pub(crate) fn median_ratio(own: &[f64], theirs: &[f64]) -> Option<f64> {
    median(own.iter().zip(theirs).map(|(own, theirs)| own / theirs).collect())
}

/// The smallest of the values that the share `q` of them, 0 to 1, does not exceed (nearest rank: of 100 values, the
/// 99th for 0.99). `None` without a value.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * q).ceil().max(1.0) as usize;
    values.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
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
    fn rounds_are_compared_with_themselves() {
        // A machine that is slower from round to round: the ratio of medians would be 0.6.
        assert_eq!(median_ratio(&[10.0, 30.0, 80.0], &[20.0, 50.0, 100.0]), Some(0.6));
        assert_eq!(median_ratio(&[10.0, 30.0, 80.0], &[20.0, 100.0, 50.0]), Some(0.5));
    }

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (q, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)] {
            assert_eq!(quantile(&mut values, q), Some(expected), "{q}");
        }
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
