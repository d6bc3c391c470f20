//! Subscriptions, and what Azure shows beside them: tenants, locations, resource providers.

use std::sync::Arc;

use catalog::{Draft, Record, Resource};
use serde_json::{Value, json};
use wire::{ArmError, ErrorCode, TenantId};

use super::tenancy::display_name;
use super::{Reply, find, list, need, properties, put_reply_of, store};
use crate::body::ResourceBody;
use crate::errors;
use crate::hierarchy::PLACEMENT;
use crate::operation::Call;
use crate::state::Server;
use crate::table;

pub const KIND: &str = "Microsoft.Resources/subscriptions";

/// A subscription belongs to the tenant of the token that makes it.
pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let display_name = display_name(&body.properties, call.id.name())?;
    if let Some(asked) = body.properties.get("tenant").and_then(Value::as_str) {
        let found = match asked.parse::<TenantId>() {
            Ok(tenant) => Some(tenant),
            Err(_) => {
                let record = server.auth.tenant_named(asked).await;
                record.map_err(errors::catalog)?.map(|record| record.tenant)
            }
        };
        if found != Some(call.permit.tenant()) {
            return Err(ArmError::new(
                ErrorCode::InvalidAuthenticationTokenTenant,
                format!(
                    "The subscription is to belong to tenant '{asked}', but the token is of tenant \
                     '{}'. Sign in at the tenant that is to own the subscription.",
                    call.permit.tenant()
                ),
            )
            .with_target("properties.tenant"));
        }
    }
    let old = find(&server, &call).await?;
    let mut inside = json!({ "displayName": display_name });
    // Which management group it is in is changed there, and by nobody else.
    if let Some(group) = old.as_ref().and_then(|old| old.properties.get(PLACEMENT)) {
        inside[PLACEMENT] = group.clone();
    }
    let mut draft = Draft::new(inside);
    draft.tags = body.tags;
    if old.is_none() {
        draft = draft.record(Record::Subscription);
    }
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply_of(put.created, shown(&put.resource)))
}

/// az needs every member, empty ones included.
fn shown(subscription: &Resource) -> Value {
    let properties = properties(subscription);
    let name = properties.get("displayName").cloned().unwrap_or_default();
    json!({
        "id": subscription.id.to_string(),
        "subscriptionId": subscription.id.name(),
        "tenantId": subscription.tenant.to_string(),
        "displayName": name,
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Internal_2014-09-01",
            "quotaId": "Internal_2014-09-01",
            "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "tags": subscription.tags,
        "properties": {
            "displayName": name,
            "tenantId": subscription.tenant.to_string(),
            "provisioningState": subscription.state.as_str(),
        },
    })
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&need(&server, &call).await?)))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let mut reply = list(&server, &call, KIND, |one| Some(shown(one))).await?;
    if let Some(body) = &mut reply.body {
        let count = body["value"].as_array().map_or(0, Vec::len);
        body["count"] = json!({ "type": "Total", "value": count });
    }
    Ok(reply)
}

/// The tenants that the token is good for: its own.
pub async fn tenants(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let tenant = call.permit.tenant();
    let record = server.auth.tenant(tenant).await.map_err(errors::catalog)?;
    let name = record.map_or_else(|| tenant.to_string(), |record| record.display_name);
    Ok(Reply::ok(json!({ "value": [{
        "id": format!("/tenants/{tenant}"),
        "tenantId": tenant.to_string(),
        "displayName": name,
        "tenantCategory": "Home",
        "countryCode": "",
        "defaultDomain": format!("{tenant}.bullion.invalid"),
        "domains": [format!("{tenant}.bullion.invalid")],
        "tenantType": "AAD",
    }] })))
}

pub async fn locations(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let subscription = call.id.to_string();
    let regions = server.work.regions();
    let shown = regions.iter().map(|region| {
        json!({
            "id": format!("{subscription}/locations/{}", region.folded()),
            "name": region.folded(),
            "type": "Region",
            "displayName": region.as_str(),
            "regionalDisplayName": region.as_str(),
            "metadata": {
                "regionType": "Physical",
                "regionCategory": "Recommended",
                "geographyGroup": "Bullion",
                "geography": "Bullion",
                "longitude": "0",
                "latitude": "0",
                "physicalLocation": "",
                "pairedRegion": [],
            },
        })
    });
    Ok(Reply::ok(json!({ "value": shown.collect::<Vec<_>>() })))
}

fn provider(scope: &str, namespace: &str, types: &[String], regions: &[String]) -> Value {
    let types: Vec<Value> = types
        .iter()
        .map(|kind| {
            json!({
                "resourceType": kind,
                "locations": regions,
                "apiVersions": API_VERSIONS,
                "defaultApiVersion": API_VERSIONS[0],
                "capabilities": "SupportsTags, SupportsLocation",
            })
        })
        .collect();
    json!({
        "id": format!("{scope}/providers/{namespace}"),
        "namespace": namespace,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
        "resourceTypes": types,
    })
}

/// Any well-formed version is answered; these are the ones that clients are told to pick from.
const API_VERSIONS: [&str; 3] = ["2026-11-01", "2026-03-03", "2024-03-03"];

fn region_names(server: &Server) -> Vec<String> {
    let regions = server.work.regions();
    regions
        .iter()
        .map(|region| region.as_str().to_string())
        .collect()
}

pub async fn providers(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let regions = region_names(&server);
    let scope = call.id.to_string();
    let shown: Vec<Value> = table::namespaces()
        .iter()
        .map(|(namespace, types)| provider(&scope, namespace, types, &regions))
        .collect();
    Ok(Reply::ok(json!({ "value": shown })))
}

pub async fn one_provider(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let scope = call.permit.scope().to_string();
    let scope = scope.split("/providers/").next().unwrap_or_default();
    provider_of(&server, scope, call.id.name())
}

/// Registering a provider changes nothing: all of them are, everywhere. Clients ask before they use one.
pub async fn registered(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let namespace = call.permit.action().to_string();
    let namespace = namespace.split('/').next().unwrap_or_default();
    let scope = call.id.to_string();
    provider_of(&server, &scope, namespace)
}

fn provider_of(server: &Server, scope: &str, asked: &str) -> Result<Reply, ArmError> {
    let namespaces = table::namespaces();
    let found = namespaces
        .iter()
        .find(|(namespace, _)| namespace.eq_ignore_ascii_case(asked));
    let Some((namespace, types)) = found else {
        return Err(ArmError::new(
            ErrorCode::InvalidResourceType,
            format!("The resource namespace '{asked}' is invalid."),
        ));
    };
    Ok(Reply::ok(provider(
        scope,
        namespace,
        types,
        &region_names(server),
    )))
}
