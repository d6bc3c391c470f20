//! `imageTemplates/triggers`: a template that is built again by itself when its source has a newer version. Looking
//! after them is the factory's (`factory::trigger`); here they are written and shown.

use std::sync::Arc;

use catalog::{PageRequest, Resource};
use serde_json::{Map, Value, json};
use wire::template::fields::settle_trigger;
use wire::template::{Distributor, ImageTemplateProperties, Source, TriggerProperties};
use wire::{ArmError, NameRule, ProvisioningState, ResourceId, ResourceType};

use super::super::{Reply, delete, find, list, need, present, properties, put_reply_of, store};
use super::write::{strictness, unknown, validation};
use crate::body::{self, ResourceBody};
use crate::errors;
use crate::operation::Call;
use crate::state::Server;

pub const KIND: &str = "Microsoft.VirtualMachineImages/imageTemplates/triggers";

/// A trigger without what only the factory needs of it.
fn shown(trigger: &Resource) -> Value {
    let mut shown = present(trigger);
    if let Some(properties) = shown["properties"].as_object_mut() {
        properties.remove("bullion");
    }
    shown
}

pub async fn put(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    NameRule::ImageTemplate
        .check(call.id.name())
        .map_err(|error| errors::invalid("triggerName", error.to_string()))?;
    let mut body = ResourceBody::parse(&call.body, &call.id)?;
    settle_trigger(&mut body.properties, strictness(&call.version)).map_err(unknown)?;
    let old = find(&server, &call).await?;
    let kept = old.as_ref().map(properties);
    body::read_only(&mut body.properties, kept.as_ref(), &["status", "bullion"]);
    body.properties.remove("provisioningState");
    body::typed::<TriggerProperties>(&body.properties)?;
    let template = template_of(&server, &call).await?;
    check_template(&call, &template)?;
    check_only_one(&server, &call, &template).await?;
    if old.is_none() {
        begin(&mut body.properties, &call);
    }
    let draft = catalog::Draft::new(Value::Object(body.properties));
    let put = store(&server, &call, old.as_ref(), draft).await?;
    Ok(put_reply_of(put.created, shown(&put.resource)))
}

/// Builds are begun in the name of whoever made the trigger, whose rights are looked up anew each time.
fn begin(properties: &mut Map<String, Value>, call: &Call) {
    let now = jiff::Timestamp::now().to_string();
    let status = json!({ "code": "Healthy", "message": "Trigger is active.", "time": now });
    properties.insert("status".into(), status);
    let by = call.permit.identity();
    let by = by.map(|by| json!({ "tenant": by.tenant, "principal": by.principal, "app": by.app }));
    properties.insert("bullion".into(), json!({ "madeBy": by }));
}

async fn template_of(server: &Server, call: &Call) -> Result<Resource, ArmError> {
    let parent = call
        .id
        .parent()
        .and_then(|id| call.permit.to_read_ancestor(&id));
    let permit = parent.ok_or_else(|| errors::bad_request("A trigger belongs to a template."))?;
    server.catalog.get(&permit).await.map_err(errors::catalog)
}

/// A trigger waits for what moves: the template's source must be a latest version, and its target must be able to
/// take one more.
fn check_template(call: &Call, template: &Resource) -> Result<(), ArmError> {
    let refused = |message: &str| Err(validation("properties.kind", message.to_owned()));
    if template.state != ProvisioningState::Succeeded {
        return refused("A trigger needs a template whose provisioning state is Succeeded.");
    }
    let asked = call.body.get("location").and_then(Value::as_str);
    let here = template.location.clone().unwrap_or_default();
    if asked.is_some_and(|asked| wire::Location::new(asked) != wire::Location::new(here)) {
        return refused("A trigger is in the location of its template.");
    }
    let recipe: ImageTemplateProperties = body::typed(&properties(template))?;
    let definition = match &recipe.source {
        Source::PlatformImage { version, .. }
            if version.is_empty() || version.eq_ignore_ascii_case("latest") =>
        {
            None
        }
        Source::SharedImageVersion {
            image_version_id, ..
        } => match latest_of(image_version_id) {
            Some(definition) => Some(definition),
            None => return refused("A trigger needs a source version of 'latest'."),
        },
        _ => return refused("A trigger needs a source of which there is a latest version."),
    };
    for target in &recipe.distribute {
        let Distributor::SharedImage {
            gallery_image_id, ..
        } = target
        else {
            continue;
        };
        let Ok(id) = ResourceId::parse(gallery_image_id) else {
            continue;
        };
        if id.resource_type().is(super::super::versions::KIND) {
            return refused("A trigger cannot build a template that distributes to one version.");
        }
        if definition
            .as_ref()
            .is_some_and(|source| source.folded() == id.folded())
        {
            return refused(
                "A trigger cannot build a template that distributes to the image definition that it is built from.",
            );
        }
    }
    Ok(())
}

/// The definition of `…/versions/latest`, and of a definition itself.
fn latest_of(version: &str) -> Option<ResourceId> {
    let id = ResourceId::parse(version).ok()?;
    match id.resource_type() {
        kind if kind.is(super::super::images::KIND) => Some(id),
        _ if id.name().eq_ignore_ascii_case("latest") => id.parent(),
        _ => None,
    }
}

async fn check_only_one(server: &Server, call: &Call, template: &Resource) -> Result<(), ArmError> {
    let permit = call.permit.to_read_ancestor(&template.id);
    let permit = permit.ok_or_else(|| errors::bad_request("A trigger belongs to a template."))?;
    let kind = ResourceType::new(KIND);
    let page = server
        .catalog
        .list(&permit, &kind, PageRequest::first(2))
        .await;
    let page = page.map_err(errors::catalog)?;
    let other = page
        .resources
        .iter()
        .find(|other| other.id.folded() != call.id.folded());
    match other {
        None => Ok(()),
        Some(other) => Err(errors::conflict(format!(
            "The image template '{}' has the trigger '{}' already; a template has at most one of kind SourceImage.",
            template.id.name(),
            other.id.name()
        ))),
    }
}

pub async fn get(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    Ok(Reply::ok(shown(&need(&server, &call).await?)))
}

pub async fn all(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    list(&server, &call, KIND, |trigger| Some(shown(trigger))).await
}

pub async fn remove(server: Arc<Server>, call: Call) -> Result<Reply, ArmError> {
    delete(&server, &call).await
}
