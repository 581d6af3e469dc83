//! The program `dissent`: see `dissent --help`.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// A service runs for months, and its events are allocated and freed on different threads: glibc's allocator keeps several times as
/// much of that as is in use.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    dissent::cli::main()
}
