//! A place in a real program's jobs where it stops for good, for tests that then kill its process.
//!
//! Compiled only with the feature `halt`, and idle unless the environment names a place. It must change nothing but
//! time: what is on disk when it stops is what a killed process leaves.

use crate::faults::Point;

/// `KIND:POINT`, such as `promote:AfterAction(3)`.
const PLACE: &str = "BULLION_HALT_AT";
/// The file that is written once the place is reached; without it nothing stops.
const FILE: &str = "BULLION_HALT_FILE";

/// Stops this thread for good where the environment says so.
pub(crate) fn at(kind: &str, point: Point) {
    let (Ok(place), Some(file)) = (std::env::var(PLACE), std::env::var_os(FILE)) else {
        return;
    };
    if place != format!("{kind}:{point:?}") {
        return;
    }
    if let Err(error) = std::fs::write(&file, &place) {
        tracing::error!(%error, place, "a place to stop was reached and cannot be told");
        return;
    }
    loop {
        std::thread::park();
    }
}
