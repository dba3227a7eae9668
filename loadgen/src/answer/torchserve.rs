//! Answers of TorchServe and of servers like it: the probability of each label, or a list of scores.

use super::{Prediction, index_of_largest};
use serde_json::Value;

/// The class with the highest score in the body of an answer; `None` if the body has no scores. The body is an object
/// of labels and scores, a list of numbers, or a list whose first element is one of these, as for a batch of one image.
pub(super) fn prediction(body: &[u8]) -> Option<Prediction<'static>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let single = match &answer {
        Value::Array(rows) if rows.first().is_some_and(|row| row.is_object() || row.is_array()) => &rows[0],
        other => other,
    };
    match single {
        Value::Object(scores) => {
            let values = scores.values().map(Value::as_f64).collect::<Option<Vec<f64>>>()?;
            let best = index_of_largest(values.into_iter())?;
            scores.keys().nth(best).map(|label| Prediction::Label(label.clone().into()))
        }
        Value::Array(scores) => {
            let values = scores.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>()?;
            index_of_largest(values.into_iter()).map(Prediction::Index)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, outcome};
    use super::super::{TargetKind, failed};

    #[test]
    fn the_label_with_the_highest_score_is_the_prediction() {
        for (body, label, expected) in [
            (r#"{"tabby":0.4,"tiger cat":0.5,"lynx":0.1}"#, "tiger cat", answered(Some(true))),
            (r#"{"tabby":0.4,"tiger cat":0.5,"lynx":0.1}"#, "tabby", answered(Some(false))),
            (r#"[{"tabby":0.4,"tiger cat":0.5}]"#, "tiger cat", answered(Some(true))),
            (r#"[{"tabby":0.9},{"lynx":1}]"#, "tabby", answered(Some(true))),
            ("[0.1, 0.7, 0.2]", "1", answered(Some(true))),
            ("[[0.1, 0.7, 0.2]]", "2", answered(Some(false))),
            ("[3, -1]", "cat", answered(None)),
            ("[]", "cat", failed("invalid_answer")),
            ("{}", "cat", failed("invalid_answer")),
            ("[[]]", "cat", failed("invalid_answer")),
            ("7", "7", failed("invalid_answer")),
            (r#"["cat"]"#, "cat", failed("invalid_answer")),
            (r#"{"cat":"high"}"#, "cat", failed("invalid_answer")),
            ("cat", "cat", failed("invalid_answer")),
            ("", "cat", failed("invalid_answer")),
        ] {
            assert_eq!(outcome(TargetKind::Torchserve, 200, body, Some(label)), expected, "{body}");
        }
        let error = r#"{"code":503,"type":"ServiceUnavailableException","message":"busy"}"#;
        assert_eq!(outcome(TargetKind::Torchserve, 503, error, None), failed("http_503"));
    }
}
