//! Management groups of a tenant: which group is above which, and which subscriptions are in them.
//!
//! Subscriptions do not carry their group in their ids, so what is above a scope has to be looked up. The tenant's
//! root group always is there, whether or not anybody made a group; it is named by the tenant's id.

use std::collections::BTreeMap;

use access::{Action, Permit, SystemReason};
use catalog::{Pages, Resource};
use serde_json::Value;
use wire::{ArmError, ErrorCode, ResourceId, SubscriptionId, TenantId};

use crate::errors;
use crate::resources::subscriptions;
use crate::state::Server;

pub const GROUP: &str = "Microsoft.Management/managementGroups";
/// The member of a subscription's properties that names its group.
pub const PLACEMENT: &str = "managementGroup";
/// Azure's limit of levels below the root group.
pub const LEVELS_MAX: usize = 6;
/// Groups, and subscriptions, of one tenant.
const MEMBERS_MAX: usize = 10_000;

/// Looks at a scope for the sake of a policy or a right, whoever asks: what is assigned above a scope holds for it, and
/// is checked against what it names, whether or not the caller may read that.
pub fn looking(scope: ResourceId, tenant: TenantId) -> Permit {
    let action = Action::new(format!("{}/read", scope.resource_type()));
    Permit::system(SystemReason::Reconcile, action, scope, tenant)
}

/// Writes the resource of the root group, which is there by nature, on the first use of it.
pub fn founding(root: ResourceId, tenant: TenantId) -> Permit {
    let action = Action::new(format!("{GROUP}/write"));
    Permit::system(SystemReason::Reconcile, action, root, tenant)
}

/// Everything of a type at and below the permit's scope.
pub async fn every(server: &Server, permit: &Permit, of: &str) -> Result<Vec<Resource>, ArmError> {
    let mut pages = Pages::of(&*server.catalog, permit, of);
    let mut found: Vec<Resource> = Vec::new();
    while let Some(page) = pages.next().await.map_err(errors::catalog)? {
        found.extend(page);
        if found.len() > MEMBERS_MAX {
            return Err(ArmError::new(
                ErrorCode::OperationNotAllowed,
                format!("There are more than {MEMBERS_MAX} resources of type {of}."),
            ));
        }
    }
    Ok(found)
}

#[derive(Debug)]
pub struct Group {
    pub name: String,
    pub display_name: String,
    /// Folded; none for the root group.
    parent: Option<String>,
}

#[derive(Debug)]
pub struct Member {
    pub subscription: SubscriptionId,
    pub display_name: String,
    group: String,
}

/// All groups of one tenant, as they were when it was loaded.
#[derive(Debug)]
pub struct Hierarchy {
    root: String,
    /// By folded name.
    groups: BTreeMap<String, Group>,
    members: Vec<Member>,
}

/// The id in `details.parent.id` of a group's properties.
pub fn parent_in(properties: &Value) -> Option<&str> {
    properties.pointer("/details/parent/id")?.as_str()
}

fn last(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

fn text(properties: &Value, name: &str) -> Option<String> {
    properties.get(name)?.as_str().map(str::to_string)
}

impl Hierarchy {
    pub async fn load(server: &Server, tenant: TenantId) -> Result<Hierarchy, ArmError> {
        let permit = looking(ResourceId::root(), tenant);
        let groups = every(server, &permit, GROUP).await?;
        let members = every(server, &permit, subscriptions::KIND).await?;
        Ok(Hierarchy::of(tenant, &groups, &members))
    }

    fn of(tenant: TenantId, groups: &[Resource], members: &[Resource]) -> Hierarchy {
        let root = tenant.to_string();
        let mut known: BTreeMap<String, Group> = BTreeMap::new();
        for group in groups {
            let name = group.id.name().to_string();
            let parent = parent_in(&group.properties).map(|id| last(id).to_lowercase());
            let made = Group {
                display_name: text(&group.properties, "displayName").unwrap_or(name.clone()),
                parent: parent.filter(|_| name != root),
                name,
            };
            known.insert(made.name.to_lowercase(), made);
        }
        known.entry(root.clone()).or_insert_with(|| Group {
            name: root.clone(),
            display_name: "Tenant Root Group".into(),
            parent: None,
        });
        let lost: Vec<String> = known
            .iter()
            .filter(|(name, group)| {
                **name != root
                    && !group
                        .parent
                        .as_ref()
                        .is_some_and(|up| known.contains_key(up))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in lost {
            if let Some(group) = known.get_mut(&name) {
                group.parent = Some(root.clone());
            }
        }
        let members = members.iter().filter_map(|one| {
            let named = text(&one.properties, PLACEMENT).map(|name| name.to_lowercase());
            Some(Member {
                subscription: one.id.subscription()?,
                display_name: text(&one.properties, "displayName").unwrap_or_default(),
                group: named
                    .filter(|name| known.contains_key(name))
                    .unwrap_or_else(|| root.clone()),
            })
        });
        let members = members.collect();
        Hierarchy {
            root,
            groups: known,
            members,
        }
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(&name.to_lowercase())
    }

    pub fn is_root(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(&self.root)
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The group and those above it, nearest first. A circle, which nothing but a race can make, ends the walk.
    pub fn line(&self, name: &str) -> Vec<&Group> {
        let mut line: Vec<&Group> = Vec::new();
        let mut at = self.group(name);
        while let Some(group) = at {
            if line.iter().any(|seen| seen.name == group.name) {
                break;
            }
            line.push(group);
            at = group.parent.as_ref().and_then(|up| self.groups.get(up));
        }
        line
    }

    pub fn parent(&self, name: &str) -> Option<&Group> {
        self.line(name).get(1).copied()
    }

    pub fn children(&self, name: &str) -> Vec<&Group> {
        let name = name.to_lowercase();
        let below = |group: &&Group| group.parent.as_deref() == Some(name.as_str());
        self.groups.values().filter(below).collect()
    }

    /// Subscriptions directly in the group.
    pub fn members(&self, name: &str) -> Vec<&Member> {
        let name = name.to_lowercase();
        self.members
            .iter()
            .filter(|one| one.group == name)
            .collect()
    }

    /// The scope and every scope above it whose policies hold for it: group, subscription, management groups.
    pub fn at_or_above(&self, scope: &ResourceId) -> Vec<ResourceId> {
        let mut scopes: Vec<ResourceId> = Vec::new();
        let mut at = Some(scope.clone());
        while let Some(one) = at.filter(|one| !one.is_root()) {
            at = one.parent();
            scopes.push(one);
        }
        let nearest = match (scope.management_group(), scope.subscription()) {
            // Its own scope is there already.
            (Some(name), _) => self.line(name).into_iter().skip(1).collect(),
            (None, Some(subscription)) => {
                let of = self
                    .members
                    .iter()
                    .find(|one| one.subscription == subscription);
                self.line(of.map_or(self.root.as_str(), |one| &one.group))
            }
            (None, None) => Vec::new(),
        };
        let ids = nearest
            .into_iter()
            .filter_map(|group| ResourceId::management_group_scope(&group.name).ok());
        scopes.extend(ids);
        scopes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
    const SUBSCRIPTION: &str = "11111111-1111-4111-8111-111111111111";

    fn resource(id: &str, properties: Value) -> Resource {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Resource {
            id: ResourceId::parse(id).unwrap(),
            tenant: TENANT.parse().unwrap(),
            location: None,
            tags: BTreeMap::new(),
            properties,
            extra: serde_json::Map::new(),
            state: wire::ProvisioningState::Succeeded,
            etag: "\"1\"".parse().unwrap(),
            system: catalog::SystemData {
                created_at: at,
                created_by: String::new(),
                changed_at: at,
                changed_by: String::new(),
            },
        }
    }

    fn group(name: &str, parent: &str) -> Resource {
        let prefix = "/providers/Microsoft.Management/managementGroups";
        let parent = json!({ "id": format!("{prefix}/{parent}") });
        resource(
            &format!("{prefix}/{name}"),
            json!({ "details": { "parent": parent } }),
        )
    }

    fn check(placed: Value, scope: &str, expected: &[&str]) {
        let groups = [
            group("Top", TENANT),
            group("low", "TOP"),
            group("lost", "gone"),
        ];
        let member = resource(&format!("/subscriptions/{SUBSCRIPTION}"), placed);
        let seen = Hierarchy::of(TENANT.parse().unwrap(), &groups, &[member]);
        let scope = ResourceId::parse(scope).unwrap();
        let names: Vec<String> = seen
            .at_or_above(&scope)
            .iter()
            .map(|id| id.name().to_string())
            .collect();
        assert_eq!(names, expected, "{scope}");
    }

    #[test]
    fn what_is_above() {
        let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/g");
        let placed = json!({ "managementGroup": "LOW" });
        check(placed, &group, &["g", SUBSCRIPTION, "low", "Top", TENANT]);
        check(json!({}), &group, &["g", SUBSCRIPTION, TENANT]);
        let gone = json!({ "managementGroup": "gone" });
        check(gone, &group, &["g", SUBSCRIPTION, TENANT]);
        let at = |name: &str| format!("/providers/Microsoft.Management/managementGroups/{name}");
        check(json!({}), &at("low"), &["low", "Top", TENANT]);
        check(json!({}), &at("lost"), &["lost", TENANT]);
        check(json!({}), &at(TENANT), &[TENANT]);
    }
}
