//! `POST {scope}/providers/Bullion.Factory/policyWhatIf`: what a policy that is not assigned would find at a scope, or
//! what the assigned ones would say of a resource that does not exist.

use std::sync::Arc;

use comply::WhatIf;
use serde_json::{Value, json};
use wire::policy::WhatIfBody;
use wire::{ArmError, ErrorCode, ResourceId};

use super::{Reply, failed};
use crate::body::typed;
use crate::errors;
use crate::operation::Call;
use crate::resources::present;
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/policyWhatIf";

pub async fn ask(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let inside = call.body.get("properties").and_then(Value::as_object);
    let inside = inside.cloned().unwrap_or_default();
    let asked: WhatIfBody = typed(&inside)?;
    let ask = match asked {
        WhatIfBody {
            resource: Some(resource),
            definition: None,
            assignment: None,
            ..
        } => proposed(&server, &call, resource).await?,
        WhatIfBody {
            resource: None,
            definition,
            assignment,
            ..
        } if definition.is_some() || assignment.is_some() => {
            let assignment = assignment.unwrap_or_else(|| json!({ "properties": {} }));
            WhatIf::Policy {
                definition,
                assignment,
            }
        }
        _ => {
            let message =
                "A question has either a 'resource', or a 'definition', an 'assignment' or both.";
            return Err(ArmError::new(ErrorCode::InvalidRequestContent, message));
        }
    };
    let forecast = server.comply.what_if(&call.permit, ask).await;
    let forecast = forecast.map_err(|error| failed("asking what a policy would do", error))?;
    Ok(Reply::ok(json!({ "properties": forecast })))
}

/// A resource at or below the scope, with what is stored under its id.
async fn proposed(server: &Server, call: &Call, resource: Value) -> Result<WhatIf, ArmError> {
    let id = resource["id"]
        .as_str()
        .and_then(|id| ResourceId::parse(id).ok());
    let permit = id.as_ref().and_then(|id| call.permit.to_descendant(id));
    let (Some(id), Some(permit)) = (id, permit) else {
        let message = format!(
            "The resource needs an 'id' at or below the scope '{}'.",
            call.id
        );
        return Err(errors::invalid("properties.resource.id", message));
    };
    let existing = match server.catalog.get(&permit.to_read_own()).await {
        Ok(existing) => Some(present(&existing)),
        Err(catalog::CatalogError::NotFound { .. }) => None,
        Err(error) => return Err(errors::catalog(error)),
    };
    let mut resource = resource;
    resource["id"] = id.to_string().into();
    resource["name"] = id.name().into();
    resource["type"] = comply::kinds::of(&id).into();
    Ok(WhatIf::Resource {
        resource,
        existing,
        api_version: call.version.to_string(),
    })
}
