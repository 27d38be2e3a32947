//! The binary `windlass`: see `windlass::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    windlass::cli::main()
}
