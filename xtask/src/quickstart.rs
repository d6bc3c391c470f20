//! x
use crate::progress::Step;
use anyhow::Result;
use std::path::Path;
use std::process::ExitCode;
pub fn command(_args: &[String]) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
pub fn rehearse(_log: &Path, _step: &Step) -> Result<crate::suite::Ended> {
    Ok(crate::suite::Ended::Passed)
}
