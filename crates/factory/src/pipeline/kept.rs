//! Machines of images that failed a check, kept for a while so that somebody can log in and look. They are throw-away
//! machines all the same: one ends after its time, when somebody lets go of it, when its template is run again, and
//! with this process. What is known of them is in memory, because they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{Clock, later};
use jiff::Timestamp;
use machine::{ExecOutput, Guest, System};
use serde_json::{Value, json};
use tempfile::TempDir;
use wire::ResourceId;

use crate::serving::Attachable;

/// How long somebody has to look.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);
/// Each takes the memory of a machine; beyond, the one kept longest goes.
const KEPT_MAX: usize = 2;

/// One machine and what it needs for as long as it runs.
pub(super) struct KeptMachine {
    pub template: ResourceId,
    pub system: System,
    pub guest: Arc<dyn Guest>,
    pub disk: Attachable,
    pub work: TempDir,
}

struct Entry {
    machine: KeptMachine,
    until: Timestamp,
}

/// The kept machines of one factory, by run.
#[derive(Clone, Default)]
pub struct KeptMachines(Arc<Mutex<BTreeMap<String, Entry>>>);

impl KeptMachines {
    /// Keeps a machine until the time that is answered.
    pub(super) async fn keep(
        &self,
        clock: &Arc<dyn Clock>,
        run: &ResourceId,
        machine: KeptMachine,
    ) -> Timestamp {
        let until = later(clock.now(), KEPT_FOR);
        let entry = Entry { machine, until };
        let mut gone: Vec<Entry> = self
            .lock()
            .insert(run.folded().to_owned(), entry)
            .into_iter()
            .collect();
        gone.extend(self.beyond(KEPT_MAX));
        end(gone).await;
        let (all, clock, run) = (self.clone(), Arc::clone(clock), run.folded().to_owned());
        tokio::spawn(async move {
            clock.sleep_until(until).await;
            // Another may be kept under that name by then, with a time of its own.
            end(all.take(|name, entry| *name == run && entry.until <= until)).await;
        });
        until
    }

    /// What there is to know about the machine of a run, if it is kept: how to log in, which a Windows has no way to.
    pub fn of(&self, run: &ResourceId) -> Option<Value> {
        let all = self.lock();
        let entry = all.get(run.folded())?;
        let (guest, system) = (&entry.machine.guest, entry.machine.system);
        let mut shown = json!({ "until": entry.until.to_string(), "osType": os_type(system) });
        if system == System::Linux {
            shown["ssh"] = crate::deploy::login(guest.info());
        }
        guest.is_running().then_some(shown)
    }

    /// Runs lines in the machine of a run, if it is kept: of shell, or of PowerShell where it is a Windows.
    pub async fn run_in(
        &self,
        run: &ResourceId,
        lines: &str,
        deadline: Duration,
    ) -> Option<Result<ExecOutput, String>> {
        let (guest, system) = {
            let all = self.lock();
            let machine = &all.get(run.folded())?.machine;
            (Arc::clone(&machine.guest), machine.system)
        };
        let ran = match system {
            System::Linux => guest.exec(lines, deadline).await,
            System::Windows => guest.script(lines, &[], deadline).await,
        };
        Some(ran.map_err(|error| super::chain(&error)))
    }

    /// Ends the machine of a run. Answers whether there was one.
    pub async fn release(&self, run: &ResourceId) -> bool {
        let run = run.folded();
        let gone = self.take(|name, _| *name == run);
        let was_there = !gone.is_empty();
        end(gone).await;
        was_there
    }

    /// Ends those of a template's earlier runs.
    pub(super) async fn release_of(&self, template: &ResourceId) {
        end(self.take(|_, entry| entry.machine.template == *template)).await;
    }

    fn take(&self, which: impl Fn(&String, &Entry) -> bool) -> Vec<Entry> {
        let mut all = self.lock();
        let names: Vec<String> = all
            .iter()
            .filter(|(name, entry)| which(name, entry))
            .map(|(name, _)| name.clone())
            .collect();
        names.iter().filter_map(|name| all.remove(name)).collect()
    }

    /// Those that are too many, the one that would end first before the others.
    fn beyond(&self, most: usize) -> Vec<Entry> {
        let mut times: Vec<Timestamp> = self.lock().values().map(|entry| entry.until).collect();
        times.sort();
        let too_many = times.len().saturating_sub(most);
        match too_many.checked_sub(1).and_then(|last| times.get(last)) {
            Some(last) => self.take(|_, entry| entry.until <= *last),
            None => Vec::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As Azure calls them.
fn os_type(system: System) -> &'static str {
    match system {
        System::Linux => "Linux",
        System::Windows => "Windows",
    }
}

/// The machine first, then what it reads and where it works.
async fn end(gone: Vec<Entry>) {
    for Entry { machine, .. } in gone {
        if let Err(error) = machine.guest.kill().await {
            tracing::warn!(
                error = super::chain(&error),
                "a kept machine could not be killed"
            );
        }
        drop((machine.guest, machine.disk, machine.work));
    }
}
