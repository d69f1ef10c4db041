//! The `messina` binary: from arguments to exit code. Everything else is in the library.

use std::process::ExitCode;

use messina::cli;
use messina::custom::CustomSteps;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(CustomSteps::new())
}
