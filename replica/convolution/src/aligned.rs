//! Zeroed numbers that begin on a cache line, and on a large page if there are many.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const CACHE_LINE: usize = 64;

/// A slice of fixed length.
pub(crate) struct Aligned {
    start: NonNull<f32>,
    length: usize,
    memory: Memory,
}

/// Where it is from, for giving it back.
enum Memory {
    Allocated(Layout),
    #[cfg(target_os = "linux")]
    Mapped(pages::Mapping),
}

impl Aligned {
    /// `length` zeros.
    pub(crate) fn zeroed(length: usize) -> Self {
        #[cfg(target_os = "linux")]
        if let Some((start, mapping)) = pages::map(length * size_of::<f32>()) {
            return Self { start: start.cast(), length, memory: Memory::Mapped(mapping) };
        }
        let bytes = (length * size_of::<f32>()).max(1);
        let layout = Layout::from_size_align(bytes, CACHE_LINE).expect("it fits the memory");
        // SAFETY: the layout has a size above zero; all bytes zero are the number zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start: start.cast(), length, memory: Memory::Allocated(layout) }
    }

    /// `numbers`, filled up with zeros to `length`.
    pub(crate) fn filled_up(numbers: &[f32], length: usize) -> Self {
        let mut filled = Self::zeroed(length);
        filled[..numbers.len()].copy_from_slice(numbers);
        filled
    }
}

/// Memory from the system itself: no allocator's room is spent on the alignment, and it goes back at once.
#[cfg(target_os = "linux")]
mod pages {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    use std::ffi::c_void;
    use std::ptr::{NonNull, null_mut};

    /// Where the system gives large pages to those who are aligned to them, reading megabytes in order needs fewer
    /// look-ups of addresses.
    const LARGE_PAGE: usize = 2 << 20;

    /// What was mapped.
    pub(super) struct Mapping {
        start: *mut c_void,
        bytes: usize,
    }

    /// Zeros that begin with a large page; none if they do not fill one, or the system has no room.
    pub(super) fn map(bytes: usize) -> Option<(NonNull<u8>, Mapping)> {
        if bytes < LARGE_PAGE {
            return None;
        }
        let mapped = bytes.checked_add(LARGE_PAGE)?;
        // SAFETY: a new mapping, which touches no memory that there is.
        let start =
            unsafe { mmap_anonymous(null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let mapping = Mapping { start: start.ok()?, bytes: mapped };
        let aligned = mapping.start.map_addr(|address| address.next_multiple_of(LARGE_PAGE));
        // SAFETY: whole large pages of what was just mapped, of which nothing is known yet. What does not fill one stays
        // small. A refusal changes nothing.
        let _small = unsafe { madvise(aligned, bytes / LARGE_PAGE * LARGE_PAGE, Advice::LinuxHugepage) };
        Some((NonNull::new(aligned.cast())?, mapping))
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: mapped like this, and not used any more. It cannot fail for a whole mapping.
            let _unmapped = unsafe { munmap(self.start, self.bytes) };
        }
    }
}

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
        match &self.memory {
            // SAFETY: allocated with this layout, and not used any more.
            Memory::Allocated(layout) => unsafe { dealloc(self.start.as_ptr().cast(), *layout) },
            #[cfg(target_os = "linux")]
            Memory::Mapped(_dropped_after) => {}
        }
    }
}

// SAFETY: it owns its memory as a `Vec` does.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}
