//! The worker's own heap.

/// Gives memory that was freed back to the system: what the start took for a moment lies between what stays, and an allocator
/// keeps that for later. A C library that has no word for it keeps it.
pub fn give_back_heap() {
    // SAFETY: it takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
