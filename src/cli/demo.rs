//! stub
#[derive(Debug, clap::Args)]
pub struct Demo {}
/// x
pub fn run(_: Demo) -> anyhow::Result<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
