//! The program `dissent`: see `dissent --help`.

use std::process::ExitCode;

/// A service runs for months, and its events are allocated and freed on different threads: glibc's allocator keeps several times as
/// much of that as is in use.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    dissent::cli::main()
}
