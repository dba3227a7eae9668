//! Converts the elements of an input tensor, which are JSON or bytes, to images. Knows nothing of the other parts of a
//! request.

use super::{IMAGE, INPUT, bad_request};
use crate::image_text;
use crate::model::{CHANNELS, Input};
use bytes::{Buf, Bytes};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use service::wire::RequestError;
use std::borrow::Cow;

/// The elements of an input tensor in row-major order.
#[derive(Debug)]
pub enum InputElements<'a> {
    /// The elements of a JSON array.
    Json(Array<'a>),
    /// The bytes of the binary tensor data extension. An FP32 element is a little-endian number. A BYTES element is its
    /// length, of 32 bits, followed by its bytes.
    Binary(Bytes),
}

/// The elements of a JSON array and of the arrays in it. They are all numbers or all strings.
#[derive(Debug, Default)]
pub struct Array<'a> {
    numbers: Vec<f32>,
    /// The strings, of which only those with escapes are copied.
    strings: Vec<Cow<'a, str>>,
}

/// The numbers of elements that an array may have.
#[derive(Debug, Clone, Copy)]
pub struct MostElements {
    /// Most numbers of an array of numbers.
    pub numbers: usize,
    /// Most strings of an array of strings.
    pub strings: usize,
}

/// The `count` images of an FP32 tensor `[count, 3, side, side]` of normalised numbers. Each image becomes
/// `[side, side, 3]`.
///
/// # Errors
/// If the number of elements does not fit the shape, or an element is a string, NaN or infinite (status 400).
pub fn inputs(elements: InputElements<'_>, count: usize, side: usize) -> Result<Vec<Input>, RequestError> {
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

/// The `count` encoded images of a BYTES tensor `[count]`. In JSON, each image is a string of base64, or a data URL.
///
/// # Errors
/// If the number of elements is not `count`, an element is empty, not base64 or no string, or a length is beyond the
/// end of the data (status 400).
pub fn files(elements: InputElements<'_>, count: usize) -> Result<Vec<Bytes>, RequestError> {
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
            let decode = |(index, text): (usize, &Cow<'_, str>)| match image_text::decode(text.as_bytes()) {
                Ok(file) => Ok(file.into()),
                Err(reason) => Err(bad_request(format!("{IMAGE:?}: image {index} cannot be decoded: {reason}"))),
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

/// Reads an array, or null as no array.
pub struct ArraySeed<'s> {
    /// The numbers of elements that are read.
    pub most: MostElements,
    /// Called at the first element beyond `most`. Returns the message of the error.
    pub stopped: &'s dyn Fn() -> String,
}

impl<'de> DeserializeSeed<'de> for ArraySeed<'_> {
    type Value = Option<Array<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Array<'de>>, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ArraySeed<'_> {
    type Value = Option<Array<'de>>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array of numbers or of strings")
    }

    fn visit_none<E: Error>(self) -> Result<Option<Array<'de>>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Array<'de>>, D::Error> {
        let mut array = Array::default();
        deserializer.deserialize_seq(Append { array: &mut array, seed: &self })?;
        Ok(Some(array))
    }
}

/// Appends all elements of a JSON value to one array. A nested array takes no memory of its own.
struct Append<'a, 'de> {
    array: &'a mut Array<'de>,
    seed: &'a ArraySeed<'a>,
}

impl<'de> Append<'_, 'de> {
    fn number<E: Error>(self, number: f32) -> Result<(), E> {
        if !self.array.strings.is_empty() {
            return Err(E::custom("a number follows strings; send only numbers or only strings"));
        }
        if self.array.numbers.len() >= self.seed.most.numbers {
            return Err(E::custom((self.seed.stopped)()));
        }
        self.array.numbers.push(number);
        Ok(())
    }

    fn string<E: Error>(self, text: Cow<'de, str>) -> Result<(), E> {
        if !self.array.numbers.is_empty() {
            return Err(E::custom("a string follows numbers; send only numbers or only strings"));
        }
        if self.array.strings.len() >= self.seed.most.strings {
            return Err(E::custom((self.seed.stopped)()));
        }
        self.array.strings.push(text);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Append<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Append<'_, 'de> {
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
        self.string(Cow::Owned(text.to_owned()))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.string(Cow::Borrowed(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let Self { array, seed } = self;
        while sequence.next_element_seed(Append { array: &mut *array, seed })?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 5;
    const INPUT_LENGTH: usize = 3 * SIDE * SIDE;

    /// The elements of a JSON array.
    fn array(text: &str) -> Array<'_> {
        let seed = ArraySeed { most: MostElements { numbers: 1000, strings: 1000 }, stopped: &String::new };
        let array = seed.deserialize(&mut serde_json::Deserializer::from_str(text)).expect("JSON");
        array.expect("an array")
    }

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
        let json = |text| InputElements::Json(array(text));
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
        for elements in [
            InputElements::Json(array(r#"[["YWJj"],["ZA=="]]"#)),
            InputElements::Json(array(r#"["data:image\/png;base64,YWJj","Z\nA"]"#)),
            InputElements::Binary(Bytes::from_static(b"\x03\0\0\0abc\x01\0\0\0d")),
        ] {
            assert_eq!(files(elements, 2), Ok(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"d")]));
        }
    }
}
