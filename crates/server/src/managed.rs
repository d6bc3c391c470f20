//! Managed identities: what the `identity` member of a resource asks for, and what is stored for it.
//!
//! A system-assigned identity is a principal that lives as long as its resource says so. User-assigned ones are resources
//! of their own, named by whoever may assign them. Either is given roles like any other principal.

use catalog::{CatalogError, Draft, NewIdentity, Record, Resource};
use serde_json::{Map, Value, json};
use wire::{AppId, ArmError, PrincipalId, ResourceId};

use crate::body::wrong_type;
use crate::errors;
use crate::operation::{Call, Link};
use crate::resources::identities;
use crate::state::Server;

const ASSIGN: &str = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action";
const ASSIGNED_MAX: usize = 16;

/// The user-assigned identities that a body names: taking one takes the right to assign it.
pub fn links(body: &Value) -> Vec<Link> {
    let named = body.pointer("/identity/userAssignedIdentities");
    let named = named.and_then(Value::as_object).into_iter().flatten();
    named
        // `null` takes one away.
        .filter(|(_, value)| !value.is_null())
        .map(|(id, _)| Link {
            scope: id.clone(),
            action: ASSIGN,
            target: "identity.userAssignedIdentities",
        })
        .collect()
}

/// What a resource's identity becomes.
pub struct Settled {
    /// The `identity` member, as it is shown; `None` where there is none.
    pub shown: Option<Value>,
    pub record: Record,
}

impl Settled {
    pub fn on(self, mut draft: Draft) -> Draft {
        match self.shown {
            Some(shown) => draft.extra.insert("identity".into(), shown),
            None => draft.extra.remove("identity"),
        };
        draft.record(self.record)
    }
}

/// Settles the identity of the resource at the call's scope. What the client leaves out stays as it is.
pub async fn settle(
    server: &Server,
    call: &Call,
    asked: Option<&Value>,
    old: Option<&Resource>,
) -> Result<Settled, ArmError> {
    let kept = old.and_then(|old| old.extra.get("identity"));
    let Some(asked) = asked else {
        return Ok(Settled {
            shown: kept.cloned(),
            record: Record::Plain,
        });
    };
    let Value::Object(asked) = asked else {
        return Err(wrong_type("identity", "an object"));
    };
    let kind = asked.get("type").and_then(Value::as_str).unwrap_or("None");
    let words: Vec<String> = kind
        .split(',')
        .map(|word| word.trim().to_lowercase())
        .collect();
    let has = |word: &str| words.iter().any(|known| known == word);
    let (system, user) = (has("systemassigned"), has("userassigned"));
    let expected = usize::from(system) + usize::from(user);
    if words.len() != expected.max(1) || (expected == 0 && !has("none")) {
        return Err(errors::invalid(
            "identity.type",
            "The identity's type is 'None', 'SystemAssigned', 'UserAssigned' or 'SystemAssigned, UserAssigned'.",
        ));
    }
    let tenant = call.permit.tenant();
    let mut shown = Map::new();
    let mut record = Record::ManagedIdentity(None);
    if system {
        let known = server.auth.managed_identity(tenant, &call.id).await;
        let (app, principal) = known
            .map_err(errors::catalog)?
            .unwrap_or_else(|| (AppId::random(), PrincipalId::random()));
        shown.insert("principalId".into(), principal.to_string().into());
        shown.insert("tenantId".into(), tenant.to_string().into());
        record = Record::ManagedIdentity(Some(NewIdentity {
            app,
            principal,
            display_name: call.id.name().to_string(),
        }));
    }
    if user {
        let assigned = assigned(server, call, asked, kept).await?;
        shown.insert("userAssignedIdentities".into(), assigned.into());
    }
    let kind = match (system, user) {
        (true, true) => "SystemAssigned, UserAssigned",
        (true, false) => "SystemAssigned",
        (false, true) => "UserAssigned",
        (false, false) => "None",
    };
    shown.insert("type".into(), kind.into());
    Ok(Settled {
        shown: (expected > 0).then_some(Value::Object(shown)),
        record,
    })
}

/// The identities that are named, with their ids; those that are kept and not taken away stay.
async fn assigned(
    server: &Server,
    call: &Call,
    asked: &Map<String, Value>,
    kept: Option<&Value>,
) -> Result<Map<String, Value>, ArmError> {
    const TARGET: &str = "identity.userAssignedIdentities";
    let empty = Map::new();
    let named = match asked.get("userAssignedIdentities") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(named)) => named,
        Some(_) => return Err(wrong_type(TARGET, "an object")),
    };
    let kept = kept.and_then(|kept| kept.get("userAssignedIdentities")?.as_object());
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let mut all: Map<String, Value> = kept.cloned().unwrap_or_default();
    all.retain(|id, _| !named.keys().any(|other| same(id, other)));
    for (id, value) in named {
        if value.is_null() {
            continue;
        }
        let scope = ResourceId::parse(id).ok();
        let scope = scope.filter(|scope| scope.resource_type().is(identities::KIND));
        let permit = call
            .links
            .iter()
            .find(|link| scope.as_ref() == Some(link.scope()));
        let missing = || {
            let message = format!("The user-assigned identity '{id}' was not found.");
            errors::invalid(TARGET, message)
        };
        let permit = permit.ok_or_else(missing)?;
        match server.catalog.get(&permit.to_read_own()).await {
            Ok(identity) => {
                let inside = &identity.properties;
                let ids = json!({
                    "principalId": inside["principalId"], "clientId": inside["clientId"],
                });
                all.insert(identity.id.to_string(), ids);
            }
            Err(CatalogError::NotFound { .. }) => return Err(missing()),
            Err(error) => return Err(errors::catalog(error)),
        }
    }
    if all.is_empty() || all.len() > ASSIGNED_MAX {
        let message = format!("1 to {ASSIGNED_MAX} user-assigned identities are to be named.");
        return Err(errors::invalid(TARGET, message));
    }
    Ok(all)
}
