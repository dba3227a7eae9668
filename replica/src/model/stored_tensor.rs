//! Tensors as files store them: a sequence of numbers (storage), and views of it with a shape and strides. Converts them
//! to f32 in row-major order.

use super::pickle::Global;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The type of the numbers of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper 16 bits of f32.
    Bf16,
    /// A type that weights cannot have here. Counters of training steps are integers.
    Other,
}

/// A sequence of numbers in a file. Its bytes are found by `key`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) element: ElementType,
    /// Number of bytes of a number.
    pub(super) element_bytes: usize,
    /// torch's name of the type of the numbers, for messages.
    pub(super) type_name: &'a str,
}

impl<'a> Storage<'a> {
    /// The storage of torch's class `class`; `None` if the class is unknown.
    pub(super) fn new(key: &'a str, class: Global<'a>) -> Option<Self> {
        let type_name = class.name.strip_suffix("Storage")?;
        let (element, element_bytes) = match (class.module, type_name) {
            ("torch" | "torch.cuda", name) => match name {
                "Float" => (ElementType::F32, 4),
                "Double" => (ElementType::F64, 8),
                "Half" => (ElementType::F16, 2),
                "BFloat16" => (ElementType::Bf16, 2),
                "ComplexDouble" => (ElementType::Other, 16),
                "Long" | "ComplexFloat" => (ElementType::Other, 8),
                "Int" | "QInt32" => (ElementType::Other, 4),
                "Short" => (ElementType::Other, 2),
                "Byte" | "Char" | "Bool" | "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => (ElementType::Other, 1),
                _ => return None,
            },
            ("torch.storage", "Untyped" | "_Untyped") => (ElementType::Other, 1),
            _ => return None,
        };
        Some(Self { key, element, element_bytes, type_name })
    }

    /// The same bytes with numbers of another type, torch's `dtype`; `None` if the type is unknown.
    pub(super) fn of_type(self, dtype: Global<'a>) -> Option<Self> {
        let (element, element_bytes) = match dtype.name {
            "float32" => (ElementType::F32, 4),
            "float64" => (ElementType::F64, 8),
            "float16" => (ElementType::F16, 2),
            "bfloat16" => (ElementType::Bf16, 2),
            _ if dtype.module == "torch" => (ElementType::Other, 1),
            _ => return None,
        };
        Some(Self { element, element_bytes, type_name: dtype.name, ..self })
    }
}

/// A tensor within a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View<'a> {
    pub(super) storage: Storage<'a>,
    /// Number of elements of the storage before the tensor.
    offset: usize,
    /// The length of each dimension, outermost first.
    pub(super) shape: Vec<usize>,
    /// For each dimension, the number of elements of the storage from one index to the next.
    strides: Vec<usize>,
}

/// A tensor with numbers of its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTensor {
    /// The length of each dimension, outermost first.
    pub(super) shape: Vec<usize>,
    /// The numbers in row-major order, or the name of a type that weights cannot have.
    pub(super) numbers: Result<Vec<f32>, String>,
}

impl<'a> View<'a> {
    /// Largest number of dimensions.
    pub(super) const MAX_RANK: usize = 8;

    /// A view of `storage`; `None` if a number is negative, or shape and strides differ in length.
    pub(super) fn new(storage: Storage<'a>, offset: i64, shape: &[i64], strides: &[i64]) -> Option<Self> {
        let unsigned = |numbers: &[i64]| {
            numbers.iter().map(|&number| usize::try_from(number).ok()).collect::<Option<Vec<usize>>>()
        };
        let (shape, strides) = (unsigned(shape)?, unsigned(strides)?);
        let offset = usize::try_from(offset).ok()?;
        (shape.len() == strides.len()).then_some(Self { storage, offset, shape, strides })
    }

    /// Number of elements; `None` if no memory could hold so many.
    fn count(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side))?;
        (count < 1 << 40).then_some(count)
    }

    /// The size of the numbers in row-major order, in bytes; `None` if no memory could hold them.
    pub(super) fn bytes(&self) -> Option<usize> {
        Some(self.count()? * self.storage.element_bytes)
    }

    /// Copies the tensor out of the bytes of its storage; `None` if it reaches past their end.
    pub(super) fn copy(&self, storage: &[u8]) -> Option<StoredTensor> {
        let Self { storage: Storage { element, element_bytes, type_name, .. }, offset, shape, strides } = self;
        let shape = shape.clone();
        if *element == ElementType::Other {
            return Some(StoredTensor { shape, numbers: Err((*type_name).to_owned()) });
        }
        let count = self.count()?;
        if count == 0 {
            return Some(StoredTensor { shape, numbers: Ok(Vec::new()) });
        }
        let steps = shape.iter().zip(strides).map(|(&side, &stride)| (side - 1).checked_mul(stride));
        let last = steps.into_iter().try_fold(*offset, |end, step| end.checked_add(step?))?;
        let storage = storage.get(..last.checked_add(1)?.checked_mul(*element_bytes)?)?;
        let numbers = match self.is_contiguous() {
            true => to_f32(&storage[offset * element_bytes..], *element),
            false => to_f32(&self.gather(storage, count), *element),
        };
        Some(StoredTensor { shape, numbers: Ok(numbers) })
    }

    /// Whether the elements lie in row-major order without gaps. Strides of dimensions of length 1 do not matter.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&side, &stride)| {
            let fits = side == 1 || stride == expected;
            expected *= side;
            fits
        })
    }

    /// The bytes of the `count` elements in row-major order. All of them are within `storage`.
    fn gather(&self, storage: &[u8], count: usize) -> Vec<u8> {
        let bytes = self.storage.element_bytes;
        let mut gathered = Vec::with_capacity(count * bytes);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..count {
            gathered.extend_from_slice(&storage[at * bytes..][..bytes]);
            for dimension in (0..index.len()).rev() {
                index[dimension] += 1;
                at += self.strides[dimension];
                if index[dimension] < self.shape[dimension] {
                    break;
                }
                at -= self.strides[dimension] * self.shape[dimension];
                index[dimension] = 0;
            }
        }
        gathered
    }
}

/// Converts little-endian `data` to f32. The result is empty for [`ElementType::Other`].
pub(super) fn to_f32(data: &[u8], element: ElementType) -> Vec<f32> {
    let halves = || data.as_chunks::<2>().0.iter();
    match element {
        ElementType::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        ElementType::F64 => data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        // Whole slices are converted at once, since processors have vector instructions for the conversion.
        ElementType::F16 => halves().map(|bytes| f16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        ElementType::Bf16 => halves().map(|bytes| bf16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        ElementType::Other => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn storage(class: &'static str) -> Storage<'static> {
        Storage::new("0", Global { module: "torch", name: class }).expect("a class of torch")
    }

    /// The bytes of the numbers 0, 1, 2 and so on.
    fn counting(count: usize) -> Vec<u8> {
        (0..count).flat_map(|number| (number as f32).to_le_bytes()).collect()
    }

    fn numbers(offset: i64, shape: &[i64], strides: &[i64], count: usize) -> Option<Vec<f32>> {
        let view = View::new(storage("FloatStorage"), offset, shape, strides)?;
        view.copy(&counting(count))?.numbers.ok()
    }

    #[test]
    fn strided_tensors_are_put_into_row_major_order() {
        for (offset, shape, strides, expected) in [
            (0, &[2, 3][..], &[3, 1][..], &[0, 1, 2, 3, 4, 5][..]),
            (0, &[3, 2], &[1, 3], &[0, 3, 1, 4, 2, 5]),
            (4, &[2], &[1], &[4, 5]),
            (1, &[], &[], &[1]),
            (0, &[2, 2], &[0, 1], &[0, 1, 0, 1]),
            (0, &[1, 3], &[99, 2], &[0, 2, 4]),
            (0, &[0, 3], &[1, 1], &[]),
        ] {
            let expected: Vec<f32> = expected.iter().map(|&number| number as f32).collect();
            assert_eq!(numbers(offset, shape, strides, 6), Some(expected), "{offset} {shape:?} {strides:?}");
        }
    }

    #[test]
    fn a_tensor_that_reaches_past_its_storage_or_has_negative_numbers_is_no_tensor() {
        for (offset, shape, strides) in [
            (0, &[7][..], &[1][..]),
            (5, &[2], &[1]),
            (0, &[2, 3], &[4, 1]),
            (0, &[2], &[i64::MAX]),
            (i64::MAX, &[1], &[1]),
            (0, &[i64::MAX, i64::MAX], &[1, 1]),
            (0, &[1 << 41], &[0]),
            (-1, &[1], &[1]),
            (0, &[-1], &[1]),
            (0, &[1], &[-1]),
            (0, &[1, 1], &[1]),
        ] {
            assert_eq!(numbers(offset, shape, strides, 6), None, "{offset} {shape:?} {strides:?}");
        }
    }

    #[test]
    fn all_floating_point_types_are_converted_and_others_are_named() {
        for (class, data) in [
            ("FloatStorage", (-2.5_f32).to_le_bytes().to_vec()),
            ("DoubleStorage", (-2.5_f64).to_le_bytes().to_vec()),
            ("HalfStorage", f16::from_f32(-2.5).to_le_bytes().to_vec()),
            ("BFloat16Storage", bf16::from_f32(-2.5).to_le_bytes().to_vec()),
        ] {
            let view = View::new(storage(class), 0, &[1], &[1]).expect("well formed");
            assert_eq!(view.copy(&data).expect("one number").numbers, Ok(vec![-2.5]), "{class}");
        }
        let long = View::new(storage("LongStorage"), 0, &[1], &[1]).expect("well formed");
        assert_eq!(long.copy(&[0; 8]).expect("one number").numbers, Err("Long".to_owned()));
        let untyped = Storage::new("0", Global { module: "torch.storage", name: "UntypedStorage" }).expect("known");
        let single = untyped.of_type(Global { module: "torch", name: "float8_e4m3fn" }).expect("known");
        assert_eq!((single.element, single.type_name), (ElementType::Other, "float8_e4m3fn"));
    }

    proptest! {
        #[test]
        fn any_view_is_copied_or_refused(
            offset in -1..40_i64,
            dimensions in prop::collection::vec((-1..5_i64, -1..12_i64), 0..5),
        ) {
            let (shape, strides): (Vec<i64>, Vec<i64>) = dimensions.into_iter().unzip();
            if let Some(found) = numbers(offset, &shape, &strides, 60) {
                prop_assert_eq!(found.len() as i64, shape.iter().product::<i64>());
                let first = found.first().map_or(offset, |first| *first as i64);
                prop_assert_eq!(first, offset);
            }
        }
    }
}
