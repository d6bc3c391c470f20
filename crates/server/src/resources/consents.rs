//! `Bullion.Factory/servicePrincipals`: a tenant's consent to an application of another tenant.
//!
//! A consent gives the application a principal here, so that it can sign in here and be given roles. It gives no
//! right by itself, and only an application that is open to many tenants can be consented to.

use std::sync::Arc;

use catalog::{ApplicationRecord, Audience, CatalogError, Draft, Record};
use serde_json::{Value, json};
use wire::{AppId, ArmError, ErrorCode, PrincipalId};

use super::tenancy::check_name;
use super::{Reply, delete, find, list, present, properties, put_reply, show, store};
use crate::body::ResourceBody;
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Bullion.Factory/servicePrincipals";
const APP: &str = "properties.appId";

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "servicePrincipalName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let app = asked(&body)?;
    let old = find(&server, &call).await?;
    if let Some(old) = &old {
        let kept = properties(old);
        if kept.get("appId") == Some(&json!(app)) {
            let mut draft = Draft::from_resource(old.clone());
            draft.tags = body.tags;
            let put = store(&server, &call, Some(old), draft).await?;
            return Ok(put_reply(&put));
        }
        return Err(errors::conflict(
            "The application of a service principal does not change: delete it and make another.",
        ));
    }
    let application = open_to(&server, &call, app).await?;
    let principal = PrincipalId::random();
    let stored = json!({
        "appId": app,
        "principalId": principal,
        "displayName": application.display_name,
        "appOwnerTenantId": application.home,
    });
    let mut draft = Draft::new(stored).record(Record::ServicePrincipal { app, principal });
    draft.tags = body.tags;
    let put = store(&server, &call, None, draft).await?;
    Ok(put_reply(&put))
}

fn asked(body: &ResourceBody) -> Result<AppId, ArmError> {
    let text = body.properties.get("appId").and_then(Value::as_str);
    let text = text
        .ok_or_else(|| errors::invalid(APP, format!("Required parameter '{APP}' is missing.")))?;
    text.parse()
        .map_err(|error: wire::IdKindError| errors::invalid(APP, error.to_string()))
}

/// One answer for an application that is not there and for one that is not open: neither is this tenant's matter.
async fn open_to(server: &Server, call: &Call, app: AppId) -> Result<ApplicationRecord, ArmError> {
    let catalog = |error: CatalogError| errors::catalog(error);
    let found = server.auth.application(app).await.map_err(catalog)?;
    let here = call.permit.tenant();
    let open = found.filter(|found| found.audience == Audience::ManyTenants || found.home == here);
    let Some(application) = open else {
        return Err(ArmError::new(
            ErrorCode::NotFound,
            format!(
                "The application '{app}' does not exist, or is not open to other tenants (multiTenant)."
            ),
        )
        .with_target(APP));
    };
    let principal = server.auth.service_principal(here, app).await;
    if principal.map_err(catalog)?.is_some() {
        return Err(errors::conflict(format!(
            "The application '{app}' has a service principal in this tenant already."
        )));
    }
    Ok(application)
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

/// Withdraws the consent: the principal goes, and the roles that it was given.
pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |consent| Some(present(consent))).await
}
