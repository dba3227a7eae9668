//! The median and the range of a figure over several runs. Pure.

/// The median and the range of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median. Of an even number of values, it is the mean of the two in the middle.
    pub median: f64,
    /// The lowest value.
    pub lowest: f64,
    /// The highest value.
    pub highest: f64,
    /// The number of values.
    pub count: usize,
}

impl Spread {
    /// The spread of these values. `None` if there are no values, or if one of them is unknown: a median over the known
    /// values alone would look like one over all.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Some(Self { median, lowest, highest, count: values.len() })
    }

    /// The figures as text with their unit, such as `97.9 (96.6–98.2) %`. Of one value, the value alone.
    pub fn text(&self, decimals: usize, unit: &str) -> String {
        let Self { median, lowest, highest, .. } = self;
        if self.count == 1 {
            return format!("{median:.decimals$}{unit}");
        }
        format!("{median:.decimals$} ({lowest:.decimals$}–{highest:.decimals$}){unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_before_the_range() {
        for (values, expected) in [
            (&[7.0][..], "7.0 %"),
            (&[4.0, 1.0, 9.0], "4.0 (1.0–9.0) %"),
            (&[4.0, 1.0, 9.0, 5.0], "4.5 (1.0–9.0) %"),
            (&[2.0, 2.0], "2.0 (2.0–2.0) %"),
        ] {
            let spread = Spread::of(values.iter().copied().map(Some)).expect("there are values");
            assert_eq!(spread.text(1, " %"), expected);
        }
    }

    #[test]
    fn there_is_no_spread_of_nothing_or_of_unknown_values() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([Some(1.0), None]), None);
    }
}
