//! A buffer of numbers that begins at a cache line, or at a large page if the buffer has 2 MiB or more.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// A slice of numbers with a fixed length, in aligned memory.
pub(crate) struct AlignedBuffer {
    start: NonNull<f32>,
    length: usize,
    allocation: Allocation,
}

/// How the memory was allocated, which decides how it is returned.
enum Allocation {
    Heap(Layout),
    #[cfg(target_os = "linux")]
    Mapped(pages::Mapping),
}

impl AlignedBuffer {
    /// A buffer of `length` zeros.
    ///
    /// # Panics
    /// If the buffer would be larger than the address space.
    pub(crate) fn zeroed(length: usize) -> Self {
        let bytes = length.checked_mul(size_of::<f32>()).expect("the buffer is smaller than the address space");
        #[cfg(target_os = "linux")]
        if let Some((start, mapping)) = pages::map(bytes) {
            return Self { start: start.cast(), length, allocation: Allocation::Mapped(mapping) };
        }
        let layout =
            Layout::from_size_align(bytes.max(1), CACHE_LINE).expect("the buffer is smaller than the address space");
        // SAFETY: the layout's size is above zero, and the number 0.0 has only zero bits.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start: start.cast(), length, allocation: Allocation::Heap(layout) }
    }

    /// A buffer of `length` numbers: `numbers`, then zeros.
    pub(crate) fn padded(numbers: &[f32], length: usize) -> Self {
        let mut padded = Self::zeroed(length);
        padded[..numbers.len()].copy_from_slice(numbers);
        padded
    }
}

/// Memory that is mapped from the operating system. The part of a mapping that is left out for the alignment is never
/// touched, so it takes no memory. The operating system gets the memory back as soon as the mapping is dropped.
#[cfg(target_os = "linux")]
mod pages {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    use std::ffi::c_void;
    use std::ptr::{NonNull, null_mut};

    /// Bytes of a large page. The operating system may back aligned memory with large pages. A sequential read of
    /// megabytes then misses the TLB less often.
    const LARGE_PAGE: usize = 2 << 20;

    /// A mapped range of memory, which is unmapped when dropped.
    pub(super) struct Mapping {
        start: *mut c_void,
        bytes: usize,
    }

    /// Maps `bytes` zero bytes that begin at a large page. `None` if `bytes` is less than a large page, or if the
    /// operating system refuses the mapping.
    pub(super) fn map(bytes: usize) -> Option<(NonNull<u8>, Mapping)> {
        if bytes < LARGE_PAGE {
            return None;
        }
        let mapped = bytes.checked_add(LARGE_PAGE)?;
        // SAFETY: a new mapping touches no memory that exists already.
        let start =
            unsafe { mmap_anonymous(null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let mapping = Mapping { start: start.ok()?, bytes: mapped };
        let aligned = mapping.start.map_addr(|address| address.next_multiple_of(LARGE_PAGE));
        // SAFETY: the range has whole large pages of the new mapping, to which no reference exists yet. If the system
        // refuses, the mapping stays in small pages.
        let _refused = unsafe { madvise(aligned, bytes / LARGE_PAGE * LARGE_PAGE, Advice::LinuxHugepage) };
        Some((NonNull::new(aligned.cast())?, mapping))
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the range was mapped with this start and length, and is no longer used. Unmapping a whole mapping
            // cannot fail.
            let _unmapped = unsafe { munmap(self.start, self.bytes) };
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `start` is valid for `length` initialised numbers as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        match &self.allocation {
            // SAFETY: the memory was allocated with this layout, and is no longer used.
            Allocation::Heap(layout) => unsafe { dealloc(self.start.as_ptr().cast(), *layout) },
            #[cfg(target_os = "linux")]
            Allocation::Mapped(_unmapped_by_its_own_drop) => {}
        }
    }
}

// SAFETY: the buffer owns its memory, as a `Vec` does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: a shared buffer is only read.
unsafe impl Sync for AlignedBuffer {}
