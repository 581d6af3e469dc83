//! The program `dissent`: see `dissent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dissent::cli::main()
}
