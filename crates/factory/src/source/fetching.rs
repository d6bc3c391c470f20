//! Whether apt is still fetching. It waits for an archive that sends nothing, gives that one file up, and goes on to the
//! next: a server that hangs takes as long for each of two hundred packages. Nothing is installed without all of them, so
//! the first that it gave up is the end. It must not start anything.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A file that apt gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("apt gave up {file}: {reason}")]
pub struct NotFetched {
    /// Its address and what it is, in apt's words.
    pub file: String,
    pub reason: String,
}

/// Reads what apt says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    file: Mutex<Option<String>>,
    found: Mutex<Option<NotFetched>>,
    told: Notify,
}

impl Watch {
    /// `Err:12 http://…` names a file that was given up; why is in the next line.
    pub fn line(&self, line: &str) {
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.take() {
            Some(file) => {
                let reason = line.trim().to_owned();
                let mut found = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.get_or_insert(NotFetched { file, reason });
                self.0.told.notify_one();
            }
            None => *file = given_up(line),
        }
    }

    async fn failed(&self) -> NotFetched {
        loop {
            let told = self.0.told.notified();
            let found = self
                .0
                .found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(found) = found {
                return found;
            }
            told.await;
        }
    }
}

fn given_up(line: &str) -> Option<String> {
    let (number, file) = line.strip_prefix("Err:")?.split_once(' ')?;
    let counted = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (counted && file.contains("://")).then(|| file.to_owned())
}

/// Waits for `run`, which is dropped as soon as `watch` has seen that it cannot succeed.
pub(crate) async fn watched<T>(
    watch: &Watch,
    run: impl Future<Output = T>,
) -> Result<T, NotFetched> {
    tokio::select! {
        ended = run => Ok(ended),
        failed = watch.failed() => Err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: Option<(&str, &str)>) {
        let watch = Watch::default();
        lines.iter().for_each(|line| watch.line(line));
        let found = watch.0.found.lock().unwrap().clone();
        let found = found
            .as_ref()
            .map(|one| (one.file.as_str(), one.reason.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_first_file_that_was_given_up_is_told_with_the_reason() {
        check(
            &[
                "Get:1 http://mirror.example/debian bookworm/main amd64 a amd64 1 [2 kB]",
                "Ign:1 http://mirror.example/debian bookworm/main amd64 a amd64 1",
                "Err:1 http://mirror.example/debian bookworm/main amd64 a amd64 1",
                "  Connection timed out [IP: 192.0.2.1 80]",
                "Err:2 http://mirror.example/debian bookworm/main amd64 b amd64 1",
                "  404  Not Found",
            ],
            Some((
                "http://mirror.example/debian bookworm/main amd64 a amd64 1",
                "Connection timed out [IP: 192.0.2.1 80]",
            )),
        );
        check(&["Err:1 http://mirror.example/debian a"], None);
        // Words of a package's script.
        check(
            &[
                "Err: nothing to do",
                "x",
                "Err:one http://a",
                "x",
                "Err:1 x",
                "y",
            ],
            None,
        );
    }
}
