//! One piece of the reconciler's work, in one tenant: resources are read, judged, and what that changes is written,
//! first to the database and then to memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use access::{Action, Permit, SystemReason};
use catalog::{POLICY_STATES_MAX, PageRequest, Resource, StateKey, StateWrite, StoredState};
use jiff::Timestamp;
use tokio::task::{JoinHandle, JoinSet};
use wire::{ResourceId, TenantId};

use crate::board::{Board, Change};
use crate::cache::reading;
use crate::columns::{Columns, Known, WORTHWHILE};
use crate::comply::{Comply, Parts};
use crate::error::{ComplyError, Result};
use crate::image;
use crate::kinds;
use crate::look::{self, Look};
use crate::outcome::{self, Outcome};
use crate::pending::Pending;
use crate::policies::Policies;
use crate::reconcile::Progress;
use crate::subject::Subject;
use crate::touched::{Touched, Which, judges};
use crate::unit::{Unit, UnitKey};

/// Resources that are judged together.
const BATCH: usize = 1000;
const _: () = assert!(BATCH <= catalog::GET_MANY_MAX);
/// Pages below one scope: a hundred million resources.
const PAGES_MAX: usize = 100_000;

pub(crate) struct Work<'a> {
    comply: &'a Comply,
    progress: &'a mut Progress,
    policies: Arc<Policies>,
    board: Arc<RwLock<Board>>,
    look: Look<'a>,
    now: Timestamp,
}

/// A resource with those who judge it.
struct Case {
    subject: Subject,
    units: Vec<Arc<Unit>>,
    id: ResourceId,
    created_at: Timestamp,
    /// States by any other policy end.
    whole: bool,
}

/// What came of it.
struct Judged {
    id: ResourceId,
    created_at: Timestamp,
    outcomes: Vec<(Arc<Unit>, Option<Outcome>)>,
    whole: bool,
}

/// Resources that are being judged, and the columns that are lent for it.
type Judging = JoinHandle<(Vec<Judged>, Option<Columns>)>;

impl Comply {
    /// Fills a board from the database. Answers the states of policies that are gone.
    pub(crate) async fn restore(
        &self,
        tenant: TenantId,
        board: &mut Board,
    ) -> Result<Vec<StateKey>> {
        const OPERATION: &str = "read the states of policies";
        let permit = reading(&ResourceId::root(), tenant);
        let policies = Arc::clone(&board.policies);
        let known = policies.by_key();
        let mut lost = Vec::new();
        let mut after: Option<StateKey> = None;
        loop {
            let page = self
                .parts
                .states
                .policy_states(&permit, after.as_ref(), POLICY_STATES_MAX);
            let page = page.await.map_err(ComplyError::catalog(OPERATION))?;
            let Some(last) = page.last() else {
                return Ok(lost);
            };
            after = Some(last.key.clone());
            for state in page {
                match known.contains_key(&unit_key(&state)) {
                    true => board.restore(state),
                    false => lost.push(state.key),
                }
            }
        }
    }
}

fn unit_key(state: &StoredState) -> crate::unit::UnitKey {
    crate::unit::UnitKey {
        assignment: state.key.assignment.folded().to_owned(),
        reference: state.key.reference.to_ascii_lowercase(),
    }
}

impl<'a> Work<'a> {
    pub fn new(
        comply: &'a Comply,
        progress: &'a mut Progress,
        policies: Arc<Policies>,
        board: Arc<RwLock<Board>>,
    ) -> Work<'a> {
        let look = Look::new(&comply.parts, &comply.cache, Arc::clone(&policies));
        Work {
            now: comply.parts.clock.now(),
            comply,
            progress,
            policies,
            board,
            look,
        }
    }

    pub async fn touched(&mut self, touched: Touched) -> Result<()> {
        for key in &touched.gone {
            let ended = self.read(|board| board.without_unit(key));
            self.drop_states(ended).await?;
            self.write(|board| board.forget_unit(key));
        }
        let policies = Arc::clone(&self.policies);
        self.write(|board| board.policies = policies);
        let wanted: Vec<(ResourceId, Which)> = touched.resources.into_iter().collect();
        let mut columns = self.columns_of(&wanted);
        let mut batches = wanted.chunks(BATCH);
        let mut reading = JoinSet::new();
        let (parts, tenant) = (&self.comply.parts, self.policies.tenant);
        let mut read_next = |reading: &mut JoinSet<_>| {
            if let Some(batch) = batches.next() {
                reading.spawn(look_up(parts.clone(), tenant, batch.to_vec()));
            }
        };
        read_next(&mut reading);
        // The next are read and these are judged while what came of those before is written.
        let mut before = Vec::new();
        while let Some(batch) = reading.join_next().await {
            let (found, gone) = batch.map_err(|_| ComplyError::Ended)??;
            read_next(&mut reading);
            let judging = self.begin(found, &mut columns).await?;
            self.keep(std::mem::take(&mut before)).await?;
            before = self.finish(judging, &mut columns).await?;
            self.gone(&gone).await?;
        }
        self.keep(before).await?;
        let judged: BTreeSet<ResourceId> = wanted
            .into_iter()
            .filter(|(_, which)| *which == Which::All)
            .map(|(id, _)| id)
            .collect();
        for (scope, which) in touched.scopes {
            let known = judged.contains(&scope);
            let roots = self.roots(&scope);
            let mut pending = Pending::new(self.policies.tenant, scope, roots, which);
            pending.own_judged = known;
            self.progress.pending.add(pending);
        }
        self.remember_images();
        Ok(())
    }

    /// Columns for all who judge any of them, where there are enough to make that worthwhile.
    fn columns_of(&self, wanted: &[(ResourceId, Which)]) -> Option<Columns> {
        if wanted.len() < WORTHWHILE {
            return None;
        }
        let mut all = false;
        let mut keys: BTreeSet<&UnitKey> = BTreeSet::new();
        for (_, which) in wanted {
            match which {
                Which::All => all = true,
                Which::Some(own) => keys.extend(own),
            }
        }
        let asked = |unit: &Unit| all || keys.contains(&unit.key);
        Some(Columns::new(&self.policies, asked, self.now))
    }

    /// The subscriptions of a management group; anything else is itself.
    fn roots(&self, scope: &ResourceId) -> Vec<ResourceId> {
        match scope.resource_type().is(kinds::MANAGEMENT_GROUPS) {
            true => self.policies.subscriptions_below(scope),
            false => vec![scope.clone()],
        }
    }

    /// Judges everything that there is.
    pub async fn walk(&mut self) -> Result<()> {
        let root = ResourceId::root();
        let mut all = Pending::new(self.policies.tenant, root.clone(), vec![root], Which::All);
        for _ in 0..PAGES_MAX {
            if !self.page(&mut all).await? {
                return Ok(());
            }
        }
        Err(ComplyError::TooMany {
            what: "pages of resources",
            limit: PAGES_MAX,
        })
    }

    /// Judges the next page of a scope; false if there was none left.
    pub async fn page(&mut self, pending: &mut Pending) -> Result<bool> {
        let Some(root) = pending.roots.last().cloned() else {
            return Ok(false);
        };
        let mut page = PageRequest::first(BATCH);
        match pending.after.take() {
            Some(after) => page = page.after(after),
            None if root.is_root() || pending.own_judged => {}
            None => {
                let own = look::get(&self.comply.parts, &root, self.policies.tenant).await?;
                let own = own.map(|own| (own, pending.which.clone()));
                self.judge(own.into_iter().collect(), &mut None).await?;
            }
        }
        let permit = reading(&root, self.policies.tenant);
        let answer = self.comply.parts.catalog.list_below(&permit, page).await;
        let answer = answer.map_err(ComplyError::catalog("look at all resources"))?;
        let resources = answer.resources.into_iter();
        let resources: Vec<(Resource, Which)> =
            resources.map(|one| (one, pending.which.clone())).collect();
        let columns = &mut pending.columns;
        *columns = columns.take().filter(|kept| kept.are_of(&self.policies));
        if columns.is_none() && resources.len() >= WORTHWHILE {
            let wanted = |unit: &Unit| match &pending.which {
                Which::All => true,
                Which::Some(keys) => keys.contains(&unit.key),
            };
            *columns = Some(Columns::new(&self.policies, wanted, self.now));
        }
        self.judge(resources, &mut pending.columns).await?;
        self.remember_images();
        match answer.next {
            Some(next) => pending.after = Some(next),
            None => drop(pending.roots.pop()),
        }
        Ok(true)
    }

    /// With columns, if there are some.
    async fn judge(
        &mut self,
        resources: Vec<(Resource, Which)>,
        columns: &mut Option<Columns>,
    ) -> Result<()> {
        let judging = self.begin(resources, columns).await?;
        let judged = self.finish(judging, columns).await?;
        self.keep(judged).await
    }

    /// Begins to judge. The columns are lent until the end of it.
    async fn begin(
        &mut self,
        resources: Vec<(Resource, Which)>,
        columns: &mut Option<Columns>,
    ) -> Result<Judging> {
        let mut cases = Vec::with_capacity(resources.len());
        for (resource, which) in resources {
            if !kinds::reached(&resource.id) {
                continue;
            }
            let units = judges(&self.policies, &resource.id, &which);
            let whole = which == Which::All;
            let known = whole && self.read(|board| board.entries(&resource.id).next().is_some());
            if units.is_empty() && !known {
                continue;
            }
            let subject = self.look.stored(&resource, &units).await?;
            if resource.id.resource_type().is(kinds::MACHINES) {
                let reference = image::reference(&subject.value);
                let image = reference.as_ref().map(|reference| &reference.definition);
                let users = &mut self.progress.users;
                users.set(self.policies.tenant, &resource.id, image);
            }
            cases.push(Case {
                subject,
                units,
                created_at: resource.system.created_at,
                id: resource.id,
                whole,
            });
        }
        let now = self.now;
        let mut lent = columns.take();
        Ok(tokio::task::spawn_blocking(move || {
            let judged = evaluate(cases, lent.as_mut(), now);
            (judged, lent)
        }))
    }

    /// Waits for what was begun.
    async fn finish(
        &mut self,
        judging: Judging,
        columns: &mut Option<Columns>,
    ) -> Result<Vec<Judged>> {
        let (judged, given_back) = judging.await.map_err(|_| ComplyError::Ended)?;
        *columns = given_back;
        let count: usize = judged.iter().map(|one| one.outcomes.len()).sum();
        self.comply.count_judged(count);
        Ok(judged)
    }

    /// Writes what is new of the judged to the database, and then to memory.
    async fn keep(&mut self, judged: Vec<Judged>) -> Result<()> {
        let now = self.now;
        let mut changed: Vec<(ResourceId, Timestamp, Vec<Change>)> = Vec::new();
        self.read(|board| {
            for one in &judged {
                let each = one.outcomes.iter();
                let mut changes: Vec<Change> = each
                    .filter_map(|(unit, outcome)| {
                        board.compare(&one.id, unit, outcome.as_ref(), now)
                    })
                    .collect();
                if one.whole {
                    let judged = one.outcomes.iter().map(|(unit, _)| &unit.key).collect();
                    changes.extend(board.others(&one.id, &judged));
                }
                changed.push((one.id.clone(), one.created_at, changes));
            }
        });
        let writes = changed.iter().flat_map(|(_, _, changes)| changes);
        self.store(writes.filter_map(|change| change.write.clone()).collect())
            .await?;
        self.write(|board| {
            for (id, created_at, changes) in changed {
                board.take(&id, created_at, now, changes);
            }
        });
        Ok(())
    }

    /// Resources that are not there any more.
    pub async fn gone(&mut self, ids: &[ResourceId]) -> Result<()> {
        for id in ids {
            let changes = self.read(|board| board.without(id));
            let ended = changes
                .into_iter()
                .map(|change| (id.clone(), change))
                .collect();
            self.drop_states(ended).await?;
            self.write(|board| board.forget(id));
            self.progress.users.set(self.policies.tenant, id, None);
        }
        Ok(())
    }

    async fn drop_states(&mut self, ended: Vec<(ResourceId, Change)>) -> Result<()> {
        let writes = ended.iter().filter_map(|(_, change)| change.write.clone());
        self.store(writes.collect()).await?;
        self.write(|board| {
            for (id, change) in ended {
                board.drop_states(&id, vec![change]);
            }
        });
        Ok(())
    }

    /// Ends states of which nothing is left but their rows.
    pub async fn end(&mut self, keys: Vec<StateKey>) -> Result<()> {
        self.store(keys.into_iter().map(StateWrite::End).collect())
            .await
    }

    async fn store(&self, writes: Vec<StateWrite>) -> Result<()> {
        let permit = Permit::system(
            SystemReason::Reconcile,
            Action::new("Microsoft.PolicyInsights/policyStates/write"),
            ResourceId::root(),
            self.policies.tenant,
        );
        for batch in writes.chunks(POLICY_STATES_MAX) {
            let states = &self.comply.parts.states;
            let written = states.write_policy_states(&permit, self.now, batch).await;
            written.map_err(ComplyError::catalog("keep the states of policies"))?;
        }
        Ok(())
    }

    /// An image that was newer than its last known change is looked at again when that change comes.
    fn remember_images(&mut self) {
        for (key, image) in self.look.images() {
            let known = self.progress.images.get(key);
            if known.is_some_and(|known| Some(known) != image.as_ref()) {
                self.progress.images.remove(key);
            }
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Board) -> T) -> T {
        look(&self.board.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        change(&mut self.board.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The resources of a batch that are there, and the ids of the others.
async fn look_up(
    parts: Parts,
    tenant: TenantId,
    batch: Vec<(ResourceId, Which)>,
) -> Result<(Vec<(Resource, Which)>, Vec<ResourceId>)> {
    let ids: Vec<ResourceId> = batch.iter().map(|(id, _)| id.clone()).collect();
    let stored = look::get_many(&parts, &ids, tenant).await?;
    let mut stored: HashMap<ResourceId, Resource> = stored
        .into_iter()
        .map(|resource| (resource.id.clone(), resource))
        .collect();
    let mut found = Vec::with_capacity(batch.len());
    let mut gone = Vec::new();
    for (id, which) in batch {
        match stored.remove(&id) {
            Some(resource) => found.push((resource, which)),
            None => gone.push(id),
        }
    }
    Ok((found, gone))
}

fn evaluate(cases: Vec<Case>, columns: Option<&mut Columns>, now: Timestamp) -> Vec<Judged> {
    let subjects = cases
        .iter()
        .map(|case| (&case.subject, case.units.as_slice()));
    let known = match columns {
        Some(columns) => columns.judge(subjects, now),
        None => cases.iter().map(|_| HashMap::new()).collect(),
    };
    let judge = |(case, mut known): (Case, HashMap<UnitKey, Known>)| {
        let asked = case
            .units
            .iter()
            .filter(|unit| !known.contains_key(&unit.key));
        let asked: Vec<Arc<Unit>> = asked.cloned().collect();
        let verdicts = outcome::verdicts(&case.subject, &asked, now);
        let of = |judgement: outcome::Judgement| {
            let outcome = outcome::outcome(&judgement, &case.subject);
            (judgement.0, outcome)
        };
        let mut outcomes: Vec<(Arc<Unit>, Option<Outcome>)> =
            verdicts.into_iter().map(of).collect();
        for unit in case.units {
            if let Some(state) = known.remove(&unit.key) {
                let reason = None;
                outcomes.push((unit, state.map(|state| Outcome { state, reason })));
            }
        }
        Judged {
            outcomes,
            id: case.id,
            created_at: case.created_at,
            whole: case.whole,
        }
    };
    cases.into_iter().zip(known).map(judge).collect()
}
