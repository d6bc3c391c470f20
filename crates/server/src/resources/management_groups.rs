//! `Microsoft.Management/managementGroups`: groups of subscriptions, in a tree below the tenant's root group.
//!
//! A subscription says in its own resource which group it is in, so it never is in two.

use std::sync::Arc;

use catalog::{CatalogError, Draft, Precondition, Record};
use http::StatusCode;
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode, ResourceId, SubscriptionId, TenantId};

use super::tenancy::display_name;
use super::{Reply, delete, find, page_reply, store, subscriptions};
use crate::body::ResourceBody;
use crate::errors;
use crate::hierarchy::{
    GROUP, Group, Hierarchy, LEVELS_MAX, Member, PLACEMENT, looking, parent_in,
};
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = GROUP;
pub const MEMBER: &str = "Microsoft.Management/managementGroups/subscriptions";
const GROUP_WRITE: &str = "Microsoft.Management/managementGroups/write";
const ROLES_WRITE: &str = "Microsoft.Authorization/roleAssignments/write";
const NAME_CHARS_MAX: usize = 90;
/// Levels that `$recurse` shows.
const SHOWN_LEVELS_MAX: usize = LEVELS_MAX + 1;

fn group_id(name: &str) -> String {
    format!("/providers/{GROUP}/{name}")
}

fn refused(message: impl Into<String>) -> ArmError {
    ArmError::new(ErrorCode::BadRequest, message)
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let name = call.id.name();
    let fit = name.len() <= NAME_CHARS_MAX
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_().".contains(&b))
        && !name.ends_with('.');
    if !fit {
        return Err(errors::invalid(
            "groupId",
            format!(
                "The management group name has at most {NAME_CHARS_MAX} letters, digits and -_(). and does \
                 not end with a period."
            ),
        ));
    }
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    // The 2018 form of the body has these beside each other.
    for key in ["displayName", "details"] {
        if let Some(value) = call.body.get(key) {
            body.properties.entry(key).or_insert_with(|| value.clone());
        }
    }
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(&server, tenant).await?;
    let old = find(&server, &call).await?;
    let asked = Value::Object(body.properties.clone());
    let kept = old.as_ref().and_then(|old| parent_in(&old.properties));
    let asked = parent_in(&asked).or(kept);
    let mut stored = json!({ "tenantId": tenant.to_string() });
    let shown = body
        .properties
        .get("displayName")
        .filter(|value| !value.is_null());
    stored["displayName"] = match (shown, &old) {
        (None, Some(old)) => old.properties["displayName"].clone(),
        _ => display_name(&body.properties, name)?.into(),
    };
    let mut above = None;
    if !hierarchy.is_root(name) {
        let parent = parent(&hierarchy, name, asked)?;
        let before = old.as_ref().and(hierarchy.parent(name));
        if before.is_none_or(|before| before.name != parent.name) {
            let ends = [before.map(|before| &before.name), Some(&parent.name)];
            for group in ends.into_iter().flatten() {
                need_group_right(&server, &call, &hierarchy, group).await?;
            }
        }
        stored["details"] = json!({ "parent": { "id": group_id(&parent.name) } });
        above = Some(parent.name.clone());
    }
    let draft = Draft::new(stored).record(Record::ManagementGroup { parent: above });
    store(&server, &call, old.as_ref(), draft).await?;
    let after = Hierarchy::load(&server, tenant).await?;
    // Clients take no 201 here.
    Ok(Reply::ok(shown_group(&after, tenant, name, 0)?))
}

/// The group that is to be above `name`: there, not below it, and not too deep.
fn parent<'h>(
    hierarchy: &'h Hierarchy,
    name: &str,
    asked: Option<&str>,
) -> Result<&'h Group, ArmError> {
    let root = hierarchy
        .groups()
        .find(|group| hierarchy.is_root(&group.name));
    let found = match asked {
        None => root,
        Some(id) => {
            let id = ResourceId::parse(id).ok();
            let name = id.as_ref().and_then(ResourceId::management_group);
            name.and_then(|name| hierarchy.group(name))
        }
    };
    let Some(found) = found else {
        return Err(ArmError::new(
            ErrorCode::NotFound,
            "The parent management group could not be found.",
        )
        .with_target("properties.details.parent.id"));
    };
    let line = hierarchy.line(&found.name);
    if line
        .iter()
        .any(|above| above.name.eq_ignore_ascii_case(name))
    {
        return Err(refused("A management group cannot be below itself."));
    }
    if line.len() + depth_below(hierarchy, name, 0) > LEVELS_MAX {
        let message =
            format!("Management groups have at most {LEVELS_MAX} levels below the root group.");
        return Err(refused(message));
    }
    Ok(found)
}

fn depth_below(hierarchy: &Hierarchy, name: &str, level: usize) -> usize {
    if level > LEVELS_MAX {
        return level;
    }
    let children = hierarchy.children(name);
    let deepest = children
        .iter()
        .map(|child| 1 + depth_below(hierarchy, &child.name, level + 1));
    deepest.max().unwrap_or(0)
}

fn shown_group(
    hierarchy: &Hierarchy,
    tenant: TenantId,
    name: &str,
    levels: usize,
) -> Result<Value, ArmError> {
    let group = hierarchy.group(name).ok_or_else(|| missing(name))?;
    let mut details = json!({});
    if let Some(parent) = hierarchy.parent(name) {
        details["parent"] = json!({
            "id": group_id(&parent.name), "name": parent.name, "displayName": parent.display_name,
        });
    }
    let mut shown = json!({
        "id": group_id(&group.name),
        "name": group.name,
        "type": GROUP,
        "properties": {
            "tenantId": tenant.to_string(), "displayName": group.display_name, "details": details,
        },
    });
    if levels > 0 {
        shown["properties"]["children"] = children(hierarchy, &group.name, levels);
    }
    Ok(shown)
}

fn children(hierarchy: &Hierarchy, name: &str, levels: usize) -> Value {
    let mut shown: Vec<Value> = Vec::new();
    for group in hierarchy.children(name) {
        let mut one = json!({
            "id": group_id(&group.name),
            "name": group.name,
            "type": GROUP,
            "displayName": group.display_name,
        });
        if levels > 1 {
            one["children"] = children(hierarchy, &group.name, levels - 1);
        }
        shown.push(one);
    }
    for member in hierarchy.members(name) {
        shown.push(json!({
            "id": format!("/subscriptions/{}", member.subscription),
            "name": member.subscription.to_string(),
            "type": "/subscriptions",
            "displayName": member.display_name,
        }));
    }
    shown.into()
}

fn missing(name: &str) -> ArmError {
    ArmError::new(
        ErrorCode::NotFound,
        format!("The management group '{name}' could not be found."),
    )
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(&server, tenant).await?;
    let recurse = call
        .query
        .get("$recurse")
        .is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let levels = match (call.query.expands("children"), recurse) {
        (true, true) => SHOWN_LEVELS_MAX,
        (true, false) => 1,
        (false, _) => 0,
    };
    Ok(Reply::ok(shown_group(
        &hierarchy,
        tenant,
        call.id.name(),
        levels,
    )?))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(&server, tenant).await?;
    let seen = |group: &&Group| {
        let id = ResourceId::management_group_scope(&group.name);
        id.is_ok_and(|id| call.permit.may_see(&id))
    };
    let items = hierarchy.groups().filter(seen).map(|group| {
        json!({
            "id": group_id(&group.name),
            "name": group.name,
            "type": GROUP,
            "properties": { "tenantId": tenant.to_string(), "displayName": group.display_name },
        })
    });
    Ok(page_reply(&call, items.collect(), None))
}

/// What is in the group, at any depth.
pub async fn descendants(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let hierarchy = Hierarchy::load(&server, call.permit.tenant()).await?;
    let name = call.id.name();
    hierarchy.group(name).ok_or_else(|| missing(name))?;
    let mut found: Vec<Value> = Vec::new();
    let below = |group: &&Group| {
        let mut above = hierarchy.line(&group.name).into_iter().skip(1);
        above.any(|up| up.name.eq_ignore_ascii_case(name))
    };
    let entry = |id: String, name: &str, kind: &str, shown: &str, parent: &str| {
        json!({
            "id": id, "name": name, "type": kind,
            "properties": { "displayName": shown, "parent": { "id": group_id(parent) } },
        })
    };
    for group in hierarchy.groups().filter(below) {
        let parent = hierarchy.parent(&group.name).map_or("", |up| &up.name);
        let id = group_id(&group.name);
        found.push(entry(id, &group.name, GROUP, &group.display_name, parent));
    }
    let own = hierarchy
        .groups()
        .filter(|group| group.name.eq_ignore_ascii_case(name) || below(group));
    for group in own {
        for Member {
            subscription,
            display_name,
            ..
        } in hierarchy.members(&group.name)
        {
            let id = format!("/subscriptions/{subscription}");
            let name = subscription.to_string();
            let kind = "/subscriptions";
            found.push(entry(id, &name, kind, display_name, &group.name));
        }
    }
    Ok(page_reply(&call, found, None))
}

/// An empty group; the root group stays.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let hierarchy = Hierarchy::load(&server, call.permit.tenant()).await?;
    let name = call.id.name();
    if hierarchy.is_root(name) {
        return Err(refused("The root management group cannot be deleted."));
    }
    if !hierarchy.children(name).is_empty() || !hierarchy.members(name).is_empty() {
        let message =
            format!("The management group '{name}' cannot be deleted because it has children.");
        return Err(refused(message));
    }
    delete(&server, &call).await?;
    // Clients take no 200 here.
    Ok(Reply::no_content())
}

/// Moves a subscription into the group. It takes the right to write the subscription, too.
pub async fn add(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let hierarchy = Hierarchy::load(&server, call.permit.tenant()).await?;
    let group = group_of(&call)?;
    let group = hierarchy.group(&group).ok_or_else(|| missing(&group))?;
    let name = match hierarchy.is_root(&group.name) {
        true => None,
        false => Some(group.name.as_str()),
    };
    let shown = place(&server, &call, &hierarchy, name).await?;
    Ok(Reply::ok(shown_member(
        &call,
        group,
        &call.id.name().to_lowercase(),
        &shown,
    )))
}

fn shown_member(call: &Call, group: &Group, subscription: &str, display_name: &Value) -> Value {
    let group = group_id(&group.name);
    json!({
        "id": format!("{group}/subscriptions/{subscription}"),
        "name": subscription,
        "type": MEMBER,
        "properties": {
            "tenant": call.permit.tenant().to_string(),
            "displayName": display_name,
            "parent": { "id": group },
            "state": "Active",
        },
    })
}

/// A subscription that is directly in the group.
pub async fn member(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let hierarchy = Hierarchy::load(&server, call.permit.tenant()).await?;
    let (name, subscription) = (group_of(&call)?, subscription_of(&call)?);
    let group = hierarchy.group(&name).ok_or_else(|| missing(&name))?;
    let inside = hierarchy.members(&name);
    let found = inside.iter().find(|one| one.subscription == subscription);
    let found = found.ok_or_else(|| errors::subscription_not_found(call.id.name()))?;
    let shown = found.display_name.clone().into();
    let name = found.subscription.to_string();
    Ok(Reply::ok(shown_member(&call, group, &name, &shown)))
}

/// Back below the root group.
pub async fn take_out(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let hierarchy = Hierarchy::load(&server, call.permit.tenant()).await?;
    let (group, subscription) = (group_of(&call)?, subscription_of(&call)?);
    let inside = hierarchy.members(&group);
    if !inside.iter().any(|one| one.subscription == subscription) {
        return Ok(Reply::no_content());
    }
    place(&server, &call, &hierarchy, None).await?;
    Ok(Reply::new(StatusCode::OK, None))
}

pub async fn members(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let hierarchy = Hierarchy::load(&server, call.permit.tenant()).await?;
    let name = call.id.name();
    let group = hierarchy.group(name).ok_or_else(|| missing(name))?;
    let items = hierarchy.members(name).into_iter().map(|one| {
        let shown = one.display_name.clone().into();
        shown_member(&call, group, &one.subscription.to_string(), &shown)
    });
    Ok(page_reply(&call, items.collect(), None))
}

fn group_of(call: &Call) -> Result<String, ArmError> {
    let name = call.id.management_group().map(str::to_string);
    name.ok_or_else(|| refused("The path names no management group."))
}

fn subscription_of(call: &Call) -> Result<SubscriptionId, ArmError> {
    let name = call.id.name();
    name.parse()
        .map_err(|_| errors::subscription_not_found(name))
}

/// Both the group that something leaves and the one that it comes to are changed by it. The root group is nobody's.
async fn need_group_right(
    server: &Server,
    call: &Call,
    hierarchy: &Hierarchy,
    group: &str,
) -> Result<(), ArmError> {
    if hierarchy.is_root(group) {
        return Ok(());
    }
    let scope = ResourceId::management_group_scope(group)
        .map_err(|error| errors::internal("a management group's id", &error))?;
    server.right_of(&call.permit, GROUP_WRITE, &scope).await?;
    Ok(())
}

/// Writes the subscription's group, and answers its display name.
async fn place(
    server: &Server,
    call: &Call,
    hierarchy: &Hierarchy,
    group: Option<&str>,
) -> Result<Value, ArmError> {
    let subscription = subscription_of(call)?;
    let scope = ResourceId::subscription_scope(subscription);
    let action = format!("{}/write", subscriptions::KIND);
    let permit = server.right_of(&call.permit, &action, &scope).await?;
    // Whoever may not give rights at a subscription must not bring it to where others have some.
    server.right_of(&call.permit, ROLES_WRITE, &scope).await?;
    let missing = || errors::subscription_not_found(&subscription.to_string());
    let stored = match server.catalog.get(&permit.to_read_own()).await {
        Ok(stored) => stored,
        Err(CatalogError::NotFound { .. }) => return Err(missing()),
        Err(error) => return Err(errors::catalog(error)),
    };
    let before = stored.properties.get(PLACEMENT).and_then(Value::as_str);
    let before = before.and_then(|name| hierarchy.group(name));
    if let Some(before) = before {
        need_group_right(server, call, hierarchy, &before.name).await?;
    }
    let unmoved = Precondition::Match(stored.etag.clone());
    let mut draft = Draft::from_resource(stored);
    if let Some(inside) = draft.properties.as_object_mut() {
        match group {
            Some(group) => inside.insert(PLACEMENT.into(), group.into()),
            None => inside.remove(PLACEMENT),
        };
    }
    let shown = draft.properties["displayName"].clone();
    let group = group.map(str::to_owned);
    let draft = draft.record(Record::Placement { group });
    let put = server.catalog.put(&permit, draft, unmoved).await;
    put.map_err(errors::catalog)?;
    Ok(shown)
}

/// Makes the root group's resource where something is to be put on it and nobody made it yet.
pub async fn need_root(
    server: &Server,
    scope: &ResourceId,
    tenant: TenantId,
) -> Result<(), ArmError> {
    let root = tenant.to_string();
    let at_root = scope
        .management_group()
        .is_some_and(|name| name.eq_ignore_ascii_case(&root));
    if !at_root {
        return Ok(());
    }
    let Ok(id) = ResourceId::management_group_scope(&root) else {
        return Ok(());
    };
    let mut permit = looking(id.clone(), tenant);
    if server.exists(&permit).await? {
        return Ok(());
    }
    permit = crate::hierarchy::founding(id, tenant);
    let inside = json!({ "tenantId": root, "displayName": "Tenant Root Group" });
    let draft = Draft::new(inside).record(Record::ManagementGroup { parent: None });
    match server
        .catalog
        .put(&permit, draft, Precondition::Absent)
        .await
    {
        // Somebody else was quicker.
        Ok(_) | Err(CatalogError::Precondition { .. }) => Ok(()),
        Err(error) => Err(errors::catalog(error)),
    }
}
