//! All the policies of one tenant at one moment, compiled, and whom they reach.
//!
//! Never changed: a change makes new ones, and what differs between two is what has to be looked at again.

use std::collections::HashMap;
use std::sync::Arc;

use catalog::Resource;
use jiff::Timestamp;
use policy::json::{get, text};
use serde_json::Value;
use wire::{ResourceId, TenantId};

use crate::unit::{self, Find, Unit, UnitKey};
use crate::{kinds, subject};

/// Levels of management groups; Azure has six below the root.
const LEVELS_MAX: usize = 16;

/// What the catalog has of a tenant's policies.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub assignments: Vec<Resource>,
    pub exemptions: Vec<Resource>,
    pub attestations: Vec<Resource>,
    pub groups: Vec<Resource>,
    pub subscriptions: Vec<Resource>,
}

#[derive(Debug)]
pub(crate) struct Policies {
    pub tenant: TenantId,
    pub units: Vec<Arc<Unit>>,
    /// Management groups above each subscription, nearest first, by its folded id. As JSON, for the engine.
    ancestors: HashMap<String, Value>,
    root: Value,
    /// All of it as pairs of child and parent, for questions about many resources.
    pub links: Value,
    /// Of each exemption and attestation: its folded id, whom it is about, and which assignment.
    pub remarks: HashMap<String, Remark>,
}

/// What an exemption or attestation reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    pub scope: ResourceId,
    /// Folded.
    pub assignment: String,
    pub etag: String,
    pub expires: Option<Timestamp>,
}

impl Policies {
    pub fn new(tenant: TenantId, stored: &Stored, find: &impl Find) -> Policies {
        let (root, ancestors) = hierarchy(tenant, stored);
        let links = links(&ancestors);
        let mut remarks = HashMap::new();
        let exemptions = by_assignment(&stored.exemptions, &mut remarks);
        let attestations = by_assignment(&stored.attestations, &mut remarks);
        let mut units = Vec::new();
        for resource in &stored.assignments {
            let Some(mut assignment) = unit::assignment(resource, find) else {
                continue;
            };
            let of = |remarks: &HashMap<String, Vec<Value>>| {
                let own = remarks.get(resource.id.folded());
                own.cloned().unwrap_or_default()
            };
            assignment.exemptions = of(&exemptions);
            assignment.attestations = of(&attestations);
            let assignment = Arc::new(assignment);
            units.extend(unit::units(&assignment, find).into_iter().map(Arc::new));
        }
        Policies {
            tenant,
            units,
            ancestors,
            root,
            links,
            remarks,
        }
    }

    /// Names of the management groups above what the id names.
    pub fn above(&self, id: &ResourceId) -> &Value {
        let subscription = id.subscription().map(ResourceId::subscription_scope);
        subscription
            .and_then(|scope| self.ancestors.get(scope.folded()))
            .unwrap_or(&self.root)
    }

    /// Whether what is at the id is at or below the scope, through the management groups, too.
    pub fn within(&self, id: &ResourceId, scope: &ResourceId) -> bool {
        if !scope.resource_type().is(kinds::MANAGEMENT_GROUPS) {
            return id.is_within(scope);
        }
        let named = |group: &Value| {
            let name = group.as_str();
            name.is_some_and(|name| name.eq_ignore_ascii_case(scope.name()))
        };
        let above = self.above(id).as_array();
        above.is_some_and(|above| above.iter().any(named))
    }

    /// The subscriptions whose management groups are others than in `old`; folded ids.
    pub fn moved(&self, old: &Policies) -> Vec<String> {
        let all = self.ancestors.keys();
        all.filter(|id| self.ancestors.get(*id) != old.ancestors.get(*id))
            .cloned()
            .collect()
    }

    /// The subscriptions at or below a scope; folded ids.
    pub fn subscriptions_below(&self, scope: &ResourceId) -> Vec<ResourceId> {
        let all = self
            .ancestors
            .keys()
            .filter_map(|id| ResourceId::parse(id).ok());
        let mut below: Vec<ResourceId> = all.filter(|id| self.within(id, scope)).collect();
        below.sort();
        below
    }

    /// The units whose assignment's scope holds the resource. Selectors and exclusions are the engine's.
    pub fn reaching(&self, id: &ResourceId) -> Vec<Arc<Unit>> {
        let reach = |unit: &&Arc<Unit>| {
            let assignment = &unit.assignment;
            match assignment.on_group {
                true => self.within(id, &assignment.scope),
                false => id.is_within(&assignment.scope),
            }
        };
        self.units.iter().filter(reach).cloned().collect()
    }

    pub fn by_key(&self) -> HashMap<&UnitKey, &Arc<Unit>> {
        self.units.iter().map(|unit| (&unit.key, unit)).collect()
    }
}

/// Exemptions and attestations, by the assignment that they speak of.
fn by_assignment(
    stored: &[Resource],
    remarks: &mut HashMap<String, Remark>,
) -> HashMap<String, Vec<Value>> {
    let mut found: HashMap<String, Vec<Value>> = HashMap::new();
    for resource in stored {
        let Some(scope) = resource.id.parent() else {
            continue;
        };
        let mut value = subject::shown(resource);
        unit::pin_scope(&mut value["properties"], &scope);
        if let Value::Object(object) = &mut value {
            object.retain(|key, _| !key.eq_ignore_ascii_case("scope"));
        }
        // An attestation may name the resource that it is about, but only below where it is.
        let named =
            text(&value["properties"], "resourceId").and_then(|id| ResourceId::parse(id).ok());
        let named = named.filter(|named| named.is_within(&scope));
        let assignment = text(&value["properties"], "policyAssignmentId");
        let Some(assignment) = assignment.map(|id| id.trim_end_matches('/').to_lowercase()) else {
            continue;
        };
        let remark = Remark {
            scope: named.unwrap_or(scope),
            assignment: assignment.clone(),
            etag: resource.etag.to_string(),
            expires: text(&value["properties"], "expiresOn").and_then(policy::expr::instant),
        };
        remarks.insert(resource.id.folded().to_owned(), remark);
        found.entry(assignment).or_default().push(value);
    }
    found
}

/// The root group's chain, and each subscription's.
fn hierarchy(tenant: TenantId, stored: &Stored) -> (Value, HashMap<String, Value>) {
    let root = tenant.to_string();
    let parents: HashMap<String, String> = stored
        .groups
        .iter()
        .map(|group| (group.id.name().to_lowercase(), parent(group, &root)))
        .collect();
    let chain = |first: String| -> Value {
        let mut names: Vec<String> = Vec::new();
        let mut at = first;
        while names.len() < LEVELS_MAX && !names.contains(&at) {
            let next = parents.get(&at).cloned();
            names.push(at);
            at = next.unwrap_or_else(|| root.clone());
        }
        // A circle or too long a chain still ends at the root.
        if !names.contains(&root) {
            names.push(root.clone());
        }
        Value::from(names)
    };
    let placed = |subscription: &Resource| {
        let group = text(&subscription.properties, "managementGroup");
        let group = group.map_or_else(|| root.clone(), short);
        (subscription.id.folded().to_owned(), chain(group))
    };
    let ancestors = stored.subscriptions.iter().map(placed).collect();
    (Value::from(vec![root.clone()]), ancestors)
}

/// Each step of each chain.
fn links(ancestors: &HashMap<String, Value>) -> Value {
    let mut links = serde_json::Map::new();
    for (subscription, chain) in ancestors {
        let mut child = short(subscription);
        for group in chain.as_array().into_iter().flatten() {
            let group = group.as_str().unwrap_or_default();
            links.insert(child, group.into());
            child = group.to_owned();
        }
    }
    Value::Object(links)
}

fn parent(group: &Resource, root: &str) -> String {
    let details = get(&group.properties, "details");
    let parent = details.and_then(|details| get(details, "parent"));
    let id = parent.and_then(|parent| text(parent, "id"));
    id.map_or_else(|| root.to_owned(), short)
}

/// The name in an id or name of a management group.
fn short(id: &str) -> String {
    let name = id.trim_end_matches('/').rsplit('/').next();
    name.unwrap_or_default().to_lowercase()
}
