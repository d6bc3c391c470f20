//! What was read lately, so that a hot resource costs no statement. For a database that no other process writes.
//!
//! An answer is never older than the last write that was told to be done: each look compares the count of commits with
//! the one up to which changes were taken out, and takes out what the feed of changes names if there were more. What a
//! reader found is kept only if no commit was counted since it began to read.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::{ResourceId, SubscriptionId, TenantId};

use super::{Engine, SqlCatalog};
use crate::changes::{CHANGES_MAX, Change, ChangeFeed, Changes};
use crate::error::Result;
use crate::resource::Resource;

/// Of the texts of all that is kept, roughly; in memory a resource takes two to three times its text.
const BYTES_MAX: usize = 16 << 20;
/// What an entry takes besides its texts.
const ENTRY_BYTES: usize = 512;
/// Subscriptions whose tenant is kept.
const SUBSCRIPTIONS_MAX: usize = 100_000;

type Key = (TenantId, String);
/// What is stored under an id; `None` if nothing is.
type Known = Option<Arc<Resource>>;

#[derive(Default)]
pub struct Cache {
    kept: Mutex<Kept>,
    /// Whoever takes out changes; the others wait for it.
    taking_out: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    /// Commits whose changes are taken out.
    commits: u64,
    /// The last change that is; none before the first look.
    position: Option<u64>,
    /// Used since the last turn, and before it. A turn forgets what was not used in a whole round.
    young: HashMap<Key, Known>,
    old: HashMap<Key, Known>,
    young_bytes: usize,
    subscriptions: HashMap<SubscriptionId, Option<TenantId>>,
    /// Of what decides in a tenant. The feed does not tell of it, so any commit ends these.
    epochs: HashMap<TenantId, i64>,
}

/// The moment at which somebody began to read.
#[derive(Clone, Copy)]
pub struct Moment(u64);

impl Cache {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn resource(&self, tenant: TenantId, id: &ResourceId) -> Option<Known> {
        let key = (tenant, id.folded().to_owned());
        let mut kept = self.kept();
        if let Some(known) = kept.young.get(&key) {
            return Some(known.clone());
        }
        let known = kept.old.remove(&key)?;
        kept.insert(key, known.clone());
        Some(known)
    }

    pub fn keep_resource(&self, since: Moment, tenant: TenantId, id: &ResourceId, known: Known) {
        let mut kept = self.kept();
        if kept.commits == since.0 {
            kept.insert((tenant, id.folded().to_owned()), known);
        }
    }

    pub fn subscription(&self, subscription: SubscriptionId) -> Option<Option<TenantId>> {
        self.kept().subscriptions.get(&subscription).copied()
    }

    pub fn keep_subscription(
        &self,
        since: Moment,
        subscription: SubscriptionId,
        tenant: Option<TenantId>,
    ) {
        let mut kept = self.kept();
        if kept.commits == since.0 && kept.subscriptions.len() < SUBSCRIPTIONS_MAX {
            kept.subscriptions.insert(subscription, tenant);
        }
    }

    pub fn epoch(&self, at: Moment, tenant: TenantId) -> Option<i64> {
        let kept = self.kept();
        if kept.commits != at.0 {
            return None;
        }
        kept.epochs.get(&tenant).copied()
    }

    pub fn keep_epoch(&self, since: Moment, tenant: TenantId, epoch: i64) {
        let mut kept = self.kept();
        if kept.commits == since.0 {
            kept.epochs.insert(tenant, epoch);
        }
    }
}

impl Kept {
    fn insert(&mut self, key: Key, known: Known) {
        self.young_bytes += ENTRY_BYTES + key.1.len() + known.as_deref().map_or(0, bytes);
        self.young.insert(key, known);
        if self.young_bytes > BYTES_MAX / 2 {
            self.young_bytes = 0;
            self.old = mem::take(&mut self.young);
        }
    }

    fn take_out(&mut self, changes: &[Change]) {
        for change in changes {
            let key = (change.tenant, change.id.folded().to_owned());
            self.young.remove(&key);
            self.old.remove(&key);
            if change.id.subscription().is_some()
                && change.id.parent().is_some_and(|up| up.is_root())
            {
                self.subscriptions.clear();
            }
        }
    }

    fn caught_up(&mut self, commits: u64) {
        self.commits = commits;
        self.epochs.clear();
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.young_bytes = 0;
        self.subscriptions.clear();
    }
}

/// About as much text as the resource has.
fn bytes(resource: &Resource) -> usize {
    fn of(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::String(text) => text.len(),
            serde_json::Value::Array(items) => items.iter().map(of).sum::<usize>() + 32,
            serde_json::Value::Object(members) => members
                .iter()
                .map(|(key, value)| key.len() + of(value) + 48)
                .sum(),
            _ => 8,
        }
    }
    let extra: usize = resource
        .extra
        .iter()
        .map(|(key, value)| key.len() + of(value))
        .sum();
    of(&resource.properties)
        + extra
        + resource
            .tags
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum::<usize>()
}

impl<E: Engine> SqlCatalog<E> {
    /// The cache as new as every write that was told to be done, and when that was; none where there is none.
    pub(super) async fn fresh_cache(&self) -> Result<Option<(&Cache, Moment)>> {
        let Some(cache) = self.cache.as_deref() else {
            return Ok(None);
        };
        let commits = *self.written.borrow();
        if cache.kept().commits < commits || cache.kept().position.is_none() {
            self.take_out_changes(cache).await?;
        }
        Ok(Some((cache, Moment(commits))))
    }

    async fn take_out_changes(&self, cache: &Cache) -> Result<()> {
        let _turn = cache.taking_out.lock().await;
        let commits = *self.written.borrow();
        let position = {
            let kept = cache.kept();
            match kept.position {
                // Somebody else did while this one waited for its turn.
                Some(_) if kept.commits >= commits => return Ok(()),
                position => position,
            }
        };
        let Some(mut position) = position else {
            let latest = self.latest_change().await?;
            let mut kept = cache.kept();
            kept.clear();
            kept.position = Some(latest);
            kept.caught_up(commits);
            return Ok(());
        };
        loop {
            let changes = self.changes_after(position, CHANGES_MAX).await?;
            let mut kept = cache.kept();
            let more = match changes {
                Changes::Lost { latest } => {
                    kept.clear();
                    position = latest;
                    false
                }
                Changes::Next(changes) => {
                    kept.take_out(&changes);
                    position = changes.last().map_or(position, |last| last.seq);
                    changes.len() == CHANGES_MAX
                }
            };
            kept.position = Some(position);
            if !more {
                kept.caught_up(commits);
                return Ok(());
            }
        }
    }
}
