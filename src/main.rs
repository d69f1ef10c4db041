//! The `messina` binary: arguments to exit code. Everything else is in the library.

use std::process::ExitCode;

use messina::cli;
use messina::shutdown::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match cli::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::run(args).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::Internal.into()
    })
}
