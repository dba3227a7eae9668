//! Converts logits to probabilities.

/// The softmax of `logits`: `exp(x − max) / Σ exp(x − max)`. The largest logit is subtracted because `exp` would
/// overflow otherwise. The sum is an f64 because an f32 would lose the small terms of a thousand classes.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let whole: f64 = parts.iter().sum();
    parts.into_iter().map(|part| (part / whole) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_proportional_to_exponentials() {
        for (logits, expected) in [
            (vec![], vec![]),
            (vec![5.0], vec![1.0]),
            (vec![0.0, 0.0], vec![0.5, 0.5]),
            (vec![3.0_f32.ln(), 0.0], vec![0.75, 0.25]),
            (vec![1e30, 0.0, -1e30], vec![1.0, 0.0, 0.0]),
        ] {
            let found = softmax(&logits);
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
        }
    }
}
