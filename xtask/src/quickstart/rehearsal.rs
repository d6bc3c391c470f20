//! The quickstart as a test: on an empty folder, then on the same folder, where everything must be found quickly.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::program::Program;
use crate::progress::Step;
use crate::suite::Ended;
use crate::workspace;

/// The promise for a second run on the same folder.
const SECOND_RUN: Duration = Duration::from_secs(60);

pub fn rehearse(log: &Path, step: &Step) -> Result<Ended> {
    let target = workspace::target_folder()?;
    let folder = target.join("quickstart-rehearsal");
    let this = std::env::current_exe().context("cannot find this program")?;
    let quickstart = |more: &[&str]| {
        let program = Program::new(&this)
            .arg("quickstart")
            .arg("--data")
            .arg(&folder)
            .args(more);
        let detail = step.detail();
        program
            .in_folder(workspace::root())
            .run_into(log, move |line| detail.set(line))
    };
    // What an interrupted rehearsal left would make the first run a second one.
    quickstart(&["--clean"])?;
    let binary = target.join("debug/bullion");
    let binary = ["--binary", &binary.to_string_lossy()];
    let first = quickstart(&binary)?.success();
    let began = Instant::now();
    let second = first && quickstart(&binary)?.success();
    let took = began.elapsed();
    let cleaned = quickstart(&["--clean"])?.success();
    Ok(match (first, second, cleaned) {
        (false, ..) => Ended::Failed("the first run".to_owned()),
        (_, false, _) => Ended::Failed("the second run on the same folder".to_owned()),
        (.., false) => Ended::Failed("stopping and deleting".to_owned()),
        _ if took > SECOND_RUN => Ended::Failed(format!(
            "the second run took {} s, more than {}",
            took.as_secs(),
            SECOND_RUN.as_secs()
        )),
        _ => Ended::Passed,
    })
}
