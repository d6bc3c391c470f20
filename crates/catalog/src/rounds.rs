//! Rounds: how a reconciler keeps up with a kind of which there may be a million, without reading all of them each time.
//!
//! A round shows what was written since the last one, and a stretch of everything, so that whatever was missed comes
//! up in the end. Where there are few, a stretch is everything. It decides nothing and keeps no resource.

use std::collections::{BTreeSet, VecDeque};

use access::Permit;
use wire::{ResourceId, ResourceType, TenantId};

use crate::changes::{CHANGES_MAX, ChangeFeed, ChangeKind, Changes};
use crate::error::Result;
use crate::resource::{Catalog, Continuation, GET_MANY_MAX, PageRequest, Resource};

/// Looks at the feed in one round; the next one takes what is behind them.
const LOOKS_MAX: usize = 20;
/// A page costs as much as so many resources, however few are on it.
const PAGE_COST: usize = 10;

/// How many resources a round looks at beside those that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// While everything was looked at once and the feed told the rest.
    pub calm: usize,
    /// While there is something that nobody told of.
    pub behind: usize,
}

impl Default for Stretch {
    fn default() -> Stretch {
        Stretch {
            calm: 5_000,
            behind: 50_000,
        }
    }
}

/// How far a reconciler is. The first round, and one after changes were lost, begins with everything.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// The newest change that was shown.
    seen: Option<u64>,
    walk: Option<Walk>,
    /// Everything up to the end of this walk was looked at since.
    caught_up: bool,
}

/// Where the look at everything goes on.
#[derive(Debug, Clone)]
struct Walk {
    tenant: TenantId,
    after: Option<Continuation>,
}

impl Position {
    /// Everything is looked at once more, from the beginning.
    pub fn look_again(&mut self) {
        self.walk = None;
        self.caught_up = false;
    }

    /// Whether everything was looked at once, and since then only the feed counts.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }
}

/// What a round reads, and as whom.
pub struct Reading<'a> {
    pub catalog: &'a dyn Catalog,
    pub feed: &'a dyn ChangeFeed,
    pub kind: ResourceType,
    /// All tenants, in any order.
    pub tenants: Vec<TenantId>,
    /// Reads all resources of the kind in a tenant.
    pub permit: &'a (dyn Fn(TenantId) -> Permit + Send + Sync),
    pub stretch: Stretch,
}

/// One round.
pub struct Round<'a> {
    reading: Reading<'a>,
    position: Position,
    /// By name, to be read.
    waiting: VecDeque<(TenantId, ResourceId)>,
    /// Named once already in this round.
    named: BTreeSet<(TenantId, ResourceId)>,
    looks: usize,
    left: usize,
}

impl<'a> Round<'a> {
    /// Begins where the round before ended.
    ///
    /// # Errors
    /// Those of [`ChangeFeed::latest_change`].
    pub async fn begin(mut reading: Reading<'a>, mut position: Position) -> Result<Round<'a>> {
        reading.tenants.sort_unstable();
        if position.seen.is_none() {
            position.seen = Some(reading.feed.latest_change().await?);
            position.look_again();
        }
        let left = match position.caught_up {
            true => reading.stretch.calm,
            false => reading.stretch.behind,
        };
        Ok(Round {
            reading,
            position,
            waiting: VecDeque::new(),
            named: BTreeSet::new(),
            looks: LOOKS_MAX,
            left,
        })
    }

    /// Shows this resource, too, if it is there.
    pub fn also(&mut self, tenant: TenantId, id: ResourceId) {
        if self.named.insert((tenant, id.clone())) {
            self.waiting.push_back((tenant, id));
        }
    }

    /// Some resources, none of them twice; `None` when the round is over.
    ///
    /// # Errors
    /// Those of the catalog. Who gets one keeps the position that the round began with, and misses nothing.
    pub async fn next(&mut self) -> Result<Option<Vec<Resource>>> {
        loop {
            if let Some((tenant, ids)) = self.named_next() {
                let permit = (self.reading.permit)(tenant);
                return Ok(Some(self.reading.catalog.get_many(&permit, &ids).await?));
            }
            if self.looks > 0 {
                self.look().await?;
            } else {
                return self.walk().await;
            }
        }
    }

    /// The position that the next round begins with.
    pub fn end(self) -> Position {
        self.position
    }

    fn named_next(&mut self) -> Option<(TenantId, Vec<ResourceId>)> {
        let tenant = self.waiting.front()?.0;
        let mut ids = Vec::new();
        while ids.len() < GET_MANY_MAX
            && let Some((_, id)) = self.waiting.pop_front_if(|(other, _)| *other == tenant)
        {
            ids.push(id);
        }
        Some((tenant, ids))
    }

    async fn look(&mut self) -> Result<()> {
        self.looks -= 1;
        let after = self.position.seen.unwrap_or_default();
        match self.reading.feed.changes_after(after, CHANGES_MAX).await? {
            Changes::Lost { latest } => {
                self.position.seen = Some(latest);
                self.position.look_again();
                self.left = self.reading.stretch.behind;
                self.looks = 0;
            }
            Changes::Next(changes) => {
                match changes.last() {
                    Some(last) => self.position.seen = Some(last.seq),
                    None => self.looks = 0,
                }
                for change in changes {
                    let is_kind = change.id.resource_type().is(self.reading.kind.as_str());
                    if is_kind && change.what == ChangeKind::Written {
                        self.also(change.tenant, change.id);
                    }
                }
            }
        }
        Ok(())
    }

    /// The next page of everything, without what was shown by name.
    async fn walk(&mut self) -> Result<Option<Vec<Resource>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(walk) = self.position.walk.take().or_else(|| self.tenant_from(None)) else {
            self.arrive();
            return Ok(None);
        };
        let permit = (self.reading.permit)(walk.tenant);
        let mut page = PageRequest::first(self.left);
        if let Some(after) = walk.after.clone() {
            page = page.after(after);
        }
        let kind = &self.reading.kind;
        let answer = self.reading.catalog.list(&permit, kind, page).await?;
        let cost = answer.resources.len().max(PAGE_COST);
        self.left = self.left.saturating_sub(cost);
        self.position.walk = match answer.next {
            Some(after) => Some(Walk {
                tenant: walk.tenant,
                after: Some(after),
            }),
            None => self.tenant_from(Some(walk.tenant)),
        };
        if self.position.walk.is_none() {
            self.arrive();
        }
        let mut resources = answer.resources;
        resources.retain(|one| !self.named.contains(&(one.tenant, one.id.clone())));
        Ok(Some(resources))
    }

    /// The first tenant, or the one after that.
    fn tenant_from(&self, after: Option<TenantId>) -> Option<Walk> {
        let mut tenants = self.reading.tenants.iter();
        let tenant = tenants.find(|tenant| after.is_none_or(|after| **tenant > after))?;
        Some(Walk {
            tenant: *tenant,
            after: None,
        })
    }

    /// The walk is at its end; the next round begins another.
    fn arrive(&mut self) {
        self.position.caught_up = true;
        self.left = 0;
    }
}
