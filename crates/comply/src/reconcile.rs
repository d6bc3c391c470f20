//! Keeps states current: follows the catalog's changes, and time, and judges again what they touch.
//!
//! Its position is not stored. A start looks at everything once; what the database keeps of states tells since when they
//! are what they are. A tenant whose work failed is looked at as a whole the next time, and holds up no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use access::Permit;
use catalog::{CHANGES_MAX, Change, Changes, later};
use jiff::Timestamp;
use wire::{ResourceId, TenantId};

use crate::board::Board;
use crate::comply::Comply;
use crate::error::{ComplyError, Result};
use crate::image::Image;
use crate::kinds;
use crate::pending::Queue;
use crate::policies::Policies;
use crate::touched::{Touched, Users, Which, keys};
use crate::work::Work;

/// How often ages of images and rules that ask for the time are looked at again.
const TICK: Duration = Duration::from_secs(3600);
/// How often everything is, as Azure does.
const CYCLE: Duration = Duration::from_secs(24 * 3600);
/// How long a failed piece of work rests.
const RETRY: Duration = Duration::from_secs(1);
/// How often the feed is asked, since another process on the same database wakes nobody here.
const POLL: Duration = Duration::from_millis(500);
/// How often in a row the feed may be lost before others get their turn.
const LOST_MAX: usize = 3;
/// Versions of images remembered from the last change of theirs.
const IMAGES_MAX: usize = 10_000;

/// The boards by tenant. A board is replaced as a whole by a scan, and changed in place by everything else.
#[derive(Default)]
pub(crate) struct Boards(RwLock<HashMap<TenantId, Arc<RwLock<Board>>>>);

impl Boards {
    pub fn get(&self, tenant: TenantId) -> Option<Arc<RwLock<Board>>> {
        let boards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        boards.get(&tenant).cloned()
    }

    pub fn set(&self, tenant: TenantId, board: Arc<RwLock<Board>>) {
        let mut boards = self.0.write().unwrap_or_else(PoisonError::into_inner);
        boards.insert(tenant, board);
    }

    fn all(&self) -> Vec<(TenantId, Arc<RwLock<Board>>)> {
        let boards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        boards
            .iter()
            .map(|(tenant, board)| (*tenant, Arc::clone(board)))
            .collect()
    }
}

pub(crate) fn policies_of(board: &RwLock<Board>) -> Arc<Policies> {
    let board = board.read().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(&board.policies)
}

/// How far the work has come.
#[derive(Default)]
pub(crate) struct Progress {
    /// Everything up to this change was looked at; nothing was before the first look.
    position: Option<u64>,
    /// To be looked at as a whole.
    behind: BTreeSet<TenantId>,
    pub pending: Queue,
    pub users: Users,
    /// What each image was when its machines were judged.
    pub images: HashMap<String, Arc<Image>>,
    clock: Option<Times>,
}

#[derive(Clone, Copy)]
struct Times {
    looked_at: Timestamp,
    tick_due: Timestamp,
    cycle_due: Timestamp,
}

impl Comply {
    /// Follows the changes until `stop` ends. Begins with a look at everything.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = stop => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut wakeups = self.parts.feed.wakeups();
        loop {
            wakeups.mark_unchanged();
            let due = match self.settle().await {
                Ok(()) => self
                    .next_due()
                    .await
                    .min(later(self.parts.clock.now(), POLL)),
                Err(error) => {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::warn!(error, "states of policies are behind");
                    later(self.parts.clock.now(), RETRY)
                }
            };
            tokio::select! {
                woken = wakeups.changed() => {
                    if woken.is_err() {
                        return;
                    }
                }
                () = self.wake.notified() => {}
                () = self.parts.clock.sleep_until(due) => {}
            }
        }
    }

    /// Looks now. Writes to the catalog do this by themselves.
    pub fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Everything that was stored before the call is judged when it returns.
    pub async fn settle(&self) -> Result<()> {
        let mut progress = self.progress.lock().await;
        self.catch_up(&mut progress).await
    }

    /// Judges everything at or below the permit's scope again, whether it changed or not.
    pub async fn rescan(&self, permit: &Permit) -> Result<()> {
        let mut progress = self.progress.lock().await;
        self.catch_up(&mut progress).await?;
        let mut touched = Touched::default();
        touched.scopes.push((permit.scope().clone(), Which::All));
        self.work_off(&mut progress, permit.tenant(), None, touched)
            .await
    }

    /// Works until nothing is left. Changes come before scopes that are under way, at each page anew.
    async fn catch_up(&self, progress: &mut Progress) -> Result<()> {
        let mut lost = 0;
        let mut failed = None;
        while lost < LOST_MAX {
            let position = match progress.position {
                Some(position) => position,
                None => self.begin(progress).await?,
            };
            if failed.is_none() {
                failed = self.scan_behind(progress).await.err();
            }
            if !self.take_changes(progress, position).await? {
                lost += 1;
                continue;
            }
            self.pass_time(progress).await?;
            let new_tenants = failed.is_none() && !progress.behind.is_empty();
            if !new_tenants && !self.next_page(progress).await {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Judges a page of what is pending; false if nothing is.
    async fn next_page(&self, progress: &mut Progress) -> bool {
        let Some(mut pending) = progress.pending.take() else {
            return false;
        };
        let tenant = pending.tenant;
        let Some(board) = self.boards.get(tenant) else {
            progress.behind.insert(tenant);
            return true;
        };
        let mut work = Work::new(self, progress, policies_of(&board), board);
        match work.page(&mut pending).await {
            Ok(true) => progress.pending.put_back(pending),
            Ok(false) => {}
            Err(error) => self.fall_behind(progress, tenant, &error),
        }
        true
    }

    /// The tenant is looked at as a whole the next time.
    fn fall_behind(&self, progress: &mut Progress, tenant: TenantId, error: &ComplyError) {
        let error: &(dyn std::error::Error + 'static) = error;
        tracing::warn!(error, %tenant, "states of a tenant's policies are behind");
        progress.pending.drop_tenant(tenant);
        progress.behind.insert(tenant);
    }

    /// Everything is to be looked at. What changes from now on comes after it.
    async fn begin(&self, progress: &mut Progress) -> Result<u64> {
        let failed = || ComplyError::catalog("begin to follow the catalog");
        let latest = self.parts.feed.latest_change().await.map_err(failed())?;
        let tenants = self.parts.auth.tenants().await.map_err(failed())?;
        progress.users.clear();
        progress.images.clear();
        progress.pending.clear();
        progress.behind = tenants.into_iter().map(|tenant| tenant.tenant).collect();
        progress.position = Some(latest);
        let now = self.parts.clock.now();
        progress.clock = Some(Times {
            looked_at: now,
            tick_due: later(now, TICK),
            cycle_due: later(now, CYCLE),
        });
        Ok(latest)
    }

    async fn scan_behind(&self, progress: &mut Progress) -> Result<()> {
        let mut failed = None;
        for tenant in progress.behind.clone() {
            match self.scan(progress, tenant).await {
                Ok(()) => drop(progress.behind.remove(&tenant)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Looks at a whole tenant, beside the states that are shown until it is done.
    async fn scan(&self, progress: &mut Progress, tenant: TenantId) -> Result<()> {
        progress.pending.drop_tenant(tenant);
        let policies = self.cache.policies(&self.parts, tenant).await?;
        let mut board = Board::new(Arc::clone(&policies));
        let lost = self.restore(tenant, &mut board).await?;
        let board = Arc::new(RwLock::new(board));
        let mut work = Work::new(self, progress, Arc::clone(&policies), Arc::clone(&board));
        if !policies.units.is_empty() {
            work.walk().await?;
        }
        let unseen = {
            let board = board.read().unwrap_or_else(PoisonError::into_inner);
            board.unseen()
        };
        work.gone(&unseen).await?;
        work.end(lost).await?;
        self.boards.set(tenant, board);
        Ok(())
    }

    /// Takes the changes after a number. False if some are lost, and everything has to be looked at.
    async fn take_changes(&self, progress: &mut Progress, after: u64) -> Result<bool> {
        let mut position = after;
        loop {
            let changes = self.parts.feed.changes_after(position, CHANGES_MAX).await;
            let changes = changes.map_err(ComplyError::catalog("follow the catalog"))?;
            let changes = match changes {
                Changes::Lost { .. } => {
                    progress.position = None;
                    return Ok(false);
                }
                Changes::Next(changes) => changes,
            };
            let Some(last) = changes.last() else {
                return Ok(true);
            };
            position = last.seq;
            self.take(progress, &changes).await?;
            progress.position = Some(position);
        }
    }

    async fn take(&self, progress: &mut Progress, changes: &[Change]) -> Result<()> {
        let mut touched: BTreeMap<TenantId, Touched> = BTreeMap::new();
        // Compared with what was worked on last, so these and no newer ones are worked on now.
        let mut current: HashMap<TenantId, Arc<Policies>> = HashMap::new();
        let mut tenants: BTreeMap<TenantId, BTreeSet<&ResourceId>> = BTreeMap::new();
        for change in changes {
            tenants.entry(change.tenant).or_default().insert(&change.id);
        }
        self.cache.refresh(&self.parts).await?;
        for (tenant, ids) in &tenants {
            let Some(board) = self.boards.get(*tenant) else {
                progress.behind.insert(*tenant);
                continue;
            };
            let new = match self.cache.policies(&self.parts, *tenant).await {
                Ok(new) => new,
                Err(error) => {
                    self.fall_behind(progress, *tenant, &error);
                    continue;
                }
            };
            let own = touched.entry(*tenant).or_default();
            let board = board.read().unwrap_or_else(PoisonError::into_inner);
            if !Arc::ptr_eq(&board.policies, &new) {
                own.compare(&board.policies, &new);
            }
            for id in ids {
                own.changed(id, &new, &board);
            }
            current.insert(*tenant, new);
        }
        self.touch_machines(progress, changes, &mut touched).await?;
        for (tenant, touched) in touched {
            let policies = current.remove(&tenant);
            if let Err(error) = self.work_off(progress, tenant, policies, touched).await {
                self.fall_behind(progress, tenant, &error);
            }
        }
        Ok(())
    }

    /// Versions that came, went or changed touch the machines of their image, in whatever tenant those are.
    async fn touch_machines(
        &self,
        progress: &mut Progress,
        changes: &[Change],
        touched: &mut BTreeMap<TenantId, Touched>,
    ) -> Result<()> {
        let images: BTreeSet<ResourceId> = changes.iter().filter_map(image_of).collect();
        for id in images {
            if progress.users.of(&id).next().is_none() {
                continue;
            }
            let image = self
                .cache
                .image(&self.parts, &id)
                .await?
                .unwrap_or_default();
            // Most writes of a version tell how far its replicas are, which no machine cares about.
            if progress.images.get(id.folded()) == Some(&image) {
                continue;
            }
            if progress.images.len() >= IMAGES_MAX {
                progress.images.clear();
            }
            progress.images.insert(id.folded().to_owned(), image);
            for (tenant, machine) in progress.users.of(&id) {
                if let Some(board) = self.boards.get(*tenant) {
                    let policies = policies_of(&board);
                    let asking = keys(&policies, |unit| unit.needs.image);
                    touched.entry(*tenant).or_default().pair(machine, asking);
                }
            }
        }
        Ok(())
    }

    /// Under these policies, or those of the last time.
    async fn work_off(
        &self,
        progress: &mut Progress,
        tenant: TenantId,
        policies: Option<Arc<Policies>>,
        touched: Touched,
    ) -> Result<()> {
        let Some(board) = self.boards.get(tenant) else {
            return self.scan(progress, tenant).await;
        };
        let policies = policies.unwrap_or_else(|| policies_of(&board));
        let mut work = Work::new(self, progress, policies, board);
        work.touched(touched).await
    }

    /// What time alone changes: exemptions that end, images that age, rules that ask for the time.
    async fn pass_time(&self, progress: &mut Progress) -> Result<()> {
        let now = self.parts.clock.now();
        let Some(mut times) = progress.clock else {
            return Ok(());
        };
        let cycle = now >= times.cycle_due;
        let tick = now >= times.tick_due;
        let since = times.looked_at;
        for (tenant, board) in self.boards.all() {
            let policies = policies_of(&board);
            let mut touched = Touched::default();
            for remark in policies.remarks.values() {
                if remark.expires.is_some_and(|end| end > since && end <= now) {
                    let of = keys(&policies, |unit| unit.key.assignment == remark.assignment);
                    touched.scope(&remark.scope, of);
                }
            }
            for unit in policies.units.iter().filter(|_| tick) {
                if unit.needs.now {
                    touched.scope(&unit.assignment.scope, [unit.key.clone()]);
                }
            }
            if tick {
                let asking = keys(&policies, |unit| unit.needs.image);
                for machine in progress.users.of_tenant(tenant) {
                    touched.pair(&machine, asking.clone());
                }
            }
            if cycle {
                touched.scopes.push((ResourceId::root(), Which::All));
            }
            if !touched.is_empty()
                && let Err(error) = self.work_off(progress, tenant, None, touched).await
            {
                self.fall_behind(progress, tenant, &error);
            }
        }
        times.looked_at = now;
        if tick {
            times.tick_due = later(now, TICK);
        }
        if cycle {
            times.cycle_due = later(now, CYCLE);
        }
        progress.clock = Some(times);
        Ok(())
    }

    async fn next_due(&self) -> Timestamp {
        let progress = self.progress.lock().await;
        let now = self.parts.clock.now();
        let Some(times) = progress.clock else {
            return later(now, RETRY);
        };
        let ends = self.boards.all().into_iter().flat_map(|(_, board)| {
            let policies = policies_of(&board);
            let ends = policies
                .remarks
                .values()
                .filter_map(|remark| remark.expires);
            ends.filter(|end| *end > times.looked_at).min()
        });
        ends.chain([times.tick_due, times.cycle_due])
            .min()
            .unwrap_or(times.tick_due)
    }
}

/// The image that a change is about.
fn image_of(change: &Change) -> Option<ResourceId> {
    let kind = change.id.resource_type();
    if kind.is(kinds::VERSIONS) {
        return change.id.parent();
    }
    kind.is(kinds::IMAGES).then(|| change.id.clone())
}
