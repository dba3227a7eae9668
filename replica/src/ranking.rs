//! Scores of all classes → the best ones, by name.

use service::wire::Prediction;

/// The `count` classes that score highest, best first; equals in class order. A `confidence` is a score as it was given.
pub fn best(scores: &[f32], labels: &[String], count: usize) -> Vec<Prediction> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let prediction = |class_index: usize| Prediction {
        class_index,
        label: labels.get(class_index).cloned().unwrap_or_default(),
        confidence: scores[class_index],
    };
    order.into_iter().take(count).map(prediction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_sorted_and_cut() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let classes = |count| -> Vec<(usize, String)> {
            let all = best(&[0.1, 0.6, 0.3], &labels, count);
            all.into_iter().map(|prediction| (prediction.class_index, prediction.label)).collect()
        };
        assert_eq!(classes(2), [(1, "b".into()), (2, "c".into())]);
        assert_eq!(classes(9).len(), 3);
    }
}
