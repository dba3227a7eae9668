//! Settings of the process's memory allocator. They are in this crate because they are calls of C functions, and only
//! this crate may contain unsafe code.

/// Returns freed memory to the operating system, and makes the allocator return every later allocation of 1 MiB or more
/// as soon as it is freed. Does nothing where the C library is not glibc.
///
/// glibc takes allocations above a threshold from the operating system, and raises the threshold each time that one of
/// them is freed, as happens while a model is loaded. glibc then keeps freed memory below the threshold: tens of
/// megabytes on each thread. Loading is faster with the raised threshold, so call this function once, after loading.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: these functions take numbers and lock the data that they change. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 << 20);
        libc::malloc_trim(0);
    }
}
