//! Proves that `oz-worker-core` does without `std`. `.ci/run` compiles this file against it, and against nothing else.
//!
//! A program has one panic handler. This one defines its own, so if core or anything below it linked `std`, which brings
//! another, the compiler would refuse with E0152.

#![no_std]

extern crate alloc;

use core::alloc::{GlobalAlloc, Layout};

use oz_worker_core as _;

struct Nothing;

// SAFETY: a null pointer is how an allocator refuses; nothing is ever run here.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Nothing = Nothing;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
