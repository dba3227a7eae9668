//! The figures of several rounds: a median with the least and the greatest value.

use std::collections::BTreeMap;

/// The figures of all rounds, by the number of the row and the name of the row.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<(usize, &'static str), Vec<f64>>,
}

impl Table {
    /// Adds values of a row. Rows are printed in the order of their first values.
    pub(super) fn add(&mut self, name: &'static str, values: impl IntoIterator<Item = f64>) {
        let found = self.rows.keys().find(|(_, other)| *other == name).copied();
        let key = found.unwrap_or((self.rows.len(), name));
        self.rows.entry(key).or_default().extend(values);
    }

    /// The table as Markdown, under `title`. A row without values is left out.
    pub(super) fn to_markdown(&self, title: &str) -> String {
        let mut text = format!("| {title} | median | least | greatest |\n|---|---|---|---|\n");
        for ((_, name), values) in &self.rows {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let (Some(least), Some(greatest)) = (sorted.first(), sorted.last()) else { continue };
            // Of an even number of values, the mean of the two in the middle.
            let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
            text += &format!("| {name} | {} | {} | {} |\n", rounded(median), rounded(*least), rounded(*greatest));
        }
        text
    }
}

/// A figure with about three digits.
fn rounded(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_order_and_show_median_and_range() {
        let mut table = Table::default();
        table.add("z", [3.0]);
        table.add("a", [0.5, 0.75]);
        table.add("z", [1.0, 200.0]);
        table.add("none", []);
        let rows = "| z | 3.00 | 1.00 | 200 |\n| a | 0.625 | 0.500 | 0.750 |\n";
        assert_eq!(table.to_markdown("t"), format!("| t | median | least | greatest |\n|---|---|---|---|\n{rows}"));
    }
}
