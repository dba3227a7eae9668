//! Answers of the Open Inference Protocol v2, in JSON and with binary tensors.
//! Source: <https://github.com/kserve/open-inference-protocol>, and Triton's extensions `binary_tensor_data` and
//! `classification`.

use super::{Prediction, index_of_largest};
use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use service::wire::header::INFERENCE_JSON_LENGTH;
use std::borrow::Cow;

/// The part of an answer that loadgen needs.
#[derive(Deserialize)]
struct AnswerJson {
    outputs: Vec<OutputJson>,
}

#[derive(Deserialize)]
struct OutputJson {
    datatype: String,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    binary_data_size: Option<usize>,
}

/// The class of the first output that has one: scores of at least two classes (FP32, FP64), or a text (BYTES). `None`
/// if the body is no answer of the protocol.
pub(super) fn prediction<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<Prediction<'a>> {
    let json_length = match headers.get(INFERENCE_JSON_LENGTH) {
        Some(length) => length.to_str().ok()?.trim().parse().ok()?,
        None => body.len(),
    };
    let (json, mut tail) = body.split_at_checked(json_length)?;
    let answer: AnswerJson = serde_json::from_slice(json).ok()?;
    if answer.outputs.is_empty() {
        return None;
    }
    let mut found = None;
    for output in answer.outputs {
        let size = output.parameters.and_then(|parameters| parameters.binary_data_size);
        let prediction = match (output.data, size) {
            (Some(data), None) => in_json(&output.datatype, data)?,
            (None, Some(size)) => {
                let (bytes, rest) = tail.split_at_checked(size)?;
                tail = rest;
                in_binary(&output.datatype, bytes)?
            }
            _ => return None,
        };
        if found.is_none() {
            found = prediction;
        }
    }
    Some(found.unwrap_or(Prediction::Nothing))
}

/// The class in an output in JSON. The outer `None` says that the data do not fit the datatype, the inner one that the
/// output has no class.
fn in_json<'a>(datatype: &str, data: Value) -> Option<Option<Prediction<'a>>> {
    match datatype {
        "FP32" | "FP64" => {
            let mut scores = Vec::new();
            flatten(data, &mut |value| value.as_f64().map(|score| scores.push(score)))?;
            class(&scores)
        }
        "BYTES" => {
            let mut first = None;
            flatten(data, &mut |value| match value {
                Value::String(text) => {
                    first.get_or_insert(text);
                    Some(())
                }
                _ => None,
            })?;
            Some(first.map(|text| named(text.into())))
        }
        _ => Some(None),
    }
}

/// As [`in_json`], for the bytes of a binary output: numbers in little-endian order, or texts after their lengths.
fn in_binary<'a>(datatype: &str, bytes: &'a [u8]) -> Option<Option<Prediction<'a>>> {
    match datatype {
        "FP32" => {
            let (numbers, rest) = bytes.as_chunks::<4>();
            let scores: Vec<f64> = numbers.iter().map(|number| f64::from(f32::from_le_bytes(*number))).collect();
            if rest.is_empty() { class(&scores) } else { None }
        }
        "FP64" => {
            let (numbers, rest) = bytes.as_chunks::<8>();
            let scores: Vec<f64> = numbers.iter().map(|number| f64::from_le_bytes(*number)).collect();
            if rest.is_empty() { class(&scores) } else { None }
        }
        "BYTES" if bytes.is_empty() => Some(None),
        "BYTES" => {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let text = rest.get(..u32::from_le_bytes(*length) as usize)?;
            Some(Some(named(String::from_utf8_lossy(text))))
        }
        _ => Some(None),
    }
}

/// The class of an output with these scores.
fn class<'a>(scores: &[f64]) -> Option<Option<Prediction<'a>>> {
    match scores.len() {
        // A single number is not a score for each class.
        0 | 1 => Some(None),
        _ => index_of_largest(scores.iter().copied()).map(|index| Some(Prediction::Index(index))),
    }
}

/// The class that a text names: `score:index:label` or `score:index`, as Triton's extension `classification` writes it,
/// or else the whole text.
fn named(text: Cow<'_, str>) -> Prediction<'_> {
    let mut parts = text.splitn(3, ':');
    let score = parts.next().and_then(|score| score.parse::<f64>().ok());
    let index = parts.next().and_then(|index| index.parse::<usize>().ok());
    match (score.zip(index), parts.next()) {
        (Some(_), Some(label)) => Prediction::Label(label.to_owned().into()),
        (Some((_, index)), None) => Prediction::Index(index),
        (None, _) => Prediction::Label(text),
    }
}

/// Calls `visit` with each element of `data`, which may be nested. `None` if a call returns `None`. serde_json bounds
/// the depth.
fn flatten(data: Value, visit: &mut impl FnMut(Value) -> Option<()>) -> Option<()> {
    match data {
        Value::Array(rows) => rows.into_iter().try_for_each(|row| flatten(row, visit)),
        element => visit(element),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn label(text: &str) -> Prediction<'static> {
        Prediction::Label(text.to_owned().into())
    }

    #[test]
    fn the_first_output_with_a_class_is_read_from_json() {
        for (outputs, expected) in [
            (r#"{"name":"p","datatype":"FP32","shape":[1,3],"data":[0.1,0.7,0.2]}"#, Some(Prediction::Index(1))),
            (r#"{"name":"p","datatype":"FP32","shape":[1,3],"data":[[0.1,0.7,0.9]]}"#, Some(Prediction::Index(2))),
            (r#"{"name":"p","datatype":"FP64","shape":[2],"data":[3,-1]}"#, Some(Prediction::Index(0))),
            (r#"{"name":"l","datatype":"BYTES","shape":[1],"data":["cat"]}"#, Some(label("cat"))),
            (r#"{"name":"l","datatype":"BYTES","shape":[1,1],"data":[["a:b"]]}"#, Some(label("a:b"))),
            (
                r#"{"name":"p","datatype":"BYTES","shape":[1,2],"data":["0.9:7:cat: tabby","0.1:8:dog"]}"#,
                Some(label("cat: tabby")),
            ),
            (r#"{"name":"p","datatype":"BYTES","shape":[1,1],"data":["12.5:7"]}"#, Some(Prediction::Index(7))),
            (
                r#"{"name":"t","datatype":"FP32","shape":[1],"data":[0.5]},
                   {"name":"l","datatype":"BYTES","shape":[1],"data":["cat"]}"#,
                Some(label("cat")),
            ),
            (r#"{"name":"i","datatype":"INT64","shape":[1],"data":[3]}"#, Some(Prediction::Nothing)),
            ("", None),
            (r#"{"name":"p","datatype":"FP32","shape":[2],"data":[0.5,null]}"#, None),
            (r#"{"name":"p","datatype":"FP32","shape":[2]}"#, None),
            (r#"{"name":"l","datatype":"BYTES","shape":[1],"data":[1]}"#, None),
            (r#"{"name":"p","shape":[2],"data":[1,2]}"#, None),
        ] {
            let body = format!(r#"{{"model_name":"m","outputs":[{outputs}]}}"#);
            assert_eq!(prediction(&HeaderMap::new(), body.as_bytes()), expected, "{outputs}");
        }
        for body in ["", "<html>", "[]", "{}", r#"{"error":"no"}"#] {
            assert_eq!(prediction(&HeaderMap::new(), body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn binary_outputs_follow_the_json_in_order() {
        let binary = |json: &str, tail: &[u8], length: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(INFERENCE_JSON_LENGTH, HeaderValue::from_str(length).expect("a value"));
            let body = [json.as_bytes(), tail].concat();
            // The prediction borrows from the body.
            prediction(&headers, &body).map(|found| match found {
                Prediction::Label(text) => label(&text),
                Prediction::Index(index) => Prediction::Index(index),
                Prediction::Nothing => Prediction::Nothing,
            })
        };
        let output = |datatype: &str, size: usize| {
            format!(r#"{{"name":"x","datatype":"{datatype}","shape":[1],"parameters":{{"binary_data_size":{size}}}}}"#)
        };
        let json = |outputs: &[String]| format!(r#"{{"outputs":[{}]}}"#, outputs.join(","));
        let check = |outputs: &[String], tail: &[u8]| {
            let json = json(outputs);
            binary(&json, tail, &json.len().to_string())
        };
        let floats = [0.25_f32, 4.0, -1.0].map(f32::to_le_bytes).concat();
        let doubles = [0.25_f64, 4.0].map(f64::to_le_bytes).concat();
        let cat = b"\x03\0\0\0cat";
        assert_eq!(check(&[output("FP32", 12)], &floats), Some(Prediction::Index(1)));
        assert_eq!(check(&[output("FP64", 16)], &doubles), Some(Prediction::Index(1)));
        assert_eq!(check(&[output("BYTES", 7)], cat), Some(label("cat")));
        let single = [&floats[..4], &cat[..]].concat();
        assert_eq!(check(&[output("FP32", 4), output("BYTES", 7)], &single), Some(label("cat")));
        // Sizes that do not fit the body or the datatype, and lengths of the JSON beyond the body.
        assert_eq!(check(&[output("FP32", 13)], &floats), None);
        assert_eq!(check(&[output("FP32", 11)], &floats), None);
        assert_eq!(check(&[output("BYTES", 3)], cat), None);
        assert_eq!(check(&[output("BYTES", 7)], b"\x04\0\0\0cat"), None);
        assert_eq!(check(&[output("FP32", usize::MAX)], &floats), None);
        let whole = json(&[output("FP32", 12)]);
        for length in ["999999", "18446744073709551616", "-1", "x"] {
            assert_eq!(binary(&whole, &floats, length), None, "{length}");
        }
    }
}
