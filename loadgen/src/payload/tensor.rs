//! Requests of the Open Inference Protocol v2 with one input tensor: an image file, or random numbers. Pure.
//! Source: <https://github.com/kserve/open-inference-protocol>, and Triton's extension `binary_tensor_data`.

use super::Payload;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Write;
use std::str::FromStr;

/// Largest tensor of `--tensor`, in bytes. Also the most bytes of all random tensors of a run together.
const MAX_BYTES: usize = 64 << 20;

/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Datatype {
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }
}

/// The input tensor of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    name: String,
    datatype: Datatype,
    shape: Vec<usize>,
}

impl Default for Tensor {
    /// The tensor in which this project's replica takes an image file.
    fn default() -> Self {
        Self { name: "image".into(), datatype: Datatype::Bytes, shape: vec![1] }
    }
}

impl FromStr for Tensor {
    type Err = String;

    /// Parses `NAME:DATATYPE:SHAPE`. The name may contain colons.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "write NAME:DATATYPE:SHAPE, as in input:FP32:1,3,224,224".to_owned();
        let mut parts = text.rsplitn(3, ':');
        let (Some(shape), Some(datatype), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        if name.is_empty() {
            return Err(malformed());
        }
        let (datatype, element_bytes) = match datatype.to_ascii_uppercase().as_str() {
            "FP32" => (Datatype::Fp32, 4),
            "FP64" => (Datatype::Fp64, 8),
            "BYTES" => (Datatype::Bytes, 1),
            _ => return Err(format!("{datatype:?} is not FP32, FP64 or BYTES; {}", malformed())),
        };
        let length = |text: &str| match text.trim().parse() {
            Ok(length) if length > 0 => Ok(length),
            _ => Err(format!("{text:?} in the shape is not a length of at least 1; {}", malformed())),
        };
        let shape = shape.split(',').map(length).collect::<Result<Vec<usize>, String>>()?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("the shape has {} lengths; at most {MAX_DIMENSIONS} are possible", shape.len()));
        }
        let bytes = shape.iter().try_fold(element_bytes, |bytes: usize, &length| bytes.checked_mul(length));
        match bytes {
            Some(1) if datatype == Datatype::Bytes => {}
            _ if datatype == Datatype::Bytes => {
                return Err("a tensor of BYTES has one image; write a shape such as 1 or 1,1".into());
            }
            Some(bytes) if bytes <= MAX_BYTES => {}
            _ => return Err("the tensor has more than 64 MiB; write a smaller shape".into()),
        }
        Ok(Self { name: name.to_owned(), datatype, shape })
    }
}

impl Tensor {
    /// Whether the tensor carries an image file, and not random numbers.
    pub fn is_image(&self) -> bool {
        self.datatype == Datatype::Bytes
    }

    /// The request whose tensor carries the image `file` with this name.
    pub(super) fn encode(&self, name: String, file: &[u8], label: Option<String>, is_binary: bool) -> Payload {
        if is_binary {
            let length = u32::try_from(file.len()).expect("an image file has at most 256 MiB");
            self.binary_request(name, &[&length.to_le_bytes(), file].concat(), label)
        } else {
            self.json_request(name, &format!("\"{}\"", STANDARD.encode(file)), label)
        }
    }

    /// Up to `count` requests with random numbers from 0 to 1, together at most 64 MiB unless a single one is larger.
    pub(super) fn random(&self, is_binary: bool, count: usize, seed: u64) -> Vec<Payload> {
        let elements: usize = self.shape.iter().product();
        let element_bytes = if self.datatype == Datatype::Fp64 { 8 } else { 4 };
        let count = count.min(MAX_BYTES / (elements * element_bytes)).max(1);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let request = |index| {
            let name = format!("random {index}");
            // Three decimal places, so that the JSON stays short.
            let thousandths = (0..elements).map(|_| random.random_range(0..=1000_u16));
            match (is_binary, self.datatype) {
                (true, Datatype::Fp64) => {
                    let numbers = thousandths.flat_map(|number| (f64::from(number) / 1e3).to_le_bytes());
                    self.binary_request(name, &numbers.collect::<Vec<u8>>(), None)
                }
                (true, _) => {
                    let numbers = thousandths.flat_map(|number| (f32::from(number) / 1e3).to_le_bytes());
                    self.binary_request(name, &numbers.collect::<Vec<u8>>(), None)
                }
                (false, _) => {
                    let mut list = String::new();
                    for number in thousandths {
                        let comma = if list.is_empty() { "" } else { "," };
                        write!(list, "{comma}{:?}", f64::from(number) / 1e3).expect("writing to a string succeeds");
                    }
                    self.json_request(name, &list, None)
                }
            }
        };
        (0..count).map(request).collect()
    }

    /// A request with `data`, the elements of the tensor in JSON, separated by commas.
    fn json_request(&self, name: String, data: &str, label: Option<String>) -> Payload {
        let body = format!(r#"{{"inputs":[{{{},"data":[{data}]}}]}}"#, self.fields());
        let content_type = HeaderValue::from_static("application/json");
        Payload { name, content_type, json_length: None, body: body.into(), label }
    }

    /// A request with `data`, the elements of the tensor in the binary form.
    fn binary_request(&self, name: String, data: &[u8], label: Option<String>) -> Payload {
        let size = data.len();
        let json = format!(r#"{{"inputs":[{{{},"parameters":{{"binary_data_size":{size}}}}}]}}"#, self.fields());
        Payload {
            name,
            content_type: HeaderValue::from_static("application/octet-stream"),
            json_length: Some(HeaderValue::from(json.len())),
            body: [json.as_bytes(), data].concat().into(),
            label,
        }
    }

    /// The name, the type and the shape, as fields of JSON.
    fn fields(&self) -> String {
        let name = serde_json::Value::from(self.name.as_str());
        let datatype = self.datatype.name();
        let shape: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        format!(r#""name":{name},"datatype":"{datatype}","shape":[{}]"#, shape.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tensor(text: &str) -> Tensor {
        text.parse().expect("a tensor")
    }

    /// The JSON of a request, and the bytes after it.
    fn parts(payload: &Payload) -> (Value, &[u8]) {
        let length = payload
            .json_length
            .as_ref()
            .map_or(payload.body.len(), |length| length.to_str().expect("digits").parse().expect("a length"));
        let (json, tail) = payload.body.split_at(length);
        (serde_json::from_slice(json).expect("JSON"), tail)
    }

    #[test]
    fn an_image_is_a_string_of_base64_or_follows_its_length() {
        let label = Some("cat".to_owned());
        let (json, tail) = (Tensor::default().encode("a".into(), b"abcd", label.clone(), false), b"");
        let expected = json!({"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["YWJjZA=="]}]});
        assert_eq!(parts(&json), (expected, &tail[..]));
        assert_eq!(json.label, label);
        let binary = tensor("in \"put:BYTES:1,1").encode("a".into(), b"abcd", None, true);
        let expected = json!({"inputs":[{"name":"in \"put","datatype":"BYTES","shape":[1,1],
            "parameters":{"binary_data_size":8}}]});
        assert_eq!(parts(&binary), (expected, &b"\x04\0\0\0abcd"[..]));
        assert_eq!(binary.content_type, "application/octet-stream");
    }

    #[test]
    fn random_numbers_fill_the_shape_and_depend_on_the_seed_only() {
        let tensor = tensor("a:b:FP32:1,3,2");
        let json = tensor.random(false, 2, 7);
        let data = |payload: &Payload| parts(payload).0["inputs"][0]["data"].as_array().expect("a list").clone();
        assert_eq!((json.len(), data(&json[0]).len()), (2, 6));
        assert_ne!(data(&json[0]), data(&json[1]));
        assert_eq!(tensor.random(false, 1, 7)[0].body, json[0].body);
        assert_ne!(tensor.random(false, 1, 8)[0].body, json[0].body);
        // The binary form has the same numbers.
        let binary = tensor.random(true, 1, 7);
        let (head, tail) = parts(&binary[0]);
        assert_eq!(head["inputs"][0]["name"], "a:b");
        assert_eq!(head["inputs"][0]["parameters"]["binary_data_size"], 24);
        let (numbers, rest) = tail.as_chunks::<4>();
        assert!(rest.is_empty());
        for (bytes, number) in numbers.iter().zip(data(&json[0])) {
            let number = number.as_f64().expect("a number");
            assert!((0.0..=1.0).contains(&number));
            assert_eq!(f32::from_le_bytes(*bytes), number as f32);
        }
        let doubles = "x:fp64:5".parse::<Tensor>().expect("a tensor").random(true, 1, 7);
        assert_eq!(parts(&doubles[0]).1.len(), 40);
    }

    #[test]
    fn large_tensors_are_fewer_and_too_large_ones_are_refused() {
        assert_eq!(tensor("x:FP32:4194304").random(true, 100, 1).len(), 4);
        for (bad, word) in [
            ("", "NAME:DATATYPE:SHAPE"),
            ("x:FP32", "NAME:DATATYPE:SHAPE"),
            (":FP32:1", "NAME:DATATYPE:SHAPE"),
            ("x:INT8:1", "INT8"),
            ("x:FP32:", "\"\" in the shape"),
            ("x:FP32:1,0", "\"0\" in the shape"),
            ("x:FP32:1,-1", "\"-1\" in the shape"),
            ("x:FP32:1,3,a", "\"a\" in the shape"),
            ("x:FP32:16777217", "64 MiB"),
            ("x:FP64:8388609", "64 MiB"),
            ("x:FP32:4294967296,4294967296", "64 MiB"),
            ("x:FP32:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "at most 16"),
            ("x:BYTES:2", "one image"),
        ] {
            let error = bad.parse::<Tensor>().expect_err(bad);
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
