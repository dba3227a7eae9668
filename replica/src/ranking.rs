//! Finds the best classes and their names by the scores of all classes.

use service::wire::Prediction;

/// The `count` classes with the highest scores, best first. Of classes with equal scores, the one with the lower index
/// comes first. The `confidence` of a prediction is the unchanged score.
pub fn top_k(scores: &[f32], labels: &[String], count: usize) -> Vec<Prediction> {
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
    fn no_more_classes_than_requested_are_returned_best_first() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let classes = |count| -> Vec<(usize, String)> {
            let all = top_k(&[0.1, 0.6, 0.3], &labels, count);
            all.into_iter().map(|prediction| (prediction.class_index, prediction.label)).collect()
        };
        assert_eq!(classes(2), [(1, "b".into()), (2, "c".into())]);
        assert_eq!(classes(9).len(), 3);
    }
}
