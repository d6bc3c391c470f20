//! What a change touches: which resources have to be judged again, by which policies, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wire::{ResourceId, TenantId};

use crate::board::Board;
use crate::kinds;
use crate::look::search_scope;
use crate::policies::Policies;
use crate::unit::{Existence, Unit, UnitKey};

/// Which policies judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// All that reach the resource; states by any other end.
    All,
    Some(BTreeSet<UnitKey>),
}

/// The work that follows from changes, for one tenant.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub resources: BTreeMap<ResourceId, Which>,
    /// Everything at or below a scope.
    pub scopes: Vec<(ResourceId, Which)>,
    /// Policies that are gone.
    pub gone: Vec<UnitKey>,
}

impl Touched {
    pub fn resource(&mut self, id: &ResourceId) {
        if kinds::reached(id) {
            self.resources.insert(id.clone(), Which::All);
        }
    }

    /// The resource by some policies, besides what is to be done anyway.
    pub fn pair(&mut self, id: &ResourceId, keys: impl IntoIterator<Item = UnitKey>) {
        let keys: BTreeSet<UnitKey> = keys.into_iter().collect();
        if keys.is_empty() {
            return;
        }
        let known = self.resources.entry(id.clone());
        match known.or_insert_with(|| Which::Some(BTreeSet::new())) {
            Which::All => {}
            Which::Some(known) => known.extend(keys),
        }
    }

    pub fn scope(&mut self, scope: &ResourceId, keys: impl IntoIterator<Item = UnitKey>) {
        let keys: BTreeSet<UnitKey> = keys.into_iter().collect();
        if keys.is_empty() {
            return;
        }
        let same = |(other, which): &&mut (ResourceId, Which)| {
            other == scope && matches!(which, Which::Some(_))
        };
        match self.scopes.iter_mut().find(same) {
            Some((_, Which::Some(known))) => known.extend(keys),
            _ => self.scopes.push((scope.clone(), Which::Some(keys))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.scopes.is_empty() && self.gone.is_empty()
    }

    /// What is different between two moments of the tenant's policies.
    pub fn compare(&mut self, old: &Policies, new: &Policies) {
        let (before, after) = (old.by_key(), new.by_key());
        for (key, unit) in &before {
            if after.contains_key(key) {
                continue;
            }
            self.gone.push((*key).clone());
            if unit.changes() {
                // It may have been in conflict with others.
                self.scope(&unit.assignment.scope, keys(new, |other| other.changes()));
            }
        }
        for (key, unit) in &after {
            let known = before.get(key);
            if known.is_some_and(|known| known.mark == unit.mark) {
                continue;
            }
            self.scope(&unit.assignment.scope, [(*key).clone()]);
            if unit.changes() || known.is_some_and(|known| known.changes()) {
                self.scope(&unit.assignment.scope, keys(new, |other| other.changes()));
            }
        }
        let both = old.remarks.keys().chain(new.remarks.keys());
        for id in both.collect::<BTreeSet<_>>() {
            let (was, is) = (old.remarks.get(id), new.remarks.get(id));
            if was == is {
                continue;
            }
            for remark in was.into_iter().chain(is) {
                let of = |unit: &Unit| unit.key.assignment == remark.assignment;
                self.scope(&remark.scope, keys(new, of));
            }
        }
        for subscription in new.moved(old) {
            if let Ok(subscription) = ResourceId::parse(&subscription) {
                self.scopes.push((subscription, Which::All));
            }
        }
    }

    /// A resource of the tenant was written or is gone: itself, and those that look at it.
    pub fn changed(&mut self, id: &ResourceId, policies: &Policies, board: &Board) {
        self.resource(id);
        let kind = id.resource_type();
        if kind.is(kinds::OWN_RESOURCE_GROUPS) {
            self.scope(id, keys(policies, |unit| unit.needs.group));
        }
        if kind.is(kinds::SUBSCRIPTIONS) {
            self.scope(id, keys(policies, |unit| unit.needs.subscription));
        }
        for unit in &policies.units {
            for existence in unit.existences() {
                self.seekers(id, unit, existence, board);
            }
        }
    }

    /// Those who look for such a resource.
    fn seekers(&mut self, id: &ResourceId, unit: &Unit, existence: &Existence, board: &Board) {
        if !existence.kind.eq_ignore_ascii_case(&kinds::of(id)) {
            return;
        }
        let around = match existence.wide {
            true => id.subscription().map(ResourceId::subscription_scope),
            false => id
                .group_scope()
                .or_else(|| id.subscription().map(ResourceId::subscription_scope)),
        };
        let Some(around) = around else {
            return;
        };
        let above = std::iter::successors(id.parent(), ResourceId::parent)
            .filter(|above| board.has(above, &unit.key));
        let beside = board
            .below(&around, "")
            .filter(|other| board.has(other, &unit.key));
        let looks = |other: &ResourceId| id.is_within(&search_scope(other, existence));
        let seekers: BTreeSet<ResourceId> = above
            .chain(beside.cloned())
            .filter(|other| looks(other))
            .collect();
        for seeker in seekers {
            self.pair(&seeker, [unit.key.clone()]);
        }
    }
}

/// Keys of the units that are so.
pub(crate) fn keys(policies: &Policies, so: impl Fn(&Unit) -> bool) -> Vec<UnitKey> {
    let units = policies.units.iter().filter(|unit| so(unit));
    units.map(|unit| unit.key.clone()).collect()
}

/// The units of these keys that reach a resource, and with one that may change it all that may.
pub(crate) fn judges(policies: &Policies, id: &ResourceId, which: &Which) -> Vec<Arc<Unit>> {
    let mut units = policies.reaching(id);
    if let Which::Some(keys) = which {
        let changing = units
            .iter()
            .any(|unit| unit.changes() && keys.contains(&unit.key));
        units.retain(|unit| keys.contains(&unit.key) || (changing && unit.changes()));
    }
    units
}

/// Which machines run which image: by the folded id of the image definition.
#[derive(Debug, Default)]
pub(crate) struct Users {
    machines: HashMap<String, BTreeSet<(TenantId, ResourceId)>>,
    images: HashMap<(TenantId, String), String>,
}

impl Users {
    pub fn set(&mut self, tenant: TenantId, machine: &ResourceId, image: Option<&ResourceId>) {
        let key = (tenant, machine.folded().to_owned());
        let old = match image {
            Some(image) => self.images.insert(key, image.folded().to_owned()),
            None => self.images.remove(&key),
        };
        if let Some(machines) = old.and_then(|old| self.machines.get_mut(&old)) {
            machines.remove(&(tenant, machine.clone()));
        }
        if let Some(image) = image {
            let machines = self.machines.entry(image.folded().to_owned()).or_default();
            machines.insert((tenant, machine.clone()));
        }
    }

    pub fn of(&self, image: &ResourceId) -> impl Iterator<Item = &(TenantId, ResourceId)> {
        self.machines.get(image.folded()).into_iter().flatten()
    }

    pub fn of_tenant(&self, tenant: TenantId) -> Vec<ResourceId> {
        let all = self.machines.values().flatten();
        all.filter(|(of, _)| *of == tenant)
            .map(|(_, id)| id.clone())
            .collect()
    }

    pub fn clear(&mut self) {
        *self = Users::default();
    }
}
