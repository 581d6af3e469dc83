//! The program `dissent`: see `dissent --help`.

use std::process::ExitCode;

/// A service runs for months, and its events are allocated and freed on different threads: with glibc's
/// allocator a long run takes twice the memory.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    dissent::cli::main()
}
