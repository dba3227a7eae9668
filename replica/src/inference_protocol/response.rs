//! Encodes the logits of a request's images as the body of an inference answer.

use super::VERSION;
use super::output::{OutputTensor, RequestedOutput};
use crate::ranking::best;
use crate::softmax::softmax;
use bytes::Bytes;
use serde::Serialize;

/// The contents of an answer.
#[derive(Debug, Clone, Copy)]
pub struct InferenceResponse<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The version of the model, by the contents of its file.
    pub version: &'a str,
    /// The id of the request, which the answer repeats.
    pub id: Option<&'a str>,
    /// The outputs that the request asks for.
    pub outputs: &'a [RequestedOutput],
    /// The logits of all classes, one row for each image.
    pub rows: &'a [Vec<f32>],
    /// The names of the classes, in class order.
    pub labels: &'a [String],
}

/// The body of an answer.
#[derive(Debug)]
pub struct Encoded {
    /// JSON, followed by the data of the binary outputs.
    pub body: Bytes,
    /// The length of the JSON in bytes; `None` if no output is binary.
    pub json_length: Option<usize>,
}

/// The JSON of an answer.
#[derive(Serialize)]
struct ResponseJson<'a> {
    model_name: &'a str,
    model_version: &'static str,
    parameters: ResponseParameters<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputJson>,
}

/// The protocol names a version by a path, which stays the same when the model is replaced.
#[derive(Serialize)]
struct ResponseParameters<'a> {
    /// The version of the model, by the contents of its file.
    model_version: &'a str,
}

/// The JSON of one output.
#[derive(Serialize)]
struct OutputJson {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(flatten)]
    data: TensorData,
}

/// The data of an output, or the number of bytes of its data after the JSON.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum TensorData {
    Data(OutputElements),
    Parameters { binary_data_size: usize },
}

/// The elements of an output, in row-major order.
#[derive(Serialize)]
#[serde(untagged)]
enum OutputElements {
    Numbers(Vec<f32>),
    Strings(Vec<String>),
}

impl InferenceResponse<'_> {
    /// Encodes the answer.
    pub fn encode(self) -> Encoded {
        let mut tail = Vec::new();
        let outputs = self.outputs.iter().map(|&output| self.tensor(output, &mut tail)).collect();
        let parameters = ResponseParameters { model_version: self.version };
        let json = ResponseJson { model_name: self.model, model_version: VERSION, parameters, id: self.id, outputs };
        let mut body = serde_json::to_vec(&json).expect("strings and numbers can always be encoded as JSON");
        let json_length = self.outputs.iter().any(|output| output.binary).then_some(body.len());
        body.append(&mut tail);
        Encoded { body: body.into(), json_length }
    }

    /// The JSON of one output. Binary data is appended to `tail`.
    fn tensor(self, output: RequestedOutput, tail: &mut Vec<u8>) -> OutputJson {
        let (elements, row_length) = self.elements(output);
        let (name, datatype) = (output.tensor.name(), elements.datatype());
        let data = if output.binary {
            let start = tail.len();
            elements.write(tail);
            TensorData::Parameters { binary_data_size: tail.len() - start }
        } else {
            TensorData::Data(elements)
        };
        OutputJson { name, datatype, shape: [self.rows.len()].into_iter().chain(row_length).collect(), data }
    }

    /// The elements of an output, and the number of elements for each image. The number is `None` if the shape of the
    /// output is `[n]`, with one element for each image.
    fn elements(self, output: RequestedOutput) -> (OutputElements, Option<usize>) {
        let classes = self.rows.first().map_or(0, Vec::len);
        let scores = |row: &Vec<f32>| match output.tensor {
            OutputTensor::Probabilities => softmax(row),
            OutputTensor::Logits | OutputTensor::Label => row.clone(),
        };
        match (output.tensor, output.best) {
            (OutputTensor::Label, _) => {
                let label = |row: &Vec<f32>| best(row, self.labels, 1).into_iter().map(|prediction| prediction.label);
                (OutputElements::Strings(self.rows.iter().flat_map(label).collect()), None)
            }
            (_, Some(count)) => {
                // Triton's format for a class is score:index:label.
                let line = |class: service::wire::Prediction| {
                    format!("{:.6}:{}:{}", class.confidence, class.class_index, class.label)
                };
                let lines = self.rows.iter().flat_map(|row| best(&scores(row), self.labels, count)).map(line);
                (OutputElements::Strings(lines.collect()), Some(count.min(classes)))
            }
            (_, None) => (OutputElements::Numbers(self.rows.iter().flat_map(scores).collect()), Some(classes)),
        }
    }
}

impl OutputElements {
    fn datatype(&self) -> &'static str {
        match self {
            Self::Numbers(_) => "FP32",
            Self::Strings(_) => "BYTES",
        }
    }

    /// Appends the elements in the format of the binary tensor data extension. Numbers are little-endian. Each string
    /// follows its length, of 32 bits.
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

    /// The JSON and the binary data of an answer for two images and three classes.
    fn encode(outputs: &[RequestedOutput]) -> (Value, Vec<u8>) {
        let labels = ["cat", "dog", "ox"].map(str::to_owned);
        // The probabilities are 1/4, 2/4 and 1/4 for the first image, and 7/10, 1/10 and 2/10 for the second.
        let rows = [vec![0.0, 2_f32.ln(), 0.0], vec![7_f32.ln(), 0.0, 2_f32.ln()]];
        let response =
            InferenceResponse { model: "m", version: "0a", id: Some("7"), outputs, rows: &rows, labels: &labels };
        let encoded = response.encode();
        let (json, tail) = encoded.body.split_at(encoded.json_length.unwrap_or(encoded.body.len()));
        (serde_json::from_slice(json).expect("JSON"), tail.to_vec())
    }

    fn output(tensor: OutputTensor, best: Option<usize>, binary: bool) -> RequestedOutput {
        RequestedOutput { tensor, best, binary }
    }

    #[test]
    fn the_data_of_an_output_is_a_part_of_the_json_by_default() {
        let outputs = [output(OutputTensor::Probabilities, Some(2), false), output(OutputTensor::Label, None, false)];
        let expected = json!({"model_name": "m", "model_version": "1", "parameters": {"model_version": "0a"}, "id": "7", "outputs": [
            {"name": "probabilities", "datatype": "BYTES", "shape": [2, 2],
                "data": ["0.500000:1:dog", "0.250000:0:cat", "0.700000:0:cat", "0.200000:2:ox"]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["dog", "cat"]},
        ]});
        assert_eq!(encode(&outputs), (expected, vec![]));

        let (json, _) = encode(&[output(OutputTensor::Probabilities, None, false)]);
        assert_eq!(json["outputs"][0]["shape"], json!([2, 3]));
        let found: Vec<f32> = serde_json::from_value(json["outputs"][0]["data"].clone()).expect("numbers");
        let expected = [0.25, 0.5, 0.25, 0.7, 0.1, 0.2];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn the_data_of_binary_outputs_follows_the_json() {
        let (json, tail) = encode(&[
            output(OutputTensor::Label, None, true),
            output(OutputTensor::Logits, Some(9), false),
            output(OutputTensor::Logits, None, true),
        ]);
        assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 14}));
        assert_eq!(json["outputs"][1]["shape"], json!([2, 3]), "no more classes than the model has");
        assert_eq!(json["outputs"][2]["parameters"], json!({"binary_data_size": 24}));
        assert_eq!(json["outputs"][2].get("data"), None);
        let logits = [0.0, 2_f32.ln(), 0.0, 7_f32.ln(), 0.0, 2_f32.ln()];
        let numbers: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        assert_eq!(tail, [&b"\x03\0\0\0dog\x03\0\0\0cat"[..], &numbers].concat());
    }
}
