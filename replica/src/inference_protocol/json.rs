//! Reads the JSON of an inference request, and stops at the first element that no valid request has. So the memory for a
//! request does not depend on what its client sends beyond its shape. Knows nothing of the bytes after the JSON.

use super::request::InputLimits;
use super::tensor::{Array, ArraySeed, MostElements};
use super::{IMAGE, INPUT, bad_request};
use crate::model::CHANNELS;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use service::wire::{Code, RequestError};
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

/// Most dimensions of a shape. A tensor of images has four.
const MOST_DIMENSIONS: usize = 8;

/// Most requested outputs: each output once.
const MOST_OUTPUTS: usize = super::output::OutputTensor::ALL.len();

/// The fields of a request's JSON that this server uses. Text without escapes is not copied.
#[derive(Debug)]
pub(super) struct RequestJson<'a> {
    pub(super) id: Option<String>,
    /// Whether outputs are binary that do not say it themselves.
    pub(super) binary_data_output: bool,
    pub(super) input: InputJson<'a>,
    pub(super) outputs: Vec<RequestedOutputJson>,
}

/// The JSON of one input.
#[derive(Debug)]
pub(super) struct InputJson<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    pub(super) datatype: String,
    pub(super) binary_data_size: Option<usize>,
    pub(super) data: Option<Array<'a>>,
}

/// The JSON of one requested output.
#[derive(Debug, Deserialize)]
pub(super) struct RequestedOutputJson {
    pub(super) name: String,
    pub(super) parameters: Option<OutputParameters>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct OutputParameters {
    pub(super) binary_data: Option<bool>,
    pub(super) classification: Option<usize>,
}

#[derive(Deserialize)]
struct RequestParameters {
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

/// Reads `json`.
///
/// # Errors
/// If it is malformed, or has more elements than a valid request (status 400), or more images than `limits` allow (413).
pub(super) fn read(json: &[u8], limits: InputLimits) -> Result<RequestJson<'_>, RequestError> {
    let refusal = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let request = RequestSeed { limits, refusal: &refusal }
        .deserialize(&mut deserializer)
        .and_then(|request| deserializer.end().map(|()| request));
    // An error of serde is only a text. A refusal with a status of its own is kept beside it.
    request.map_err(|error| {
        let refusal = refusal.take();
        refusal.unwrap_or_else(|| bad_request(format!("the JSON is not an inference request: {error}")))
    })
}

/// Reads a request, or a part of it.
#[derive(Clone, Copy)]
struct RequestSeed<'r> {
    limits: InputLimits,
    /// The reason why reading has stopped, if it is not only a malformed text.
    refusal: &'r RefCell<Option<RequestError>>,
}

impl RequestSeed<'_> {
    /// Keeps `refusal`, with whose message the caller stops reading.
    fn refuse(&self, refusal: RequestError) -> String {
        let message = refusal.message.clone();
        self.refusal.replace(Some(refusal));
        message
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum RequestField {
    Id,
    Parameters,
    Inputs,
    Outputs,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for RequestSeed<'_> {
    type Value = RequestJson<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RequestJson<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RequestSeed<'_> {
    type Value = RequestJson<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"inputs\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RequestJson<'de>, A::Error> {
        let (mut id, mut parameters, mut input, mut outputs) = (None, None, None, None);
        while let Some(field) = map.next_key()? {
            match field {
                RequestField::Id => once(&mut id, "id", map.next_value::<Option<String>>()?)?,
                RequestField::Parameters => {
                    once(&mut parameters, "parameters", map.next_value::<Option<RequestParameters>>()?)?;
                }
                RequestField::Inputs => once(&mut input, "inputs", map.next_value_seed(InputsSeed(self))?)?,
                RequestField::Outputs => {
                    once(&mut outputs, "outputs", map.next_value::<Option<AtMost<_, MOST_OUTPUTS>>>()?)?;
                }
                RequestField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(RequestJson {
            id: id.flatten(),
            binary_data_output: parameters.flatten().and_then(|given| given.binary_data_output).unwrap_or(false),
            input: input.ok_or_else(|| A::Error::missing_field("inputs"))?,
            outputs: outputs.flatten().map_or_else(Vec::new, |AtMost(outputs)| outputs),
        })
    }
}

/// Reads the array of inputs, which has exactly one.
struct InputsSeed<'r>(RequestSeed<'r>);

impl<'de> DeserializeSeed<'de> for InputsSeed<'_> {
    type Value = InputJson<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InputJson<'de>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for InputsSeed<'_> {
    type Value = InputJson<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence with one input")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<InputJson<'de>, A::Error> {
        let refuse = |count: &str| {
            let refusal = bad_request(format!("the request has {count}; send one, {INPUT:?} or {IMAGE:?}"));
            A::Error::custom(self.0.refuse(refusal))
        };
        let input = sequence.next_element_seed(InputSeed(self.0))?.ok_or_else(|| refuse("no input"))?;
        match sequence.next_element_seed(Stop)? {
            None => Ok(input),
            Some(()) => Err(refuse("more than one input")),
        }
    }
}

/// Accepts that there is an element, without reading it. The caller then stops.
struct Stop;

impl<'de> DeserializeSeed<'de> for Stop {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _unread: D) -> Result<(), D::Error> {
        Ok(())
    }
}

/// Reads one input.
struct InputSeed<'r>(RequestSeed<'r>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum InputField {
    Name,
    Shape,
    Datatype,
    Parameters,
    Data,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for InputSeed<'_> {
    type Value = InputJson<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InputJson<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for InputSeed<'_> {
    type Value = InputJson<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"name\", \"shape\" and \"datatype\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InputJson<'de>, A::Error> {
        let (mut name, mut shape, mut datatype, mut parameters, mut data) = (None, None, None, None, None);
        while let Some(field) = map.next_key()? {
            match field {
                InputField::Name => once(&mut name, "name", map.next_value::<String>()?)?,
                InputField::Shape => {
                    once(&mut shape, "shape", map.next_value::<AtMost<i64, MOST_DIMENSIONS>>()?.0)?;
                }
                InputField::Datatype => once(&mut datatype, "datatype", map.next_value::<String>()?)?,
                InputField::Parameters => {
                    once(&mut parameters, "parameters", map.next_value::<Option<InputParameters>>()?)?;
                }
                InputField::Data => {
                    let most = self.most_elements(shape.as_deref());
                    let stopped = || self.0.refuse(self.too_many_elements(shape.as_deref()));
                    let array = map.next_value_seed(ArraySeed { most, stopped: &stopped })?;
                    once(&mut data, "data", array)?;
                }
                InputField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(InputJson {
            name: name.ok_or_else(|| A::Error::missing_field("name"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            datatype: datatype.ok_or_else(|| A::Error::missing_field("datatype"))?,
            binary_data_size: parameters.flatten().and_then(|given: InputParameters| given.binary_data_size),
            data: data.flatten(),
        })
    }
}

impl InputSeed<'_> {
    /// The number of images that the data may have, at most. Data before their shape may have as many as the replica takes.
    fn most_images(&self, shape: Option<&[i64]>) -> usize {
        let announced = shape.map(|shape| shape.first().and_then(|&count| usize::try_from(count).ok()).unwrap_or(0));
        announced.unwrap_or(usize::MAX).min(self.0.limits.capacity)
    }

    fn most_elements(&self, shape: Option<&[i64]>) -> MostElements {
        let InputLimits { side, .. } = self.0.limits;
        let images = self.most_images(shape);
        MostElements { numbers: images.saturating_mul(CHANNELS * side * side), strings: images }
    }

    /// The refusal of data with more elements than allowed.
    fn too_many_elements(&self, shape: Option<&[i64]>) -> RequestError {
        let (MostElements { numbers, strings }, capacity) = (self.most_elements(shape), self.0.limits.capacity);
        match shape {
            Some(shape) if shape.first().is_none_or(|&count| count <= capacity as i64) => bad_request(format!(
                "the data have more elements than the shape {shape:?} of images allows: {strings} strings for {IMAGE:?}, or \
                 {numbers} numbers for {INPUT:?}"
            )),
            _ => RequestError::new(
                Code::TooLarge,
                format!(
                    "the data have more than {capacity} images, but this replica takes {capacity} at once; send fewer"
                ),
            ),
        }
    }
}

/// Sets a field that may appear once.
fn once<T, E: Error>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

/// An array of at most `N` elements.
struct AtMost<T, const N: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AtMostVisitor(PhantomData))
    }
}

struct AtMostVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for AtMostVisitor<T, N> {
    type Value = AtMost<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of at most {N} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<AtMost<T, N>, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < N {
            match sequence.next_element()? {
                Some(element) => elements.push(element),
                None => return Ok(AtMost(elements)),
            }
        }
        match sequence.next_element_seed(Stop)? {
            None => Ok(AtMost(elements)),
            Some(()) => Err(A::Error::custom(format!("more than {N} elements in an array"))),
        }
    }
}
