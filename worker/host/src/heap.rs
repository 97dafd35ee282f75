//! The worker's heap, where the C library's allocator keeps it.
//!
//! glibc's allocator is meant for programs that compute: it gives each thread a heap of its own, and keeps what is free for
//! whoever may want it next. A worker waits most of its life, with what its last burst of tasks took at its height.

/// Gives all threads one heap, so that what one frees another uses. To be called before there is a second thread.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator's own, which is read when a thread allocates for the first time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives every page of the heap back to the system that nobody uses, wherever it lies. It looks at what is free only, and takes
/// a few microseconds when there is little.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes nothing that is allocated, and takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    /// How many bytes of this process are resident and backed by no file.
    fn anonymous() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_free_between_what_is_used_goes_back() {
        const PIECE: usize = 16 << 10;
        let mut pieces: Vec<Vec<u8>> = (0..1024).map(|_| vec![1; PIECE]).collect();
        let before = anonymous();
        let mut is_kept = false;
        pieces.retain(|_| {
            is_kept = !is_kept;
            is_kept
        });
        give_back_heap();
        let after = anonymous();
        // Other tests run beside this one.
        assert!(after + pieces.len() * PIECE / 2 < before, "{before} bytes before, and {after} after");
        assert!(pieces.iter().flatten().all(|byte| *byte == 1));
    }
}
