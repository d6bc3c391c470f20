//! A resource as policies see it: as ARM shows it, with the computed aliases, and with what rules may ask about its
//! surroundings.

use std::collections::HashMap;
use std::sync::Arc;

use catalog::Resource;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wire::ResourceId;

use crate::kinds;
use crate::unit::Unit;

/// What is evaluated. Everything that a rule may ask for is in it, so that evaluating needs nothing else.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    pub id: Option<ResourceId>,
    pub value: Value,
    pub created_at: Option<Timestamp>,
    /// What `resourceGroup()`, `subscription()` and `requestContext()` answer.
    pub group: Value,
    pub subscription: Value,
    pub request: Value,
    /// Names of the management groups above it, nearest first.
    pub hierarchy: Value,
    /// What existence searches may find, by folded type and whether the whole subscription was searched.
    pub related: HashMap<(String, bool), Arc<Vec<Value>>>,
}

impl Subject {
    pub fn related(&self, unit: &Unit) -> &[Value] {
        let found = unit.existence.as_ref().and_then(|existence| {
            self.related
                .get(&(existence.kind.to_ascii_lowercase(), existence.wide))
        });
        found.map_or(&[], |found| found.as_slice())
    }

    /// The facts about a machine's image; null for anything else.
    pub fn image(&self) -> &Value {
        &self.value[crate::aliases::MACHINE_IMAGE]
    }
}

/// A stored resource as ARM shows it, with the type by which policies know it.
pub(crate) fn shown(resource: &Resource) -> Value {
    let mut properties = match &resource.properties {
        Value::Object(properties) => properties.clone(),
        _ => Map::new(),
    };
    let state = resource.state.as_str();
    properties.insert("provisioningState".into(), state.into());
    let mut shown = Map::new();
    shown.insert("id".into(), resource.id.to_string().into());
    shown.insert("name".into(), resource.id.name().into());
    shown.insert("type".into(), kinds::of(&resource.id).into());
    if let Some(location) = &resource.location {
        shown.insert("location".into(), location.clone().into());
    }
    if resource.location.is_some() || !resource.tags.is_empty() {
        shown.insert("tags".into(), json!(resource.tags));
    }
    for (key, value) in &resource.extra {
        shown.insert(key.clone(), value.clone());
    }
    shown.insert("properties".into(), Value::Object(properties));
    Value::Object(shown)
}

/// What `subscription()` answers.
pub(crate) fn subscription_context(id: &ResourceId, resource: Option<&Resource>) -> Value {
    let name = id.name();
    let display = resource
        .and_then(|one| one.properties.get("displayName"))
        .cloned();
    json!({
        "id": id.to_string(),
        "subscriptionId": name,
        "displayName": display.unwrap_or_else(|| name.into()),
        "tags": resource.map(|one| json!(one.tags)).unwrap_or_else(|| json!({})),
    })
}

/// What `resourceGroup()` answers.
pub(crate) fn group_context(id: &ResourceId, resource: Option<&Resource>) -> Value {
    let mut context =
        resource.map_or_else(|| json!({ "id": id.to_string(), "name": id.name() }), shown);
    context["type"] = "Microsoft.Resources/resourceGroups".into();
    if context.get("tags").is_none() {
        context["tags"] = json!({});
    }
    context
}
