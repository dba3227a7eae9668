//! Finds the best classes and their names by the scores of all classes.

use service::wire::Prediction;

/// The `count` classes with the highest scores, best first, with their names from `labels`. The `confidence` of a
/// prediction is the unchanged score.
pub fn best(scores: &[f32], labels: &[String], count: usize) -> Vec<Prediction> {
    let prediction = |class_index: usize| Prediction {
        class_index,
        label: labels.get(class_index).cloned().unwrap_or_default(),
        confidence: scores[class_index],
    };
    best_classes(scores, count).into_iter().map(prediction).collect()
}

/// The `count` classes with the highest scores, best first. Of classes with equal scores, the one with the lower index
/// comes first.
pub fn best_classes(scores: &[f32], count: usize) -> Vec<usize> {
    let best_first = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    let mut order: Vec<usize> = (0..scores.len()).collect();
    if count < order.len() {
        // Sorting all of 20,000 classes would take milliseconds.
        order.select_nth_unstable_by(count, best_first);
        order.truncate(count);
    }
    order.sort_unstable_by(best_first);
    order
}

/// The class with the highest score; of several, the first.
pub fn likeliest(scores: &[f32]) -> usize {
    best_classes(scores, 1).first().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_scores_the_lower_class_comes_first() {
        let scores = [0.0, 5.0, 3.0, 5.0, 1.0, 2.0, -1.0];
        assert_eq!(best_classes(&scores, 5), [1, 3, 2, 5, 4]);
        assert_eq!(likeliest(&scores), 1);
        assert_eq!(likeliest(&[]), 0);
    }

    #[test]
    fn no_more_classes_than_requested_are_returned_best_first() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let classes = |count| -> Vec<(usize, String)> {
            let all = best(&[0.1, 0.6, 0.3], &labels, count);
            all.into_iter().map(|prediction| (prediction.class_index, prediction.label)).collect()
        };
        assert_eq!(classes(2), [(1, "b".into()), (2, "c".into())]);
        assert_eq!(classes(9).len(), 3);
        assert_eq!(classes(0), []);
    }

    #[test]
    fn of_equal_scores_the_lower_index_comes_first() {
        let (labels, scores) = (vec![String::new(); 100], [0.5; 100]);
        for count in [1, 7, 99, 100, usize::MAX] {
            let found: Vec<usize> = best(&scores, &labels, count).iter().map(|class| class.class_index).collect();
            assert_eq!(found, (0..count.min(100)).collect::<Vec<_>>());
        }
    }
}
