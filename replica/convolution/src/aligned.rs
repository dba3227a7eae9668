//! Zeroed numbers that begin on a cache line, and on a large page if there are many.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const CACHE_LINE: usize = 64;

/// Where the system gives large pages to those who are aligned to them, reading megabytes in order needs fewer
/// look-ups of addresses.
const LARGE_PAGE: usize = 2 << 20;

/// A slice of fixed length.
pub(crate) struct Aligned {
    start: NonNull<f32>,
    layout: Layout,
    length: usize,
}

impl Aligned {
    /// `length` zeros.
    pub(crate) fn zeroed(length: usize) -> Self {
        let bytes = (length * size_of::<f32>()).max(1);
        let alignment = if bytes >= LARGE_PAGE { LARGE_PAGE } else { CACHE_LINE };
        let layout = Layout::from_size_align(bytes.next_multiple_of(alignment), alignment).expect("it fits the memory");
        // SAFETY: the layout has a size above zero.
        let start = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        ask_for_large_pages(start, layout);
        // SAFETY: as many bytes were allocated; all of them zero are the number zero.
        unsafe { start.write_bytes(0, layout.size()) };
        let start = start.cast();
        Self { start, layout, length }
    }

    /// `numbers`, filled up with zeros to `length`.
    pub(crate) fn filled_up(numbers: &[f32], length: usize) -> Self {
        let mut filled = Self::zeroed(length);
        filled[..numbers.len()].copy_from_slice(numbers);
        filled
    }
}

/// Before the memory is first written to, which is when it gets its pages.
#[cfg(target_os = "linux")]
fn ask_for_large_pages(start: NonNull<u8>, layout: Layout) {
    use rustix::mm::{Advice, madvise};
    if layout.align() == LARGE_PAGE {
        // SAFETY: whole pages that were just allocated, of which nothing is known yet. A refusal changes nothing.
        let _small = unsafe { madvise(start.as_ptr().cast(), layout.size(), Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_start: NonNull<u8>, _layout: Layout) {}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `start` is valid for `length` numbers, all of them initialised, as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and not used any more.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

// SAFETY: it owns its memory as a `Vec` does.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}
