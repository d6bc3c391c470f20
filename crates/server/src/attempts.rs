//! How often somebody may fail to sign in on a page, so that secrets are not tried out there.
//!
//! Kept in memory and bounded: a restart forgets, and the oldest names make room for new ones.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures of one name within the window.
const FAILURES_MAX: u32 = 5;
/// Failures of all names together.
const ALL_FAILURES_MAX: u32 = 200;
const WINDOW: Duration = Duration::from_secs(300);
const NAMES_MAX: usize = 10_000;

#[derive(Default)]
pub struct Attempts(Mutex<State>);

#[derive(Default)]
struct State {
    of: HashMap<String, Failures>,
    all: Option<Failures>,
}

#[derive(Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Failures {
    fn more(before: Option<&Failures>, now: Instant) -> Failures {
        match before {
            Some(before) if now.duration_since(before.since) < WINDOW => Failures {
                count: before.count.saturating_add(1),
                ..*before
            },
            _ => Failures {
                since: now,
                count: 1,
            },
        }
    }

    fn reached(self, most: u32, now: Instant) -> bool {
        self.count >= most && now.duration_since(self.since) < WINDOW
    }
}

impl Attempts {
    pub fn may_try(&self, name: &str) -> bool {
        self.may_try_at(name, Instant::now())
    }

    pub fn failed(&self, name: &str) {
        self.failed_at(name, Instant::now());
    }

    pub fn pause_seconds(&self) -> u64 {
        WINDOW.as_secs()
    }

    fn may_try_at(&self, name: &str, now: Instant) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = state.of.get(name);
        !own.is_some_and(|own| own.reached(FAILURES_MAX, now))
            && !state
                .all
                .is_some_and(|all| all.reached(ALL_FAILURES_MAX, now))
    }

    fn failed_at(&self, name: &str, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Failures::more(state.all.as_ref(), now);
        state.all = Some(all);
        if !state.of.contains_key(name) && state.of.len() >= NAMES_MAX {
            state
                .of
                .retain(|_, one| now.duration_since(one.since) < WINDOW);
            if state.of.len() >= NAMES_MAX {
                return;
            }
        }
        let own = Failures::more(state.of.get(name), now);
        state.of.insert(name.to_string(), own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_failures_then_a_pause() {
        let attempts = Attempts::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(attempts.may_try_at("a", start));
            attempts.failed_at("a", start);
        }
        assert!(!attempts.may_try_at("a", start));
        assert!(attempts.may_try_at("b", start));
        assert!(attempts.may_try_at("a", start + WINDOW));
        for number in 0..ALL_FAILURES_MAX {
            attempts.failed_at(&number.to_string(), start);
        }
        assert!(
            !attempts.may_try_at("c", start),
            "nobody, when everybody fails"
        );
        assert!(attempts.may_try_at("c", start + WINDOW));
    }
}
