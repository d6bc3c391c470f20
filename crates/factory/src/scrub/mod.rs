//! Scrub: every store is read again within a set period, a little at a time, and what is damaged is
//! repaired from other zones and regions. How far it is survives restarts.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jobs::{Cancel, Reconciler};
use serde::{Deserialize, Serialize};
use store::region::{Found, Position};
use wire::Location;

use crate::factory::Factory;

const RECONCILER: &str = "scrub";
const PERIOD: Duration = Duration::from_secs(60);
/// After a stop only so much is made up for at once.
const CATCH_UP: Duration = Duration::from_secs(600);
/// Steps of one pass in one region.
const STEPS_MAX: usize = 10_000;
/// Problems that are kept to be shown, the newest.
const PROBLEMS_MAX: usize = 100;
const NOTE: &str = "scrub.json";
const MAX_NOTE_BYTES: u64 = 4 << 20;

/// How far the scrub of a region is, and what it found lately.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    pub position: Position,
    /// Seconds since 1970, of the last step.
    pub last: u64,
    /// Bytes that are due and not read yet.
    pub due: u64,
    pub problems: Vec<String>,
}

/// Reads everything again.
pub struct Scrub {
    factory: Arc<Factory>,
    states: Mutex<Option<BTreeMap<String, State>>>,
}

impl Scrub {
    pub fn new(factory: Arc<Factory>) -> Scrub {
        Scrub {
            factory,
            states: Mutex::new(None),
        }
    }
}

/// Where a region's scrub is, for whoever asks.
pub(crate) fn state_of(data: &Path, region: &Location) -> Option<State> {
    read(&note(data)).remove(&region.folded())
}

fn note(data: &Path) -> PathBuf {
    data.join("regions").join(NOTE)
}

fn read(path: &Path) -> BTreeMap<String, State> {
    let is_ours = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_NOTE_BYTES);
    let text = is_ours.then(|| std::fs::read(path).ok()).flatten();
    // Lost, it begins again.
    text.and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn write(path: &Path, states: &BTreeMap<String, State>) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(states)?)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

/// Reads as much of a region as is due by now.
fn step(factory: &Factory, name: &Location, state: &mut State, now: u64, stop: &Cancel) {
    let regions = &factory.regions;
    let Ok(region) = regions.region(name) else {
        return;
    };
    let others = regions.others(name, name);
    let passed = now.saturating_sub(state.last).min(CATCH_UP.as_secs());
    let passed = if state.last == 0 {
        PERIOD.as_secs()
    } else {
        passed
    };
    let period = regions.settings().scrub_period.as_secs().max(1);
    // Rounded up, so that a small region is read too.
    state.due += (region.bytes() * passed).div_ceil(period);
    state.last = now;
    for _ in 0..STEPS_MAX {
        if state.due == 0 || stop.is_raised() {
            break;
        }
        let Found {
            bytes,
            problems,
            ended,
        } = region.scrub_step(&mut state.position, &others);
        state.due = state.due.saturating_sub(bytes);
        for problem in &problems {
            tracing::warn!(region = region.name(), problem, "a scrub found something");
        }
        state.problems.extend(problems);
        let surplus = state.problems.len().saturating_sub(PROBLEMS_MAX);
        state.problems.drain(..surplus);
        if ended {
            // The next round begins with what is due then.
            state.due = 0;
        }
    }
}

#[async_trait]
impl Reconciler for Scrub {
    fn name(&self) -> &'static str {
        RECONCILER
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn reconcile(&self, stop: &Cancel) -> Result<(), Box<dyn Error + Send + Sync>> {
        let path = note(&self.factory.data);
        let known = {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            states.take()
        };
        let now = u64::try_from(self.factory.clock.now().as_second()).unwrap_or(0);
        let (factory, stop) = (Arc::clone(&self.factory), stop.clone());
        let worked = tokio::task::spawn_blocking(move || {
            let mut states = known.unwrap_or_else(|| read(&path));
            let names = factory.regions.places();
            for name in &names {
                let state = states.entry(name.folded()).or_default();
                step(&factory, name, state, now, &stop);
            }
            states.retain(|region, _| names.iter().any(|name| name.folded() == *region));
            let written = write(&path, &states);
            (states, written)
        });
        let (states, written) = worked.await?;
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = Some(states);
        Ok(written?)
    }
}
