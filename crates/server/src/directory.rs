//! Users, groups and their members, as they are written, whether by ARM or by Graph: what must hold of them, and how they
//! are stored.
//!
//! Who may write them is decided before; every function here takes the permit. Passwords are hashed and never read back.

use access::{ClientSecret, Permit, SecretHash};
use catalog::{CatalogError, Draft, Object, ObjectKind, Precondition, Put, Record, Resource};
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, PrincipalId, ResourceId, TenantId};

use crate::body::wrong_type;
use crate::errors;
use crate::hierarchy::looking;
use crate::state::Server;

pub const USER: &str = "Bullion.Factory/users";
pub const GROUP: &str = "Bullion.Factory/groups";
pub const MEMBER: &str = "Bullion.Factory/groups/members";
const NAME_BYTES_MAX: usize = 113;
const TEXT_CHARS_MAX: usize = 256;
/// As Entra asks for.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=256;
const PASSWORD_CLASSES_MIN: usize = 3;

/// `/providers/Bullion.Factory/{users|groups}/{name}`
pub fn id_of(kind: &str, name: &str) -> Result<ResourceId, ArmError> {
    let (namespace, kind) = kind.split_once('/').unwrap_or_default();
    let id = ResourceId::root().extension(namespace, kind, name);
    id.map_err(|error| errors::bad_request(format!("The name '{name}' is not valid: {error}.")))
}

/// Makes or changes the user at the permit's scope, whose name is the sign-in name.
pub async fn write_user(
    server: &Server,
    permit: &Permit,
    given: &Map<String, Value>,
    old: Option<&Resource>,
) -> Result<Put, ArmError> {
    let name = permit.scope().name().to_string();
    check_user_name(&name)?;
    if let Some(said) = text(given, "userPrincipalName")?
        && !said.eq_ignore_ascii_case(&name)
    {
        return Err(errors::invalid(
            "userPrincipalName",
            "The user principal name is the name of the user's resource, and stays.",
        ));
    }
    let local = name.split('@').next().unwrap_or_default().to_string();
    let kept = |key: &str| old.and_then(|old| old.properties[key].as_str().map(str::to_string));
    let settled = |key: &str, default: &str| -> Result<String, ArmError> {
        let asked = text(given, key)?;
        Ok(asked
            .or_else(|| kept(key))
            .unwrap_or_else(|| default.into()))
    };
    let enabled = match given.get("accountEnabled") {
        None | Some(Value::Null) => old.is_none_or(|old| old.properties["accountEnabled"] != false),
        Some(Value::Bool(enabled)) => *enabled,
        Some(_) => return Err(wrong_type("accountEnabled", "a boolean")),
    };
    let password = password(server, given, &local).await?;
    let principal = principal_of(old).unwrap_or_else(PrincipalId::random);
    let stored = json!({
        "userPrincipalName": name,
        "displayName": settled("displayName", &name)?,
        "mailNickname": settled("mailNickname", &local)?,
        "accountEnabled": enabled,
        "principalId": principal,
    });
    let record = Record::User {
        principal,
        name,
        password,
        enabled,
    };
    write(server, permit, Draft::new(stored).record(record), old).await
}

/// Makes or changes the group at the permit's scope.
pub async fn write_group(
    server: &Server,
    permit: &Permit,
    given: &Map<String, Value>,
    old: Option<&Resource>,
) -> Result<Put, ArmError> {
    let name = permit.scope().name().to_string();
    let kept = |key: &str| old.and_then(|old| old.properties[key].as_str().map(str::to_string));
    let settled = |key: &str, default: &str| -> Result<String, ArmError> {
        let asked = text(given, key)?;
        Ok(asked
            .or_else(|| kept(key))
            .unwrap_or_else(|| default.into()))
    };
    let principal = principal_of(old).unwrap_or_else(|| {
        // Graph names a group by its object id; both are one then.
        name.parse().unwrap_or_else(|_| PrincipalId::random())
    });
    let stored = json!({
        "displayName": settled("displayName", &name)?,
        "mailNickname": settled("mailNickname", &name)?,
        "description": settled("description", "")?,
        "principalId": principal,
        "securityEnabled": true,
    });
    let draft = Draft::new(stored).record(Record::Group { principal });
    write(server, permit, draft, old).await
}

/// Puts a principal into the group that the permit's scope is a member of. `false` where it was in it.
pub async fn add_member(server: &Server, permit: &Permit) -> Result<Put, ArmError> {
    let name = permit.scope().name();
    let missing = || {
        ArmError::new(
            ErrorCode::PrincipalNotFound,
            format!("Principal {name} does not exist in the directory."),
        )
    };
    let principal: PrincipalId = name.parse().map_err(|_| missing())?;
    let found = server.auth.object(permit.tenant(), principal).await;
    let object = found.map_err(errors::catalog)?.ok_or_else(missing)?;
    let group = permit.scope().parent();
    if object.resource.is_some() && object.resource == group {
        return Err(errors::bad_request("A group cannot be a member of itself."));
    }
    let stored = json!({ "principalId": principal, "principalType": object.kind.as_str() });
    let draft = Draft::new(stored).record(Record::Member { principal });
    let put = server.catalog.put(permit, draft, Precondition::None).await;
    put.map_err(errors::catalog)
}

/// Removes a user, a group with its members, or a membership; `false` where there is none. Roles and memberships of a
/// principal go with it.
pub async fn remove(server: &Server, permit: &Permit) -> Result<bool, ArmError> {
    let removed = server.catalog.delete_tree(permit, Precondition::None).await;
    match removed {
        Ok(_) => Ok(true),
        Err(CatalogError::NotFound { .. }) => Ok(false),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// The resource of a user or group, for whoever may look around in the directory.
pub async fn resource(
    server: &Server,
    tenant: TenantId,
    object: &Object,
) -> Result<Option<Resource>, ArmError> {
    let Some(id) = object.resource.clone() else {
        return Ok(None);
    };
    match server.catalog.get(&looking(id, tenant)).await {
        Ok(resource) => Ok(Some(resource)),
        Err(CatalogError::NotFound { .. }) => Ok(None),
        Err(error) => Err(errors::catalog(error)),
    }
}

/// A user by object id or sign-in name.
pub async fn user(
    server: &Server,
    tenant: TenantId,
    key: &str,
) -> Result<Option<Resource>, ArmError> {
    if key.contains('@') {
        let Ok(id) = id_of(USER, key) else {
            return Ok(None);
        };
        let object = Object {
            principal: PrincipalId::random(),
            kind: ObjectKind::User,
            resource: Some(id),
        };
        return resource(server, tenant, &object).await;
    }
    of_kind(server, tenant, key, ObjectKind::User).await
}

pub async fn group(
    server: &Server,
    tenant: TenantId,
    key: &str,
) -> Result<Option<Resource>, ArmError> {
    of_kind(server, tenant, key, ObjectKind::Group).await
}

async fn of_kind(
    server: &Server,
    tenant: TenantId,
    key: &str,
    kind: ObjectKind,
) -> Result<Option<Resource>, ArmError> {
    let Ok(principal) = key.parse::<PrincipalId>() else {
        return Ok(None);
    };
    let found = server.auth.object(tenant, principal).await;
    match found.map_err(errors::catalog)? {
        Some(object) if object.kind == kind => resource(server, tenant, &object).await,
        _ => Ok(None),
    }
}

pub fn principal_of(resource: Option<&Resource>) -> Option<PrincipalId> {
    resource?.properties["principalId"].as_str()?.parse().ok()
}

async fn write(
    server: &Server,
    permit: &Permit,
    draft: Draft,
    old: Option<&Resource>,
) -> Result<Put, ArmError> {
    let seen = match old {
        Some(old) => Precondition::Match(old.etag.clone()),
        None => Precondition::Absent,
    };
    let put = server.catalog.put(permit, draft, seen).await;
    put.map_err(errors::catalog)
}

fn check_user_name(name: &str) -> Result<(), ArmError> {
    let (local, domain) = name.split_once('@').unwrap_or_default();
    let letters = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
            && !text.starts_with('.')
            && !text.ends_with('.')
    };
    if name.len() <= NAME_BYTES_MAX && letters(local, b"._-'!~^") && letters(domain, b".-") {
        return Ok(());
    }
    Err(errors::invalid(
        "userPrincipalName",
        format!(
            "A user principal name is 'name@domain' with at most {NAME_BYTES_MAX} letters, digits and ._-'!~^ before the @."
        ),
    ))
}

fn text(given: &Map<String, Value>, key: &str) -> Result<Option<String>, ArmError> {
    match given.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text))
            if text.chars().count() <= TEXT_CHARS_MAX && !text.contains(char::is_control) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(errors::invalid(
            key,
            format!("'{key}' is a text of at most {TEXT_CHARS_MAX} characters."),
        )),
    }
}

async fn password(
    server: &Server,
    given: &Map<String, Value>,
    local: &str,
) -> Result<Option<SecretHash>, ArmError> {
    let profile = match given.get("passwordProfile") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(profile)) => profile,
        Some(_) => return Err(wrong_type("passwordProfile", "an object")),
    };
    let password = match profile.get("password") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(password)) => password,
        Some(_) => return Err(wrong_type("passwordProfile.password", "a string")),
    };
    if !is_strong(password, local) {
        return Err(errors::invalid(
            "passwordProfile.password",
            format!(
                "The specified password does not comply with password complexity requirements: {} to {} characters of at least {PASSWORD_CLASSES_MIN} kinds (lower case, upper case, digits, others), without the user's name.",
                PASSWORD_CHARS.start(),
                PASSWORD_CHARS.end()
            ),
        ));
    }
    let secret = ClientSecret::from_text(password.clone());
    server.hash(&secret).await.map(Some)
}

fn is_strong(password: &str, local: &str) -> bool {
    let any = |of: fn(char) -> bool| usize::from(password.chars().any(of));
    let classes = any(|c| c.is_lowercase())
        + any(|c| c.is_uppercase())
        + any(|c| c.is_numeric())
        + any(|c| !c.is_alphanumeric());
    PASSWORD_CHARS.contains(&password.chars().count())
        && classes >= PASSWORD_CLASSES_MIN
        && (local.len() < 3 || !password.to_lowercase().contains(&local.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords() {
        let name = |text: &str, fit: bool| assert_eq!(check_user_name(text).is_ok(), fit, "{text}");
        name("ada@example.org", true);
        name("a.b-c_d'e@x", true);
        name("ada", false);
        name("@example.org", false);
        name("ada@", false);
        name("ada@a@b", false);
        name(".ada@b", false);
        name("ada lovelace@b", false);
        name(&format!("{}@b", "a".repeat(120)), false);
        let strong = |text: &str, fit: bool| assert_eq!(is_strong(text, "ada"), fit, "{text}");
        strong("Correct-Horse-1", true);
        strong("correct-horse-1", true);
        strong("correcthorse", false);
        strong("Short1!", false);
        strong("Password-ADA-1", false);
        strong(&"aA1".repeat(100), false);
    }
}
