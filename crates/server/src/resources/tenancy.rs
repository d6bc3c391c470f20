//! What the installation's operator makes: tenants and regions. Both belong to the installation's tenant.

use std::sync::Arc;

use access::Permit;
use catalog::{Draft, Record, Resource, UniqueKey};
use serde_json::{Map, Value, json};
use wire::{ArmError, Location, NameRule, PrincipalId, TenantId};

use super::{Reply, delete, find, list, present, properties, put_reply, show, store};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const TENANT: &str = "Bullion.Factory/tenants";
pub const REGION: &str = "Bullion.Factory/regions";
const DISPLAY_NAME_MAX: usize = 256;
const ZONES_MAX: usize = 3;

/// The display name, which is the resource's own name where none is given.
pub fn display_name(properties: &Map<String, Value>, name: &str) -> Result<String, ArmError> {
    match properties.get("displayName") {
        None | Some(Value::Null) => Ok(name.to_string()),
        Some(Value::String(text)) if text.is_empty() => Ok(name.to_string()),
        Some(Value::String(text))
            if text.chars().count() <= DISPLAY_NAME_MAX && !text.contains(char::is_control) =>
        {
            Ok(text.clone())
        }
        Some(_) => Err(errors::invalid(
            "properties.displayName",
            format!("The display name must be text of at most {DISPLAY_NAME_MAX} characters."),
        )),
    }
}

pub fn check_name(call: &Call, target: &str) -> Result<(), ArmError> {
    NameRule::Bullion
        .check(call.id.name())
        .map_err(|error| errors::invalid(target, error.to_string()))
}

pub async fn put_tenant(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "tenantName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let display_name = display_name(&body.properties, call.id.name())?;
    let kept = old.as_ref().map(properties);
    let mut stored = json!({ "displayName": display_name });
    let record = match kept.as_ref().and_then(|kept| kept.get("tenantId")) {
        Some(tenant) => {
            stored["tenantId"] = tenant.clone();
            Record::Plain
        }
        None => {
            let tenant = TenantId::random();
            stored["tenantId"] = tenant.to_string().into();
            Record::Tenant {
                tenant,
                display_name,
                operator_principal: PrincipalId::random(),
            }
        }
    };
    let mut draft = Draft::new(stored).record(record);
    draft.tags = body.tags;
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply(&put))
}

/// A tenant that still owns something stays.
pub async fn remove_tenant(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(old) = find(&server, &call).await? else {
        return Ok(Reply::no_content());
    };
    let tenant = old.properties.get("tenantId").and_then(Value::as_str);
    let tenant = tenant.and_then(|text| text.parse::<TenantId>().ok());
    if tenant == Some(server.installation.tenant) {
        return Err(errors::conflict(
            "The installation's own tenant cannot be deleted.",
        ));
    }
    if let Some(tenant) = tenant
        && server.has_subscriptions(&call.permit, tenant).await?
    {
        return Err(errors::conflict(
            "Can not delete resource before nested resources are deleted: the tenant has subscriptions.",
        ));
    }
    delete(&server, &call).await
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    show(&server, &call).await
}

pub async fn tenants(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, TENANT, |tenant| Some(present(tenant))).await
}

pub async fn regions(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, REGION, |region| Some(present(region))).await
}

/// A region with its stores: which can be used, and how far they were read again.
pub async fn get_region(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    let Some(region) = find(&server, &call).await? else {
        return show(&server, &call).await;
    };
    let (work, location) = (Arc::clone(&server.work), Location::new(call.id.name()));
    let state = tokio::task::spawn_blocking(move || work.region_state(&location)).await;
    let mut shown = present(&region);
    if let Ok(Value::Object(state)) = state {
        for (key, value) in state {
            shown["properties"][key] = value;
        }
    }
    Ok(Reply::ok(shown))
}

pub async fn put_region(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    check_name(&call, "regionName")?;
    let body = ResourceBody::parse(&call.body, &call.id)?;
    let old = find(&server, &call).await?;
    let display_name = display_name(&body.properties, call.id.name())?;
    let kept = old
        .as_ref()
        .map(properties)
        .map(|kept| zone_names(&kept))
        .transpose()?;
    let zones = match zone_names(&body.properties)? {
        zones if zones.is_empty() => kept.clone().unwrap_or_else(|| vec!["1".to_string()]),
        zones => zones,
    };
    if let Some(gone) = kept.iter().flatten().find(|zone| !zones.contains(zone)) {
        return Err(errors::conflict(format!(
            "Zones are added to a region, never removed: zone '{gone}' is missing.",
        )));
    }
    let location = Location::new(call.id.name());
    // Stores first: a region that can be named in a body must be able to hold a replica.
    let (work, made) = (Arc::clone(&server.work), zones.clone());
    tokio::task::spawn_blocking(move || work.define_region(&location, &made))
        .await
        .map_err(|error| errors::internal("making a region's stores", &error))??;
    let draft = Draft::new(json!({ "displayName": display_name, "zones": zones }))
        .unique(UniqueKey::new("region", &[call.id.name()]));
    let put = store(&server, &call, old.as_ref(), draft).await?;
    server.work.nudge_replication();
    Ok(put_reply(&put))
}

/// The zones of a stored region.
pub fn zones_of(region: &Resource) -> Vec<String> {
    zone_names(&properties(region)).unwrap_or_default()
}

fn zone_names(properties: &Map<String, Value>) -> Result<Vec<String>, ArmError> {
    const TARGET: &str = "properties.zones";
    let zones = match properties.get("zones") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(zones)) => zones,
        Some(_) => return Err(body::wrong_type(TARGET, "a list of names")),
    };
    if zones.len() > ZONES_MAX {
        let message = format!("A region has 1 to {ZONES_MAX} zones.");
        return Err(errors::invalid(TARGET, message));
    }
    let mut names: Vec<String> = Vec::with_capacity(zones.len());
    for zone in zones {
        let name = zone.as_str().unwrap_or_default();
        let fit = name.len() <= 8 && NameRule::Bullion.check(name).is_ok();
        if !fit || names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(errors::invalid(
                TARGET,
                "Zones are names of 1 to 8 letters and digits, each given once, such as \"1\".",
            ));
        }
        names.push(name.to_string());
    }
    Ok(names)
}

/// Whose subscriptions are looked for is another tenant's business, so it is asked as the system.
pub fn tenant_permit(own: &Permit, tenant: TenantId) -> Permit {
    let action = access::Action::new("Microsoft.Resources/subscriptions/read");
    debug_assert!(own.may_write(), "only a deletion asks");
    Permit::system(
        access::SystemReason::Reconcile,
        action,
        wire::ResourceId::root(),
        tenant,
    )
}
