//! The body of an inference request → pictures, and what is wanted of them.

use super::output::{Output, Quantity};
use super::tensor::{self, Array, Elements};
use super::{IMAGE, INPUT, JSON_LENGTH, bad};
use crate::pipeline::Picture;
use bytes::Bytes;
use serde::Deserialize;
use service::wire::{Code, RequestError};

/// Bytes of an id, which is sent back.
const MAX_ID: usize = 1024;

/// A request that makes sense.
#[derive(Debug)]
pub struct Request {
    /// The client's name for it.
    pub id: Option<String>,
    /// One at least.
    pub pictures: Vec<Picture>,
    /// One at least.
    pub outputs: Vec<Output>,
}

/// What a request may bring.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Pictures at most.
    pub capacity: usize,
    /// Sides of a picture that is a tensor, pixels.
    pub side: usize,
}

impl Request {
    /// The request in `body`, whose first `json_length` bytes are JSON; all of them if that is not given.
    ///
    /// # Errors
    /// 413 for more pictures; 400 for anything else that is wrong with it.
    pub fn parse(body: &Bytes, json_length: Option<usize>, bounds: Bounds) -> Result<Self, RequestError> {
        let json_length = json_length.unwrap_or(body.len());
        let json = body.get(..json_length).ok_or_else(|| {
            bad(format!("{JSON_LENGTH} is {json_length}, but the whole body has {} bytes", body.len()))
        })?;
        let head: Head =
            serde_json::from_slice(json).map_err(|error| bad(format!("the JSON is no inference request: {error}")))?;
        if head.id.as_ref().is_some_and(|id| id.len() > MAX_ID) {
            return Err(bad(format!("the id has over {MAX_ID} bytes")));
        }
        let all_binary = head.parameters.and_then(|parameters| parameters.binary_data_output).unwrap_or(false);
        let outputs = outputs(head.outputs.unwrap_or_default(), all_binary)?;
        let inputs: [Tensor; 1] = head.inputs.try_into().map_err(|inputs: Vec<Tensor>| {
            let count = inputs.len();
            bad(format!("the request has {count} inputs; send one, {INPUT:?} or {IMAGE:?}"))
        })?;
        let [input] = inputs;
        Ok(Self { id: head.id, pictures: input.pictures(body.slice(json_length..), bounds)?, outputs })
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object with \"inputs\"")]
struct Head {
    id: Option<String>,
    parameters: Option<HeadParameters>,
    inputs: Vec<Tensor>,
    outputs: Option<Vec<RequestedOutput>>,
}

#[derive(Deserialize)]
struct HeadParameters {
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    parameters: Option<TensorParameters>,
    data: Option<Array>,
}

#[derive(Deserialize)]
struct TensorParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    parameters: Option<OutputParameters>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<usize>,
}

impl Tensor {
    /// What it brings; `tail` is what follows the JSON.
    fn pictures(self, tail: Bytes, Bounds { capacity, side }: Bounds) -> Result<Vec<Picture>, RequestError> {
        match self.name.as_str() {
            INPUT => {
                let count = self.count("FP32", &[3, side as i64, side as i64], capacity)?;
                let inputs = tensor::inputs(self.elements(tail)?, count, side)?;
                Ok(inputs.into_iter().map(Picture::Tensor).collect())
            }
            IMAGE => {
                let count = self.count("BYTES", &[], capacity)?;
                let files = tensor::files(self.elements(tail)?, count)?;
                Ok(files.into_iter().map(Picture::Encoded).collect())
            }
            other => Err(bad(format!("there is no input {other:?}; send {INPUT:?} or {IMAGE:?}"))),
        }
    }

    /// How many pictures a tensor of this type has, each of the shape `each`.
    fn count(&self, datatype: &str, each: &[i64], capacity: usize) -> Result<usize, RequestError> {
        let Self { name, shape, .. } = self;
        if self.datatype != datatype {
            return Err(bad(format!("{name:?} has datatype {:?}; send {datatype}", self.datatype)));
        }
        match shape.split_first().map(|(&count, rest)| (usize::try_from(count), rest)) {
            Some((Ok(count @ 1..), rest)) if rest == each => {
                if count <= capacity {
                    return Ok(count);
                }
                let message = format!("{name:?} has {count} pictures; this replica takes {capacity} at once");
                Err(RequestError::new(Code::TooLarge, message))
            }
            _ => {
                let each: String = each.iter().map(|length| format!(", {length}")).collect();
                Err(bad(format!("{name:?} has the shape {shape:?}; send [n{each}] with n from 1 to {capacity}")))
            }
        }
    }

    fn elements(self, tail: Bytes) -> Result<Elements, RequestError> {
        let (name, following) = (self.name, tail.len());
        match (self.data, self.parameters.and_then(|parameters| parameters.binary_data_size)) {
            (Some(array), None) if following == 0 => Ok(Elements::Json(array)),
            (None, Some(size)) if size == following => Ok(Elements::Binary(tail)),
            (None, None) => Err(bad(format!("{name:?} has no data: neither \"data\" nor binary_data_size"))),
            (Some(_), Some(_)) => Err(bad(format!("{name:?} has both \"data\" and binary_data_size; send one"))),
            (_, size) => {
                let size = size.unwrap_or(0);
                Err(bad(format!("{following} bytes follow the JSON, but the binary_data_size of {name:?} is {size}")))
            }
        }
    }
}

/// What is wanted; probabilities, if nothing is named.
fn outputs(requested: Vec<RequestedOutput>, all_binary: bool) -> Result<Vec<Output>, RequestError> {
    if requested.is_empty() {
        return Ok(vec![Output { quantity: Quantity::Probabilities, best: None, binary: all_binary }]);
    }
    let mut outputs: Vec<Output> = Vec::new();
    for RequestedOutput { name, parameters } in requested {
        let Some(quantity) = Quantity::named(&name) else {
            let names = Quantity::ALL.map(Quantity::name).join(", ");
            return Err(bad(format!("there is no output {name:?}; there are {names}")));
        };
        let OutputParameters { binary_data, classification } = parameters.unwrap_or_default();
        // As Triton has it, 0 is the same as none.
        let best = classification.filter(|&count| count > 0);
        if quantity == Quantity::Label && best.is_some() {
            return Err(bad("the output \"label\" has no scores that a classification could sort by"));
        }
        if outputs.iter().any(|output| output.quantity == quantity) {
            return Err(bad(format!("the output {name:?} is there twice")));
        }
        outputs.push(Output { quantity, best, binary: binary_data.unwrap_or(all_binary) });
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    const BOUNDS: Bounds = Bounds { capacity: 4, side: 224 };
    const INPUT_LENGTH: usize = 3 * 224 * 224;

    fn body(json: &str, tail: &[u8]) -> (Bytes, Option<usize>) {
        ([json.as_bytes(), tail].concat().into(), Some(json.len()))
    }

    /// A request with one picture of one byte, and this for outputs and the rest.
    fn outputs_of(rest: &str) -> Result<Vec<Output>, RequestError> {
        let json = format!(r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[1],"data":["YQ=="]}}]{rest}}}"#);
        Request::parse(&json.into(), None, BOUNDS).map(|request| request.outputs)
    }

    #[test]
    fn pictures_come_in_json_or_after_it() {
        let zeros = vec![0; 4 * INPUT_LENGTH];
        let (binary, length) = body(
            r#"{"id":"a","inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],
                "parameters":{"binary_data_size":602112}}]}"#,
            &zeros,
        );
        let request = Request::parse(&binary, length, BOUNDS).expect("a request");
        assert_eq!(request.id.as_deref(), Some("a"));
        assert!(matches!(&request.pictures[..], [Picture::Tensor(input)] if input.len() == INPUT_LENGTH));

        // What a client may add, in an order of its own.
        let json = r#"{"parameters":{"priority":1},"extra":[[]],"inputs":[
            {"data":["YWI=","Yw=="],"shape":[2],"parameters":{"content_type":"base64"},"datatype":"BYTES","name":"image"}]}"#;
        let request = Request::parse(&Bytes::from(json), None, BOUNDS).expect("a request");
        assert_eq!(request.id, None);
        assert!(matches!(&request.pictures[..],
            [Picture::Encoded(first), Picture::Encoded(second)] if first == "ab" && second == "c"));
    }

    #[test]
    fn outputs_are_what_was_asked_for() {
        let output = |quantity, best, binary| Output { quantity, best, binary };
        let probabilities = |binary| vec![output(Quantity::Probabilities, None, binary)];
        for (rest, expected) in [
            ("", probabilities(false)),
            (r#","outputs":[]"#, probabilities(false)),
            (r#","parameters":{"binary_data_output":true}"#, probabilities(true)),
            (
                r#","parameters":{"binary_data_output":true},
                   "outputs":[{"name":"label","parameters":{"binary_data":false}},{"name":"logits"}]"#,
                vec![output(Quantity::Label, None, false), output(Quantity::Logits, None, true)],
            ),
            (
                r#","outputs":[{"name":"probabilities","parameters":{"classification":3}},
                    {"name":"logits","parameters":{"classification":0,"binary_data":true}}]"#,
                vec![output(Quantity::Probabilities, Some(3), false), output(Quantity::Logits, None, true)],
            ),
        ] {
            assert_eq!(outputs_of(rest), Ok(expected), "{rest}");
        }
        for (rest, message) in [
            (r#","outputs":[{"name":"scores"}]"#, "no output \"scores\"; there are probabilities, logits, label"),
            (r#","outputs":[{"name":"label"},{"name":"label"}]"#, "\"label\" is there twice"),
            (r#","outputs":[{"name":"label","parameters":{"classification":2}}]"#, "\"label\" has no scores"),
            (r#","outputs":[{"name":"logits","parameters":{"classification":-1}}]"#, "integer `-1`"),
            (r#","outputs":[{"name":"logits","parameters":{"binary_data":"yes"}}]"#, "string \"yes\""),
            (r#","outputs":[{}]"#, "missing field `name`"),
            (r#","outputs":"logits""#, "expected a sequence"),
        ] {
            let fault = outputs_of(rest).expect_err(rest);
            assert!(fault.code == Code::BadRequest && fault.message.contains(message), "{rest}: {fault}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_request_is_told() {
        let input = |shape: &str, rest: &str| {
            format!(r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":{shape}{rest}}}]}}"#)
        };
        let image = |rest: &str| format!(r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[2]{rest}}}]}}"#);
        let sized = |size: usize| format!(r#","parameters":{{"binary_data_size":{size}}}"#);
        let one = "[1,3,224,224]";
        let both = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],"data":[]},
            {"name":"image","datatype":"BYTES","shape":[1],"data":[]}]}"#;
        let many = (0..INPUT_LENGTH).map(|_| "0").collect::<Vec<_>>().join(",");
        let last = |number: &str| input(one, &format!(r#","data":[{},{number}]"#, &many[2..]));
        let rows: Vec<(String, &[u8], &str)> = vec![
            // The JSON.
            (String::new(), b"", "EOF"),
            ("{".into(), b"", "EOF"),
            ("[]".into(), b"", "expected an object with \"inputs\""),
            ("{}".into(), b"", "missing field `inputs`"),
            (r#"{"inputs":{}}"#.into(), b"", "expected a sequence"),
            (r#"{"inputs":[],"id":7}"#.into(), b"", "integer `7`"),
            (format!(r#"{{"inputs":[],"id":"{}"}}"#, "x".repeat(MAX_ID + 1)), b"", "the id has over 1024"),
            (r#"{"inputs":[]} more"#.into(), b"", "trailing characters"),
            (r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#.into(), b"", "integer `1`"),
            // Which input.
            (r#"{"inputs":[]}"#.into(), b"", "0 inputs; send one, \"input\" or \"image\""),
            (both.into(), b"", "2 inputs"),
            (both.replace("image", "input").replace("BYTES", "FP32"), b"", "2 inputs"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}"#.into(), b"", "no input \"x\""),
            (r#"{"inputs":[{"name":"input","shape":[1]}]}"#.into(), b"", "missing field `datatype`"),
            (image("").replace("BYTES", "FP32"), b"", "datatype \"FP32\"; send BYTES"),
            (input(one, "").replace("FP32", "FP16"), b"", "datatype \"FP16\"; send FP32"),
            // Its shape.
            (input("[]", ""), b"", "shape []; send [n, 3, 224, 224] with n from 1 to 4"),
            (input("[3,224,224]", ""), b"", "shape [3, 224, 224]"),
            (input("[1,224,224,3]", ""), b"", "shape [1, 224, 224, 3]"),
            (input("[1,3,224,224,1]", ""), b"", "shape"),
            (input("[0,3,224,224]", ""), b"", "shape [0, 3, 224, 224]"),
            (input("[-1,3,224,224]", ""), b"", "shape [-1, 3, 224, 224]"),
            (input("[1,-3,224,-224]", ""), b"", "shape [1, -3, 224, -224]"),
            (input("[1.0,3,224,224]", ""), b"", "floating point"),
            (input("[18446744073709551615,3,224,224]", ""), b"", "integer `18446744073709551615`"),
            (input("[1e99,3,224,224]", ""), b"", "floating point"),
            (input("[1,4294967296,4294967296,1]", ""), b"", "shape"),
            (image("").replace("[2]", "[2,1]"), b"", "shape [2, 1]; send [n] with n"),
            // Where its data is.
            (input(one, ""), b"", "neither \"data\" nor binary_data_size"),
            (input(one, r#","data":null"#), b"", "neither \"data\" nor binary_data_size"),
            (input(one, &format!(r#"{},"data":[]"#, sized(0))), b"", "both \"data\" and binary_data_size"),
            (input(one, &sized(4 * INPUT_LENGTH)), b"abc", "3 bytes follow the JSON, but the binary_data_size"),
            (input(one, r#","data":[1]"#), b"abc", "3 bytes follow the JSON"),
            (input(one, r#","parameters":{"binary_data_size":-1}"#), b"", "integer `-1`"),
            (input(one, r#","parameters":{"binary_data_size":1e30}"#), b"", "floating point"),
            // Numbers.
            (input(one, &sized(3)), b"abc", "3 bytes of data; its shape needs 602112"),
            (input(one, r#","data":[1,2]"#), b"", "2 numbers; its shape needs 150528"),
            (input(one, r#","data":[]"#), b"", "0 numbers"),
            (input(one, r#","data":7"#), b"", "expected an array"),
            (input(one, r#","data":["a"]"#), b"", "strings for data"),
            (input(one, r#","data":[1,"a"]"#), b"", "a string among numbers"),
            (input(one, r#","data":["a",1]"#), b"", "a number among strings"),
            (input(one, r#","data":[null]"#), b"", "expected an array of numbers"),
            (input(one, r#","data":[true]"#), b"", "boolean `true`"),
            (input(one, r#","data":[{"a":1}]"#), b"", "map"),
            (input(one, r#","data":[NaN]"#), b"", "expected value"),
            (input(one, r#","data":[1e999]"#), b"", "number out of range"),
            (last("-1e39"), b"", "-inf at [0,2,223,223]"),
            (input(one, &format!(r#","data":{}"#, "[".repeat(1_000_000))), b"", "recursion limit"),
            // Strings.
            (image(r#","data":["YQ=="]"#), b"", "1 strings; its shape needs 2"),
            (image(r#","data":[1,2]"#), b"", "numbers for data"),
            (image(r#","data":["YQ==","!"]"#), b"", "picture 1 is not base64"),
            (image(r#","data":["YQ==",""]"#), b"", "picture 1 is empty"),
            (image(&sized(0)), b"", "picture 0 has no length: 0 bytes are left"),
            (image(&sized(7)), b"\x03\0\0\0abc", "picture 1 has no length"),
            (image(&sized(9)), b"\x01\0\0\0a\xff\xff\xff\xff", "picture 1 is to have 4294967295 bytes; 0 are left"),
            (image(&sized(9)), b"\x01\0\0\0a\0\0\0\0", "picture 1 is empty"),
            (image(&sized(11)), b"\x01\0\0\0a\x01\0\0\0b.", "1 bytes of data after the last of its 2 pictures"),
        ];
        for (json, tail, message) in rows {
            let (body, length) = body(&json, tail);
            let shown = json.get(..200).unwrap_or(&json);
            let fault = Request::parse(&body, length, BOUNDS).expect_err(shown);
            assert!(fault.code == Code::BadRequest && fault.message.contains(message), "{shown}: {fault}");
        }
    }

    #[test]
    fn a_body_that_is_not_text_or_ends_before_its_json_is_refused() {
        for (bytes, length, message) in [
            (&b"{\"inputs\":[],\"id\":\"\xff\"}"[..], None, "invalid unicode"),
            (b"{\"\xc3\x28\":0}", None, "invalid unicode"),
            (b"\0\0\0\0", None, "expected value"),
            (b"{}", Some(3), "inference-header-content-length is 3, but the whole body has 2 bytes"),
            (b"{}", Some(usize::MAX), "but the whole body has 2 bytes"),
            (b"{\"inputs\":[]}", Some(1), "EOF"),
            (b"{\"inputs\":[]}", Some(0), "EOF"),
        ] {
            let fault = Request::parse(&Bytes::from_static(bytes), length, BOUNDS).expect_err(message);
            assert!(fault.code == Code::BadRequest && fault.message.contains(message), "{message}: {fault}");
        }
    }

    #[test]
    fn more_pictures_than_the_capacity_are_too_large() {
        for (name, datatype, shape) in
            [("input", "FP32", "[5,3,224,224]"), ("image", "BYTES", "[5]"), ("image", "BYTES", "[9223372036854775807]")]
        {
            let json =
                format!(r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":[]}}]}}"#);
            let fault = Request::parse(&json.into(), None, BOUNDS).expect_err(shape);
            assert!(fault.code == Code::TooLarge && fault.message.contains("takes 4 at once"), "{shape}: {fault}");
        }
    }
}
