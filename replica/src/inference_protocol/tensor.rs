//! Converts the elements of an input tensor, which are JSON or bytes, to images. Knows nothing of the other parts of a
//! request.

use super::{IMAGE, INPUT, bad_request};
use crate::model::{CHANNELS, Input};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, Bytes};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use service::wire::RequestError;

/// The elements of an input tensor in row-major order.
#[derive(Debug)]
pub enum InputElements {
    /// The elements of a JSON array.
    Json(Array),
    /// The bytes of the binary tensor data extension. An FP32 element is a little-endian number. A BYTES element is its
    /// length, of 32 bits, followed by its bytes.
    Binary(Bytes),
}

/// The elements of a JSON array and of the arrays in it. They are all numbers or all strings.
#[derive(Debug, Default)]
pub struct Array {
    numbers: Vec<f32>,
    strings: Vec<String>,
}

/// The `count` images of an FP32 tensor `[count, 3, side, side]` of normalised numbers. Each image becomes
/// `[side, side, 3]`.
///
/// # Errors
/// If the number of elements does not fit the shape, or an element is a string, NaN or infinite (status 400).
pub fn inputs(elements: InputElements, count: usize, side: usize) -> Result<Vec<Input>, RequestError> {
    let each = CHANNELS * side * side;
    let expected = count * each;
    match elements {
        InputElements::Binary(bytes) => {
            let (numbers, rest) = bytes.as_chunks();
            if numbers.len() != expected || !rest.is_empty() {
                let (length, needed) = (bytes.len(), 4 * expected);
                return Err(bad_request(format!("{INPUT:?} has {length} bytes of data; its shape needs {needed}")));
            }
            let images = numbers.chunks_exact(each).enumerate();
            images.map(|(index, planes)| interleave(index, planes, side, f32::from_le_bytes)).collect()
        }
        InputElements::Json(Array { strings, .. }) if !strings.is_empty() => {
            Err(bad_request(format!("the data of {INPUT:?} are strings; send numbers")))
        }
        InputElements::Json(Array { numbers, .. }) => {
            if numbers.len() != expected {
                let length = numbers.len();
                return Err(bad_request(format!("{INPUT:?} has {length} numbers; its shape needs {expected}")));
            }
            let images = numbers.chunks_exact(each).enumerate();
            images.map(|(index, planes)| interleave(index, planes, side, |number| number)).collect()
        }
    }
}

/// The `count` encoded images of a BYTES tensor `[count]`. In JSON, each image is a string of base64.
///
/// # Errors
/// If the number of elements is not `count`, an element is empty, not base64 or no string, or a length is beyond the
/// end of the data (status 400).
pub fn files(elements: InputElements, count: usize) -> Result<Vec<Bytes>, RequestError> {
    let files = match elements {
        InputElements::Binary(bytes) => split(bytes, count)?,
        InputElements::Json(Array { numbers, .. }) if !numbers.is_empty() => {
            return Err(bad_request(format!(
                "the data of {IMAGE:?} are numbers; send each image as a string of base64"
            )));
        }
        InputElements::Json(Array { strings, .. }) => {
            if strings.len() != count {
                let length = strings.len();
                return Err(bad_request(format!("{IMAGE:?} has {length} strings; its shape needs {count}")));
            }
            let decode = |(index, text): (usize, &String)| match BASE64_STANDARD.decode(text) {
                Ok(file) => Ok(file.into()),
                Err(error) => Err(bad_request(format!("{IMAGE:?}: image {index} is not base64: {error}"))),
            };
            strings.iter().enumerate().map(decode).collect::<Result<_, _>>()?
        }
    };
    match files.iter().position(Bytes::is_empty) {
        Some(index) => Err(bad_request(format!("{IMAGE:?}: image {index} is empty; send an image file"))),
        None => Ok(files),
    }
}

/// Splits the bytes of a BYTES tensor into `count` elements.
fn split(mut bytes: Bytes, count: usize) -> Result<Vec<Bytes>, RequestError> {
    let mut files = Vec::new();
    for index in 0..count {
        let left = bytes.len();
        let length = bytes.try_get_u32_le().map_err(|_| {
            bad_request(format!("{IMAGE:?}: image {index} has no length: {left} bytes are left, and a length takes 4"))
        })?;
        if length as usize > bytes.len() {
            let left = bytes.len();
            return Err(bad_request(format!(
                "{IMAGE:?}: image {index} has the length {length}, but {left} bytes are left"
            )));
        }
        files.push(bytes.split_to(length as usize));
    }
    if bytes.is_empty() {
        Ok(files)
    } else {
        Err(bad_request(format!("{IMAGE:?} has {} bytes of data after the last of its {count} images", bytes.len())))
    }
}

/// Converts an image from three planes, `[3, side, side]`, to interleaved pixels, `[side, side, 3]`. `image` is the
/// index of the image, which an error message contains.
fn interleave<T: Copy>(
    image: usize,
    planes: &[T],
    side: usize,
    number: impl Fn(T) -> f32,
) -> Result<Input, RequestError> {
    let (red, rest) = planes.split_at(side * side);
    let (green, blue) = rest.split_at(side * side);
    let pixels = red.iter().zip(green).zip(blue);
    let input: Input = pixels.flat_map(|((&r, &g), &b)| [number(r), number(g), number(b)]).collect();
    // This check has no branch for each number, so the compiler can check several at once. Only if it fails, the number
    // that is not finite is searched.
    if input.iter().fold(true, |finite, number| finite & number.is_finite()) {
        return Ok(input);
    }
    let position = planes.iter().position(|&element| !number(element).is_finite()).unwrap_or_default();
    let (channel, row, column) = (position / (side * side), position / side % side, position % side);
    let found = number(planes[position]);
    Err(bad_request(format!("{INPUT:?} has {found} at [{image},{channel},{row},{column}]; send finite numbers")))
}

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut array = Self::default();
        deserializer.deserialize_seq(Append(&mut array))?;
        Ok(array)
    }
}

/// Appends all elements of a JSON value to one array. A nested array takes no memory of its own.
struct Append<'a>(&'a mut Array);

impl Append<'_> {
    fn number<E: Error>(self, number: f32) -> Result<(), E> {
        if !self.0.strings.is_empty() {
            return Err(E::custom("a number follows strings; send only numbers or only strings"));
        }
        self.0.numbers.push(number);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Append<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array of numbers or of strings")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.number(number as f32)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.number(number as f32)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.number(number as f32)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if !self.0.numbers.is_empty() {
            return Err(E::custom("a string follows numbers; send only numbers or only strings"));
        }
        self.0.strings.push(text.to_owned());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(Append(self.0))?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 5;
    const INPUT_LENGTH: usize = 3 * SIDE * SIDE;

    /// A tensor of `count` images. The value of each number is its index.
    fn counted(count: usize) -> Vec<f32> {
        (0..count * INPUT_LENGTH).map(|position| position as f32).collect()
    }

    #[test]
    fn planes_become_interleaved_pixels_from_bytes_and_from_json() {
        let numbers = counted(2);
        let binary = InputElements::Binary(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        let flat = serde_json::to_string(&numbers).expect("numbers");
        let rows: Vec<&[f32]> = numbers.chunks_exact(SIDE).collect();
        let channels: Vec<&[&[f32]]> = rows.chunks_exact(SIDE).collect();
        let nested = serde_json::to_string(&channels.chunks_exact(3).collect::<Vec<_>>()).expect("numbers");
        let json = |text: &str| InputElements::Json(serde_json::from_str(text).expect("an array"));
        for (form, elements) in [("binary", binary), ("flat", json(&flat)), ("nested", json(&nested))] {
            let found = inputs(elements, 2, SIDE).unwrap_or_else(|fault| panic!("{form}: {fault}"));
            let plane = (SIDE * SIDE) as f32;
            for (image, input) in found.iter().enumerate() {
                let first = (image * INPUT_LENGTH) as f32;
                assert_eq!(input.len(), INPUT_LENGTH, "{form}");
                assert_eq!(input[..4], [first, first + plane, first + 2.0 * plane, first + 1.0], "{form}");
                assert_eq!(input[INPUT_LENGTH - 1], first + 3.0 * plane - 1.0, "{form}");
            }
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_with_its_position() {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut numbers = counted(2);
            numbers[INPUT_LENGTH + SIDE * SIDE + 2 * SIDE + 3] = number;
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let fault = inputs(InputElements::Binary(bytes), 2, SIDE).expect_err("not finite");
            assert!(fault.message.contains(&format!("{number} at [1,1,2,3]")), "{fault}");
        }
    }

    #[test]
    fn image_files_are_read_from_json_and_from_bytes() {
        let json = serde_json::from_str(r#"[["YWJj"],["ZA=="]]"#).expect("an array");
        for elements in
            [InputElements::Json(json), InputElements::Binary(Bytes::from_static(b"\x03\0\0\0abc\x01\0\0\0d"))]
        {
            assert_eq!(files(elements, 2), Ok(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"d")]));
        }
    }
}
