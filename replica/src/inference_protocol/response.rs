//! The model's numbers → the body of an inference answer.

use super::VERSION;
use super::output::{Output, Quantity};
use crate::ranking::best;
use crate::softmax::softmax;
use bytes::Bytes;
use serde::Serialize;

/// What an answer is made of.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The request's own, sent back.
    pub id: Option<&'a str>,
    /// What is wanted.
    pub outputs: &'a [Output],
    /// Logits of every class, for each picture.
    pub rows: &'a [Vec<f32>],
    /// Of the classes.
    pub labels: &'a [String],
}

/// An answer's body.
#[derive(Debug)]
pub struct Encoded {
    /// JSON, and after it the tensors that are wanted as bytes.
    pub body: Bytes,
    /// Bytes of the JSON, if anything follows it.
    pub json_length: Option<usize>,
}

#[derive(Serialize)]
struct Head<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(flatten)]
    data: Data,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Data {
    Data(Elements),
    Parameters { binary_data_size: usize },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Elements {
    Numbers(Vec<f32>),
    Strings(Vec<String>),
}

impl Response<'_> {
    /// The body that says it.
    pub fn encode(self) -> Encoded {
        let mut tail = Vec::new();
        let outputs = self.outputs.iter().map(|&output| self.tensor(output, &mut tail)).collect();
        let head = Head { model_name: self.model, model_version: VERSION, id: self.id, outputs };
        let mut body = serde_json::to_vec(&head).expect("text and numbers can be written");
        let json_length = self.outputs.iter().any(|output| output.binary).then_some(body.len());
        body.append(&mut tail);
        Encoded { body: body.into(), json_length }
    }

    /// One output; its elements go to `tail` if they are wanted as bytes.
    fn tensor(self, output: Output, tail: &mut Vec<u8>) -> Tensor {
        let (elements, each) = self.elements(output);
        let (name, datatype) = (output.quantity.name(), elements.datatype());
        let data = if output.binary {
            let start = tail.len();
            elements.write(tail);
            Data::Parameters { binary_data_size: tail.len() - start }
        } else {
            Data::Data(elements)
        };
        Tensor { name, datatype, shape: [self.rows.len()].into_iter().chain(each).collect(), data }
    }

    /// The elements of an output, and how many there are for each picture if it is not just one.
    fn elements(self, output: Output) -> (Elements, Option<usize>) {
        let classes = self.rows.first().map_or(0, Vec::len);
        let scores = |row: &Vec<f32>| match output.quantity {
            Quantity::Probabilities => softmax(row),
            Quantity::Logits | Quantity::Label => row.clone(),
        };
        match (output.quantity, output.best) {
            (Quantity::Label, _) => {
                let label = |row: &Vec<f32>| best(row, self.labels, 1).into_iter().map(|prediction| prediction.label);
                (Elements::Strings(self.rows.iter().flat_map(label).collect()), None)
            }
            (_, Some(count)) => {
                // As Triton writes them.
                let line = |class: service::wire::Prediction| {
                    format!("{:.6}:{}:{}", class.confidence, class.class_index, class.label)
                };
                let lines = self.rows.iter().flat_map(|row| best(&scores(row), self.labels, count)).map(line);
                (Elements::Strings(lines.collect()), Some(count.min(classes)))
            }
            (_, None) => (Elements::Numbers(self.rows.iter().flat_map(scores).collect()), Some(classes)),
        }
    }
}

impl Elements {
    fn datatype(&self) -> &'static str {
        match self {
            Self::Numbers(_) => "FP32",
            Self::Strings(_) => "BYTES",
        }
    }

    /// As the binary extension has them: little-endian, a string after its length.
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Numbers(numbers) => bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Strings(strings) => {
                for string in strings {
                    bytes.extend((string.len() as u32).to_le_bytes());
                    bytes.extend(string.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn encode(outputs: &[Output]) -> (Value, Vec<u8>) {
        let labels = ["cat", "dog", "ox"].map(str::to_owned);
        // exp: 1, 2, 1 of 4, and 7, 1, 2 of 10.
        let rows = [vec![0.0, 2_f32.ln(), 0.0], vec![7_f32.ln(), 0.0, 2_f32.ln()]];
        let encoded = Response { model: "m", id: Some("7"), outputs, rows: &rows, labels: &labels }.encode();
        let (json, tail) = encoded.body.split_at(encoded.json_length.unwrap_or(encoded.body.len()));
        (serde_json::from_slice(json).expect("JSON"), tail.to_vec())
    }

    fn output(quantity: Quantity, best: Option<usize>, binary: bool) -> Output {
        Output { quantity, best, binary }
    }

    #[test]
    fn an_answer_in_json_holds_its_data() {
        let outputs = [output(Quantity::Probabilities, Some(2), false), output(Quantity::Label, None, false)];
        let expected = json!({"model_name": "m", "model_version": "1", "id": "7", "outputs": [
            {"name": "probabilities", "datatype": "BYTES", "shape": [2, 2],
                "data": ["0.500000:1:dog", "0.250000:0:cat", "0.700000:0:cat", "0.200000:2:ox"]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["dog", "cat"]},
        ]});
        assert_eq!(encode(&outputs), (expected, vec![]));

        let (json, _) = encode(&[output(Quantity::Probabilities, None, false)]);
        assert_eq!(json["outputs"][0]["shape"], json!([2, 3]));
        let found: Vec<f32> = serde_json::from_value(json["outputs"][0]["data"].clone()).expect("numbers");
        let expected = [0.25, 0.5, 0.25, 0.7, 0.1, 0.2];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn an_answer_in_bytes_follows_its_json() {
        let (json, tail) = encode(&[
            output(Quantity::Label, None, true),
            output(Quantity::Logits, Some(9), false),
            output(Quantity::Logits, None, true),
        ]);
        assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 14}));
        assert_eq!(json["outputs"][1]["shape"], json!([2, 3]), "no more than there are");
        assert_eq!(json["outputs"][2]["parameters"], json!({"binary_data_size": 24}));
        assert_eq!(json["outputs"][2].get("data"), None);
        let logits = [0.0, 2_f32.ln(), 0.0, 7_f32.ln(), 0.0, 2_f32.ln()];
        let numbers: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        assert_eq!(tail, [&b"\x03\0\0\0dog\x03\0\0\0cat"[..], &numbers].concat());
    }
}
