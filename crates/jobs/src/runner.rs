//! Who claims jobs and works on them: a few at once, until told to stop.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use catalog::{AuthStore, Clock, JobId, JobStore, StepKey, later};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::cancel::{Cancel, CancelSource};
use crate::faults::{self, Faults};
use crate::kind::{AnyKind, Erased, JobKind};
use crate::reconcile::{self, Chain, Reconciler};
use crate::report::{LEASE, lock};
use crate::submit::Jobs;
use crate::work::work;

/// Jobs at once, if nothing else is said.
const WORKERS: usize = 4;
const WORKERS_MAX: usize = 256;
/// The longest that a worker looks away: jobs that other processes submitted are found by looking.
const POLL: Duration = Duration::from_secs(5);
/// The shortest, so that a job that is due and cannot be claimed keeps nobody busy.
const POLL_MIN: Duration = Duration::from_millis(100);

/// Gathers what a runner runs.
pub struct RunnerBuilder {
    jobs: Arc<dyn JobStore>,
    auth: Arc<dyn AuthStore>,
    kinds: BTreeMap<&'static str, Arc<dyn AnyKind>>,
    reconcilers: Vec<Arc<dyn Reconciler>>,
    workers: usize,
    server: String,
    faults: Arc<dyn Faults>,
    signals: Arc<Signals>,
}

/// Works on jobs from `start` to `stop`.
pub struct Runner {
    core: Arc<Core>,
    tasks: JoinSet<()>,
    stop: CancelSource,
    drop: CancelSource,
}

/// What a runner, its jobs and its clients share.
pub(crate) struct Core {
    pub jobs: Arc<dyn JobStore>,
    pub auth: Arc<dyn AuthStore>,
    pub clock: Arc<dyn Clock>,
    pub faults: Arc<dyn Faults>,
    pub flights: Flights,
    /// No new step begins.
    pub stopping: Cancel,
    /// Steps under way are dropped.
    pub dropping: Cancel,
    kinds: BTreeMap<&'static str, Arc<dyn AnyKind>>,
    holder: String,
    signals: Arc<Signals>,
}

impl std::ops::Deref for Core {
    type Target = Signals;

    fn deref(&self) -> &Signals {
        &self.signals
    }
}

/// What a client of jobs uses to reach the runner of the same process at once.
#[derive(Default)]
pub(crate) struct Signals {
    /// There may be a job to claim.
    pub work: Notify,
    /// Counts jobs let go of: a change is a reason to look at a job again.
    pub ended: watch::Sender<u64>,
    pub running: Mutex<HashMap<JobId, Arc<CancelSource>>>,
    pub nudges: Mutex<HashMap<&'static str, Arc<Notify>>>,
}

impl RunnerBuilder {
    pub fn new(jobs: Arc<dyn JobStore>, auth: Arc<dyn AuthStore>) -> RunnerBuilder {
        RunnerBuilder {
            jobs,
            auth,
            kinds: BTreeMap::new(),
            reconcilers: Vec::new(),
            workers: WORKERS,
            server: uuid::Uuid::new_v4().to_string(),
            faults: Arc::new(faults::None),
            signals: Arc::default(),
        }
    }

    /// How many jobs at once.
    pub fn workers(&mut self, workers: usize) -> &mut RunnerBuilder {
        self.workers = workers.clamp(1, WORKERS_MAX);
        self
    }

    /// The server's name among those that share the database: its next start ends the leases of this one
    /// ([`JobStore::end_leases`]).
    pub fn server(&mut self, name: String) -> &mut RunnerBuilder {
        self.server = name;
        self
    }

    /// Jobs of this kind are claimed. The last of two with the same name counts.
    pub fn register<K: JobKind>(&mut self, kind: K) -> &mut RunnerBuilder {
        self.kinds.insert(K::NAME, Arc::new(Erased(kind)));
        self
    }

    pub fn reconcile(&mut self, reconciler: Arc<dyn Reconciler>) -> &mut RunnerBuilder {
        lock(&self.signals.nudges).insert(reconciler.name(), Arc::default());
        self.reconcilers.push(reconciler);
        self
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn faults(&mut self, faults: Arc<dyn Faults>) -> &mut RunnerBuilder {
        self.faults = faults;
        self
    }

    /// Through which jobs are submitted. Usable before the start: they wait.
    pub fn jobs(&self) -> Jobs {
        Jobs::new(self.jobs.clone(), self.signals.clone())
    }

    /// A runner that does nothing by itself: `run_next` works on one job at a time.
    pub fn build(self) -> Runner {
        let (stop, drop) = (CancelSource::new(), CancelSource::new());
        let core = Core {
            clock: self.jobs.clock(),
            jobs: self.jobs,
            auth: self.auth,
            faults: self.faults,
            flights: Flights::default(),
            stopping: stop.token(),
            dropping: drop.token(),
            kinds: self.kinds,
            // Fresh for each process and each start: a name that came back would hold leases that it lost.
            holder: format!("{}/{}", self.server, uuid::Uuid::new_v4()),
            signals: self.signals,
        };
        Runner {
            core: Arc::new(core),
            tasks: JoinSet::new(),
            stop,
            drop,
        }
    }

    /// Starts workers and reconcilers.
    pub fn start(self) -> Runner {
        let (workers, reconcilers) = (self.workers, self.reconcilers.clone());
        let mut runner = self.build();
        for _ in 0..workers {
            runner.tasks.spawn(worker(runner.core.clone()));
        }
        for reconciler in reconcilers {
            let nudge = lock(&runner.core.nudges)
                .entry(reconciler.name())
                .or_default()
                .clone();
            let (clock, stop) = (runner.core.clock.clone(), runner.core.stopping.clone());
            runner
                .tasks
                .spawn(reconcile::run(reconciler, clock, nudge, stop));
        }
        runner
    }
}

impl Runner {
    pub fn jobs(&self) -> Jobs {
        Jobs::new(self.core.jobs.clone(), self.core.signals.clone())
    }

    /// Claims one job and works on it until it ends or is given back. `false`: there was none.
    pub async fn run_next(&self) -> bool {
        claim_and_work(&self.core).await
    }

    /// No new job, no new step. Steps under way have `grace` to end; then they are dropped and their jobs given
    /// back, so that the next runner need not wait for leases to expire.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.raise();
        self.core.work.notify_waiters();
        let deadline = later(self.core.clock.now(), grace);
        let clock = self.core.clock.clone();
        tokio::select! {
            () = all_done(&mut self.tasks) => return,
            () = clock.sleep_until(deadline) => {}
        }
        self.drop.raise();
        // Giving back is one short write; a database that hangs must not keep the process alive.
        let deadline = later(clock.now(), LEASE);
        tokio::select! {
            () = all_done(&mut self.tasks) => {}
            () = clock.sleep_until(deadline) => self.tasks.abort_all(),
        }
    }
}

async fn all_done(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

async fn worker(core: Arc<Core>) {
    while !core.stopping.is_raised() {
        if claim_and_work(&core).await {
            continue;
        }
        let until = next_look(&core).await;
        tokio::select! {
            () = core.work.notified() => {}
            () = core.stopping.raised() => {}
            () = core.clock.sleep_until(until) => {}
        }
    }
}

async fn claim_and_work(core: &Arc<Core>) -> bool {
    let kinds: Vec<&str> = core.kinds.keys().copied().collect();
    let claimed = match core.jobs.claim(&core.holder, &kinds, LEASE).await {
        Ok(Some(claimed)) => claimed,
        Ok(None) => return false,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "no job could be claimed");
            return false;
        }
    };
    // Where there was one there may be another: wake the next worker.
    core.work.notify_one();
    let Some(kind) = core.kinds.get(claimed.job.kind.as_str()).cloned() else {
        return false;
    };
    work(core.clone(), kind, claimed).await;
    true
}

async fn next_look(core: &Core) -> jiff::Timestamp {
    let now = core.clock.now();
    let (soonest, latest) = (later(now, POLL_MIN), later(now, POLL));
    let kinds: Vec<&str> = core.kinds.keys().copied().collect();
    match core.jobs.next_due(&kinds).await {
        Ok(Some(due)) => due.clamp(soonest, latest),
        // That the database fails was said when the claim failed.
        Ok(None) | Err(_) => latest,
    }
}

/// Pure steps under way, so that two jobs in one process do not do the same work at once.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<StepKey, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    pub fn of(&self, key: StepKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = lock(&self.0);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::default();
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }
}
