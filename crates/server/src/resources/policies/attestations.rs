//! Attestations: somebody's word for the state of a resource under a policy whose effect is `manual`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use wire::{ArmError, ErrorCode};

use super::exemptions::check_time;
use super::{
    ATTESTATION, Reply, check_common, check_name, draft, lookup, need_text, scope, settle_word,
};
use crate::body::{ResourceBody, typed, wrong_type};
use crate::hierarchy::Hierarchy;
use crate::operation::Call;
use crate::resources::{delete as remove, find, list, present, put_reply, show, store};
use crate::state::Server;

const NAME_CHARS_MAX: usize = 100;
const EVIDENCE_MAX: usize = 32;
const INVALID: ErrorCode = ErrorCode::InvalidRequestContent;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    comments: Option<String>,
    #[serde(default)]
    owner: Option<String>,
    /// Checked for being a text, and for nothing else: which member of an initiative it is about.
    #[serde(default, rename = "policyDefinitionReferenceId")]
    _reference: Option<String>,
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "attestation", NAME_CHARS_MAX)?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let home = scope(&call);
    let inside = &mut body.properties;
    check_common(inside)?;
    let Written {
        comments, owner, ..
    } = typed(inside)?;
    let long = [comments, owner]
        .into_iter()
        .flatten()
        .any(|text| text.chars().count() > 1_000);
    if long {
        let message = "'comments' and 'owner' have at most 1000 characters.";
        return Err(ArmError::new(INVALID, message).with_target("properties"));
    }
    let states = ["Compliant", "NonCompliant", "Unknown"];
    settle_word(inside, "complianceState", &states, INVALID)?;
    check_time(inside.get("expiresOn"), "properties.expiresOn")?;
    check_time(inside.get("assessmentDate"), "properties.assessmentDate")?;
    match inside.get("evidence") {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) if items.len() <= EVIDENCE_MAX => {}
        Some(_) => return Err(wrong_type("properties.evidence", "a list of at most 32")),
    }
    let tenant = call.permit.tenant();
    let hierarchy = Hierarchy::load(&server, tenant).await?;
    let id = need_text(inside, "policyAssignmentId", INVALID)?;
    let assignment = lookup::assignment(&server, tenant, &hierarchy, id, &home).await?;
    inside.insert(
        "policyAssignmentId".into(),
        assignment.id.to_string().into(),
    );
    let before = old.as_ref().map(|old| &old.properties);
    let same =
        before.is_some_and(|before| before.get("complianceState") == inside.get("complianceState"));
    let since = before
        .and_then(|before| before.get("lastComplianceStateChangeAt"))
        .cloned();
    let since = since
        .filter(|_| same)
        .unwrap_or_else(|| Timestamp::now().to_string().into());
    inside.insert("lastComplianceStateChangeAt".into(), since);
    inside.remove("provisioningState");
    (body.location, body.identity) = (None, None);
    let put = store(&server, &call, old.as_ref(), draft(body)).await?;
    Ok(put_reply(&put))
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn delete(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    remove(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, ATTESTATION, |one| Some(present(one))).await
}
