//! Whether apt is still fetching. It waits for an archive that sends nothing, puts that file off, goes on to the next, and
//! asks for all of them once more in the end: a server that hangs takes as long for each of two hundred packages, twice.
//! Nothing is installed without all of them, so the first that it gave up is the end, and so is silence at one file after
//! the other. It must not start anything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A file that apt gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("apt gave up {file}: {reason}")]
pub struct NotFetched {
    /// Its address and what it is, in apt's words.
    pub file: String,
    pub reason: String,
}

/// Files one after the other that apt put off, with nothing whole between them. It does not say why it does.
const PUT_OFF_MAX: u32 = 3;

/// Reads what apt says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    /// A file has begun to come.
    comes: bool,
    put_off: u32,
    /// The file that apt gave up with its last line; why is in the next.
    given_up: Option<String>,
    found: Option<NotFetched>,
}

impl Heard {
    fn line(&mut self, line: &str) {
        if let Some(file) = self.given_up.take() {
            self.find(file, line.trim().to_owned());
            return;
        }
        match said(line) {
            Some(("Get", _)) => {
                // The one before, if one came, is whole.
                let whole = std::mem::replace(&mut self.comes, true);
                self.put_off = if whole { 0 } else { self.put_off };
            }
            Some(("Ign", file)) => {
                self.comes = false;
                self.put_off += 1;
                if self.put_off >= PUT_OFF_MAX {
                    let reason = "the archive sent neither this nor the packages before it";
                    self.find(file.to_owned(), reason.to_owned());
                }
            }
            Some(("Err", file)) => self.given_up = Some(file.to_owned()),
            _ => {}
        }
    }

    fn find(&mut self, file: String, reason: String) {
        self.found.get_or_insert(NotFetched { file, reason });
    }
}

/// The word and the file of lines such as `Err:12 http://…`.
fn said(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.split_once(':')?;
    let (number, file) = rest.split_once(' ')?;
    let counted = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (counted && file.contains("://")).then_some((word, file))
}

impl Watch {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line of apt's.
    pub fn line(&self, line: &str) {
        let mut heard = self.heard();
        heard.line(line);
        if heard.found.is_some() {
            self.0.told.notify_one();
        }
    }

    async fn failed(&self) -> NotFetched {
        loop {
            let found = self.heard().found.clone();
            match found {
                Some(found) => return found,
                None => self.0.told.notified().await,
            }
        }
    }
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

    const FILE: &str = "http://mirror.example/debian bookworm/main amd64";

    /// `Get a`, `Ign a`, `Err a 404 Not Found`: what apt says of packages.
    #[track_caller]
    fn check(told: &[&str], expected: Option<(&str, &str)>) {
        let watch = Watch::default();
        for (number, one) in told.iter().enumerate() {
            let mut words = one.splitn(3, ' ');
            let (word, name) = (words.next().unwrap(), words.next().unwrap());
            watch.line(&format!("{word}:{number} {FILE} {name}"));
            if let Some(reason) = words.next() {
                watch.line(&format!("  {reason}"));
            }
        }
        let found = watch.heard().found.clone();
        let found = found.map(|one| (one.file, one.reason));
        let expected = expected.map(|(name, why)| (format!("{FILE} {name}"), why.to_owned()));
        assert_eq!(found, expected, "{told:?}");
    }

    #[test]
    fn the_first_file_that_was_given_up_is_told_with_the_reason() {
        check(
            &["Get a", "Err a 404  Not Found", "Err b 404  Not Found"],
            Some(("a", "404  Not Found")),
        );
        check(&["Get a", "Get b"], None);
        // It is asked for once more.
        check(&["Get a", "Ign a", "Get b", "Get c"], None);
    }

    #[test]
    fn one_file_after_the_other_that_is_put_off_is_the_end() {
        const WHY: &str = "the archive sent neither this nor the packages before it";
        check(
            &[
                "Get a", "Ign a", "Get b", "Ign b", "Get c", "Ign c", "Get d",
            ],
            Some(("c", WHY)),
        );
        check(&["Ign a", "Ign b", "Ign c"], Some(("c", WHY)));
        // Another came whole between them.
        check(&["Ign a", "Ign b", "Get x", "Get c", "Ign c"], None);
    }

    #[test]
    fn what_a_packages_script_says_is_not_apts_word() {
        let watch = Watch::default();
        for line in [
            "Err: nothing to do",
            "x",
            "Err:one http://a",
            "x",
            "Err:1 x",
            "y",
        ] {
            watch.line(line);
        }
        assert_eq!(watch.heard().found, None);
    }
}
