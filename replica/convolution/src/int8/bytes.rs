//! A buffer of bytes that begins at a cache line.

use crate::aligned::AlignedBuffer;
use std::ops::{Deref, DerefMut};

/// A slice of bytes with a fixed length, in aligned memory.
pub struct Bytes {
    memory: AlignedBuffer,
    length: usize,
}

impl Bytes {
    /// A buffer of `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        Self { memory: AlignedBuffer::zeroed(length.div_ceil(size_of::<f32>())), length }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory has at least `length` initialised bytes, and every byte is a valid `u8`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed for writing, and any four bytes are a valid `f32`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.length) }
    }
}
