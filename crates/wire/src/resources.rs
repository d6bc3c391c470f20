//! The envelope that every ARM resource shares, and the bodies of subscriptions and resource groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Location, ProvisioningState, SubscriptionId, TenantId};

/// A resource as it travels. Members that this build does not know are kept in `more`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<P> {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    pub properties: P,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl<P> Resource<P> {
    /// A body to PUT: no id, name or type, which the path gives.
    pub fn new(properties: P) -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            kind: String::new(),
            location: None,
            tags: BTreeMap::new(),
            properties,
            more: Map::new(),
        }
    }

    pub fn at(self, location: impl Into<String>) -> Self {
        Self {
            location: Some(Location::new(location)),
            ..self
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceGroupProperties {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
}

pub type ResourceGroup = Resource<ResourceGroupProperties>;

/// `GET /subscriptions` items. `az` needs each member, empty lists included.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    pub id: String,
    pub subscription_id: SubscriptionId,
    pub tenant_id: TenantId,
    pub display_name: String,
    pub state: String,
    #[serde(default)]
    pub subscription_policies: Value,
    #[serde(default)]
    pub authorization_source: String,
    #[serde(default)]
    pub managed_by_tenants: Vec<Value>,
}
