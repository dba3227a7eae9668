//! Parses the body of an inference request: its images and the requested outputs.

use super::json::{self, InputJson, OutputParameters, RequestedOutputJson};
use super::output::{OutputTensor, RequestedOutput};
use super::tensor::{self, InputElements};
use super::{IMAGE, INPUT, bad_request};
use crate::pipeline::Image;
use bytes::Bytes;
use service::wire::header::INFERENCE_JSON_LENGTH as JSON_LENGTH;
use service::wire::{Code, RequestError};

/// Most bytes of a request's id. The answer repeats the id.
const MAX_ID_LENGTH: usize = 1024;

/// A checked inference request.
#[derive(Debug)]
pub struct InferenceRequest {
    /// The id that the client gave the request.
    pub id: Option<String>,
    /// The images to classify, at least one.
    pub images: Vec<Image>,
    /// The outputs that the answer must have, at least one.
    pub outputs: Vec<RequestedOutput>,
}

/// The limits of a request's input.
#[derive(Debug, Clone, Copy)]
pub struct InputLimits {
    /// Most images of a request: the number of slots of this replica.
    pub capacity: usize,
    /// The side of an image that is sent as numbers, in pixels.
    pub side: usize,
}

impl InferenceRequest {
    /// Parses `body`. Its first `json_length` bytes are JSON, or the whole body if `json_length` is `None`.
    ///
    /// # Errors
    /// If the body has more images than the limit (status 413), or is malformed (status 400).
    pub fn parse(body: &Bytes, json_length: Option<usize>, limits: InputLimits) -> Result<Self, RequestError> {
        let json_length = json_length.unwrap_or(body.len());
        let json = body.get(..json_length).ok_or_else(|| {
            bad_request(format!("{JSON_LENGTH} is {json_length}, but the whole body has {} bytes", body.len()))
        })?;
        let request = json::read(json, limits)?;
        if request.id.as_ref().is_some_and(|id| id.len() > MAX_ID_LENGTH) {
            return Err(bad_request(format!("the id has more than {MAX_ID_LENGTH} bytes; send a shorter id")));
        }
        let outputs = outputs(request.outputs, request.binary_data_output)?;
        let images = request.input.images(body.slice(json_length..), limits)?;
        Ok(Self { id: request.id, images, outputs })
    }
}

impl<'a> InputJson<'a> {
    /// The images of this input. `tail` is the part of the body after the JSON.
    fn images(self, tail: Bytes, InputLimits { capacity, side }: InputLimits) -> Result<Vec<Image>, RequestError> {
        match self.name.as_str() {
            INPUT => {
                let count = self.count("FP32", &[3, side as i64, side as i64], capacity)?;
                let inputs = tensor::inputs(self.elements(tail)?, count, side)?;
                Ok(inputs.into_iter().map(Image::Tensor).collect())
            }
            IMAGE => {
                let count = self.count("BYTES", &[], capacity)?;
                let files = tensor::files(self.elements(tail)?, count)?;
                Ok(files.into_iter().map(Image::Encoded).collect())
            }
            other => Err(bad_request(format!("there is no input {other:?}; send {INPUT:?} or {IMAGE:?}"))),
        }
    }

    /// The number of images of this input. Checks that the input has `datatype`, and the shape `[n]` followed by the
    /// lengths in `each`, where `n` is 1 to `capacity`.
    fn count(&self, datatype: &str, each: &[i64], capacity: usize) -> Result<usize, RequestError> {
        let Self { name, shape, .. } = self;
        if self.datatype != datatype {
            return Err(bad_request(format!("{name:?} has datatype {:?}; send {datatype}", self.datatype)));
        }
        match shape.split_first().map(|(&count, rest)| (usize::try_from(count), rest)) {
            Some((Ok(count @ 1..), rest)) if rest == each => {
                if count <= capacity {
                    return Ok(count);
                }
                let message =
                    format!("{name:?} has {count} images, but this replica takes {capacity} at once; send fewer");
                Err(RequestError::new(Code::TooLarge, message))
            }
            _ => {
                let each: String = each.iter().map(|length| format!(", {length}")).collect();
                Err(bad_request(format!(
                    "{name:?} has the shape {shape:?}; send [n{each}] with n from 1 to {capacity}"
                )))
            }
        }
    }

    /// The elements of this input, which are in its JSON or in `tail`.
    fn elements(self, tail: Bytes) -> Result<InputElements<'a>, RequestError> {
        let (name, following) = (self.name, tail.len());
        match (self.data, self.binary_data_size) {
            (Some(array), None) if following == 0 => Ok(InputElements::Json(array)),
            (None, Some(size)) if size == following => Ok(InputElements::Binary(tail)),
            (None, None) => {
                Err(bad_request(format!("{name:?} has neither \"data\" nor binary_data_size; send one of them")))
            }
            (Some(_), Some(_)) => {
                Err(bad_request(format!("{name:?} has both \"data\" and binary_data_size; send one of them")))
            }
            (_, size) => {
                let size = size.unwrap_or(0);
                Err(bad_request(format!(
                    "{following} bytes follow the JSON, but the binary_data_size of {name:?} is {size}"
                )))
            }
        }
    }
}

/// The requested outputs, or the probabilities if the request names no output. `all_binary` applies to each output that
/// has no parameter `binary_data`.
fn outputs(requested: Vec<RequestedOutputJson>, all_binary: bool) -> Result<Vec<RequestedOutput>, RequestError> {
    if requested.is_empty() {
        return Ok(vec![RequestedOutput { tensor: OutputTensor::Probabilities, best: None, binary: all_binary }]);
    }
    let mut outputs: Vec<RequestedOutput> = Vec::new();
    for RequestedOutputJson { name, parameters } in requested {
        let Some(tensor) = OutputTensor::from_name(&name) else {
            let names = OutputTensor::ALL.map(OutputTensor::name).join(", ");
            return Err(bad_request(format!("there is no output {name:?}; the outputs are {names}")));
        };
        let OutputParameters { binary_data, classification } = parameters.unwrap_or_default();
        // As in Triton, the value 0 switches the classification extension off.
        let best = classification.filter(|&count| count > 0);
        if tensor == OutputTensor::Label && best.is_some() {
            return Err(bad_request(
                "the output \"label\" cannot have the parameter classification, because it has no scores",
            ));
        }
        if outputs.iter().any(|output| output.tensor == tensor) {
            return Err(bad_request(format!("the output {name:?} is requested twice; request it once")));
        }
        outputs.push(RequestedOutput { tensor, best, binary: binary_data.unwrap_or(all_binary) });
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InputLimits = InputLimits { capacity: 4, side: 224 };
    const INPUT_LENGTH: usize = 3 * 224 * 224;

    /// A body of `json` followed by `tail`, and the length of `json`.
    fn body(json: &str, tail: &[u8]) -> (Bytes, Option<usize>) {
        ([json.as_bytes(), tail].concat().into(), Some(json.len()))
    }

    /// The outputs of a request with one image of one byte. In the request's JSON, `rest` follows the inputs.
    fn outputs_of(rest: &str) -> Result<Vec<RequestedOutput>, RequestError> {
        let json = format!(r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[1],"data":["YQ=="]}}]{rest}}}"#);
        InferenceRequest::parse(&json.into(), None, LIMITS).map(|request| request.outputs)
    }

    #[test]
    fn images_are_read_from_json_and_from_the_bytes_after_it() {
        let zeros = vec![0; 4 * INPUT_LENGTH];
        let (binary, length) = body(
            r#"{"id":"a","inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],
                "parameters":{"binary_data_size":602112}}]}"#,
            &zeros,
        );
        let request = InferenceRequest::parse(&binary, length, LIMITS).expect("a request");
        assert_eq!(request.id.as_deref(), Some("a"));
        assert!(matches!(&request.images[..], [Image::Tensor(input)] if input.len() == INPUT_LENGTH));

        // The fields are in another order, and this server does not know some of them.
        let json = r#"{"parameters":{"priority":1},"extra":[[]],"inputs":[
            {"data":["YWI=","Yw=="],"shape":[2],"parameters":{"content_type":"base64"},"datatype":"BYTES","name":"image"}]}"#;
        let request = InferenceRequest::parse(&Bytes::from(json), None, LIMITS).expect("a request");
        assert_eq!(request.id, None);
        assert!(matches!(&request.images[..],
            [Image::Encoded(first), Image::Encoded(second)] if first == "ab" && second == "c"));
    }

    #[test]
    fn valid_outputs_are_read_and_invalid_outputs_are_refused() {
        let output = |tensor, best, binary| RequestedOutput { tensor, best, binary };
        let probabilities = |binary| vec![output(OutputTensor::Probabilities, None, binary)];
        for (rest, expected) in [
            ("", probabilities(false)),
            (r#","outputs":[]"#, probabilities(false)),
            (r#","parameters":{"binary_data_output":true}"#, probabilities(true)),
            (
                r#","parameters":{"binary_data_output":true},
                   "outputs":[{"name":"label","parameters":{"binary_data":false}},{"name":"logits"}]"#,
                vec![output(OutputTensor::Label, None, false), output(OutputTensor::Logits, None, true)],
            ),
            (
                r#","outputs":[{"name":"probabilities","parameters":{"classification":3}},
                    {"name":"logits","parameters":{"classification":0,"binary_data":true}}]"#,
                vec![output(OutputTensor::Probabilities, Some(3), false), output(OutputTensor::Logits, None, true)],
            ),
        ] {
            assert_eq!(outputs_of(rest), Ok(expected), "{rest}");
        }
        for (rest, message) in [
            (r#","outputs":[{"name":"scores"}]"#, "no output \"scores\"; the outputs are probabilities, logits, label"),
            (r#","outputs":[{"name":"label"},{"name":"label"}]"#, "\"label\" is requested twice"),
            (
                r#","outputs":[{"name":"label","parameters":{"classification":2}}]"#,
                "\"label\" cannot have the parameter classification",
            ),
            (r#","outputs":[{"name":"logits","parameters":{"classification":-1}}]"#, "integer `-1`"),
            (r#","outputs":[{"name":"logits","parameters":{"binary_data":"yes"}}]"#, "string \"yes\""),
            (r#","outputs":[{}]"#, "missing field `name`"),
            (r#","outputs":"logits""#, "expected a sequence"),
        ] {
            let fault = outputs_of(rest).expect_err(rest);
            assert!(fault.code == Code::BadRequest && fault.message.contains(message), "{rest}: {fault}");
        }
    }

    /// A request with one input, a tensor of numbers. In the input's JSON, `rest` follows the shape.
    fn input(shape: &str, rest: &str) -> String {
        format!(r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":{shape}{rest}}}]}}"#)
    }

    /// A request with one input, a tensor of two files. In the input's JSON, `rest` follows the shape.
    fn image(rest: &str) -> String {
        format!(r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[2]{rest}}}]}}"#)
    }

    /// The parameter for `size` bytes of data after the JSON.
    fn sized(size: usize) -> String {
        format!(r#","parameters":{{"binary_data_size":{size}}}"#)
    }

    /// The shape of a tensor with one image.
    const ONE: &str = "[1,3,224,224]";

    /// Checks that each body is refused. A row has the JSON, the bytes after the JSON, and a part of the error message.
    fn check_refused(rows: Vec<(String, &[u8], &str)>) {
        for (json, tail, message) in rows {
            let (body, length) = body(&json, tail);
            let excerpt = json.get(..200).unwrap_or(&json);
            let fault = InferenceRequest::parse(&body, length, LIMITS).expect_err(excerpt);
            assert!(fault.code == Code::BadRequest && fault.message.contains(message), "{excerpt}: {fault}");
        }
    }

    #[test]
    fn malformed_json_is_refused() {
        check_refused(vec![
            (String::new(), b"", "EOF"),
            ("{".into(), b"", "EOF"),
            ("[]".into(), b"", "expected an object with \"inputs\""),
            ("{}".into(), b"", "missing field `inputs`"),
            (r#"{"inputs":{}}"#.into(), b"", "expected a sequence"),
            (r#"{"id":7,"inputs":[]}"#.into(), b"", "integer `7`"),
            (
                image(r#","data":["YQ==","YQ=="]"#)
                    .replace("{\"inputs", &format!("{{\"id\":\"{}\",\"inputs", "x".repeat(MAX_ID_LENGTH + 1))),
                b"",
                "the id has more than 1024",
            ),
            (image(r#","data":["YQ==","YQ=="]"#) + " more", b"", "trailing characters"),
            (r#"{"parameters":{"binary_data_output":1},"inputs":[]}"#.into(), b"", "integer `1`"),
        ]);
    }

    #[test]
    fn a_request_without_exactly_one_known_input_is_refused() {
        let both = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],"data":[]},
            {"name":"image","datatype":"BYTES","shape":[1],"data":[]}]}"#;
        check_refused(vec![
            (r#"{"inputs":[]}"#.into(), b"", "has no input; send one, \"input\" or \"image\""),
            (both.into(), b"", "more than one input"),
            (both.replace("image", "input").replace("BYTES", "FP32"), b"", "more than one input"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}"#.into(), b"", "no input \"x\""),
            (r#"{"inputs":[{"name":"input","shape":[1]}]}"#.into(), b"", "missing field `datatype`"),
            (image("").replace("BYTES", "FP32"), b"", "datatype \"FP32\"; send BYTES"),
            (input(ONE, "").replace("FP32", "FP16"), b"", "datatype \"FP16\"; send FP32"),
        ]);
    }

    #[test]
    fn a_wrong_shape_is_refused() {
        check_refused(vec![
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
        ]);
    }

    #[test]
    fn data_that_is_missing_or_ambiguous_is_refused() {
        check_refused(vec![
            (input(ONE, ""), b"", "neither \"data\" nor binary_data_size"),
            (input(ONE, r#","data":null"#), b"", "neither \"data\" nor binary_data_size"),
            (input(ONE, &format!(r#"{},"data":[]"#, sized(0))), b"", "both \"data\" and binary_data_size"),
            (input(ONE, &sized(4 * INPUT_LENGTH)), b"abc", "3 bytes follow the JSON, but the binary_data_size"),
            (input(ONE, r#","data":[1]"#), b"abc", "3 bytes follow the JSON"),
            (input(ONE, r#","parameters":{"binary_data_size":-1}"#), b"", "integer `-1`"),
            (input(ONE, r#","parameters":{"binary_data_size":1e30}"#), b"", "floating point"),
        ]);
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let zeros = (1..INPUT_LENGTH).map(|_| "0").collect::<Vec<_>>().join(",");
        let ending_in = |number: &str| input(ONE, &format!(r#","data":[{zeros},{number}]"#));
        check_refused(vec![
            (input(ONE, &sized(3)), b"abc", "3 bytes of data; its shape needs 602112"),
            (input(ONE, r#","data":[1,2]"#), b"", "2 numbers; its shape needs 150528"),
            (input(ONE, r#","data":[]"#), b"", "0 numbers"),
            (input(ONE, r#","data":7"#), b"", "expected an array"),
            (input(ONE, r#","data":["a"]"#), b"", "the data of \"input\" are strings"),
            (input(ONE, r#","data":[1,"a"]"#), b"", "a string follows numbers"),
            (input(ONE, r#","data":["a",1]"#), b"", "a number follows strings"),
            (input(ONE, r#","data":[null]"#), b"", "expected an array of numbers"),
            (input(ONE, r#","data":[true]"#), b"", "boolean `true`"),
            (input(ONE, r#","data":[{"a":1}]"#), b"", "map"),
            (input(ONE, r#","data":[NaN]"#), b"", "expected value"),
            (input(ONE, r#","data":[1e999]"#), b"", "number out of range"),
            (ending_in("-1e39"), b"", "-inf at [0,2,223,223]"),
            (input(ONE, &format!(r#","data":{}"#, "[".repeat(1_000_000))), b"", "recursion limit"),
        ]);
    }

    #[test]
    fn wrong_files_are_refused() {
        check_refused(vec![
            (image(r#","data":["YQ=="]"#), b"", "1 strings; its shape needs 2"),
            (image(r#","data":[1,2]"#), b"", "the data of \"image\" are numbers"),
            (image(r#","data":["YQ==","!"]"#), b"", "image 1 cannot be decoded: it is not base64"),
            (image(r#","data":["YQ==",""]"#), b"", "image 1 is empty"),
            (image(&sized(0)), b"", "image 0 has no length: 0 bytes are left"),
            (image(&sized(7)), b"\x03\0\0\0abc", "image 1 has no length"),
            (
                image(&sized(9)),
                b"\x01\0\0\0a\xff\xff\xff\xff",
                "image 1 has the length 4294967295, but 0 bytes are left",
            ),
            (image(&sized(9)), b"\x01\0\0\0a\0\0\0\0", "image 1 is empty"),
            (image(&sized(11)), b"\x01\0\0\0a\x01\0\0\0b.", "1 bytes of data after the last of its 2 images"),
        ]);
    }

    #[test]
    fn reading_stops_at_the_first_element_that_the_shape_does_not_allow() {
        // Each JSON is cut off after the element, so a reader that went on would find the end of the text.
        let images = |shape: &str, count| {
            let start = r#"{"inputs":[{"name":"image","datatype":"BYTES","#;
            format!(r#"{start}{shape}"data":[{}"#, r#""YQ==","#.repeat(count))
        };
        let numbers = |count| format!(r#"{{"inputs":[{{"shape":[1,3,224,224],"data":[{}"#, "0,".repeat(count));
        let input = r#"{"name":"image","datatype":"BYTES","shape":[1],"data":["YQ=="]}"#;
        for (json, code, message) in [
            (images(r#""shape":[1],"#, 2), Code::BadRequest, "shape [1] of images allows: 1 strings"),
            (images(r#""shape":[4],"#, 5), Code::BadRequest, "shape [4] of images allows: 4 strings"),
            (images(r#""shape":[-1],"#, 1), Code::BadRequest, "shape [-1] of images allows: 0 strings"),
            (images(r#""shape":[],"#, 1), Code::BadRequest, "shape [] of images allows: 0 strings"),
            (images(r#""shape":[5],"#, 5), Code::TooLarge, "more than 4 images"),
            (images(r#""shape":[9223372036854775807],"#, 5), Code::TooLarge, "more than 4 images"),
            (images("", 5), Code::TooLarge, "more than 4 images, but this replica takes 4 at once"),
            (numbers(INPUT_LENGTH + 1), Code::BadRequest, "150528 numbers for \"input\""),
            (format!(r#"{{"inputs":[{input},{{"#), Code::BadRequest, "more than one input"),
            (
                format!(r#"{{"inputs":[{input}],"outputs":[{}"#, r#"{"name":"label"},"#.repeat(4)),
                Code::BadRequest,
                "more than 3 elements",
            ),
            (r#"{"inputs":[{"shape":[1,1,1,1,1,1,1,1,1,"#.to_owned(), Code::BadRequest, "more than 8 elements"),
        ] {
            let excerpt = json.get(..200).unwrap_or(&json).to_owned();
            let fault = InferenceRequest::parse(&json.into(), None, LIMITS).expect_err(&excerpt);
            assert!(fault.code == code && fault.message.contains(message), "{excerpt}: {fault}");
        }
        // A request with as many elements as allowed is read to its end.
        let whole = images(r#""shape":[4],"#, 4).replace("\"YQ==\",", "\"YQ==\", ");
        let whole = format!("{}]}}]}}", whole.trim_end_matches(", "));
        assert_eq!(InferenceRequest::parse(&whole.into(), None, LIMITS).expect("a request").images.len(), 4);
    }

    #[test]
    fn a_body_is_refused_if_its_json_is_not_utf8_or_is_longer_than_the_body() {
        for (bytes, length, message) in [
            (&b"{\"id\":\"\xff\",\"inputs\":[]}"[..], None, "invalid unicode"),
            (b"{\"\xc3\x28\":0}", None, "invalid unicode"),
            (b"\0\0\0\0", None, "expected value"),
            (b"{}", Some(3), "inference-header-content-length is 3, but the whole body has 2 bytes"),
            (b"{}", Some(usize::MAX), "but the whole body has 2 bytes"),
            (b"{\"inputs\":[]}", Some(1), "EOF"),
            (b"{\"inputs\":[]}", Some(0), "EOF"),
        ] {
            let fault = InferenceRequest::parse(&Bytes::from_static(bytes), length, LIMITS).expect_err(message);
            assert!(fault.code == Code::BadRequest && fault.message.contains(message), "{message}: {fault}");
        }
    }

    #[test]
    fn a_request_with_more_images_than_the_capacity_is_refused() {
        for (name, datatype, shape) in
            [("input", "FP32", "[5,3,224,224]"), ("image", "BYTES", "[5]"), ("image", "BYTES", "[9223372036854775807]")]
        {
            let json =
                format!(r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":[]}}]}}"#);
            let fault = InferenceRequest::parse(&json.into(), None, LIMITS).expect_err(shape);
            assert!(
                fault.code == Code::TooLarge && fault.message.contains("this replica takes 4 at once"),
                "{shape}: {fault}"
            );
        }
    }
}
