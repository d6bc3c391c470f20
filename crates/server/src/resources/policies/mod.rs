//! Policies as resources: definitions and initiatives, their assignments, exemptions and attestations, and what
//! comes of them. What a rule means is crate `policy`'s to say, what follows for a resource crate `comply`'s.

pub mod assignments;
pub mod attestations;
pub mod definitions;
pub mod events;
pub mod exemptions;
pub mod explain;
mod lookup;
mod parameters;
pub mod scans;
pub mod states;
pub mod versions;
pub mod what_if;

use catalog::{Draft, Resource};
use http::StatusCode;
use serde_json::{Map, Value, json};
use wire::{ArmError, ErrorCode, ResourceId};

use super::{Reply, find, properties, store, system_data};
use crate::body::{ResourceBody, wrong_type};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const DEFINITION: &str = "Microsoft.Authorization/policyDefinitions";
pub const SET: &str = "Microsoft.Authorization/policySetDefinitions";
pub const DEFINITION_VERSION: &str = "Microsoft.Authorization/policyDefinitions/versions";
pub const SET_VERSION: &str = "Microsoft.Authorization/policySetDefinitions/versions";
pub const ASSIGNMENT: &str = "Microsoft.Authorization/policyAssignments";
pub const EXEMPTION: &str = "Microsoft.Authorization/policyExemptions";
pub const ATTESTATION: &str = "Microsoft.PolicyInsights/attestations";

/// What only the server writes into a metadata object.
const STAMPS: [&str; 4] = ["createdBy", "createdOn", "updatedBy", "updatedOn"];
const TEXT_CHARS_MAX: usize = 512;
const FILTER_TERMS_MAX: usize = 8;
const METADATA_BYTES_MAX: usize = 64 << 10;

/// A policy object as ARM shows it: no provisioning state, no etag, and who made it inside of its metadata.
pub fn shown(resource: &Resource) -> Value {
    let mut inside = properties(resource);
    let system = &resource.system;
    let mut metadata = match inside.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    let changed = system.changed_at != system.created_at;
    metadata.insert("createdBy".into(), system.created_by.clone().into());
    metadata.insert("createdOn".into(), system.created_at.to_string().into());
    metadata.insert(
        "updatedBy".into(),
        changed.then(|| system.changed_by.clone()).into(),
    );
    metadata.insert(
        "updatedOn".into(),
        changed.then(|| system.changed_at.to_string()).into(),
    );
    inside.insert("metadata".into(), Value::Object(metadata));
    let mut shown = json!({
        "id": resource.id.to_string(),
        "name": resource.id.name(),
        "type": resource.id.resource_type().to_string(),
        "properties": inside,
        "systemData": system_data(resource),
    });
    if let Some(location) = &resource.location {
        shown["location"] = location.clone().into();
    }
    for (key, value) in &resource.extra {
        shown[key.as_str()] = value.clone();
    }
    shown
}

/// The scope that an extension resource sits on.
fn scope(call: &Call) -> ResourceId {
    call.id.parent().unwrap_or_else(ResourceId::root)
}

/// A name as Azure takes it. The path's own rules have gone before.
fn check_name(call: &Call, kind: &str, chars_max: usize) -> Result<(), ArmError> {
    let name = call.id.name();
    let fit = name.chars().count() <= chars_max
        && !name.contains(|c: char| "<>*%&:\\?+/".contains(c))
        && !name.ends_with(['.', ' ']);
    if fit {
        return Ok(());
    }
    Err(errors::invalid(
        "name",
        format!(
            "The {kind} name '{name}' is invalid. It has at most {chars_max} characters, none of \
             '<>*%&:\\?+/', and does not end with a period or a blank."
        ),
    ))
}

/// The members that every policy object has.
fn check_common(inside: &mut Map<String, Value>) -> Result<(), ArmError> {
    for name in ["displayName", "description"] {
        match inside.get(name) {
            None => {}
            Some(Value::Null) => drop(inside.remove(name)),
            Some(Value::String(text)) if text.chars().count() <= TEXT_CHARS_MAX => {}
            Some(Value::String(_)) => {
                let message = format!("'{name}' has at most {TEXT_CHARS_MAX} characters.");
                return Err(errors::invalid(&format!("properties.{name}"), message));
            }
            Some(_) => return Err(wrong_type(&format!("properties.{name}"), "a string")),
        }
    }
    match inside.get_mut("metadata") {
        None => {}
        Some(Value::Null) => drop(inside.remove("metadata")),
        Some(Value::Object(metadata)) => {
            for stamp in STAMPS {
                metadata.remove(stamp);
            }
            let bytes = serde_json::to_string(metadata).map_or(usize::MAX, |text| text.len());
            if bytes > METADATA_BYTES_MAX {
                let message = format!("'metadata' has at most {METADATA_BYTES_MAX} bytes.");
                return Err(errors::invalid("properties.metadata", message));
            }
        }
        Some(_) => return Err(wrong_type("properties.metadata", "an object")),
    }
    Ok(())
}

/// A text member that must be there.
fn need_text<'m>(
    inside: &'m Map<String, Value>,
    name: &str,
    code: ErrorCode,
) -> Result<&'m str, ArmError> {
    let text = inside.get(name).and_then(Value::as_str);
    text.filter(|text| !text.is_empty()).ok_or_else(|| {
        ArmError::new(
            code,
            format!("The request content is invalid: the property '{name}' is missing or no text."),
        )
        .with_target(format!("properties.{name}"))
    })
}

/// A member that, if it is there, is one of `words`; the word as it is written here goes into the object.
fn settle_word(
    inside: &mut Map<String, Value>,
    name: &str,
    words: &[&str],
    code: ErrorCode,
) -> Result<(), ArmError> {
    let given = match inside.get(name) {
        None | Some(Value::Null) => {
            inside.remove(name);
            return Ok(());
        }
        Some(given) => given.as_str().unwrap_or_default(),
    };
    let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(given)) else {
        return Err(ArmError::new(
            code,
            format!(
                "The value of '{name}' is not one of the accepted values: {}.",
                words.join(", ")
            ),
        )
        .with_target(format!("properties.{name}")));
    };
    inside.insert(name.into(), (*word).into());
    Ok(())
}

/// What is stored of a body: its properties, and beside them the identity that an assignment may have.
fn draft(body: ResourceBody) -> Draft {
    let mut draft = Draft::new(Value::Object(body.properties));
    draft.location = body.location;
    draft
}

/// Stores; 201 for new, and for replaced where Azure's clients take nothing else.
async fn keep(
    server: &Server,
    call: &Call,
    old: Option<&Resource>,
    draft: Draft,
    replaced: StatusCode,
) -> Result<Reply, ArmError> {
    let put = store(server, call, old, draft).await?;
    let status = match put.created {
        true => StatusCode::CREATED,
        false => replaced,
    };
    Ok(Reply::new(status, Some(shown(&put.resource))))
}

async fn show(server: &Server, call: &Call, missing: ErrorCode) -> Result<Reply, ArmError> {
    match find(server, call).await? {
        Some(resource) => Ok(Reply::ok(shown(&resource))),
        None => Err(not_found(missing, call.id.name())),
    }
}

fn not_found(code: ErrorCode, name: &str) -> ArmError {
    let what = match code {
        ErrorCode::PolicyDefinitionNotFound => "policy definition",
        ErrorCode::PolicySetDefinitionNotFound => "policy set definition",
        ErrorCode::PolicyAssignmentNotFound => "policy assignment",
        _ => "resource",
    };
    ArmError::new(code, format!("The {what} '{name}' could not be found."))
}

/// Removes, and answers what was removed.
async fn remove(server: &Server, call: &Call) -> Result<Reply, ArmError> {
    let Some(old) = find(server, call).await? else {
        return Ok(Reply::no_content());
    };
    let gone = super::delete(server, call).await?;
    match gone.status {
        StatusCode::OK => Ok(Reply::ok(shown(&old))),
        _ => Ok(gone),
    }
}

/// The terms of a `$filter` of `atScope()`-like calls and `name eq 'value'`, joined by `and`; names in lower case.
fn terms(text: &str) -> Result<Vec<(String, Option<String>)>, ArmError> {
    let mut terms = Vec::new();
    for term in text.split(" and ").filter(|_| !text.trim().is_empty()) {
        if terms.len() == FILTER_TERMS_MAX {
            return Err(bad_filter());
        }
        let Some((name, value)) = term.split_once(" eq ") else {
            terms.push((term.trim().to_lowercase(), None));
            continue;
        };
        let value = value
            .trim()
            .strip_prefix('\'')
            .and_then(|rest| rest.strip_suffix('\''));
        let value = value.ok_or_else(bad_filter)?.replace("''", "'");
        terms.push((name.trim().to_lowercase(), Some(value)));
    }
    Ok(terms)
}

fn bad_filter() -> ArmError {
    ArmError::new(
        ErrorCode::InvalidFilterInQueryString,
        "The filter is not valid. It is made of terms such as atScope(), atExactScope() or policyType eq \
         'Custom', joined by 'and'.",
    )
    .with_target("$filter")
}

/// What went wrong in crate `comply`, in ARM's words.
pub fn failed(what: &'static str, error: comply::ComplyError) -> ArmError {
    use comply::ComplyError;
    match error {
        ComplyError::Catalog { source, .. } => errors::catalog(source),
        ComplyError::Document { what, source } => {
            let message = format!(
                "The {what} is not valid: at '{}': {}.",
                source.path, source.reason
            );
            let code = match what {
                "assignment" => ErrorCode::InvalidCreatePolicyAssignmentRequest,
                _ => ErrorCode::InvalidPolicyRule,
            };
            ArmError::new(code, message).with_target(source.path)
        }
        ComplyError::NotFound { id } => errors::not_found(&id),
        ComplyError::BadToken => errors::invalid("$skiptoken", "The $skiptoken is not valid."),
        other => errors::internal(what, &other),
    }
}
