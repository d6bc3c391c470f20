//! What every step of a run shares: its limits, what it shows, and how its errors are told.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::StepHow;
use disk::DiskDigest;
use jiff::Timestamp;
use jobs::{StepError, StepHandle};
use machine::Firmware;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Ingested, StoreError};

use super::Recipe;
use super::record::RunRecord;
use crate::source::LogLine;

/// A failure of a step, with its causes: what is told to people is one text.
pub(crate) fn failed(code: &str, error: &(dyn Error + 'static)) -> StepError {
    StepError::failed(code, chain(error))
}

/// A failure of a store. A full disk is the user's to mend, so it says how.
pub(crate) fn store_failed(error: &StoreError) -> StepError {
    if error.is_no_space() {
        let message = format!(
            "{}; free some space where the data folder is, and run it again to go on from here",
            chain(error)
        );
        return StepError::failed("InsufficientSpace", message);
    }
    failed("StoreFailed", error)
}

/// An error and its causes on one line; a cause that the text before it ends with is not repeated.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(failed("InternalServerError", &error)),
    }
}

/// Where a stage's output goes as it comes.
pub(super) fn log_lines(handle: &StepHandle) -> LogLine {
    let handle = handle.clone();
    Arc::new(move |line: &str| handle.log(line))
}

/// The limits of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    ends: Timestamp,
    minutes: u32,
}

impl Guard {
    /// The run's time counts from when it was asked for, however often it is resumed.
    pub fn new(record: &RunRecord, recipe: &Recipe) -> Result<Guard, StepError> {
        let minutes = recipe.timeout_minutes;
        let started = record.properties.start_time.parse::<Timestamp>();
        let started = started.map_err(|error| failed("InternalServerError", &error))?;
        let ends = catalog::later(started, Duration::from_secs(u64::from(minutes) * 60));
        Ok(Guard { ends, minutes })
    }

    pub fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.ends.duration_since(now)).unwrap_or_default()
    }

    /// Lets the work go on until it ends, is cancelled, or the run's time is over.
    pub async fn watch<T>(
        self,
        handle: StepHandle,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        tokio::select! {
            done = work => done,
            () = handle.until_cancelled() => Err(StepError::canceled()),
            () = handle.clock().sleep_until(self.ends) => {
                let message = format!(
                    "the build did not end within its {} minutes; raise buildTimeoutInMinutes, or run it again to go on from here",
                    self.minutes
                );
                Err(StepError::failed("BuildTimeout", message))
            }
        }
    }
}

/// What a step shows besides its result; a failed step shows it, too.
#[derive(Clone, Default)]
pub(super) struct Shown {
    detail: Arc<Mutex<Value>>,
    found: Arc<AtomicBool>,
}

impl Shown {
    pub fn set(&self, detail: Value) {
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = detail;
    }

    pub fn take(&self) -> Value {
        let mut detail = self.detail.lock().unwrap_or_else(PoisonError::into_inner);
        detail.take()
    }

    /// The step looked, and what it should have made was there.
    pub fn found(&self) {
        self.found.store(true, Ordering::Relaxed);
    }

    /// How the result came about, where the journal says `how`.
    pub fn how(&self, how: StepHow) -> StepHow {
        match self.found.load(Ordering::Relaxed) {
            true => StepHow::Found,
            false => how,
        }
    }
}

/// A disk that a step made, by name, and what it took to keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StepDisk {
    pub digest: DiskDigest,
    pub logical_bytes: u64,
    pub data_bytes: u64,
    /// What the store did not have, before compression.
    pub new_bytes: u64,
    pub stored_bytes: u64,
    /// Blocks that differ from the parent, in bytes; the whole data for a disk without one.
    pub changed_bytes: u64,
}

impl StepDisk {
    /// A disk that was there and took nothing.
    pub fn default_of(digest: DiskDigest) -> StepDisk {
        StepDisk {
            digest,
            logical_bytes: 0,
            data_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
            changed_bytes: 0,
        }
    }

    pub fn of(ingested: Ingested, changed_bytes: u64) -> StepDisk {
        StepDisk {
            digest: ingested.digest,
            logical_bytes: ingested.logical_bytes,
            data_bytes: ingested.data_bytes,
            new_bytes: ingested.new_bytes,
            stored_bytes: ingested.stored_bytes,
            changed_bytes,
        }
    }
}

pub(super) fn test_name(firmware: Firmware) -> String {
    match firmware {
        Firmware::Bios => "bios".to_owned(),
        Firmware::Uefi => "uefi".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = store_failed(&StoreError::Put {
            name: "packs/1".to_owned(),
            source: full,
        });
        let StepError::Failed { code, message, .. } = error else {
            panic!("not a failure: {error}");
        };
        assert_eq!(code, "InsufficientSpace");
        assert!(message.contains("free some space"), "{message}");
    }

    #[test]
    fn causes_are_told_once() {
        let layer = |text, source: Option<Layer>| Layer {
            text,
            source: source.map(Box::new),
        };
        let check = |error: Layer, expected: &str| assert_eq!(chain(&error), expected);
        check(
            layer("a", Some(layer("b", Some(layer("c", None))))),
            "a: b: c",
        );
        check(
            layer("a: b", Some(layer("b", Some(layer("c", None))))),
            "a: b: c",
        );
        check(layer("alone", None), "alone");
    }
}
