//! Policy exemptions: a scope that an assignment does not judge, until a date or until it is removed.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use wire::{ArmError, ErrorCode};

use super::assignments::{Reach, check_selectors, reaching};
use super::{
    EXEMPTION, Reply, check_common, check_name, draft, keep, lookup, need_text, scope, settle_word,
};
use crate::body::{ResourceBody, wrong_type};
use crate::errors;
use crate::hierarchy::Hierarchy;
use crate::operation::Call;
use crate::resources::{find, page_reply};
use crate::state::Server;

const NAME_CHARS_MAX: usize = 64;
const REFERENCES_MAX: usize = 1_000;
const INVALID: ErrorCode = ErrorCode::InvalidCreatePolicyExemptionRequest;

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "policy exemption", NAME_CHARS_MAX)?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let home = scope(&call);
    let inside = &mut body.properties;
    check_common(inside)?;
    need_text(inside, "exemptionCategory", INVALID)?;
    settle_word(
        inside,
        "exemptionCategory",
        &["Waiver", "Mitigated"],
        INVALID,
    )?;
    let validation = ["Default", "DoNotValidate"];
    settle_word(inside, "assignmentScopeValidation", &validation, INVALID)?;
    inside
        .entry("assignmentScopeValidation")
        .or_insert_with(|| "Default".into());
    check_time(inside.get("expiresOn"), "properties.expiresOn")?;
    check_selectors(inside).map_err(|what| ArmError::new(INVALID, what))?;
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(&server, tenant).await?;
    let id = need_text(inside, "policyAssignmentId", INVALID)?;
    let assignment = lookup::assignment(&server, tenant, &hierarchy, id, &home).await?;
    let definition = assignment.properties["policyDefinitionId"]
        .as_str()
        .unwrap_or_default();
    let at = assignment
        .id
        .parent()
        .unwrap_or_else(wire::ResourceId::root);
    let family = lookup::usable(&server, tenant, &hierarchy, definition, &at).await?;
    let version = assignment.properties["definitionVersion"].as_str();
    let definition = family.and_then(|family| family.chosen(version));
    inside.insert(
        "policyAssignmentId".into(),
        assignment.id.to_string().into(),
    );
    check_references(
        inside.get("policyDefinitionReferenceIds"),
        definition.as_ref(),
    )?;
    (body.location, body.identity) = (None, None);
    keep(&server, &call, old.as_ref(), draft(body), StatusCode::OK).await
}

fn check_references(
    given: Option<&Value>,
    definition: Option<&lookup::Found>,
) -> Result<(), ArmError> {
    let target = "properties.policyDefinitionReferenceIds";
    let given = match given {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(given)) if given.len() <= REFERENCES_MAX => given,
        Some(_) => return Err(wrong_type(target, "a list of reference ids")),
    };
    let members =
        definition.and_then(|one| one.document["properties"]["policyDefinitions"].as_array());
    let known = |name: &str| {
        members.into_iter().flatten().any(|member| {
            let own = member["policyDefinitionReferenceId"]
                .as_str()
                .unwrap_or_default();
            own.eq_ignore_ascii_case(name)
        })
    };
    match given.iter().find(|name| !name.as_str().is_some_and(known)) {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "The policy exemption names the policyDefinitionReferenceId {name}, which the assigned \
                 definition does not have."
            );
            Err(ArmError::new(INVALID, message).with_target(target))
        }
    }
}

/// A time as clients write it: with a zone, or without one and then in UTC.
pub fn check_time(given: Option<&Value>, target: &str) -> Result<(), ArmError> {
    let text = match given {
        None | Some(Value::Null) => return Ok(()),
        Some(given) => given.as_str().unwrap_or_default(),
    };
    let zoned = text.parse::<Timestamp>().is_ok();
    if zoned || text.parse::<jiff::civil::DateTime>().is_ok() {
        return Ok(());
    }
    Err(errors::invalid(
        target,
        format!("'{target}' must be a time such as 2027-01-31T00:00:00Z."),
    ))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    super::show(&server, &call, ErrorCode::ResourceNotFound).await
}

pub async fn delete(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    super::remove(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let mut reach = Reach::Everything;
    let mut of: Option<String> = None;
    let mut current = false;
    for (name, value) in super::terms(call.query.get("$filter").unwrap_or_default())? {
        match (name.as_str(), value) {
            ("policyassignmentid", Some(value)) => of = Some(value),
            ("excludeexpired()", None) => current = true,
            (call, None) => reach = Reach::parse(call).ok_or_else(super::bad_filter)?,
            _ => return Err(super::bad_filter()),
        }
    }
    let mut found = reaching(&server, &call, EXEMPTION, reach).await?;
    let now = Timestamp::now();
    found.retain(|one| {
        let id = one["properties"]["policyAssignmentId"]
            .as_str()
            .unwrap_or_default();
        of.as_ref().is_none_or(|of| id.eq_ignore_ascii_case(of))
            && !(current && policy::scope::expired(one, now))
    });
    Ok(page_reply(&call, found, None))
}
