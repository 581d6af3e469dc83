//! The program `dissent`: see `dissent --help`.

use std::process::ExitCode;

/// jemalloc instead of the system's allocator. Events are allocated and freed on different threads; with
/// glibc's allocator a long run takes twice the memory.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    dissent::cli::main()
}
