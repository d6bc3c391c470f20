//! What a tenant's decisions share, whoever asks: the management groups above its subscriptions, and the locks on its
//! scopes.
//!
//! Ids of subscriptions do not carry their management group, so what is above one has to be told from outside. Built
//! once for each change of a tenant and asked by every decision; opens nothing.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use wire::{ResourceId, SubscriptionId, TenantId};

use crate::permissions::Asked;

/// More levels than Azure allows; a longer line is a circle that a race made.
const LEVELS_MAX: usize = 16;
const GROUPS: &str = "/providers/microsoft.management/managementgroups/";
/// Who may change locks may do so in spite of them.
const LOCK_ACTIONS: &str = "microsoft.authorization/locks/";
/// Locks that one refusal names.
const NAMED_MAX: usize = 5;

/// Which management groups are above what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The folded id of the tenant's root group.
    root: String,
    /// By a group's folded name: the folded ids of it and of those above, nearest first.
    lines: HashMap<String, Vec<String>>,
    /// Folded names; subscriptions that are in no group are below the root group.
    placed: HashMap<SubscriptionId, String>,
}

impl Tree {
    /// `groups` are pairs of name and parent's name. A group whose parent is not there hangs below the root group.
    pub fn new(
        tenant: TenantId,
        groups: impl IntoIterator<Item = (String, Option<String>)>,
        placed: impl IntoIterator<Item = (SubscriptionId, String)>,
    ) -> Self {
        let root = tenant.to_string();
        let parents: HashMap<String, Option<String>> = groups
            .into_iter()
            .map(|(name, parent)| (name.to_lowercase(), parent.map(|up| up.to_lowercase())))
            .collect();
        let line = |name: &String| {
            let mut line: Vec<&String> = Vec::new();
            let mut at = Some(name);
            while let Some(one) = at.filter(|one| **one != root && line.len() < LEVELS_MAX) {
                line.push(one);
                at = parents.get(one).and_then(Option::as_ref);
                at = at.filter(|up| parents.contains_key(*up) && !line.contains(up));
            }
            line.push(&root);
            let line = line.into_iter().map(|name| format!("{GROUPS}{name}"));
            (name.clone(), line.collect::<Vec<_>>())
        };
        let mut lines: HashMap<String, Vec<String>> = parents.keys().map(line).collect();
        let root = format!("{GROUPS}{root}");
        lines.insert(tenant.to_string(), vec![root.clone()]);
        let placed = placed
            .into_iter()
            .map(|(subscription, name)| (subscription, name.to_lowercase()))
            .filter(|(_, name)| lines.contains_key(name))
            .collect();
        Self {
            root,
            lines,
            placed,
        }
    }

    /// No groups but the root group.
    pub fn bare(tenant: TenantId) -> Self {
        Self::new(tenant, [], [])
    }

    /// Folded ids of the management groups above a scope, nearest first; a group's own is among them.
    pub(crate) fn above<'a>(&'a self, scope: &ResourceId) -> &'a [String] {
        let group = match (scope.management_group(), scope.subscription()) {
            (Some(name), _) => self.lines.get(&name.to_lowercase()),
            (None, Some(subscription)) => self
                .placed
                .get(&subscription)
                .and_then(|name| self.lines.get(name)),
            (None, None) => return &[],
        };
        group.map_or(std::slice::from_ref(&self.root), Vec::as_slice)
    }

    /// The ids at and above a scope, `/` included, nearest first: the scopes whose assignments hold for it.
    pub fn at_or_above(&self, scope: &ResourceId) -> Vec<ResourceId> {
        let mut line: Vec<ResourceId> = Vec::new();
        let mut at = Some(scope.clone());
        while let Some(one) = at.filter(|one| !one.is_root()) {
            at = one.parent();
            line.push(one);
        }
        let groups = self.above(scope).iter();
        for group in groups.filter_map(|id| ResourceId::parse(id).ok()) {
            if !line.contains(&group) {
                line.push(group);
            }
        }
        line.push(ResourceId::root());
        line
    }

    /// The subscriptions in a management group, at any depth; none for other scopes. Everything is in the root group.
    pub(crate) fn subscriptions_in(&self, scope: &ResourceId) -> Vec<ResourceId> {
        if scope.management_group().is_none() {
            return Vec::new();
        }
        if scope.folded() == self.root {
            return vec![ResourceId::root()];
        }
        let inside = |name: &String| {
            let line = self.lines.get(name);
            line.is_some_and(|line| line.iter().any(|id| id == scope.folded()))
        };
        self.placed
            .iter()
            .filter(|(_, name)| inside(name))
            .map(|(subscription, _)| ResourceId::subscription_scope(*subscription))
            .collect()
    }

    /// Whether what is given at `above` holds at `scope`.
    pub fn holds(&self, above: &ResourceId, scope: &ResourceId) -> bool {
        let groups = self.above(scope);
        scope.is_within(above) || groups.iter().any(|group| group == above.folded())
    }
}

/// How far a lock goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockLevel {
    CanNotDelete,
    ReadOnly,
}

impl LockLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CanNotDelete => "CanNotDelete",
            Self::ReadOnly => "ReadOnly",
        }
    }

    /// Compared without case.
    pub fn named(text: &str) -> Option<Self> {
        [Self::CanNotDelete, Self::ReadOnly]
            .into_iter()
            .find(|level| level.as_str().eq_ignore_ascii_case(text))
    }
}

/// The locks of a tenant by the folded id of their scope: the strictest of each scope counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locks(BTreeMap<String, (ResourceId, LockLevel)>);

impl Locks {
    pub fn new(locks: impl IntoIterator<Item = (ResourceId, LockLevel)>) -> Self {
        let mut known: BTreeMap<String, (ResourceId, LockLevel)> = BTreeMap::new();
        for (scope, level) in locks {
            let entry = known
                .entry(scope.folded().to_owned())
                .or_insert((scope, level));
            if level == LockLevel::ReadOnly {
                entry.1 = level;
            }
        }
        Self(known)
    }

    /// The locked scopes that keep an action from being done: none, or a few of them. What deletes is kept by every
    /// lock at, above and below; what else changes something by those that are read-only, at and above.
    pub(crate) fn in_the_way(&self, asked: &Asked, line: &[&str]) -> Vec<ResourceId> {
        let action = asked.as_str();
        if self.0.is_empty() || action.ends_with("/read") || action.starts_with(LOCK_ACTIONS) {
            return Vec::new();
        }
        let deletes = action.ends_with("/delete");
        let stops = |level: LockLevel| deletes || level == LockLevel::ReadOnly;
        let above = line.iter().filter_map(|scope| self.0.get(*scope));
        let mut found: Vec<ResourceId> = above
            .filter(|(_, level)| stops(*level))
            .map(|(scope, _)| scope.clone())
            .collect();
        if let (true, Some(own)) = (deletes, line.first()) {
            let from = (Bound::Excluded(format!("{own}/")), Bound::Unbounded);
            let below = self.0.range::<String, _>(from);
            let inside = below.take_while(|(scope, _)| {
                let rest = scope.strip_prefix(own);
                rest.is_some_and(|rest| rest.starts_with('/'))
            });
            found.extend(inside.take(NAMED_MAX).map(|(_, (scope, _))| scope.clone()));
        }
        found.truncate(NAMED_MAX);
        found
    }
}

/// Both, as one change of a tenant left them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    pub tree: Tree,
    pub locks: Locks,
}

impl Around {
    pub fn bare(tenant: TenantId) -> Self {
        Self {
            tree: Tree::bare(tenant),
            locks: Locks::default(),
        }
    }
}
